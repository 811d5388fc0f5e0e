from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.masking.foot import (
    find_foot,
    foot_mask,
    pooled_histogram,
    valley_threshold,
    without_padding,
)
from tests.toy_ankle import toy_ankle

# --- histogram and threshold ---------------------------------------------------------------------


def test_histogram_counts_every_voxel_once() -> None:
    images = [np.array([0, 0, 5, 10, 19, 95, 4000]), np.array([[1.5, 0.0], [99.9, 50.0]])]
    histogram = pooled_histogram(images, bin_width=10, maximum=100)
    assert histogram.n_zero.tolist() == [2, 1]
    assert histogram.counts[0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert histogram.counts[1].tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert histogram.pooled.sum() + histogram.n_zero.sum() == sum(image.size for image in images)
    assert histogram.centres[0] == 5
    with pytest.raises(AnkleError, match="is the cohort empty"):
        pooled_histogram([])


def noise_and_tissue(noise_sd: float, tissue: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    noise = np.hypot(*random.normal(0, noise_sd, (2, 60_000)))
    return np.concatenate([np.zeros(40_000), noise, random.normal(tissue, tissue / 5, 30_000)])


@given(noise_sd=st.floats(30, 80), tissue=st.floats(700, 1500), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_valley_lies_between_noise_and_tissue(noise_sd: float, tissue: float, seed: int) -> None:
    image = noise_and_tissue(noise_sd, tissue, seed)
    threshold = valley_threshold(pooled_histogram([image]))
    assert 2.5 * noise_sd < threshold < 0.75 * tissue
    assert (image > threshold).mean() == pytest.approx(3 / 13, abs=0.02)


def test_no_valley_is_an_error() -> None:
    noise = np.hypot(*np.random.default_rng(0).normal(0, 50, (2, 50_000)))
    with pytest.raises(AnkleError, match="no valley between noise"):
        valley_threshold(pooled_histogram([noise]))


# --- foot mask -----------------------------------------------------------------------------------


def test_foot_mask_is_what_is_brighter_in_one_piece() -> None:
    image = np.zeros((20, 20, 6))
    image[2:12, 2:12, 1:5] = 300
    image[5:7, 5:7, 2:4] = 100  # dark, enclosed in its slice
    image[16:18, 16:18, 2] = 900  # a bright speck
    plain = foot_mask(image, 250, smallest_piece=0)
    assert np.array_equal(plain, image > 250)
    largest = foot_mask(image, 250, smallest_piece=0.1)
    assert largest.sum() == (image == 300).sum()
    filled = foot_mask(image, 250, smallest_piece=0.1, fill_holes=True)
    assert filled.sum() == 10 * 10 * 4
    assert not foot_mask(image, 1000, fill_holes=True).any()
    assert foot_mask(image).sum() == foot_mask(image, 250).sum()


def test_marrow_inside_a_closed_cortex_belongs_to_the_foot() -> None:
    image = np.full((20, 20, 20), 300.0)
    image[5:15, 5:15, 5:15] = 100  # cortex
    image[7:13, 7:13, 7:13] = 900  # marrow
    mask = foot_mask(image)
    assert np.array_equal(mask, image > 250)
    assert not foot_mask(image, smallest_piece=1.0)[image == 900].any()


def test_holes_that_reach_the_border_stay_open() -> None:
    image = np.full((8, 8, 3), 300.0)
    image[:4, 3, 1] = 0
    image[6, 6, 1] = 0
    filled = foot_mask(image, 250, fill_holes=True)
    assert not filled[:4, 3, 1].any()
    assert filled[6, 6, 1]


@pytest.mark.parametrize("seed", range(3))
def test_filled_slices_equal_scipys(seed: int) -> None:
    random = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(random.normal(size=(30, 25, 7)), 1.0) * 1000
    filled = foot_mask(image, 0, smallest_piece=0, fill_holes=True)
    for k in range(7):
        assert np.array_equal(filled[:, :, k], ndimage.binary_fill_holes(image[:, :, k] > 0))


@pytest.mark.parametrize("factor", [0.01, 1.0, 300.0])
def test_the_foot_is_found_in_any_unit_of_intensity(factor: float) -> None:
    ankle = toy_ankle()
    found = find_foot((ankle.static.data * factor).astype(np.float32))
    assert found[ankle.foot.data].mean() > 0.9
    assert found[~ankle.foot.data].mean() < 0.02


def test_a_background_without_noise_is_no_obstacle() -> None:
    ankle = toy_ankle()
    found = find_foot(np.where(ankle.foot.data, ankle.static.data, 0))
    assert found[ankle.foot.data].mean() > 0.9
    with pytest.raises(AnkleError, match="no foot in it"):
        find_foot(np.full((4, 4, 4), -1.0))


# --- what was not measured -----------------------------------------------------------------------


def test_only_a_constant_far_from_all_others_is_padding() -> None:
    image = toy_ankle().static.data
    for usual in (image, image.astype(np.float32) * 3, np.where(image > 400, image, 0)):
        data, found = without_padding(usual)
        assert data is usual
        assert found == []
    for value in (-3024, 30_000):
        padded = image.copy()
        padded[:8] = value
        data, (found,) = without_padding(padded)
        assert not data[:8].any()
        np.testing.assert_array_equal(data[8:], image[8:])
        assert f"11% of the voxels, all {value}, were not measured" in found
        # a few bad voxels are no padding
        bad = image.copy()
        bad[0, 0, :5] = value
        assert without_padding(bad)[0] is bad


@pytest.mark.parametrize("offset", [-1024, -32_000, 5000])
def test_an_offset_is_taken_off(offset: int) -> None:
    image = toy_ankle().static.data
    data, (found,) = without_padding(image + np.int16(offset))
    np.testing.assert_array_equal(data, image)
    assert found == f"an offset of all intensities, {offset}, was taken off"
