"""FLIRT is asked as in the report, with files and matrices in its convention.

FSL itself cannot be expected on a machine that runs tests. A program of the same name stands in
for it; it knows nibabel, FSL's documented convention of coordinates, and nothing of this library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.geometry import compose, rigid
from ankle_lib.registration import flirt
from ankle_lib.registration.engines import register
from tests.registration.scene import CENTRE, Scene, scene, turned

STAND_IN = r'''
import json, os, sys
from pathlib import Path
import nibabel, numpy as np

def scaled_mm(image):
    """World to FLIRT's coordinates: voxel times pixdim, x reversed if the sform is neurological."""
    header = image.header
    x, y, z = (float(size) for size in header["pixdim"][1:4])
    rows = np.diag([x, y, z, 1.0])
    if np.linalg.det(header.get_sform()) > 0:
        rows[0] = [-x, 0, 0, x * (header["dim"][1] - 1)]
    return rows @ np.linalg.inv(header.get_sform())

options = sys.argv[1:]
values = {a: b for a, b in zip(options, options[1:]) if a.startswith("-") and b[0] != "-"}
here = Path(__file__).parent
plan = json.loads((here / "plan.json").read_text())
if plan.get("error"):
    print("some talk\nImage Exception : " + plan["error"] + "\n\n", file=sys.stderr)
    sys.exit(3)
moving, fixed = nibabel.load(values["-in"]), nibabel.load(values["-ref"])
seen = {
    "options": options,
    "type": os.environ["FSLOUTPUTTYPE"],
    "in": moving.affine.tolist(),
    "in_mean": float(moving.get_fdata().mean()),
    "ref": fixed.affine.tolist(),
    "ref_mean": float(fixed.get_fdata().mean()),
}
to_fixed, to_moving = scaled_mm(fixed), scaled_mm(moving)
if "-init" in values:
    init = np.loadtxt(values["-init"])
    seen["init"] = (np.linalg.inv(to_fixed) @ init @ to_moving).tolist()
    weights = nibabel.load(values["-inweight"])
    seen["weights"] = weights.affine.tolist()
    seen["weights_sum"] = float(weights.get_fdata().sum())
with open(here / "seen.jsonl", "a") as file:
    file.write(json.dumps(seen) + "\n")
matrix = to_fixed @ np.array(plan["pose"]) @ np.linalg.inv(to_moving)
if plan.get("matrix", True):
    np.savetxt(values["-omat"], matrix, fmt="%.8g")
