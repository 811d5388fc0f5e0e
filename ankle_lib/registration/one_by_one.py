"""What engines share that fit one region to one frame at a time: regions, loop, score.

Nothing here uses the torch engine, so that a comparison with it is one of independent programs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Matrix, apply, arrival, bounding_box, part_of
from ankle_lib.registration.fits import SHADING_LENGTH_MM, SUPPORT, Fits
from ankle_lib.registration.moving import moved
from ankle_lib.volume import Volume

SLICE_SAMPLES = 9
"""Samples across a slice when a fit is scored; 8 mm of slice are 10 voxels of 0.8 mm."""

SMALLEST_SEEN = 20
"""Voxels of a frame in which a region must be seen to be scored."""


class Agreement(NamedTuple):
    """How well a frame and a carried region agree."""

    correlation: float
    """Weighted; NaN if the region is not in the field of view, or one of the two is constant."""
    cost: float
    """1 - R² of the frame explained by 1, the carried static scan, and that times position."""
    seen: float
    """Part of the region's weight inside the frame's field of view."""


NOT_SEEN = Agreement(np.nan, 1.0, 0.0)


@dataclass(frozen=True)
class Region:
    """The part of the static scan around a region's weights."""

    name: str
    image: Volume
    """float32."""
    weights: Volume
    """float32 in [0, 1], on the same grid."""
    centre: NDArray[np.float64]
    """(3,) weighted centre, static world mm."""
    radius_mm: float
    """Weighted root mean square of the distance from an axis through the centre."""


def cut_region(moving: Volume, weights: NDArray[Any], name: str, margin_mm: float) -> Region:
    """Cut the static scan to a region, with a margin for the thickness of a slice.

    Raises
    ------
    AnkleError
        If the weights have another shape than the scan, or none of them is above 0.02.
    """
    if weights.shape != moving.shape:
        raise AnkleError(
            f"weights of {name} have shape {weights.shape}, the static scan {moving.shape}"
        )
    margin = np.ceil(margin_mm / np.asarray(moving.voxel_size_mm)).astype(int)
    box = bounding_box(weights > SUPPORT, margin)
    if box is None:
        raise AnkleError(f"the weights of {name} are empty: is its mask empty?")
    affine = part_of(box, moving.affine)[1]
    soft = weights[box].astype(np.float32)
    image = Volume(moving.data[box].astype(np.float32), affine)
    centre, radius = _centre_and_radius(soft, affine)
    return Region(name, image, Volume(soft, affine), centre, radius)


def fit_each(
    fixed: Volume,
    regions: list[Region],
    fit_one: Callable[[int, int], tuple[Matrix, float]],
    n_jobs: int,
) -> Fits:
    """Fit every region to every frame, in threads, and score the poses found.

    Parameters
    ----------
    fixed : Volume
        F frames.
    regions : list of R Region
    fit_one : callable
        (frame, index of the region) to (pose, CPU seconds).
    n_jobs : int
        Fits at a time.
    """

    def work(frame: int, index: int) -> tuple[Matrix, float, Agreement]:
        pose, seconds = fit_one(frame, index)
        return pose, seconds, agreement(fixed.frame(frame), regions[index], pose)

    tasks = [(frame, index) for frame in range(fixed.n_frames) for index in range(len(regions))]
    done = joblib.Parallel(n_jobs=n_jobs, prefer="threads")(
        joblib.delayed(work)(*task) for task in tasks
    )
    shape = fixed.n_frames, len(regions)
    poses, seconds, scores = zip(*done, strict=True)
    correlations, costs, seen = np.array(scores).T.reshape(3, *shape)
    return Fits(
        np.array(poses).reshape(*shape, 4, 4),
        correlations,
        costs,
        seen,
        np.array(seconds).reshape(shape),
    )


def agreement(frame: Volume, region: Region, pose: Matrix) -> Agreement:
    """Compare a frame with the region, carried by a pose and averaged across the slice."""
    box = arrival(region.weights.grid, pose, frame.grid)
    shape, affine = part_of(box, frame.affine)
    if min(shape) == 0:
        return NOT_SEEN
    weights = moved(region.weights, pose, shape, affine).data
    inside = weights > SUPPORT
    if inside.sum() < SMALLEST_SEEN:
        return NOT_SEEN
    ratio = np.linalg.det(frame.affine[:3, :3]) / np.linalg.det(region.weights.affine[:3, :3])
    seen = float(abs(ratio) * weights.sum() / region.weights.data.sum())
    image = moved(region.image, pose, shape, affine, slice_samples=SLICE_SAMPLES).data[inside]
    weight = weights[inside].astype(np.float64)
    weight /= weight.sum()
    target = frame.data[box][inside].astype(np.float64)
    target -= weight @ target
    image = image - weight @ image
    spread = weight @ target**2, weight @ image**2
    if not (spread[0] > 0 and spread[1] > 0):
        return Agreement(np.nan, 1.0, seen)
    correlation = (weight * target) @ image / np.sqrt(spread[0] * spread[1])
    position = apply(affine, np.argwhere(inside)) / SHADING_LENGTH_MM
    position -= weight @ position
    columns = np.column_stack([np.ones_like(image), image, image[:, None] * position])
    root = np.sqrt(weight)
    best, *_ = np.linalg.lstsq(columns * root[:, None], target * root, rcond=None)
    residual = target - columns @ best
    return Agreement(float(correlation), float(weight @ residual**2 / spread[0]), seen)


def _centre_and_radius(soft: NDArray[Any], affine: Matrix) -> tuple[NDArray[np.float64], float]:
    """Return the weighted centre in the world and the spread about an axis through it, in mm."""
    middle, squares = np.empty(3), 0.0
    for axis, size in enumerate(np.linalg.norm(affine[:3, :3], axis=0)):
        side = soft.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        side /= side.sum()
        index = np.arange(len(side))
        middle[axis] = side @ index
        squares += float(side @ (index - middle[axis]) ** 2) * size**2
    return apply(affine, middle), float(np.sqrt(2 / 3 * squares))
