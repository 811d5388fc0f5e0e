"""Masks carried by a pose (`volume.resample` carries images), and fine grids around bones."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Grid, Matrix, apply, arrival, bounding_box, compose, part_of
from ankle_lib.volume import CANONICAL_CODES, Volume, canonical_voxel_size, resample, to_orientation

MARGIN_MM = 5.0
"""Around the bone on a fine grid: cartilage and the beginning of its neighbours."""


def moved_mask(
    mask: Volume,
    pose: ArrayLike,
    shape: tuple[int, int, int],
    affine: Matrix,
    *,
    slice_samples: int = 5,
) -> Volume:
    """Carry a mask by a pose: true where it fills at least half of the grid's voxel.

    Work is done only where the mask arrives: cut it first (`cut_to_mask`). The arguments are
    those of `volume.resample`.

    Examples
    --------
    >>> moved_mask(cut_to_mask(talus), pose, *frame.grid)
    """
    result = np.zeros(shape, dtype=bool)
    box = arrival(mask.grid, pose, (shape, affine), margin_mm=1.0)
    lengths, part = part_of(box, affine)
    if min(lengths) > 0:
        solid = Volume((mask.data > 0).astype(np.float32), mask.affine)
        result[box] = (
            resample(solid, lengths, part, pose=pose, slice_samples=slice_samples).data >= 0.5
        )
    return Volume(result, affine)


def cut_to_mask(mask: Volume, margin: ArrayLike = 1) -> Volume:
    """Cut a mask to its bounding box and a margin of voxels (along each axis); bool.

    Raises
    ------
    AnkleError
        If the mask is empty.
    """
    box = bounding_box(mask.data > 0, margin)
    if box is None:
        raise AnkleError("a mask to be moved is empty")
    return Volume(mask.data[box] > 0, part_of(box, mask.affine)[1])


def bone_grid(
    mask: NDArray[np.bool_],
    mask_affine: ArrayLike,
    pose: ArrayLike,
    frame_affine: ArrayLike,
    margin_mm: float = MARGIN_MM,
) -> Grid:
    """Return shape and affine of a fine grid around a bone, in the frame's world.

    Its axes run along the frame's own, brought to posterior, superior and right, so that a slice
    of it is parallel to the slices of the frame; its voxels have the static scan's size.

    Parameters
    ----------
    mask : (I, J, K) bool array
        The bone, on the static scan's grid or cut out of it; not empty.
    mask_affine, frame_affine : array, shape (4, 4)
    pose : array, shape (4, 4)
        Static world to frame world, RAS mm.
    margin_mm : float
        Between the bone and the grid's border.
    """
    one_voxel = Volume(np.zeros((1, 1, 1), bool), np.asarray(frame_affine, dtype=np.float64))
    steps = to_orientation(one_voxel, CANONICAL_CODES).affine[:3, :3]
    sizes = np.asarray(canonical_voxel_size(mask_affine))
    axes = np.eye(4)
    axes[:3, :3] = steps / np.linalg.norm(steps, axis=0) * sizes
    places = apply(compose(np.linalg.inv(axes), pose, mask_affine), np.argwhere(mask))
    first = np.floor(places.min(axis=0) - margin_mm / sizes)
    i, j, k = (int(n) for n in np.ceil(places.max(axis=0) + margin_mm / sizes) - first + 1)
    axes[:3, 3] = axes[:3, :3] @ first
    return (i, j, k), axes
