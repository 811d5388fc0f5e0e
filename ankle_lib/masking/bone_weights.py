"""Soft weights around the bones, for a registration that looks at one bone, and their volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.geometry import bounding_box

REPORT_VOXEL_MM = (0.28, 0.28, 0.8)
"""The report's static grid (posterior, superior, right)."""

BONE_RADIUS_VOXELS = {"calcaneus": 1, "talus": 2, "tibia": 2}
"""Radius of dilation that the report chose for each bone (section 5.2.4), in voxels."""

REPORT_SIGMA_VOXELS = 2.0
"""Standard deviation of the blur of the dilated masks (report, section 5.2.3), in voxels."""

GAUSS_REACH = 4.0
"""Standard deviations after which the Gaussian is cut off."""


def bone_weights(
    mask: NDArray[np.bool_],
    voxel_size_mm: Sequence[float],
    radius_mm: float | Sequence[float],
    sigma_mm: float | Sequence[float],
) -> NDArray[np.float32]:
    """Dilate a bone by a ball and blur it: weights for a registration of this bone.

    The report counts in voxels of 0.28 x 0.28 x 0.8 mm, so its ball is an ellipsoid, almost three
    times as long across the slices. Radius and sigma may therefore differ per axis; `in_mm`
    gives the report's values. A ball smaller than a voxel changes nothing. A negative radius
    erodes instead.

    Parameters
    ----------
    mask : (I, J, K) bool array
    voxel_size_mm : 3 floats
    radius_mm : float or 3 floats
        Semi-axes of the ball, all of one sign; 0 for no dilation.
    sigma_mm : float or 3 floats
        Standard deviations of the Gaussian; 0 for no blur.

    Returns
    -------
    (I, J, K) float32 array
        In [0, 1], largest inside the bone; all 0 for an empty mask.
    """
    voxel = np.asarray(voxel_size_mm, dtype=float)
    radius = np.broadcast_to(np.asarray(radius_mm, dtype=float), 3)
    sigma = np.broadcast_to(np.asarray(sigma_mm, dtype=float), 3)
    if (sigma < 0).any() or (radius.min() < 0 < radius.max()):
        raise AnkleError(
            f"radius {radius_mm} mm must not grow and shrink at once, sigma {sigma_mm} mm must not "
            "be negative"
        )
    weights = np.zeros(mask.shape, dtype=np.float32)
    margin = np.ceil((radius.clip(0) + GAUSS_REACH * sigma) / voxel).astype(int) + 1
    box = bounding_box(mask, margin)
    if box is None:
        return weights
    inside = mask[box]
    grown = (
        _dilated(inside, voxel, radius) if radius.max() > 0 else ~_dilated(~inside, voxel, -radius)
    )
    soft = grown.astype(np.float32)
    ndimage.gaussian_filter(soft, sigma / voxel, output=soft, mode="constant", truncate=GAUSS_REACH)
    weights[box] = np.clip(soft, 0.0, 1.0)
    return weights


def in_mm(voxels: float) -> tuple[float, float, float]:
    """Return a length that the report gives in voxels, in mm along each axis of its static grid."""
    return (
        voxels * REPORT_VOXEL_MM[0],
        voxels * REPORT_VOXEL_MM[1],
        voxels * REPORT_VOXEL_MM[2],
    )


def bone_volumes_cm3(
    masks: Mapping[str, NDArray[np.bool_]], voxel_size_mm: Sequence[float]
) -> dict[str, float]:
    """Return the volume of each bone in cubic centimetres."""
    voxel_cm3 = float(np.prod(voxel_size_mm)) / 1000.0
    return {bone: float(np.count_nonzero(mask)) * voxel_cm3 for bone, mask in masks.items()}


def _dilated(
    mask: NDArray[np.bool_], voxel: NDArray[np.float64], radius: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Dilate by an ellipsoid: where the distance, in units of its semi-axes, is at most 1."""
    if not radius.any():
        return mask
    # A semi-axis of 0 makes any step along it too long.
    steps = voxel / np.maximum(radius, 1e-3 * voxel)
    return ndimage.distance_transform_edt(~mask, sampling=steps) <= 1.0 + 1e-9
