"""Figure of chapter 07 that a clinician would read: what the ankle's joints do over a cycle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.dynamic.kinematics import (
    ANGLES,
    AXES,
    AnatomicalFrame,
    ranges_of_motion,
)
from ankle_lib.figures.style import BONE_COLOURS, GROUP_COLOURS, new_figure
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply
from ankle_lib.volume import Volume

Array = NDArray[np.float64]

ANGLE_NAMES = {
    "dorsiflexion_deg": "Dorsiflexion ↑\nplantarflexion ↓",
    "inversion_deg": "Inversion ↑\neversion ↓",
    "rotation_deg": "Internal rotation ↑\nexternal rotation ↓",
}
KIND_STYLES = {"passive": "-", "active": (0, (4, 2))}
AXIS_MARKS = {"talocrural": "o", "subtalar": "s"}
"""The joints that are shown."""
AXIS_REACH_MM = {"talocrural": 32.0, "subtalar": 42.0}
"""How far a helical axis is drawn to either side."""

PERCENT = np.linspace(0, 100, 51)

PIXEL_MM = 1.0
"""Of a silhouette."""
SHAFT_SHOWN_MM = 50.0
"""Above the middle of the talus."""


def joint_motion_chart(
    angles: pd.DataFrame,
    axes: pd.DataFrame,
    bones: Mapping[str, Volume],
    frame: AnatomicalFrame,
    truth: pd.DataFrame | None = None,
) -> Figure:
    """Show joint angles over the cycle, control against equinus, and the helical axes.

    Lines are means of subjects, solid for passive and dashed for active motion; bands are one
    standard deviation of the subjects to either side, both kinds together. The helical axes of
    all sequences are drawn about the joints of one foot, as a right one, in its static pose.

    Parameters
    ----------
    angles, axes : DataFrame
        From `kinematics.joint_tables`.
    bones : mapping of bone to Volume
        Masks of the foot to draw.
    frame : AnatomicalFrame
        Of that foot.
    truth : DataFrame, optional
        True angles, like ``angles``; their means are thin black lines.

    Raises
    ------
    AnkleError
        If there are no angles.
    """
    if angles.empty:
        raise AnkleError("no angle to show: give the table of at least one sequence")
    figure = new_figure(15.0, 7.0)
    grid = figure.add_gridspec(2, 5, width_ratios=(1.3, 1, 1, 1, 1.6))
    whole = figure.add_subplot(grid[:, 0])
    _curves(whole, angles, truth, "hindfoot", "tibiocalcaneal_deg")
    whole.invert_yaxis()
    whole.set_title("Tibia to calcaneus,\nseen from the side", fontsize=11)
    whole.set_ylabel("← plantarflexion    tibiocalcaneal angle (°)    dorsiflexion →")
    whole.set_xlabel("cycle (%)")

    ranges = ranges_of_motion(angles.assign(kind="all"))
    for row, joint in enumerate(AXIS_MARKS):
        first: Axes | None = None
        for column, angle in enumerate(ANGLES):
            panel = figure.add_subplot(grid[row, 1 + column], sharey=first)
            first = first or panel
            _curves(panel, angles, truth, joint, angle)
            panel.axhline(0, color="0.6", lw=0.8, zorder=0)
            _ranges(panel, ranges[(ranges["joint"] == joint) & (ranges["angle"] == angle)])
            panel.tick_params(labelleft=column == 0)
            if row == 0:
                panel.set_title(ANGLE_NAMES[angle], fontsize=11)
            else:
                panel.set_xlabel("cycle (%)")
        assert first is not None
        first.set_ylabel(f"{joint.capitalize()}\nchange from the static pose (°)")
        low, high = first.get_ylim()
        first.set_ylim(low, high + 0.28 * (high - low))  # room for the ranges

    for row, view in enumerate(("side", "front")):
        _helical_axes(figure.add_subplot(grid[row, 4]), axes, bones, frame, view)
    _legend(figure, angles, truth is not None)
    return figure


def _curves(
    axes: Axes, angles: pd.DataFrame, truth: pd.DataFrame | None, joint: str, column: str
) -> None:
    for table in (angles, truth):
        if table is None:
            continue
        rows = table[table["joint"] == joint]
        last = rows.groupby(["subject", "sequence"])["frame"].transform("max").clip(lower=1)
        rows = rows.assign(percent=100 * rows["frame"] / last).dropna(subset=column)
        for group, part in rows.groupby("group", sort=False):
            colour = GROUP_COLOURS.get(str(group), "0.4")
            if table is angles:
                each = _subjects(part, column)
                middle, spread = each.mean(axis=0), each.std(axis=0, ddof=min(1, len(each) - 1))
                low, high = middle - spread, middle + spread
                axes.fill_between(PERCENT, low, high, color=colour, alpha=0.15, lw=0)
            line = (colour, 2) if table is angles else ("black", 0.8)
            for kind, own in part.groupby("kind"):
                style = KIND_STYLES.get(str(kind), ":")
                mean = _subjects(own, column).mean(axis=0)
                axes.plot(PERCENT, mean, ls=style, color=line[0], lw=line[1])
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 50, 100])
    axes.spines[["top", "right"]].set_visible(False)


def _subjects(rows: pd.DataFrame, column: str) -> Array:
    """Return the mean course of each subject's sequences, (subjects, `PERCENT`)."""
    courses = [
        [np.interp(PERCENT, one["percent"], one[column]) for _, one in own.groupby("sequence")]
        for _, own in rows.sort_values("frame").groupby("subject")
    ]
    return np.stack([np.mean(each, axis=0) for each in courses])


