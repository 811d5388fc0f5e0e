"""Scores equal those of other programs, and what cannot be scored is refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import PSNRMetric
from numpy.typing import NDArray
from scipy import ndimage, stats
from skimage import metrics as oracle

from ankle_lib.files import AnkleError
from ankle_lib.metrics import (
    ImageScores,
    Interval,
    bootstrap_interval,
    dice,
    image_scores,
    intensity_range,
    mask_scores,
    over_subjects,
)

VOXEL_MM = (0.5, 0.7, 2.0)


def blob(seed: int, shape: tuple[int, ...] = (24, 20, 9)) -> NDArray[np.bool_]:
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 1.5) > 0.05


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> NDArray[np.bool_]:
    steps = np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)
    squared = sum((step - c) ** 2 for step, c in zip(steps, centre, strict=True))
    return np.asarray(squared <= radius**2)


def as_monai(mask: NDArray[np.bool_]) -> torch.Tensor:
    return torch.from_numpy(mask[None, None].astype(np.float32))


# --- Dice ----------------------------------------------------------------------------------------


def test_dice_by_hand() -> None:
    first = np.array([1, 1, 0, 0], dtype=bool)
    second = np.array([0, 1, 1, 1], dtype=bool)
    assert dice(first, second) == pytest.approx(2 * 1 / (2 + 3))
    assert dice(first, first) == 1
    assert dice(first, ~first) == 0
    assert dice(first, np.zeros(4, bool)) == 0
    assert math.isnan(dice(np.zeros(4, bool), np.zeros(4, bool)))
    with pytest.raises(AnkleError, match=r"\(4,\) and \(1, 4\)"):
        dice(first, second[None])


# --- distances -----------------------------------------------------------------------------------


def brute_force(
    first: NDArray[np.bool_], second: NDArray[np.bool_], voxel: tuple[float, ...]
) -> NDArray[np.float64]:
    """Distances from first to second, by comparing every pair of surface voxels."""

    def surface(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        padded = np.pad(mask, 1)
        neighbours = [np.roll(padded, s, axis) for axis in range(mask.ndim) for s in (-1, 1)]
        edge = padded & ~np.all(neighbours, axis=0)
        return (np.argwhere(edge) - 1) * np.asarray(voxel)

    steps = surface(first)[:, None] - surface(second)[None]
    return np.asarray(np.sqrt((steps**2).sum(axis=2)).min(axis=1))


@given(seed=st.integers(0, 10_000), flat=st.booleans())
@settings(max_examples=25, deadline=None)
def test_distances_equal_brute_force(seed: int, flat: bool) -> None:
    shape = (13, 11) if flat else (9, 8, 6)
    voxel = VOXEL_MM[: len(shape)]
    first, second = blob(seed, shape), blob(seed + 1, shape)
    first[0, 0] = second[-1, -1] = True  # neither is empty, both reach the border
    distances = brute_force(first, second, voxel), brute_force(second, first, voxel)
    found = mask_scores(first, second, voxel)
    assert found.hd95_mm == pytest.approx(max(np.percentile(one, 95) for one in distances))
    assert found.assd_mm == pytest.approx(np.concatenate(distances).mean())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("voxel", [VOXEL_MM, (1.0, 1.0, 1.0)])
def test_summaries_equal_monais(seed: int, voxel: tuple[float, ...]) -> None:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    first, second = blob(seed), blob(seed + 50)
    hausdorff = compute_hausdorff_distance(
        as_monai(first), as_monai(second), include_background=True, percentile=95, spacing=voxel
    )
    average = compute_average_surface_distance(
        as_monai(first), as_monai(second), include_background=True, symmetric=True, spacing=voxel
    )
    assert mask_scores(first, second, voxel).hd95_mm == pytest.approx(float(hausdorff), rel=1e-5)
    assert mask_scores(first, second, voxel).assd_mm == pytest.approx(float(average), rel=1e-5)


def test_a_shift_along_each_axis_is_measured_in_mm() -> None:
    cube = np.zeros((20, 20, 20), bool)
    cube[5:12, 5:12, 5:12] = True
    for axis, voxel in enumerate(VOXEL_MM):
        shifted = np.roll(cube, 3, axis)
        hd95, assd = (
            mask_scores(cube, shifted, VOXEL_MM).hd95_mm,
            mask_scores(cube, shifted, VOXEL_MM).assd_mm,
        )
        assert hd95 == pytest.approx(3 * voxel)
        assert 0 < assd < hd95


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_distances_are_symmetric_and_zero_for_equal_masks(seed: int) -> None:
    first, second = blob(seed), blob(seed + 1)
    assert (
        mask_scores(first, second, VOXEL_MM).hd95_mm == mask_scores(second, first, VOXEL_MM).hd95_mm
    )
    assert mask_scores(first, second, VOXEL_MM).assd_mm == pytest.approx(
        mask_scores(second, first, VOXEL_MM).assd_mm
    )
    assert mask_scores(first, first, VOXEL_MM) == (1.0, 0.0, 0.0)


def test_a_missed_bone_is_penalised() -> None:
    bone = ball((30, 20, 10), (20, 10, 5), 4)
    nothing = np.zeros_like(bone)
    diagonal = math.hypot(30 * 0.5, 20 * 0.7, 10 * 2.0)
    for pair in ((bone, nothing), (nothing, bone)):
        assert mask_scores(*pair, VOXEL_MM) == (
            0.0,
            pytest.approx(diagonal),
            pytest.approx(diagonal),
        )
    corner = np.zeros_like(bone)
    corner[0, 0, 0] = True  # one wrong voxel is better than none, never worse
    assert mask_scores(corner, bone, VOXEL_MM).hd95_mm < diagonal
    assert mask_scores(corner, bone, VOXEL_MM).assd_mm < diagonal
    assert all(map(math.isnan, mask_scores(nothing, nothing, VOXEL_MM)))


def test_missing_a_bone_never_improves_the_mean() -> None:
    truth = [ball((20, 20, 10), (10, 10, 5), 4) for _ in range(5)]
    poor = [np.roll(mask, 2, 0) for mask in truth]
    missed = [*poor[:4], np.zeros_like(poor[4])]
    subjects = list("abcde")
    means = []
    for predictions in (poor, missed):
        scores = [mask_scores(p, t, VOXEL_MM) for p, t in zip(predictions, truth, strict=True)]
        columns = zip(*scores, strict=True)
        means.append([bootstrap_interval(column, subjects).mean for column in columns])
    assert means[1][0] < means[0][0]
    assert means[1][1] > means[0][1]
    assert means[1][2] > means[0][2]


def test_masks_of_two_shapes() -> None:
    mask = blob(0)
    with pytest.raises(AnkleError, match=r"\(24, 20, 9\) and \(20, 9\)"):
        mask_scores(mask, mask[0], VOXEL_MM)


# --- intervals -----------------------------------------------------------------------------------


def test_interval_equals_scipys() -> None:
    means = np.random.default_rng(5).normal(0.8, 0.1, 9)
    found = bootstrap_interval(means, [f"E{n:02}" for n in range(9)])
    expected = stats.bootstrap(
        (means,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found.mean == pytest.approx(means.mean())
    assert found.low == pytest.approx(expected.low, abs=0.005)
    assert found.high == pytest.approx(expected.high, abs=0.005)


def test_subjects_weigh_the_same_and_are_drawn_whole() -> None:
    values = [1.0] * 100 + [0.0] * 2
    subjects = ["many"] * 100 + ["few"] * 2
    assert bootstrap_interval(values, subjects) == (0.5, 0.0, 1.0)
    # more patches of the same subjects are no more evidence
    assert bootstrap_interval(values * 5, subjects * 5) == bootstrap_interval(values, subjects)


def test_intervals_can_be_repeated_and_ignore_order() -> None:
    values = np.random.default_rng(0).normal(size=12)
    subjects = [f"T{n % 5}" for n in range(12)]
    interval = bootstrap_interval(values, subjects)
    assert interval == bootstrap_interval(values, subjects)
    np.testing.assert_allclose(bootstrap_interval(values[::-1], subjects[::-1]), interval)


def test_what_was_not_there_to_measure_is_left_out() -> None:
    with_gaps = [0.9, math.nan, 0.7, 0.5, math.nan]
    assert bootstrap_interval(with_gaps, ["a", "a", "b", "c", "d"]) == bootstrap_interval(
        [0.9, 0.7, 0.5], ["a", "b", "c"]
    )
    single = bootstrap_interval([0.9, 0.8], ["a", "a"])
    assert single.mean == pytest.approx(0.85)
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    assert all(map(math.isnan, bootstrap_interval([math.nan], ["a"])))
    assert isinstance(bootstrap_interval([], []), Interval)
    with pytest.raises(AnkleError, match="3 subjects"):
        bootstrap_interval([1.0, 2.0], ["a", "b", "c"])
    with pytest.raises(AnkleError, match="infinite"):
        bootstrap_interval([1.0, math.inf], ["a", "b"])


def test_tables_average_seeds_before_subjects() -> None:
    table = pd.DataFrame(
        {
            "subject": ["E01", "E01", "E02", "E02"],
            "bone": "talus",
            "dice": [0.8, 0.6, 0.9, 0.9],
            "hd95_mm": [2.0, 4.0, 1.0, 1.0],
        }
    )
    (row,) = over_subjects(table, ["bone"], ["dice", "hd95_mm"]).to_dict("records")
    assert list(row)[:4] == ["bone", "dice_mean", "dice_low", "dice_high"]
    assert row["dice_mean"] == pytest.approx(0.8)
    assert row["hd95_mm_mean"] == pytest.approx(2.0)
    assert 0.7 <= row["dice_low"] < 0.8 < row["dice_high"] <= 0.9


# --- images ---


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


def scores(
    image: NDArray,
    truth: NDArray,
    mask: NDArray | None = None,
    data_range: float = 10.0,
    spacing: tuple[float, ...] | None = None,
) -> ImageScores:
    return image_scores(image, truth, mask, data_range=data_range, spacing=spacing)


# --- oracles -------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.floats(0.1, 3.0), st.floats(0.5, 50.0))
@settings(max_examples=20, deadline=None)
def test_psnr_and_nrmse_are_those_of_others(seed: int, noise: float, data_range: float) -> None:
    truth = texture(seed=seed)
    image = truth + np.random.default_rng(seed).normal(0, noise, truth.shape)
    found = scores(image, truth, data_range=data_range).psnr_db
    expected = oracle.peak_signal_noise_ratio(truth, image, data_range=data_range)
    assert found == pytest.approx(expected)
    of_monai = PSNRMetric(max_val=data_range)(
        *(torch.tensor(x[None, None]) for x in (image, truth))
    )
    assert found == pytest.approx(float(of_monai), rel=1e-5)
    expected = oracle.normalized_root_mse(truth, image, normalization="euclidean")
    assert scores(image, truth).nrmse == pytest.approx(expected)


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
    found = scores(image, truth, data_range=12.0).ssim
    assert found == pytest.approx(float(np.mean(expected)))
    mask = np.zeros(truth.shape, dtype=bool)
    mask[5:9, 4:20, 1:] = True
    inside = np.stack(expected, axis=2)[mask].mean()
    assert scores(image, truth, mask, data_range=12.0).ssim == pytest.approx(float(inside))


def test_correlation_is_pearsons(image: NDArray, truth: NDArray) -> None:
    expected = np.corrcoef(image.ravel(), truth.ravel())[0, 1]
    assert scores(image, truth).correlation == pytest.approx(expected)
    assert scores(5 - 3 * image, truth).correlation == pytest.approx(-expected)


def test_the_obvious_sharpness(image: NDArray, truth: NDArray) -> None:
    def slope(array: NDArray) -> float:
        rows, columns = np.gradient(array, 0.5, 2.0)
        return float(np.sqrt((rows**2 + columns**2).mean()))

    found = scores(image, truth, spacing=(0.5, 2.0)).sharpness
    assert found == pytest.approx(slope(image) / slope(truth), rel=1e-5)
    assert scores(image, truth).sharpness != pytest.approx(found, rel=1e-3)


# --- what they mean ------------------------------------------------------------------------------


def test_equal_images_are_perfect(truth: NDArray) -> None:
    found = image_scores(truth, truth, data_range=5.0)
    assert found == ImageScores(1.0, math.inf, 1.0, 0.0, 1.0, 1.0, math.inf)


def test_a_blurred_image_is_less_sharp_and_noise_is_no_detail() -> None:
    big = texture((80, 80))
    blurred = ndimage.gaussian_filter(big, 2.0)
    assert scores(blurred, big).sharpness < 0.6
    assert scores(blurred, big).detail < 0.4
    noisy = blurred + np.random.default_rng(3).normal(0, 1.4, big.shape)
    # it looks sharp, but is not
    assert scores(noisy, big).sharpness > 1.0
    assert scores(noisy, big).detail == pytest.approx(scores(blurred, big).detail, abs=0.2)
    assert scores(2 * big, big).detail == pytest.approx(2.0)


@pytest.mark.parametrize("shift", [(0.4, -0.7), (1.0, 1.0), (0.0, 0.25)])
def test_a_shift_is_compensated(truth: NDArray, shift: tuple[float, float]) -> None:
    moved = ndimage.shift(truth, shift, order=3, mode="nearest")
    plain = scores(moved, truth).psnr_db
    assert scores(moved, truth).shifted_psnr_db > plain + 12


def test_no_more_than_a_pixel_is_compensated(truth: NDArray) -> None:
    far = ndimage.shift(truth, (4.0, 0.0), order=3, mode="nearest")
    found = scores(far, truth)
    assert found.shifted_psnr_db < found.psnr_db + 6


def test_a_shift_that_does_not_help_is_not_taken(truth: NDArray) -> None:
    noise = truth + np.random.default_rng(4).normal(0, 1.0, truth.shape)
    plain = scores(noise, truth).psnr_db
    assert plain <= scores(noise, truth).shifted_psnr_db < plain + 0.5


def test_only_the_mask_counts(image: NDArray, truth: NDArray) -> None:
    mask = np.zeros(truth.shape, dtype=bool)
    mask[6:16, 6:20] = True
    spoilt = image.copy()
    spoilt[0] = np.nan
    spoilt[-1] = 1e6
    found, expected = scores(spoilt, truth, mask), scores(image, truth, mask)
    for name in ("correlation", "psnr_db", "nrmse", "sharpness"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name
    error = np.mean((image - truth)[mask] ** 2)
    assert expected.psnr_db == pytest.approx(10 * np.log10(100 / error))


def test_the_data_range_is_between_percentiles(truth: NDArray) -> None:
    bright = truth.copy()
    bright[0, 0] = 1e5
    low, high = np.percentile(bright, [0.5, 99.5])
    assert intensity_range(bright) == pytest.approx(high - low)
    assert intensity_range(bright) < 20


# --- what cannot be scored -----------------------------------------------------------------------


def test_constant_images_have_defined_scores(truth: NDArray) -> None:
    flat = np.full_like(truth, 3.0)
    found = scores(flat, truth)
    assert (found.correlation, found.sharpness) == (0.0, 0.0)
    assert found.detail == pytest.approx(0.0, abs=1e-9)
    for refused in (intensity_range, lambda one: scores(truth, one)):
        with pytest.raises(AnkleError, match="constant"):
            refused(flat)
    with pytest.raises(AnkleError, match="0 everywhere"):
        scores(truth, np.zeros_like(truth))


def test_empty_masks_nan_and_shapes_are_refused(truth: NDArray) -> None:
    with pytest.raises(AnkleError, match="mask is empty"):
        scores(truth, truth, np.zeros(truth.shape, dtype=bool))
    broken = truth.copy()
    broken[3, 3] = np.nan
    with pytest.raises(AnkleError, match="image holds 1 values"):
        scores(broken, truth)
    with pytest.raises(AnkleError, match="truth holds 1 values"):
        scores(truth, broken)
    with pytest.raises(AnkleError, match="one grid"):
        scores(truth[1:], truth)


# --- slices that others lie between ---


def test_nothing_is_compared_across_slices_that_were_left_out() -> None:
    """Every sixth slice scores as these slices do alone, one by one."""
    truth = texture((40, 44, 13))
    image = ndimage.gaussian_filter(truth, 1.0)
    step = (0.5, 0.5, math.inf)
    some = (slice(None), slice(None), slice(0, None, 6))
    apart = [
        scores(image[:, :, k], truth[:, :, k]).detail * float(np.sum(fine(truth[:, :, k]) ** 2))
        for k in (0, 6, 12)
    ]
    whole = sum(float(np.sum(fine(truth[:, :, k]) ** 2)) for k in (0, 6, 12))
    found = scores(image[some], truth[some], spacing=step).detail
    assert found == pytest.approx(sum(apart) / whole)
    slopes = [sum(float(np.sum(slope**2)) for slope in np.gradient(one[some], axis=(0, 1)))
              for one in (image, truth)]  # fmt: skip
    sharp = scores(image[some], truth[some], spacing=step).sharpness
    assert sharp == pytest.approx(math.sqrt(slopes[0] / slopes[1]), rel=1e-4)
    # neighbours that are none look sharp
    assert found < scores(image[some], truth[some]).detail - 0.1
    # a shift within the slices is found, and none across them
    shifted = ndimage.shift(truth, (0.6, -0.4, 0), order=3, mode="nearest")[some]
    plain = scores(shifted, truth[some]).psnr_db
    assert scores(shifted, truth[some], spacing=step).shifted_psnr_db > plain + 12
    across = truth[:, :, 1:13:6], truth[:, :, 0:12:6]
    plain = scores(*across).psnr_db
    gain = scores(*across, spacing=step).shifted_psnr_db - plain
    assert gain < scores(*across).shifted_psnr_db - plain


def fine(image: NDArray) -> NDArray:
    return image - ndimage.gaussian_filter(image, 1.0)
