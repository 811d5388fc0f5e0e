"""One frame of reference per subject: which affine is the right one, decided by evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.geometry import apply, world_to_voxel
from ankle_lib.masking.foot import REPORT_THRESHOLD, foot_mask
from ankle_lib.volume import Header, Volume

SAME_GRID_VOXELS = 0.5
"""Two affines are the same if no corner of the grid moves by more than this part of a voxel."""

CLEAR_OVERLAP = 0.02
"""Least difference of foot overlap (Dice) that decides between two affines."""

COARSE_MM = 3.0
"""Spacing at which feet are compared: they are large and smooth."""


@dataclass(frozen=True)
class Foot:
    """A coarse static foot that sequences are laid onto."""

    mask: Volume
    image: Volume

    @classmethod
    def of(cls, static: Volume) -> Foot:
        """Threshold a static scan and keep every few voxels of it."""
        steps = tuple(max(1, round(COARSE_MM / size)) for size in static.voxel_size_mm)
        averaged = ndimage.uniform_filter(static.data.astype(np.float32), steps)
        image = _every(Volume(averaged, static.affine), steps)
        return cls(Volume(foot_mask(image.data, REPORT_THRESHOLD), image.affine), image)


def affines_of(header: Header) -> dict[str, NDArray[np.float64]]:
    """Return the usable affines of a header by name (sform first): one, or two that may differ."""
    found = {}
    if header.sform_code > 0 and _usable(header.sform):
        found["sform"] = header.sform
    if header.qform_code > 0 and _usable(header.qform):
        found["qform"] = header.qform
    return found or {header.affine_source: header.affine}


def same_grid(shape: tuple[int, int, int], first: NDArray, second: NDArray) -> bool:
    """Say whether two affines place a grid at the same voxels of the world (to half a voxel)."""
    smallest_voxel = float(np.linalg.norm(first[:3, :3], axis=0).min())
    return corner_distance_mm(shape, first, second) <= SAME_GRID_VOXELS * smallest_voxel


def corner_distance_mm(shape: tuple[int, int, int], first: NDArray, second: NDArray) -> float:
    """Return how far apart two affines place the farthest corner of a grid, in mm."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    apart = apply(first, corners) - apply(second, corners)
    return float(np.linalg.norm(apart, axis=1).max())


def best_affine(
    frame: Volume, foot: Foot, candidates: Mapping[str, NDArray[np.float64]]
) -> tuple[str, dict[str, float]]:
    """Return the name of the affine that lays a dynamic frame best onto the static foot.

    The overlap (Dice) of both thresholded feet decides. Where two candidates differ by less than
    0.02, the correlation of the images within either foot decides between them.

    Parameters
    ----------
    frame : Volume
        One frame of a sequence; its own affine is not used.
    foot : Foot
        The static foot.
    candidates : mapping of name to (4, 4) array
        Affines to try, voxel to world RAS mm, the preferred one first.

    Returns
    -------
    name : str
    overlaps : dict of name to Dice
    """
    steps = tuple(max(1, round(COARSE_MM / size)) for size in frame.voxel_size_mm)
    data = ndimage.uniform_filter(frame.data.astype(np.float32), steps)
    overlaps, correlations = {}, {}
    for name, affine in candidates.items():
        coarse = _every(Volume(data, affine), steps)
        overlaps[name], correlations[name] = _agreement(coarse, foot)
    best = max(overlaps.values())
    close = [name for name, overlap in overlaps.items() if overlap >= best - CLEAR_OVERLAP]
    return max(close, key=lambda name: correlations[name]), overlaps


def _every(volume: Volume, steps: tuple[int, ...]) -> Volume:
    return Volume(
        volume.data[:: steps[0], :: steps[1], :: steps[2]],
        volume.affine @ np.diag([*steps, 1.0]),
    )


def _usable(affine: NDArray) -> bool:
    return bool(np.isfinite(affine).all()) and abs(np.linalg.det(affine[:3, :3])) > 1e-9


def _agreement(frame: Volume, foot: Foot) -> tuple[float, float]:
    """Return Dice and correlation of a coarse frame with the static foot, on the frame's grid."""
    voxels = np.indices(frame.shape).reshape(3, -1).T
    where = world_to_voxel(foot.mask.affine, apply(frame.affine, voxels)).T
    static_foot = ndimage.map_coordinates(foot.mask.data.astype(np.float32), where, order=1) > 0.5
    dynamic_foot = foot_mask(frame.data, REPORT_THRESHOLD).ravel()
    total = static_foot.sum() + dynamic_foot.sum()
    overlap = 2.0 * float((static_foot & dynamic_foot).sum()) / float(total) if total else 0.0
    either = static_foot | dynamic_foot
    static_values = ndimage.map_coordinates(foot.image.data, where, order=1)[either]
    return overlap, _correlation(static_values, frame.data.ravel()[either])


def _correlation(first: NDArray, second: NDArray) -> float:
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
