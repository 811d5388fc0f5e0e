from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ankle_lib.files import AnkleError
from ankle_lib.stroke.challenge import (
    ATLAS_SCORES,
    SIZE_BINS,
    lesion_scores,
    lesions_found,
    score_submission,
    size_bin,
    surface_dice,
    without_specks,
)
from ankle_lib.volume import save

CUBE = (1.0, 1.0, 1.0)


def mask(*boxes: tuple[slice, slice, slice], shape=(20, 20, 20)) -> np.ndarray:
    made = np.zeros(shape, dtype=bool)
    for box in boxes:
        made[box] = True
    return made


def box(x: int, y: int, z: int, side: int = 3) -> tuple[slice, slice, slice]:
    return tuple(slice(start, start + side) for start in (x, y, z))


def test_the_four_measures_of_masks_made_by_hand() -> None:
    truth = mask(box(1, 1, 1), box(10, 10, 10))  # 27 voxels each
    found = mask(box(2, 1, 1), box(1, 15, 15), box(15, 1, 1, 2))  # one hit, two false
    scores = lesion_scores(found, truth, (1.0, 1.0, 2.0))
    assert scores.dice == pytest.approx(2 * 18 / (27 + 27 + 8 + 54))
    assert scores.lesion_f1 == pytest.approx(1 / (1 + (2 + 1) / 2))
    assert scores.lesion_count_difference == 1
    assert scores.volume_difference_mm3 == pytest.approx(2 * (62 - 54))
    assert scores.volume_error == pytest.approx(62 / 54 - 1)


def test_two_lesions_touched_by_one_are_both_found() -> None:
    truth = mask(box(1, 1, 1), box(8, 1, 1))
    found = mask((slice(1, 12), slice(1, 2), slice(1, 2)))
    assert lesion_scores(found, truth, CUBE).lesion_f1 == 1
    assert lesion_scores(found, truth, CUBE).lesion_count_difference == 1
    # the other way round one lesion is true, and both found ones touch it
    assert lesion_scores(truth, found, CUBE).lesion_f1 == 1


def test_corners_join_lesions_for_the_f1_and_not_for_the_count() -> None:
    corner = mask(box(2, 2, 2), box(5, 5, 5))
    apart = mask(box(2, 2, 2), box(9, 9, 9))
    assert lesion_scores(corner, mask(box(2, 2, 2)), CUBE).lesion_f1 == 1
    assert lesion_scores(corner, mask(box(2, 2, 2)), CUBE).lesion_count_difference == 1
    assert lesion_scores(apart, mask(box(2, 2, 2)), CUBE).lesion_f1 == pytest.approx(2 / 3)


def test_empty_masks_have_a_rule() -> None:
    nothing, something = mask(), mask(box(1, 1, 1))
    both = lesion_scores(nothing, nothing, CUBE)
    assert (both.dice, both.lesion_f1, both.lesion_count_difference) == (1, 1, 0)
    assert both.volume_difference_mm3 == 0
    assert all(math.isnan(x) for x in (both.hd95_mm, both.assd_mm, both.surface_dice))
    assert math.isnan(both.volume_error)
    for found, truth in ((nothing, something), (something, nothing)):
        one = lesion_scores(found, truth, CUBE)
        assert (one.dice, one.lesion_f1, one.lesion_count_difference) == (0, 0, 1)
        assert (one.volume_difference_mm3, one.surface_dice) == (27, 0)
        assert one.hd95_mm == pytest.approx(math.sqrt(3) * 20)


def test_surfaces_within_the_tolerance_agree() -> None:
    truth = mask(box(4, 4, 4, 6))
    assert surface_dice(np.roll(truth, 3, 0), truth, CUBE) == 1
    assert 0 < surface_dice(np.roll(truth, 3, 0), truth, (2.0, 1.0, 1.0)) < 1
    assert surface_dice(np.roll(truth, 8, 0), truth, (2.0, 1.0, 1.0)) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_f1_agrees_with_a_loop_over_lesions(seed: int) -> None:
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    found, truth = (rng.random((7, 7, 7)) > 0.93 for _ in range(2))
    near = np.ones((3, 3, 3))
    true_lesions, n_true = ndimage.label(truth, near)
    found_lesions, n_found = ndimage.label(found, near)
    hits = sum((found & (true_lesions == n)).any() for n in range(1, n_true + 1))
    false = sum(not (truth & (found_lesions == n)).any() for n in range(1, n_found + 1))
    missed = n_true - hits
    expected = hits / (hits + (false + missed) / 2) if hits + false + missed else 1.0
    assert lesion_scores(found, truth, CUBE).lesion_f1 == pytest.approx(expected)


