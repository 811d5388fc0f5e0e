"""Checks of the exercises of chapter 05."""

import numpy as np

from ankle_lib.running.answers import exercise, expect_function


@exercise
def exercise_1(mean_patch_dice):
    """Check a function that scores patches as the report does."""

    def right(found, target, *, empty=1.0, pooled=False, union=False, factor=2.0):
        shared = (found & target).sum((1, 2)).astype(float)
        total = (found.sum((1, 2)) + target.sum((1, 2))).astype(float)
        if pooled:
            return float(factor * shared.sum() / total.sum())
        over = total - shared if union else total
        each = np.full(len(found), empty)
        np.divide((1.0 if union else factor) * shared, over, out=each, where=total > 0)
        return float(np.nanmean(each))

    random = np.random.default_rng(0)
    target = random.random((6, 8, 8)) > 0.6
    found = target ^ (random.random(target.shape) > 0.8)
    target[:3] = False
    found[:2] = False
    cases = {
        "of an empty mask": (np.zeros_like(target), target),
        "of a mask": (found, target),
        "where every patch shows the bone": (found[3:], target[3:]),
    }
    mistakes = {
        "a patch without bone in which none is found counts as 1": {"empty": 0.0},
        "a patch without bone in which none is found counts as 1, and is not left out": {
            "empty": np.nan
        },
        "that is one Dice of all pixels; the report takes one for each patch, then the mean": {
            "pooled": True
        },
        "that is intersection over union; Dice divides twice the one by the sum of both": {
            "union": True
        },
        "the intersection counts twice": {"factor": 1.0},
    }
    expect_function("mean_patch_dice", mean_patch_dice, right, cases, mistakes=mistakes)
    return "So an empty mask earns whatever the patches without bone give away."


@exercise
def exercise_2(normalise):
    """Check a function that normalises a batch in either mode."""

    def right(
        features, kept_mean, kept_variance, training, *, mode=None, axes=(0, 2, 3), root=True
    ):
        if training if mode is None else mode:
            mean, variance = features.mean(axis=axes), features.var(axis=axes)
        else:
            mean, variance = kept_mean, kept_variance
        if mean.ndim == 1:
            mean, variance = mean[:, None, None], variance[:, None, None]
        return (features - mean) / (np.sqrt(variance + 1e-5) if root else variance + 1e-5)

    features = np.random.default_rng(0).normal(2.0, 3.0, (4, 3, 6, 5))
    features[:, 1] += 10
    kept = np.array([1.0, -2.0, 0.5]), np.array([4.0, 9.0, 0.25])
    cases = {
        "in training mode": (features, *kept, True),
        "in evaluation mode": (features, *kept, False),
        "of a single image in training mode": (features[:1], *kept, True),
    }
    mistakes = {
        "it uses the batch's own numbers in both modes: the mistake of 2020": {"mode": True},
        "it uses the kept numbers in both modes": {"mode": False},
        "each channel has one mean, over all patches and all pixels": {"axes": (0,)},
        "channels are mixed; each has a mean of its own": {"axes": (0, 1, 2, 3)},
        "divide by the standard deviation, the root of the variance": {"root": False},
    }
    expect_function("normalise", normalise, right, cases, within=0.005, mistakes=mistakes)
    return "The same weights, two different networks."


@exercise
def exercise_3(soft_dice_loss):
    """Check a function that gives one minus the soft Dice of a batch."""

    def right(probability, target, *, smooth=1.0, hard=False, each=False, sign=1.0, factor=2.0):
        p = (probability > 0.5).astype(float) if hard else probability
        axes = (1, 2) if each else None
        shared, total = (p * target).sum(axes), p.sum(axes) + target.sum(axes)
        with np.errstate(invalid="ignore"):
            soft = (factor * shared + smooth) / (total + smooth)
        return float(np.mean(1 - soft if sign > 0 else soft))

    random = np.random.default_rng(0)
    probability = random.random((3, 6, 6))
    target = (random.random(probability.shape) > 0.7).astype(float)
    target[0] = 0
    cases = {
        "of a batch": (probability, target),
        "of a right answer": (target, target),
        "of a batch without bone": (probability * 0, target * 0),
    }
    mistakes = {
        "a loss is small where the answer is good": {"sign": -1.0},
        "without the 1 above and below, a batch without bone is 0 / 0": {"smooth": 0.0},
        "a threshold has no derivative: multiply the probabilities themselves": {"hard": True},
        "it is one Dice of the whole batch, not a mean over patches": {"each": True},
        "the shared part counts twice": {"factor": 1.0},
    }
    expect_function("soft_dice_loss", soft_dice_loss, right, cases, within=1e-4, mistakes=mistakes)
    return "It sees at once that an empty mask is worth nothing, however little bone there is."


@exercise
def exercise_4(tiled):
    """Check a function that predicts a slice in overlapping tiles."""

    def right(image, predict, side, step, *, rest=True, way="mean"):
        total, count = np.zeros(image.shape), np.zeros(image.shape)
        firsts = []
        for length in image.shape:
            own = list(range(0, length - side + 1, step))
            if rest and own[-1] + side < length:
                own.append(length - side)
            firsts.append(own)
        for row in firsts[0]:
            for column in firsts[1]:
                place = np.s_[row : row + side, column : column + side]
                if way == "last":
                    total[place], count[place] = 0, 0
                total[place] += predict(image[place])
                count[place] += 1
        return total if way == "sum" else total / np.maximum(count, 1)

    image = np.random.default_rng(0).random((20, 23))
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    cases = {
        "where a tile is a part of the answer": (image[:16, :16], lambda tile: tile, 8, 8),
        "where tiles overlap": (image[:16, :16], lambda tile: tile, 8, 4),
        "where the sides are no multiples": (image, lambda tile: tile, 8, 4),
        "where a tile's answer depends on its border": (image, lambda tile: tile + ramp, 8, 4),
    }
    mistakes = {
        "answers of tiles that overlap are added up; take their mean": {"way": "sum"},
        "the last tile overwrites the others; take the mean of all": {"way": "last"},
        "the last rows or columns stay empty: one more tile, flush with the border": {
            "rest": False
        },
    }
    expect_function("tiled", tiled, right, cases, within=1e-4, mistakes=mistakes)
    return "What a network sees is as large as in its training, whatever the scan."
