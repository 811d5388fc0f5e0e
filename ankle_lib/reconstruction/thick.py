"""From a sharp volume to what a frame with thick slices would have measured of it, and back.

A frame sees the average across each slice. Within the slices it sees only the middle of k-space,
where the scanner has filled the rest with zeros: the spectrum of the frame itself shows how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.geometry import slice_direction
from ankle_lib.masking.foot import find_foot
from ankle_lib.volume import Volume

LEAST_BAND = 0.4
"""Share of k-space along an axis below which no scanner stops measuring."""
LEAST_DROP_DB = 4.0
"""A spectrum that falls by so much at once ends there."""
WINDOW = 0.04
"""Part of the spectrum over which levels on either side of an edge are compared."""
PADDING = 8
"""Pixels by which slices are continued before their spectrum is cut."""

CORE = np.ones((7, 7, 1), dtype=bool)
"""Tissue is this far from the skin, air from the foot, where noise is measured."""
FEWEST_VOXELS = 500
HIGH_PASS = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])
CLIP = 3.0


@dataclass(frozen=True)
class Scanning:
    """What all frames of a sequence share."""

    band: tuple[float, float]
    """Measured share of k-space along the two axes within the slices."""
    noise_sd: float
    """Of the noise in tissue, in the image's units."""


def scanning(frames: Volume) -> Scanning:
    """Read the measured share of k-space and the noise off the frames themselves.

    Parameters
    ----------
    frames : Volume
        3D or 4D, in any orientation.
    """
    data, _ = _slices_last(frames)
    band = measured_band(data)
    images = data[..., None] if data.ndim == 3 else data
    levels = [noise_sd(images[..., n], band) for n in range(images.shape[3])]
    return Scanning(band, float(np.median(levels)))


def measured_band(data: NDArray) -> tuple[float, float]:
    """Return the share of k-space that was measured along axes 0 and 1, from 0.4 to 1.

    Beyond it the power falls at once to that of rounding. Without such an edge it is 1.

    Parameters
    ----------
    data : (I, J, ...) array
    """
    centred = data.astype(np.float32) - np.float32(data.mean())
    power = np.abs(np.fft.fft2(centred, axes=(0, 1))) ** 2
    power = power.mean(axis=tuple(range(2, data.ndim))) if data.ndim > 2 else power
    return _share(power, 0), _share(power, 1)


