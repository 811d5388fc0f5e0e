from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, stats

from ankle_lib.files import AnkleError
from ankle_lib.metrics import (
    Interval,
    assd_mm,
    bootstrap_interval,
    dice,
    hd95_mm,
    mask_scores,
    patch_dice,
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
    assert hd95_mm(first, second, voxel) == pytest.approx(float(hausdorff), rel=1e-5)
    assert assd_mm(first, second, voxel) == pytest.approx(float(average), rel=1e-5)


def test_a_shift_along_each_axis_is_measured_in_mm() -> None:
    cube = np.zeros((20, 20, 20), bool)
    cube[5:12, 5:12, 5:12] = True
    for axis, voxel in enumerate(VOXEL_MM):
        shifted = np.roll(cube, 3, axis)
        hd95, assd = hd95_mm(cube, shifted, VOXEL_MM), assd_mm(cube, shifted, VOXEL_MM)
        assert hd95 == pytest.approx(3 * voxel)
        assert 0 < assd < hd95


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_distances_are_symmetric_and_zero_for_equal_masks(seed: int) -> None:
    first, second = blob(seed), blob(seed + 1)
    assert hd95_mm(first, second, VOXEL_MM) == hd95_mm(second, first, VOXEL_MM)
    assert assd_mm(first, second, VOXEL_MM) == pytest.approx(assd_mm(second, first, VOXEL_MM))
    assert mask_scores(first, first, VOXEL_MM) == (1.0, 0.0, 0.0)
    assert mask_scores(first, second, VOXEL_MM) == (
        dice(first, second),
        hd95_mm(first, second, VOXEL_MM),
        assd_mm(first, second, VOXEL_MM),
    )


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
    assert hd95_mm(corner, bone, VOXEL_MM) < diagonal
    assert assd_mm(corner, bone, VOXEL_MM) < diagonal
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
        hd95_mm(mask, mask[0], VOXEL_MM)
    for voxel in [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, np.nan), 1.0]:
        with pytest.raises(AnkleError, match="voxel size"):
            assd_mm(mask, mask, voxel)  # type: ignore[arg-type]


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
