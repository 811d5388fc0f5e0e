"""The course's own engine: found poses, against the truth and against independent programs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform

from ankle_lib.files import AnkleError
from ankle_lib.geometry import compose, rigid
from ankle_lib.registration.engines import (
    Registration,
    Resolution,
    Settings,
    _out_of_line,
    _reasons,
    register,
)
from ankle_lib.registration.pyramid import fixed_frames, moving_region
from ankle_lib.registration.regions import Fits, agreement, cut_region
from ankle_lib.registration.search import _search, turn_about
from ankle_lib.registration.similarity import Options, evaluate, select_points
from ankle_lib.registration.truth import bone_points, rotation_errors_deg, tre_mm
from ankle_lib.volume import Volume, to_orientation
from tests.registration.scene import CENTRE, Scene, scene, turned

COARSE = Settings(
    resolutions=(
        Resolution(3.0, (3.0, 3.0), 3, 12),
        Resolution(1.5, (1.5, 1.5), 5, 6),
    )
)


@pytest.fixture(scope="module")
def moving_bone() -> Scene:
    return scene([turned(angle) for angle in (0, 4, 8, 11, 13, 12)])


def errors(found: Registration, of: Scene) -> NDArray[np.float64]:
    points = bone_points(of.bone, of.static.affine)
    return np.array(
        [tre_mm(p, t, points) for p, t in zip(found.poses[:, 0], of.truth, strict=True)]
    )


# --- poses ---------------------------------------------------------------------------------------


def test_poses_through_thick_slices(moving_bone: Scene) -> None:
    found = register(
        *(moving_bone.frames, moving_bone.static, {"talus": moving_bone.weights}),
        settings=COARSE,
    )
    assert errors(found, moving_bone).max() < 0.25
    assert not found.failed.any()
    assert (found.correlations > 0.9).all()
    assert (found.costs < 0.15).all()
    np.testing.assert_allclose(found.seen, 1.0, atol=0.15)
    assert found.seconds.sum() > 0
    for pose in found.region("talus"):
        RigidTransform.from_matrix(pose)  # refuses what is not rigid
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize(("static_sign", "frame_sign"), [(1, -1), (-1, 1), (-1, -1)])
def test_any_handedness_of_the_arrays(static_sign: int, frame_sign: int) -> None:
    seen = scene([turned(9)], static_sign=static_sign, frame_sign=frame_sign)
    found = register(seen.frames, seen.static, {"talus": seen.weights}, settings=COARSE)
    assert errors(found, seen).max() < 0.3


def test_the_order_of_the_axes_does_not_matter(moving_bone: Scene) -> None:
    turned_frames = to_orientation(moving_bone.frames, "LIA")
    weights = {"talus": moving_bone.weights}
    found = register(turned_frames, moving_bone.static, weights, settings=COARSE)
    assert errors(found, moving_bone).max() < 0.25


def test_a_wide_retry_finds_what_the_first_starts_missed(moving_bone: Scene) -> None:
    start = moving_bone.truth @ rigid((34, 0, 0), (0, 6, 6), CENTRE)
    still, weights = moving_bone.static, {"talus": moving_bone.weights}
    once = dataclasses.replace(COARSE, start_angles_deg=(0.0,))
    without = dataclasses.replace(once, retry=False)
    lost = register(moving_bone.frames, still, weights, start=start, settings=without)
    far = errors(lost, moving_bone) > 2
    assert far.any()
    assert lost.failed[far].all()
    found = register(moving_bone.frames, still, weights, start=start, settings=once)
    assert errors(found, moving_bone).max() < 0.25
    for n in np.flatnonzero(far):  # nothing to compare a frame with: it is judged by itself
        seen = Volume(moving_bone.frames.data[..., [n]], moving_bone.frames.affine)
        alone = register(seen, still, weights, start=start[[n]], settings=once)
        assert not alone.failed.any()
        assert errors(alone, dataclasses.replace(moving_bone, truth=moving_bone.truth[[n]])) < 0.25


def test_the_slice_model_matters() -> None:
    seen = scene([turned(angle) for angle in (14, 17, 20)])
    weights = {"talus": seen.weights}
    without = dataclasses.replace(COARSE, slice_model=False)
    modelled = errors(register(seen.frames, seen.static, weights, settings=COARSE), seen)
    sampled = errors(register(seen.frames, seen.static, weights, settings=without), seen)
    assert modelled.mean() < 0.85 * sampled.mean()


def test_several_regions_are_as_each_alone(moving_bone: Scene) -> None:
    weights = {"a": moving_bone.weights, "b": np.clip(moving_bone.weights * 2 - 1, 0, 1)}
    both = register(moving_bone.frames, moving_bone.static, weights, settings=COARSE)
    alone = register(moving_bone.frames, moving_bone.static, {"b": weights["b"]}, settings=COARSE)
    np.testing.assert_allclose(both.region("b"), alone.region("b"), atol=1e-6)
    assert both.regions == ("a", "b")


def test_brightness_does_not_matter(moving_bone: Scene) -> None:
    drift = np.linspace(0.5, 3.0, moving_bone.frames.n_frames, dtype=np.float32)
    brighter = Volume(moving_bone.frames.data * drift + 40, moving_bone.frames.affine)
    weights = {"talus": moving_bone.weights}
    first = register(moving_bone.frames, moving_bone.static, weights, settings=COARSE)
    second = register(brighter, moving_bone.static, weights, settings=COARSE)
    for one, other in zip(first.poses[:, 0], second.poses[:, 0], strict=True):
        assert np.linalg.norm(rotation_errors_deg(one, other)) < 0.05


# --- similarity ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def at_a_pose(moving_bone: Scene):
    frames = fixed_frames(moving_bone.frames, "cpu")
    settings = Settings(resolutions=(Resolution(1.5, (1.0, 1.5), 9, 5),))
    pyramid = {1.5: frames}
    region = cut_region(moving_bone.static, moving_bone.weights, "talus", 6)
    level = _search(pyramid, moving_region(region, "cpu").standardised(), settings).levels[-1]
    pose = moving_bone.truth[2] @ rigid((1.5, -1, 2), (0.5, 0.7, -0.4), CENTRE)
    inverse = torch.as_tensor(np.linalg.inv(pose))[None]
    points = select_points(level, torch.tensor([2]), inverse, Options(weighted=False))
    return level, points, inverse, pose


def test_similarity_agrees_with_an_independent_score(at_a_pose, moving_bone: Scene) -> None:
    level, points, inverse, pose = at_a_pose
    fit = evaluate(level, points, inverse, Options())
    region = cut_region(moving_bone.static, moving_bone.weights, "talus", 6)
    score = agreement(moving_bone.frames.frame(2), region, pose)
    assert float(fit.correlation[0]) == pytest.approx(score.correlation, abs=5e-3)
    assert float(fit.cost[0]) == pytest.approx(score.cost, abs=5e-3)
    assert float(fit.seen[0]) == pytest.approx(score.seen, abs=5e-3)


@pytest.mark.parametrize("shading", [True, False])
@pytest.mark.parametrize("layers", [True, False])
def test_descent_is_the_slope_of_the_squares(at_a_pose, shading: bool, layers: bool) -> None:
    level, points, inverse, _ = at_a_pose
    options = Options(shading=shading, weighted=layers)  # weights that move change the squares too
    if layers:
        level = dataclasses.replace(level, moving=level.moving.layered)
        points = select_points(level, torch.tensor([2]), inverse, options)
    fit = evaluate(level, points, inverse, options)

    def squares(motion: NDArray[np.float64]) -> float:
        moved = turn_about(level.moving.centre, torch.as_tensor(motion)[None]) @ inverse
        cost = evaluate(level, points, moved, options).cost
        values, weights = points.values[0], points.weights[0]
        mean = (weights * values).sum() / weights.sum()
        return float(cost[0] * (weights * (values - mean) ** 2).sum()) / 2

    for axis in range(6):
        step = np.zeros(6)
        step[axis] = 0.002 if axis < 3 else 0.05
        slope = (squares(step) - squares(-step)) / (2 * step[axis])
        scale = float(torch.sqrt(fit.hessian[0, axis, axis] * fit.cost[0]))
        assert -float(fit.descent[0, axis]) == pytest.approx(slope, rel=0.1, abs=12 * scale)


def test_turn_about_is_rigid() -> None:
    motion = torch.tensor([[0.1, -0.2, 0.3, 1.0, 2.0, 3.0]])
    expected = rigid(np.rad2deg([0.1, -0.2, 0.3]), (1, 2, 3), CENTRE)
    np.testing.assert_allclose(turn_about(CENTRE, motion)[0], expected, atol=1e-6)


# --- any contrast --------------------------------------------------------------------------------

ANY = dataclasses.replace(COARSE, any_contrast=True)
LOOKS = {
    "as it is": lambda grey: grey,
    "inverted": lambda grey: 1500 - grey,
    "bright in the middle": lambda grey: 1200 - abs(grey - 700),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_bone_is_found_in_any_contrast(look: str) -> None:
    poses = [turned(angle) for angle in (0, 6, 12)]
    seen = scene(poses, look=LOOKS[look])
    found = register(seen.frames, seen.static, {"talus": seen.weights}, settings=ANY)
    assert errors(found, seen).max() < 0.3
    assert not found.failed.any()
    assert (found.correlations > 0.6).all(), "the scan was not brought to the frames' contrast"


def test_in_any_contrast_a_wrong_place_is_refused() -> None:
    seen = scene([turned(angle) for angle in (0, 6, 12)], look=LOOKS["inverted"])
    start = seen.truth @ rigid((70, 30, 0), (0, 25, 12), CENTRE)
    one = dataclasses.replace(ANY, start_angles_deg=(0.0,), retry=False)
    lost = register(seen.frames, seen.static, {"talus": seen.weights}, start=start, settings=one)
    far = errors(lost, seen) > 1
    assert lost.failed[far].all()
    assert far.any()


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_passed", "seen", "believed"),
    [
        ((3, 0), (15, 15), (0, 0)),  # few of one region, none of the other
        ((6, 0), (15, 15), (0, 0)),  # many of one, but few of all
        ((15, 3), (15, 15), (15, 0)),
        ((15, 4), (15, 15), (15, 4)),
        ((3, 3), (3, 3), (3, 3)),  # the others lie outside of the field of view
    ],
)
def test_few_fits_are_not_believed(n_passed, seen, believed) -> None:
    shape = (15, 2)
    number = np.arange(15)[:, None]
    fits = Fits(
        poses=np.broadcast_to(np.eye(4), (*shape, 4, 4)),
        correlations=np.ones(shape),
        costs=np.full(shape, 0.3),
        seen=np.where(number < seen, 1.0, 0.2),
        above=np.where(number < n_passed, 0.6, 0.1),
        seconds=np.zeros(shape),
    )
    reasons = _reasons(fits, [np.zeros(3)] * 2, Settings(any_contrast=True))
    assert (reasons == "").sum(axis=0).tolist() == list(believed)


def test_noise_is_a_failure(moving_bone: Scene) -> None:
    noise = np.random.default_rng(3).normal(500, 100, moving_bone.frames.data.shape)
    frames = Volume(noise.astype(np.float32), moving_bone.frames.affine)
    found = register(*(frames, moving_bone.static, {"talus": moving_bone.weights}), settings=COARSE)
    assert found.failed.all()
    assert set(found.reasons[:, 0]) <= {
        "the static scan explains too little of the frame",
        "frame and static scan are not alike there",
    }


def test_a_bone_out_of_sight_is_a_failure(moving_bone: Scene) -> None:
    away = moving_bone.frames.affine.copy()
    away[:3, 3] += (0, 120, 0)
    frames = Volume(moving_bone.frames.data, away)
    found = register(*(frames, moving_bone.static, {"talus": moving_bone.weights}), settings=COARSE)
    assert found.failed.all()


def test_a_lost_slice_is_left_out(moving_bone: Scene) -> None:
    lost = moving_bone.frames.data.copy()
    lost[:, :, 4] = 0  # through the middle of the bone
    frames = Volume(lost, moving_bone.frames.affine)
    found = register(*(frames, moving_bone.static, {"talus": moving_bone.weights}), settings=COARSE)
    assert not found.failed.any()
    assert errors(found, moving_bone).max() < 0.4
    assert (found.seen < 0.9).all()


def test_one_frame_out_of_line_in_time() -> None:
    poses = np.array([rigid((0, 0, 0), (0, step, 0)) for step in range(9)], dtype=float)
    times = np.arange(9)
    assert not _out_of_line(poses, times, np.zeros(3)).any()
    poses[4] = compose(rigid((25, 0, 0), (0, 0, 9)), poses[4])
    assert np.flatnonzero(_out_of_line(poses, times, np.zeros(3))).tolist() == [4]
    kept = np.delete(times, [1, 4])
    assert not _out_of_line(poses[kept], kept, np.zeros(3)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "elastix"}, "choose one of torch, simpleitk, flirt"),
        ({"engine": "simpleitk", "settings": ANY}, "for the torch engine, not for 'simpleitk'"),
        ({"weights": {}}, "no region"),
        ({"weights": {"talus": np.zeros((72, 60, 44))}}, "talus are empty"),
        ({"weights": {"talus": np.ones((3, 4, 5))}}, r"shape \(3, 4, 5\)"),
        ({"start": np.zeros((2, 4, 4))}, r"\(2, 4, 4\): expected"),
        ({"start": np.diag([1.0, 1, 2, 1])}, "not rigid"),
    ],
)
def test_unusable_arguments(moving_bone: Scene, change: dict, message: str) -> None:
    weights = change.pop("weights", {"talus": moving_bone.weights})
    with pytest.raises(AnkleError, match=message):
        register(moving_bone.frames, moving_bone.static, weights, **change)


def test_unusable_images(moving_bone: Scene) -> None:
    weights = {"talus": moving_bone.weights}
    frames, static = moving_bone.frames, moving_bone.static
    flat = Volume(np.full(static.shape, 7.0), static.affine)
    with pytest.raises(AnkleError, match="constant"):
        register(frames, flat, weights)
    with pytest.raises(AnkleError, match="single slice"):
        register(Volume(frames.data[:, :, :1], frames.affine), static, weights)
    with pytest.raises(AnkleError, match="one 3D image"):
        register(frames, frames, weights)
    holes = frames.data.copy()
    holes[3, 3, 3, 0] = np.nan
    with pytest.raises(AnkleError, match="NaN"):
        register(Volume(holes, frames.affine), static, weights)