def _share(power: NDArray[np.floating], axis: int) -> float:
    """Measured share of k-space along an axis, seen where the other axis surely was measured."""
    other = np.abs(np.fft.fftfreq(power.shape[1 - axis])) <= 0.5 * LEAST_BAND
    along = power.compress(other, axis=1 - axis).mean(axis=1 - axis)
    level = 10 * np.log10(along[: len(along) // 2 + 1] + 1e-12)
    width = max(2, round(WINDOW * len(level)))
    drops = {
        n: float(np.median(level[n - width : n]) - np.median(level[n + 1 : n + 1 + width]))
        for n in range(max(width, round(LEAST_BAND * len(level))), len(level) - width - 1)
    }
    edge = max(drops, key=drops.__getitem__, default=0)
    return 2 * edge / len(along) if drops and drops[edge] >= LEAST_DROP_DB else 1.0


def noise_sd(image: NDArray, band: tuple[float, float] = (1.0, 1.0)) -> float:
    """Return the standard deviation of the noise in a magnitude image.

    Measured twice. In the tissue: second differences along both axes of the slices, clipped at
    three of their robust deviations, divided by what they make of noise that fills ``band``. In
    the air around the foot: noise there follows Rayleigh's distribution, its root mean square is
    √2 of the standard deviation in tissue (Gudbjartsson & Patz 1995). Texture raises the first,
    ghosts the second, so the smaller one counts; exact zeros are no measurement.

    Parameters
    ----------
    image : (I, J, K) array
        Slices along the last axis.

    Raises
    ------
    AnkleError
        If there is neither tissue nor air to measure in, or no noise.
    """
    foot = find_foot(image)
    core = ndimage.binary_erosion(foot, CORE) & (image != 0)
    air = ~ndimage.binary_dilation(foot, CORE) & (image > 0)
    found = []
    if np.count_nonzero(core) >= FEWEST_VOXELS:
        differences = ndimage.convolve(image.astype(np.float32), HIGH_PASS[..., None])[core]
        robust = 1.4826 * float(np.median(np.abs(differences)))
        kept = differences[np.abs(differences) <= CLIP * robust]
        found.append(float(np.sqrt(np.mean(kept**2))) / _amplification(image.shape, band))
    if np.count_nonzero(air) >= FEWEST_VOXELS:
        found.append(float(np.sqrt(np.mean(image[air].astype(np.float64) ** 2) / 2)))
    found = [level for level in found if level > 0]
    if not found:
        raise AnkleError(
            f"the noise of an image of shape {image.shape} cannot be measured: no tissue or air "
            "that varies in it"
        )
    return min(found)


@dataclass(frozen=True)
class ThickSlices:
    """A sharp grid and the part of a frame's grid that lies in it.

    Attributes
    ----------
    box : three slices
        That part, of the frame with its slices last.
    where : Tensor (I, J, K, S, 3)
        ``grid_sample`` coordinates, on the sharp grid, of S points across each voxel's slice.
    back : Tensor (3, 4)
        Voxel of the sharp grid to ``grid_sample`` coordinates in the part (x, y, z order).
    shape : the sharp grid's
    band : two floats
        See `Scanning`.
    pixel_mm : (2,) array
    affine : (4, 4) array
        Of the part of the frame.
    """

    box: tuple[slice, slice, slice]
    where: Tensor
    back: Tensor
    shape: tuple[int, int, int]
    band: tuple[float, float]
    pixel_mm: NDArray[np.float64]
    affine: NDArray[np.float64]

    @classmethod
    def between(
        cls,
        shape: tuple[int, int, int],
        affine: ArrayLike,
        frame: Volume,
        band: tuple[float, float] = (1.0, 1.0),
        device: str | torch.device = "cpu",
    ) -> ThickSlices:
        """Set up the two grids.

        Raises
        ------
        AnkleError
            If the frame does not reach into the sharp grid.
        """
        sharp = np.asarray(affine, dtype=np.float64)
        data, frame_affine = _slices_last(frame)
        to_frame = np.linalg.inv(frame_affine) @ sharp
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
        there = corners @ to_frame[:3, :3].T + to_frame[:3, 3]
        low = np.clip(np.floor(there.min(axis=0)), 0, data.shape[:3]).astype(int)
        high = np.clip(np.ceil(there.max(axis=0)) + 1, low, data.shape[:3]).astype(int)
        if (high - low < 2).any():
            raise AnkleError(
                f"the frame (shape {frame.shape}) and the grid to reconstruct (shape {shape}) "
                "hardly overlap: are they of one session?"
            )
        i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        to_frame[:3, 3] -= low
        sizes = np.linalg.norm(frame_affine[:3, :3], axis=0)
        step = np.linalg.inv(sharp[:3, :3]) @ frame_affine[:3, 2]
        n_samples = max(4, int(np.ceil(np.abs(step).max())))
        points = np.moveaxis(np.indices((*(high - low), n_samples), dtype=np.float64), 0, -1)
        points[..., 2] += (points[..., 3] + 0.5) / n_samples - 0.5
        to_sharp = np.linalg.inv(to_frame)
        voxels = points[..., :3] @ to_sharp[:3, :3].T + to_sharp[:3, 3]
        where = (2 * voxels / (np.array(shape) - 1) - 1)[..., ::-1]
        back = 2 * to_frame[:3] / (high - low - 1)[:, None]
        back[:, 3] -= 1
        return cls(
            (i, j, k),
            torch.from_numpy(where.astype(np.float32)).to(device),
            torch.from_numpy(back[::-1].astype(np.float32)).to(device),
            shape,
            band,
            sizes[:2],
            np.column_stack([frame_affine[:, :3], frame_affine @ [*low, 1.0]]),
        )

    def part(self, frame: Volume) -> NDArray[np.float32]:
        """Return the part (I, J, K) of a frame that lies in the sharp grid, slices last."""
        return np.ascontiguousarray(_slices_last(frame)[0][self.box], dtype=np.float32)

    def average(self, sharp: Tensor, *, blur: bool = True) -> Tensor:
        """Return what the frame would measure (C, I, J, K) of volumes (C, X, Y, Z).

        Outside of the volumes is 0. With ``blur`` only the measured part of k-space is kept.
        """
        i, j, k, n, _ = self.where.shape
        found = functional.grid_sample(
            sharp[None], self.where.reshape(1, i, j, k * n, 3), align_corners=True
        )
        thick = found[0].reshape(len(sharp), i, j, k, n).mean(dim=-1)
        return self._measured(thick) if blur and min(self.band) < 1 else thick

    def spread(self, thick: Tensor) -> Tensor:
        """Return values (X, Y, Z) on the sharp grid of a part (I, J, K) of the frame.

        Interpolated linearly, also between slices; constant beyond the outermost.
        """
        result = torch.empty(self.shape, device=thick.device)
        j, k = (torch.arange(n, device=thick.device) for n in self.shape[1:])
        plane = self.back[:, 1] * j[:, None, None] + self.back[:, 2] * k[:, None] + self.back[:, 3]
        for i in range(self.shape[0]):
            where = (plane + self.back[:, 0] * i)[None, None]
            result[i] = functional.grid_sample(
                thick[None, None], where, padding_mode="border", align_corners=True
            )[0, 0, 0]
        return result

    def reached(self) -> NDArray[np.bool_]:
        """Tell which voxels (X, Y, Z) of the sharp grid lie in one of the frame's."""
        i, j, k = (np.arange(n, dtype=np.float32) for n in self.shape)
        result = np.ones(self.shape, dtype=bool)
        for row, n in zip(self.back.cpu().numpy(), self.where.shape[2::-1], strict=True):
            place = row[0] * i[:, None, None] + row[1] * j[:, None] + (row[2] * k + row[3])
            result &= np.abs(place) <= n / (n - 1)
        return result

    def _measured(self, thick: Tensor) -> Tensor:
        slices = functional.pad(thick.movedim(3, 1), (PADDING,) * 4, mode="replicate")
        rows, columns = (
            torch.fft.fftfreq(n, device=thick.device).abs() <= 0.5 * share
            for n, share in zip(slices.shape[-2:], self.band, strict=True)
        )
        spectrum = torch.fft.fft2(slices) * (rows[:, None] & columns)
        kept = torch.fft.ifft2(spectrum).real[..., PADDING:-PADDING, PADDING:-PADDING]
        return kept.movedim(1, 3)


def _slices_last(frame: Volume) -> tuple[NDArray, NDArray[np.float64]]:
    """Return an image whose third axis runs across the slices, and its affine."""
    axis = slice_direction(frame.affine).axis
    order = [*(n for n in range(3) if n != axis), axis]
    data = frame.data.transpose([*order, *range(3, frame.data.ndim)])
    return data, frame.affine[:, [*order, 3]]


def _amplification(shape: tuple[int, ...], band: tuple[float, float]) -> float:
    """By how much second differences along both axes amplify noise that fills a band."""
    gain = 1.0
    for n, share in zip(shape[:2], band, strict=True):
        frequency = np.fft.fftfreq(n)
        inside = np.abs(frequency) <= 0.5 * share
        gain *= float(np.mean((2 - 2 * np.cos(2 * np.pi * frequency[inside])) ** 2))
    return float(np.sqrt(gain))
