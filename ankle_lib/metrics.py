"""How well masks and images agree with the truth, and intervals over subjects.

Nothing is dropped silently. A bone that one mask has and the other misses is penalised: Dice 0,
and distances as long as the image's diagonal. Where neither mask has it there is nothing to
measure: NaN, which `bootstrap_interval` leaves out. Images are compared on one grid, inside a
mask; an empty mask, or a value inside it that is not finite, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from ankle_lib.files import AnkleError

HD_PERCENTILE = 95.0

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

Mask = NDArray[np.bool_]


# --- masks ---


class MaskScores(NamedTuple):
    """Agreement of two masks."""

    dice: float
    hd95_mm: float
    assd_mm: float


def dice(first: Mask, second: Mask) -> float:
    """Return the Dice overlap 2 |A and B| / (|A| + |B|).

    Parameters
    ----------
    first, second : bool arrays of one shape

    Returns
    -------
    float
        In [0, 1]; 0 if only one mask is empty, NaN if both are.

    Raises
    ------
    AnkleError
        If the shapes differ.
    """
    _check_shapes("Dice", first, second)
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2.0 * np.count_nonzero(first & second) / total) if total else math.nan


def patch_dice(first: Mask, second: Mask) -> NDArray[np.float64]:
    """Return the Dice of each patch, as the report averages them (its Tables 6.1 to 6.3).

    Not comparable with the Dice of a volume: every patch weighs the same, however little bone it
    shows, and two empty patches count as perfect.

    Parameters
    ----------
    first, second : (N, ...) bool arrays
        Patches along the first axis.

    Returns
    -------
    (N,) float64 array
        In [0, 1]; 1 if both patches are empty.

    Raises
    ------
    AnkleError
        If the shapes differ.
    """
    _check_shapes("Dice of patches", first, second)
    within = tuple(range(1, first.ndim))
    total = np.count_nonzero(first, axis=within) + np.count_nonzero(second, axis=within)
    common = np.count_nonzero(first & second, axis=within)
    return np.where(total == 0, 1.0, 2.0 * common / np.maximum(total, 1))


def mask_scores(first: Mask, second: Mask, voxel_size_mm: Sequence[float]) -> MaskScores:
    """Return Dice, HD95 and ASSD together; the surfaces are searched once.

    HD95 is the larger of the 95th percentiles of the two directions, as MONAI has it (others take
    the percentile of both directions together), ASSD the mean over the voxels of both surfaces.
    Both are the image's diagonal if only one mask is empty, and NaN if both are. Parameters and
    errors are those of `surface_distances`.

    Examples
    --------
    >>> bone = np.zeros((9, 9, 9), dtype=bool)
    >>> bone[2:6, 2:6, 2:6] = True
    >>> mask_scores(np.roll(bone, 1, axis=0), bone, (0.5, 0.5, 2.0)).hd95_mm
    0.5
    """
    distances = surface_distances(first, second, voxel_size_mm)
    both = np.concatenate(distances)
    if both.size == 0:
        return MaskScores(dice(first, second), math.nan, math.nan)
    percentiles = [float(np.percentile(one, HD_PERCENTILE)) for one in distances if one.size]
    return MaskScores(dice(first, second), max(percentiles), float(both.mean()))


def surface_distances(
    first: Mask, second: Mask, voxel_size_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far each surface voxel of one mask lies from the other mask's surface.

    A surface voxel belongs to the mask and has a face neighbour that does not, or lies at the
    image's border. Distances are between voxel centres.

    Parameters
    ----------
    first, second : bool arrays of one shape
        Images of any number of axes.
    voxel_size_mm : one float per axis

    Returns
    -------
    from_first, from_second : (n,) and (m,) float64 arrays
        In mm. If the other mask is empty, every distance is the image's diagonal: no true
        distance within the image is longer.

    Raises
    ------
    AnkleError
        If the shapes differ, or the voxel size does not fit them.
    """
    _check_shapes("surface distances", first, second)
    voxel = np.asarray(voxel_size_mm, dtype=np.float64)
    if voxel.shape != (first.ndim,) or not (np.isfinite(voxel) & (voxel > 0)).all():
        raise AnkleError(
            f"voxel size {voxel_size_mm} for an array of {first.ndim} axes: give as many positive "
            "lengths in mm"
        )
    diagonal = float(np.linalg.norm(voxel * first.shape))
    points = [_surface(np.asarray(mask, dtype=bool)) * voxel for mask in (first, second)]
    return _nearest(points[0], points[1], diagonal), _nearest(points[1], points[0], diagonal)


