"""All registrations of a sequence at a glance, for a person to judge."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, draw_slice, middle_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, DARK_EDGE, VERDICT_COLOURS, new_figure
from ankle_lib.quality.review_sheet import AUTOMATIC
from ankle_lib.volume import Volume, to_orientation

COLUMNS = 8
"""Frames side by side, as many as can be read at the width of a notebook; more continue below."""
WIDTH_INCHES = 10.4
MARGIN_MM, GAP_MM, BAR_MM = 7.0, 3.0, 20
"""Around the largest bone, between thumbnails, and the length of the scale bar."""


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

    Examples
    --------
    >>> contact_sheet(frames, {"talus": moved_masks}, sheet.table(), "T01 active_run-01")
    """
    slices = {bone: _slices(bone, frames, list(series)) for bone, series in masks.items()}
    boxes = {bone: [_box_mm(one) for one in series] for bone, series in slices.items()}
    extents = [high - low for series in boxes.values() for low, high in filter(None, series)]
    size = np.array(slices[next(iter(slices))][0].size_mm)
    size = np.max(extents, axis=0) + 2 * MARGIN_MM if extents else size
    rows = {(int(row["frame"]), row["bone"]): row for row in table.to_dict("records")}

    columns, step = min(len(frames), COLUMNS), size + GAP_MM
    n_rows = len(masks) * -(-len(frames) // columns)
    cell_inches = min(1.8, WIDTH_INCHES / columns)
    height = n_rows * step[1] * cell_inches / step[0]
    figure = new_figure(columns * cell_inches + 0.5, height + 0.6)
    axes = figure.subplots()
    for number, (bone, series) in enumerate(slices.items()):
        known = [(low + high) / 2 for low, high in filter(None, boxes[bone])]
        usual = np.median(known, axis=0) if known else np.array(series[0].size_mm) / 2
        for frame, (one, box) in enumerate(zip(series, boxes[bone], strict=True)):
            row = frame // columns * len(masks) + number
            corner = np.array([frame % columns * step[0], -row * step[1] - size[1]])
            centre = usual if box is None else (box[0] + box[1]) / 2
            cell = _thumbnail(axes, one, centre, corner, size)
            if (frame, bone) in rows:
                _mark(axes, rows[frame, bone], cell)
            if frame % columns == 0:
                axes.text(-GAP_MM, corner[1] + size[1] / 2, bone, rotation=90, ha="right",
                          va="center", color=BONE_COLOURS.get(bone, "black"),
                          fontweight="bold")  # fmt: skip
            if number == 0:
                axes.text(corner[0] + size[0] / 2, corner[1] + size[1] + 1, str(frame),
                          ha="center", fontsize=8)  # fmt: skip
    bottom = -(n_rows - 1) * step[1] - size[1] + 3
    axes.plot([4, 4 + BAR_MM], [bottom, bottom], color="white", lw=2, path_effects=DARK_EDGE)
    axes.text(4 + BAR_MM / 2, bottom + 1, f"{BAR_MM} mm", color="white", fontsize=7, ha="center",
              va="bottom", path_effects=DARK_EDGE)  # fmt: skip
    axes.set_xlim(-GAP_MM, columns * step[0])
    axes.set_ylim(-n_rows * step[1], 3 * GAP_MM)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title("\n".join(filter(None, [title, _summary(table)])), fontsize=10, loc="left")
    return figure


def _slices(bone: str, frames: Sequence[Volume], masks: list[Volume | None]) -> list[Slice]:
    """Return the slice of each frame through the middle of its mask, with the outline."""
    slices = []
    for frame, mask in zip(frames, masks, strict=True):
        upright, shown = to_orientation(frame), {}
        index = upright.shape[2] // 2
        if mask is not None and np.any(mask.data):
            shown = {bone: to_orientation(mask).data > 0}
            index = middle_slice(shown[bone])
        limits = window(upright.data)
        slices.append(slice_of(upright, "sagittal", index, shown, limits=limits))
    return slices


def _box_mm(one: Slice) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the lower left and the upper right of a slice's outline in mm; None without one."""
    for mask in one.outlines.values():
        rows, columns = np.nonzero(mask)
        low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
        return low * one.pixel_mm, (high + 1) * one.pixel_mm
    return None


def _thumbnail(
    axes: Axes,
    one: Slice,
    centre: NDArray[np.float64],
    corner: NDArray[np.float64],
    size: NDArray[np.float64],
) -> Rectangle:
    """Draw the part of a slice about ``centre`` into a cell at ``corner``; return the cell."""
    cell = Rectangle((corner[0], corner[1]), *size, color="black", lw=0, zorder=0)
    axes.add_patch(cell)
    first = np.floor((centre - size / 2) / one.pixel_mm).astype(int).clip(0)
    last = np.ceil((centre + size / 2) / one.pixel_mm).astype(int)
    part = one.crop((slice(first[1], last[1]), slice(first[0], last[0])))
    left, bottom = corner - (centre - size / 2) + part.origin_mm
    draw_slice(axes, replace(part, origin_mm=(left, bottom)), marked=False)
    axes.images[-1].set_clip_path(cell)
    return cell


def _mark(axes: Axes, row: dict[Any, Any], cell: Rectangle) -> None:
    """Write the correlation into a cell, and mark it unless it is accepted."""
    (x, y), width, height = cell.get_xy(), cell.get_width(), cell.get_height()
    star = "*" if row.get("reviewer", AUTOMATIC) != AUTOMATIC else ""
    number = "–" if pd.isna(row["correlation"]) else f"{row['correlation']:.2f}"
    axes.text(x + width - 1, y + height - 1, number + star, color="white", fontsize=7, ha="right",
              va="top", path_effects=DARK_EDGE)  # fmt: skip
    if row["verdict"] == "accepted":
        return
    colour = VERDICT_COLOURS[row["verdict"]]
    axes.add_patch(Rectangle((x, y), width, height, fill=False, ec=colour, lw=2.2, zorder=4))
    if row["verdict"] == "rejected":
        for ends in ((y, y + height), (y + height, y)):
            axes.plot((x, x + width), ends, color=colour, lw=1.2, zorder=4)
    else:
        axes.text(x + 2, y + height - 2, "?", color=colour, fontsize=11, fontweight="bold",
                  va="top", path_effects=DARK_EDGE)  # fmt: skip


def _summary(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    counts = [(name, int((table["verdict"] == name).sum())) for name in VERDICT_COLOURS]
    text = ", ".join(f"{count} {name}" for name, count in counts if count)
    text += ". Numbers: correlation"
    if "reviewer" in table and (table["reviewer"] != AUTOMATIC).any():
        text += ", with * a person's verdict"
    return text
