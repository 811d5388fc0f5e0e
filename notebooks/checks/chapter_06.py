"""Checks of the exercises of chapter 06."""

import numpy as np

from ankle_lib.reconstruction.report_networks import best_reachable, degrees_of_freedom
from ankle_lib.running.answers import exercise, expect, expect_function


@exercise
def exercise_1(degrees, bounds, *, targets):
    """Check the degrees of freedom and the bounds of networks that enlarge by several factors."""
    pixels, factors = targets.shape[-1], (1, 2, 4, 8)
    mistakes = {
        "these are the pixels along one side; an image has as many rows": {
            factor: -(-pixels // factor) for factor in factors
        },
        "the factor counts along both sides": {factor: pixels**2 // factor for factor in factors},
    }
    right = {factor: degrees_of_freedom(pixels, factor) for factor in factors}
    expect("degrees", degrees, right, within=0, mistakes=mistakes)

    def alike(rows=None):
        shape = (rows or len(targets), -1)
        found, wanted = {}, targets.cpu().numpy().reshape(shape)
        for factor in factors:
            nearest = best_reachable(targets, factor).cpu().numpy().reshape(shape)
            pairs = zip(nearest, wanted, strict=True)
            found[factor] = float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))
        return found

    mistakes = {
        "that is one correlation of all patches; take the mean of theirs": lambda: alike(1),
        "these are squares of correlations": lambda: {f: r**2 for f, r in alike().items()},
    }
    expect("bounds", bounds, alike(), within=0.003, mistakes=mistakes)
    return "Before any training it is known how well a network can do at most."


@exercise
def exercise_2(psnr_db):
    """Check a function that measures the peak signal-to-noise ratio."""

    def right(image, truth, data_range, *, factor=10.0, log=np.log10, peak=2, sign=1.0, own=False):
        error = np.mean((image - truth) ** 2)
        span = np.ptp(truth) if own else data_range
        return float(sign * factor * log(span**peak / error))

    random = np.random.default_rng(0)
    truth = random.normal(0, 1, (16, 16))
    image = truth + random.normal(0, 0.3, truth.shape)
    cases = {
        "of a noisy image": (image, truth, 6.0),
        "of twice the noise": (2 * image - truth, truth, 6.0),
        "in other units": (100 * image, 100 * truth, 600.0),
    }
    mistakes = {
        "decibels are ten times the *decimal* logarithm": {"log": np.log},
        "ten times the logarithm of squares, or twenty times that of their roots: not both": {
            "factor": 20.0
        },
        "the squared error belongs to the squared range": {"peak": 1},
        "more is better: the error stands below": {"sign": -1.0},
        "the range is given; that of one image depends on its noise": {"own": True},
    }
    expect_function("psnr_db", psnr_db, right, cases, within=1e-3, mistakes=mistakes)
    return "Twice the error costs 6 dB, whatever the unit."


@exercise
def exercise_3(averaged):
    """Check a function that averages thin slices to thick ones."""

    def right(sharp, n, *, way="mean", axis=2):
        groups = np.moveaxis(sharp, axis, 2)
        groups = groups.reshape(*groups.shape[:2], -1, n)
        ways = {
            "mean": groups.mean(axis=3),
            "sum": groups.sum(axis=3),
            "middle": groups[..., n // 2],
            "first": groups[..., 0],
            "mixed": groups.reshape(*groups.shape[:2], n, -1).mean(axis=2),
        }
        return np.moveaxis(ways[way], 2, axis)

    sharp = np.random.default_rng(0).normal(400, 100, (12, 12, 12))
    cases = {"of 4 thin slices": (sharp, 4), "of 3 thin slices": (sharp, 3)}
    mistakes = {
        "that is their sum; a scanner's voxel is as bright as its tissue on average": {
            "way": "sum"
        },
        "the middle slice alone: so the targets of 2020 were made": {"way": "middle"},
        "one slice of each group alone": {"way": "first"},
        "slices that lie apart are averaged; those of a thick slice lie side by side": {
            "way": "mixed"
        },
        "slices are stacked along the third axis": {"axis": 0},
    }
    expect_function("averaged", averaged, right, cases, within=1e-4, mistakes=mistakes)
    return "The scanner's part of the model, in one line."


@exercise
def exercise_4(agreeing):
    """Check a function that changes a sharp image until it averages to the measured one."""

    def right(sharp, thick, *, way="repeat", part=1.0):
        n = sharp.shape[2] // thick.shape[2]
        means = sharp.reshape(*thick.shape, n).mean(axis=3)
        lacking = part * (thick - means)
        ways = {
            "repeat": sharp + np.repeat(lacking, n, axis=2),
            "tile": sharp + np.tile(lacking, (1, 1, n)),
            "minus": sharp - np.repeat(lacking, n, axis=2),
            "replaced": np.repeat(thick, n, axis=2),
            "n": sharp + np.repeat(lacking, n, axis=2) / n,
            "nothing": sharp,
        }
        return ways[way]

    random = np.random.default_rng(0)
    sharp, thick = random.normal(400, 100, (6, 5, 12)), random.normal(420, 60, (6, 5, 3))
    cases = {
        "for slices of 4": (sharp, thick),
        "for slices of 2": (sharp, random.normal(420, 60, (6, 5, 6))),
    }
    mistakes = {
        "all that was sharp is gone; add what is lacking, and keep the rest": {"way": "replaced"},
        "a thin slice gets what another thick slice lacks (np.repeat, not np.tile)": {
            "way": "tile"
        },
        "it moves away from the measured image: add measured minus averaged": {"way": "minus"},
        "the mean of n equal parts is one part: do not divide by n": {"way": "n"},
        "nothing has changed": {"way": "nothing"},
    }
    expect_function("agreeing", agreeing, right, cases, within=1e-4, mistakes=mistakes)
    return "Nothing is invented that the measurement contradicts."
