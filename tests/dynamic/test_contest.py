"""Frames, wrong labels, poses from masks and the contest, on a toy ankle in motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ankle_lib.segmentation.recipe import Recipe, Stage, Trained, fit, patch_source
from numpy.typing import NDArray

from ankle_lib import dynamic, segmentation
from ankle_lib.dynamic.bones import StaticBones
from ankle_lib.dynamic.contest import GATED, METHODS, NETWORK, OVER_TIME, REGISTRATION
from ankle_lib.dynamic.frames import Frame, coarser_affine, read_frames
from ankle_lib.dynamic.mask_poses import poses_from_masks
from ankle_lib.dynamic.prediction import Prediction
from ankle_lib.dynamic.wrong_labels import misplacement, with_errors
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply
from ankle_lib.learning.scans import Scan
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.items import Item
from ankle_lib.pose_files import FramePose, write_transforms
from ankle_lib.presets import BONES
from ankle_lib.quality.registered import RegisteredFrame
from ankle_lib.registration.moving import cut_to_mask
from ankle_lib.registration.truth import bone_points, tre_mm
from ankle_lib.volume import Volume, save
from tests.toy_motion import Motion, motion

PIXEL_MM = 2.0
ANGLES = (0.0, 6.0, 12.0, 6.0)


@pytest.fixture(scope="module")
def ankle() -> Motion:
    return motion(ANGLES)


def static_bones(ankle: Motion) -> StaticBones:
    masks = {b: Volume(m.astype(np.uint8), ankle.static.affine) for b, m in ankle.masks.items()}
    return StaticBones(
        masks,
        {b: cut_to_mask(m) for b, m in masks.items()},
        {b: bone_points(m.data > 0, m.affine) for b, m in masks.items()},
    )


def toy_frames(ankle: Motion, bones: StaticBones, code: str = "E01") -> list[Frame]:
    """The frames with true labels, of which the first talus was not accepted."""
    frames = []
    for number, poses in enumerate(ankle.poses):
        image = ankle.frames.frame(number)
        truth = {b: bones.carried(b, p, image.shape, image.affine) for b, p in poses.items()}
        known = {b: m for b, m in truth.items() if (number, b) != (0, "talus")}
        normal = (image.data - image.data.mean()) / image.data.std()
        item = Item(code, f"active_run-01 frame {number}", normal, image.data > 100, known)
        scan = Scan(item, "equinus", image.voxel_size_mm)
        frames.append(Frame("active_run-01", number, scan, image.affine, truth))
    return frames


def seen_of(frame: Frame) -> Prediction:
    """What a perfect network would see."""
    maps = np.stack([frame.truth[bone] for bone in BONES]).astype(np.float16)
    labels = np.zeros(maps.shape[1:], dtype=np.uint8)
    for number, bone in enumerate(BONES, 1):
        labels[frame.truth[bone]] = number
    return Prediction(labels, maps, frame.affine)


# --- frames --------------------------------------------------------------------------------------


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


def test_coarser_grids_keep_their_world() -> None:
    affine = np.diag([0.9, 0.8, 8.0, 1.0])
    affine[:3, 3] = 5, -7, 11
    coarse = coarser_affine(affine, 3)
    block = [[i, j, 2] for i in (3, 4, 5) for j in (6, 7, 8)]
    np.testing.assert_allclose(
        apply(coarse, [1, 2, 2]), apply(affine, np.array(block)).mean(axis=0)
    )


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
    other = frame.looking_like(brighter)
    inside = other.scan.item.image[frame.scan.item.region]
    assert (inside.mean(), inside.std()) == pytest.approx((0, 1), abs=1e-3)
    assert other.truth is frame.truth
    with pytest.raises(AnkleError, match="another image of it has shape"):
        frame.looking_like(Volume(brighter.data[:-1], frame.affine))


# --- labels that are incomplete, or wrong --------------------------------------------------------


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


@pytest.mark.parametrize("error_mm", [0.5, 3.0, 8.0])
def test_a_misplacement_has_the_size_that_was_asked_for(error_mm: float) -> None:
    points = np.random.default_rng(0).normal(0, 15, (500, 3)) + np.array([30, 10, -50])
    directions = np.random.default_rng(1).normal(size=(2, 3))
    off = misplacement(points, error_mm, directions)
    assert tre_mm(off, np.eye(4), points) == pytest.approx(error_mm, rel=0.02)
    np.testing.assert_allclose(off[:3, :3] @ off[:3, :3].T, np.eye(3), atol=1e-12)
    with pytest.raises(AnkleError, match="give a positive length"):
        misplacement(points, 0.0, directions)


def test_wrong_labels_get_worse_with_the_error(ankle: Motion) -> None:
    bones = static_bones(ankle)
    frames = toy_frames(ankle, bones)
    poses = {("E01", "active_run-01"): ankle.poses}
    given = (frames, {"E01": bones}, poses)
    agreement = {}
    for error in (1.0, 4.0):
        wrong = with_errors(*given, error, systematic=False)
        agreement[error] = np.mean(
            [
                segmentation_dice(scan.item.labels[bone], frame.truth[bone])
                for scan, frame in zip(wrong, frames, strict=True)
                for bone in BONES
            ]
        )
    assert 0.3 < agreement[4.0] < agreement[1.0] < 1
    again = with_errors(*given, 4.0, systematic=False)
    np.testing.assert_array_equal(again[2].item.labels["tibia"], wrong[2].item.labels["tibia"])


def segmentation_dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


# --- trainings -----------------------------------------------------------------------------------


def test_a_training_may_start_from_another_networks_weights(ankle: Motion, tmp_path: Path) -> None:
    scans = [frame.scan for frame in toy_frames(ankle, static_bones(ankle))]
    small = Recipe((Stage(16, 1, learning_rate=1e-9),), depth=2, width=4, epochs=1)
    first = fit(small, scans, tmp_path)
    other = replace(small, seed=7)
    tuned = fit(other, scans, tmp_path, start=first.network)
    scratch = fit(other, scans, tmp_path)
    assert len({one.folder for one in (first, tuned, scratch)}) == 3
    kernels = [one.network.state_dict()["down.0.0.0.weight"] for one in (first, tuned, scratch)]
    torch.testing.assert_close(kernels[0], kernels[1], atol=1e-5, rtol=0)
    assert (kernels[0] - kernels[2]).abs().max() > 1e-2
    with pytest.raises(AnkleError, match="network of another size"):
        fit(replace(small, width=8), scans, tmp_path, start=first.network)


# --- poses and contest ---------------------------------------------------------------------------


def test_poses_from_masks(ankle: Motion) -> None:
    bones = static_bones(ankle)
    frames = toy_frames(ankle, bones)
    seen = [seen_of(frame) for frame in frames]
    lost = replace(seen[3], maps=seen[3].maps * np.array([1, 0, 1])[:, None, None, None])
    poses = poses_from_masks([*seen[:3], lost], bones)
    assert poses.shape == (4, 3, 4, 4)
    assert np.isnan(poses[3, 1]).all()
    for n, true in enumerate(ankle.poses[:3]):
        for index, bone in enumerate(bones.masks):
            if bone != "talus":  # a ball: nothing says how it is turned
                assert tre_mm(poses[n, index], true[bone], bones.points[bone]) < 1.5
            centre = bones.centre(bone)
            apart = apply(poses[n, index], centre) - apply(true[bone], centre)
            assert np.linalg.norm(apart) < 1.0


@pytest.fixture
def people(ankle: Motion, tmp_path: Path) -> tuple[CleanSubject, Path]:
    """A clean subject on disk, and a registration folder in which one frame was rejected."""
    clean, registered = tmp_path / "clean", tmp_path / "registered"
    save(clean / "static.nii.gz", ankle.static.data, ankle.static.affine)
    masks = {}
    for bone, mask in ankle.masks.items():
        masks[bone] = clean / f"{bone}.nii.gz"
        save(masks[bone], mask, ankle.static.affine)
    paths = []
    for n in range(ankle.frames.n_frames):
        paths.append(clean / f"frame-{n}.nii.gz")
        save(paths[-1], ankle.frames.frame(n).data, ankle.frames.affine)
    poses = [
        FramePose(n, bone, pose, 0.9, (n, bone) != (2, "tibia"))
        for n, own in enumerate(ankle.poses)
        for bone, pose in own.items()
    ]
    write_transforms(registered / "sub-E01" / "sub-E01_task-active_run-01_transforms.json", poses)
    rows = [("E01", "active_run-01", p.frame, p.bone, 0.5) for p in poses]
    table = pd.DataFrame(rows, columns=["subject", "sequence", "frame", "bone", "seconds"])
    (registered / "tables").mkdir()
    table.to_csv(registered / "tables" / "registration.csv", index=False)
    subject = CleanSubject(
        code="E01",
        group="equinus",
        side=None,
        static=clean / "static.nii.gz",
        masks=masks,
        sequences={"active_run-01": paths},
    )
    return subject, registered


def test_the_contest(
    ankle: Motion,
    people: tuple[CleanSubject, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject, registered = people
    bones = static_bones(ankle)
    frames = toy_frames(ankle, bones)
    answers = {frame.number: seen_of(frame) for frame in frames}
    answers[1] = replace(  # blind in one frame
        answers[1], maps=answers[1].maps * 0, labels=answers[1].labels * 0
    )
    calls = []

    def predict(networks: list[Trained], frame: Frame, pixel_mm: float) -> Prediction:
        calls.append(frame.number)
        return answers[frame.number]

    monkeypatch.setattr("ankle_lib.dynamic.contest.predict", predict)
    network: Any = torch.nn.Identity()
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "network.ckpt").write_bytes(b"weights")
    fitted = Trained(
        network, Recipe((Stage(16, 1),)), pd.DataFrame(), pd.DataFrame(), tmp_path / "net"
    )
    truth = tmp_path / "truth"
    options: dict[str, Any] = {"truth": truth, "n_jobs": 1, "progress": False}
    monkeypatch.setattr("ankle_lib.dynamic.contest.read_true_poses", lambda *_: ankle.poses)

    def hold() -> dynamic.Contest:
        given = (fitted, frames, [subject], registered, PIXEL_MM, tmp_path / "contest")
        return dynamic.hold_contest(*given, **options)

    contest = hold()
    assert calls == [0, 1, 2, 3]
    scores = contest.scores.set_index(["method", "frame", "bone"])
    assert len(scores) == len(METHODS) * 4 * 3
    assert (scores.loc[REGISTRATION, "dice"] > 0.99).all()  # it was given the truth
    assert scores.loc[REGISTRATION, "tre_mm"].max() < 1e-6
    assert scores.loc[(REGISTRATION, 2, "tibia"), "lost"]
    blind = scores.loc[(NETWORK, 1)]
    assert blind["lost"].all()
    assert (blind["dice"] == 0).all()
    assert blind["tre_mm"].isna().all()
    assert scores.loc[(GATED, 1), "lost"].all()
    over_time = scores.loc[OVER_TIME]
    assert not over_time["lost"].any()  # the curve fills the blind frame
    assert over_time["dice"].min() > 0.6
    assert over_time.loc[(slice(None), ["tibia", "calcaneus"]), "tre_mm"].median() < 1.0
    assert np.isnan(contest.poses[NETWORK, "E01", "active_run-01"]["talus"][1]).all()
    summary = dynamic.method_scores(contest)
    assert list(summary.columns[:6]) == [
        *("method", "subject", "bone", "dice", "hd95_mm", "assd_mm"),
    ]
    row = summary.set_index(["method", "bone"]).loc[(NETWORK, "talus")]
    assert (row["frames"], row["lost"]) == (4, 1)
    again = hold()
    assert calls == [0, 1, 2, 3]  # remembered
    pd.testing.assert_frame_equal(again.scores, contest.scores)


def test_telling_frames_are_the_middle_of_a_first_sequence(ankle: Motion) -> None:
    frames = toy_frames(ankle, static_bones(ankle))
    later = [replace(frame, sequence="passive_run-01") for frame in frames]
    chosen = dynamic.telling_frames([*frames, *later], 3)
    assert [(one.sequence, one.number) for one in chosen] == [("active_run-01", 2)]


def test_the_reference_of_real_scans_is_what_was_accepted(ankle: Motion) -> None:
    frame = toy_frames(ankle, static_bones(ankle))[0]
    real = replace(frame, truth={})
    assert set(frame.reference) == set(BONES)
    assert set(real.reference) == {"calcaneus", "tibia"}
    assert math.isfinite(segmentation.factor_for(real.scan, 4.0))
