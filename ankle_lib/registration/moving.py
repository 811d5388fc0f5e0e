"""The static scan carried by a pose: on any grid, averaged across thick slices, as a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.geometry import (
    arrival,
    bounding_box,
    compose,
    invert,
    part_of,
    slice_direction,
    slice_parts,
)
from ankle_lib.volume import Volume


def slice_average(moving: Volume, direction: ArrayLike, thickness_mm: float) -> Volume:
    """Average an image over a line of ``thickness_mm`` about each voxel, on the same grid.

    The slice of a scanner is a box; its middle stays where it was.

    Parameters
    ----------
    moving : Volume
        3D.
    direction : array, shape (3,)
        World RAS; its length does not count.
    thickness_mm : float
        Length of the box.
    """
    vector = np.asarray(direction, dtype=np.float64)
    length = np.linalg.norm(vector)
    if moving.data.ndim != 3 or length == 0 or thickness_mm < 0:
        raise AnkleError(
            f"a slice average needs a 3D image, a direction and a thickness: found shape "
            f"{moving.data.shape}, direction {vector.tolist()}, {thickness_mm} mm"
        )
    whole = np.linalg.inv(moving.affine[:3, :3]) @ (vector / length * thickness_mm)
    n_samples = max(1, int(np.ceil(2 * np.abs(whole).max())))
    total = np.zeros(moving.shape, dtype=np.float32)
    image = moving.data.astype(np.float32)
    for part in slice_parts(n_samples):
        total += ndimage.shift(image, -part * whole, order=1, mode="nearest", prefilter=False)
    return Volume(total / n_samples, moving.affine)


def moved(
    volume: Volume,
    pose: ArrayLike,
    shape: tuple[int, int, int],
    affine: ArrayLike,
    *,
    slice_samples: int = 1,
    order: int = 1,
    fill: float = 0.0,
) -> Volume:
    """Carry an image by a pose and sample it on a grid of the frame's world.

    Parameters
    ----------
    volume : Volume
        3D, in the static scan's world.
    pose : array, shape (4, 4)
        Static world to frame world, RAS mm.
    shape, affine
        Grid of the result, in the frame's world.
    slice_samples : int
        Samples that are averaged across the thickest axis of the grid, as a thick slice does;
        1 samples the middle of the slice only.
    order : int
        Degree of the spline, see `volume.resample`.
    fill : float
        Value outside of ``volume``.
    """
    target = np.asarray(affine, dtype=np.float64)
    thick = target[:3, slice_direction(target).axis]
    image = volume.data.astype(np.float32, copy=False) if order else volume.data
    total: NDArray[Any] | None = None
    for part in slice_parts(slice_samples):
        grid = target.copy()
        grid[:3, 3] += part * thick
        to_voxel = compose(np.linalg.inv(volume.affine), invert(pose), grid)
        sampled = ndimage.affine_transform(
            image,
            to_voxel[:3, :3],
            to_voxel[:3, 3],
            output_shape=shape,
            order=order,
            mode="constant",
            cval=fill,
            prefilter=order > 1,
        )
        total = sampled if total is None else total + sampled
    assert total is not None
    return Volume(total / slice_samples if slice_samples > 1 else total, target)


def cut_to_mask(mask: Volume, margin: int = 1) -> Volume:
    """Cut a mask to its bounding box and a margin of voxels; bool.

    Raises
    ------
    AnkleError
        If the mask is empty.
    """
    box = bounding_box(mask.data > 0, margin)
    if box is None:
        raise AnkleError("a mask to be moved is empty")
    return Volume(mask.data[box] > 0, part_of(box, mask.affine)[1])


def moved_mask(
    mask: Volume,
    pose: ArrayLike,
    shape: tuple[int, int, int],
    affine: ArrayLike,
    *,
    slice_samples: int = 5,
) -> Volume:
    """Carry a mask by a pose: true where it fills at least half of the grid's voxel.

    Work is done only where the mask arrives: cut it first (`cut_to_mask`). The arguments are
    those of `moved`.
    """
    result = np.zeros(shape, dtype=bool)
    box = arrival(mask.grid, pose, (shape, affine), margin_mm=1.0)
    lengths, part = part_of(box, affine)
    if min(lengths) > 0:
        solid = Volume((mask.data > 0).astype(np.float32), mask.affine)
        result[box] = moved(solid, pose, lengths, part, slice_samples=slice_samples).data >= 0.5
    return Volume(result, np.asarray(affine, dtype=np.float64))
