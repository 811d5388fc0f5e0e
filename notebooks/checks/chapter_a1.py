"""Checks of the exercises of the primer A1."""

import numpy as np
from scipy import ndimage

from ankle_lib.running.answers import exercise, expect, expect_function


@exercise
def exercise_1(output_side):
    """Check a function that tells how large the image is that a convolution gives."""

    def right(side, kernel, stride, padding, *, both=2, last=1, stepped=True, up=False):
        span = side + both * padding - kernel
        steps = (-(-span // stride) if up else span // stride) if stepped else span
        return steps + last

    cases = {
        "for 3 x 3 with a border of 1": (32, 3, 1, 1),
        "for 3 x 3 without a border": (32, 3, 1, 0),
        "for 2 x 2 in steps of 2": (32, 2, 2, 0),
        "for 3 x 3 in steps of 2 on an odd side": (33, 3, 2, 1),
        "for 7 x 7 in steps of 2": (32, 7, 2, 3),
    }
    mistakes = {
        "the border is added at both ends": {"both": 1},
        "a kernel that fits twice has two places: steps, and one more": {"last": 0},
        "the kernel makes steps": {"stepped": False},
        "a kernel that reaches beyond the border has no place: round down": {"up": True},
    }
    expect_function("output_side", output_side, right, cases, within=0, mistakes=mistakes)
    return "Every network is a chain of these."


@exercise
def exercise_2(wide_weights, narrow_weights):
    """Check how many weights a wide convolution and a bottleneck have."""
    mistakes = {
        "there are no biases": 9 * 256 * 256 + 256,
        "that is for one channel of the answer; there are 256": 9 * 256,
        "a 3 x 3 kernel has nine weights": 256 * 256,
        "each pair of channels has nine weights, not three": 3 * 256 * 256,
    }
    expect("wide_weights", wide_weights, 9 * 256 * 256, within=0, mistakes=mistakes)
    mistakes = {
        "there are no biases": 69632 + 64 + 64 + 256,
        "the way back to 256 channels is missing": 256 * 64 + 9 * 64 * 64,
        "the 1 x 1 convolutions have one weight for each pair of channels": (
            9 * (256 * 64 + 64 * 64 + 64 * 256)
        ),
        "the 3 x 3 convolution is missing": 2 * 256 * 64,
        "the 3 x 3 convolution has nine weights for each pair of channels": (
            2 * 256 * 64 + 64 * 64
        ),
    }
    expect("narrow_weights", narrow_weights, 69632, within=0, mistakes=mistakes)
    return "The bottleneck needs an eighth of the weights."


@exercise
def exercise_3(best_mm, *, image, partner, shifts_mm, pixel_mm):
    """Check at which shift mutual information is largest, for several numbers of bins."""
    middle = tuple(slice(n // 6, n - n // 6) for n in image.shape)
    soft = ndimage.gaussian_filter(partner, 1.0)
    moved = [ndimage.shift(soft, (mm / pixel_mm, 0), order=1)[middle] for mm in shifts_mm]

    def information(other, bins):
        both = np.histogram2d(image[middle].ravel(), other.ravel(), bins)[0]
        both /= both.sum()
        alone = both.sum(axis=1, keepdims=True) * both.sum(axis=0, keepdims=True)
        return (both[both > 0] * np.log(both[both > 0] / alone[both > 0])).sum()

    alike = {bins: np.array([information(one, bins) for one in moved]) for bins in (4, 32, 512)}
    mistakes = {
        "there it is smallest": {n: float(shifts_mm[one.argmin()]) for n, one in alike.items()},
        "these are numbers of shifts; look up the mm": {
            n: int(one.argmax()) for n, one in alike.items()
        },
        "these are the largest values; their places are asked for": {
            n: float(one.max()) for n, one in alike.items()
        },
    }
    right = {n: float(shifts_mm[one.argmax()]) for n, one in alike.items()}
    expect("best_mm", best_mm, right, within=1e-6, mistakes=mistakes)
    return "Few bins throw tissues together; with many, most pairs of grey values are never seen."


@exercise
def exercise_4(receptive_field):
    """Check a function that tells how many pixels decide one pixel of an answer."""

    def right(layers, *, strides=True, late=False, product=False, begin=1, full=False):
        field, step = begin, 1
        for kernel, stride in layers:
            if late and strides:
                step *= stride
            if product:
                field *= kernel
            else:
                field += (kernel - (0 if full else 1)) * step
            if strides and not late:
                step *= stride
        return field

    cases = {
        "of three 3 x 3 convolutions": ([(3, 1)] * 3,),
        "of a convolution, a pooling, and another convolution": ([(3, 1), (2, 2), (3, 1)],),
        "of one layer": ([(7, 2)],),
        "of the report's way down": ([*[(3, 1)] * 3, (2, 2)] * 3,),
    }
    mistakes = {
        "after a pooling, neighbours lie two pixels of the image apart": {"strides": False},
        "a stride counts for the layers that follow, not for its own": {"late": True},
        "fields are not multiplied: a kernel of 3 adds one neighbour at each side": {
            "product": True
        },
        "a layer that sees one pixel more at each side adds 2, not 3": {"full": True},
        "without any layer, one pixel decides": {"begin": 0},
    }
    expect_function("receptive_field", receptive_field, right, cases, within=0, mistakes=mistakes)
    return "In mm it tells whether a network can know which bone it looks at."
