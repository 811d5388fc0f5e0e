"""Everything that is promised for one's own scans, in the geometry of the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ankle_lib.foot.reading import Scans, read_scans
from ankle_lib.foot.register import (
    _if_mirrored,
    _in_words,
    register_scans,
    verdicts,
)
from ankle_lib.geometry import apply, compose, rigid, to_itk
from ankle_lib.pose_files import FramePose, read_flirt, read_transforms, write_transforms
from ankle_lib.registration.moving import bone_grid
from ankle_lib.registration.truth import bone_points, tre_mm
from ankle_lib.volume import (
    Volume,
    flip_left_right,
    left_right_axis,
    load,
    resample,
    save,
    to_orientation,
)
from tests.toy_ankle import toy_ankle

sitk = pytest.importorskip("SimpleITK")

MIDDLE = np.array([5.0, -20.0, 10.0])
POSES = [rigid([2, 0, 0], [1, 0, -1], MIDDLE), rigid([-5, 1, 2], [0, 2, 1], MIDDLE)]


Done = tuple[Path, list[FramePose], dict[str, list[Volume]]]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Scans:
    """A foot that moves as one, its files in odd orientations."""
    folder = tmp_path_factory.mktemp("scans")
    ankle = toy_ankle()
    shape, place = (58, 56, 14), ankle.sequence.affine
    place = place @ np.diag([1, 1, 0.75, 1])
    frames = [
        resample(ankle.static, shape, place, pose=pose, slice_samples=7).data * 0.7 + 20
        for pose in POSES
    ]
    noise = np.random.default_rng(3).normal(0, 8, (*shape, len(frames)))
    movie = to_orientation(Volume(np.stack(frames, 3) + noise, place), "RPS")
    static = to_orientation(ankle.static, "LAS")
    paths = {"static": save(folder / "static.nii.gz", static.data, static.affine)}
    paths["movie"] = save(folder / "movie.nii", movie.data, movie.affine)
    for bone in ("calcaneus", "talus"):
        paths[bone] = save(folder / f"{bone}.nii", ankle.masks[bone].data, ankle.static.affine)
    masks = {bone: paths[bone] for bone in ("calcaneus", "talus")}
    return read_scans(paths["static"], [paths["movie"]], masks)


@pytest.fixture(scope="module")
def done(scans: Scans, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("result")
    return folder, *register_scans(scans, folder)


def test_bones_are_found_and_accepted(scans: Scans, done: Done) -> None:
    poses = read_transforms(done[0] / "transforms.json")
    assert [(p.frame, p.bone) for p in poses] == [
        (frame, bone) for bone in ("whole", "calcaneus", "talus") for frame in (0, 1)
    ]
    for pose in poses:
        assert pose.accepted
        assert pose.correlation is not None
        assert pose.correlation > 0.9
        if pose.bone != "whole":
            points = bone_points(scans.masks[pose.bone], scans.static.affine)
            assert tre_mm(pose.matrix, POSES[pose.frame], points) < 0.4
    assert verdicts(done[1])["verdict"].tolist() == ["accepted"] * 4


def test_files_are_those_promised(done: Done) -> None:
    names = {path.relative_to(done[0]).as_posix() for path in done[0].rglob("*") if path.is_file()}
    stems = [f"frame-0{frame}_label-{bone}" for frame in (0, 1) for bone in ("calcaneus", "talus")]
    images = {f"masks/{stem}_mask.nii.gz" for stem in stems}
    images |= {f"moved/{stem}_desc-moved_static.nii.gz" for stem in stems}
    images |= {f"high_resolution/{stem}_desc-highres_static.nii.gz" for stem in stems}
    stems += ["frame-00_label-whole", "frame-01_label-whole"]
    exports = {f"{kind}/{stem}.{kind_of}" for stem in stems
               for kind, kind_of in (("flirt", "mat"), ("itk", "tfm"))}  # fmt: skip
    assert names == {"transforms.json", *images, *exports}


def test_images_lie_on_the_grid_of_the_frames(scans: Scans, done: Done) -> None:
    folder, _, masks = done
    assert scans.frames.axis_codes == ("R", "P", "S")
    for frame, pose in enumerate(POSES):
        for bone in scans.masks:
            stem = f"frame-0{frame}_label-{bone}"
            mask = load(folder / "masks" / f"{stem}_mask.nii.gz")
            image = load(folder / "moved" / f"{stem}_desc-moved_static.nii.gz")
            for volume in (mask, image):
                assert volume.shape == scans.frames.shape
                np.testing.assert_allclose(volume.affine, scans.frames.affine, atol=1e-4)
            np.testing.assert_array_equal(mask.data > 0, masks[bone][frame].data)
            bone_volume = Volume(scans.masks[bone].astype(np.float32), scans.static.affine)
            filled = (
                resample(bone_volume, mask.shape, mask.affine, pose=pose, slice_samples=9).data
                >= 0.5
            )
            both = 2 * (filled & (mask.data > 0)).sum() / (filled.sum() + (mask.data > 0).sum())
            assert both > 0.93
            inside = mask.data > 0
            seen = scans.frames.data[..., frame][inside]
            assert np.corrcoef(seen, image.data[inside])[0, 1] > 0.9


def test_other_programs_get_the_same_poses_for_the_files_as_given(scans: Scans, done: Done) -> None:
    folder, poses, _ = done
    frame_grid = scans.frames.shape, scans.frames.affine
    for pose in poses:
        stem = f"frame-0{pose.frame}_label-{pose.bone}"
        flirt = read_flirt(folder / "flirt" / f"{stem}.mat", scans.static_grid, frame_grid)
        np.testing.assert_allclose(flirt, pose.matrix, atol=1e-6)
        itk = sitk.AffineTransform(sitk.ReadTransform(str(folder / "itk" / f"{stem}.tfm")))
        lps = np.eye(4)
        lps[:3, :3], lps[:3, 3] = np.reshape(itk.GetMatrix(), (3, 3)), itk.GetTranslation()
        np.testing.assert_allclose(to_itk(lps), pose.matrix, atol=1e-9)


def test_high_resolution_images_are_sharp_and_in_the_frames_world(scans: Scans, done: Done) -> None:
    for pose in done[1]:
        if pose.bone == "whole":
            continue
        name = f"frame-0{pose.frame}_label-{pose.bone}_desc-highres_static.nii.gz"
        sharp = load(done[0] / "high_resolution" / name)
        assert sharp.voxel_size_mm == pytest.approx((2.0, 2.0, 2.5), abs=1e-4)
        assert sharp.axis_codes == ("P", "S", "R")
        # What it shows is the static scan at the place where the pose says it comes from.
        back = Volume(sharp.data, compose(np.linalg.inv(pose.matrix), sharp.affine))
        bone = scans.masks[pose.bone]
        again = resample(back, scans.static.shape, scans.static.affine).data[bone]
        assert np.corrcoef(again, scans.static.data[bone])[0, 1] > 0.8


@pytest.mark.parametrize("sign", [1, -1])
def test_the_fine_grid_holds_the_bone_with_its_margin(sign: int) -> None:
    static = rigid([4, 9, -7], [10, 20, -30]) @ np.diag([0.5 * sign, 0.5, 0.8, 1])
    mask = np.zeros((40, 50, 30), bool)
    mask[8:20, 30:44, 3:20] = np.random.default_rng(0).random((12, 14, 17)) > 0.9
    pose = rigid([25, -10, 5], [3, 4, 5])
    frame = rigid([-11, 3, 2], [0, 0, 0]) @ np.diag([8.0, -0.6, 0.6, 1])
    shape, affine = bone_grid(mask, static, pose, frame, margin_mm=4.0)
    places = apply(compose(np.linalg.inv(affine), pose, static), np.argwhere(mask))
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    before = places.min(axis=0) * sizes
    after = (np.array(shape) - 1 - places.max(axis=0)) * sizes
    for gap in (before, after):
        assert (gap >= 4.0 - 1e-6).all()
        assert (gap < 4.0 + 2 * sizes + 1e-6).all()
    # its slices are parallel to the frame's: axis 2 runs along the frame's axis 0
    cosine = affine[:3, 2] @ frame[:3, 0] / np.linalg.norm(affine[:3, 2]) / 8.0
    assert abs(cosine) == pytest.approx(1)


def test_what_does_not_reach_the_gate_is_written_but_not_accepted(
    scans: Scans, tmp_path: Path
) -> None:
    one = Scans(
        scans.static,
        scans.static_grid,
        Volume(scans.frames.data[..., :1], scans.frames.affine),
        {"talus": scans.masks["talus"]},
        (),
    )
    poses, _ = register_scans(one, tmp_path, gate=0.9999, high_resolution=False)
    document = json.loads((tmp_path / "transforms.json").read_text())
    accepted = {entry["bone"]: entry["accepted"] for entry in document["transforms"]}
    assert not accepted["talus"]
    assert not (tmp_path / "high_resolution").exists()
    assert (tmp_path / "masks" / "frame-00_label-talus_mask.nii.gz").exists()
    (line,) = _in_words(verdicts(poses))
    assert line.startswith("talus: 0 of 1 frames accepted, correlation ")
    assert line.endswith("; rejected: frame 0")


def test_a_mirrored_static_scan_is_named(scans: Scans) -> None:
    axis = left_right_axis(scans.static.affine)
    masks = {bone: np.flip(mask, axis) for bone, mask in scans.masks.items()}
    mirrored = replace(scans, static=flip_left_right(scans.static), masks=masks)
    assert "mirrored from left to right, the static scan fits" in _if_mirrored(
        mirrored, "torch", "cpu"
    )
    noise = np.random.default_rng(0).normal(500, 100, scans.frames.data.shape)
    lost = replace(scans, frames=Volume(noise, scans.frames.affine))
    assert _if_mirrored(lost, "torch", "cpu") == ""


def test_the_summary_names_frames_but_not_all_of_many(tmp_path: Path) -> None:
    poses = [
        FramePose(frame, "talus", np.eye(4), 0.5 + frame / 100, frame > 11) for frame in range(15)
    ]
    write_transforms(tmp_path / "t.json", poses)
    (line,) = _in_words(verdicts(poses))
    assert line == (
        "talus: 3 of 15 frames accepted, correlation 0.50 to 0.64; "
        "rejected: frames 0, 1, 2, 3, 4, 5, 6, 7, … (12 in all)"
    )


def test_a_frame_alone_is_found_as_in_its_series(scans: Scans, done: Done, tmp_path: Path) -> None:
    series = {(pose.frame, pose.bone): pose for pose in done[1]}
    for number in range(2):
        alone = replace(
            scans, frames=Volume(scans.frames.data[..., number : number + 1], scans.frames.affine)
        )
        poses, _ = register_scans(alone, tmp_path / str(number), high_resolution=False)
        for pose in poses[1:]:
            points = bone_points(scans.masks[pose.bone], scans.static.affine)
            assert pose.accepted
            assert tre_mm(pose.matrix, series[number, pose.bone].matrix, points) < 0.5
