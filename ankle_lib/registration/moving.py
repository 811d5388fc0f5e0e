"""The static scan carried by a pose: on any grid, averaged across thick slices, as a mask."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.masking.boxes import box_with_margin
from ankle_lib.transforms.poses import apply, compose, invert
from ankle_lib.volume import Volume

Matrix = NDArray[np.float64]


class SliceProfile(NamedTuple):
    """The thick axis of an image."""

    axis: int
    """Axis of the array across the slices: the one with the largest voxel."""
    normal: NDArray[np.float64]
    """(3,) unit vector across the slices, world RAS."""
    thickness_mm: float


def slice_direction(affine: ArrayLike) -> SliceProfile:
    """Return the axis across the slices of an image, its direction and the slices' thickness."""
    steps = np.asarray(affine, dtype=np.float64)[:3, :3]
    sizes = np.linalg.norm(steps, axis=0)
    axis = int(np.argmax(sizes))
    return SliceProfile(axis, steps[:, axis] / sizes[axis], float(sizes[axis]))


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
    for part in _slice_parts(n_samples):
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
    for part in _slice_parts(slice_samples):
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
    box = box_with_margin(mask.data > 0, np.full(3, margin))
    if box is None:
        raise AnkleError("a mask to be moved is empty")
    return Volume(mask.data[box] > 0, part_of(box, mask.affine)[1])


def arrival(
    carried: Volume,
    pose: ArrayLike,
    shape: tuple[int, int, int],
    affine: ArrayLike,
    margin_mm: float = 0.0,
) -> tuple[slice, slice, slice]:
    """Return the part of a grid that an image reaches when a pose carries it; may be empty.

    Parameters
    ----------
    carried : Volume
        Image, or mask cut to its bone (`cut_to_mask`).
    pose, shape, affine
        As in `moved`.
    margin_mm : float
        Grown by this on every side.
    """
    target = np.asarray(affine, dtype=np.float64)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(carried.shape) - 1)
    there = apply(compose(np.linalg.inv(target), pose, carried.affine), corners)
    margin = margin_mm / np.linalg.norm(target[:3, :3], axis=0)
    low = np.clip(np.floor(there.min(axis=0) - margin).astype(int), 0, shape)
    high = np.clip(np.ceil(there.max(axis=0) + margin).astype(int) + 1, low, shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def part_of(
    box: tuple[slice, slice, slice], affine: ArrayLike
) -> tuple[tuple[int, int, int], Matrix]:
    """Return shape and affine of a part of a grid."""
    moved_affine = np.array(affine, dtype=np.float64)
    moved_affine[:3, 3] += moved_affine[:3, :3] @ [side.start for side in box]
    i, j, k = (side.stop - side.start for side in box)
    return (i, j, k), moved_affine


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
    box = arrival(mask, pose, shape, affine, margin_mm=1.0)
    lengths, part = part_of(box, affine)
    if min(lengths) > 0:
        solid = Volume((mask.data > 0).astype(np.float32), mask.affine)
        result[box] = moved(solid, pose, lengths, part, slice_samples=slice_samples).data >= 0.5
    return Volume(result, np.asarray(affine, dtype=np.float64))


def _slice_parts(n_samples: int) -> NDArray[np.float64]:
    """Return the middles of ``n_samples`` equal parts of a slice, as parts of its thickness."""
    if n_samples < 1:
        raise AnkleError(f"{n_samples} samples across a slice: give at least 1")
    return (np.arange(n_samples) + 0.5) / n_samples - 0.5
