"""Checks of the exercises of chapter 07."""

import numpy as np

from ankle_lib.dynamic.contest import GATED, NETWORK, REGISTRATION
from ankle_lib.geometry import apply, rigid
from ankle_lib.running.answers import exercise, expect, expect_function


@exercise
def exercise_1(masked_mean):
    """Check a function that averages a loss over the labels that are known."""

    def right(losses, known, *, all_labels=False, empty=0.0, each=False, ignore=False):
        if ignore:
            return float(losses.mean())
        if each:
            counts = known.sum(axis=1)
            rows = (losses * known).sum(axis=1)[counts > 0] / counts[counts > 0]
            return float(rows.mean()) if len(rows) else 0.0
        n = known.size if all_labels else known.sum()
        return float((losses * known).sum() / n) if n else empty

    losses = np.random.default_rng(0).random((4, 3))
    known = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=bool)
    cases = {
        "where some labels are unknown": (losses, known),
        "where all are known": (losses, np.ones_like(known)),
        "where none is known": (losses, np.zeros_like(known)),
    }
    mistakes = {
        "unknown labels count: their loss means nothing": {"ignore": True},
        "unknown labels count as learnt perfectly; divide by the number of known ones": {
            "all_labels": True
        },
        "where nothing is known there is nothing to learn: 0, or the training ends in NaN": {
            "empty": np.nan
        },
        "a patch with one known label counts as much as one with three": {"each": True},
    }
    expect_function("masked_mean", masked_mean, right, cases, within=1e-4, mistakes=mistakes)
    return "Unknown is not empty."


@exercise
def exercise_2(worst_frame, *, scores):
    """Check in which frame of the cycle the network is worst."""
    of = {method: rows for method, rows in scores.groupby("method")}
    means = {method: rows.groupby("frame")["dice"].mean() for method, rows in of.items()}
    mistakes = {
        "there it is best": means[NETWORK].idxmax(),
        "that is where registration is worst": means[REGISTRATION].idxmin(),
        "that is a single bone of a single child; take the mean of each frame": (
            of[NETWORK].loc[of[NETWORK]["dice"].idxmin(), "frame"]
        ),
        "that is the worst of all methods together": (
            scores.groupby("frame")["dice"].mean().idxmin()
        ),
    }
    expect("worst_frame", worst_frame, means[NETWORK].idxmin(), within=0, mistakes=mistakes)
    spread = np.ptp(means[NETWORK])
    return f"Between the best and the worst frame lies {spread:.3f} of Dice."


@exercise
def exercise_3(gain, *, scores):
    """Check what each child gains from a registration that starts where the network sees bones."""

    def right(one=GATED, other=REGISTRATION, least=False):
        each = scores.groupby(["method", "subject"])["dice"].agg("min" if least else "mean")
        return (each[one] - each[other]).to_dict()

    each = right()
    mistakes = {
        "that is what each child loses: the new method minus the old one": (
            lambda: right(REGISTRATION, GATED)
        ),
        "that is the network alone": lambda: right(NETWORK),
        "that is the difference of two means; pair every child with itself": (
            dict.fromkeys(each, float(np.mean(list(each.values()))))
        ),
        "that is the worst bone of each child; take the mean of its bones": (
            lambda: right(least=True)
        ),
    }
    expect("gain", gain, each, within=0.02, mistakes=mistakes)
    return "Each child is compared with itself, so that what makes children differ cancels out."


@exercise
def exercise_4(pose_between):
    """Check a function that finds the pose which lays points onto others."""

    def right(points, there, *, mirror=False, transposed=False, shift=True, turn=True):
        one, two = points.mean(axis=0), there.mean(axis=0)
        u, _, vt = np.linalg.svd((points - one).T @ (there - two))
        ends = np.diag([1, 1, 1 if mirror else np.linalg.det(vt.T @ u.T)])
        rotation = vt.T @ ends @ u.T
        rotation = rotation.T if transposed else rotation
        pose = np.eye(4)
        pose[:3, :3] = rotation if turn else np.eye(3)
        pose[:3, 3] = (two if shift else two - one) - (pose[:3, :3] @ one if shift else 0)
        return pose

    random = np.random.default_rng(0)
    points = random.normal((10, -40, 60), (9, 20, 12), (40, 3))
    pose = rigid((30, -10, 20), (5, 3, -8))
    noisy = apply(pose, points) + random.normal(0, 0.5, points.shape)
    cases = {
        "of points that moved": (points, apply(pose, points)),
        "of points that were found roughly": (points, noisy),
        "of points of the other foot": (points, points * [-1, 1, 1]),
    }
    mistakes = {
        "it mirrors the bone; a rotation has determinant 1": {"mirror": True},
        "it turns the other way round: a matrix is transposed": {"transposed": True},
        "the middle of the *turned* bone is to come to the other middle": {"shift": False},
        "it shifts the bone and does not turn it": {"turn": False},
    }
    expect_function("pose_between", pose_between, right, cases, within=1e-3, mistakes=mistakes)
    return "Points in pairs have a pose in closed form; two images have not."
