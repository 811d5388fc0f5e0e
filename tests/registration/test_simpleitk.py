"""ITK finds a known pose, whatever the orientation of the arrays."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ankle_lib.geometry import apply, compose, is_rigid, rigid
from ankle_lib.registration import simpleitk
from ankle_lib.registration.engines import Settings, register
from ankle_lib.registration.truth import bone_points, tre_mm
from ankle_lib.volume import Volume
from tests.registration.scene import CENTRE, FRAME_SHAPE, oblique, scene, turned

TOLERANCE_MM = 0.25
"""A sixth of a pixel of the frames; shading, which ITK's correlation does not know, costs most."""

ONE_START = Settings(start_angles_deg=(0.0,))


@pytest.mark.parametrize(("static_sign", "frame_sign"), [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_known_pose_is_found(static_sign: int, frame_sign: int) -> None:
    known = scene([turned(9)], static_sign=static_sign, frame_sign=frame_sign)
    start = compose(rigid([6, -2, 2], [2, -1.5, 1], CENTRE), known.truth[0])[None, None]
    fits = simpleitk.fit(known.frames, known.static, {"bone": known.weights}, start, ONE_START)
    points = bone_points(known.bone, known.static.affine)
    assert tre_mm(start[0, 0], known.truth[0], points) > 2.5
    assert tre_mm(fits.poses[0, 0], known.truth[0], points) < TOLERANCE_MM
    assert is_rigid(fits.poses[0, 0], 1e-9)
    assert fits.correlations[0, 0] > 0.95
    assert fits.costs[0, 0] < 0.05
    assert fits.seconds[0, 0] > 0


def test_several_starts_reach_farther_and_equal_frames_end_alike() -> None:
    known = scene([turned(22)])
    start = np.eye(4)[None, None]
    two = Volume(np.concatenate([known.frames.data] * 2, axis=3), known.frames.affine)
    fits = simpleitk.fit(
        *(two, known.static, {"bone": known.weights}, np.repeat(start, 2, axis=0)),
        Settings(),
    )
    points = bone_points(known.bone, known.static.affine)
    assert tre_mm(fits.poses[0, 0], known.truth[0], points) < TOLERANCE_MM
    np.testing.assert_array_equal(fits.poses[0], fits.poses[1])


def test_what_cannot_be_compared_keeps_its_start_and_is_marked() -> None:
    known = scene([turned(0)])
    away = rigid([0, 0, 0], [400, 0, 0])[None, None]
    fits = simpleitk.fit(known.frames, known.static, {"bone": known.weights}, away, ONE_START)
    np.testing.assert_allclose(fits.poses, away, atol=1e-9)
    assert np.isnan(fits.correlations[0, 0])
    assert fits.costs[0, 0] == 1


def test_a_fit_that_explains_too_little_is_tried_again_from_another_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = scene([turned(9)])
    tried = []

    def fails_once(frame, averaged, region, start):
        tried.append(start)
        return rigid([50, 0, 0], [9, 9, 9], CENTRE) if len(tried) == 1 else known.truth[0]

    monkeypatch.setattr(simpleitk, "_register", fails_once)
    images = known.frames, known.static, {"bone": known.weights}, np.eye(4)[None, None]
    fits = simpleitk.fit(*images, Settings())
    np.testing.assert_array_equal(fits.poses[0, 0], known.truth[0])
    assert len(tried) == 2
    assert not np.allclose(tried[0], tried[1])

    tried.clear()
    fits = simpleitk.fit(*images, Settings(retry=False))
    assert len(tried) == 1
    assert fits.costs[0, 0] > 0.75


def test_it_is_an_engine_of_register() -> None:
    known = scene([turned(3)])
    found = register(
        known.frames,
        known.static,
        {"bone": known.weights},
        engine="simpleitk",
        settings=ONE_START,
    )
    assert (found.engine, found.regions) == ("simpleitk", ("bone",))
    assert not found.failed.any()
    points = bone_points(known.bone, known.static.affine)
    assert tre_mm(found.region("bone")[0], known.truth[0], points) < TOLERANCE_MM


def test_itk_is_left_as_it_was() -> None:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(3)
    try:
        known = scene([turned(0)])
        away = rigid([0, 0, 0], [400, 0, 0])[None, None]
        simpleitk.fit(known.frames, known.static, {"bone": known.weights}, away, ONE_START)
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@pytest.mark.parametrize("sign", [1, -1])
def test_images_of_itk_lie_where_ours_lie(sign: int) -> None:
    affine = oblique(FRAME_SHAPE, (sign * 1.5, 1.1, 6.0), (20, -9, 31), CENTRE)
    values = np.arange(np.prod(FRAME_SHAPE), dtype=np.float32).reshape(FRAME_SHAPE)
    image = simpleitk._itk_image(Volume(values, affine))
    for voxel in ([0, 0, 0], [51, 3, 8], [7, 40, 2]):
        lps = np.array(image.TransformContinuousIndexToPhysicalPoint([float(v) for v in voxel]))
        np.testing.assert_allclose(lps * [-1, -1, 1], apply(affine, voxel), atol=1e-9)
        assert image[voxel] == values[tuple(voxel)]


def test_transforms_of_itk_are_the_poses_asked_for() -> None:
    pose = rigid([11, -17, 23], [4, -6, 9], CENTRE)
    transform = simpleitk._itk_transform(pose, apply(pose, CENTRE))
    np.testing.assert_allclose(simpleitk._pose(transform), pose, atol=1e-9)
    frame_ras = np.array([3.0, -8.0, 30.0])
    static_lps = np.array(transform.TransformPoint((frame_ras * [-1, -1, 1]).tolist()))
    np.testing.assert_allclose(apply(pose, static_lps * [-1, -1, 1]), frame_ras, atol=1e-9)
    np.testing.assert_allclose(np.array(transform.GetCenter()), apply(pose, CENTRE) * [-1, -1, 1])


def test_a_slice_average_is_a_centred_box() -> None:
    image = np.zeros((9, 9, 41), dtype=np.float32)
    image[4, 4, 20] = 1
    volume = Volume(image, np.diag([1.0, 1.0, 0.5, 1.0]))
    line = simpleitk._averaged(volume, (0.0, 0.0, 8.0)).data[4, 4]
    places = np.arange(41)
    assert line.sum() == pytest.approx(1, abs=1e-5)
    assert (line @ places) / line.sum() == pytest.approx(20, abs=1e-4)  # no shift
    assert np.count_nonzero(line > 0.5 * line.max()) * 0.5 == pytest.approx(8, abs=0.5)
    np.testing.assert_array_equal(simpleitk._averaged(volume, (0.0, 0.0, 0.0)).data, image)
