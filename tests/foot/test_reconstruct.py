from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.foot.reading import read_scans
from ankle_lib.foot.reconstruct import read_poses, reconstruct
from ankle_lib.geometry import rigid
from ankle_lib.learning.checkpoints import save_checkpoint
from ankle_lib.learning.networks import build
from ankle_lib.pose_files import FramePose, write_transforms
from ankle_lib.reconstruction.guided import reconstruct_frames
from ankle_lib.reconstruction.thick_slices import consistency, scanning
from ankle_lib.volume import Volume, load, save, to_orientation
from tests.test_cli import ankle
from tests.toy_motion import Motion, motion

ANGLES = (0.0, 15.0)


@pytest.fixture(scope="module")
def scene() -> Motion:
    return motion(ANGLES)


@pytest.fixture(scope="module")
def folder(scene: Motion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans in an unusual order of axes, and their poses."""
    folder = tmp_path_factory.mktemp("scans")
    static = to_orientation(scene.static, "RAS")
    save(folder / "static.nii.gz", static.data, static.affine)
    for bone, mask in scene.masks.items():
        turned = to_orientation(Volume(mask, scene.static.affine), "LPS")
        save(folder / f"{bone}.nii.gz", turned.data, turned.affine)
    frames = to_orientation(scene.frames, "RPS")
    save(folder / "dynamic.nii.gz", frames.data, frames.affine, scale="auto", time_step_s=0.25)
    write_transforms(folder / "transforms.json", listed(scene))
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """The series without a network."""
    masks = {bone: folder / f"{bone}.nii.gz" for bone in ("calcaneus", "talus", "tibia")}
    scans = read_scans(folder / "static.nii.gz", [folder / "dynamic.nii.gz"], masks)
    out = tmp_path_factory.mktemp("plain")
    files = [out / name for name in ("sharp.nii", "table.csv", "residual.nii", "film.png")]
    reconstruct(scans, read_poses(folder / "transforms.json", scans), files)
    return load(files[0])


def listed(scene: Motion) -> list[FramePose]:
    whole = [FramePose(n, "whole", np.eye(4), 0.5, False) for n in range(len(ANGLES))]
    return whole + [
        FramePose(number, bone, matrix, 0.9, True)
        for number, poses in enumerate(scene.poses)
        for bone, matrix in poses.items()
    ]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *arguments: ankle(monkeypatch, capsys, *map(str, arguments))


def arguments(folder: Path, out: Path, **other: Path | None) -> list[str]:
    """Arguments of the command; ``None`` leaves an option out."""
    options: dict[str, Path | None] = {
        "static": folder / "static.nii.gz",
        "transforms": folder / "transforms.json",
        **other,
    }
    bones = {b: options.pop(b, folder / f"{b}.nii.gz") for b in ("calcaneus", "talus", "tibia")}
    dynamic = options.pop("dynamic", folder / "dynamic.nii.gz")
    parts = ["reconstruct", str(dynamic), "--out", str(out), "--device", "cpu"]
    parts += [part for name, path in options.items() if path for part in (f"--{name}", str(path))]
    return parts + [p for b, path in bones.items() if path for p in ("--mask", f"{b}={path}")]


def test_frames_become_sharp(scene: Motion, folder: Path, tmp_path: Path, command: Any) -> None:
    out = tmp_path / "new" / "sharp.nii.gz"
    status, shown, errors = command(*arguments(folder, out))
    assert status == 0, errors
    assert "consistency " in shown
    names = [
        "sharp.nii.gz",
        "sharp_consistency.csv",
        "sharp_filmstrip.png",
        "sharp_residual.nii.gz",
    ]
    assert sorted(path.name for path in out.parent.iterdir()) == names
    series = load(out)
    assert series.n_frames == len(ANGLES)
    assert series.time_step_s == 0.25
    assert series.axis_codes == ("R", "A", "S")
    assert sorted(series.voxel_size_mm) == pytest.approx(sorted(scene.static.voxel_size_mm))
    for number, truth in enumerate(scene.truth):
        sharp = to_orientation(series.frame(number))
        # on the static scan's grid: each voxel is one of the truth's
        start = np.linalg.inv(truth.affine) @ sharp.affine[:, 3]
        np.testing.assert_allclose(start, np.rint(start), atol=1e-3)
        first = np.rint(start[:3]).astype(int)
        part = tuple(slice(a, a + n) for a, n in zip(first, sharp.shape, strict=True))
        bones = np.any([*scene.masks.values()], axis=0)[part]
        if number == 0:  # where the bones are known without moving them: near their places
            assert np.corrcoef(sharp.data[bones], truth.data[part][bones])[0, 1] > 0.9
    table = pd.read_csv(out.parent / "sharp_consistency.csv")
    assert table["frame"].tolist() == [0, 1]
    assert table["consistency"].between(0.6, 1.3).all()
    assert (table["smallest_jacobian"] > 0).all()
    assert (table["rigidity_mm"] < 0.2).all()
    # an earlier result may be replaced, anything else not
    assert command(*arguments(folder, out))[0] == 0
    (out.parent / "sharp_consistency.csv").unlink()
    status, _, errors = command(*arguments(folder, out))
    assert status == 1
    assert "exists and is no result of `ankle reconstruct`" in errors


def test_the_whole_grid_is_that_of_the_static_scan(
    folder: Path, tmp_path: Path, command: Any
) -> None:
    out = tmp_path / "sharp.nii"
    status, _, errors = command(*arguments(folder, out), "--whole")
    assert status == 0, errors
    static, series = load(folder / "static.nii.gz"), load(out)
    assert series.shape == static.shape
    np.testing.assert_allclose(series.affine, static.affine, atol=1e-4)


def test_a_frame_without_poses_is_left_out_and_told(
    scene: Motion, folder: Path, tmp_path: Path, command: Any
) -> None:
    poses = [
        FramePose(p.frame, p.bone, p.matrix, p.correlation, p.accepted and keep)
        for p in listed(scene)
        for keep in [p.frame != 0 and p.bone != "talus"]
    ]
    write_transforms(tmp_path / "t.json", poses)
    out = tmp_path / "sharp.nii.gz"
    status, shown, errors = command(*arguments(folder, out, transforms=tmp_path / "t.json"))
    assert status == 1
    assert "no accepted pose in frame 0: these frames are 0" in errors
    assert "the talus has no accepted pose in frame 1: there it follows the others" in shown
    series = load(out)
    assert not series.data[..., 0].any()
    assert series.data[..., 1].any()


def checkpoint(path: Path, **changes: Any) -> Path:
    network = build("unet", head="intensity", in_channels=2, depth=2, width=2)
    with_input = {
        "voxel_mm": [2.0, 2.0, 2.5],
        "normalisation": "zscore-bones",
        "axes": "PSR",
        "channels": 2,
        "names": ["measured", "static"],
        "residual": True,
    } | changes
    return save_checkpoint(
        path,
        network,
        labels=("intensity",),
        training={"input": with_input},
    )


@pytest.mark.parametrize("voxel_mm", [[2.0, 2.0, 2.5], [2.6, 2.6, 3.0]])
def test_a_network_refines_on_its_own_voxels(
    folder: Path, tmp_path: Path, command: Any, plain: Volume, voxel_mm: list[float]
) -> None:
    network, out = checkpoint(tmp_path / "net.pt", voxel_mm=voxel_mm), tmp_path / "sharp.nii"
    status, _, errors = command(*arguments(folder, out, checkpoint=network))
    assert status == 0, errors
    series = load(out)
    assert sorted(series.voxel_size_mm) == pytest.approx(voxel_mm, abs=1e-4)
    if voxel_mm[0] == 2.0:
        assert series.shape == plain.shape
        assert np.abs(series.data - plain.data).max() > 10
    table = pd.read_csv(tmp_path / "sharp_consistency.csv")
    assert table["consistency"].notna().all()


# --- refusals: one line, nothing written ---


def refused(command: Any, out: Path, *parts: str) -> str:
    status, _, errors = command(*parts)
    assert status == 1
    assert errors.startswith("ankle: ")
    lines = [line for line in errors.splitlines() if line.startswith("ankle: ")]
    assert len(lines) == 1
    assert not out.exists()
    return lines[0]


def test_transforms_of_another_sequence_are_refused(
    scene: Motion, folder: Path, tmp_path: Path, command: Any
) -> None:
    out = tmp_path / "sharp.nii.gz"
    for poses in (
        [p for p in listed(scene) if p.frame < 1],
        [*listed(scene), FramePose(2, "talus", np.eye(4), 0.9, True)],
    ):
        write_transforms(tmp_path / "t.json", poses)
        line = refused(command, out, *arguments(folder, out, transforms=tmp_path / "t.json"))
        assert f"tells of {max(p.frame for p in poses) + 1} frames" in line
        assert "the dynamic scan has 2" in line


def test_a_bone_without_pose_or_mask_is_refused(
    scene: Motion, folder: Path, tmp_path: Path, command: Any
) -> None:
    out = tmp_path / "sharp.nii.gz"
    line = refused(command, out, *arguments(folder, out, talus=None))
    assert "has poses of talus, but no mask is given: add --mask talus=FILE" in line
    write_transforms(tmp_path / "t.json", [p for p in listed(scene) if p.bone != "tibia"])
    line = refused(command, out, *arguments(folder, out, transforms=tmp_path / "t.json"))
    assert "no pose of the tibia" in line


def test_nothing_accepted_is_refused(scene: Motion, folder: Path, tmp_path: Path) -> None:
    masks = {bone: folder / f"{bone}.nii.gz" for bone in scene.masks}
    scans = read_scans(folder / "static.nii.gz", [folder / "dynamic.nii.gz"], masks)
    poses = [FramePose(p.frame, p.bone, p.matrix, 0.1, False) for p in listed(scene)]
    write_transforms(tmp_path / "t.json", poses)
    with pytest.raises(AnkleError, match="no pose is accepted"):
        read_poses(tmp_path / "t.json", scans)
    write_transforms(tmp_path / "t.json", [])
    with pytest.raises(AnkleError, match=r"tells of 0 frames \(none\)"):
        read_poses(tmp_path / "t.json", scans)


def test_missing_frames_and_poses_out_of_sight_are_refused(
    scene: Motion, folder: Path, tmp_path: Path, command: Any
) -> None:
    out = tmp_path / "sharp.nii.gz"
    data = scene.frames.data.copy()
    data[20:30, :, :, 1] = np.nan
    save(tmp_path / "nan.nii.gz", data, scene.frames.affine)
    status, shown, errors = command(*arguments(folder, out, dynamic=tmp_path / "nan.nii.gz"))
    assert status == 1
    assert "are NaN or infinite, more than 1%: this frame is rejected" in shown
    assert "no accepted pose in frame 1: these frames are 0" in errors
    for path in tmp_path.glob("sharp*"):
        path.unlink()
    text = (folder / "transforms.json").read_text().replace("1.0", "NaN", 1)
    (tmp_path / "t.json").write_text(text)
    refused(command, out, *arguments(folder, out, transforms=tmp_path / "t.json"))
    far = rigid((0, 0, 0), (0, 900, 0))
    poses = [FramePose(p.frame, p.bone, far, 0.9, True) for p in listed(scene)]
    write_transforms(tmp_path / "t.json", poses)
    line = refused(command, out, *arguments(folder, out, transforms=tmp_path / "t.json"))
    assert "out of the static scan's field of view" in line


def test_files_in_the_way_are_refused(folder: Path, tmp_path: Path, command: Any) -> None:
    assert "is a folder" in refused(command, tmp_path / "x", *arguments(folder, tmp_path))
    png = tmp_path / "sharp.png"
    assert "written as NIfTI" in refused(command, png, *arguments(folder, png))
    static = folder / "static.nii.gz"
    status, _, errors = command(*arguments(folder, static))
    assert status == 1
    assert "is what is read" in errors


def test_another_network_is_refused(folder: Path, tmp_path: Path, command: Any) -> None:
    out = tmp_path / "sharp.nii.gz"
    for changes, message in (
        ({"normalisation": "zscore-foot"}, "normalisation: Input should be 'zscore-bones'"),
        ({"voxel_mm": [0.5, 0.5]}, "voxel_mm: List should have at least 3 items"),
    ):
        network = checkpoint(tmp_path / "net.pt", **changes)
        line = refused(command, out, *arguments(folder, out, checkpoint=network))
        assert message in line
        assert "net.pt" in line


# --- what real files do ---


def test_one_voxel_does_not_cost_the_grey_levels(
    scene: Motion, folder: Path, tmp_path: Path, command: Any, plain: Volume
) -> None:
    data = scene.frames.data.copy()
    data[2, 2, 0, 0] = 1e6
    save(tmp_path / "spike.nii", data, scene.frames.affine)
    out = tmp_path / "sharp.nii"
    status, _, errors = command(*arguments(folder, out, dynamic=tmp_path / "spike.nii"))
    assert status == 0, errors
    levels = [len(np.unique(np.rint(v.data[..., 1]))) for v in (load(out), plain)]
    assert levels[0] > 0.8 * levels[1]


def test_what_is_judged_is_what_is_written(folder: Path, tmp_path: Path, plain: Volume) -> None:
    masks = {bone: folder / f"{bone}.nii.gz" for bone in ("calcaneus", "talus", "tibia")}
    scans = read_scans(folder / "static.nii.gz", [folder / "dynamic.nii.gz"], masks)
    poses = read_poses(folder / "transforms.json", scans)
    grid = plain.shape, plain.affine
    shared = replace(scanning(scans.frames), step=200.0)
    frame = next(
        reconstruct_frames(scans.static, scans.masks, scans.frames, poses, grid, shared=shared)
    )
    np.testing.assert_allclose(frame.result.volume.data % 200, 0, atol=1e-3)
    again = consistency(frame.result.volume, scans.frames.frame(0), shared,
                        covered=frame.moved.covered)  # fmt: skip
    assert frame.result.consistency.ratio == pytest.approx(again.ratio, rel=1e-3)


def test_a_series_in_coarse_steps_is_told_not_to_explain_the_frames(
    folder: Path, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ankle_lib.foot.reconstruct.FINEST_STEP", 50.0)  # of the noise
    status, _, errors = command(*arguments(folder, tmp_path / "sharp.nii"))
    assert status == 0, errors
    assert pd.read_csv(tmp_path / "sharp_consistency.csv")["consistency"].min() > 2


def test_an_offset_changes_nothing(
    scene: Motion, folder: Path, tmp_path: Path, command: Any, plain: Volume
) -> None:
    for name in ("static", "dynamic"):
        volume = load(folder / f"{name}.nii.gz")
        save(tmp_path / f"{name}.nii", volume.data - np.float32(1024), volume.affine)
    out = tmp_path / "sharp.nii"
    given = {name: tmp_path / f"{name}.nii" for name in ("static", "dynamic")}
    status, shown, errors = command(*arguments(folder, out, **given))
    assert status == 0, errors
    assert shown.count("an offset of all intensities, -10") == 2
    found = load(out)
    assert found.shape == plain.shape
    # the darkest values are taken for 0, which are not quite 0 in noise
    assert np.abs(found.data - plain.data).mean() < 0.03 * plain.data.mean()
