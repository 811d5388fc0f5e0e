"""How well two masks agree: overlap, distances in mm, and intervals over subjects.

Nothing is dropped silently. A bone that one mask has and the other misses is penalised: Dice 0,
and distances as long as the image's diagonal. Where neither mask has it there is nothing to
measure: NaN, which `bootstrap_interval` leaves out.
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


class MaskScores(NamedTuple):
    """Agreement of two masks."""

    dice: float
    hd95_mm: float
    assd_mm: float


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
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


def patch_dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
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


def mask_scores(
    first: NDArray[np.bool_], second: NDArray[np.bool_], voxel_size_mm: Sequence[float]
) -> MaskScores:
    """Return Dice, HD95 and ASSD together; the surfaces are searched once.

    Parameters and errors are those of `surface_distances`.
    """
    return MaskScores(
        dice(first, second), *_summary(surface_distances(first, second, voxel_size_mm))
    )


def hd95_mm(
    first: NDArray[np.bool_], second: NDArray[np.bool_], voxel_size_mm: Sequence[float]
) -> float:
    """Return the symmetric 95th-percentile Hausdorff distance in mm.

    The larger of the 95th percentiles of the two directions, as MONAI has it (others take the
    percentile of both directions together). The image's diagonal if only one mask is empty, NaN if
    both are. Parameters and errors are those of `surface_distances`.
    """
    return _summary(surface_distances(first, second, voxel_size_mm))[0]


def assd_mm(
    first: NDArray[np.bool_], second: NDArray[np.bool_], voxel_size_mm: Sequence[float]
) -> float:
    """Return the average symmetric surface distance in mm, over the voxels of both surfaces.

    The image's diagonal if only one mask is empty, NaN if both are. Parameters and errors are
    those of `surface_distances`.
    """
    return _summary(surface_distances(first, second, voxel_size_mm))[1]


def surface_distances(
    first: NDArray[np.bool_], second: NDArray[np.bool_], voxel_size_mm: Sequence[float]
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


def _check_shapes(what: str, first: NDArray, second: NDArray) -> None:
    if first.shape != second.shape:
        raise AnkleError(f"{what} of masks with shapes {first.shape} and {second.shape}")


def _summary(distances: tuple[NDArray[np.float64], NDArray[np.float64]]) -> tuple[float, float]:
    """Return HD95 and ASSD."""
    both = np.concatenate(distances)
    if both.size == 0:
        return math.nan, math.nan
    percentiles = [np.percentile(one, HD_PERCENTILE) for one in distances if one.size]
    return float(max(percentiles)), float(both.mean())


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.int_]:
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
