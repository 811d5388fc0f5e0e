"""Repairs of the values of one image: masks made binary, missing voxels filled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError

MAX_LABELS = 8
"""An integer mask with 3 to 8 values holds labels; one with more is an interpolated mask."""


def binarise(data: NDArray) -> tuple[NDArray[np.bool_], str | None]:
    """Make a mask binary, and say what had to be done.

    Parameters
    ----------
    data : array
        Values {0, 1} need nothing. Values from 0 to a larger number, and fractions (soft edges),
        are cut at half of the largest value; 0.5 for fractions up to 1.

    Returns
    -------
    mask : bool array
    correction : str or None

    Raises
    ------
    AnkleError
        If values are negative, or if integers stand for several labels.
    """
    low, high = float(data.min()), float(data.max())
    if low < 0:
        raise AnkleError(f"values from {low:g} to {high:g}, expected a mask of 0 and 1")
    mask = data > 0.5 * high if high > 0 else np.zeros(data.shape, dtype=bool)
    at_half = 0.5 * high
    n_between = int(np.count_nonzero((data > 0) & (data < high)))
    if n_between == 0:
        return mask, None if high in (0.0, 1.0) else f"binarised: values 0 and {high:g}"
    values = np.unique(data[(data > 0) & (data < high)][:: max(1, n_between // 10_000)])
    if high >= 2 and len(values) + 2 <= MAX_LABELS and np.array_equal(values, np.rint(values)):
        raise AnkleError(
            f"holds labels {[0, *values.astype(int).tolist(), int(high)]}, expected one bone: "
            "save each label as a mask of its own"
        )
    return mask, f"binarised at {at_half:g}: {n_between} voxels between 0 and {high:g}"


def fill_missing(data: NDArray) -> tuple[NDArray, int]:
    """Replace NaN and infinite voxels by the mean of their finite neighbours (3 x 3 x 3).

    Larger holes are filled from their border inwards.

    Returns
    -------
    filled : array like ``data``
        ``data`` itself if nothing is missing.
    n_missing : int
    """
    missing = ~np.isfinite(data) if data.dtype.kind == "f" else np.zeros(1, dtype=bool)
    n_missing = int(np.count_nonzero(missing))
    if n_missing == 0 or n_missing == data.size:
        return data, n_missing
    filled = data.copy()
    (box,) = ndimage.find_objects(ndimage.binary_dilation(missing).astype(np.uint8))
    part, holes = filled[box], missing[box]
    if not (~holes).any():
        part, holes = filled, missing
    while holes.any():
        known = ndimage.uniform_filter((~holes).astype(np.float64), 3, mode="constant")
        total = ndimage.uniform_filter(np.where(holes, 0.0, part), 3, mode="constant")
        reach = holes & (known > 1e-6)
        part[reach] = total[reach] / known[reach]
        holes = holes & ~reach
    return filled, n_missing
