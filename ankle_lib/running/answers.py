"""Checks of a student's answers: they say what is wrong, and never what is right.

The checks of the chapters' exercises (``notebooks/checks``) are functions in the form of
`exercise`. Each works out the right answer from what the notebook gives it, and compares with
`expect` or `expect_function`, which know the usual mistakes: another unit, another shape, a mask
that is shifted by a voxel.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError

WITHIN = 0.01
"""Numbers may differ by this part of the right one, arrays of their largest value."""

_FACTORS = {
    -1.0: "the sign is the other one",
    0.1: "ten times too small: is it in the unit that was asked for?",
    10.0: "ten times too large: is it in the unit that was asked for?",
    0.01: "a hundred times too small: percent, or parts of 1?",
    100.0: "a hundred times too large: percent, or parts of 1?",
    0.001: "a thousand times too small: is it in the unit that was asked for?",
    1000.0: "a thousand times too large: is it in the unit that was asked for?",
    math.pi / 180: "it looks like radians; degrees are asked for",
    180 / math.pi: "it looks like degrees; radians are asked for",
}


class WrongAnswer(AnkleError):
    """An answer that is not right; its one line is all that a notebook shows of it."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this; a traceback would show lines of the check, and so the answer
        return [f"Not yet. {self}"]


class _Unanswered(Exception):
    """An answer is still ``...``, or a function returns nothing."""


def exercise(check: Callable[..., str]) -> Callable[..., None]:
    """Make the check of an exercise of a function that returns what a right answer has shown.

    Parameters
    ----------
    check
        Named ``exercise_N``. Its positional arguments are the student's answers; those by keyword
        are what the notebook gives. It calls `expect` and `expect_function` and returns a sentence.

    Returns
    -------
    function
        Prints that the answer is right, with that sentence; raises `WrongAnswer` if it is not. If
        there is none yet, it says so and lets the notebook go on.

    Examples
    --------
    >>> @exercise
    ... def exercise_1(slice_mm, *, film):
    ...     expect("slice_mm", slice_mm, film.voxel_size_mm[2])
    ...     return "So much of a foot becomes one number."
    >>> exercise_1(8.0, film=film)
    Exercise 1: right. So much of a foot becomes one number.
    """
    name = check.__name__.replace("_", " ").capitalize()

    @functools.wraps(check)
    def checked(*answers: Any, **given: Any) -> None:
        try:
            if any(answer is ... for answer in answers):
                raise _Unanswered
            shown = check(*answers, **given)
        except _Unanswered:
            print(f"{name}: not answered yet")
        except WrongAnswer as wrong:
            raise WrongAnswer(f"{name}: {wrong}") from None
        except Exception as error:  # of an answer that no check thought of
            told = f"{type(error).__name__}: {error}"
            raise WrongAnswer(f"{name}: this answer cannot be checked ({told})") from None
        else:
            print(f"{name}: right. {shown}")

    return checked


def expect(
    what: str,
    given: Any,
    right: Any,
    *,
    within: float = WITHIN,
    mistakes: Mapping[str, Any] | None = None,
) -> None:
    """Compare an answer with the right one.

    Parameters
    ----------
    what
        Name of the answer in the notebook.
    given, right
        Numbers, texts, arrays, or mappings of these.
    within
        Numbers may differ by this part of the right one (0: not at all), arrays of its largest
        absolute value.
    mistakes
        What to tell whoever gives a certain wrong answer; an answer that costs time may stand
        there as a function without arguments.

    Raises
    ------
    WrongAnswer
        If they differ. The message says how, without the right answer.

    Examples
    --------
    >>> expect("sum_mm", 5.0, 7.0, mistakes={"that is the longest side": 5.0})
    Traceback (most recent call last):
    ankle_lib.running.answers.WrongAnswer: sum_mm: that is the longest side
    """
    wrong = _difference(given, right, within)
    if not wrong:
        return
    for words, mistake in (mistakes or {}).items():
        if not _difference(given, mistake() if callable(mistake) else mistake, within):
            wrong = words
            break
    raise WrongAnswer(f"{what}: {wrong}")


