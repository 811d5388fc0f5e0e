"""Checks of the exercises of chapter 10."""

import numpy as np

from ankle_lib.metrics import dice
from ankle_lib.modalities.arms import DISTILLED, OWN
from ankle_lib.running.answers import exercise, expect, expect_function


@exercise
def exercise_1(to_hounsfield):
    """Check a function that turns attenuation into Hounsfield units."""

    def right(attenuation, water, *, offset=True, own=False):
        return (
            1000 * (attenuation - (water if offset else 0)) / (attenuation + 1e-9 if own else water)
        )

    tissues = np.array([0.0, 0.172, 0.19, 0.203, 0.47])  # air, fat, water, muscle, bone; per cm
    cases = {"at one energy": (tissues, 0.19), "at another": (0.9 * tissues, 0.171)}
    mistakes = {
        "water has 0 Hounsfield units, and air -1000": {"offset": False},
        "the difference is divided by water's attenuation, not by the tissue's": {"own": True},
    }
    expect_function("to_hounsfield", to_hounsfield, right, cases, within=1e-3, mistakes=mistakes)
    return "So the numbers of a CT mean the same on every scanner, and those of an MR scan nothing."


@exercise
def exercise_2(best, *, image, bones, levels):
    """Check which threshold agrees best with all bones together."""
    by_dice = {level: dice(image > level, bones) for level in levels}
    mistakes = {
        "there most of the bone is found, and much that is none": (
            lambda: max(levels, key=lambda level: np.mean(image[bones] > level))
        ),
        "there most voxels are right, nearly all of them air": (
            lambda: max(levels, key=lambda level: np.mean((image > level) == bones))
        ),
        "there they agree least": min(by_dice, key=by_dice.get),
    }
    right = max(by_dice, key=by_dice.get)
    expect("best", best, right, within=0, mistakes=mistakes)
    return f"Dice {by_dice[right]:.2f} for all bones together, and no name for any of them."


@exercise
def exercise_3(lost, *, scores):
    """Check what a network loses if it is told the wrong modality."""
    told = scores.dropna(subset=["entropy_mr"])
    told = told.drop_duplicates(["arm", "regime", "seed", "modality", "subject"])

    def right(arm=OWN, sign=1):
        rows = told if arm is None else told[told["arm"] == arm]
        found = {}
        for modality, other in (("mr", "ct"), ("ct", "mr")):
            own = rows[rows["modality"] == modality]
            found[modality] = float(sign * (own[f"dice_{modality}"] - own[f"dice_{other}"]).mean())
        return found

    mistakes = {
        "that is what it gains: the right modality minus the wrong one": lambda: right(sign=-1),
        "that is the network that was distilled": lambda: right(DISTILLED),
        "that is the mean of all arms": lambda: right(None),
        "the modalities are exchanged": lambda: {"mr": right()["ct"], "ct": right()["mr"]},
    }
    expect("lost", lost, right(), within=0.02, mistakes=mistakes)
    return "Its filters know the bones in both; its norms are for one."


@exercise
def exercise_4(fitting_branch):
    """Check a function that finds the branch whose norms an image fits."""

    def right(mean, variance, kept, *, means_alone=False, worst=False, turned=False):
        misfits = []
        for kept_mean, kept_variance in kept:
            top, bottom = (kept_variance, variance) if turned else (variance, kept_variance)
            gap = (mean - kept_mean) ** 2 / bottom
            ratio = top / bottom
            misfits.append(np.mean(gap if means_alone else ratio - 1 - np.log(ratio) + gap))
        return int(np.argmax(misfits) if worst else np.argmin(misfits))

    one = np.array([1.0, 0.5, -0.2])
    cases = {
        "where the means tell": (
            one, np.ones(3), [(one + 0.1, np.ones(3)), (one + 2, np.ones(3))],
        ),
        "where the variances tell": (
            one, np.ones(3), [(one + 0.2, np.full(3, 6.0)), (one + 0.3, np.full(3, 1.2))],
        ),
        "where it is the narrower one that cannot be": (
            one, np.full(3, 4.0), [(one, np.ones(3)), (one, np.full(3, 20.0))],
        ),
    }  # fmt: skip
    mistakes = {
        "that is the branch that fits least": {"worst": True},
        "it looks at the means alone, and variances differ as much": {"means_alone": True},
        "the image is the one that is measured by the norm, not the norm by the image": {
            "turned": True
        },
    }
    expect_function("fitting_branch", fitting_branch, right, cases, within=0, mistakes=mistakes)
    return "It asks what the image is like, not how sure anybody is."
