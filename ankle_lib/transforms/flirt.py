"""Poses in the convention of FSL FLIRT (``.mat`` files)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ankle_lib.files import AnkleError, write_text
from ankle_lib.transforms.poses import Matrix, compose

Grid = tuple[tuple[int, int, int], ArrayLike]
"""Shape and affine of an image."""

_SMALLEST_DETERMINANT = 1e-6


def to_flirt(matrix: ArrayLike, moving: Grid, fixed: Grid) -> Matrix:
    """Return the matrix that FLIRT would write for ``-in moving -ref fixed``.

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


def write_flirt(path: str | os.PathLike[str], matrix: ArrayLike, moving: Grid, fixed: Grid) -> Path:
    """Write a pose as FLIRT's ``.mat`` text file."""
    rows = to_flirt(matrix, moving, fixed)
    return write_text(path, "".join("  ".join(f"{x:.12g}" for x in row) + "\n" for row in rows))


def read_flirt(path: str | os.PathLike[str], moving: Grid, fixed: Grid) -> Matrix:
    """Read FLIRT's ``.mat`` text file into a world matrix."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        matrix = np.array([line.split() for line in lines if line.strip()], dtype=np.float64)
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise AnkleError(f"{path}: not a FLIRT matrix: expected 4 lines of 4 numbers") from None
    usable = matrix.shape == (4, 4) and np.isfinite(matrix).all()
    if not usable or abs(np.linalg.det(matrix)) < _SMALLEST_DETERMINANT:
        raise AnkleError(f"{path}: not an invertible 4 x 4 FLIRT matrix: {matrix.tolist()}")
    return from_flirt(matrix, moving, fixed)


def _flirt_to_world(grid: Grid) -> Matrix:
    """Return the matrix from FLIRT's scaled voxel mm to world RAS mm."""
    shape, affine = grid[0], np.asarray(grid[1], dtype=np.float64)
    voxel_mm = np.linalg.norm(affine[:3, :3], axis=0)
    voxel_from_flirt = np.diag([*(1 / voxel_mm), 1.0])
    if np.linalg.det(affine) > 0:
        voxel_from_flirt[0, 0] *= -1
        voxel_from_flirt[0, 3] = shape[0] - 1
    return np.asarray(affine @ voxel_from_flirt)
