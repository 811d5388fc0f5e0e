"""All registrations of a sequence at a glance, for a person to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, middle_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, VERDICT_COLOURS, new_figure
from ankle_lib.files import AnkleError
from ankle_lib.quality.review_sheet import AUTOMATIC
from ankle_lib.volume import Volume, to_orientation

COLUMNS = 15
"""Frames side by side; more continue below."""
MARGIN_MM = 7.0
GAP_MM = 3.0

_DARK = [patheffects.withStroke(linewidth=1.6, foreground="black")]


def contact_sheet(
    frames: Sequence[Volume],
    masks: Mapping[str, Sequence[Volume | None]],
    table: pd.DataFrame,
    title: str = "",
) -> Figure:
    """Show all registrations of a sequence: a row for each bone, a column for each frame.

    Each thumbnail is the sagittal slice through the middle of the moved bone with its outline,
    all at one scale. Rejected registrations have a red frame and a cross, unsure ones a yellow
    frame and a question mark.

    Parameters
    ----------
    frames : sequence of Volume
        3D, any orientation.
    masks : mapping of bone to sequence of Volume
        The moved mask of every frame, on that frame's grid; None (or an empty mask) where there
        is none.
    table : DataFrame
        The sequence's rows of the review sheet: frame (from 0), bone, correlation, verdict, and
        reviewer if a person's verdicts shall have a star. Registrations without a row are
        unmarked.

    Raises
    ------
    AnkleError
        If there are no frames, a bone's masks are not as many as the frames, or a mask is on
        another grid than its frame.
    """
    if not frames or not masks:
        raise AnkleError("a contact sheet needs at least one frame and the masks of one bone")
    cuts = {bone: _cuts(bone, frames, list(series)) for bone, series in masks.items()}
    everything = [cut for series in cuts.values() for cut in series]
    size = _cell_size(everything)
    rows = {(int(row["frame"]), row["bone"]): row for row in table.to_dict("records")}

    columns = min(len(frames), COLUMNS)
    step = (size[0] + GAP_MM, size[1] + GAP_MM)
    n_rows = len(masks) * -(-len(frames) // columns)
    cell_inches = min(1.8, 16.5 / columns)
    scale = cell_inches / step[0]
    figure = new_figure(columns * cell_inches + 0.5, n_rows * step[1] * scale + 0.6)
    axes = figure.subplots()
    for number, (bone, series) in enumerate(cuts.items()):
        for frame, cut in enumerate(series):
            row = frame // columns * len(masks) + number
            corner = (frame % columns * step[0], -row * step[1] - size[1])
            _thumbnail(axes, cut, corner, size, BONE_COLOURS.get(bone, "white"))
            _mark(axes, rows.get((frame, bone)), corner, size)
            middle = corner[1] + size[1] / 2
            if frame % columns == 0:
                axes.text(-GAP_MM, middle, bone, rotation=90, ha="right", va="center",
                          color=BONE_COLOURS.get(bone, "black"), fontweight="bold")  # fmt: skip
            if number == 0:
                top = corner[1] + size[1]
                axes.text(corner[0] + size[0] / 2, top + 1, str(frame), ha="center", fontsize=8)
    left = (0.0, -(n_rows - 1) * step[1] - size[1])
    _scale_bar(axes, left)
    axes.set_xlim(-GAP_MM, columns * step[0])
    axes.set_ylim(-n_rows * step[1], 3 * GAP_MM)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title("\n".join(filter(None, [title, _summary(table)])), fontsize=10, loc="left")
    return figure


@dataclass(frozen=True)
class _Cut:
    """A slice of a frame, the mask's part in it (None if there is none), and where to look."""

    image: Slice
    mask: NDArray[np.bool_] | None
    limits: tuple[float, float]
    centre_mm: tuple[float, float]
    extent_mm: tuple[float, float]

    @property
    def pixel_mm(self) -> tuple[float, float]:
        rows, columns = self.image.image.shape
        return self.image.size_mm[0] / columns, self.image.size_mm[1] / rows


def _cuts(bone: str, frames: Sequence[Volume], masks: list[Volume | None]) -> list[_Cut]:
    if len(masks) != len(frames):
        raise AnkleError(f"{bone}: {len(masks)} masks for {len(frames)} frames")
    cuts = [_cut(bone, n, *pair) for n, pair in enumerate(zip(frames, masks, strict=True))]
    known = [cut.centre_mm for cut in cuts if cut.mask is not None]
    if not known:
        return cuts
    usual = (float(np.median([x for x, _ in known])), float(np.median([y for _, y in known])))
    return [
        cut if cut.mask is not None else _Cut(cut.image, None, cut.limits, usual, cut.extent_mm)
        for cut in cuts
    ]


