from __future__ import annotations

import pytest

from ankle_lib.files import AnkleError
from ankle_lib.patches.source import PatchSource
from ankle_lib.patches.split import Split, cross_validation, report_split
from tests.patches.toy_items import RULE, item, subject


def test_the_reports_split_and_its_cross_validation() -> None:
    people = [subject(code) for code in ("E02", "T05", "T01", "E01", "T02")]
    assert report_split(people) == Split(("T01", "T02"), ("T05",), ("E01", "E02"))
    folds = cross_validation(people)
    assert [fold.validation for fold in folds] == [("T01",), ("T02",), ("T05",)]
    assert all(fold.test == ("E01", "E02") for fold in folds)
    assert all(set(fold.train + fold.validation) == {"T01", "T02", "T05"} for fold in folds)
    with pytest.raises(AnkleError, match="1 control subjects"):
        report_split(people[:2])
    controls = [one for one in people if one.group == "control"]
    assert report_split(controls).test == ()
    with pytest.raises(AnkleError, match="there are only controls"):
        report_split(controls, tested=True)


def test_no_subject_is_in_two_parts() -> None:
    with pytest.raises(AnkleError, match="T02 would be in more than one place"):
        Split(("T01", "T02"), ("T02",))
    with pytest.raises(AnkleError, match="T01 would be"):
        Split(("T01", "T01"))
    with pytest.raises(AnkleError, match="no subject to train on"):
        Split((), ("T01",))
    split = Split(("T01",), ("T02",), ("E01",))
    split.check(PatchSource([item("T01")], RULE).subjects, "train")
    with pytest.raises(AnkleError, match="E01 must not be seen"):
        split.check(PatchSource([item("T01"), item("E01")], RULE).subjects, "train")
    with pytest.raises(AnkleError, match="E09 is in no part"):
        split.check(["E09"], "test")
    with pytest.raises(AnkleError, match=r"T02 .* not in the cohort"):
        split.pick([subject("T01")], "validation")
