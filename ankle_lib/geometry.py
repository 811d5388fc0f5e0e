"""Where things are in the world: rigid poses, and parts of voxel grids.

World coordinates are mm to the right, anterior and superior (RAS). A grid is a shape and an
affine, which maps voxel indices to the world. A pose is a rigid 4x4 matrix that maps world points
of the static scan to world points of a frame ("static to frame"): the static scan is the *moving*
image of a registration and the frame the *fixed* one.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import RigidTransform, Rotation

from ankle_lib.files import AnkleError

Matrix = NDArray[np.float64]
Box = tuple[slice, slice, slice]
"""A part of a grid, one slice for each axis."""
Grid = tuple[tuple[int, int, int], Matrix]
"""Shape and affine of an image."""

VOXEL_SIZE_LIMITS_MM = (0.01, 100.0)
MIN_VOLUME_FRACTION = 0.9
"""Smallest |det| of an affine relative to the box of its column lengths (1 for right angles)."""
MAX_OFFSET_MM = 1e4
"""Farthest first voxel from the world's origin; a scanner's room is smaller."""

SAME_GRID_VOXELS = 0.1
"""Corners of one grid differ by less than this part of a voxel: files round their affines."""

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rigid(
    rotation_vector_deg: ArrayLike, translation_mm: ArrayLike, centre_mm: ArrayLike = (0, 0, 0)
) -> Matrix:
    """Return the pose that turns about ``centre_mm`` and then shifts by ``translation_mm``.

    Parameters
    ----------
    rotation_vector_deg : array, shape (3,)
        Direction is the axis of rotation, length the angle in degrees.
    translation_mm, centre_mm : array, shape (3,)
        World RAS mm.

    Examples
    --------
    >>> apply(rigid([0, 0, 90], [0, 0, 5]), [1, 0, 0]).round(6)
    array([0., 1., 5.])
    """
    centre = np.asarray(centre_mm, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rotation_vector_deg, degrees=True).as_matrix()
    matrix[:3, 3] = centre + np.asarray(translation_mm, dtype=np.float64) - matrix[:3, :3] @ centre
    return matrix


def apply(matrix: ArrayLike, points: ArrayLike) -> Matrix:
    """Map points, shape (..., 3), by a pose; or (fractional) voxel indices to mm by an affine."""
    transform = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ transform[:3, :3].T + transform[:3, 3]


def world_to_voxel(affine: ArrayLike, points: ArrayLike) -> Matrix:
    """Map world coordinates in mm, shape (..., 3), to (fractional) voxel indices."""
    return apply(np.linalg.inv(np.asarray(affine, dtype=np.float64)), points)


def invert(matrix: ArrayLike) -> Matrix:
    """Return the inverse of a rigid matrix (exact: the rotation is transposed)."""
    transform = _checked_rigid(matrix)
    inverse = np.eye(4)
    inverse[:3, :3] = transform[:3, :3].T
    inverse[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return inverse


def compose(*matrices: ArrayLike) -> Matrix:
    """Return the product: ``compose(b, a)`` first applies ``a``, then ``b``."""
    return functools.reduce(np.matmul, matrices, np.eye(4))


def is_rigid(matrix: ArrayLike, tolerance: float = 1e-4) -> bool:
    """Tell whether a 4x4 matrix is a rotation and a shift, without mirroring or scaling."""
    transform = np.asarray(matrix, dtype=np.float64)
    if transform.shape != (4, 4) or not np.isfinite(transform).all():
        return False
    rotation = transform[:3, :3]
    return bool(
        np.allclose(transform[3], [0, 0, 0, 1])
        and np.allclose(rotation @ rotation.T, np.eye(3), atol=tolerance)
        and np.linalg.det(rotation) > 0
    )


def nearest_rigid(matrix: ArrayLike, tolerance: float = 1e-3) -> Matrix:
    """Return the rigid matrix next to one that other programs have rounded.

    Raises
    ------
    AnkleError
        If the matrix is farther from rigid than ``tolerance`` (see :func:`is_rigid`).
    """
    transform = _checked_rigid(matrix, tolerance).copy()
    transform[3] = [0, 0, 0, 1]
    return np.asarray(RigidTransform.from_matrix(transform).as_matrix())


def rotation_angle_deg(matrix: ArrayLike) -> float:
    """Return the angle in degrees (0 to 180) by which a rigid matrix turns."""
    rotation = np.asarray(matrix, dtype=np.float64)[:3, :3]
    return float(np.rad2deg(Rotation.from_matrix(rotation).magnitude()))


def _checked_rigid(matrix: ArrayLike, tolerance: float = 1e-4) -> Matrix:
    transform = np.asarray(matrix, dtype=np.float64)
    if not is_rigid(transform, tolerance):
        raise AnkleError(f"not a rigid 4x4 matrix: {transform.tolist()}")
    return transform


# --- the same poses in other programs' conventions ---


def to_flirt(matrix: ArrayLike, moving: Grid, fixed: Grid) -> Matrix:
    """Return the matrix that FSL FLIRT would write for ``-in moving -ref fixed``.

    FLIRT works in mm along the axes of the array (voxel index times voxel size), the first axis
    reversed where the determinant of the affine is positive.

    Parameters
    ----------
    matrix : array, shape (4, 4)
        Moving world to fixed world, RAS mm.
    moving, fixed : (shape, affine)
        Grids of the two images.
    """
    return compose(np.linalg.inv(_flirt_to_world(fixed)), matrix, _flirt_to_world(moving))


def from_flirt(matrix: ArrayLike, moving: Grid, fixed: Grid) -> Matrix:
    """Return moving world to fixed world, RAS mm, for a FLIRT matrix (see :func:`to_flirt`)."""
    return compose(_flirt_to_world(fixed), matrix, np.linalg.inv(_flirt_to_world(moving)))


def to_itk(matrix: ArrayLike) -> Matrix:
    """Return the matrix of an ITK transform for a pose, or the pose for that of an ITK transform.

    ITK (SimpleITK, ANTs, 3D Slicer) maps points of the fixed image to the moving one, in LPS mm:
    the inverse of ours, with the first two axes of the world reversed. Doing so twice leads back.
    """
    ras = np.asarray(matrix, dtype=np.float64)
    return np.asarray(_LPS_FROM_RAS @ np.linalg.inv(ras) @ _LPS_FROM_RAS)


def _flirt_to_world(grid: Grid) -> Matrix:
    """Return the matrix from FLIRT's scaled voxel mm to world RAS mm."""
    shape, affine = grid[0], np.asarray(grid[1], dtype=np.float64)
    voxel_from_flirt = np.diag([*(1 / np.asarray(voxel_size(affine))), 1.0])
    if np.linalg.det(affine) > 0:
        voxel_from_flirt[0, 0] *= -1
        voxel_from_flirt[0, 3] = shape[0] - 1
    return np.asarray(affine @ voxel_from_flirt)


