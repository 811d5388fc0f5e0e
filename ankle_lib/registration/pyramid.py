"""One region and all frames at several resolutions, ready for the search, on one device.

Both images are made coarser by averaging whole voxels, so that nothing is shifted by half a
voxel: the affine of a level follows the middles of its blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.geometry import slice_direction
from ankle_lib.registration.regions import Region
from ankle_lib.volume import Volume


@dataclass(frozen=True)
class FixedFrames:
    """All frames of a sequence, slices along the last axis."""

    frames: Tensor
    """(F, I, J, K) float32."""
    affine: NDArray[np.float64]
    thickness_mm: float
    measured: Tensor
    """(F, K) bool; a slice that is 0 everywhere was lost, and says nothing."""

    def coarser(self, spacing_mm: float) -> FixedFrames:
        """Average blocks of voxels within the slices to about ``spacing_mm``."""
        sizes = np.linalg.norm(self.affine[:3, :2], axis=0)
        blocks = _blocks(sizes, spacing_mm, self.frames.shape[1:3])
        pooled = functional.avg_pool2d(self.frames.movedim(3, 1).flatten(0, 1)[:, None], blocks)
        shape = (*self.frames.shape[:1], self.frames.shape[3], *pooled.shape[2:])
        frames = pooled[:, 0].reshape(shape).movedim(1, 3).contiguous()
        affine = _block_affine(self.affine, (*blocks, 1))
        return FixedFrames(frames, affine, self.thickness_mm, self.measured)


@dataclass(frozen=True)
class MovingRegion:
    """What is carried to the frames: a region of the static scan, and its weights."""

    channels: Tensor
    """(C, I, J, K) float32 images, each of which explains the frame with a gain of its own; here
    one, the static scan, with mean 0 and standard deviation 1 inside the weights."""
    weights: Tensor
    """(I, J, K) float32."""
    affine: NDArray[np.float64]
    centre: NDArray[np.float64]
    """(3,) weighted centre of the region, world mm."""

    def coarser(self, spacing_mm: tuple[float, float]) -> MovingRegion:
        """Average blocks of voxels to about these spacings: thin axes, thickest axis."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        wanted = np.full(3, spacing_mm[0])
        wanted[np.argmax(sizes)] = max(spacing_mm)
        blocks = _blocks(sizes, wanted, self.weights.shape)
        both = torch.cat([self.channels, self.weights[None]])
        pooled = functional.avg_pool3d(both[None], blocks)[0]
        affine = _block_affine(self.affine, blocks)
        return MovingRegion(pooled[:-1], pooled[-1], affine, self.centre)

    @cached_property
    def grown(self) -> Tensor:
        """(I, J, K) weights grown by a voxel, so that the region may still move."""
        return functional.max_pool3d(self.weights[None, None], 3, 1, 1)[0, 0]


@dataclass(frozen=True)
class Level:
    """Both images at one resolution."""

    fixed: FixedFrames
    moving: MovingRegion
    slice_samples: int
    iterations: int
    n_points: int
    """Voxels of a frame that take part, about."""
    stride: int = 1
    """Only every so manieth voxel of a frame takes part."""


def fixed_frames(volume: Volume, device: str) -> FixedFrames:
    """Put a 3D or 4D image on the device, slices last."""
    axis, _, thickness = slice_direction(volume.affine)
    order = [*(other for other in range(3) if other != axis), axis]
    data = volume.data.reshape(*volume.shape, -1)
    frames = torch.as_tensor(np.ascontiguousarray(data, dtype=np.float32), device=device)
    frames = frames.permute(3, *order).contiguous()
    if not bool(torch.isfinite(frames).all()):
        raise AnkleError("the frames hold NaN or infinite values: repair or leave out such frames")
    measured = (frames != 0).flatten(1, 2).any(1)
    return FixedFrames(frames, volume.affine[:, [*order, 3]], thickness, measured)


def moving_region(region: Region, device: str) -> MovingRegion:
    """Put a region of the static scan on the device; refuse one without contrast."""
    image = torch.as_tensor(region.image.data, device=device)
    weights = torch.as_tensor(region.weights.data, device=device)
    total = weights.sum()
    mean = (weights * image).sum() / total
    spread = ((weights * (image - mean) ** 2).sum() / total).sqrt()
    if not float(spread) > 0:
        raise AnkleError(f"the static scan is constant (or not finite) around the {region.name}")
    sides = [weights.sum(dim=[a for a in range(3) if a != axis]) / total for axis in range(3)]
    middle = [float((side * torch.arange(len(side), device=device)).sum()) for side in sides]
    affine = region.image.affine
    centre = affine[:3, :3] @ middle + affine[:3, 3]
    return MovingRegion(((image - mean) / spread)[None], weights, affine, centre)


def _blocks(sizes: NDArray[Any], wanted: Any, shape: Any) -> tuple[int, ...]:
    counts = np.maximum(1, np.rint(np.asarray(wanted) / sizes)).astype(int)
    return tuple(int(min(count, length)) for count, length in zip(counts, shape, strict=True))


def _block_affine(affine: NDArray[np.float64], blocks: tuple[int, ...]) -> NDArray[np.float64]:
    """Affine of blocks of voxels, whose middles are half a block minus half a voxel away."""
    result = affine.copy()
    result[:3, :3] = affine[:3, :3] * blocks
    result[:3, 3] += affine[:3, :3] @ ((np.asarray(blocks) - 1) / 2)
    return result
