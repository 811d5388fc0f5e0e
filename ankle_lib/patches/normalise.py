"""Intensities of different scans made comparable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError


def zscore(data: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shift and scale an image to mean 0 and standard deviation 1 inside the mask.

    Report, section 6.2.1: inside the foot for segmentation, inside the bone for reconstruction.

    Parameters
    ----------
    data : array
        Image of any shape.
    mask : bool array of the same shape
        Voxels that count; all others are transformed along with them.

    Returns
    -------
    float32 array of the same shape

    Raises
    ------
    AnkleError
        If the shapes differ, the mask is empty, or the values inside it are constant or not
        finite.
    """
    if data.shape != mask.shape:
        raise AnkleError(f"image of shape {data.shape} and mask of shape {mask.shape}: resample")
    inside = data[mask]
    if inside.size == 0:
        raise AnkleError("the mask is empty: there is no intensity to normalise by")
    mean = float(inside.mean(dtype=np.float64))
    sd = float(inside.std(dtype=np.float64))
    if not np.isfinite([mean, sd]).all():
        raise AnkleError("the image holds values inside the mask that are not finite: replace them")
    if sd <= 1e-6 * abs(mean):
        raise AnkleError(f"the image is constant inside the mask ({mean:g}): is it the right file?")
    return ((data - np.float32(mean)) / np.float32(sd)).astype(np.float32)
