from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import rigid
from ankle_lib.reconstruction.guided import (
    grid_of_bones,
    guided,
    reconstruct_frames,
    with_the_measured,
)
from ankle_lib.reconstruction.moving_foot import MovedScan
from ankle_lib.reconstruction.thick_slices import Scanning, consistency
from ankle_lib.volume import Volume, resample, to_orientation
from tests.toy_motion import NOISE, Motion, motion, moved_scan

SHARED = Scanning((1.0, 1.0), NOISE)


@pytest.fixture(scope="module")
def scene() -> Motion:
    return motion()


@pytest.fixture(scope="module")
def carried(scene: Motion) -> MovedScan:
    return moved_scan(scene, 1)


def psnr(image: NDArray, truth: NDArray, region: NDArray[np.bool_]) -> float:
    return float(20 * np.log10(1000 / np.sqrt(np.mean((image - truth)[region] ** 2))))


def around_bones(carried: MovedScan) -> NDArray[np.bool_]:
    return (np.min([*carried.distances_mm.values()], axis=0) < 5) & carried.covered


@pytest.mark.parametrize("codes", ["PSR", "RPS", "SLA"])
def test_the_order_of_the_frames_axes_does_not_matter(
    scene: Motion, carried: MovedScan, codes: str
) -> None:
    turned = to_orientation(scene.frames.frame(1), codes)
    result = guided(carried, turned, shared=SHARED)
    expected = guided(carried, scene.frames.frame(1), shared=SHARED)
    np.testing.assert_allclose(result.volume.data, expected.volume.data, atol=1.0)
    assert result.consistency.ratio == pytest.approx(expected.consistency.ratio, abs=1e-3)


def test_guided_is_better_than_interpolation_and_the_moved_scan(
    scene: Motion, carried: MovedScan
) -> None:
    frame, truth = scene.frames.frame(1), scene.truth[1].data
    result = guided(carried, frame)
    region = around_bones(carried) & result.measured
    grid = scene.static.shape, scene.static.affine
    interpolated = max(psnr(resample(frame, *grid, order=n).data, truth, region) for n in (0, 1, 3))
    known = np.column_stack([np.ones(region.sum()), carried.volume.data[region]])
    fitted = known @ np.linalg.lstsq(known, truth[region], rcond=None)[0]
    alone = psnr(fitted, truth[region], np.ones(len(fitted), bool))
    best = psnr(result.volume.data, truth, region)
    assert best > interpolated + 3
    assert best > alone + 3
    assert np.corrcoef(result.volume.data[region], truth[region])[0, 1] > 0.95
    assert 0.8 < result.consistency.ratio < 1.2


def test_the_scale_of_the_intensities_does_not_matter(scene: Motion, carried: MovedScan) -> None:
    frame = scene.frames.frame(1)
    plain = guided(carried, frame, shared=SHARED)
    bright = Volume(3 * frame.data, frame.affine)
    again = guided(carried, bright, shared=Scanning((1.0, 1.0), 3 * NOISE))
    np.testing.assert_allclose(again.volume.data, 3 * plain.volume.data, atol=1.0)
    assert again.consistency.ratio == pytest.approx(plain.consistency.ratio, rel=1e-3)


def test_a_lost_slice_is_filled_from_the_others(scene: Motion, carried: MovedScan) -> None:
    frame = scene.frames.frame(1)
    data = frame.data.copy()
    data[:, :, 4] = 0
    whole, part = (guided(carried, f, shared=SHARED) for f in (frame, Volume(data, frame.affine)))
    region = around_bones(carried) & whole.measured
    truth = scene.truth[1].data
    assert psnr(part.volume.data, truth, region) > psnr(whole.volume.data, truth, region) - 2


def test_any_volume_can_be_brought_into_agreement(scene: Motion) -> None:
    frame = scene.frames.frame(1)
    dull = Volume(0.8 * scene.truth[1].data, scene.truth[1].affine)
    before = consistency(dull, frame, SHARED).ratio
    result = with_the_measured(dull, frame, shared=SHARED)
    assert result.consistency.ratio < 0.6 * before
    assert result.volume.data.min() >= 0


def test_frames_come_one_by_one_on_the_part_around_the_bones(scene: Motion) -> None:
    poses = [scene.poses[0], {}]
    shape, affine = grid_of_bones(scene.static, scene.masks, poses)
    assert all(a <= b for a, b in zip(shape, scene.static.shape, strict=True))
    asked = []

    def brighter(frame: Volume, moved: MovedScan, sharp: Volume) -> NDArray:
        asked.append(sharp.shape)
        return sharp.data + 100

    plain = list(reconstruct_frames(scene.static, scene.masks, scene.frames, poses))
    refined = list(
        reconstruct_frames(scene.static, scene.masks, scene.frames, poses, refine=brighter)
    )
    assert [one.number for one in plain] == [one.number for one in refined] == [0]
    assert asked == [shape]
    assert plain[0].result.volume.shape == shape
    np.testing.assert_allclose(plain[0].result.volume.affine, affine)
    # what was added without reason has been taken away again
    tissue = plain[0].result.measured & (plain[0].result.volume.data > 300)
    change = (refined[0].result.volume.data - plain[0].result.volume.data)[tissue]
    assert abs(np.median(change)) < 20
    away = [{bone: rigid((0, 0, 0), (500, 0, 0)) for bone in scene.masks}]
    with pytest.raises(AnkleError, match="out of the static scan's field of view"):
        grid_of_bones(scene.static, scene.masks, away)
    with pytest.raises(AnkleError, match="both a mask and a pose"):
        grid_of_bones(scene.static, scene.masks, [{}])
