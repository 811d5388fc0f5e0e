"""Chapter 06: the moving ankle made sharp, how it differs from what was measured, and a film."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ankle_lib.figures.images import Slice, draw_slice, slice_of, window
from ankle_lib.figures.style import new_figure
from ankle_lib.files import AnkleError, atomic_path
from ankle_lib.volume import Volume

LARGEST_RESIDUAL = 4.0
"""In units of the noise, at the end of the scale."""

GREYS = 48
FRAME_MS = 160
GAP = 4


class Still(Protocol):
    """A frame and its reconstruction on one grid with axes P, S, R."""

    @property
    def number(self) -> int:
        """Of the frame."""

    @property
    def measured(self) -> Volume:
        """The frame, thick slices and all."""

    @property
    def sharp(self) -> Volume:
        """The frame reconstructed."""


def reconstruction_filmstrip(
    stills: Sequence[Still], place: tuple[int, int, int] | None = None, across: str = "coronal"
) -> Figure:
    """Show frames as measured and as reconstructed, along the slices and across them.

    Parameters
    ----------
    stills : sequence of Still
        All of one shape.
    place : three ints, optional
        Voxel through which is cut; the middle by default.
    across : str
        The plane across the slices: coronal or axial.

    Raises
    ------
    AnkleError
        If there is nothing to show, or shapes differ.
    """
    if not stills or len({still.sharp.shape for still in stills}) > 1:
        shapes = ", ".join(str(still.sharp.shape) for still in stills) or "none"
        raise AnkleError(f"a filmstrip needs frames on one grid: found {shapes}")
    where = place or _middle(stills[0].sharp)
    rows = [(image, plane) for plane in ("sagittal", across) for image in ("measured", "sharp")]
    pictures = {row: [_cut(still, *row, where) for still in stills] for row in rows}
    heights = [pictures[row][0].size_mm[1] / pictures[row][0].size_mm[0] for row in rows]
    width = 2.6
    figure = new_figure(width * len(stills), width * sum(heights) + 0.4)
    panels = figure.subplots(len(rows), len(stills), squeeze=False, height_ratios=heights)
    names = {"measured": "as measured", "sharp": "reconstructed"}
    for column, still in enumerate(stills):
        limits = {name: window(getattr(still, name).data) for name in names}
        for row, (image, plane) in enumerate(rows):
            draw_slice(
                panels[row, column],
                pictures[image, plane][column],
                limits=limits[image],
                bar=column == 0,
                letters=column == 0,
            )
            if column == 0:
                _row_name(panels[row, 0], f"{names[image]}\n{plane}")
        panels[0, column].set_title(f"frame {still.number}", fontsize=11)
    return figure


def consistency_map(
    frame: Volume, residual: Volume, ratio: float, index: int | None = None
) -> Figure:
    """Show a slice of a frame and what its reconstruction, averaged again, differs by.

    Parameters
    ----------
    frame : Volume
        As measured, 3D, axes P, S, R.
    residual : Volume
        Measured minus averaged, in units of the noise, on the frame's grid or a part of it.
    ratio : float
        Root mean square of the residual.
    index : int, optional
        Slice of the residual; by default the one with most voxels.
    """
    filled = np.count_nonzero(residual.data, axis=(0, 1))
    chosen = int(np.argmax(filled)) if index is None else index
    start = np.rint(np.linalg.inv(frame.affine) @ residual.affine @ [0, 0, 0, 1])[:3].astype(int)
    part = tuple(slice(a, a + n) for a, n in zip(start, residual.shape, strict=True))
    seen = Volume(frame.data[part], residual.affine)
    if seen.shape != residual.shape:
        raise AnkleError(
            f"the residual (shape {residual.shape}) is no part of the frame (shape {frame.shape})"
        )
    figure = new_figure(9.6, 4.6)
    left, middle, right = figure.subplots(1, 3)
    draw_slice(left, slice_of(seen, "sagittal", chosen), limits=window(seen.data))
    left.set_title("frame", fontsize=11)
    picture = slice_of(residual, "sagittal", chosen)
    limits = (-LARGEST_RESIDUAL, LARGEST_RESIDUAL)
    draw_slice(middle, picture, limits=limits, cmap="RdBu_r", letters=False, bar=False)
    figure.colorbar(middle.images[0], ax=middle, shrink=0.8, label="residual / noise")
    middle.set_title(f"measured − averaged\nroot mean square {ratio:.2f}", fontsize=11)
    _histogram(right, residual.data[residual.data != 0])
    return figure


def reconstruction_animation(
    path: str | os.PathLike[str],
    stills: Sequence[Still],
    place: tuple[int, int, int] | None = None,
    across: str = "coronal",
    *,
    pixel_mm: float = 0.75,
) -> Path:
    """Write a GIF: the frame on the left, reconstructed on the right, one after the other.

    Above are sagittal slices, below a plane across them. A whole cycle runs out and back.

    Parameters
    ----------
    path : path
    stills, place, across
        As for `reconstruction_filmstrip`.
    pixel_mm : float
        Size of the GIF's pixels: small files need large ones.
    """
    if not stills:
        raise AnkleError("an animation needs at least one frame")
    where = place or _middle(stills[0].sharp)
    pictures = []
    for still in stills:
        columns = []
        for image in ("measured", "sharp"):
            limits = window(getattr(still, image).data)
            parts = [
                _pixels(_cut(still, image, plane, where), limits, pixel_mm)
                for plane in ("sagittal", across)
            ]
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


def _cut(still: Still, image: str, plane: str, place: tuple[int, int, int]) -> Slice:
    volume: Volume = getattr(still, image)
    index = {"sagittal": place[2], "coronal": place[0], "axial": place[1]}[plane]
    return slice_of(volume, plane, index)


def _middle(volume: Volume) -> tuple[int, int, int]:
    i, j, k = (n // 2 for n in volume.shape)
    return i, j, k


def _pixels(picture: Slice, limits: tuple[float, float], pixel_mm: float) -> NDArray[np.uint8]:
    low, high = limits
    grey = ((picture.image - low) / max(high - low, 1e-9)).clip(0, 1) * 255
    size = [max(1, round(mm / pixel_mm)) for mm in picture.size_mm]
    upright = Image.fromarray(np.ascontiguousarray(grey[::-1]).astype(np.uint8))
    return np.asarray(upright.resize((size[0], size[1]), Image.Resampling.BILINEAR))


def _padded(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    missing = width - picture.shape[1]
    return np.pad(picture, ((GAP // 2, GAP // 2), (missing // 2, missing - missing // 2)))


def _histogram(axes: Axes, values: NDArray[np.floating]) -> None:
    edges = np.linspace(-LARGEST_RESIDUAL, LARGEST_RESIDUAL, 41)
    axes.hist(values.clip(edges[0], edges[-1]), bins=list(edges), density=True, color="#999999")
    axes.plot(edges, np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi), color="black", lw=1.5,
              label="noise alone")  # fmt: skip
    axes.set_xlabel("residual / noise")
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=9)


def _row_name(axes: Axes, text: str) -> None:
    axes.text(-0.03, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center",
              fontsize=10, multialignment="center")  # fmt: skip
