"""How far a pose is from the truth: on the bone in mm, and in degrees about anatomical axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, compose, invert

AXES = ("lr", "ap", "si")
"""Anatomical axes left-right, anterior-posterior, superior-inferior: world x, y, z."""

MAX_POINTS = 2000


def bone_points(mask: NDArray[np.bool_], affine: ArrayLike) -> NDArray[np.float64]:
    """Return world positions, shape (N, 3) mm, spread evenly over the voxels of a bone.

    At most about 2000: a rigid motion needs no more to be measured.

    Raises
    ------
    AnkleError
        If the mask is empty.
    """
    voxels = np.argwhere(mask)
    if len(voxels) == 0:
        raise AnkleError("the error of a pose was asked for on an empty mask")
    return apply(affine, voxels[:: max(1, len(voxels) // MAX_POINTS)])


def tre_mm(pose: ArrayLike, truth: ArrayLike, points: NDArray[np.float64]) -> float:
    """Return the target registration error: mean distance in mm between points moved by both.

    Parameters
    ----------
    pose, truth : array, shape (4, 4)
        Static world to frame world, RAS mm.
    points : array, shape (N, 3)
        Of the bone in the static world, see `bone_points`.
    """
    return float(np.linalg.norm(apply(pose, points) - apply(truth, points), axis=1).mean())


def rotation_errors_deg(pose: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the rotation from the true to the estimated pose about left-right, A-P and S-I.

    Returns
    -------
    array, shape (3,)
        Components of the rotation vector in degrees, in the frame's world (see `AXES`); its
        length is the angle of the whole error.
    """
    error = compose(pose, invert(truth))
    return np.asarray(Rotation.from_matrix(error[:3, :3]).as_rotvec(degrees=True))
