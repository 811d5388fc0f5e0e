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
from ankle_lib.masking.foot import foot_mask, pooled_histogram, valley_threshold
from ankle_lib.masking.mask_images import (
    REPORT_VOXEL_MM,
    bone_weights,
    in_mm,
    mask_cohort,
)
from ankle_lib.volume import load, save
from tests.toy_ankle import ToyAnkle, toy_ankle


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


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


def test_scans_have_a_valley(ankle: ToyAnkle, subject: CleanSubject) -> None:
    static = pooled_histogram([load(subject.static).data])
    assert static.pooled.sum() + static.n_zero.sum() == ankle.static.data.size
    assert 100 < valley_threshold(static) < 500
