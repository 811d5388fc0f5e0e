"""The simplest way to move a whole foot: every voxel goes with its nearest bone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.registration.moving import cut_to_mask, moved, moved_mask
from ankle_lib.volume import Volume

Move = Callable[
    [Volume, Mapping[str, Volume], Mapping[str, NDArray], tuple[int, int, int], NDArray], NDArray
]
"""Static scan, its bones' masks and their poses (static to frame), shape and affine of a grid in
the frame's world -> the static scan moved, on this grid."""


def carried_by_nearest_bone(
    static: Volume,
    masks: Mapping[str, Volume],
    poses: Mapping[str, NDArray],
    shape: tuple[int, int, int],
    affine: NDArray,
) -> NDArray[np.float32]:
    """Move the static scan so that every voxel goes with the bone that is nearest to it.

    The simplest way to keep bones rigid; between two bones the image breaks.

    Parameters
    ----------
    static, masks, poses, shape, affine
        See `Move`.
    """
    nearest = np.full(shape, np.inf, dtype=np.float32)
    result = np.zeros(shape, dtype=np.float32)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    for bone, pose in poses.items():
        there = moved_mask(cut_to_mask(masks[bone]), pose, shape, affine, slice_samples=1).data
        if not there.any():
            continue
        distance = ndimage.distance_transform_edt(~there, sampling=sizes).astype(np.float32)
        closer = distance < nearest
        result[closer] = moved(static, pose, shape, affine).data[closer]
        nearest[closer] = distance[closer]
    return result
