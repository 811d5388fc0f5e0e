"""Joint angles, helical axes and ranges of motion of a moving foot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ankle_lib.dynamic.kinematics import (
    ANGLES,
    JOINTS,
    AnatomicalFrame,
    anatomical_frame,
    angle_table,
    gap_table,
    helical_axis,
    helical_table,
    joint_angles_deg,
    joint_motion,
    joint_tables,
    ranges_of_motion,
)
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, rigid
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.volume import Volume
from tests.dynamic.foot_cycle import FRAMES, HINGE_MM, flexion_deg, foot_cycle

Array = NDArray[np.float64]

# --- anatomical axes and angles ---


def box(low: tuple[int, ...], high: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros((40, 60, 60), dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def volumes(masks: dict[str, NDArray[np.bool_]], affine: Array = AFFINE) -> dict[str, Volume]:
    return {bone: Volume(mask.astype(np.uint8), affine) for bone, mask in masks.items()}


MASKS = {
    "tibia": box((14, 20, 32), (26, 32, 58)),
    "talus": box((14, 20, 24), (26, 42, 31)),
    "calcaneus": box((14, 8, 10), (26, 36, 22)),
}
RIGHT = anatomical_frame(volumes(MASKS), "right")


def mirrored(poses: Array) -> Array:
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 2 * 39  # the grid's middle plane
    moved: Array = flip @ poses @ flip
    return moved


LEFT = anatomical_frame(volumes({b: m[::-1] for b, m in MASKS.items()}), "left")


def test_axes_of_an_upright_foot() -> None:
    np.testing.assert_allclose(RIGHT.matrix[:3, :3], [[0, 1, 0], [0, 0, 1], [1, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(LEFT.matrix[:3, :3], [[0, 1, 0], [0, 0, 1], [-1, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(RIGHT.calcaneus_axis, [1, 0, 0], atol=1e-9)
    above = RIGHT.centres_mm["talocrural"] - RIGHT.centres_mm["subtalar"]
    assert above[1] == pytest.approx(2 * (31.0 - 22.5), abs=1.5)  # the middles of the two gaps
    np.testing.assert_allclose(RIGHT.centres_mm["talocrural"][2], 0, atol=1e-9)


def test_axes_follow_a_turned_leg() -> None:
    turn = rigid([10, -8, 0], [30, -5, 7])
    frame = anatomical_frame(volumes(MASKS, turn @ AFFINE), "right")
    np.testing.assert_allclose(frame.matrix[1, :3], turn[:3, 2], atol=1e-9)
    for joint, centre in RIGHT.centres_mm.items():
        # the axis may have turned the foot about the shaft, where the world tells what is lateral
        assert frame.centres_mm[joint][1] == pytest.approx(centre[1], abs=0.2)


@pytest.mark.parametrize(
    ("turn_deg", "expected"),
    [([12, 0, 0], (12, 0, 0)), ([0, 7, 0], (0, 7, 0)), ([0, 0, 9], (0, 0, 9))],
)
def test_signs_are_clinical_on_both_sides(
    turn_deg: list[float], expected: tuple[float, ...]
) -> None:
    """A right foot: toes up, sole inwards, toes inwards, from rotations about R, A and S."""
    still, moved = np.eye(4)[None], rigid(turn_deg, [1, 2, 3])[None]
    toes, sole = moved[0, :3, :3] @ [0, 1, 0], moved[0, :3, :3] @ [0, 0, -1]
    assert toes[2] > 0 or sole[0] < 0 or toes[0] < 0
    angles = joint_angles_deg(joint_motion({"tibia": still, "talus": moved}, "talocrural"), RIGHT)
    np.testing.assert_allclose(angles, [expected], atol=1e-6)
    mirror_image = {"tibia": mirrored(still), "talus": mirrored(moved)}
    other = joint_angles_deg(joint_motion(mirror_image, "talocrural"), LEFT)
    np.testing.assert_allclose(other, [expected], atol=1e-6)


def test_angles_are_those_of_grood_and_suntay() -> None:
    first, second, third = 20.0, -6.0, 9.0
    lateral, anterior, superior = np.eye(3)
    turn = (
        Rotation.from_rotvec(first * lateral, degrees=True)
        * Rotation.from_rotvec(second * anterior, degrees=True)
        * Rotation.from_rotvec(third * superior, degrees=True)
    )
    pose = np.eye(4)
    pose[:3, :3] = turn.as_matrix()
    np.testing.assert_allclose(joint_angles_deg(pose[None], RIGHT), [[first, second, third]])


def test_motion_of_the_leg_does_not_count() -> None:
    poses = foot_cycle(tremble=3.0)
    angles = joint_angles_deg(joint_motion(poses, "talocrural"), RIGHT)
    np.testing.assert_allclose(angles[:, 0], flexion_deg(), atol=1e-6)
    np.testing.assert_allclose(angles[:, 1:], 0, atol=1e-6)
    subtalar = joint_angles_deg(joint_motion(poses, "subtalar"), RIGHT)
    np.testing.assert_allclose(subtalar[:, 1], 0.15 * flexion_deg(), atol=1e-6)


def test_tibiocalcaneal_angle() -> None:
    motion = np.stack([np.eye(4), rigid([15, 0, 0], [0, 0, 0])])
    still = np.stack([np.eye(4), np.eye(4)])
    table = angle_table({"tibia": still, "talus": still, "calcaneus": motion}, RIGHT)
    whole = table.loc[table["joint"] == "hindfoot", "tibiocalcaneal_deg"]
    np.testing.assert_allclose(whole, [90, 75], atol=1e-6)


@pytest.mark.parametrize(
    ("masks", "affine", "side", "message"),
    [
        (MASKS, AFFINE, None, "side None"),
        ({b: MASKS[b] for b in ("tibia", "talus")}, AFFINE, "right", "no voxel of calcaneus"),
        (MASKS | {"tibia": box((14, 20, 32), (26, 32, 44))}, AFFINE, "right", "times as long"),
        (MASKS, rigid([0, 80, 0], [0, 0, 0]) @ AFFINE, "right", "across than along"),
    ],
)
def test_no_axes(masks: Any, affine: Array, side: str | None, message: str) -> None:
    with pytest.raises(AnkleError, match=message):
        anatomical_frame(volumes(masks, affine), side)


# --- helical axes ---


@pytest.mark.parametrize("frame", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("angle", [3.0, 25.0, 120.0])
def test_helical_axis_of_a_known_screw(frame: AnatomicalFrame, angle: float) -> None:
    line = np.array([0.3, 0.2, 0.93]) / np.linalg.norm([0.3, 0.2, 0.93])
    on_it = frame.centres_mm["subtalar"] + np.cross(line, [1.0, 0, 0]) * 12
    screw = rigid(angle * line, 2.5 * line, on_it)
    first = rigid([3, 5, -7], [1, 2, 3])
    second = invert_any(frame.matrix) @ screw @ frame.matrix @ first
    found = helical_axis(first, second, frame, "subtalar")
    assert found.rotation_deg == pytest.approx(angle)
    assert found.shift_mm == pytest.approx(2.5)
    np.testing.assert_allclose(found.direction, line, atol=1e-9)
    np.testing.assert_allclose(found.point_mm, on_it, atol=1e-6)


def invert_any(matrix: Array) -> Array:
    """Inverse of a matrix that may mirror."""
    return np.asarray(np.linalg.inv(matrix))


def test_small_turns_have_no_axis() -> None:
    small = helical_axis(np.eye(4), rigid([1.5, 0, 0], [3, 0, 0]), RIGHT, "talocrural")
    assert small.rotation_deg == pytest.approx(1.5)
    assert np.isnan([small.shift_mm, *small.direction, *small.point_mm]).all()


# --- tables and the figure ---


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Angles and helical axes of three subjects, two sequences each."""
    groups = {"T01": "control", "T02": "control", "E01": "equinus"}
    subjects = [CleanSubject(code, g, "right", Path(), {}, {}) for code, g in groups.items()]
    poses = {
        (code, sequence): foot_cycle(number)
        for number, code in enumerate(groups)
        for sequence in ("active_run-01", "passive_run-01")
    }
    lost = foot_cycle()
    lost["talus"][4] = np.nan
    poses["T01", "active_run-02"] = lost
    return joint_tables(subjects, dict.fromkeys(groups, RIGHT), poses)


