from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import PSNRMetric
from numpy.typing import NDArray
from scipy import ndimage
from skimage import metrics as oracle

from ankle_lib.files import AnkleError
from ankle_lib.image_metrics import (
    ImageScores,
    correlation,
    detail,
    image_scores,
    intensity_range,
    nrmse,
    psnr_db,
    sharpness,
    shifted_psnr_db,
    ssim,
)


def texture(shape: tuple[int, ...] = (24, 28), seed: int = 0) -> NDArray[np.float64]:
    """A smooth random image of mean 10 and standard deviation 2."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return 10 + 2 * (noise - noise.mean()) / noise.std()


@pytest.fixture
def truth() -> NDArray[np.float64]:
    return texture()


@pytest.fixture
def image(truth: NDArray) -> NDArray[np.float64]:
    return truth + np.random.default_rng(1).normal(0, 0.7, truth.shape)


# --- oracles -------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.floats(0.1, 3.0), st.floats(0.5, 50.0))
@settings(max_examples=20, deadline=None)
def test_psnr_and_nrmse_are_those_of_others(seed: int, noise: float, data_range: float) -> None:
    truth = texture(seed=seed)
    image = truth + np.random.default_rng(seed).normal(0, noise, truth.shape)
    found = psnr_db(image, truth, data_range=data_range)
    expected = oracle.peak_signal_noise_ratio(truth, image, data_range=data_range)
    assert found == pytest.approx(expected)
    of_monai = PSNRMetric(max_val=data_range)(
        *(torch.tensor(x[None, None]) for x in (image, truth))
    )
    assert found == pytest.approx(float(of_monai), rel=1e-5)
    expected = oracle.normalized_root_mse(truth, image, normalization="euclidean")
    assert nrmse(image, truth) == pytest.approx(expected)


def test_ssim_is_that_of_scikit_image_slice_by_slice() -> None:
    truth = texture((20, 24, 3))
    image = truth + np.random.default_rng(2).normal(0, 0.5, truth.shape)
    expected = [
        oracle.structural_similarity(
            truth[:, :, k],
            image[:, :, k],
            data_range=12.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1]
        for k in range(3)
    ]
    found = ssim(image, truth, data_range=12.0)
    assert found == pytest.approx(float(np.mean(expected)))
    mask = np.zeros(truth.shape, dtype=bool)
    mask[5:9, 4:20, 1:] = True
    inside = np.stack(expected, axis=2)[mask].mean()
    assert ssim(image, truth, mask, data_range=12.0) == pytest.approx(float(inside))


def test_correlation_is_pearsons(image: NDArray, truth: NDArray) -> None:
    expected = np.corrcoef(image.ravel(), truth.ravel())[0, 1]
    assert correlation(image, truth) == pytest.approx(expected)
    assert correlation(5 - 3 * image, truth) == pytest.approx(-expected)


def test_the_obvious_sharpness(image: NDArray, truth: NDArray) -> None:
    def slope(array: NDArray) -> float:
        rows, columns = np.gradient(array, 0.5, 2.0)
        return float(np.sqrt((rows**2 + columns**2).mean()))

    found = sharpness(image, truth, spacing=(0.5, 2.0))
    assert found == pytest.approx(slope(image) / slope(truth), rel=1e-5)
    assert sharpness(image, truth) != pytest.approx(found, rel=1e-3)


# --- what they mean ------------------------------------------------------------------------------


def test_equal_images_are_perfect(truth: NDArray) -> None:
    found = image_scores(truth, truth, data_range=5.0)
    assert found == ImageScores(1.0, math.inf, 1.0, 0.0, 1.0, 1.0, math.inf)


def test_a_blurred_image_is_less_sharp_and_noise_is_no_detail() -> None:
    big = texture((80, 80))
    blurred = ndimage.gaussian_filter(big, 2.0)
    assert sharpness(blurred, big) < 0.6
    assert detail(blurred, big) < 0.4
    noisy = blurred + np.random.default_rng(3).normal(0, 1.4, big.shape)
    assert sharpness(noisy, big) > 1.0  # it looks sharp
    assert detail(noisy, big) == pytest.approx(detail(blurred, big), abs=0.2)  # it is not
    assert detail(2 * big, big) == pytest.approx(2.0)


@pytest.mark.parametrize("shift", [(0.4, -0.7), (1.0, 1.0), (0.0, 0.25)])
def test_a_shift_is_compensated(truth: NDArray, shift: tuple[float, float]) -> None:
    moved = ndimage.shift(truth, shift, order=3, mode="nearest")
    plain = psnr_db(moved, truth, data_range=10.0)
    assert shifted_psnr_db(moved, truth, data_range=10.0) > plain + 12


def test_no_more_than_a_pixel_is_compensated(truth: NDArray) -> None:
    far = ndimage.shift(truth, (4.0, 0.0), order=3, mode="nearest")
    assert shifted_psnr_db(far, truth, data_range=10.0) < psnr_db(far, truth, data_range=10.0) + 6


def test_a_shift_that_does_not_help_is_not_taken(truth: NDArray) -> None:
    noise = truth + np.random.default_rng(4).normal(0, 1.0, truth.shape)
    plain = psnr_db(noise, truth, data_range=10.0)
    assert plain <= shifted_psnr_db(noise, truth, data_range=10.0) < plain + 0.5


def test_only_the_mask_counts(image: NDArray, truth: NDArray) -> None:
    mask = np.zeros(truth.shape, dtype=bool)
    mask[6:16, 6:20] = True
    spoilt = image.copy()
    spoilt[0] = np.nan
    spoilt[-1] = 1e6
    for score in (correlation, nrmse, sharpness):
        assert score(spoilt, truth, mask) == pytest.approx(score(image, truth, mask)), score
    found, expected = (psnr_db(one, truth, mask, data_range=8.0) for one in (spoilt, image))
    assert found == expected
    cut = (slice(6, 16), slice(6, 20))
    assert expected == pytest.approx(psnr_db(image[cut], truth[cut], data_range=8.0))


def test_the_data_range_is_between_percentiles(truth: NDArray) -> None:
    bright = truth.copy()
    bright[0, 0] = 1e5
    low, high = np.percentile(bright, [0.5, 99.5])
    assert intensity_range(bright) == pytest.approx(high - low)
    assert intensity_range(bright) < 20


# --- what cannot be scored -----------------------------------------------------------------------


def test_constant_images_have_defined_scores(truth: NDArray) -> None:
    flat = np.full_like(truth, 3.0)
    assert correlation(flat, truth) == 0.0
    assert correlation(truth, flat) == 0.0
    assert sharpness(flat, truth) == 0.0
    assert detail(flat, truth) == pytest.approx(0.0, abs=1e-9)
    assert ssim(flat, flat, data_range=1.0) == pytest.approx(1.0)
    assert psnr_db(flat, flat, data_range=1.0) == math.inf
    for refused in (intensity_range, lambda t: sharpness(t, t), lambda t: detail(t, t)):
        with pytest.raises(AnkleError, match=r"constant|no detail"):
            refused(flat)
    with pytest.raises(AnkleError, match="0 everywhere"):
        nrmse(truth, np.zeros_like(truth))


@pytest.mark.parametrize(
    "score",
    [
        correlation,
        nrmse,
        sharpness,
        detail,
        lambda *given: psnr_db(*given, data_range=1.0),
        lambda *given: ssim(*given, data_range=1.0),
        lambda *given: shifted_psnr_db(*given, data_range=1.0),
    ],
)
def test_empty_masks_nan_and_shapes_are_refused(score: object, truth: NDArray) -> None:
    with pytest.raises(AnkleError, match="mask is empty"):
        score(truth, truth, np.zeros(truth.shape, dtype=bool))  # type: ignore[operator]
    broken = truth.copy()
    broken[3, 3] = np.nan
    with pytest.raises(AnkleError, match="image holds 1 values"):
        score(broken, truth)  # type: ignore[operator]
    with pytest.raises(AnkleError, match="truth holds 1 values"):
        score(truth, broken)  # type: ignore[operator]
    with pytest.raises(AnkleError, match="one grid"):
        score(truth[1:], truth)  # type: ignore[operator]


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan, math.inf])
def test_a_data_range_must_be_positive(truth: NDArray, data_range: float) -> None:
    for score in (psnr_db, ssim, shifted_psnr_db):
        with pytest.raises(AnkleError, match="data range"):
            score(truth + 1, truth, data_range=data_range)


def test_other_refusals(truth: NDArray) -> None:
    with pytest.raises(AnkleError, match="11 x 11"):
        ssim(truth[:8], truth[:8], data_range=1.0)
    with pytest.raises(AnkleError, match="spacing"):
        sharpness(truth, truth, spacing=(1.0, 0.0))
    with pytest.raises(AnkleError, match="2 or 3"):
        correlation(truth[0], truth[0])
