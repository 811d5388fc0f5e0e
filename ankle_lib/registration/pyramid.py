"""One region and all frames at several resolutions, ready for the search, on one device.

Both images are made coarser by averaging whole voxels, so that nothing is shifted by half a
voxel: the affine of a level follows the middles of its blocks.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.geometry import block_affine, voxel_mm3, weighted_centre
from ankle_lib.registration.regions import SUPPORT, Region
from ankle_lib.volume import Volume, slices_last

REACH_MM, FADE_MM = 4.8, 1.5
"""Layers count up to here outside the surface, where they fade out over so many mm: cartilage and
the edge of what lies beyond, but little of what moves otherwise."""

LARGEST_DEPTH_MM = 7.0
"""Deeper in a bone all is one layer."""

BODY_MARGIN_VOXELS = 3
"""Air around the body that takes part in its fit, in voxels of the coarsest level."""


@dataclass(frozen=True)
class FixedFrames:
    """All frames of a sequence, slices along the last axis."""

    frames: Tensor
    """(F, I, J, K) float32."""
    affine: NDArray[np.float64]
    measured: Tensor
    """(F, K) bool; a slice that is 0 everywhere was lost, and says nothing."""

    def coarser(self, spacing_mm: float) -> "FixedFrames":
        """Average blocks of voxels within the slices to about ``spacing_mm``."""
        sizes = np.linalg.norm(self.affine[:3, :2], axis=0)
        blocks = _blocks(sizes, spacing_mm, self.frames.shape[1:3])
        pooled = functional.avg_pool2d(self.frames.movedim(3, 1).flatten(0, 1)[:, None], blocks)
        shape = (*self.frames.shape[:1], self.frames.shape[3], *pooled.shape[2:])
        frames = pooled[:, 0].reshape(shape).movedim(1, 3).contiguous()
        affine = block_affine(self.affine, (*blocks, 1))
        return FixedFrames(frames, affine, self.measured)


@dataclass(frozen=True)
class MovingRegion:
    """What is carried to the frames: a region of the static scan, and its weights."""

    image: Tensor
    """(I, J, K) float32."""
    weights: Tensor
    """(I, J, K) float32."""
    affine: NDArray[np.float64]
    centre: NDArray[np.float64]
    """(3,) weighted centre of the region, world mm."""
    depth: Tensor | None = None
    """(I, J, K) mm outside the surface where the weights are a half, negative inside; None where a
    frame is explained by the image alone."""

    @property
    def volume_mm3(self) -> float:
        """Of the region: the sum of its weights."""
        return float(self.weights.sum()) * voxel_mm3(self.affine)

    def coarser(self, spacing_mm: tuple[float, float]) -> "MovingRegion":
        """Average blocks of voxels to about these spacings: thin axes, thickest axis."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        wanted = np.full(3, spacing_mm[0])
        wanted[np.argmax(sizes)] = max(spacing_mm)
        blocks = _blocks(sizes, wanted, self.weights.shape)
        both = torch.stack([self.image, self.weights])
        image, weights = functional.avg_pool3d(both[None], blocks)[0]
        return MovingRegion(image, weights, block_affine(self.affine, blocks), self.centre)

    def standardised(self) -> "MovingRegion":
        """Return the region with mean 0 and standard deviation 1 inside the weights."""
        mean, spread = self._mean_and_spread()
        return replace(self, image=(self.image - mean) / spread)

    def _mean_and_spread(self) -> tuple[Tensor, Tensor]:
        total = self.weights.sum()
        mean = (self.weights * self.image).sum() / total
        return mean, ((self.weights * (self.image - mean) ** 2).sum() / total).sqrt()

    @cached_property
    def layered(self) -> "MovingRegion":
        """The region with its depth, and weights that reach a little beyond its surface."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        inside = (self.weights >= 0.5 * self.weights.max()).cpu().numpy()
        # a bone that the scan's border cuts has no surface there
        margin = [(count, count) for count in np.ceil(LARGEST_DEPTH_MM / sizes).astype(int)]
        inside = np.pad(inside, margin, mode="edge")
        outside_mm = ndimage.distance_transform_edt(~inside, sampling=sizes)
        outside_mm -= ndimage.distance_transform_edt(inside, sampling=sizes)
        core = tuple(slice(count, -count) for count, _ in margin)
        depth = torch.as_tensor(outside_mm[core], dtype=torch.float32, device=self.weights.device)
        return replace(self, weights=((REACH_MM - depth) / FADE_MM).clamp(0, 1), depth=depth)

    @cached_property
    def channels(self) -> Tensor:
        """(C, I, J, K) what is sampled: the image, and the depth if there is one."""
        return torch.stack([self.image, *([] if self.depth is None else [self.depth])])

    @cached_property
    def grey_ends(self) -> tuple[float, float]:
        """Between which nearly all grey values of the image lie, inside the weights."""
        inside = self.image[self.weights > SUPPORT].cpu().numpy()
        low, high = np.percentile(inside, (1, 99)).tolist()
        return low, high

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
    slices = slices_last(volume)
    data = slices.data.astype(np.float32).reshape(*slices.shape, -1)
    frames = torch.as_tensor(data, device=device).movedim(3, 0).contiguous()
    if not bool(torch.isfinite(frames).all()):
        raise AnkleError("the frames hold NaN or infinite values: repair or leave out such frames")
    measured = (frames != 0).flatten(1, 2).any(1)
    return FixedFrames(frames, slices.affine, measured)


def moving_region(region: Region, device: str) -> MovingRegion:
    """Put a region of the static scan on the device; refuse one without contrast."""
    image = torch.as_tensor(region.image.data, device=device)
    weights = torch.as_tensor(region.weights.data, device=device)
    result = MovingRegion(image, weights, region.image.affine, region.centre)
    if not float(result._mean_and_spread()[1]) > 0:
        raise AnkleError(f"the static scan is constant (or not finite) around the {region.name}")
    return result


def body_shape(moving: Volume, spacing_mm: float, device: str) -> MovingRegion:
    """Return what is not air in a scan as a coarse shape: 1 in the body, 0 in a margin of air."""
    image = torch.as_tensor(moving.data.astype(np.float32), device=device)
    blocks = _blocks(np.asarray(moving.voxel_size_mm), spacing_mm, moving.shape)
    coarse = functional.avg_pool3d(image[None, None], blocks)[0, 0]
    affine = block_affine(moving.affine, blocks)
    body = (coarse > threshold_otsu(coarse.cpu().numpy()) / 2).float()
    centre = weighted_centre(body.cpu().numpy(), affine)
    width = 2 * BODY_MARGIN_VOXELS + 1
    around = functional.max_pool3d(body[None, None], width, 1, BODY_MARGIN_VOXELS)[0, 0]
    return MovingRegion(body, around, affine, centre)


def _blocks(sizes: NDArray[Any], wanted: Any, shape: Any) -> tuple[int, ...]:
    counts = np.maximum(1, np.rint(np.asarray(wanted) / sizes)).astype(int)
    return tuple(int(min(count, length)) for count, length in zip(counts, shape, strict=True))