def _ranges(axes: Axes, found: pd.DataFrame) -> None:
    """Write the groups' range of motion into the panel's upper part."""
    for line, row in enumerate(found.to_dict("records")):
        text = f"range {row['mean_deg']:.1f}°"
        if np.isfinite(row["low_deg"]):
            text += f" ({row['low_deg']:.1f}–{row['high_deg']:.1f})"
        colour = GROUP_COLOURS.get(str(row["group"]), "0.4")
        axes.text(0.03, 0.98 - 0.09 * line, text, fontsize=9, va="top", color=colour,
                  transform=axes.transAxes)  # fmt: skip


def _helical_axes(
    axes: Axes, table: pd.DataFrame, bones: Mapping[str, Volume], frame: AnatomicalFrame, view: str
) -> None:
    """Draw bones as silhouettes, anterior or a right foot's lateral side to the left."""
    across = 0 if view == "side" else 2
    for bone, volume in bones.items():
        points = apply(volume.affine, np.argwhere(volume.data > 0))
        placed = apply(frame.matrix, points)
        _silhouette(axes, -placed[:, across], placed[:, 1], BONE_COLOURS.get(bone, "0.5"))
    for row in table[table["joint"].isin(AXIS_MARKS)].to_dict("records"):
        joint = str(row["joint"])
        middle = frame.centres_mm[joint] + [row[f"offset_{name}_mm"] for name in AXES]
        reach = AXIS_REACH_MM[joint] * np.array([row[name] for name in AXES])
        colour, style = GROUP_COLOURS.get(row["group"], "0.4"), KIND_STYLES.get(row["kind"], ":")
        ends = np.stack([middle - reach, middle + reach])
        axes.plot(-ends[:, across], ends[:, 1], color=colour, lw=1.2, alpha=0.6, ls=style)
        axes.plot(-middle[across], middle[1], AXIS_MARKS[joint], color=colour, ms=4.5,
                  mec="white", mew=0.5)  # fmt: skip
    axes.set_aspect("equal")
    axes.set_ylim(top=SHAFT_SHOWN_MM)
    axes.set_axis_off()
    axes.set_title(f"Helical axes from the {view}", fontsize=11)
    left, right = ("anterior", "posterior") if view == "side" else ("lateral", "medial")
    for x, name, side in ((0, left, "left"), (1, right, "right")):
        axes.text(x, 0.99, name, transform=axes.transAxes, ha=side, va="top", fontsize=9)
    low, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    axes.plot([low, low + 20], [bottom] * 2, color="black", lw=2.5, clip_on=False)
    axes.text(low + 10, bottom + 1, "20 mm", ha="center", va="bottom", fontsize=8)


def _silhouette(axes: Axes, x: Array, y: Array, colour: str) -> None:
    """Fill and outline where points fall."""
    margin = 3 * PIXEL_MM
    edges = [np.arange(v.min() - margin, v.max() + 2 * margin, PIXEL_MM) for v in (x, y)]
    filled = np.histogram2d(x, y, edges)[0] > 0
    smooth = ndimage.gaussian_filter(filled.astype(float), 1.0).T
    centres = [edge[:-1] + PIXEL_MM / 2 for edge in edges]
    axes.contourf(*centres, smooth, levels=[0.5, 2.0], colors=[colour], alpha=0.3)
    axes.contour(*centres, smooth, levels=[0.5], colors=[colour], linewidths=1.2)


def _legend(figure: Figure, angles: pd.DataFrame, with_truth: bool) -> None:
    handles: list[Patch | Line2D] = []
    for group, part in angles.groupby("group", sort=False):
        label = f"{group}, {part['subject'].nunique()} children (mean ± sd)"
        handles.append(Patch(color=GROUP_COLOURS.get(str(group), "0.4"), label=label))
    for kind, style in KIND_STYLES.items():
        if (angles["kind"] == kind).any():
            handles.append(Line2D([], [], color="0.3", lw=2, ls=style, label=kind))
    if with_truth:
        handles.append(Line2D([], [], color="black", lw=0.8, label="truth"))
    for joint, mark in AXIS_MARKS.items():
        handles.append(Line2D([], [], color="0.3", lw=1.2, marker=mark, label=f"{joint} axis"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
