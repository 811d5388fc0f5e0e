"""How much an image looks like the true one: error, correlation, structure, sharpness.

Every function compares an image with the truth on one grid, inside a mask. The data range is the
caller's to give, since a PSNR means nothing without it (see `intensity_range`). Nothing is dropped
silently: an empty mask or a value inside it that is not finite is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError

RANGE_PERCENTILES = (0.5, 99.5)
"""Between them lies the data range: single bright voxels must not decide."""

SSIM_SIGMA = 1.5
"""Of the Gaussian window in pixels (Wang et al. 2004)."""

DETAIL_SIGMA = 1.0
"""Detail is what a Gaussian of so many pixels takes away."""

SHIFT_STEPS = 4
"""Gauss-Newton steps towards the best shift, with the slopes of the image as it is."""

SHIFT_POINTS = 40_000
"""Of larger images, so many pixels, evenly spread, tell how much a shift helps."""

CONSTANT = 1e-6
"""A standard deviation below this part of the largest absolute value is rounding."""


class ImageScores(NamedTuple):
    """Agreement of an image with the truth."""

    correlation: float
    psnr_db: float
    ssim: float
    nrmse: float
    sharpness: float
    detail: float
    shifted_psnr_db: float


def image_scores(
    image: NDArray,
    truth: NDArray,
    mask: NDArray[np.bool_] | None = None,
    *,
    data_range: float,
    spacing: Sequence[float] | None = None,
) -> ImageScores:
    """Return all scores at once.

    Parameters
    ----------
    image, truth : arrays of one shape, 2D or 3D
        3D: sagittal slices ``[:, :, k]``.
    mask : bool array of this shape, optional
        Pixels that count; all by default.
    data_range : float
        Of the PSNRs and the SSIM, see `intensity_range`.
    spacing : one float per axis, optional
        Distance of pixels along each axis, for the sharpness; 1 by default.

    Raises
    ------
    AnkleError
        If shapes differ, the mask is empty, a value inside it is not finite, or the range is not
        positive.
    """
    return ImageScores(
        correlation(image, truth, mask),
        psnr_db(image, truth, mask, data_range=data_range),
        ssim(image, truth, mask, data_range=data_range),
        nrmse(image, truth, mask),
        sharpness(image, truth, mask, spacing=spacing),
        detail(image, truth, mask),
        shifted_psnr_db(image, truth, mask, data_range=data_range),
    )


def intensity_range(truth: NDArray, mask: NDArray[np.bool_] | None = None) -> float:
    """Return the data range: from the 0.5th to the 99.5th percentile of the truth in the mask.

    Raises
    ------
    AnkleError
        If the truth is constant there; also as `image_scores`.
    """
    _, values, _ = _inside(truth, truth, mask)
    low, high = np.percentile(values, RANGE_PERCENTILES)
    if not high - low > 0:
        raise AnkleError(f"the true image is constant in the mask ({low:g}): it has no data range")
    return float(high - low)


def correlation(image: NDArray, truth: NDArray, mask: NDArray[np.bool_] | None = None) -> float:
    """Return Pearson's correlation, the report's measure; 0 if image or truth is constant."""
    first, second, _ = _inside(image, truth, mask)
    one, two = first - first.mean(), second - second.mean()
    if _is_constant(first, one) or _is_constant(second, two):
        return 0.0
    return float((one @ two) / math.sqrt((one @ one) * (two @ two)))


def psnr_db(
    image: NDArray,
    truth: NDArray,
    mask: NDArray[np.bool_] | None = None,
    *,
    data_range: float,
) -> float:
    """Return the peak signal to noise ratio, 10 log10(range² / mean squared error).

    Infinite if image and truth are equal. Parameters and errors are those of `image_scores`.
    """
    first, second, _ = _inside(image, truth, mask)
    return _psnr(float(np.mean((first - second) ** 2)), data_range)


def nrmse(image: NDArray, truth: NDArray, mask: NDArray[np.bool_] | None = None) -> float:
    """Return the root mean squared error as part of the truth's root mean square.

    Raises
    ------
    AnkleError
        If the truth is 0 everywhere in the mask; also as `image_scores`.
    """
    first, second, _ = _inside(image, truth, mask)
    size = float(np.mean(second**2))
    if size == 0:
        raise AnkleError("the true image is 0 everywhere in the mask: no error is a part of that")
    return math.sqrt(float(np.mean((first - second) ** 2)) / size)


def ssim(
    image: NDArray,
    truth: NDArray,
    mask: NDArray[np.bool_] | None = None,
    *,
    data_range: float,
) -> float:
    """Return the mean structural similarity of slices, in the mask (Wang et al. 2004).

    Gaussian windows of 1.5 pixels, as in the paper. A 3D image is compared slice by slice,
    ``[:, :, k]``. Two constant images of one value give 1.

    Parameters and errors are those of `image_scores`; besides, slices must be at least 11 x 11.
    """
    # scikit-image takes a second to import
    from skimage.metrics import structural_similarity

    _, _, chosen = _inside(image, truth, mask)
    _check_range(data_range)
    if min(image.shape[:2]) < 11:
        raise AnkleError(f"SSIM of slices of {image.shape[:2]} pixels: its window needs 11 x 11")
    one, two = (np.atleast_3d(array).astype(np.float64) for array in (image, truth))
    # outside the mask anything may lie, but the windows reach there
    one, two = np.nan_to_num(one), np.nan_to_num(two)
    places = np.atleast_3d(chosen)
    total = 0.0
    for k in np.flatnonzero(places.any(axis=(0, 1))):
        _, similar = structural_similarity(
            one[:, :, k],
            two[:, :, k],
            data_range=data_range,
            gaussian_weights=True,
            sigma=SSIM_SIGMA,
            use_sample_covariance=False,
            full=True,
        )
        total += float(similar[places[:, :, k]].sum())
    return float(total / np.count_nonzero(places))


def sharpness(
    image: NDArray,
    truth: NDArray,
    mask: NDArray[np.bool_] | None = None,
    *,
    spacing: Sequence[float] | None = None,
) -> float:
    """Return the image's root mean squared gradient as part of the truth's.

    1: as sharp as the truth; less: smoother; more: sharper, or noisy, which it cannot tell apart
    (`detail` can). Gradients are central differences along every axis.

    Parameters
    ----------
    image, truth, mask
        As in `image_scores`.
    spacing : one float per axis, optional
        Distance of pixels along each axis, e.g. in mm; 1 by default.

    Raises
    ------
    AnkleError
        If the truth is constant around the mask; also as `image_scores`.
    """
    _, _, chosen = _inside(image, truth, mask)
    first, second = (_gradient_energy(array, chosen, spacing) for array in (image, truth))
    if second == 0:
        raise AnkleError("the true image is constant around the mask: nothing is as sharp as that")
    return math.sqrt(first / second)


def detail(image: NDArray, truth: NDArray, mask: NDArray[np.bool_] | None = None) -> float:
    """Return which part of the truth's fine detail the image holds.

    Both are freed of what a Gaussian of one pixel keeps; the slope of the regression of the one on
    the other is 1 if all detail is there, 0 if none is. Noise in the image does not change it.

    Raises
    ------
    AnkleError
        If the truth has no detail; also as `image_scores`.
    """
    _, _, chosen = _inside(image, truth, mask)
    one, two = (_fine(array)[chosen] for array in (image, truth))
    energy = float(two @ two)
    if energy == 0:
        raise AnkleError("the true image has no detail in the mask: there is none to be found")
    return float(one @ two) / energy


def shifted_psnr_db(
    image: NDArray,
    truth: NDArray,
    mask: NDArray[np.bool_] | None = None,
    *,
    data_range: float,
    most_pixels: float = 1.0,
) -> float:
    """Return the PSNR after the best shift of the image, of at most a pixel along each axis.

    What a registration leaves is a shift, which a PSNR punishes like a wrong image. The shift is
    found by least squares, and is not taken if it does not help. What the outermost pixels of the
    array gain or lose by it does not count.

    Parameters
    ----------
    image, truth, mask, data_range
        As in `image_scores`.
    most_pixels : float
        Largest shift along an axis.
    """
    exact = psnr_db(image, truth, mask, data_range=data_range)
    _, _, chosen = _inside(image, truth, mask)
    edge = math.ceil(most_pixels)
    core = np.zeros_like(chosen)
    core[tuple(slice(edge, -edge) if n > 2 * edge else slice(None) for n in image.shape)] = True
    points = np.argwhere(chosen & core)
    points = points[:: max(1, len(points) // SHIFT_POINTS)].T
    if not points.size:
        return exact
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    wanted = np.asarray(truth, dtype=np.float64)[tuple(points)]
    slopes = np.stack([slope[tuple(points)] for slope in _gradients(values)], axis=1)
    spline = ndimage.spline_filter(values, order=3, mode="nearest")
    found = values[tuple(points)]
    errors = [float(np.mean((found - wanted) ** 2))]
    shift = np.zeros(image.ndim)
    for _ in range(SHIFT_STEPS):
        step = np.linalg.lstsq(slopes, found - wanted, rcond=None)[0]
        shift = np.clip(shift + step, -most_pixels, most_pixels)
        found = ndimage.map_coordinates(
            spline, points - shift[:, None], order=3, mode="nearest", prefilter=False
        )
        errors.append(float(np.mean((found - wanted) ** 2)))
    if min(errors) == 0 or math.isinf(exact):
        return math.inf
    return exact + 10 * math.log10(errors[0] / min(errors))


def _inside(
    image: NDArray, truth: NDArray, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the values of image and truth in the mask, and the mask."""
    chosen = np.ones(image.shape, dtype=bool) if mask is None else np.asarray(mask) > 0
    if not image.shape == truth.shape == chosen.shape:
        raise AnkleError(
            f"image, truth and mask have shapes {image.shape}, {truth.shape} and {chosen.shape}: "
            "resample them to one grid"
        )
    if image.ndim not in (2, 3):
        raise AnkleError(f"an image of {image.ndim} axes cannot be scored: give 2 or 3")
    if not chosen.any():
        raise AnkleError("the mask is empty: there is nothing to score")
    first, second = (np.asarray(array[chosen], dtype=np.float64) for array in (image, truth))
    for name, values in (("image", first), ("truth", second)):
        n_bad = int(np.count_nonzero(~np.isfinite(values)))
        if n_bad:
            raise AnkleError(f"the {name} holds {n_bad} values in the mask that are not finite")
    return first, second, chosen


