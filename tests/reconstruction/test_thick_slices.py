from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.geometry import rigid
from ankle_lib.masking.foot import find_foot
from ankle_lib.reconstruction.thick_slices import (
    Scanning,
    ThickSlices,
    consistency,
    measured_band,
    noise_sd,
    scanning,
)
from ankle_lib.volume import Volume, resample
from tests.toy_motion import NOISE, Motion, motion

SHARED = Scanning((1.0, 1.0), NOISE)


@pytest.fixture(scope="module")
def scene() -> Motion:
    return motion()


def test_averaging_agrees_with_the_plain_way(scene: Motion) -> None:
    sharp, frame = scene.truth[0], scene.frames.frame(0)
    slices = ThickSlices.between(*sharp.grid, frame, SHARED)
    found = slices.average(torch.from_numpy(sharp.data)[None])[0].numpy()
    plain = resample(sharp, *frame.grid, slice_samples=12).data
    whole = slices.average(torch.ones(1, *sharp.shape))[0].numpy() > 0.999
    assert whole.mean() > 0.2
    start = np.rint(np.linalg.inv(frame.affine) @ slices.affine[:, 3])[:3].astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, found.shape, strict=True))
    np.testing.assert_array_equal(slices.measured, frame.data[box])
    assert np.abs(found - plain[box])[whole].max() < 0.03 * sharp.data.max()


def test_values_spread_over_a_slice_average_back(scene: Motion) -> None:
    sharp, frame = scene.truth[0], scene.frames.frame(0)
    slices = ThickSlices.between(*sharp.grid, frame, SHARED)
    smooth = ndimage.gaussian_filter(slices.measured, (3, 3, 2))
    back = slices.average(slices.spread(smooth)[None])[0].numpy()
    whole = slices.average(torch.from_numpy(slices.reached.astype(np.float32))[None])[0] > 0.999
    error = (back - smooth)[whole.numpy()]
    assert np.sqrt(np.mean(error**2)) < 0.05 * smooth[whole.numpy()].std()


def filled_with_zeros(share: tuple[float, float], sd: float, size: int = 160) -> NDArray:
    """A disc in noise, of whose k-space only the middle was measured."""
    random = np.random.default_rng(1)
    i, j = np.indices((size, size)) - size / 2
    disc = np.repeat(900.0 * (i**2 + j**2 < (0.3 * size) ** 2)[..., None], 3, axis=2)
    kept = [np.abs(np.fft.fftfreq(size)) <= 0.5 * s for s in share]
    mask = (kept[0][:, None] & kept[1])[..., None]
    noise = random.normal(0, sd / np.sqrt(mask.mean()), (2, *disc.shape))
    spectrum = np.fft.fft2(disc + noise[0] + 1j * noise[1], axes=(0, 1)) * mask
    return np.abs(np.fft.ifft2(spectrum, axes=(0, 1))).astype(np.float32)


@pytest.mark.parametrize("share", [(0.72, 0.72), (0.6, 0.9), (1.0, 1.0)])
def test_noise_and_measured_k_space_are_read_off_the_image(share: tuple[float, float]) -> None:
    image = filled_with_zeros(share, 50.0)
    band = measured_band(image)
    assert band == pytest.approx(share, abs=0.03)
    assert noise_sd(image, band) == pytest.approx(50, rel=0.06)
    found = scanning(Volume(image[..., None].repeat(2, 3), np.diag([1.0, 1, 8, 1])))
    assert found == Scanning(band, pytest.approx(noise_sd(image, band)))  # type: ignore[arg-type]


def test_noise_is_measured_in_tissue_where_the_air_is_zero() -> None:
    image = filled_with_zeros((1.0, 1.0), 50.0)
    image[~find_foot(image)] = 0
    assert noise_sd(image) == pytest.approx(50, rel=0.1)


def test_the_truth_is_consistent_up_to_the_noise(scene: Motion) -> None:
    for number, sharp in enumerate(scene.truth):
        assert consistency(sharp, scene.frames.frame(number), SHARED).ratio == pytest.approx(
            1, abs=0.1
        )


def test_what_is_not_in_the_frame_shows(scene: Motion) -> None:
    frame = scene.frames.frame(1)
    bone = scene.masks["calcaneus"]
    wrong = Volume(scene.truth[1].data + np.where(bone, 300, 0), scene.truth[1].affine)
    assert consistency(wrong, frame, SHARED).ratio > 1.5
    other = consistency(scene.truth[0], frame, SHARED)
    assert other.ratio > 1.5
    assert np.count_nonzero(other.residual.data[~other.compared]) == 0
    rms = np.sqrt(np.mean(other.residual.data[other.compared] ** 2))
    assert other.ratio == pytest.approx(rms / NOISE, rel=1e-4)


def test_scans_that_do_not_meet_are_refused(scene: Motion) -> None:
    far = Volume(scene.frames.data[..., 0], rigid((0, 0, 0), (900, 0, 0)) @ scene.frames.affine)
    with pytest.raises(AnkleError, match="hardly overlap"):
        consistency(scene.truth[0], far, SHARED)
    with pytest.raises(AnkleError, match="share 0 voxels of tissue"):
        consistency(
            scene.truth[0],
            scene.frames.frame(0),
            SHARED,
            covered=np.zeros(scene.truth[0].shape, bool),
        )


def test_a_voxel_is_reached_out_to_its_faces(scene: Motion) -> None:
    frame = scene.frames.frame(0)
    slices = ThickSlices.between(*scene.static.grid, frame, SHARED)
    voxels = np.moveaxis(np.indices(scene.static.shape), 0, -1)
    to_frame = np.linalg.inv(frame.affine) @ scene.static.affine
    places = voxels @ to_frame[:3, :3].T + to_frame[:3, 3]
    inside = ((places > -0.49) & (places < np.array(frame.shape) - 0.51)).all(axis=-1)
    outside = ((places < -0.51) | (places > np.array(frame.shape) - 0.49)).any(axis=-1)
    assert slices.reached[inside].all()
    assert not slices.reached[outside].any()
