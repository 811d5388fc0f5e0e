from __future__ import annotations

import numpy as np

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.reconstruction.report_pairs import Pairs, Target, patch_items, unselected_pairs

AVERAGED, SAMPLED = Target(averaged=True), Target()


def test_pairs_follow_the_split(pairs: Pairs) -> None:
    assert pairs.pixels == 20
    assert pairs.source.subjects == ("T01",)
    for (part, bone), batch in pairs.scored.items():
        code = "T01" if part == "train" else "T02"
        assert code in batch.describe(batch.where[0].tolist())
        assert bone in batch.describe(batch.where[0].tolist())
        assert float(batch.correlation.min()) > 0.6


def test_targets_with_and_without_profile_differ(
    toy_cohort: tuple[list[CleanSubject], list[RegisteredFrame]],
) -> None:
    subjects, accepted = toy_cohort
    averaged, sampled = (
        patch_items(subjects[0], accepted[:1], target)[0] for target in (AVERAGED, SAMPLED)
    )
    np.testing.assert_array_equal(averaged.image, sampled.image)
    np.testing.assert_allclose(averaged.target, sampled.target, atol=1e-4)  # same file, same grid
    moved_on_purpose = patch_items(subjects[0], accepted[:1], Target(forward_mm=0.9))[0]
    inside = slice(5, 38), slice(5, 38), slice(None)
    before = slice(6, 39), slice(5, 38), slice(None)
    np.testing.assert_allclose(moved_on_purpose.target[inside], sampled.target[before], atol=0.05)


def test_unselected_pairs_notice_a_shift(
    toy_cohort: tuple[list[CleanSubject], list[RegisteredFrame]], pairs: Pairs
) -> None:
    targets = {mm: Target(averaged=True, forward_mm=mm) for mm in (0.0, 3.0)}
    shifts = unselected_pairs(*toy_cohort, pairs, targets, n_patches=10)
    mean = shifts.groupby("target")["correlation"].mean()
    assert mean[0.0] > mean[3.0] + 0.3
