"""Frames to learn from, with accepted and true labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ankle_lib.dynamic.frames import Frame, misplaced_labels, misplacement, read_frames
from ankle_lib.geometry import apply
from ankle_lib.learning.scans import patch_source
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.registration.truth import tre_mm
from ankle_lib.volume import Volume, save
from tests.dynamic.toy_frames import courses, static_bones, toy_frames
from tests.toy_motion import Motion, motion


@pytest.fixture(scope="module")
def ankle() -> Motion:
    return motion((0.0, 12.0))


def test_frames_to_learn_from_end_where_the_static_scan_ends(tmp_path: Path) -> None:
    grid = np.zeros((4, 4))  # posterior, superior, right; 2 mm
    grid[1, 0], grid[2, 1], grid[0, 2], grid[3, 3] = -2, 2, 2, 1
    masks = {bone: np.zeros((20, 30, 12), np.uint8) for bone in ("talus", "tibia")}
    masks["talus"][5:15, 2:8, 3:9] = 1
    masks["tibia"][5:15, 10:, 3:9] = 1  # goes on above the scan
    up = np.eye(4)
    up[2, 3] = 4.0
    files = {"frame": np.random.default_rng(0).normal(size=(20, 40, 12)).astype(np.float32)}
    files |= {f"static_{bone}": mask for bone, mask in masks.items()}
    for bone, mask in masks.items():
        files[f"moved_{bone}"] = np.pad(mask, [(0, 0), (2, 8), (0, 0)])
    for name, data in files.items():
        save(tmp_path / f"{name}.nii.gz", data, grid)
    foot = tmp_path / "sub-T01" / "sub-T01_task-active_run-01_frame-00_desc-foot_mask.nii.gz"
    foot.parent.mkdir()
    save(foot, np.ones((20, 40, 12), np.uint8), grid)
    subject = CleanSubject(
        code="T01",
        group="control",
        side=None,
        static=tmp_path / "static_tibia.nii.gz",
        masks={bone: tmp_path / f"static_{bone}.nii.gz" for bone in masks},
        sequences={"active_run-01": [tmp_path / "frame.nii.gz"]},
    )
    accepted = [
        RegisteredFrame(
            *("T01", "active_run-01", 0, bone, up, 1.0),
            *(tmp_path / f"moved_{bone}.nii.gz", tmp_path / "frame.nii.gz"),
        )
        for bone in masks
    ]

    def read(known: Sequence[RegisteredFrame], **options: bool) -> Frame:
        return next(read_frames([subject], tmp_path, known, **options))

    whole, cut = read(accepted), read(accepted, to_learn=True)
    assert whole.scan.item.image.shape == (20, 40, 12)
    assert cut.scan.item.image.shape == cut.scan.item.region.shape == (20, 31, 12)
    assert cut.scan.item.labels["tibia"][5:15, 12:, 3:9].all()
    assert np.array_equal(cut.scan.item.image, whole.scan.item.image[:, :31])
    # the talus ends by itself
    assert read(accepted[:1], to_learn=True).scan.item.image.shape == (20, 40, 12)


def test_a_frame_with_larger_pixels(ankle: Motion) -> None:
    frame = toy_frames(ankle, static_bones(ankle))[1]
    pixel = frame.scan.pixel_mm
    assert frame.with_pixels(pixel) is frame
    half = frame.with_pixels(2 * pixel)
    assert half.scan.pixel_mm == pytest.approx(2 * pixel)
    for bone, mask in half.truth.items():
        assert mask.shape == half.scan.item.image.shape
        assert mask.sum() * 4 == pytest.approx(frame.truth[bone].sum(), rel=0.05)
        middles = [
            apply(one.affine, np.argwhere(one.truth[bone])).mean(axis=0) for one in (frame, half)
        ]
        assert np.linalg.norm(middles[0] - middles[1]) < pixel


def test_another_image_of_a_frame(ankle: Motion) -> None:
    frame = toy_frames(ankle, static_bones(ankle))[0]
    brighter = Volume(ankle.frames.frame(0).data * 3 + 100, frame.affine)
    other = frame.with_image(brighter)
    inside = other.scan.item.image[frame.scan.item.region]
    assert (inside.mean(), inside.std()) == pytest.approx((0, 1), abs=1e-3)
    assert other.truth is frame.truth


def test_an_unknown_bone_is_not_an_absent_one(ankle: Motion) -> None:
    frames = toy_frames(ankle, static_bones(ankle))
    scans = [frame.scan for frame in frames[:2]]
    batch = patch_source(scans, BONES, 16, 0.2).draw(200, torch.Generator().manual_seed(0))
    of_first = ["frame 0" in batch.describe(where) for where in batch.where]
    first = torch.tensor(of_first)
    assert 0 < int(first.sum()) < len(first)
    talus = BONES.index("talus")
    assert not batch.valid[first, talus].any()
    assert batch.valid[~first].all()


def test_the_reference_of_real_scans_is_what_was_accepted(ankle: Motion) -> None:
    frame = toy_frames(ankle, static_bones(ankle))[0]
    real = replace(frame, truth={})
    assert set(frame.reference.item.labels) == set(BONES)
    assert set(real.reference.item.labels) == {"calcaneus", "tibia"}


# --- the bones of the static scan ---


@pytest.mark.parametrize("error_mm", [0.5, 3.0, 8.0])
def test_a_misplacement_has_the_size_that_was_asked_for(error_mm: float) -> None:
    points = np.random.default_rng(0).normal(0, 15, (500, 3)) + np.array([30, 10, -50])
    directions = np.random.default_rng(1).normal(size=(2, 3))
    off = misplacement(points, error_mm, directions)
    assert tre_mm(off, np.eye(4), points) == pytest.approx(error_mm, rel=0.02)
    np.testing.assert_allclose(off[:3, :3] @ off[:3, :3].T, np.eye(3), atol=1e-12)


def test_wrong_labels_get_worse_with_the_error(ankle: Motion) -> None:
    bones = static_bones(ankle)
    frames = toy_frames(ankle, bones)
    poses = {("E01", "active_run-01"): courses(ankle)}
    given = (frames, {"E01": bones}, poses)
    agreement = {}
    for error in (1.0, 4.0):
        wrong = misplaced_labels(*given, error, systematic=False)
        agreement[error] = np.mean(
            [
                dice(scan.item.labels[bone], frame.truth[bone])
                for scan, frame in zip(wrong, frames, strict=True)
                for bone in BONES
            ]
        )
    assert 0.3 < agreement[4.0] < agreement[1.0] < 1
    again = misplaced_labels(*given, 4.0, systematic=False)
    np.testing.assert_array_equal(again[1].item.labels["tibia"], wrong[1].item.labels["tibia"])