def _check_shapes(what: str, first: NDArray, second: NDArray) -> None:
    if first.shape != second.shape:
        raise AnkleError(f"{what} of masks with shapes {first.shape} and {second.shape}")


def _surface(mask: Mask) -> NDArray[np.int_]:
    """Return the surface voxels' indices, shape (n, axes), searched within the mask's box."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return np.empty((0, mask.ndim), dtype=int)
    inside = mask[box[0]]
    edge = inside & ~ndimage.binary_erosion(inside)
    return np.argwhere(edge) + [axis.start for axis in box[0]]


def _nearest(
    points: NDArray[np.float64], others: NDArray[np.float64], diagonal: float
) -> NDArray[np.float64]:
    if len(others) == 0:
        return np.full(len(points), diagonal)
    return np.asarray(KDTree(others).query(points)[0], dtype=np.float64).reshape(len(points))


# --- images ---


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
    mask: Mask | None = None,
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
        Distance of pixels along each axis; 1 by default. Infinite where neighbours in the array
        are none in the image, as slices between which others were left out: then nothing is
        compared across this axis.

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
        detail(image, truth, mask, spacing=spacing),
        shifted_psnr_db(image, truth, mask, data_range=data_range, spacing=spacing),
    )


def intensity_range(truth: NDArray, mask: Mask | None = None) -> float:
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


def correlation(image: NDArray, truth: NDArray, mask: Mask | None = None) -> float:
    """Return Pearson's correlation, the report's measure; 0 if image or truth is constant."""
    first, second, _ = _inside(image, truth, mask)
    one, two = first - first.mean(), second - second.mean()
    if _is_constant(first, one) or _is_constant(second, two):
        return 0.0
    return float((one @ two) / math.sqrt((one @ one) * (two @ two)))


def psnr_db(
    image: NDArray, truth: NDArray, mask: Mask | None = None, *, data_range: float
) -> float:
    """Return the peak signal to noise ratio, 10 log10(range² / mean squared error).

    Infinite if image and truth are equal. Parameters and errors are those of `image_scores`.
    """
    first, second, _ = _inside(image, truth, mask)
    return _psnr(float(np.mean((first - second) ** 2)), data_range)


def nrmse(image: NDArray, truth: NDArray, mask: Mask | None = None) -> float:
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


def ssim(image: NDArray, truth: NDArray, mask: Mask | None = None, *, data_range: float) -> float:
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
    mask: Mask | None = None,
    *,
    spacing: Sequence[float] | None = None,
) -> float:
    """Return the image's root mean squared gradient as part of the truth's.

    1: as sharp as the truth; less: smoother; more: sharper, or noisy, which it cannot tell apart
    (`detail` can). Gradients are central differences along every axis.

    Parameters
    ----------
    image, truth, mask, spacing
        As in `image_scores`.

    Raises
    ------
    AnkleError
        If the truth is constant around the mask; also as `image_scores`.
    """
    _, _, chosen = _inside(image, truth, mask)
    steps = _steps(image, spacing)
    first, second = (_gradient_energy(array, chosen, steps) for array in (image, truth))
    if second == 0:
        raise AnkleError("the true image is constant around the mask: nothing is as sharp as that")
    return math.sqrt(first / second)


def detail(
    image: NDArray,
    truth: NDArray,
    mask: Mask | None = None,
    *,
    spacing: Sequence[float] | None = None,
) -> float:
    """Return which part of the truth's fine detail the image holds.

    Both are freed of what a Gaussian of one pixel keeps; the slope of the regression of the one on
    the other is 1 if all detail is there, 0 if none is. Noise in the image does not change it.
    Parameters are those of `image_scores`.

    Raises
    ------
    AnkleError
        If the truth has no detail; also as `image_scores`.
    """
    _, _, chosen = _inside(image, truth, mask)
    sigmas = np.where(np.isinf(_steps(image, spacing)), 0.0, DETAIL_SIGMA)
    one, two = (_fine(array, sigmas)[chosen] for array in (image, truth))
    energy = float(two @ two)
    if energy == 0:
        raise AnkleError("the true image has no detail in the mask: there is none to be found")
    return float(one @ two) / energy


def shifted_psnr_db(
    image: NDArray,
    truth: NDArray,
    mask: Mask | None = None,
    *,
    data_range: float,
    spacing: Sequence[float] | None = None,
) -> float:
    """Return the PSNR after the best shift of the image, of at most a pixel along each axis.

    What a registration leaves is a shift, which a PSNR punishes like a wrong image. The shift is
    found by least squares, and is not taken if it does not help. What the outermost pixels of the
    array gain or lose by it does not count.

    Parameters
    ----------
    image, truth, mask, data_range, spacing
        As in `image_scores`.
    """
    exact = psnr_db(image, truth, mask, data_range=data_range)
    _, _, chosen = _inside(image, truth, mask)
    joined = np.isfinite(_steps(image, spacing))
    core = np.zeros_like(chosen)
    core[
        tuple(
            slice(1, -1) if near and n > 2 else slice(None)
            for near, n in zip(joined, image.shape, strict=True)
        )
    ] = True
    points = np.argwhere(chosen & core)
    points = points[:: max(1, len(points) // SHIFT_POINTS)].T
    if not points.size:
        return exact
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    wanted = np.asarray(truth, dtype=np.float64)[tuple(points)]
    slopes = np.stack([_slope(values, axis)[tuple(points)] for axis in range(image.ndim)], axis=1)
    slopes *= joined
    spline = ndimage.spline_filter(values, order=3, mode="nearest")
    found = values[tuple(points)]
    errors = [float(np.mean((found - wanted) ** 2))]
    shift = np.zeros(image.ndim)
    for _ in range(SHIFT_STEPS):
        step = np.linalg.lstsq(slopes, found - wanted, rcond=None)[0]
        shift = np.clip(shift + step, -1, 1)
        found = ndimage.map_coordinates(
            spline, points - shift[:, None], order=3, mode="nearest", prefilter=False
        )
        errors.append(float(np.mean((found - wanted) ** 2)))
    if min(errors) == 0 or math.isinf(exact):
        return math.inf
    return exact + 10 * math.log10(errors[0] / min(errors))


def _inside(
    image: NDArray, truth: NDArray, mask: Mask | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], Mask]:
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


def _steps(image: NDArray, spacing: Sequence[float] | None) -> NDArray[np.float64]:
    steps = np.ones(image.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if steps.shape != (image.ndim,) or not (steps > 0).all():
        raise AnkleError(f"spacing {spacing} for {image.ndim} axes: give as many positive lengths")
    return steps


def _gradient_energy(array: NDArray, chosen: Mask, steps: NDArray[np.float64]) -> float:
    smooth = np.nan_to_num(np.asarray(array, dtype=np.float32))
    return sum(
        float(np.mean((_slope(smooth, axis)[chosen].astype(np.float64) / step) ** 2))
        for axis, step in enumerate(steps)
    )


def _slope(array: NDArray, axis: int) -> NDArray:
    """Return central differences along an axis; 0 along an axis of one pixel."""
    return np.gradient(array, axis=axis) if array.shape[axis] > 1 else np.zeros_like(array)


def _fine(array: NDArray, sigmas: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.nan_to_num(np.asarray(array, dtype=np.float64))
    fine: NDArray[np.float64] = values - ndimage.gaussian_filter(values, sigmas)
    return fine


# --- subjects ---


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike,
    subjects: Sequence[str],
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean over subjects and its percentile bootstrap interval.

    Values of one subject (its bones, frames or patches) are not independent, so each subject
    first becomes its own mean, and whole subjects are drawn with replacement (Efron 1979).

    Parameters
    ----------
    values : (N,) floats
        NaN, for a bone that neither mask has, is left out; so is a subject that has only NaN.
    subjects : N codes
        Whose value it is.
    n : int
        Number of draws.
    seed : int
    level : float
        Part of the draws between low and high.

    Returns
    -------
    Interval
        Mean, low, high. NaN for low and high with a single subject, whose spread nobody knows,
        and for all three without any.

    Raises
    ------
    AnkleError
        If the lengths differ, or a value is infinite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(subjects),):
        raise AnkleError(f"{numbers.shape} values for {len(subjects)} subjects: give one for each")
    if np.isinf(numbers).any():
        raise AnkleError("an infinite value has no mean: score missed bones by the diagonal")
    measured = ~np.isnan(numbers)
    _, owner = np.unique(np.asarray(subjects)[measured], return_inverse=True)
    if owner.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    means = np.bincount(owner, weights=numbers[measured]) / np.bincount(owner)
    if len(means) == 1:
        return Interval(float(means[0]), math.nan, math.nan)
    draws = np.random.default_rng(seed).integers(len(means), size=(n, len(means)))
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(means[draws].mean(axis=1), [tail, 100.0 - tail])
    return Interval(float(means.mean()), float(low), float(high))
