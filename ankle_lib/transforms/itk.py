"""Poses in the convention of ITK (``.tfm`` files), which SimpleITK, ANTs and 3D Slicer read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ankle_lib.files import AnkleError, write_text
from ankle_lib.transforms.poses import Matrix

_ITK_TYPES = ("AffineTransform_double_3_3", "MatrixOffsetTransformBase_double_3_3")
_ITK_CENTRE = "FixedParameters"
_SMALLEST_DETERMINANT = 1e-6
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_itk(matrix: ArrayLike) -> Matrix:
    """Return the matrix of an ITK transform, shape (4, 4), for a pose.

    ITK maps points of the fixed image to the moving one, in LPS mm: the inverse of ours, with the
    first two axes of the world reversed.
    """
    ras = np.asarray(matrix, dtype=np.float64)
    return np.asarray(_LPS_FROM_RAS @ np.linalg.inv(ras) @ _LPS_FROM_RAS)


def from_itk(matrix: ArrayLike) -> Matrix:
    """Return moving world to fixed world, RAS mm, for the matrix of an ITK transform."""
    return to_itk(matrix)  # inverting and reversing twice leads back


def write_itk(path: str | os.PathLike[str], matrix: ArrayLike) -> Path:
    """Write a pose as an ITK ``.tfm``, for resampling the moving image on the fixed grid."""
    lps = to_itk(matrix)
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
    return from_itk(lps)
