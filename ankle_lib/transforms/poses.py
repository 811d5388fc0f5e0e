"""Rigid poses as 4x4 matrices in world mm.

Convention of the whole project: a pose maps world points of the static scan to world points of a
frame, in RAS mm ("static to frame"). The static scan is the *moving* image of a registration and
the frame the *fixed* one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from ankle_lib.files import AnkleError

Matrix = NDArray[np.float64]


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
    """
    centre = np.asarray(centre_mm, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rotation_vector_deg, degrees=True).as_matrix()
    matrix[:3, 3] = centre + np.asarray(translation_mm, dtype=np.float64) - matrix[:3, :3] @ centre
    return matrix


def apply(matrix: ArrayLike, points: ArrayLike) -> Matrix:
    """Map points, shape (..., 3)."""
    transform = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ transform[:3, :3].T + transform[:3, 3]


def invert(matrix: ArrayLike) -> Matrix:
    """Return the inverse of a rigid matrix (exact: the rotation is transposed)."""
    transform = np.asarray(matrix, dtype=np.float64)
    if not is_rigid(transform):
        raise AnkleError(f"not a rigid 4x4 matrix: {transform.tolist()}")
    inverse = np.eye(4)
    inverse[:3, :3] = transform[:3, :3].T
    inverse[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return inverse


def compose(*matrices: ArrayLike) -> Matrix:
    """Return the product: ``compose(b, a)`` first applies ``a``, then ``b``."""
    result = np.eye(4)
    for matrix in matrices:
        result = result @ np.asarray(matrix, dtype=np.float64)
    return result


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


def rotation_angle_deg(matrix: ArrayLike) -> float:
    """Return the angle in degrees (0 to 180) by which a rigid matrix turns."""
    rotation = np.asarray(matrix, dtype=np.float64)[:3, :3]
    return float(np.rad2deg(Rotation.from_matrix(rotation).magnitude()))


def nearest_rigid(matrix: ArrayLike, tolerance: float = 1e-3) -> Matrix:
    """Return the rigid matrix next to one that other programs have rounded.

    The rotation is the orthogonal factor of a polar decomposition; the shift is kept.

    Raises
    ------
    AnkleError
        If the matrix is farther from rigid than ``tolerance`` (see :func:`is_rigid`).
    """
    transform = np.array(matrix, dtype=np.float64)
    if not is_rigid(transform, tolerance):
        raise AnkleError(f"not a rigid 4x4 matrix: {transform.tolist()}")
    left, _, right = np.linalg.svd(transform[:3, :3])
    transform[:3, :3] = left @ right
    transform[3] = [0, 0, 0, 1]
    return transform
