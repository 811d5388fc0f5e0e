"""From a sharp volume to what a frame with thick slices would have measured of it, and back.

A frame sees the average across each slice. Within the slices it sees only the middle of k-space,
where the scanner has filled the rest with zeros: the spectrum of the frame itself shows how much.
Is anything invented? A sharp volume, averaged over the slices again, must give the frame.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.geometry import arrival, part_of
from ankle_lib.masking.foot import find_foot
from ankle_lib.volume import Volume, slices_last

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
FEWEST_FOR_NOISE = 500
HIGH_PASS = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])
CLIP = 3.0

FEWEST_COMPARED = 200
"""Voxels of tissue that a volume and a frame must share."""
WHOLE = 0.999
"""A voxel of a frame is known whole if so much of it is."""
EDGE = np.ones((3, 3, 1), dtype=bool)
"""The volume's border is left out by a pixel: beyond it the slice is not known."""


@dataclass(frozen=True)
class Scanning:
    """What all frames of a sequence share."""

    band: tuple[float, float]
    """Measured share of k-space along the two axes within the slices."""
    noise_sd: float
    """Of the noise in tissue, in the image's units."""
    step: float = 0.0
    """Reconstructions are rounded to its multiples, as an int16 file holds them; 0 keeps them."""


def scanning(frames: Volume) -> Scanning:
    """Read the measured share of k-space and the noise off the frames themselves.

    Parameters
    ----------
    frames : Volume
        3D or 4D, in any orientation; frames of zeros do not count.
    """
    data = slices_last(frames).data
    band = measured_band(data)
    images = data[..., None] if data.ndim == 3 else data
    levels = [noise_sd(one, band) for one in np.moveaxis(images, 3, 0) if one.any()]
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
    power = power.mean(axis=tuple(range(2, data.ndim)))
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
    if np.count_nonzero(core) >= FEWEST_FOR_NOISE:
        differences = ndimage.convolve(image.astype(np.float32), HIGH_PASS[..., None])[core]
        robust = 1.4826 * float(np.median(np.abs(differences)))
        usual = differences[np.abs(differences) <= CLIP * robust]
        found.append(float(np.sqrt(np.mean(usual**2))) / _amplification(image.shape, band))
    if np.count_nonzero(air) >= FEWEST_FOR_NOISE:
        found.append(float(np.sqrt(np.mean(image[air].astype(np.float64) ** 2) / 2)))
    found = [level for level in found if level > 0]
    if not found:
        raise AnkleError(
            f"the noise of an image of shape {image.shape} cannot be measured: no tissue or air "
            "that varies in it"
        )
    return min(found)


def _amplification(shape: tuple[int, ...], band: tuple[float, float]) -> float:
    """By how much second differences along both axes amplify noise that fills a band."""
    gain = 1.0
    for n, share in zip(shape[:2], band, strict=True):
        frequency = np.fft.fftfreq(n)
        inside = np.abs(frequency) <= 0.5 * share
        gain *= float(np.mean((2 - 2 * np.cos(2 * np.pi * frequency[inside])) ** 2))
    return float(np.sqrt(gain))


@dataclass(frozen=True)
class Consistency:
    """How a sharp volume, averaged over thick slices, differs from the measured frame."""

    residual: Volume
    """Measured minus averaged, float32, on the frame's grid (slices last); 0 where not compared."""
    compared: NDArray[np.bool_]
    """Tissue that was measured and lies, with its whole slice, in the volume."""
    noise_sd: float
    ratio: float
    """Root mean square of the residual in units of the noise: 1 is perfect, and less than 1 means
    that noise of the frame has been copied."""


