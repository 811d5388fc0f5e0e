"""Checks of the exercises of chapter 02."""

import numpy as np
from scipy import ndimage

from ankle_lib.geometry import bounding_box
from ankle_lib.masking.foot import foot_mask
from ankle_lib.masking.mask_images import bone_weights, in_mm
from ankle_lib.metrics import dice
from ankle_lib.running.answers import exercise, expect, expect_function


@exercise
def exercise_1(best_threshold, *, thresholds, frame, true_foot):
    """Check which of some thresholds gives a mask that agrees best with the true foot."""
    if true_foot is None:
        return "Nobody knows the true foot of this cohort, so any answer will do."
    masks = {threshold: foot_mask(frame.data, threshold) for threshold in thresholds}
    overlaps = {threshold: dice(mask, true_foot) for threshold, mask in masks.items()}
    best = max(overlaps, key=overlaps.get)
    if best_threshold in overlaps and overlaps[best_threshold] > overlaps[best] - 1e-4:
        best = best_threshold  # as good
    mistakes = {"it is not among the thresholds": best_threshold}
    if best_threshold in overlaps:
        mistakes = {
            "this one agrees least": min(overlaps, key=overlaps.get),
            "this mask is the largest, but holds noise": min(thresholds),
            "this mask has lost too much tissue": max(thresholds),
        }
    expect("best_threshold", best_threshold, best, within=0, mistakes=mistakes)
    return f"Dice {overlaps[best]:.3f}; a lower one takes noise, a higher one leaves out tissue."


@exercise
def exercise_2(filled):
    """Check a function that fills what tissue encloses within a slice."""

    def right(mask, *, only=False, box=False, corners=False):
        if box:
            new = np.zeros_like(mask)
            new[tuple(slice(one.min(), one.max() + 1) for one in np.nonzero(mask))] = True
            return new
        structure = np.ones((3, 3)) if corners else None
        new = ndimage.binary_fill_holes(mask, structure)
        return new & ~mask if only else new

    ring = np.zeros((9, 11), dtype=bool)
    ring[2:7, 2:9] = True
    ring[4, 4:7] = False
    bay = ring.copy()
    bay[:5, 5] = False  # the hole is open to the air
    corner = np.zeros((7, 7), dtype=bool)
    corner[1:6, 1:6] = True
    corner[2:5, 2:5] = False
    corner[1, 1] = False  # the hole touches the air at a corner only
    cases = {
        "with a hole": (ring,),
        "with a bay that is open to the air": (bay,),
        "with a hole that touches air at a corner": (corner,),
    }
    mistakes = {
        "these are the holes alone; give the mask together with them": {"only": True},
        "it fills everything between the first and the last voxel, air of a bay too": {"box": True},
        "air gets in by a corner; pixels hang together by their sides": {"corners": True},
    }
    expect_function("filled", filled, right, cases, mistakes=mistakes)
    return "What is dark and enclosed belongs to the foot: cortex and tendons."


@exercise
def exercise_3(reach_mm, *, bone, voxel_size_mm):
    """Check how far beyond a bone a weight of more than one half reaches, for each radius."""
    margin = np.ceil(12.0 / np.array(voxel_size_mm))
    part = bone[bounding_box(bone, margin)]

    def right(least=0.5, sampling=voxel_size_mm, end=np.max):
        away = ndimage.distance_transform_edt(~part, sampling=sampling)
        found = {}
        for radius in range(1, 6):
            soft = bone_weights(part, voxel_size_mm, in_mm(radius), in_mm(2))
            found[radius] = float(end(away[(soft > least) & ~part], initial=0))
        return found

    mistakes = {
        "these are voxels; give distance_transform_edt the voxels' size (sampling)": (
            lambda: right(sampling=None)
        ),
        "a weight of more than one half is asked for, not any weight": lambda: right(least=0.01),
        "that is the squared distance": lambda: {r: mm**2 for r, mm in right().items()},
        "that is the sum; the largest distance is asked for": lambda: right(end=np.sum),
    }
    expect("reach_mm", reach_mm, right(), within=0.02, mistakes=mistakes)
    return "Gaps between bones are 1 to 4 mm wide: a large ball sees the neighbour, too."


@exercise
def exercise_4(otsu):
    """Check a function that finds the threshold of Otsu."""

    def right(values, *, weighted=True, rule=None):
        if rule:
            return float(rule(values))
        edges = np.linspace(values.min(), values.max(), 257)
        spreads = []
        for edge in edges[1:-1]:
            below, above = values[values <= edge], values[values > edge]
            sizes = (len(below), len(above)) if weighted else (1, 1)
            spreads.append(sizes[0] * below.var() + sizes[1] * above.var())
        return float(edges[1 + int(np.argmin(spreads))])

    random = np.random.default_rng(0)
    noise, tissue = random.normal(100, 40, 3000), random.normal(1000, 300, 1000)
    cases = {
        "of two equal heaps": (random.permutation([*noise[:1000], *tissue]),),
        "of much noise and little tissue": (random.permutation([*noise, *tissue[:400]]),),
        "of little noise and much tissue": (random.permutation([*noise[:150], *tissue]),),
    }

    def above(function):
        """Return which part of the values a threshold leaves: in a wide valley many are right."""

        def called(values, **mistake):
            threshold = function(values, **mistake)
            return threshold if threshold is None else np.mean(values > threshold)

        return called if callable(function) else function

    mistakes = {
        "that is the mean of all values": {"rule": np.mean},
        "that is the median of all values": {"rule": np.median},
        "that is the middle of the range": {
            "rule": lambda values: np.ptp(values) / 2 + values.min()
        },
        "each variance is to count by the number of its voxels": {"weighted": False},
    }
    expect_function("otsu", above(otsu), above(right), cases, within=0.02, mistakes=mistakes)
    return "It needs nobody to look, and takes for granted that there are two heaps."
