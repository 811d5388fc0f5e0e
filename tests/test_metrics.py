"""Scores equal those of other programs, and what cannot be scored is refused."""

from __future__ import annotations

import math

import numpy as np
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
    correlation,
    detail,
    dice,
    image_scores,
    intensity_range,
    mask_scores,
    nrmse,
    patch_dice,
    psnr_db,
    sharpness,
    shifted_psnr_db,
    ssim,
    surface_distances,
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


def test_patch_dice_counts_two_empty_patches_as_perfect() -> None:
    first = np.zeros((4, 8, 8), bool)
    second = np.zeros((4, 8, 8), bool)
    first[1:3, :4] = True
    second[2, 2:6] = True
    second[3, 0, 0] = True
    assert patch_dice(first, second).tolist() == [1.0, 0.0, 0.5, 0.0]
    # the volume that these patches tile does not agree half as well
    assert dice(first, second) == pytest.approx(2 * 16 / (64 + 33))
    with pytest.raises(AnkleError, match="Dice of patches"):
        patch_dice(first, second[:2])


def test_patch_dice_equals_monais() -> None:
    from monai.metrics import compute_dice

    first = np.stack([blob(seed, (16, 16)) for seed in range(6)] + [np.zeros((16, 16), bool)])
    second = np.stack([blob(seed, (16, 16)) for seed in range(10, 16)] + [np.zeros((16, 16), bool)])
    expected = compute_dice(
        torch.from_numpy(first[:, None]).float(),
        torch.from_numpy(second[:, None]).float(),
        ignore_empty=False,
    )
    np.testing.assert_allclose(patch_dice(first, second), expected[:, 0], rtol=1e-6)


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
    found = surface_distances(first, second, voxel)
    np.testing.assert_allclose(found[0], brute_force(first, second, voxel), atol=1e-9)
    np.testing.assert_allclose(found[1], brute_force(second, first, voxel), atol=1e-9)


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


def test_unusable_masks_and_voxels() -> None:
    mask = blob(0)
    with pytest.raises(AnkleError, match=r"\(24, 20, 9\) and \(20, 9\)"):
        mask_scores(mask, mask[0], VOXEL_MM)
    for voxel in [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, np.nan), 1.0]:
        with pytest.raises(AnkleError, match="voxel size"):
            mask_scores(mask, mask, voxel)  # type: ignore[arg-type]


# --- intervals -----------------------------------------------------------------------------------


def test_interval_equals_scipys() -> None:
    means = np.random.default_rng(5).normal(0.8, 0.1, 9)
    found = bootstrap_interval(means, [f"E{n:02}" for n in range(9)], n=20_000)
    expected = stats.bootstrap(
        (means,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found.mean == pytest.approx(means.mean())
    assert found.low == pytest.approx(expected.low, abs=0.003)
    assert found.high == pytest.approx(expected.high, abs=0.003)
    narrow = bootstrap_interval(means, [f"E{n:02}" for n in range(9)], level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_subjects_weigh_the_same_and_are_drawn_whole() -> None:
    values = [1.0] * 100 + [0.0] * 2
    subjects = ["many"] * 100 + ["few"] * 2
    assert bootstrap_interval(values, subjects) == (0.5, 0.0, 1.0)
    # more patches of the same subjects are no more evidence
    assert bootstrap_interval(values * 5, subjects * 5) == bootstrap_interval(values, subjects)


def test_intervals_can_be_repeated_and_ignore_order() -> None:
    values = np.random.default_rng(0).normal(size=12)
    subjects = [f"T{n % 5}" for n in range(12)]
    interval = bootstrap_interval(values, subjects, seed=7)
    assert interval == bootstrap_interval(values, subjects, seed=7)
    assert interval != bootstrap_interval(values, subjects, seed=8)
    np.testing.assert_allclose(bootstrap_interval(values[::-1], subjects[::-1], seed=7), interval)


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


# --- slices that others lie between ---


def test_nothing_is_compared_across_slices_that_were_left_out() -> None:
    """Every sixth slice scores as these slices do alone, one by one."""
    truth = texture((40, 44, 13))
    image = ndimage.gaussian_filter(truth, 1.0)
    step = (0.5, 0.5, math.inf)
    some = (slice(None), slice(None), slice(0, None, 6))
    apart = [
        detail(image[:, :, k], truth[:, :, k]) * float(np.sum(fine(truth[:, :, k]) ** 2))
        for k in (0, 6, 12)
    ]
    whole = sum(float(np.sum(fine(truth[:, :, k]) ** 2)) for k in (0, 6, 12))
    found = image_scores(image[some], truth[some], data_range=10.0, spacing=step).detail
    assert found == pytest.approx(sum(apart) / whole)
    assert found < detail(image[some], truth[some]) - 0.1  # neighbours that are none look sharp
    # a shift within the slices is found, and none across them
    shifted = ndimage.shift(truth, (0.6, -0.4, 0), order=3, mode="nearest")[some]
    plain = psnr_db(shifted, truth[some], data_range=10.0)
    assert shifted_psnr_db(shifted, truth[some], data_range=10.0, spacing=step) > plain + 12
    across = truth[:, :, 1:13:6], truth[:, :, 0:12:6]
    plain = psnr_db(*across, data_range=10.0)
    gain = shifted_psnr_db(*across, data_range=10.0, spacing=step) - plain
    assert gain < shifted_psnr_db(*across, data_range=10.0) - plain


def fine(image: NDArray) -> NDArray:
    return image - ndimage.gaussian_filter(image, 1.0)
