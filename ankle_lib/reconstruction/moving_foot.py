"""A static scan, its bones and how far everything is from them: ready to be moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import RigidTransform
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.geometry import invert
from ankle_lib.motion_fields import FLOW_STEPS, flow_back
from ankle_lib.registration.truth import bone_points
from ankle_lib.volume import Volume

BASE = "tibia"
"""The bone that the others are seen from: their motion is then that of the joints."""

DISTANCE_MM = 1.0
"""Spacing, about, at which distances from the bones are kept."""


@dataclass(frozen=True)
class MovingFoot:
    """A static scan and its bones, ready to be moved many times.

    Attributes
    ----------
    image : Tensor (1, 1, I, J, K)
        The scan on a grid twice as fine, so that linear interpolation blurs little.
    image_affine : (4, 4)
    distances : Tensor (N, 1, I, J, K)
        Signed distance from each bone in mm, negative inside.
    distance_affine : (4, 4)
    bones : tuple of str
    points : mapping of bone to (P, 3) array
        World positions spread over each bone.
    """

    image: Tensor
    image_affine: NDArray[np.float64]
    distances: Tensor
    distance_affine: NDArray[np.float64]
    bones: tuple[str, ...]
    points: Mapping[str, NDArray[np.float64]]

    @classmethod
    def prepare(
        cls,
        static: Volume,
        masks: Mapping[str, NDArray[np.bool_]],
        device: str | torch.device = "cpu",
    ) -> MovingFoot:
        """Compute the distances, and the scan between its voxels by cubic splines.

        Parameters
        ----------
        static : Volume
            3D.
        masks : mapping of bone to (I, J, K) bool array
            On the grid of ``static``.

        Raises
        ------
        AnkleError
            If there is no mask, or one is empty or of another shape.
        """
        if not masks:
            raise AnkleError("a foot moves with its bones: give at least one mask")
        for bone, mask in masks.items():
            if mask.shape != static.shape:
                raise AnkleError(
                    f"the mask of the {bone} has shape {mask.shape}, the static scan "
                    f"{static.shape}: bring it to the scan's grid"
                )
        blocks = np.maximum(np.rint(DISTANCE_MM / np.array(static.voxel_size_mm)), 1).astype(int)
        places = _block_affine(static.affine, blocks)
        spacing = blocks * static.voxel_size_mm
        maps = np.stack([_signed_distance(mask, blocks, spacing) for mask in masks.values()])
        return cls(
            torch.from_numpy(_doubled(static.data))[None, None].to(device),
            static.affine @ np.diag([0.5, 0.5, 0.5, 1.0]),
            torch.from_numpy(maps)[:, None].to(device),
            places,
            tuple(masks),
            {bone: bone_points(mask, static.affine) for bone, mask in masks.items()},
        )

    def distance(self, bone: str, points: Tensor) -> Tensor:
        """Signed distance (...) in mm from a bone at points (..., 3) of the static world."""
        where = _normalised(points, self.distance_affine, self.distances.shape[2:])
        found = functional.grid_sample(
            self.distances[self.bones.index(bone)][None].to(where.dtype),
            where.reshape(1, -1, 1, 1, 3),
            padding_mode="border",
            align_corners=True,
        )
        return found.reshape(points.shape[:-1])

    def sample(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Intensity (...) at points (..., 3) of the static world, and which lie in the scan.

        Outside it is 0.
        """
        where = _normalised(points, self.image_affine, self.image.shape[2:])
        found = functional.grid_sample(
            self.image, where.reshape(1, -1, 1, 1, 3), align_corners=True
        )
        return found.reshape(points.shape[:-1]), (where.abs() <= 1).all(dim=-1)

    def to_static(
        self, points: Tensor, poses: Mapping[str, ArrayLike], steps: int = FLOW_STEPS
    ) -> Tensor:
        """Carry points (..., 3) of a frame's world back to the static world by the flow.

        Bones without a pose, and all else, follow the others.

        Parameters
        ----------
        points : Tensor (..., 3)
            RAS mm.
        poses : mapping of bone to (4, 4) array
            Static world to frame world, RAS mm.
        """
        names = [bone for bone in self.bones if bone in poses]
        base = np.asarray(poses[BASE if BASE in names else names[0]], dtype=np.float64)
        # The motion that all share is taken off first: what is left are turns of the joints.
        relative = [invert(base) @ np.asarray(poses[bone]) for bone in names]
        coordinates = np.stack([RigidTransform.from_matrix(m).as_exp_coords() for m in relative])
        home = torch.from_numpy(invert(base)).to(points)
        return flow_back(
            points @ home[:3, :3].T + home[:3, 3],
            coordinates,
            lambda index, where: self.distance(names[index], where),
            steps,
        )


def _normalised(points: Tensor, affine: NDArray[np.float64], shape: Sequence[int]) -> Tensor:
    """``grid_sample`` coordinates (..., 3) of world points on a grid: last axis first, -1 to 1."""
    matrix = np.linalg.inv(affine)[:3]
    scale = 2 / (np.array(shape) - 1)
    matrix = scale[:, None] * matrix
    matrix[:, 3] -= 1
    rows = torch.from_numpy(matrix[::-1].copy()).to(points)
    return points @ rows[:, :3].T + rows[:, 3]


def _signed_distance(
    mask: NDArray[np.bool_], blocks: NDArray[np.int_], spacing: NDArray[np.float64]
) -> NDArray[np.float32]:
    padded = np.pad(mask > 0, [(0, int(-n % b)) for n, b in zip(mask.shape, blocks, strict=True)])
    i, j, k = (n // b for n, b in zip(padded.shape, blocks, strict=True))
    share = padded.reshape(i, blocks[0], j, blocks[1], k, blocks[2]).mean(axis=(1, 3, 5))
    inside = share >= 0.5
    if not inside.any():
        raise AnkleError("a bone's mask is empty, or thinner than a millimetre: look at the masks")
    outward = ndimage.distance_transform_edt(~inside, sampling=spacing)
    inward = ndimage.distance_transform_edt(inside, sampling=spacing)
    return (outward - inward).astype(np.float32)


def _block_affine(affine: NDArray[np.float64], blocks: NDArray[np.int_]) -> NDArray[np.float64]:
    within = np.diag([*blocks.astype(float), 1.0])
    within[:3, 3] = (blocks - 1) / 2
    return affine @ within


def _doubled(image: NDArray) -> NDArray[np.float32]:
    """Values at the voxels and half-way between, along every axis, by cubic splines."""
    fine = image.astype(np.float32)
    for axis in (2, 1, 0):
        n = fine.shape[axis]
        if n == 1:
            continue
        spline = ndimage.spline_filter1d(fine, 3, axis, output=np.float32, mode="mirror")
        between = spline.take(range(n - 1), axis)
        between += spline.take(range(1, n), axis)
        between *= 23 / 48
        outer = spline.take([1, *range(n - 2)], axis)
        outer += spline.take([*range(2, n), n - 2], axis)
        outer *= 1 / 48
        between += outer
        shape = list(fine.shape)
        shape[axis] = 2 * n - 1
        result = np.empty(shape, dtype=np.float32)
        place: list[slice] = [slice(None)] * 3
        place[axis] = slice(0, None, 2)
        result[tuple(place)] = fine
        place[axis] = slice(1, None, 2)
        result[tuple(place)] = between
        fine = result
    return fine
