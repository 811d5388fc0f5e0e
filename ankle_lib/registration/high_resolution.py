"""A fine grid around one bone in one frame: where the frame would show it if it were sharp."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Grid, apply, bounding_box, compose
from ankle_lib.volume import CANONICAL_CODES, Volume, canonical_voxel_size, to_orientation

MARGIN_MM = 5.0
"""Around the bone: cartilage and the beginning of its neighbours."""


def bone_grid(
    mask: NDArray[np.bool_],
    mask_affine: ArrayLike,
    pose: ArrayLike,
    frame_affine: ArrayLike,
    margin_mm: float = MARGIN_MM,
) -> Grid:
    """Return shape and affine of a grid around a bone, in the frame's world.

    Its axes run along the frame's own, brought to posterior, superior and right, so that a slice
    of it is parallel to the slices of the frame; its voxels have the static scan's size.

    Parameters
    ----------
    mask : (I, J, K) bool array
        The bone, on the static scan's grid or cut out of it.
    mask_affine, frame_affine : array, shape (4, 4)
    pose : array, shape (4, 4)
        Static world to frame world, RAS mm.
    margin_mm : float
        Between the bone and the grid's border.

    Raises
    ------
    AnkleError
        If the mask is empty.
    """
    box = bounding_box(mask)
    if box is None:
        raise AnkleError("a grid around a bone was asked for, but its mask is empty")
    surface = _surface(mask[box]) + [side.start for side in box]
    one_voxel = Volume(np.zeros((1, 1, 1), bool), np.asarray(frame_affine, dtype=np.float64))
    steps = to_orientation(one_voxel, CANONICAL_CODES).affine[:3, :3]
    axes = np.eye(4)
    axes[:3, :3] = steps / np.linalg.norm(steps, axis=0) * canonical_voxel_size(mask_affine)
    places = apply(compose(np.linalg.inv(axes), pose, mask_affine), surface)
    margin = margin_mm / np.asarray(canonical_voxel_size(mask_affine))
    first = np.floor(places.min(axis=0) - margin)
    i, j, k = (int(n) for n in np.ceil(places.max(axis=0) + margin) - first + 1)
    axes[:3, 3] = axes[:3, :3] @ first
    return (i, j, k), axes


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Return the first and last voxel of every line of the mask: its hull is that of the mask."""
    ends = np.zeros_like(mask)
    lines = mask.any(axis=2)
    i, j = np.nonzero(lines)
    ends[i, j, mask.argmax(axis=2)[lines]] = True
    ends[i, j, mask.shape[2] - 1 - mask[:, :, ::-1].argmax(axis=2)[lines]] = True
    return np.argwhere(ends)
