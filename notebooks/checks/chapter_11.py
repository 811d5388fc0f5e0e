"""Checks of the exercises of chapter 11."""

import numpy as np

from ankle_lib.running.answers import exercise, expect, expect_function
from ankle_lib.stroke.challenge import SIZE_BINS
from ankle_lib.stroke.fair_trials import UNET


@exercise
def exercise_1(n_weights):
    """Check how many weights a head of self-attention makes."""

    def right(rows, columns, *, places=False, half=False):
        n = rows * columns
        return n if places else n * (n - 1) // 2 if half else n**2

    cases = {"4 x 6": (4, 6), "8 x 12": (8, 12)}
    mistakes = {
        "those are the places; each of them compares itself with all": {"places": True},
        "who asks and who answers are not alike, and each place asks itself too": {"half": True},
    }
    expect_function("n_weights", n_weights, right, cases, within=0, mistakes=mistakes)
    return "So attention is used where the grid is small, or in windows."


@exercise
def exercise_2(missed, *, lesions):
    """Check which part of the small lesions is missed."""
    own = lesions[lesions["arm"] == UNET]
    small = own[own["size"] == SIZE_BINS[0]]

    def part(rows, column="found"):
        return 1 - float(rows[column].mean()) if len(rows) else 0.0

    mistakes = {
        "that is the part that was found": lambda: 1 - part(small),
        "that is of the lesions of all sizes": lambda: part(own),
        "that is the part of their voxels": lambda: part(small, "found_part"),
        "that is of all arms together": lambda: part(lesions[lesions["size"] == SIZE_BINS[0]]),
    }
    expect("missed", missed, part(small), within=0.02, mistakes=mistakes)
    return "A Dice over people hardly knows of them: in it a large lesion hides a small one."


@exercise
def exercise_3(say):
    """Check the rule of the verdicts."""

    def right(low, high, margin, *, zero_first=False, no_difference=False):
        inside = -margin < low and high < margin
        if inside and not (zero_first and (low > 0 or high < 0)):
            return "equivalent"
        if low > 0 or high < 0:
            return "better" if low > 0 else "worse"
        return "equivalent" if no_difference else "undecided"

    cases = {
        "a wide interval around 0": (-0.05, 0.03, 0.02),
        "a narrow one around 0": (-0.01, 0.015, 0.02),
        "a narrow one beside 0": (0.005, 0.015, 0.02),
        "above 0 and wide": (0.01, 0.06, 0.02),
        "below 0 and wide": (-0.06, -0.01, 0.02),
        "a narrow one beside 0, below": (-0.018, -0.001, 0.02),
    }
    mistakes = {
        "a difference that is sure and too small to matter is none that matters": {
            "zero_first": True
        },
        "an interval that is wide and holds 0 does not say that there is no difference": {
            "no_difference": True
        },
    }
    expect_function("say", say, right, cases, mistakes=mistakes)
    return "It can say that two are alike, which a test of significance never can."


@exercise
def exercise_4(gate):
    """Check a gate that attention opens and closes."""

    def right(queries, keys, values, *, scaled=True, turned=False, sigmoid=True):
        fits = queries @ keys.T / (queries.shape[1] ** 0.5 if scaled else 1)
        axis = 0 if turned else 1
        odds = np.exp(fits - fits.max(axis=axis, keepdims=True))
        mean = odds / odds.sum(axis=axis, keepdims=True) @ values
        return 1 / (1 + np.exp(-mean)) if sigmoid else mean

    rng = np.random.default_rng(0)
    cases = {
        "five places": (
            rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), 2 * rng.normal(size=(5, 3)),
        ),
        "large numbers": (
            40 * rng.normal(size=(6, 8)), 40 * rng.normal(size=(6, 8)), rng.normal(size=(6, 2)),
        ),
    }  # fmt: skip
    mistakes = {
        "the fits are divided by the root of the number of features": {"scaled": False},
        "the weights of one query sum to 1, not those of one key": {"turned": True},
        "a gate is between 0 and 1: the sigmoid is missing": {"sigmoid": False},
    }
    expect_function("gate", gate, right, cases, within=1e-6, mistakes=mistakes)
    return "A skip that nobody asks for is turned down."