def expect_function(
    what: str,
    given: Any,
    right: Callable[..., Any],
    cases: Mapping[str, Sequence[Any]],
    *,
    within: float = WITHIN,
    mistakes: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Compare a function of the student's with the right one, by what both return.

    Parameters
    ----------
    cases
        Arguments for both, each under words that follow the name: ``"with an empty mask"``.
    mistakes
        Further arguments with which ``right`` makes a mistake, under what to tell whoever's
        function returns the same in all cases.

    Raises
    ------
    WrongAnswer
        If it is no function, fails, changes what it is given, or returns something else.
    """
    if not callable(given):
        raise WrongAnswer(f"{what} is to be a function, and is {_kind(given)}")
    returned = {case: _called(what, given, case, some) for case, some in cases.items()}
    if all(value is None or value is ... for value in returned.values()):
        raise _Unanswered

    def differences(**mistake: Any) -> Iterator[str]:
        for case, some in cases.items():
            wanted = right(*copy.deepcopy(some), **mistake)
            wrong = _difference(returned[case], wanted, within)
            if wrong:
                yield f"{what} {case}: {wrong}"

    first = next(differences(), None)
    if first is None:
        return
    for words, mistake in (mistakes or {}).items():
        if next(differences(**mistake), None) is None:
            raise WrongAnswer(f"{what}: {words}")
    raise WrongAnswer(first)


def _called(what: str, function: Callable[..., Any], case: str, some: Sequence[Any]) -> Any:
    """Call a student's function; its errors, and what it does to its arguments, are told."""
    arguments = copy.deepcopy(some)
    try:
        returned = function(*arguments)
    except Exception as error:  # whatever a student's code raises
        told = " ".join(str(error).split())
        raise WrongAnswer(f"{what} {case} fails: {type(error).__name__}: {told}") from None
    for before, after in zip(some, arguments, strict=True):
        if isinstance(before, np.ndarray) and not np.array_equal(before, after, equal_nan=True):
            raise WrongAnswer(f"{what} {case} changes the array that it is given: copy it first")
    return returned


def _difference(given: Any, right: Any, within: float) -> str:
    """Say how an answer differs from the right one; nothing if it does not."""
    if given is ...:
        raise _Unanswered
    if isinstance(right, Mapping):
        return _mappings(given, right, within)
    if right is None or isinstance(right, str | bool):
        alike = given is None or right is None or isinstance(given, type(right) | np.bool_)
        if not alike:
            return f"a {type(right).__name__} is asked for, not {_kind(given)}"
        return "" if given == right else f"{given!r} is not it"
    if hasattr(given, "detach"):  # a tensor, wherever it is
        given = given.detach().cpu()
    return (_numbers if np.ndim(right) == 0 else _arrays)(given, right, within)


def _mappings(given: Any, right: Mapping[Any, Any], within: float) -> str:
    if not hasattr(given, "keys"):
        return f"a dictionary is asked for, not {_kind(given)}"
    missing = [key for key in right if key not in given.keys()]  # of a Series, too
    if missing or len(given.keys()) > len(right):
        return f"its keys are {list(given.keys())}, not {list(right)}"
    wrong = ((key, _difference(given[key], value, within)) for key, value in right.items())
    return next((f"{key}: {words}" for key, words in wrong if words), "")


def _numbers(given: Any, right: Any, within: float) -> str:
    value = np.asarray(given)
    if value.ndim or value.dtype.kind not in "iuf":
        return f"one number is asked for, not {_kind(given)}"
    found, wanted = float(value), float(right)
    if math.isnan(wanted):
        return "" if math.isnan(found) else "here is nothing to measure: NaN says so"
    if not math.isfinite(found):
        return f"{found} is no number"
    least = max(within, 1e-9)
    if abs(found - wanted) <= least * (abs(wanted) or 1.0):
        return ""
    for factor, words in _FACTORS.items():
        if wanted and abs(found - factor * wanted) <= least * abs(factor * wanted):
            return words
    return "too large" if found > wanted else "too small"


def _arrays(given: Any, right: Any, within: float) -> str:
    value, wanted = np.asarray(given), np.asarray(right)
    if value.dtype.kind not in "biuf":
        return f"an array of numbers is asked for, not {_kind(given)}"
    if value.shape != wanted.shape:
        turned = ", which is the right one turned round" * (value.shape == wanted.shape[::-1])
        return f"its shape is {value.shape}{turned}; {wanted.shape} is asked for"
    if (wanted.dtype == bool) != (value.dtype == bool):
        kinds = ("numbers", "a mask of True and False")
        asked, found = kinds[wanted.dtype == bool], kinds[value.dtype == bool]
        return f"{asked} is asked for, not {found} ({value.dtype})"
    if _same(value, wanted, within):
        return ""
    for words, mistake in _slips(wanted):
        if _same(value, mistake, within) and not _same(wanted, mistake, within):
            return words
    different = ~np.isclose(value, wanted, rtol=0, atol=_tolerance(wanted, within), equal_nan=True)
    first = tuple(map(int, np.argwhere(different)[0]))
    return f"{different.sum()} of {wanted.size} values differ, the first at index {first}"


def _same(one: NDArray, other: NDArray, within: float) -> bool:
    tolerance = _tolerance(other, within)
    return bool(np.allclose(one, other, rtol=0, atol=tolerance, equal_nan=True))


def _tolerance(wanted: NDArray, within: float) -> float:
    if wanted.dtype == bool or not wanted.size:
        return 0.0
    return max(within, 1e-9) * float(np.nan_to_num(np.abs(wanted)).max() or 1.0)


def _slips(right: NDArray) -> Iterator[tuple[str, NDArray]]:
    """Yield what an array would be after each of the usual mistakes."""
    is_mask = right.dtype == bool
    yield (
        ("inside and outside are exchanged", ~right)
        if is_mask
        else ("the sign is the other one", -right)
    )
    if right.ndim == 2 and right.shape[0] == right.shape[1]:
        yield "rows and columns are exchanged", right.T
    for axis in range(right.ndim):
        yield f"it is reversed along axis {axis}", np.flip(right, axis)
        for step in (1, -1):
            moved, edge = np.roll(right, step, axis), [slice(None)] * right.ndim
            yield f"it is shifted by one along axis {axis}", moved
            edge[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            moved[tuple(edge)] = 0
            yield f"it is shifted by one along axis {axis}", moved


def _kind(value: Any) -> str:
    """Return what a value is, in words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    return "None" if value is None else f"of type {type(value).__name__}"
