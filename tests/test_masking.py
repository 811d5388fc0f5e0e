from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.masking.foot import find_foot, foot_mask, pooled_histogram, valley_threshold
from ankle_lib.masking.mask_images import (
    BONE_RADIUS_VOXELS,
    REPORT_SIGMA_VOXELS,
    REPORT_VOXEL_MM,
    bone_weights,
    cohort_histograms,
    in_mm,
    mask_cohort,
)
from ankle_lib.volume import load, save
from tests.toy_ankle import ToyAnkle, toy_ankle


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


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


# --- bone weights --------------------------------------------------------------------------------


def ball_voxels(radius: int) -> np.ndarray:
    """Return the report's structuring element, a ball, as a bool array of 2 radius + 1 voxels."""
    steps = np.arange(-radius, radius + 1)
    squared = steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2
    return squared <= radius**2


def weights_in_voxels(mask: np.ndarray, radius: int, sigma: float) -> np.ndarray:
    """Do it slowly and obviously: dilate by a ball of voxels, blur the whole grid."""
    dilated = ndimage.binary_dilation(mask, ball_voxels(radius)).astype(np.float32)
    return ndimage.gaussian_filter(dilated, sigma, mode="constant") if sigma else dilated


@given(
    radius=st.integers(1, 5),
    sigma=st.sampled_from([0.0, 1.0, 2.0]),
    seed=st.integers(0, 100),
)
@settings(max_examples=25, deadline=None)
def test_weights_on_the_reports_grid_equal_its_recipe(radius: int, sigma: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(random.normal(size=(24, 20, 16)), 2.0) > 0.12
    ours = bone_weights(mask, REPORT_VOXEL_MM, in_mm(radius), in_mm(sigma))
    np.testing.assert_allclose(ours, weights_in_voxels(mask, radius, sigma), atol=2e-6)


def test_weights_are_largest_inside_and_fall_off(ankle: ToyAnkle) -> None:
    mask = ankle.masks["calcaneus"].data > 0
    size = ankle.static.voxel_size_mm
    soft = bone_weights(mask, size, 4.0, 3.0)
    assert soft.dtype == np.float32
    assert 0 <= soft.min()
    assert soft.max() <= 1
    distance = ndimage.distance_transform_edt(~mask, sampling=size)
    depth = ndimage.distance_transform_edt(mask, sampling=size)
    deep, near = soft[depth > 10].mean(), soft[(distance > 0) & (distance < 3)].mean()
    far = soft[(distance > 8) & (distance < 10)].mean()
    assert deep > 0.99 > near > far > 0
    assert soft[distance > 4 + 4 * 3 + 3].max() < 1e-5
    wider = bone_weights(mask, size, 8.0, 3.0)
    assert (wider >= soft - 1e-6).all()


def test_weights_keep_their_size_in_mm() -> None:
    coarse = np.zeros((24, 24, 24), dtype=bool)
    coarse[9:15, 9:15, 9:15] = True
    fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    volumes = [
        bone_weights(mask, (voxel,) * 3, 4.0, 2.0).sum() * voxel**3
        for mask, voxel in ((coarse, 2.0), (fine, 1.0))
    ]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.15)


def test_weights_of_nothing_and_without_ball() -> None:
    empty = np.zeros((5, 5, 5), dtype=bool)
    assert not bone_weights(empty, (1, 1, 1), 2.0, 2.0).any()
    point = empty.copy()
    point[2, 2, 2] = True
    assert bone_weights(point, (1, 1, 1), 0.0, 0.0).sum() == 1
    assert bone_weights(point, (1, 1, 1), (1.0, 0.0, 0.0), 0.0).sum() == 3
    with pytest.raises(AnkleError, match="must not be negative"):
        bone_weights(point, (1, 1, 1), 0.0, -1.0)


