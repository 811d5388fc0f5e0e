from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ankle_lib.running.answers import WrongAnswer, exercise, expect, expect_function

MASK = np.zeros((6, 7, 5), dtype=bool)
MASK[1:4, 2:5, 1:3] = True
MASK[4, 2, 1] = True
VALUES = np.arange(16.0).reshape(4, 4) ** 2


@pytest.mark.parametrize(
    ("given", "right", "words"),
    [
        (~MASK, MASK, "inside and outside are exchanged"),
        (np.roll(MASK, 1, 0), MASK, "shifted by one along axis 0"),
        (np.roll(MASK, -1, 2), MASK, "shifted by one along axis 2"),
        (np.flip(MASK, 1), MASK, "reversed along axis 1"),
        (MASK.astype(int), MASK, "a mask of True and False is asked for"),
        (MASK[:, :, 0], MASK, "its shape is"),
        (VALUES[:2].T, VALUES[:2], "turned round"),
        (VALUES.T, VALUES, "rows and columns are exchanged"),
        (VALUES + 5 * (VALUES == 4), VALUES, r"1 of 16 values differ, the first at index \(0, 2\)"),
        ("four", VALUES, "an array of numbers is asked for"),
        (8000, 8.0, "a thousand times too large"),
        (0.5, 50.0, "percent"),
        (-8, 8, "sign"),
        (np.pi, 180.0, "radians"),
        (7.0, 8.0, "too small"),
        (True, 8.0, "one number is asked for"),
        ([8.0], 8.0, "one number is asked for"),
        (float("nan"), 8.0, "nan is no number"),
        (0.0, float("nan"), "nothing to measure"),
        ("T01", "T02", "'T01' is not it"),
        (1, "T02", "a str is asked for"),
        ({"talus": 1}, {"talus": 1, "tibia": 2}, "its keys are"),
        ({"talus": 1, "tibia": 3}, {"talus": 1, "tibia": 2}, "tibia: too large"),
        ([1], {"talus": 1}, "a dictionary is asked for"),
    ],
)
def test_what_is_wrong_is_told(given: Any, right: Any, words: str) -> None:
    with pytest.raises(WrongAnswer, match=f"answer: .*{words}"):
        expect("answer", given, right)


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (8, 8.0),
        (np.float32(8.05), 8),
        (float("nan"), float("nan")),
        (VALUES + 0.5, VALUES),
        (VALUES.tolist(), VALUES),
        (MASK.copy(), MASK),
        (None, None),
        ({"talus": 1.0}, {"talus": 1}),
    ],
)
def test_what_is_right_passes(given: Any, right: Any) -> None:
    expect("answer", given, right)


def test_no_slip_is_seen_where_it_changes_nothing() -> None:
    with pytest.raises(WrongAnswer, match="values differ"):  # and nothing of a shift
        expect("answer", np.zeros((3, 3)), np.ones((3, 3)))


@exercise
def exercise_7(area: Any, function: Any) -> str:
    expect("area", area, 9, mistakes={"that is one side": 3, "late": lambda: 4})
    expect_function(
        "function",
        function,
        lambda values, n, plus=0: values[:n].sum() + plus,
        {"of two": (np.arange(1.0, 5), 2), "of all": (np.arange(1.0, 5), 4)},
        mistakes={"one too many": {"plus": 1}},
    )
    return "Good."


def right(values: Any, n: int) -> Any:
    return values[:n].sum()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ((3, right), "area: that is one side"),
        ((4, right), "area: late"),
        ((9, 5), "function is to be a function, and is of type int"),
        ((9, lambda values, n: right(values, n) + 1), "function: one too many"),
        ((9, lambda values, n: values.sum()), "function of two: too large"),
        ((9, lambda values: 0), "function of two fails: TypeError"),
        ((9, lambda values, n: np.square(values, out=values)), "changes the array"),
        ((9, lambda values, n: [[1], [2, 3]]), "cannot be checked"),
    ],
)
def test_an_exercise_refuses(answers: tuple[Any, Any], words: str) -> None:
    with pytest.raises(WrongAnswer, match=f"^Exercise 7: .*{words}") as wrong:
        exercise_7(*answers)
    assert wrong.value._render_traceback_() == [f"Not yet. {wrong.value}"]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ((9, right), "right. Good."),
        ((9, ...), "not answered yet"),
        ((..., right), "not answered yet"),
        ((9, lambda values, n: None), "not answered yet"),
    ],
)
def test_an_exercise_lets_go_on(
    answers: tuple[Any, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exercise_7(*answers)
    assert capsys.readouterr().out == f"Exercise 7: {told}\n"
