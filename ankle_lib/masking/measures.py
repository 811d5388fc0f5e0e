"""Numbers about masks: volumes of bones, overlap with the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError

__all__ = ["bone_volumes_cm3", "dice"]


def bone_volumes_cm3(
    masks: Mapping[str, NDArray[np.bool_]], voxel_size_mm: Sequence[float]
) -> dict[str, float]:
    """Return the volume of each bone in cubic centimetres."""
    voxel_cm3 = float(np.prod(voxel_size_mm)) / 1000.0
    return {bone: float(np.count_nonzero(mask)) * voxel_cm3 for bone, mask in masks.items()}


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the Dice overlap 2 |A and B| / (|A| + |B|); NaN if both masks are empty.

    Raises
    ------
    AnkleError
        If the shapes differ.
    """
    if first.shape != second.shape:
        raise AnkleError(f"Dice of masks with shapes {first.shape} and {second.shape}")
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2.0 * np.count_nonzero(first & second) / total) if total else float("nan")
