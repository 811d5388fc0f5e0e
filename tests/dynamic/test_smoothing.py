"""Poses of a moving foot put on smooth courses."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from ankle_lib.dynamic.smoothing import smooth_together
from ankle_lib.geometry import apply, invert, is_rigid, rigid, rotation_angle_deg
from ankle_lib.presets import BONES
from tests.dynamic.foot_cycle import CENTRES, FRAMES, foot_cycle

Array = NDArray[np.float64]

EVERY = dict.fromkeys(BONES, np.ones(FRAMES))


def smooth_poses(poses: ArrayLike, weights: ArrayLike, centre_mm: ArrayLike) -> Array:
    """One bone: it has nothing in common with others."""
    return smooth_together({"bone": poses}, {"bone": weights}, {"bone": centre_mm})["bone"]


def disturbed(poses: Array, centre: Array, mm: float, degrees: float, seed: int = 1) -> Array:
    random = np.random.default_rng(seed)
    noisy = []
    for pose in poses:
        shift, turn = random.normal(0, mm, 3), random.normal(0, degrees, 3)
        noisy.append(rigid(turn, shift, apply(pose, centre)) @ pose)
    return np.stack(noisy)


def errors(poses: Array, truth: Array, centre: Array) -> tuple[Array, Array]:
    """Millimetres at the centre and degrees, for each frame."""
    mm = [
        np.linalg.norm(apply(p, centre) - apply(t, centre))
        for p, t in zip(poses, truth, strict=True)
    ]
    degrees = [rotation_angle_deg(p @ invert(t)) for p, t in zip(poses, truth, strict=True)]
    return np.array(mm), np.array(degrees)


def blown(pose: Array, centre: Array) -> Array:
    """A wrong fit: 10 mm and 15 degrees off."""
    return rigid([0, 9, 12], [6, 8, 0], apply(pose, centre)) @ pose


# --- one bone over time ---


@pytest.mark.parametrize("seed", range(4))
def test_exact_poses_are_not_harmed(seed: int) -> None:
    truth = foot_cycle(seed)["calcaneus"]
    mm, degrees = errors(
        smooth_poses(truth, np.ones(FRAMES), CENTRES["calcaneus"]), truth, CENTRES["calcaneus"]
    )
    assert mm.max() < 0.05
    assert degrees.max() < 0.05


def test_noise_is_reduced() -> None:
    before, after = [], []
    for seed in range(6):
        truth = foot_cycle(seed)["talus"]
        noisy = disturbed(truth, CENTRES["talus"], 0.5, 1.0, seed + 10)
        smooth = smooth_poses(noisy, np.ones(FRAMES), CENTRES["talus"])
        before.append(errors(noisy, truth, CENTRES["talus"]))
        after.append(errors(smooth, truth, CENTRES["talus"]))
    assert (np.median(after, axis=(0, 2)) < 0.7 * np.median(before, axis=(0, 2))).all()


@pytest.mark.parametrize("frame", [3, 7, 12])
def test_an_outlier_is_repaired_and_its_neighbours_kept(frame: int) -> None:
    truth = foot_cycle()["talus"]
    poses = disturbed(truth, CENTRES["talus"], 0.1, 0.3)
    poses[frame] = blown(truth[frame], CENTRES["talus"])
    mm, degrees = errors(
        smooth_poses(poses, np.ones(FRAMES), CENTRES["talus"]), truth, CENTRES["talus"]
    )
    assert mm.max() < 0.8
    assert degrees.max() < 1.6


def test_unknown_frames_are_filled_whatever_they_hold() -> None:
    truth = foot_cycle()["talus"]
    poses, weights = truth.copy(), np.ones(FRAMES)
    poses[[0, 5, 6]], weights[[0, 5, 6]] = np.nan, 0
    mm, degrees = errors(smooth_poses(poses, weights, CENTRES["talus"]), truth, CENTRES["talus"])
    assert mm.max() < 1.0
    assert degrees.max() < 2.0


def test_the_world_does_not_matter() -> None:
    poses = disturbed(foot_cycle()["talus"], CENTRES["talus"], 0.3, 0.5)
    other = rigid([20, 100, -50], [30, -200, 10])
    moved = other @ poses @ invert(other)
    smooth = smooth_poses(poses, np.ones(FRAMES), CENTRES["talus"])
    again = smooth_poses(moved, np.ones(FRAMES), apply(other, CENTRES["talus"]))
    np.testing.assert_allclose(again, other @ smooth @ invert(other), atol=1e-6)


def test_few_frames_stay_and_their_gaps_are_bridged() -> None:
    truth = foot_cycle()["tibia"][:3]
    np.testing.assert_allclose(smooth_poses(truth, np.ones(3), [0, 0, 0]), truth, atol=1e-9)
    poses = np.stack([rigid([0, 0, 0], [x, 0, 0]) for x in (0.0, np.nan, 4.0)])
    middle = smooth_poses(poses, [1, 0, 1], [0, 0, 0])[1]
    np.testing.assert_allclose(middle, rigid([0, 0, 0], [2, 0, 0]), atol=1e-9)
    alone = smooth_poses(truth, [0, 1, 0], [0, 0, 0])
    np.testing.assert_allclose(alone, truth[[1, 1, 1]], atol=1e-9)


@pytest.mark.parametrize("count", [4, 5])
def test_a_short_sequence_with_wrong_frames_stays_finite(count: int) -> None:
    poses = foot_cycle()["talus"][:count]
    poses[[0, 2]] = [blown(pose, CENTRES["talus"]) for pose in poses[[0, 2]]]
    smooth = smooth_poses(poses, np.ones(count), CENTRES["talus"])
    assert all(is_rigid(pose) for pose in smooth)


# --- the bones of a leg together ---


def test_trembling_of_the_leg_is_kept() -> None:
    truth = foot_cycle(tremble=0.5)
    alone = smooth_poses(truth["talus"], np.ones(FRAMES), CENTRES["talus"])
    together = smooth_together(truth, EVERY, CENTRES)
    for bone in BONES:
        mm, degrees = errors(together[bone], truth[bone], CENTRES[bone])
        assert np.median(mm) < 0.05
        assert np.median(degrees) < 0.08
    assert np.median(errors(alone, truth["talus"], CENTRES["talus"])[0]) > 0.2


def test_noise_and_outliers_of_one_bone_are_removed() -> None:
    truth = foot_cycle(tremble=0.4)
    poses = {b: disturbed(truth[b], CENTRES[b], 0.3, 0.8, n) for n, b in enumerate(BONES)}
    noise = np.mean([errors(poses[b], truth[b], CENTRES[b])[1] for b in BONES])
    poses["talus"][5] = blown(truth["talus"][5], CENTRES["talus"])
    weights = {bone: np.ones(FRAMES) for bone in BONES}
    weights["tibia"][9], poses["tibia"][9] = 0, np.nan
    smooth = smooth_together(poses, weights, CENTRES)
    found = {bone: errors(smooth[bone], truth[bone], CENTRES[bone]) for bone in BONES}
    assert np.mean([degrees for _, degrees in found.values()]) < 0.8 * noise
    assert found["talus"][0][5] < 1.2
    assert found["tibia"][0][9] < 2.0  # the leg moved it, as talus and calcaneus tell


def test_a_start_of_the_whole_leg_is_motion() -> None:
    truth = foot_cycle()
    jerk = rigid([0, 3, 4], [3, 4, 0], CENTRES["talus"])
    for bone in BONES:
        truth[bone][7] = jerk @ truth[bone][7]
    for bone, poses in smooth_together(truth, EVERY, CENTRES).items():
        mm, degrees = errors(poses, truth[bone], CENTRES[bone])
        assert mm[7] < 0.3
        assert degrees[7] < 0.5


def test_a_bone_that_is_never_known_stays() -> None:
    poses, weights = foot_cycle(), {bone: np.ones(FRAMES) for bone in BONES}
    poses["tibia"][:], weights["tibia"][:] = np.nan, 0
    assert np.isnan(smooth_together(poses, weights, CENTRES)["tibia"]).all()
    nothing = {bone: np.zeros(FRAMES) for bone in BONES}
    np.testing.assert_array_equal(smooth_together(poses, nothing, CENTRES)["talus"], poses["talus"])
