"""Checks of the exercises of chapter 08."""

import numpy as np
from scipy import ndimage

from ankle_lib.running.answers import exercise, expect, expect_function
from ankle_lib.small_data.few_labels import JOINTS_KEPT, RIGID


@exercise
def exercise_1(variation):
    """Check a function that tells by how many percent volumes vary."""

    def right(volumes, *, squared=False, spare=0, span=False):
        spread = np.ptp(volumes) if span else np.std(volumes, ddof=spare)
        return 100 * (spread**2 if squared else spread) / np.mean(volumes)

    cases = {
        "of a bone that breathes": (np.array([44.0, 45.5, 43.2, 44.1]),),
        "of one that does not": (np.full(5, 12.5),),
        "of two frames": (np.array([20.0, 30.0]),),
    }
    mistakes = {
        "that is the variance over the mean: it has cm3 in it": {"squared": True},
        "the squares are divided by one less than there are frames": {"spare": 1},
        "that is the whole range over the mean": {"span": True},
    }
    expect_function("variation", variation, right, cases, within=1e-3, mistakes=mistakes)
    return "In percent, so that a talus and a tibia can stand in one table."


@exercise
def exercise_2(most_gained, *, scores):
    """Check which child gains most from rigid bones with joints kept."""
    of_child = scores.pivot_table("dice", "subject", "constraint")
    gain = of_child[JOINTS_KEPT] - of_child["none"]
    mistakes = {
        "that child gains least": gain.idxmin(),
        "that child has the largest Dice, which is not the largest gain": (
            of_child[JOINTS_KEPT].idxmax()
        ),
        "that child gains most where the joints are not kept": (
            lambda: (of_child[RIGID] - of_child["none"]).idxmax()
        ),
        "that child has the smallest Dice without it, and another one gains more": (
            of_child["none"].idxmin()
        ),
    }
    expect("most_gained", most_gained, gain.idxmax(), mistakes=mistakes)
    return f"{gain.max():+.3f}, where all children together gain {gain.mean():+.3f}."


@exercise
def exercise_3(room):
    """Check a function that tells by how many pixels a mask can grow and not meet another."""

    def right(first, second, *, more=0, straight=False):
        if straight:
            reached = ndimage.distance_transform_edt(~second)
        else:
            reached = ndimage.distance_transform_cdt(~second, "chessboard")
        return int(np.ceil(reached[first].min())) - 1 + more

    def masks(row, column):
        first, second = np.zeros((2, 24, 24), bool)
        first[2:8, 2:8], second[row : row + 5, column : column + 5] = True, True
        return first, second

    cases = {
        "beside each other": masks(3, 12),
        "across a corner": masks(12, 12),
        "with a border in common": masks(3, 8),
    }
    mistakes = {
        "grown by so much they meet": {"more": 1},
        "corners are reached as soon as sides: the pixels grow to squares": {"straight": True},
    }
    expect_function("room", room, right, cases, within=0, mistakes=mistakes)
    return "The labelled children say how much of it there is; the penalty takes no more."


@exercise
def exercise_4(shift_across):
    """Check a function that finds a shift across thick slices."""

    def right(fine, seen, n, *, middles=False, sign=1, last=False):
        errors = {}
        for shift in range(-6, 7):
            moved = np.roll(fine, sign * shift)
            slices = moved.reshape(-1, n)
            would_be = slices[:, n // 2] if middles else slices.mean(axis=1)
            if last:  # averaged first, then moved by whole slices
                would_be = np.roll(fine.reshape(-1, n).mean(axis=1), round(sign * shift / n))
            errors[shift] = float(((would_be - seen) ** 2).sum())
        return min(errors, key=errors.get)

    def case(seed, shift, n):
        rng = np.random.default_rng(seed)
        fine = ndimage.gaussian_filter1d(rng.normal(size=48), 1.5, mode="wrap")
        return fine, np.roll(fine, shift).reshape(-1, n).mean(axis=1), n

    cases = {
        "with slices of 8 mm": case(1, 3, 8),
        "with slices of 4 mm": case(2, -5, 4),
        "that is none": case(3, 0, 8),
    }
    mistakes = {
        "a slice is the mean of its millimetres, not the one in its middle": {"middles": True},
        "the sign is the other one: the bone moves, not the slices": {"sign": -1},
        "averaged first, then moved: what lies between the slices is lost": {"last": True},
    }
    expect_function("shift_across", shift_across, right, cases, within=0, mistakes=mistakes)
    return "A millimetre can be told through eight, if what is moved is known that well."