def test_tables_of_a_cohort(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    angles, axes = tables
    names = ["subject", "sequence", "group", "kind"]
    assert list(angles) == [*names, "frame", "joint", *ANGLES, "tibiocalcaneal_deg"]
    assert list(axes)[:7] == [*names, "joint", "first_frame", "last_frame"]
    # the sequence in which a frame is lost is left out
    assert (len(angles), len(axes)) == (6 * len(JOINTS) * FRAMES, 6 * len(JOINTS))
    assert set(angles["kind"]) == {"active", "passive"}
    assert angles["tibiocalcaneal_deg"].notna().equals(angles["joint"] == "hindfoot")


def test_helical_table_runs_from_end_to_end_of_the_cycle() -> None:
    poses = foot_cycle()
    table = helical_table(poses, RIGHT).set_index("joint")
    flexion = joint_angles_deg(joint_motion(poses, "hindfoot"), RIGHT)[:, 0]
    assert (table["first_frame"] == flexion.argmin()).all()
    assert (table["last_frame"] == flexion.argmax()).all()
    hinge = table.loc["talocrural"]
    assert hinge["rotation_deg"] == pytest.approx(np.ptp(flexion_deg()))
    assert hinge["lateral"] == pytest.approx(1)
    assert hinge["deviation_deg"] == pytest.approx(90)
    at = apply(RIGHT.matrix, HINGE_MM)
    assert hinge[["point_anterior_mm", "point_superior_mm"]].tolist() == pytest.approx(list(at[:2]))
    subtalar = table.loc["subtalar"]
    assert subtalar["anterior"] == pytest.approx(1)  # the toy inverts with dorsiflexion
    assert subtalar["inclination_deg"] == pytest.approx(0, abs=1e-6)


def test_ranges_and_their_summary(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    summary = ranges_of_motion(tables[0]).set_index(["joint", "angle", "group", "kind"])
    control = summary.loc[("talocrural", "dorsiflexion_deg", "control", "active")]
    expected = np.mean([np.ptp(flexion_deg(0)), np.ptp(flexion_deg(1))])
    assert control["mean_deg"] == pytest.approx(expected)
    assert control["subjects"] == 2
    difference = summary.loc[("subtalar", "inversion_deg", "control", "active - passive")]
    assert difference["mean_deg"] == pytest.approx(0)
    alone = summary.loc[("subtalar", "inversion_deg", "equinus", "passive")]
    assert np.isnan(alone["low_deg"])


def test_a_gap_is_what_lies_between_two_bones() -> None:
    def slab(first: int, last: int) -> Volume:
        data = np.zeros((30, 30, 60), dtype=bool)
        data[5:25, 5:25, first:last] = True
        return Volume(data, np.diag([1.0, 1.0, 0.5, 1.0]))

    bones = {"tibia": slab(40, 55), "talus": slab(20, 36)}  # 2 mm apart
    nearer = np.eye(4)
    nearer[2, 3] = 1.5
    unknown = np.full((4, 4), np.nan)
    poses = {"tibia": np.stack([np.eye(4)] * 3), "talus": np.stack([np.eye(4), nearer, unknown])}
    gaps = gap_table(poses, bones)
    assert gaps["joint"].tolist() == ["talocrural"] * 3
    np.testing.assert_allclose(gaps["gap_mm"], (2.0, 0.5, np.nan), atol=0.3)