def test_lesions_have_a_size_and_are_found_or_not() -> None:
    truth = mask(box(0, 0, 0, 8), box(12, 12, 12, 12), shape=(30, 30, 30))
    found = mask(box(0, 0, 0, 4), shape=(30, 30, 30))
    table = lesions_found(found, truth, CUBE)
    assert table["volume_ml"].tolist() == [0.512, 1.728]
    assert table["size"].tolist() == ["below 1 ml", "1 to 5 ml"]
    assert table["found"].tolist() == [1, 0]
    assert table["found_part"].tolist() == [0.125, 0]
    assert lesions_found(found, mask(shape=found.shape), CUBE).empty
    assert SIZE_BINS[-1] == size_bin(20) == size_bin(400) == "20 ml and more"


def test_specks_go_and_the_rest_stays() -> None:
    whole = mask(box(0, 0, 0, 4), box(10, 10, 10, 2))
    assert (without_specks(whole, 0.05, CUBE) == mask(box(0, 0, 0, 4))).all()
    assert (without_specks(whole, 0.008, CUBE) == whole).all()
    assert not without_specks(mask(), 0.1, CUBE).any()


# --- a folder ---

NAME = "sub-{}_ses-1_space-MNI152NLin2009aSym_{}_mask.nii.gz"


def tree(folder: Path, masks: dict[str, np.ndarray], what: str, affine=None) -> Path:
    for code, data in masks.items():
        place = folder / f"sub-{code}" / "ses-1" / "anat" / NAME.format(code, what)
        place.parent.mkdir(parents=True)
        save(place, data, np.eye(4) if affine is None else affine)
    return folder


def test_a_folder_is_scored_as_its_masks_are(tmp_path: Path) -> None:
    masks = {"r001s001": mask(box(1, 1, 1)), "r001s002": mask(box(8, 8, 8))}
    truth = tree(tmp_path / "truth", masks, "label-L_desc-T1lesion")
    shifted = {code: np.roll(one, 1, 0).astype(np.uint8) for code, one in masks.items()}
    submitted = tree(tmp_path / "mine", shifted, "label-L")
    scores = score_submission(truth, submitted)
    assert scores["subject"].tolist() == ["sub-r001s001", "sub-r001s002"]
    assert set(ATLAS_SCORES) <= set(scores.columns)
    assert scores["dice"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert isinstance(scores, pd.DataFrame)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda mine: mine["b"].unlink(), "no mask for sub-b ses-1: .* mask of zeros"),
        (lambda mine: save(mine["b"], mask(), np.diag([2, 2, 2, 1])), "not on the grid"),
        (
            lambda mine: save(mine["b"], np.linspace(0, 1, 8000).reshape(20, 20, 20), np.eye(4)),
            "cut probabilities",
        ),
        (lambda mine: save(mine["b"].with_name("c_mask.nii"), mask(), np.eye(4)), "no subject"),
        (
            lambda mine: save(mine["b"].with_name("sub-b_mask.nii"), mask(), np.eye(4)),
            "of one scan",
        ),
    ],
)
def test_a_folder_that_cannot_be_scored_is_refused(tmp_path: Path, break_it, words: str) -> None:
    masks = {"a": mask(box(1, 1, 1)), "b": mask(box(8, 8, 8))}
    truth = tree(tmp_path / "truth", masks, "label-L")
    tree(tmp_path / "mine", masks, "label-L")
    files = {path.name[4]: path for path in (tmp_path / "mine").rglob("*.nii.gz")}
    break_it(files)
    with pytest.raises(AnkleError, match=words):
        score_submission(truth, tmp_path / "mine")


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="no file"):
        score_submission(tmp_path, tmp_path)
