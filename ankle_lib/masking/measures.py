"""Volumes of bones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def bone_volumes_cm3(
    masks: Mapping[str, NDArray[np.bool_]], voxel_size_mm: Sequence[float]
) -> dict[str, float]:
    """Return the volume of each bone in cubic centimetres."""
    voxel_cm3 = float(np.prod(voxel_size_mm)) / 1000.0
    return {bone: float(np.count_nonzero(mask)) * voxel_cm3 for bone, mask in masks.items()}
