"""Checks of the exercises of chapter 01."""

import numpy as np

from ankle_lib.files import AnkleError
from ankle_lib.running.answers import exercise, expect, expect_function
from ankle_lib.volume import Volume, canonical_voxel_size, read_header


@exercise
def exercise_1(side_of):
    """Check a function that tells the side of a foot by two landmarks."""

    def right(head_mm, malleolus_mm, *, guess=False, alone=None, mirrored=False):
        if alone is not None:
            return "left" if (head_mm, malleolus_mm)[alone] > 0 else "right"
        if guess:
            return "left" if head_mm + malleolus_mm > 0 else "right"
        if head_mm * malleolus_mm <= 0:
            return "unsure"
        return ("left", "right")[(head_mm < 0) != mirrored]

    cases = {
        "with both landmarks to the right": (9.0, 14.0),
        "with both landmarks to the left": (-6.5, -11.0),
        "where the landmarks do not agree": (3.0, -8.0),
        "where they do not agree, the other way": (-1.0, 2.0),
        "with one landmark in the middle": (0.0, 8.0),
    }
    mistakes = {
        "the inner side of a left foot is on its right": {"mirrored": True},
        "where the landmarks do not agree it guesses; the side is unsure then": {"guess": True},
        "it looks at the talar head alone": {"alone": 0},
        "it looks at the malleolus alone": {"alone": 1},
    }
    expect_function("side_of", side_of, right, cases, mistakes=mistakes)
    return "Two witnesses who contradict each other are worth more than one who is believed."


@exercise
def exercise_2(margin_mm, *, sides):
    """Check by how much the first subject of the cohort misses being unsure."""
    distances = sides.filter(like="mm to the right").abs()
    nearest = distances.min(axis=1)
    mistakes = {
        "both landmarks must exceed it, so the smaller distance of a subject counts": (
            distances.max(axis=1).min()
        ),
        "that is where the last subject becomes unsure": nearest.max(),
        "the first subject counts, not a subject in the middle": nearest.median(),
        "the first subject counts, not the mean": nearest.mean(),
        "one landmark is not enough: the talar head": distances.iloc[:, 0].min(),
        "one landmark is not enough: the malleolus": distances.iloc[:, 1].min(),
    }
    expect("margin_mm", margin_mm, nearest.min(), within=0.02, mistakes=mistakes)
    return "As long as the threshold stays below, all sides are told."


@exercise
def exercise_3(deviations, *, records):
    """Check by which part of itself each static voxel is off at most."""

    def of_all(off):
        found = {}
        for subject in records.subjects:
            for path in subject.static:
                try:
                    sizes = canonical_voxel_size(read_header(path).affine)
                except AnkleError:
                    continue
                one = float(off(np.array(sizes), np.array(records.geometry.static_voxel_mm)))
                found[subject.code] = max(one, found.get(subject.code, 0.0))
        # headers are rounded: what is off by less than 0.1 % is not off
        return {code: off if off > 0.001 else 0.0 for code, off in found.items()}

    def right(sizes, expected):
        return np.abs(sizes / expected - 1).max()

    mistakes = {
        "these are mm; take them as part of the expected size": lambda: of_all(
            lambda sizes, expected: np.abs(sizes - expected).max()
        ),
        "a small side may be hidden by the mean; take the worst of the three": lambda: of_all(
            lambda sizes, expected: np.abs(sizes / expected - 1).mean()
        ),
        "a voxel that is too small is wrong as well": lambda: of_all(
            lambda sizes, expected: (sizes / expected - 1).max()
        ),
        "divide by the expected size, not by the one that was found": lambda: of_all(
            lambda sizes, expected: np.abs(expected / sizes - 1).max()
        ),
    }
    expect("deviations", deviations, of_all(right), mistakes=mistakes)
    return "Between the small ones and the large ones, any tolerance does the same."


@exercise
def exercise_4(reversed_affine):
    """Check a function that finds the affine of an array that was reversed along an axis."""

    def right(affine, shape, axis, *, voxels=-1, move=True, negate=True):
        new = affine.copy()
        if negate:
            new[:3, axis] *= -1
        if move:
            new[:3, 3] = affine[:3, 3] + (shape[axis] + voxels) * affine[:3, axis]
        return new

    straight = np.diag([0.5, 0.5, 2.0, 1.0])
    straight[:3, 3] = (-40, 12, 90)
    oblique = straight.copy()
    oblique[:3, :3] = np.array([[0.0, 0.1, 2.0], [-0.5, 0.0, 0.2], [0.1, 0.5, 0.0]])
    shape = (60, 50, 11)
    cases = {f"along axis {axis}": (straight, shape, axis) for axis in range(3)}
    cases |= {f"of an oblique image, axis {axis}": (oblique, shape, axis) for axis in (0, 2)}
    mistakes = {
        "every voxel is off by one: n voxels are n - 1 steps apart": {"voxels": 0},
        "voxel (0, 0, 0) has moved to the other end, and its place with it": {"move": False},
        "the axis runs the other way now: its column has another sign": {"negate": False},
        "nothing has changed: that would be a mirror image": {"move": False, "negate": False},
    }
    expect_function("reversed_affine", reversed_affine, right, cases, mistakes=mistakes)
    return "Array and affine changed together leave every voxel where it was."


@exercise
def exercise_5(displaced):
    """Check a function that displaces a mask in the world, and not in its array."""

    def right(mask, shift_mm, *, sign=1.0, voxels=False, array=False):
        affine = mask.affine.copy()
        shift = affine[:3, :3] @ shift_mm if voxels else sign * shift_mm
        if not array:
            affine[:3, 3] += shift
        data = np.roll(mask.data, 5, 0) if array else mask.data
        return Volume(data, affine)

    def parts(function):
        def called(mask, shift_mm, **mistake):
            moved = function(mask, shift_mm, **mistake)
            return moved if moved is None else {"array": moved.data, "affine": moved.affine}

        return called if callable(function) else function

    affine = np.array([[0.0, 0, 2, -30], [-0.5, 0, 0, 20], [0, 0.5, 0, 8], [0, 0, 0, 1]])
    mask = Volume(np.pad(np.ones((3, 4, 2), np.uint8), 5), affine)
    cases = {"by (20, 0, -5) mm": (mask, np.array([20.0, 0.0, -5.0]))}
    mistakes = {
        "the mask has not moved": {"sign": 0.0},
        "it moves by so many voxels; mm of the world are asked for": {"voxels": True},
        "it moves to the other side": {"sign": -1.0},
        "the array has changed; only the header is to lie": {"array": True},
    }
    expect_function("displaced", parts(displaced), parts(right), cases, mistakes=mistakes)
    return "Cleaning compares arrays, so it can tell a lying header from a displaced bone."
