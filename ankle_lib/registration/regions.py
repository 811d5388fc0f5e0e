"""Regions of the static scan that are registered, their weights, and how well a pose fits.

Also the loop of engines that fit one region to one frame at a time. Nothing here uses the torch
engine, so that a comparison with it is one of independent programs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Matrix, apply, arrival, bounding_box, part_of, weighted_centre
from ankle_lib.masking.mask_images import BONE_RADIUS_VOXELS, bone_weights, in_mm
from ankle_lib.volume import Volume, resample

WHOLE = "whole"
"""The region of the foot as a whole, in tables and file names."""

SIGMA_VOXELS = 1.0
"""Standard deviation of the blur of a bone's weights, in voxels of the report's static grid
(`mask_images.in_mm`); the report's is 2."""

SUPPORT = 0.02
"""Weights below this do not count."""

SHADING_LENGTH_MM = 30.0
"""Unit of position in the terms of gain that vary in space: only their scaling depends on it."""

SLICE_SAMPLES = 9
"""Samples across a slice when a fit is scored; 8 mm of slice are 10 voxels of 0.8 mm."""

SMALLEST_SEEN = 20
"""Voxels of a frame in which a region must be seen to be scored."""


@dataclass(frozen=True)
class Fits:
    """What every engine returns, for F frames and R regions."""

    poses: NDArray[np.float64]
    """(F, R, 4, 4) static world to frame world, RAS mm. A failed fit keeps the best pose found."""
    correlations: NDArray[np.float64]
    """(F, R) weighted correlation of the frame and the carried, slice-averaged static scan; NaN
    where the region is not in the frame's field of view."""
    costs: NDArray[np.float64]
    """(F, R) part of the frame's weighted variance left after gain, offset and shading; or 1."""
    seen: NDArray[np.float64]
    """(F, R) part of the region's weight inside the frame's field of view."""
    above: NDArray[np.float64]
    """(F, R) by how much the correlation beats that of the region elsewhere; NaN if unknown."""
    seconds: NDArray[np.float64]
    """(F, R) of the fit, preparation shared out; the score does not count. CPU time; on a GPU, and
    of a program of its own as FLIRT is, the time that passed."""


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


def weights_of(
    masks: Mapping[str, Volume],
    radius_voxels: Mapping[str, float] = BONE_RADIUS_VOXELS,
    sigma_voxels: float = SIGMA_VOXELS,
) -> dict[str, NDArray[np.float32]]:
    """Return soft weights of bones, on the grid of their masks, as a registration takes them.

    Parameters
    ----------
    masks : mapping of bone to Volume
        3D, on the static scan's grid.
    radius_voxels : mapping of bone to float
        Dilation (negative: erosion), in voxels of the report's static grid.
    sigma_voxels : float
        Standard deviation of the blur, in the same voxels.
    """
    sigma = in_mm(sigma_voxels)
    return {
        bone: bone_weights(mask.data > 0, mask.voxel_size_mm, in_mm(radius_voxels[bone]), sigma)
        for bone, mask in masks.items()
    }


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
    return Region(name, image, Volume(soft, affine), weighted_centre(soft, affine))


def fit_each(
    fixed: Volume,
    regions: list[Region],
    fit_one: Callable[[int, int], tuple[Matrix, float]],
) -> Fits:
    """Fit every region to every frame, one after the other, and score the poses found.

    Parameters
    ----------
    fixed : Volume
        F frames.
    regions : list of R Region
    fit_one : callable
        (frame, index of the region) to (pose, seconds).
    """
    shape = fixed.n_frames, len(regions)
    places = list(np.ndindex(*shape))
    poses, seconds = zip(*(fit_one(*place) for place in places), strict=True)
    scores = [
        agreement(fixed.frame(frame), regions[index], pose)
        for (frame, index), pose in zip(places, poses, strict=True)
    ]
    correlations, costs, seen = np.array(scores).T.reshape(3, *shape)
    matrices = np.array(poses).reshape(*shape, 4, 4)
    unknown = np.full(shape, np.nan)
    return Fits(matrices, correlations, costs, seen, unknown, np.array(seconds).reshape(shape))


def agreement(frame: Volume, region: Region, pose: Matrix) -> Agreement:
    """Compare a frame with the region, carried by a pose and averaged across the slice."""
    box = arrival(region.weights.grid, pose, frame.grid)
    shape, affine = part_of(box, frame.affine)
    if min(shape) == 0:
        return NOT_SEEN
    weights = resample(region.weights, shape, affine, pose=pose).data
    inside = weights > SUPPORT
    if inside.sum() < SMALLEST_SEEN:
        return NOT_SEEN
    ratio = np.linalg.det(frame.affine[:3, :3]) / np.linalg.det(region.weights.affine[:3, :3])
    seen = float(abs(ratio) * weights.sum() / region.weights.data.sum())
    image = resample(region.image, shape, affine, pose=pose, slice_samples=SLICE_SAMPLES).data[
        inside
    ]
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