@dataclass(frozen=True, eq=False)
class ThickSlices:
    """A sharp grid and the part of a frame that lies in it.

    Attributes
    ----------
    shape : the sharp grid's
    scanning : Scanning
        Of the frame's sequence.
    measured : (I, J, K) float32 array
        That part of the frame, slices last.
    foot : (I, J, K) bool array
        Where it shows the foot.
    affine : (4, 4) array
        Of that part.
    where : Tensor (I, J, K, S, 3)
        ``grid_sample`` coordinates, on the sharp grid, of S points across each voxel's slice.
    place : Tensor (X, Y, Z, 3)
        ``grid_sample`` coordinates of the sharp grid's voxels, on the part of the frame.
    """

    shape: tuple[int, int, int]
    scanning: Scanning
    measured: NDArray[np.float32]
    foot: NDArray[np.bool_]
    affine: NDArray[np.float64]
    where: Tensor
    place: Tensor

    @classmethod
    def between(
        cls,
        shape: tuple[int, int, int],
        affine: ArrayLike,
        frame: Volume,
        scanning: Scanning,
        device: str | torch.device = "cpu",
    ) -> "ThickSlices":
        """Set up the two grids.

        Raises
        ------
        AnkleError
            If the frame does not reach into the sharp grid.
        """
        sharp = np.asarray(affine, dtype=np.float64)
        slices = slices_last(frame)
        to_frame = np.linalg.inv(slices.affine) @ sharp
        last = np.array(shape) - 1
        box = arrival((shape, sharp), np.eye(4), slices.grid)
        size, place = part_of(box, slices.affine)
        if min(size) < 2:
            raise AnkleError(
                f"the frame (shape {frame.shape}) and the grid to reconstruct (shape {shape}) "
                "hardly overlap: are they of one session?"
            )
        to_frame[:3, 3] -= [side.start for side in box]
        to_sharp = np.linalg.inv(to_frame)
        n_samples = max(4, int(np.ceil(np.abs(to_sharp[:3, 2]).max())))
        points = np.moveaxis(np.indices((*size, n_samples), dtype=np.float64), 0, -1)
        points[..., 2] += (points[..., 3] + 0.5) / n_samples - 0.5
        voxels = points[..., :3] @ to_sharp[:3, :3].T + to_sharp[:3, 3]
        where = (2 * voxels / last - 1)[..., ::-1].astype(np.float32)
        # from a place on the sharp grid to one on the frame's part, both from -1 to 1
        middle = np.eye(4)
        middle[:3] = np.column_stack([np.diag(last / 2), last / 2])
        normal = 2 * (to_frame @ middle)[:3] / (np.array(size) - 1)[:, None]
        normal[:, 3] -= 1
        theta = torch.from_numpy(normal[::-1][:, [2, 1, 0, 3]].astype(np.float32)).to(device)
        return cls(
            shape,
            scanning,
            np.ascontiguousarray(slices.data[box], dtype=np.float32),
            find_foot(slices.data)[box],
            place,
            torch.from_numpy(where).to(device),
            functional.affine_grid(theta[None], [1, 1, *shape], align_corners=True)[0],
        )

    @cached_property
    def reached(self) -> NDArray[np.bool_]:
        """Which voxels (X, Y, Z) of the sharp grid lie in one of the frame's."""
        lengths = torch.tensor(self.measured.shape[::-1], device=self.place.device)
        inside = (self.place.abs() <= lengths / (lengths - 1)).all(dim=-1)
        return inside.cpu().numpy()

    def average(self, sharp: Tensor, *, blur: bool = True) -> Tensor:
        """Return what the frame would measure (C, I, J, K) of volumes (C, X, Y, Z).

        Outside of the volumes is 0. With ``blur`` only the measured part of k-space is kept.
        """
        i, j, k, n, _ = self.where.shape
        found = functional.grid_sample(
            sharp[None], self.where.reshape(1, i, j, k * n, 3), align_corners=True
        )
        thick = found[0].reshape(len(sharp), i, j, k, n).mean(dim=-1)
        if not blur or min(self.scanning.band) >= 1:
            return thick
        slices = functional.pad(thick.movedim(3, 1), (PADDING,) * 4, mode="replicate")
        rows, columns = (
            torch.fft.fftfreq(length, device=thick.device).abs() <= 0.5 * share
            for length, share in zip(slices.shape[-2:], self.scanning.band, strict=True)
        )
        spectrum = torch.fft.fft2(slices) * (rows[:, None] & columns)
        image = torch.fft.ifft2(spectrum).real[..., PADDING:-PADDING, PADDING:-PADDING]
        return image.movedim(1, 3)

    def share(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the part (I, J, K) of each voxel of the frame that a mask (X, Y, Z) fills."""
        volume = torch.from_numpy(mask.astype(np.float32)).to(self.where.device)
        filled: NDArray[np.float32] = self.average(volume[None], blur=False)[0].cpu().numpy()
        return filled

    def spread(self, thick: NDArray[np.float32]) -> Tensor:
        """Return values (X, Y, Z) on the sharp grid of a part (I, J, K) of the frame.

        Interpolated linearly, also between slices; constant beyond the outermost.
        """
        image = torch.from_numpy(thick).to(self.place.device)[None, None]
        return functional.grid_sample(
            image, self.place[None], padding_mode="border", align_corners=True
        )[0, 0]

    def rest(self, sharp: Tensor) -> NDArray[np.float32]:
        """Return measured minus averaged (I, J, K) of a volume (X, Y, Z)."""
        left: NDArray[np.float32] = self.measured - self.average(sharp[None])[0].cpu().numpy()
        return left

    def judge(self, sharp: Tensor, covered: NDArray[np.bool_] | None = None) -> Consistency:
        """Tell how a volume (X, Y, Z) differs from the frame, see `consistency`."""
        known = np.ones(self.shape, dtype=bool) if covered is None else covered
        whole = ndimage.binary_erosion(self.share(known) > WHOLE, EDGE, border_value=1)
        compared = self.foot & whole & (self.measured != 0)
        if np.count_nonzero(compared) < FEWEST_COMPARED:
            raise AnkleError(
                f"reconstruction and frame share {np.count_nonzero(compared)} voxels of tissue: "
                "are they of one frame?"
            )
        residual = np.where(compared, self.rest(sharp), 0).astype(np.float32)
        rms = float(np.sqrt(np.mean(residual[compared].astype(np.float64) ** 2)))
        noise = self.scanning.noise_sd
        return Consistency(Volume(residual, self.affine), compared, noise, rms / noise)


def consistency(
    sharp: Volume, frame: Volume, scanning: Scanning, *, covered: NDArray[np.bool_] | None = None
) -> Consistency:
    """Average a sharp volume over the slices of a frame and compare.

    Parameters
    ----------
    sharp : Volume
        3D, in the frame's world and units.
    frame : Volume
        3D, as measured, in any orientation.
    scanning : Scanning
        The frame's k-space and noise, from `scanning`.
    covered : bool array of the shape of ``sharp``, optional
        Where the volume means anything; everywhere by default.

    Raises
    ------
    AnkleError
        If there is hardly any tissue to compare.

    Examples
    --------
    >>> consistency(sharp, frames.frame(3), scanning(frames)).ratio
    """
    slices = ThickSlices.between(sharp.shape, sharp.affine, frame, scanning)
    return slices.judge(torch.from_numpy(np.array(sharp.data, dtype=np.float32)), covered)
