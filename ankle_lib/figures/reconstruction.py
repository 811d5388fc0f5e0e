"""The moving ankle made sharp: a filmstrip and a film of frames beside their reconstructions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ankle_lib.figures.images import Slice, image_grid, slice_of, window
from ankle_lib.files import AnkleError, atomic_path
from ankle_lib.volume import Volume

PLANES = ("sagittal", "coronal")
"""Along the thick slices, and across them."""

PIXEL_MM = 0.75
"""Of the film: small files need large pixels."""
GREYS = 48
FRAME_MS = 160
GAP = 4


@dataclass(frozen=True)
class Still:
    """A frame and its reconstruction on one grid with axes P, S, R."""

    number: int
    measured: Volume
    """Each voxel with the value of the thick one that it lies in."""
    sharp: Volume


def reconstruction_filmstrip(stills: Sequence[Still]) -> Figure:
    """Show frames as measured and as reconstructed, along the slices and across them.

    Parameters
    ----------
    stills : sequence of Still
        All of one shape; they are cut in the middle.

    Raises
    ------
    AnkleError
        If there is nothing to show, or shapes differ.
    """
    if not stills or len({still.sharp.shape for still in stills}) > 1:
        shapes = ", ".join(str(still.sharp.shape) for still in stills) or "none"
        raise AnkleError(f"a filmstrip needs frames on one grid: found {shapes}")
    rows = {
        f"{words}\n{plane}": [_cut(getattr(still, image), plane) for still in stills]
        for plane in PLANES
        for image, words in (("measured", "as measured"), ("sharp", "reconstructed"))
    }
    titles = [f"frame {still.number}" for still in stills]
    return image_grid(rows, titles, width=2.6 * len(stills), marks="rows")[0]


def reconstruction_animation(path: str | os.PathLike[str], stills: Sequence[Still]) -> Path:
    """Write a GIF: the frame on the left, reconstructed on the right, one after the other.

    Above are sagittal slices, below coronal ones. A whole cycle runs out and back.
    """
    if not stills:
        raise AnkleError("an animation needs at least one frame")
    pictures = []
    for still in stills:
        columns = []
        for volume in (still.measured, still.sharp):
            parts = [_pixels(_cut(volume, plane)) for plane in PLANES]
            width = max(part.shape[1] for part in parts)
            columns.append(np.vstack([_padded(part, width) for part in parts]))
        picture = np.hstack([columns[0], np.zeros((len(columns[0]), GAP), np.uint8), columns[1]])
        coarse = picture.astype(np.uint16) * (GREYS - 1) // 255 * 255 // (GREYS - 1)
        pictures.append(Image.fromarray(coarse.astype(np.uint8)))
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary,
            save_all=True,
            append_images=pictures[1:],
            duration=FRAME_MS,
            loop=0,
            optimize=True,
        )
    return Path(path)


def _cut(volume: Volume, plane: str) -> Slice:
    middle = {"sagittal": volume.shape[2] // 2, "coronal": volume.shape[0] // 2}
    return slice_of(volume, plane, middle[plane], limits=window(volume.data))


def _pixels(picture: Slice) -> NDArray[np.uint8]:
    low, high = picture.limits or window(picture.image)
    grey = ((picture.image - low) / max(high - low, 1e-9)).clip(0, 1) * 255
    width, height = (max(1, round(mm / PIXEL_MM)) for mm in picture.size_mm)
    upright = Image.fromarray(np.ascontiguousarray(grey[::-1]).astype(np.uint8))
    return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR))


def _padded(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    missing = width - picture.shape[1]
    return np.pad(picture, ((GAP // 2, GAP // 2), (missing // 2, missing - missing // 2)))
