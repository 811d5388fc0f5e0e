"""Checks of the exercises of chapter 00."""

import numpy as np

from ankle_lib.geometry import apply, rigid
from ankle_lib.running.answers import exercise, expect, expect_function
from ankle_lib.volume import Volume, resample

SEEN, SOLID = 0.05, 0.95
"""Of a voxel's volume: from here on it sees a bone, and is filled by it."""


@exercise
def exercise_1(slice_mm, static_slices, *, static, film):
    """Check how thick a frame's slice is, in mm and in slices of the static scan."""
    pixel, _, thick = film.voxel_size_mm
    thin = static.voxel_size_mm[2]
    words = "that is the side of a pixel; slices are stacked along the third axis"
    expect("slice_mm", slice_mm, thick, mistakes={words: pixel})
    mistakes = {
        "that is the other way round": thin / thick,
        "these are all slices of the static scan": static.shape[2],
        "that compares pixels, and slices are asked for": pixel / static.voxel_size_mm[0],
    }
    expect("static_slices", static_slices, thick / thin, mistakes=mistakes)
    return "Whatever lies side by side in so much of a foot becomes one number."


@exercise
def exercise_2(stiffest, *, angles):
    """Check which control child plantar-flexes least."""
    if not len(angles):
        return "Nobody knows the truth about this cohort, so any answer will do."
    ends = angles.groupby(["group", "subject"])["dorsiflexion_deg"].agg(["min", "max"])
    controls = ends.loc["control"]
    mistakes = {
        "this child plantar-flexes most": controls["min"].idxmin(),
        "that is about toes up; plantarflexion is toes down": controls["max"].idxmin(),
        "that is the child with the smallest range; where it lies does not count then": (
            controls["max"] - controls["min"]
        ).idxmin(),
    }
    if stiffest in ends.loc["equinus"].index:
        mistakes["that child has equinus; a control is asked for"] = stiffest
    expect("stiffest", stiffest, controls["min"].idxmax(), mistakes=mistakes)
    return f"This foot goes down to {controls['min'].max():.0f}° and no further."


@exercise
def exercise_3(mixed, *, outlines, static, film):
    """Check which part of the voxels that see a bone hold something else as well."""

    def parts(count=lambda seen, solid: np.mean(~solid[seen]), samples=9):
        found = {}
        for bone, mask in outlines.items():
            solid = Volume(mask.astype(np.float32), static.affine)
            filled = resample(solid, *film.grid, slice_samples=samples).data
            found[bone] = float(count(filled > SEEN, filled >= SOLID))
        return found

    mistakes = {
        "these are the filled ones; count the others": lambda: parts(
            lambda seen, solid: np.mean(solid[seen])
        ),
        "they are counted among all voxels; take those that see the bone": lambda: parts(
            lambda seen, solid: np.mean(seen & ~solid)
        ),
        "air counts as mixed; take only voxels that see the bone": lambda: parts(
            lambda seen, solid: np.mean(~solid)
        ),
        "the bone was looked up in the middle of each slice; average over its thickness": (
            lambda: parts(samples=1)
        ),
    }
    expect("mixed", mixed, parts(), within=0.02, mistakes=mistakes)
    return "In a frame, edges are the rule and not the exception."


@exercise
def exercise_4(turned_about):
    """Check a function that turns points about a centre, toes up for positive angles."""

    def right(points, centre, angle_deg, *, factor=1.0, axis=0, origin=False, back=True):
        turn = np.zeros(3)
        turn[axis] = factor * angle_deg
        turned = apply(rigid(turn, (0, 0, 0), np.zeros(3) if origin else centre), points)
        return turned if back else turned - centre

    foot = np.array([[0.0, 150.0, -60.0], [5.0, -50.0, -70.0]])  # toes and heel
    ankle = np.array([4.0, 10.0, -20.0])
    cases = {
        "about the origin": (foot, np.zeros(3), 20.0),
        "about the ankle": (foot, ankle, 20.0),
        "by a negative angle": (foot, ankle, -35.0),
    }
    mistakes = {
        "the toes go down; positive is dorsiflexion, toes up": {"factor": -1.0},
        "numpy's sine and cosine take radians": {"factor": 180 / np.pi},
        "it turns about the origin; take the centre away first, then give it back": {
            "origin": True
        },
        "the centre is taken away and never given back": {"back": False},
        "it turns about the axis to anterior; the hinge runs from left to right": {"axis": 1},
        "it turns about the axis to superior; the hinge runs from left to right": {"axis": 2},
    }
    expect_function("turned_about", turned_about, right, cases, mistakes=mistakes)
    return "A bone's motion is no more than that, about another axis in every child."
