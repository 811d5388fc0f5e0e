"""The bones of a static scan, ready to be carried onto frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.truth import bone_points
from ankle_lib.volume import Volume, load, to_orientation


@dataclass(frozen=True, eq=False)
class StaticBones:
    """The bones of one subject's static scan.

    Attributes
    ----------
    masks : mapping of bone to Volume
        On the scan's whole grid.
    small : mapping of bone to Volume
        The same, cut to the bone.
    points : mapping of bone to (N, 3) array
        World positions in mm, spread over the bone.
    """

    masks: Mapping[str, Volume]
    small: Mapping[str, Volume]
    points: Mapping[str, NDArray[np.float64]]

    @classmethod
    def read(cls, subject: CleanSubject) -> StaticBones:
        """Read the masks of a clean subject."""
        masks = {bone: to_orientation(load(path)) for bone, path in subject.masks.items()}
        return cls(
            masks,
            {bone: cut_to_mask(mask) for bone, mask in masks.items()},
            {bone: bone_points(mask.data > 0, mask.affine) for bone, mask in masks.items()},
        )

    def centre(self, bone: str) -> NDArray[np.float64]:
        """Return the middle of a bone, world mm."""
        middle: NDArray[np.float64] = self.points[bone].mean(axis=0)
        return middle

    def carried(
        self, bone: str, pose: ArrayLike, shape: tuple[int, int, int], affine: ArrayLike
    ) -> NDArray[np.bool_]:
        """Return the bone's mask (I, J, K) on a frame's grid, where it fills half of a voxel."""
        return moved_mask(self.small[bone], pose, shape, affine).data > 0
