"""Is anything invented? A sharp volume, averaged over the slices again, must give the frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.masking.foot import find_foot
from ankle_lib.reconstruction.thick import Scanning, ThickSlices
from ankle_lib.volume import Volume

FEWEST_VOXELS = 200
EDGE = np.ones((3, 3, 1), dtype=bool)
"""The volume's border is left out by a pixel: beyond it the slice is not known."""


@dataclass(frozen=True)
class Consistency:
    """How a sharp volume, seen through thick slices, differs from the measured frame."""

    residual: Volume
    """Measured minus averaged, float32, on the frame's grid (slices last); 0 where not compared."""
    compared: NDArray[np.bool_]
    """Tissue that was measured and lies, with its whole slice, in the volume."""
    noise_sd: float
    ratio: float
    """Root mean square of the residual in units of the noise: 1 is perfect, and less than 1 means
    that noise of the frame has been copied."""


def consistency(
    sharp: Volume,
    frame: Volume,
    seen: Scanning,
    *,
    covered: NDArray[np.bool_] | None = None,
    device: str | torch.device = "cpu",
) -> Consistency:
    """Average a sharp volume over the slices of a frame and compare.

    Parameters
    ----------
    sharp : Volume
        3D, in the frame's world and units.
    frame : Volume
        3D, as measured.
    seen : Scanning
        The frame's k-space and noise, from `scanning`.
    covered : bool array of the shape of ``sharp``, optional
        Where the volume means anything; everywhere by default.

    Raises
    ------
    AnkleError
        If there is hardly any tissue to compare.
    """
    slices = ThickSlices.between(sharp.shape, sharp.affine, frame, seen.band, device)
    known = np.ones(sharp.shape, np.float32) if covered is None else covered.astype(np.float32)
    volumes = [
        torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))[None].to(device)
        for data in (sharp.data, known)
    ]
    averaged = slices.average(volumes[0])[0].cpu().numpy()
    whole = slices.average(volumes[1], blur=False)[0].cpu().numpy() > 0.999
    whole = ndimage.binary_erosion(whole, EDGE, border_value=1)
    measured = slices.part(frame)
    foot = slices.part(Volume(find_foot(frame.data), frame.affine)) > 0
    compared = foot & whole & (measured != 0)
    if np.count_nonzero(compared) < FEWEST_VOXELS:
        raise AnkleError(
            f"reconstruction and frame share {np.count_nonzero(compared)} voxels of tissue: are "
            "they of one frame?"
        )
    residual = np.where(compared, measured - averaged, 0).astype(np.float32)
    rms = float(np.sqrt(np.mean(residual[compared].astype(np.float64) ** 2)))
    return Consistency(
        Volume(residual, slices.affine), compared, seen.noise_sd, rms / seen.noise_sd
    )
