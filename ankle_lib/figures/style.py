"""What all figures share: colours of the bones, slices with letters, a scale bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.volume import CANONICAL_CODES, Volume

BONE_COLOURS = {"calcaneus": "#D55E00", "talus": "#009E73", "tibia": "#56B4E9"}
"""Okabe-Ito: distinct for colour-blind readers too."""

GROUP_COLOURS = {"control": "#0072B2", "equinus": "#CC79A7"}

PLANES = ("sagittal", "coronal", "axial")

_AXIS_OF_PLANE = {"sagittal": 2, "coronal": 0, "axial": 1}
_OUTLINE = [patheffects.withStroke(linewidth=2.0, foreground="black")]


@dataclass(frozen=True)
class Slice:
    """One slice ready to be shown with its first row at the bottom."""

    image: NDArray[Any]
    """(rows, columns), rows upward."""
    size_mm: tuple[float, float]
    """Width and height."""
    letters: tuple[str, str, str, str]
    """What lies to the left, right, bottom and top."""

    def crop(self, box: tuple[slice, slice]) -> Slice:
        """Return the part in ``box`` (rows, columns)."""
        part = self.image[box]
        scale = [part.shape[1] / self.image.shape[1], part.shape[0] / self.image.shape[0]]
        size = (self.size_mm[0] * scale[0], self.size_mm[1] * scale[1])
        return Slice(part, size, self.letters)


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return a figure (inches) that no global state knows, so that it cannot leak."""
    return Figure(figsize=(width, height), layout="compressed", **options)


def slice_of(volume: Volume, plane: str, index: int) -> Slice:
    """Cut a canonical volume (axes P, S, R) in one plane.

    Sagittal slices show anterior on the left and superior up; coronal ones are seen from behind
    and axial ones from above, so the child's right is on the right in both.

    Raises
    ------
    AnkleError
        If the axes are not posterior, superior, right, or the plane is unknown.
    """
    if "".join(volume.axis_codes) != CANONICAL_CODES:
        raise AnkleError(f"axes {volume.axis_codes}: bring the image to {CANONICAL_CODES} first")
    if plane not in _AXIS_OF_PLANE:
        raise AnkleError(f"there is no plane {plane!r}: choose one of {', '.join(PLANES)}")
    posterior, superior, right = (
        n * size for n, size in zip(volume.shape, volume.voxel_size_mm, strict=True)
    )
    # a view: np.take would first copy a whole array that is not in C order
    data = np.moveaxis(volume.data, _AXIS_OF_PLANE[plane], 0)[index]
    if plane == "sagittal":
        return Slice(data.T, (posterior, superior), ("A", "P", "I", "S"))
    if plane == "coronal":
        return Slice(data, (right, superior), ("L", "R", "I", "S"))
    return Slice(data[::-1], (right, posterior), ("L", "R", "P", "A"))


def draw_slice(
    axes: Axes,
    image: Slice,
    *,
    limits: tuple[float, float] | None = None,
    outlines: Mapping[str, Slice] | None = None,
    colours: Mapping[str, str] = BONE_COLOURS,
    bar: bool = True,
    letters: bool = True,
    cmap: str = "gray",
) -> None:
    """Show a slice in true proportions, with outlines of masks, letters and a scale bar.

    Parameters
    ----------
    limits : two floats, optional
        Intensities shown as black and white.
    outlines : mapping of name to Slice, optional
        Masks on the same grid, drawn as lines at half of their maximum.
    """
    width, height = image.size_mm
    low, high = limits or window(image.image)
    axes.imshow(
        image.image,
        cmap=cmap,
        vmin=low,
        vmax=high,
        origin="lower",
        extent=(0, width, 0, height),
        interpolation="nearest",
        aspect="equal",
    )
    for name, mask in (outlines or {}).items():
        top = float(np.max(mask.image))
        if top > 0:
            _outline(axes, mask, top / 2, colours.get(name, "white"))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    if letters:
        _letters(axes, image.letters)
    if bar:
        scale_bar(axes, width)


def scale_bar(axes: Axes, width_mm: float, colour: str = "white") -> None:
    """Draw a bar of 10, 20 or 50 mm at the lower left."""
    length = max((n for n in (5, 10, 20, 50) if n <= 0.4 * width_mm), default=5)
    x, y = 0.04 * width_mm, 0.05
    transform = axes.get_xaxis_transform()
    dark = patheffects.withStroke(linewidth=4, foreground="black")
    axes.plot([x, x + length], [y, y], color=colour, lw=2.5, transform=transform,
              path_effects=[dark], solid_capstyle="butt")  # fmt: skip
    axes.text(
        x + length / 2,
        y + 0.015,
        f"{length} mm",
        color=colour,
        fontsize=8,
        ha="center",
        va="bottom",
        transform=transform,
        path_effects=_OUTLINE if colour == "white" else None,
    )


def window(image: NDArray[Any]) -> tuple[float, float]:
    """Return intensities to show as black and white: 0 and the 99.5th percentile of the rest."""
    finite = (
        image[np.isfinite(image) & (image > 0)] if image.dtype.kind == "f" else image[image > 0]
    )
    return 0.0, float(np.percentile(finite, 99.5)) if finite.size else 1.0


def centre_voxel(masks: Mapping[str, NDArray[Any]]) -> tuple[int, int, int]:
    """Return the voxel in the middle of all masks together."""
    centres = [np.argwhere(mask).mean(axis=0) for mask in masks.values() if np.any(mask)]
    if not centres:
        raise AnkleError("the middle of the bones was asked for, but every mask is empty")
    i, j, k = np.rint(np.mean(centres, axis=0)).astype(int)
    return int(i), int(j), int(k)


def _outline(axes: Axes, mask: Slice, level: float, colour: str) -> None:
    rows, columns = mask.image.shape
    x = (np.arange(columns) + 0.5) * mask.size_mm[0] / columns
    y = (np.arange(rows) + 0.5) * mask.size_mm[1] / rows
    axes.contour(x, y, mask.image.astype(float), levels=[level], colors=[colour], linewidths=1.6)


def _letters(axes: Axes, letters: tuple[str, str, str, str]) -> None:
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.02), (0.5, 0.98))
    sides = (("left", "center"), ("right", "center"), ("center", "bottom"), ("center", "top"))
    for letter, (x, y), (across, up) in zip(letters, places, sides, strict=True):
        axes.text(
            x,
            y,
            letter,
            color="#F0E442",
            fontsize=9,
            fontweight="bold",
            ha=across,
            va=up,
            transform=axes.transAxes,
            path_effects=_OUTLINE,
        )