# --- grids ---


def voxel_size(affine: ArrayLike) -> tuple[float, float, float]:
    """Return the distances between voxel centres along the axes of the array, in mm."""
    i, j, k = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(i), float(j), float(k)


def voxel_mm3(affine: ArrayLike) -> float:
    """Return the volume of a voxel in mm3."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])))


def in_words(sizes_mm: tuple[float, ...]) -> str:
    """Return voxel sizes as text, e.g. ``0.28 x 0.28 x 0.8 mm``."""
    return " x ".join(f"{size:.3g}" for size in sizes_mm) + " mm"


def checked_affine(affine: ArrayLike, name: str) -> Matrix:
    """Return a copy of a 4x4 affine as float64; raise AnkleError if it cannot be one of a scan."""
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise AnkleError(f"{name} has shape {matrix.shape}, expected (4, 4)")
    shown = ", ".join(str([float(f"{x:.4g}") for x in row]) for row in matrix[:3])
    if not np.isfinite(matrix).all():
        raise AnkleError(f"{name} is not finite: [{shown}]: the header is damaged")
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise AnkleError(f"{name} has the last row {matrix[3].tolist()}, expected [0, 0, 0, 1]")
    sizes = voxel_size(matrix)
    low, high = VOXEL_SIZE_LIMITS_MM
    if not all(low <= size <= high for size in sizes):
        raise AnkleError(
            f"{name} gives voxels of {in_words(sizes)}, expected {low:g} to {high:g} mm"
        )
    if abs(np.linalg.det(matrix[:3, :3])) < MIN_VOLUME_FRACTION * math.prod(sizes):
        raise AnkleError(f"{name} has axes far from right angles: [{shown}]")
    if np.abs(matrix[:3, 3]).max() > MAX_OFFSET_MM:
        raise AnkleError(f"{name} lies more than {MAX_OFFSET_MM:g} mm away: [{shown}]")
    return matrix


def corner_distance_mm(shape: Sequence[int], first: ArrayLike, second: ArrayLike) -> float:
    """Return how far apart two affines place the farthest corner of a grid, in mm."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    apart = apply(first, corners) - apply(second, corners)
    return float(np.linalg.norm(apart, axis=1).max())


