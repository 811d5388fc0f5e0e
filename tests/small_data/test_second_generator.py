from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import ankle_lib
from ankle_lib.geometry import apply, invert, is_rigid, rotation_angle_deg
from ankle_lib.presets import BONES
from ankle_lib.small_data.second_generator import (
    NEAREST_TENTH,
    NOISE,
    SLICE_MM,
    draw_motion,
    scan,
)
from tests.small_data.toy_target import SPACING, toy_child

PACKAGE = Path(ankle_lib.__file__).parent


def reached(module: str) -> set[str]:
    """Modules of the library that a module imports, directly or through others."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        path = PACKAGE.joinpath(*name.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in found or not file.exists():
            continue
        found.add(name)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            elif isinstance(node, ast.Import):
                waiting |= {a.name for a in node.names}
    return {name for name in found if name.startswith("ankle_lib.")}


@pytest.mark.parametrize("module", ["second_generator", "target_scans"])
def test_it_shares_no_code_with_the_phantom(module: str) -> None:
    found = reached(f"ankle_lib.small_data.{module}")
    assert "ankle_lib.geometry" in found  # the search finds what is imported
    rooms = {name.split(".")[1] for name in found}
    assert not rooms & {"phantom", "weights"}
    generator = reached("ankle_lib.small_data.second_generator")
    assert "ankle_lib.learning.random_scans" not in generator  # nor with what networks learn from


def test_it_is_the_phantoms_own_tree_that_is_searched() -> None:
    assert "ankle_lib.phantom.anatomy" in reached("ankle_lib.weights.feet")


@pytest.fixture(scope="module")
def motion():
    return draw_motion(toy_child(), np.random.default_rng(1))


def test_bones_are_rigid_and_turn_out_and_back(motion) -> None:
    angles = [motion.dorsiflexion_deg(moment) for moment in (0, 0.25, 0.5, 1)]
    assert angles[0] == angles[3] > angles[1] > angles[2]
    assert angles[2] < -15
    assert angles[0] <= 5
    poses = motion.poses(0.5)
    assert all(is_rigid(poses[bone]) for bone in BONES)
    talus = np.linalg.inv(poses["tibia"]) @ poses["talus"]
    assert rotation_angle_deg(talus) == pytest.approx(-angles[2], abs=0.1)


def test_joints_keep_their_width(motion) -> None:
    def width(poses) -> float:
        there = apply(invert(poses["tibia"]) @ poses["talus"], motion.points["talus"])
        away = np.sort(motion.child.distance("tibia", there))
        return float(away[: int(NEAREST_TENTH * len(away))].mean())

    still = width({bone: np.eye(4) for bone in BONES})
    assert [width(motion.poses(m)) for m in (0.2, 0.5)] == pytest.approx([still] * 2, abs=0.1)


def test_a_bone_is_labelled_where_its_pose_puts_it() -> None:
    child = toy_child()
    affine = child.affine.copy()
    shape = tuple(child.depth.shape[1:])
    shifted = np.eye(4)
    shifted[0, 3] = 2 * SPACING  # two voxels to the right
    still, moved = (
        scan(child, [dict.fromkeys(BONES, pose)], (shape, affine), "static", None)[1]
        for pose in (np.eye(4), shifted)
    )
    assert np.count_nonzero(still == 2) > 500
    assert np.mean(moved[:, :, 2:] != still[:, :, :-2]) < 1e-3


def test_a_frame_is_thick_and_a_sharp_one_is_not(monkeypatch) -> None:
    monkeypatch.setitem(NOISE, "frame", 0.0)
    child = toy_child()
    affine = child.affine @ np.diag([1, 1, SLICE_MM / SPACING, 1.0])
    grid = ((*child.depth.shape[1:3], 8), affine)
    still = [dict.fromkeys(BONES, np.eye(4))]
    thick, labels = scan(child, still, grid, "frame", np.random.default_rng(0))
    sharp, _ = scan(child, still, grid, "frame", None)
    assert thick.shape == sharp.shape == labels.shape
    edges = [np.abs(np.diff(image, axis=2)).mean() for image in (thick, sharp)]
    assert edges[0] < 0.9 * edges[1]
    assert set(np.unique(labels)) == {0, 1, 2, 3}