'''

FOUND = compose(rigid([9, -3, 2], [3, 1, -4], CENTRE))


class StandIn:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "flirt"
        program.write_text(f"#!{sys.executable}\n{STAND_IN}")
        program.chmod(0o755)
        self.plan(pose=FOUND.tolist())

    def plan(self, **what: Any) -> None:
        (self.folder / "plan.json").write_text(json.dumps(what))

    def seen(self) -> list[dict[str, Any]]:
        lines = (self.folder / "seen.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return StandIn(tmp_path)


def fitted(known: Scene, name: str, start: np.ndarray) -> Any:
    return flirt.fit(known.frames, known.static, {name: known.weights}, start)


def without_folders(options: list[str]) -> list[str]:
    return [Path(option).name if "/" in option else option for option in options]


def test_the_foot_is_registered_as_in_the_report(program: StandIn) -> None:
    known = scene([turned(0), turned(3)])
    fits = fitted(known, "whole", np.tile(np.eye(4), (2, 1, 1, 1)))
    first, second = program.seen()
    assert without_folders(first["options"]) == [
        *("-in", "static.nii", "-ref", "frame-00.nii", "-dof", "6"),
        *("-omat", "frame-00_whole.mat", "-out", "frame-00_whole"),
    ]
    assert "frame-01.nii" in without_folders(second["options"])
    assert first["type"] == "NIFTI_GZ"
    assert fits.poses.shape == (2, 1, 4, 4)
    np.testing.assert_allclose(fits.poses, np.broadcast_to(FOUND, (2, 1, 4, 4)), atol=1e-4)
    assert (fits.seconds > 0).all()


@pytest.mark.parametrize(("static_sign", "frame_sign"), [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_bone_starts_at_the_pose_of_the_foot(
    program: StandIn, static_sign: int, frame_sign: int
) -> None:
    known = scene([turned(4)], static_sign=static_sign, frame_sign=frame_sign)
    start = rigid([3, 5, -7], [1, 2, 3], CENTRE)
    fits = fitted(known, "talus", start[None, None])
    (seen,) = program.seen()
    assert without_folders(seen["options"]) == [
        *("-in", "static.nii", "-ref", "frame-00.nii", "-dof", "6"),
        *("-inweight", "talus_weights.nii", "-init", "frame-00_talus_init.mat", "-nosearch"),
        *("-omat", "frame-00_talus.mat", "-out", "frame-00_talus"),
    ]
    np.testing.assert_allclose(seen["in"], known.static.affine, atol=1e-4)
    np.testing.assert_allclose(seen["weights"], known.static.affine, atol=1e-4)
    np.testing.assert_allclose(seen["ref"], known.frames.affine, atol=1e-4)
    assert seen["in_mean"] == pytest.approx(known.static.data.mean(), rel=1e-5)
    assert seen["ref_mean"] == pytest.approx(known.frames.data.mean(), rel=1e-5)
    assert seen["weights_sum"] == pytest.approx(known.weights.sum(), rel=1e-5)
    np.testing.assert_allclose(seen["init"], start, atol=1e-4)
    np.testing.assert_allclose(fits.poses[0, 0], FOUND, atol=1e-4)


def test_the_score_is_that_of_the_pose_found(program: StandIn) -> None:
    known = scene([turned(6)])
    program.plan(pose=known.truth[0].tolist())
    fits = fitted(known, "talus", np.eye(4)[None, None])
    assert fits.correlations[0, 0] > 0.95
    program.plan(pose=turned(-6).tolist())
    assert fitted(known, "talus", np.eye(4)[None, None]).correlations[0, 0] < 0.9


def test_it_is_an_engine_of_register(program: StandIn) -> None:
    known = scene([turned(0)])
    found = register(known.frames, known.static, {"talus": known.weights}, engine="flirt")
    assert (found.engine, found.regions) == ("flirt", ("talus",))
    np.testing.assert_allclose(found.region("talus")[0], FOUND, atol=1e-4)
    np.testing.assert_allclose(program.seen()[0]["init"], np.eye(4), atol=1e-4)


def test_temporary_files_are_gone(
    program: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    known = scene([turned(0), turned(1), turned(2)])
    start = np.tile(np.eye(4), (3, 1, 1, 1))
    fits = fitted(known, "talus", start)
    assert list(folder.iterdir()) == []
    assert len(program.seen()) == 3
    np.testing.assert_allclose(fits.poses[2, 0], FOUND, atol=1e-4)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"error": "cannot open volume"}, "flirt failed with status 3: Image Exception : cannot"),
        ({"pose": FOUND.tolist(), "matrix": False}, "wrote no matrix frame-00_talus.mat"),
        ({"pose": np.diag([1.2, 1, 1, 1]).tolist()}, "not a rigid 4x4 matrix"),
        ({"pose": np.full((4, 4), np.nan).tolist()}, "not an invertible"),
    ],
)
def test_failures_of_flirt_are_one_line(
    program: StandIn, plan: dict[str, Any], message: str
) -> None:
    program.plan(**plan)
    with pytest.raises(AnkleError, match=message) as refusal:
        fitted(scene([turned(0)]), "talus", np.eye(4)[None, None])
    assert "\n" not in str(refusal.value)


def test_a_missing_flirt_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnkleError, match="needs FSL's program flirt on the PATH"):
        fitted(scene([turned(0)]), "talus", np.eye(4)[None, None])
