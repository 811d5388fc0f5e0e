"""How well masks and images agree with the truth, and intervals over subjects.

Nothing is dropped silently. A bone that one mask has and the other misses is penalised: Dice 0,
and distances as long as the image's diagonal. Where neither mask has it there is nothing to
measure: NaN, which `bootstrap_interval` leaves out. Images are compared on one grid, inside a
mask; an empty mask, or a value inside it that is not finite, is refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError

HD_PERCENTILE = 95.0

NEAREST = 0.1
"""Part of a bone's surface, the nearest to the other bone, of which a joint's gap is the mean."""

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

DRAWS = 2000
"""Of subjects, for an interval."""

CONSTANT = 1e-6
"""A standard deviation below this part of the largest absolute value is rounding."""

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]


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
    if first.shape != second.shape:
        raise AnkleError(f"Dice of masks with shapes {first.shape} and {second.shape}")
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2.0 * np.count_nonzero(first & second) / total) if total else math.nan


def mask_scores(first: Mask, second: Mask, voxel_size_mm: Sequence[float]) -> MaskScores:
    """Return Dice, HD95 and ASSD together.

    Distances are from the centre of each surface voxel of one mask to the other mask's surface. A
    surface voxel has a face neighbour outside the mask, or lies at the image's border. HD95 is the
    larger of the 95th percentiles of the two directions, as MONAI has it (others take the
    percentile of both directions together), ASSD the mean over the voxels of both surfaces. Both
    are the image's diagonal, than which none is longer, if only one mask is empty, and NaN if both
    are.

    Parameters
    ----------
    first, second : bool arrays of one shape
        Images of any number of axes.
    voxel_size_mm : one float per axis

    Raises
    ------
    AnkleError
        If the shapes differ.

    Examples
    --------
    >>> bone = np.zeros((9, 9, 9), dtype=bool)
    >>> bone[2:6, 2:6, 2:6] = True
    >>> mask_scores(np.roll(bone, 1, axis=0), bone, (0.5, 0.5, 2.0)).hd95_mm
    0.5
    """
    overlap = dice(first, second)
    voxel = np.asarray(voxel_size_mm, dtype=np.float64)
    masks = [np.asarray(mask, dtype=bool) for mask in (first, second)]
    filled = [mask.any() for mask in masks]
    if not any(filled):
        return MaskScores(overlap, math.nan, math.nan)
    if not all(filled):
        diagonal = float(np.linalg.norm(voxel * first.shape))
        return MaskScores(overlap, diagonal, diagonal)
    (box,) = ndimage.find_objects((masks[0] | masks[1]).astype(np.uint8))
    surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in masks]
    # by transforms: as fast as a tree of points for masks that agree, thrice as fast for others
    distances = [
        ndimage.distance_transform_edt(~others, sampling=voxel)[own]
        for own, others in (surfaces, reversed(surfaces))
    ]
    hd95_mm = max(float(np.percentile(one, HD_PERCENTILE)) for one in distances)
    return MaskScores(overlap, hd95_mm, float(np.concatenate(distances).mean()))


def joint_gap_mm(first: Mask, second: Mask, sizes: Sequence[float]) -> float:
    """Return how far the nearest tenth of a bone's surface is from another bone.

    Parameters
    ----------
    first, second : (I, J, K) bool arrays
    sizes : three floats
        Of the voxels in mm.

    Returns
    -------
    float
        0 where bones overlap; the image's diagonal, than which nothing is longer, if one is missed.
    """
    if not (first.any() and second.any()):
        return float(np.linalg.norm(np.array(sizes) * first.shape))
    surface = first & ~ndimage.binary_erosion(first)
    away = np.sort(ndimage.distance_transform_edt(~second, sampling=sizes)[surface])
    return float(away[: max(1, int(NEAREST * len(away)))].mean())


def overlap_mm3(masks: Mapping[str, Mask], sizes: Sequence[float]) -> float:
    """Return the volume that two bones, or more, claim at once."""
    claimed = np.sum([*masks.values()], axis=0)
    return float((claimed > 1).sum() * np.prod(sizes))


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
        3D: sagittal slices ``[:, :, k]``, of at least 11 x 11 pixels.
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
        If shapes differ, the mask is empty, a value inside it is not finite, or the truth is
        constant or 0 there.

    Examples
    --------
    >>> image_scores(sharp, truth, near_bones, data_range=intensity_range(truth, near_bones)).ssim
    """
    first, second, chosen = _inside(image, truth, mask)
    steps = np.ones(image.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    size = float(np.mean(second**2))
    if size == 0:
        raise AnkleError("the true image is 0 everywhere in the mask: no error is a part of that")
    # outside the mask anything may lie, but windows and slopes reach there
    one, two = (np.nan_to_num(np.asarray(array, dtype=np.float64)) for array in (image, truth))
    error = float(np.mean((first - second) ** 2))
    psnr_db = 10 * math.log10(data_range**2 / error) if error else math.inf
    return ImageScores(
        _correlation(first, second),
        psnr_db,
        _ssim(one, two, chosen, data_range),
        math.sqrt(error / size),
        _sharpness(one, two, chosen, steps),
        _detail(one, two, chosen, np.isfinite(steps)),
        psnr_db + _gain_of_shift(one, two, chosen, np.isfinite(steps)) if error else math.inf,
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


def _inside(image: NDArray, truth: NDArray, mask: Mask | None) -> tuple[Values, Values, Mask]:
    """Return the values of image and truth in the mask, and the mask."""
    chosen = np.ones(image.shape, dtype=bool) if mask is None else np.asarray(mask) > 0
    if not image.shape == truth.shape == chosen.shape:
        raise AnkleError(
            f"image, truth and mask have shapes {image.shape}, {truth.shape} and {chosen.shape}: "
            "resample them to one grid"
        )
    if not chosen.any():
        raise AnkleError("the mask is empty: there is nothing to score")
    first, second = (np.asarray(array[chosen], dtype=np.float64) for array in (image, truth))
    for name, values in (("image", first), ("truth", second)):
        n_bad = int(np.count_nonzero(~np.isfinite(values)))
        if n_bad:
            raise AnkleError(f"the {name} holds {n_bad} values in the mask that are not finite")
    return first, second, chosen


def _correlation(first: Values, second: Values) -> float:
    """Return Pearson's correlation, the report's measure; 0 if image or truth is constant."""
    one, two = first - first.mean(), second - second.mean()
    for values, centred in ((first, one), (second, two)):
        if np.sqrt(np.mean(centred**2)) <= CONSTANT * np.abs(values).max():
            return 0.0
    return float((one @ two) / math.sqrt((one @ one) * (two @ two)))


def _ssim(image: Values, truth: Values, chosen: Mask, data_range: float) -> float:
    """Return the mean structural similarity of slices ``[:, :, k]``, in the mask.

    Gaussian windows of 1.5 pixels, as in the paper. Two constant images of one value give 1.
    """
    # scikit-image takes a second to import
    from skimage.metrics import structural_similarity

    one, two, places = (np.atleast_3d(array) for array in (image, truth, chosen))
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


def _sharpness(image: Values, truth: Values, chosen: Mask, steps: Values) -> float:
    """Return the image's root mean squared gradient as part of the truth's.

    1: as sharp as the truth; less: smoother; more: sharper, or noisy, which it cannot tell apart
    (`_detail` can). Gradients are central differences along every axis.
    """
    first, second = (
        sum(
            float(np.mean((_slope(smooth, axis)[chosen].astype(np.float64) / step) ** 2))
            for axis, step in enumerate(steps)
        )
        for smooth in (image.astype(np.float32), truth.astype(np.float32))
    )
    if second == 0:
        raise AnkleError("the true image is constant around the mask: nothing is as sharp as that")
    return math.sqrt(first / second)


def _slope(array: NDArray, axis: int) -> NDArray:
    """Return central differences along an axis; 0 along an axis of one pixel."""
    return np.gradient(array, axis=axis) if array.shape[axis] > 1 else np.zeros_like(array)


def _detail(image: Values, truth: Values, chosen: Mask, joined: Mask) -> float:
    """Return which part of the truth's fine detail the image holds.

    Both are freed of what a Gaussian of one pixel keeps, along the axes whose pixels are
    ``joined``; the slope of the regression of the one on the other is 1 if all detail is there, 0
    if none is. Noise in the image does not change it.
    """
    one, two = (
        (values - ndimage.gaussian_filter(values, DETAIL_SIGMA * joined))[chosen]
        for values in (image, truth)
    )
    energy = float(two @ two)
    if energy == 0:
        raise AnkleError("the true image has no detail in the mask: there is none to be found")
    return float(one @ two) / energy


def _gain_of_shift(image: Values, truth: Values, chosen: Mask, joined: Mask) -> float:
    """Return by how many dB the best shift of the image, of at most a pixel, raises the PSNR.

    What a registration leaves is a shift, which a PSNR punishes like a wrong image. It is found by
    least squares along the axes whose pixels are ``joined``, and not taken if it does not help.
    What the outermost pixels of the array gain or lose by it does not count.
    """
    core = np.zeros_like(chosen)
    sides = zip(joined, image.shape, strict=True)
    core[tuple(slice(1, -1) if near and n > 2 else slice(None) for near, n in sides)] = True
    points = np.argwhere(chosen & core)
    points = points[:: max(1, len(points) // SHIFT_POINTS)].T
    if not points.size:
        return 0.0
    found, wanted = (values[tuple(points)] for values in (image, truth))
    slopes = np.stack([_slope(image, axis)[tuple(points)] for axis in range(image.ndim)], axis=1)
    slopes *= joined
    spline = ndimage.spline_filter(image, order=3, mode="nearest")
    errors = [float(np.mean((found - wanted) ** 2))]
    shift = np.zeros(image.ndim)
    for _ in range(SHIFT_STEPS):
        step = np.linalg.lstsq(slopes, found - wanted, rcond=None)[0]
        shift = np.clip(shift + step, -1, 1)
        found = ndimage.map_coordinates(
            spline, points - shift[:, None], order=3, mode="nearest", prefilter=False
        )
        errors.append(float(np.mean((found - wanted) ** 2)))
    return 10 * math.log10(errors[0] / min(errors)) if min(errors) else math.inf


# --- subjects ---


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: ArrayLike, subjects: Sequence[str]) -> Interval:
    """Return the mean over subjects and its 95 % percentile bootstrap interval.

    Values of one subject (its bones, frames or patches) are not independent, so each subject
    first becomes its own mean, and whole subjects are drawn with replacement (Efron
    1979), in the same way each time.

    Parameters
    ----------
    values : (N,) floats
        NaN, for a bone that neither mask has, is left out; so is a subject that has only NaN.
    subjects : N codes
        Whose value it is.

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
    draws = np.random.default_rng(0).integers(len(means), size=(DRAWS, len(means)))
    low, high = np.percentile(means[draws].mean(axis=1), [2.5, 97.5])
    return Interval(float(means.mean()), float(low), float(high))


def over_subjects(table: pd.DataFrame, by: Sequence[str], scores: Sequence[str]) -> pd.DataFrame:
    """Return mean and 95 % interval over subjects of each score, see `bootstrap_interval`.

    Parameters
    ----------
    table : DataFrame
        Columns subject, ``by`` and ``scores``. Rows of one subject (seeds, frames) are averaged
        before subjects are drawn.
    by, scores : sequences of str

    Returns
    -------
    DataFrame
        Columns ``by`` and, for each score, ``<score>_mean``, ``<score>_low``, ``<score>_high``; a
        row per group, in their first order.

    Examples
    --------
    >>> over_subjects(scores, ["method", "bone"], ["dice", "hd95_mm"])
    """
    rows = []
    for key, part in table.groupby(list(by), sort=False, dropna=False):
        row = dict(zip(by, key, strict=True))
        for score in scores:
            interval = bootstrap_interval(part[score], list(part["subject"]))
            row |= {f"{score}_{name}": value for name, value in interval._asdict().items()}
        rows.append(row)
    return pd.DataFrame(rows)
