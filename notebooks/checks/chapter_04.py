"""Checks of the exercises of chapter 04."""

import numpy as np

from ankle_lib.running.answers import exercise, expect, expect_function


@exercise
def exercise_1(zscore_inside):
    """Check a function that normalises an image inside a mask."""

    def right(image, mask, *, everywhere=False, variance=False, cut=False, centre=True):
        inside = image[np.ones_like(mask) if everywhere else mask]
        spread = inside.var() if variance else inside.std()
        new = (image - (inside.mean() if centre else 0)) / spread
        return np.where(mask, new, 0) if cut else new

    image = np.random.default_rng(0).gamma(3.0, 100.0, (30, 40))
    image[:, :15] = 4.0  # air
    foot = np.zeros(image.shape, dtype=bool)
    foot[5:25, 15:] = True
    cases = {"with air beside the foot": (image, foot), "with another gain": (3 * image, foot)}
    mistakes = {
        "mean and spread are those of the whole image, air and all": {"everywhere": True},
        "it divides by the variance; a standard deviation is its root": {"variance": True},
        "it sets air to 0; every pixel is to be shifted and scaled alike": {"cut": True},
        "the mean is not taken away": {"centre": False},
    }
    expect_function("zscore_inside", zscore_inside, right, cases, mistakes=mistakes)
    return "A gain of the scanner makes no difference any more."


@exercise
def exercise_2(reach_mm, *, side_mm):
    """Check how far from its middle a turned and scaled patch may reach."""
    half = side_mm / 2
    mistakes = {
        "corners lie farther out than sides do": half * 1.2,
        "the patch may be larger than usual, too": half * np.sqrt(2),
        "that is from corner to corner; begin in the middle": side_mm * np.sqrt(2) * 1.2,
        "a patch that shows more is larger, not smaller": half * np.sqrt(2) / 1.2,
    }
    expect("reach_mm", reach_mm, half * np.sqrt(2) * 1.2, mistakes=mistakes)
    return "Whoever cuts first and turns afterwards has lost the corners."


@exercise
def exercise_3(kept_part):
    """Check a function that tells which part of all positions the report's rule keeps."""

    def right(foot, side, least, *, strictly=False, count=False, pixels=False, centre=False):
        windows = np.lib.stride_tricks.sliding_window_view(foot, (side, side))
        share = windows.mean(axis=(2, 3))
        kept = share > least if strictly else share >= least - 1e-9
        if centre:
            kept = windows[:, :, side // 2, side // 2]
        if pixels:
            return float(kept.sum() / foot.size)
        return float(kept.sum() if count else kept.mean())

    foot = np.zeros((30, 24), dtype=bool)
    foot[4:22, 6:20] = True
    cases = {
        "with patches of 8 pixels": (foot, 8, 0.75),
        "where all of a patch must be foot": (foot, 5, 1.0),
        "where half of a patch suffices": (foot, 10, 0.5),
        "with a patch as large as the slice": (foot, 24, 0.3),
    }
    mistakes = {
        "exactly that much foot is enough, too (>=)": {"strictly": True},
        "that is their number; divide it by that of all positions": {"count": True},
        "a slice has fewer positions than pixels: a patch must lie inside": {"pixels": True},
        "the middle of a patch says little; count its foot": {"centre": True},
    }
    expect_function("kept_part", kept_part, right, cases, mistakes=mistakes)
    return "So the number of patches is known before one is drawn."


@exercise
def exercise_4(has_twin):
    """Check a function that finds patches which training knows nearly."""

    def right(test, train, side, *, any_slice=False, way="area"):
        apart = np.abs(test[:, None, 1:] - train[None, :, 1:])
        shared = np.clip(1 - apart / side, 0, None)
        ways = {
            "area": shared.prod(axis=2) >= 0.5,
            "each": (shared >= 0.5).all(axis=2),
            "union": shared.prod(axis=2) / (2 - shared.prod(axis=2)) >= 0.5,
            "equal": (apart == 0).all(axis=2),
        }
        same = (test[:, None, 0] == train[None, :, 0]) | any_slice
        return (ways[way] & same).any(axis=1)

    train = np.array([[3, 10, 10], [3, 100, 40], [7, 50, 50]])
    test = np.array([[3, 10, 14], [3, 14, 14], [3, 17, 10], [3, 70, 70], [7, 10, 10], [7, 50, 50]])
    cases = {
        "with patches of 16 pixels": (test, train, 16),
        "with patches of 10 pixels": (test[:, [0, 2, 1]], train[:, [0, 2, 1]], 10),
        "without any patch to train on in the slice": (test, train[2:], 16),
    }
    mistakes = {
        "patches of other slices are no twins": {"any_slice": True},
        "half along each side is only a quarter of the pixels": {"way": "each"},
        "divide by the pixels of one patch, not of both together": {"way": "union"},
        "patches need not lie on each other exactly": {"way": "equal"},
    }
    expect_function("has_twin", has_twin, right, cases, mistakes=mistakes)
    return "A split of patches is no split at all."