def test_a_negative_radius_erodes() -> None:
    mask = np.zeros((11, 11, 11), dtype=bool)
    mask[2:9, 2:9, 2:9] = True
    eroded = bone_weights(mask, (1, 1, 1), -1.0, 0.0)
    assert eroded.sum() == 5**3
    flat = bone_weights(mask, (1, 1, 2), (-1.0, -1.0, -2.0), 0.0)
    np.testing.assert_array_equal(flat, eroded)
    assert not bone_weights(mask, (1, 1, 1), -4.0, 0.0).any()
    with pytest.raises(AnkleError, match="grow and shrink"):
        bone_weights(mask, (1, 1, 1), (1.0, -1.0, 0.0), 0.0)


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def subject(ankle: ToyAnkle, tmp_path: Path) -> CleanSubject:
    folder = tmp_path / "clean"
    static = save(folder / "static.nii.gz", ankle.static.data, ankle.static.affine)
    masks = {
        bone: save(folder / f"{bone}.nii.gz", mask.data, mask.affine)
        for bone, mask in ankle.masks.items()
    }
    frames = [
        save(folder / f"{i}.nii.gz", ankle.sequence.frame(i).data, ankle.sequence.affine, scale=0.5)
        for i in range(3)
    ]
    return CleanSubject("T01", "control", "left", static, masks, {"active_run-01": frames})


def test_mask_cohort(ankle: ToyAnkle, subject: CleanSubject, tmp_path: Path) -> None:
    truth, out = tmp_path / "truth", tmp_path / "out"
    save(truth / "T01" / "static_dseg.nii.gz", 4 * ankle.foot.data.astype("u1"), ankle.foot.affine)
    foot_masks, _ = mask_cohort([subject], out, truth=truth, compare_with=(150.0, 500.0))

    table = pd.read_csv(out / "tables" / "foot_masks.csv")
    assert list(table.columns[:4]) == ["subject", "image", "threshold", "foot_fraction"]
    assert table["image"].tolist() == ["static"] + [
        f"task-active_run-01_frame-{i:02d}" for i in range(3)
    ]
    assert table["dice_truth"].notna().tolist() == [True, False, False, False]
    assert table["other_dice_truth"][0] > table["dice_truth"][0] > 0.85
    assert table["other_threshold"].tolist() == [150, 500, 500, 500]
    assert len(foot_masks) == 4

    volumes = pd.read_csv(out / "tables" / "bone_volumes.csv")
    assert list(volumes.columns[:3]) == ["subject", "bone", "volume_cm3"]
    voxel_cm3 = np.prod(ankle.static.voxel_size_mm) / 1000
    counted = [np.count_nonzero(mask.data) * voxel_cm3 for mask in ankle.masks.values()]
    assert volumes["volume_cm3"].tolist() == pytest.approx(counted, rel=1e-5)

    folder = out / "sub-T01"
    foot = load(folder / "sub-T01_static_desc-foot_mask.nii.gz")
    assert np.array_equal(foot.data > 0, foot_mask(ankle.static.data))
    frame = load(folder / "sub-T01_task-active_run-01_frame-02_desc-foot_mask.nii.gz")
    assert frame.shape == ankle.sequence.shape
    assert frame.data.mean() == pytest.approx(table["foot_fraction"][3], rel=1e-5)
    for bone in ankle.masks:
        saved = load(folder / f"sub-T01_static_label-{bone}_desc-weights.nii.gz")
        expected = bone_weights(
            ankle.masks[bone].data > 0,
            ankle.static.voxel_size_mm,
            in_mm(BONE_RADIUS_VOXELS[bone]),
            in_mm(REPORT_SIGMA_VOXELS),
        )
        np.testing.assert_allclose(saved.data, expected, atol=1e-4)


def test_mask_cohort_goes_on_where_it_stopped(subject: CleanSubject, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mask_cohort([subject], out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    again, _ = mask_cohort([subject], out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before
    assert len(again) == 4
    mask_cohort([subject], out, static_threshold=300)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} != before


def test_a_cluster_masks_the_subjects(
    subject: CleanSubject, tmp_path: Path, sent_to_cluster: list[CleanSubject]
) -> None:
    foot_masks, _ = mask_cohort([subject], tmp_path / "out")
    assert [one.code for one in sent_to_cluster] == ["T01"]
    assert len(foot_masks) == 4


def test_cohort_histograms(ankle: ToyAnkle, subject: CleanSubject) -> None:
    static, frames = cohort_histograms([subject])
    assert static.counts.shape[0] == 1
    assert frames.counts.shape[0] == 3
    assert static.pooled.sum() + static.n_zero.sum() == ankle.static.data.size
    assert 100 < valley_threshold(static) < 500


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
