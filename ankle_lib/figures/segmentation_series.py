"""The contact sheet of `ankle segment`: all frames of a series with their labels at a glance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, draw_slice, slice_of
from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.volume import Volume, to_orientation

MOST_FRAMES = 30
"""More are shown in part, spread evenly."""
COLUMNS = 5
MARGIN_MM = 12.0
"""Shown around the bones."""
DARK_BRIGHT = (0.1, 99.7)
"""Percentiles of the series shown as black and white."""
WIDTH, ROOM, LEGEND = 11.0, 0.55, 0.9
"""Inches: of the figure, of the texts of one row, and of what stands below all."""
FLAGGED = "#E00000"


def segmentation_sheet(
    series: Volume, labels: Volume, table: pd.DataFrame, names: Mapping[int, str]
) -> Figure:
    """Show every frame of a series with the outlines of its labels and how far to trust them.

    All frames show one sagittal slice, the one that has most of every bone. Below each frame
    stand the confidences in the bones' colours, – for a bone that was not found; what the table
    notes has a red frame.

    Parameters
    ----------
    series, labels : Volume
        4D, on one grid, in any orientation; at least one voxel has a label.
    table : DataFrame
        Columns frame, bone, confidence, volume_cm3, note (see `segmentation.frame_table`).
    names : mapping of label to bone
    """
    film, found = to_orientation(series), to_orientation(labels)
    place = _best_slice(found.data, names)
    box = _crop(found)
    limits = _limits(film.data)
    shown = _spread(series.n_frames)
    images = [_cut(film, number, place, box) for number in shown]
    marks = [_cut(found, number, place, box) for number in shown]

    columns = min(COLUMNS, len(shown))
    n_rows = -(-len(shown) // columns)
    width, height = images[0].size_mm
    row_inches = WIDTH / COLUMNS * height / width + ROOM
    figure = new_figure(columns * WIDTH / COLUMNS, n_rows * row_inches + LEGEND)
    panels = figure.subplots(n_rows, columns, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, number, image, mark in zip(panels, shown, images, marks, strict=False):
        outlines = {
            name: Slice(mark.image == label, mark.size_mm, mark.letters)
            for label, name in names.items()
        }
        first = number == shown[0]
        draw_slice(axes, image, limits=limits, outlines=outlines, bar=first, letters=first)
        axes.set_title(f"frame {number}", fontsize=10)
        _trust(axes, table[table["frame"] == number])
    _legend(figure, table, names, n_left_out=series.n_frames - len(shown))
    return figure


def _cut(volume: Volume, number: int, place: int, box: tuple[slice, slice]) -> Slice:
    return slice_of(volume.frame(number), "sagittal", place).crop(box)


def _best_slice(labels: NDArray[np.uint8], names: Mapping[int, str]) -> int:
    """Return the slice in which the bone that is seen least is seen most, over all frames."""
    areas = np.array([np.count_nonzero(labels == label, axis=(0, 1, 3)) for label in names])
    found = areas[areas.any(axis=1)]
    return int((found / found.sum(axis=1, keepdims=True)).min(axis=0).argmax())


def _crop(labels: Volume) -> tuple[slice, slice]:
    """Return rows and columns of sagittal slices around the bones of all frames."""
    shadow = np.max(labels.data > 0, axis=(2, 3))
    reach = []
    for axis in (1, 0):
        filled = np.flatnonzero(np.max(shadow, axis=1 - axis))
        margin = round(MARGIN_MM / labels.voxel_size_mm[axis])
        reach.append(slice(max(int(filled[0]) - margin, 0), int(filled[-1]) + margin + 1))
    return reach[0], reach[1]


def _limits(data: NDArray) -> tuple[float, float]:
    dark, bright = np.percentile(data.ravel(order="K")[:: data.size // 1_000_000 + 1], DARK_BRIGHT)
    return float(dark), float(max(bright, np.nextafter(dark, np.inf)))


def _spread(n_frames: int) -> list[int]:
    n_shown = min(n_frames, MOST_FRAMES)
    return [int(n) for n in np.linspace(0, n_frames - 1, n_shown).round()]


def _trust(axes: Axes, rows: pd.DataFrame) -> None:
    """Write the confidences below a frame, and mark it if anything is noted."""
    for n, row in enumerate(rows.itertuples()):
        text = f"{row.confidence:.2f}" if row.volume_cm3 > 0 else "–"
        axes.text((n + 0.5) / len(rows), -0.02, text, color=BONE_COLOURS[str(row.bone)],
                  fontsize=10, fontweight="bold", ha="center", va="top",
                  transform=axes.transAxes)  # fmt: skip
    if (rows["note"] != "").any():
        axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, ec=FLAGGED, lw=4,
                                 transform=axes.transAxes, clip_on=False))  # fmt: skip


def _legend(figure: Figure, table: pd.DataFrame, names: Mapping[int, str], n_left_out: int) -> None:
    found = table[table["volume_cm3"] > 0].groupby("bone")["volume_cm3"].median()
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=BONE_COLOURS[name], lw=2.5,
               label=f"{name}, {found[name]:.1f} cm³" if name in found else f"no {name}")
        for name in names.values()
    ]  # fmt: skip
    if (table["note"] != "").any():
        handles.append(Patch(fc="none", ec=FLAGGED, lw=2, label="look closer: see the table"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
                  title="Numbers: confidence, 0 to 1"
                  + (f"; {n_left_out} frames between are not shown" if n_left_out else ""),
                  title_fontsize=10)  # fmt: skip