def _check_range(data_range: float) -> None:
    if not (math.isfinite(data_range) and data_range > 0):
        raise AnkleError(f"the data range is {data_range}: give a positive number")


def _psnr(squared_error: float, data_range: float) -> float:
    _check_range(data_range)
    if squared_error == 0:
        return math.inf
    return 10 * math.log10(data_range**2 / squared_error)


def _is_constant(values: NDArray[np.float64], centred: NDArray[np.float64]) -> bool:
    return float(np.sqrt(np.mean(centred**2))) <= CONSTANT * float(np.abs(values).max())


def _gradient_energy(
    array: NDArray, chosen: NDArray[np.bool_], spacing: Sequence[float] | None
) -> float:
    steps = [1.0] * array.ndim if spacing is None else list(spacing)
    if len(steps) != array.ndim or min(steps) <= 0:
        raise AnkleError(f"spacing {steps} for {array.ndim} axes: give as many positive lengths")
    smooth = np.nan_to_num(np.asarray(array, dtype=np.float32))
    return sum(
        float(np.mean((slope[chosen].astype(np.float64) / step) ** 2))
        for slope, step in zip(_gradients(smooth), steps, strict=True)
    )


def _gradients(array: NDArray) -> Iterator[NDArray]:
    """Yield central differences along every axis; 0 along an axis of one pixel."""
    for axis, length in enumerate(array.shape):
        yield np.gradient(array, axis=axis) if length > 1 else np.zeros_like(array)


def _fine(array: NDArray) -> NDArray[np.float64]:
    values = np.nan_to_num(np.asarray(array, dtype=np.float64))
    fine: NDArray[np.float64] = values - ndimage.gaussian_filter(values, DETAIL_SIGMA)
    return fine