def same_grid(one: Grid, other: Grid) -> bool:
    """Tell whether two grids are one: one shape, and no corner a tenth of a voxel apart."""
    return tuple(one[0]) == tuple(other[0]) and (
        corner_distance_mm(one[0], one[1], other[1]) <= SAME_GRID_VOXELS * min(voxel_size(one[1]))
    )


def bounding_box(mask: NDArray[Any], margin: ArrayLike = 0) -> Box | None:
    """Return the box of a 3D mask, grown by ``margin`` voxels and cut at the grid's border.

    Parameters
    ----------
    mask : bool array, shape (I, J, K)
    margin : int, or 3 int
        Voxels on every side (along each axis).

    Returns
    -------
    Box or None
        Index an array with it, and its affine with :func:`part_of`; None if the mask is empty.
    """
    box = []
    for axis, grow in enumerate(np.broadcast_to(np.asarray(margin, dtype=int), 3)):
        filled = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if len(filled) == 0:
            return None
        low, high = max(filled[0] - grow, 0), min(filled[-1] + grow + 1, mask.shape[axis])
        box.append(slice(int(low), int(high)))
    i, j, k = box
    return i, j, k


def part_of(box: Box, affine: ArrayLike) -> tuple[tuple[int, int, int], Matrix]:
    """Return shape and affine of a part of a grid."""
    part = np.array(affine, dtype=np.float64)
    part[:3, 3] += part[:3, :3] @ [side.start for side in box]
    i, j, k = (side.stop - side.start for side in box)
    return (i, j, k), part


def block_affine(affine: ArrayLike, blocks: ArrayLike) -> Matrix:
    """Return the affine of blocks of so many voxels along each axis, a place being its middle."""
    result = np.array(affine, dtype=np.float64)
    result[:3, 3] += result[:3, :3] @ ((np.asarray(blocks) - 1) / 2)
    result[:3, :3] *= np.asarray(blocks)
    return result


def box_around(places: Matrix, margin: ArrayLike, shape: Sequence[int]) -> Box:
    """Return the part of a grid around (fractional) voxels (N, 3); may be empty.

    ``margin`` is in voxels (along each axis).
    """
    low = np.clip(np.floor(places.min(axis=0) - margin), 0, shape)
    high = np.clip(np.ceil(places.max(axis=0) + margin) + 1, low, shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def arrival(carried: Grid, pose: ArrayLike, target: Grid, margin_mm: float = 0.0) -> Box:
    """Return the part of a grid that another one reaches when a pose carries it; may be empty.

    Parameters
    ----------
    carried, target : (shape, affine)
        The grid that moves, and the one on which it arrives.
    pose : array, shape (4, 4)
        World of ``carried`` to world of ``target``, RAS mm.
    margin_mm : float
        Grown by this on every side.
    """
    shape, affine = target[0], np.asarray(target[1], dtype=np.float64)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(carried[0]) - 1)
    there = apply(compose(np.linalg.inv(affine), pose, carried[1]), corners)
    return box_around(there, margin_mm / np.asarray(voxel_size(affine)), shape)


class SliceProfile(NamedTuple):
    """The thick axis of an image."""

    axis: int
    """Axis of the array across the slices: the one with the largest voxel."""
    normal: Matrix
    """(3,) unit vector across the slices, world RAS."""
    thickness_mm: float


def slice_direction(affine: ArrayLike) -> SliceProfile:
    """Return the axis across the slices of an image, its direction and the slices' thickness."""
    sizes = voxel_size(affine)
    axis = int(np.argmax(sizes))
    normal = np.asarray(affine, dtype=np.float64)[:3, axis] / sizes[axis]
    return SliceProfile(axis, normal, sizes[axis])


def slice_parts(n_samples: int) -> Matrix:
    """Return the middles of ``n_samples`` equal parts of a slice, as parts of its thickness."""
    if n_samples < 1:
        raise AnkleError(f"{n_samples} samples across a slice: give at least 1")
    return (np.arange(n_samples) + 0.5) / n_samples - 0.5


def weighted_centre(weights: NDArray[Any], affine: ArrayLike) -> Matrix:
    """Return the world position, shape (3,), of the centre of weights on a grid, in mm."""
    sides = [weights.sum(axis=tuple({0, 1, 2} - {a}), dtype=np.float64) for a in range(3)]
    return apply(affine, [side @ np.arange(len(side)) / side.sum() for side in sides])
