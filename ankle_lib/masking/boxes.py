"""Bounding boxes, so that work is done only where a mask is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def box_with_margin(
    mask: NDArray[np.bool_], margin: NDArray[np.int_]
) -> tuple[slice, slice, slice] | None:
    """Return the mask's bounding box, grown by ``margin`` voxels and cut at the grid's border."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if len(filled) == 0:
            return None
        low = max(int(filled[0]) - int(margin[axis]), 0)
        high = min(int(filled[-1]) + int(margin[axis]) + 1, mask.shape[axis])
        box.append(slice(low, high))
    i, j, k = box
    return i, j, k
