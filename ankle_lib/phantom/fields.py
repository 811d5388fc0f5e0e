"""Quantities on regular grids in the reference frame, painted and sampled with torch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ankle_lib.geometry import Box, Grid, bounding_box

INTERPOLATION_GAIN = 1.5**1.5
"""Restores the variance that trilinear interpolation takes: 2/3 along each axis on average."""


@dataclass
class Field:
    """Channels on a regular grid.

    ``values[c, i, j, k]`` lies at ``origin_mm + spacing_mm * (i, j, k)``.

    Attributes
    ----------
    values : Tensor (C, X, Y, Z)
    origin_mm : Tensor (3,), on the CPU
        Centre of the first voxel in the reference frame: the grid's smallest coordinates.
    spacing_mm : float
    """

    values: Tensor
    origin_mm: Tensor
    spacing_mm: float

    @classmethod
    def empty(
        cls, low: Tensor, high: Tensor, spacing_mm: float, channels: int, device: torch.device
    ) -> "Field":
        """Zeros over the box from ``low`` to ``high`` (3,) in mm."""
        shape = [int(n) for n in torch.ceil((high - low) / spacing_mm).long() + 1]
        return cls(torch.zeros(channels, *shape, device=device), low.clone(), spacing_mm)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.values.shape[1:]
        return x, y, z

    @property
    def high(self) -> Tensor:
        """Largest coordinates (3,) in mm."""
        return self.origin_mm + self.spacing_mm * (torch.tensor(self.shape) - 1)

    @property
    def grid(self) -> Grid:
        """Shape, and affine (4, 4) from voxel to the reference frame in mm."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = self.origin_mm
        return self.shape, affine

    def points(self, block: Box | None = None) -> Tensor:
        """Coordinates (X, Y, Z, 3) in mm of all voxels, or of a block of them."""
        i, j, k = block or [slice(0, n) for n in self.shape]
        start = self.origin_mm + self.spacing_mm * torch.tensor([i.start, j.start, k.start])
        axes = [
            first + self.spacing_mm * torch.arange(s.stop - s.start, device=self.values.device)
            for first, s in zip(start.tolist(), (i, j, k), strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    def block(self, low: Tensor, high: Tensor) -> Box:
        """Slices of the voxels inside the box ``low`` to ``high`` (3,) in mm; may be empty."""
        first = torch.ceil((low - self.origin_mm) / self.spacing_mm).long().clamp(min=0).tolist()
        last = torch.floor((high - self.origin_mm) / self.spacing_mm).long().tolist()
        i, j, k = (
            slice(a, max(min(b + 1, n), a)) for a, b, n in zip(first, last, self.shape, strict=True)
        )
        return i, j, k

    def normalising(self) -> Tensor:
        """Matrix (3, 4) from reference points to the coordinates of ``grid_sample``.

        ``grid_sample`` wants the last axis first and runs from -1 to 1 between voxel centres.
        """
        size = torch.tensor(self.shape, dtype=torch.float64)
        scale = 2 / (self.spacing_mm * (size - 1))
        matrix = torch.zeros(3, 4, dtype=torch.float64)
        for row, axis in enumerate((2, 1, 0)):
            matrix[row, axis] = scale[axis]
            matrix[row, 3] = -1 - scale[axis] * self.origin_mm[axis]
        return matrix

    def sample(self, points: Tensor, *, outside: str = "zeros") -> Tensor:
        """Trilinear values (C, ...) at ``points`` (..., 3) in mm; ``outside``: zeros or border."""
        matrix = self.normalising().to(points)
        coordinates = points @ matrix[:, :3].T + matrix[:, 3]
        sampled = self.sample_normalised(coordinates.reshape(1, -1, 1, 3), outside=outside)
        return sampled.reshape(len(self.values), *points.shape[:-1])

    def sample_normalised(self, coordinates: Tensor, *, outside: str = "zeros") -> Tensor:
        """Trilinear values (C, A, B, D) at ``grid_sample`` coordinates (A, B, D, 3)."""
        return functional.grid_sample(
            self.values[None], coordinates[None], padding_mode=outside, align_corners=True
        )[0]

    def noise(self, grain_mm: tuple[float, float, float], generator: torch.Generator) -> Tensor:
        """Smooth noise (X, Y, Z) of about unit variance on this grid.

        White noise on a lattice of about ``grain_mm``, interpolated between; the lattice is drawn
        on the CPU, so that every device sees the same noise.
        """
        size = [
            max(2, round(n * self.spacing_mm / g) + 1)
            for n, g in zip(self.shape, grain_mm, strict=True)
        ]
        lattice = torch.randn(1, 1, *size, generator=generator).to(self.values.device)
        noise = functional.interpolate(
            lattice, size=self.shape, mode="trilinear", align_corners=True
        )
        return noise[0, 0] * INTERPOLATION_GAIN

    def picked(self, channels: slice) -> "Field":
        """Some of the channels, sharing memory."""
        return Field(self.values[channels], self.origin_mm, self.spacing_mm)

    def cropped(self, keep: Tensor) -> "Field":
        """The part of the grid that holds all of ``keep`` (X, Y, Z), and a voxel around it."""
        box = bounding_box(keep.cpu().numpy(), 1)
        assert box is not None
        start = torch.tensor([float(s.start) for s in box])
        values = self.values[:, *box].contiguous()
        return Field(values, self.origin_mm + self.spacing_mm * start, self.spacing_mm)

    def resampled(self, spacing_mm: float) -> "Field":
        """The same box on another spacing (trilinear)."""
        target = Field.empty(self.origin_mm, self.high, spacing_mm, 0, self.values.device)
        values = self.sample(target.points(), outside="border")
        return Field(values, target.origin_mm, spacing_mm)
