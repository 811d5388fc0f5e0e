"""Rigid poses as 4x4 matrices in world mm, and their exchange with FSL FLIRT and ITK.

Convention of the whole project: a pose maps world points of the static scan to world points of a
frame, in RAS mm ("static to frame"). The static scan is the *moving* image of a registration and
the frame the *fixed* one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from ankle_lib.files import AnkleError, write_text

__all__ = [
    "apply",
    "compose",
    "from_flirt",
    "invert",
    "is_rigid",
    "read_flirt",
    "read_itk",
    "rigid",
    "rotation_angle_deg",
    "to_flirt",
    "write_flirt",
    "write_itk",
]

Matrix = NDArray[np.float64]
Grid = tuple[tuple[int, int, int], ArrayLike]
"""Shape and affine of an image."""

_ITK_TYPES = ("AffineTransform_double_3_3", "MatrixOffsetTransformBase_double_3_3")
_ITK_CENTRE = "FixedParameters"
_SMALLEST_DETERMINANT = 1e-6
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


def write_itk(path: str | os.PathLike[str], matrix: ArrayLike) -> Path:
    """Write a pose as an ITK ``.tfm``, for resampling the moving image on the fixed grid.

    ITK transforms map fixed to moving points, in LPS mm: the inverse of ours.
    """
    lps = _to_itk(np.asarray(matrix, dtype=np.float64))
    parameters = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    return write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\n"
        f"Transform: {_ITK_TYPES[0]}\n"
        f"Parameters: {' '.join(repr(float(x)) for x in parameters)}\n"
        "FixedParameters: 0 0 0\n",
    )


def read_itk(path: str | os.PathLike[str]) -> Matrix:
    """Read an affine ITK ``.tfm`` (text) into a world matrix, moving to fixed."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        fields = [line.split(":", 1) for line in lines if ":" in line]
        values = {key: np.array(text.split(), dtype=np.float64) for key, text in fields[1:]}
        kind, parameters, centre = fields[0][1].strip(), values["Parameters"], values[_ITK_CENTRE]
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, IndexError):
        raise AnkleError(f"{path}: not a text file with one ITK transform (.tfm)") from None
    known = kind in _ITK_TYPES and parameters.shape == (12,) and centre.shape == (3,)
    if not (known and len(fields) == 3 and np.isfinite([*parameters, *centre]).all()):
        raise AnkleError(
            f"{path}: {kind} is not one affine transform in 3D: save it as {_ITK_TYPES[0]}"
        )
    lps = np.eye(4)
    lps[:3, :3] = parameters[:9].reshape(3, 3)
    lps[:3, 3] = parameters[9:] + centre - lps[:3, :3] @ centre
    if abs(np.linalg.det(lps)) < _SMALLEST_DETERMINANT:
        raise AnkleError(f"{path}: the transform cannot be inverted")
    return _to_itk(lps)


def _to_itk(matrix: Matrix) -> Matrix:
    """Invert and change between RAS and LPS; the same operation leads back."""
    return np.asarray(_LPS_FROM_RAS @ np.linalg.inv(matrix) @ _LPS_FROM_RAS)


def _flirt_to_world(grid: Grid) -> Matrix:
    """Return the matrix from FLIRT's scaled voxel mm to world RAS mm."""
    shape, affine = grid[0], np.asarray(grid[1], dtype=np.float64)
    voxel_mm = np.linalg.norm(affine[:3, :3], axis=0)
    voxel_from_flirt = np.diag([*(1 / voxel_mm), 1.0])
    if np.linalg.det(affine) > 0:
        voxel_from_flirt[0, 0] *= -1
        voxel_from_flirt[0, 3] = shape[0] - 1
    return np.asarray(affine @ voxel_from_flirt)