def _cut(bone: str, number: int, frame: Volume, mask: Volume | None) -> _Cut:
    upright = to_orientation(frame)
    limits = window(upright.data)
    if mask is None or not np.any(mask.data):
        image = slice_of(upright, "sagittal", upright.shape[2] // 2)
        width, height = image.size_mm
        return _Cut(image, None, limits, (width / 2, height / 2), (0.0, 0.0))
    if mask.shape != frame.shape or not np.allclose(mask.affine, frame.affine, atol=1e-3):
        raise AnkleError(
            f"{bone}, frame {number}: the mask {mask.shape} is on another grid than the frame "
            f"{frame.shape}: resample it first"
        )
    bone_there = to_orientation(mask)
    index = middle_slice(bone_there.data)
    image = slice_of(upright, "sagittal", index)
    inside = slice_of(bone_there, "sagittal", index).image > 0
    cut = _Cut(image, inside, limits, (0.0, 0.0), (0.0, 0.0))
    rows, columns = (np.flatnonzero(inside.any(axis=other)) for other in (1, 0))
    width, height = cut.pixel_mm
    centre = ((columns[0] + columns[-1] + 1) / 2 * width, (rows[0] + rows[-1] + 1) / 2 * height)
    extent = ((columns[-1] - columns[0] + 1) * width, (rows[-1] - rows[0] + 1) * height)
    return _Cut(image, inside, limits, centre, extent)


def _cell_size(cuts: Sequence[_Cut]) -> tuple[float, float]:
    """Return width and height in mm that hold every outline; whole slices if there is none."""
    sizes = [cut.extent_mm for cut in cuts if cut.mask is not None]
    if not sizes:
        return cuts[0].image.size_mm
    width, height = np.max(sizes, axis=0) + 2 * MARGIN_MM
    return float(width), float(height)


def _thumbnail(
    axes: Axes, cut: _Cut, corner: tuple[float, float], size: tuple[float, float], colour: str
) -> None:
    """Draw the part of a slice around the bone with its lower left at ``corner`` (mm)."""
    pixel = cut.pixel_mm
    count = [int(np.ceil(length / mm)) for length, mm in zip(size, pixel, strict=True)]
    first = [
        int(np.rint(centre / mm - n / 2))
        for centre, mm, n in zip(cut.centre_mm, pixel, count, strict=True)
    ]
    extent = (corner[0], corner[0] + size[0], corner[1], corner[1] + size[1])
    axes.imshow(
        _part(cut.image.image, first, count),
        cmap="gray",
        vmin=cut.limits[0],
        vmax=cut.limits[1],
        origin="lower",
        extent=extent,
        interpolation="bilinear",
    )
    if cut.mask is not None:
        inside = _part(cut.mask, first, count)
        x = corner[0] + (np.arange(count[0]) + 0.5) * size[0] / count[0]
        y = corner[1] + (np.arange(count[1]) + 0.5) * size[1] / count[1]
        axes.contour(x, y, inside, levels=[0.5], colors=[colour], linewidths=1.1)


def _part(image: NDArray[Any], first: Sequence[int], count: Sequence[int]) -> NDArray[Any]:
    """Return ``count`` (columns, rows) pixels from ``first`` on; 0 beyond the border."""
    part = np.zeros((count[1], count[0]), dtype=np.float32)
    source, target = [], []
    for length, start, n in zip(image.shape, first[::-1], count[::-1], strict=True):
        low, high = max(start, 0), min(start + n, length)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - start, max(high, low) - start))
    part[tuple(target)] = image[tuple(source)]
    return part


def _mark(
    axes: Axes,
    row: dict[Any, Any] | None,
    corner: tuple[float, float],
    size: tuple[float, float],
) -> None:
    if row is None:
        return
    (x, y), (width, height) = corner, size
    star = "*" if row.get("reviewer", AUTOMATIC) != AUTOMATIC else ""
    number = row["correlation"]
    axes.text(
        x + width - 1,
        y + height - 1,
        ("–" if pd.isna(number) else f"{number:.2f}") + star,
        color="white",
        fontsize=7,
        ha="right",
        va="top",
        path_effects=_DARK,
    )
    if row["verdict"] == "accepted":
        return
    colour = VERDICT_COLOURS[row["verdict"]]
    axes.add_patch(Rectangle(corner, width, height, fill=False, ec=colour, lw=2.2, zorder=4))
    if row["verdict"] == "rejected":
        for ends in ((y, y + height), (y + height, y)):
            axes.add_line(Line2D((x, x + width), ends, color=colour, lw=1.2, zorder=4))
    else:
        axes.text(x + 2, y + height - 2, "?", color=colour, fontsize=11, fontweight="bold",
                  va="top", path_effects=_DARK)  # fmt: skip


def _scale_bar(axes: Axes, corner: tuple[float, float], length_mm: float = 20.0) -> None:
    x, y = corner[0] + 4, corner[1] + 3
    axes.plot([x, x + length_mm], [y, y], color="white", lw=2, path_effects=_DARK,
              solid_capstyle="butt")  # fmt: skip
    axes.text(x + length_mm / 2, y + 1, f"{length_mm:.0f} mm", color="white", fontsize=7,
              ha="center", va="bottom", path_effects=_DARK)  # fmt: skip


def _summary(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    counts = [(name, int((table["verdict"] == name).sum())) for name in VERDICT_COLOURS]
    text = ", ".join(f"{count} {name}" for name, count in counts if count)
    text += ". Numbers: correlation"
    if "reviewer" in table and (table["reviewer"] != AUTOMATIC).any():
        text += ", with * a person's verdict"
    return text
