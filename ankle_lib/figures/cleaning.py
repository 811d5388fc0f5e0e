"""Figures of chapter 01: who stays and who goes, and what was set right."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray

from ankle_lib.cleaning.laterality import side_from_bones
from ankle_lib.cleaning.scenes import Scene
from ankle_lib.figures.images import centre_voxel, draw_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, GROUP_COLOURS, new_figure
from ankle_lib.volume import Volume, resample

STAGES = {
    "One readable static scan": (
        "no static scan",
        "several static scans",
        "static scan unreadable",
        "static scan empty",
        "reference frame unclear",
    ),
    "Expected resolution, no large holes": ("wrong resolution", "missing voxels"),
    "Three visible bones, each with its mask": (
        "bone masks missing",
        "mask unusable",
        "mask on another grid",
        "bone not visible",
        "left or right unclear",
    ),
    "A usable dynamic sequence": ("no usable sequence",),
}
"""Stages of the flow, and the kinds of reasons that end at each."""

_FOOT = {"foot": "#F0E442"}
_REASON_WIDTH = 66
_GAP = 0.3
_ADVICE = re.compile(r": (copy|convert|check|save|replace) .*")


def left_beside_right(feet: Mapping[str, tuple[Volume, Mapping[str, NDArray]]]) -> Figure:
    """Show a left and a right foot from above and from behind (report, Fig. 5.3).

    Parameters
    ----------
    feet : mapping of "left" and "right" to (static scan, masks)
        Axes P, S, R; masks on the scan's grid.
    """
    figure = new_figure(8.0, 7.6)
    panels = figure.subplots(2, 2)
    for column, side in enumerate(("left", "right")):
        static, masks = feet[side]
        talus = centre_voxel({"talus": masks["talus"]})
        tip = _lowest_tibia(masks["tibia"])
        places = (("axial", _lowest(masks["talus"], 0.35)), ("coronal", (talus[0] + tip) // 2))
        for row, (plane, index) in enumerate(places):
            axes = panels[row, column]
            _draw(axes, static, masks, plane, index)
            medial_left = side == "right"
            x, arrow = (0.03, "← medial") if medial_left else (0.97, "medial →")
            axes.text(
                x,
                0.88,
                arrow,
                transform=axes.transAxes,
                color="white",
                fontsize=11,
                ha="left" if medial_left else "right",
            )
        panels[0, column].set_title(f"{side} foot", fontsize=12)
    for row, text in enumerate(("seen from above", "seen from behind")):
        panels[row, 0].text(
            -0.03, 0.5, text, transform=panels[row, 0].transAxes, rotation=90, va="center",
            ha="right", fontsize=11,
        )  # fmt: skip
    return figure


def inclusion_flow(inclusion: pd.DataFrame) -> Figure:
    """Draw how many subjects pass each stage, and why each of the others does not.

    Parameters
    ----------
    inclusion : table
        Columns subject, group, included, reasons, kinds, n_active, n_passive. A subject is shown
        at the first stage that it fails, with all of its reasons.
    """
    rest, lost_at = inclusion, []
    for stage, kinds in STAGES.items():
        # astype: an empty column maps to one without a type, which would select columns.
        fails = rest["kinds"].map(lambda text, kinds=kinds: _any_of(text, kinds)).astype(bool)
        lost_at.append((stage, rest[fails]))
        rest = rest[~fails]
    lines = [_reason_lines(lost) for _, lost in lost_at]
    heights = [max(0.84, 0.32 * len(text) + 0.3) for text in lines]
    total = 1.0 + sum(height + _GAP for height in heights) + _GAP + 1.1
    figure = new_figure(11.0, 0.62 * total)
    axes = figure.subplots()
    axes.set_xlim(0, 11)
    axes.set_ylim(0, total)
    axes.set_axis_off()

    top = total - 0.1
    _box(axes, 0.1, top - 0.8, 3.6, 0.8, f"{_counted(inclusion)}\nraw cohort", bold=True)
    bottom = row_bottom = top - 0.8
    remaining = inclusion
    for (stage, lost), text, height in zip(lost_at, lines, heights, strict=True):
        remaining = remaining.drop(lost.index)
        y = row_bottom - _GAP - height
        middle = y + height / 2
        _arrow(axes, (1.9, bottom), (1.9, middle + 0.42))
        _box(axes, 0.1, middle - 0.42, 3.6, 0.84, f"{stage}\n{_counted(remaining)}")
        if len(lost):
            _arrow(axes, (3.75, middle), (4.25, middle))
            _box(axes, 4.3, y + 0.05, 6.6, height - 0.1, "\n".join(text), left=True)
        bottom, row_bottom = middle - 0.42, y
    end = row_bottom - _GAP
    _arrow(axes, (1.9, bottom), (1.9, end))
    _box(
        axes, 0.1, end - 0.9, 3.6, 0.9, f"{_counted(remaining)}\n{_sequences(remaining)}", bold=True
    )
    return figure


def before_and_after(kind: str, subject: str, before: Scene, after: Scene) -> Figure:
    """Show what one kind of correction changed.

    Parameters
    ----------
    kind : str
        As in the table of corrections.
    subject : str
        Code, for the title.
    before, after : Scene
        The same subject, raw and clean.
    """
    figure = new_figure(8.4, 4.6)
    panels = figure.subplots(1, 2)
    figure.suptitle(f"{subject}: {kind}", fontsize=12)
    if kind == "binarised":
        _draw_values(panels, before, after)
    elif kind == "missing voxels":
        _draw_missing(panels, before, after)
    elif "mirrored" in kind:
        _draw_mirrored(panels, before, after)
    else:
        _draw_places(panels, before, after)
    for axes, title in zip(panels, ("before", "after"), strict=True):
        axes.set_title(f"{title}{axes.get_title()}", fontsize=11)
    return figure


def sequence_overview(means: Mapping[str, Sequence[float]], used: Mapping[str, bool]) -> Figure:
    """Show the mean intensity of every frame of every sequence: what is missing stands out.

    Parameters
    ----------
    means : mapping of label to mean intensity of each frame
        Labels such as ``"E03 active_run-01"``.
    used : mapping of label to bool
        Whether the sequence is in the clean cohort.
    """
    n_frames = max(len(values) for values in means.values())
    image = np.full((len(means), n_frames), np.nan)
    for row, values in enumerate(means.values()):
        image[row, : len(values)] = values
    typical = np.nanmedian(np.where(image > 0, image, np.nan), axis=1, keepdims=True)
    figure = new_figure(7.5, 0.19 * len(means) + 1.2)
    axes = figure.subplots()
    axes.set_facecolor("#D55E00")
    shown = axes.imshow(
        image / typical, cmap="gray", vmin=0, vmax=1.2, aspect="auto", interpolation="nearest"
    )
    labels = [label if used[label] else f"{label}  ✗" for label in means]
    axes.set_yticks(range(len(means)), labels, fontsize=8)
    for label, text in zip(means, axes.get_yticklabels(), strict=True):
        if not used[label]:
            text.set_color("#D55E00")
            text.set_fontweight("bold")
    axes.set_xticks(range(n_frames))
    axes.set_xlabel("frame (orange: not there)")
    figure.colorbar(shown, ax=axes, label="mean intensity / median of the sequence", shrink=0.5)
    return figure


# --- the flow ------------------------------------------------------------------------------------


def _any_of(kinds: object, wanted: Sequence[str]) -> bool:
    return isinstance(kinds, str) and any(kind in wanted for kind in kinds.split("; "))


def _counted(subjects: pd.DataFrame) -> str:
    groups = subjects["group"].value_counts()
    parts = " + ".join(f"{groups[group]} {group}" for group in sorted(groups.index))
    return f"{len(subjects)} children: {parts}" if len(subjects) else "no child"


def _sequences(subjects: pd.DataFrame) -> str:
    counts = subjects.groupby("group")[["n_active", "n_passive"]].sum().sum(axis=1)
    parts = " + ".join(f"{int(counts[group])}" for group in sorted(counts.index))
    return f"{parts or 0} dynamic sequences"


def _reason_lines(lost: pd.DataFrame) -> list[str]:
    lines = []
    for subject, reasons in zip(lost["subject"], lost["reasons"], strict=True):
        for number, reason in enumerate(reasons.split("; ")):
            # What to do about it is in the table.
            short = textwrap.shorten(_ADVICE.sub("", reason), 2 * _REASON_WIDTH)
            wrapped = textwrap.wrap(short, _REASON_WIDTH)
            first = f"{subject:5}" if number == 0 else "   + "
            lines += [first + wrapped[0], *("     " + line for line in wrapped[1:])]
    return lines


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str,
    *,
    bold: bool = False,
    left: bool = False,
) -> None:
    colour = "#FBE9E0" if left else "#E3EEF6"
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.1", facecolor=colour,
            edgecolor="#D55E00" if left else GROUP_COLOURS["control"],
        )
    )  # fmt: skip
    axes.text(
        x + 0.12 if left else x + width / 2,
        y + height / 2,
        text,
        ha="left" if left else "center",
        va="center",
        fontsize=9 if left else 10,
        fontweight="bold" if bold else "normal",
        family="monospace" if left else None,
        linespacing=1.25,
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color="#333333")
    )


# --- before and after ----------------------------------------------------------------------------


def _draw(axes: Axes, static: Volume, masks: Mapping[str, NDArray], plane: str, index: int) -> None:
    outlines = {
        bone: slice_of(Volume(mask, static.affine), plane, index) for bone, mask in masks.items()
    }
    draw_slice(axes, slice_of(static, plane, index), limits=window(static.data), outlines=outlines)


def _draw_mirrored(panels: NDArray, before: Scene, after: Scene) -> None:
    """Show each scene from above, in the plane of the clean talar head."""
    index = _lowest(after.masks["talus"].data > 0, 0.35)
    for axes, scene in zip(panels, (before, after), strict=True):
        masks = {bone: mask.data for bone, mask in scene.masks.items()}
        _draw(axes, scene.static, masks, "axial", index)
        bones = side_from_bones(
            {bone: mask > 0 for bone, mask in masks.items()}, scene.static.affine
        )
        axes.set_title(f": masks of a {bones.side or 'doubtful'} foot")


def _draw_places(panels: NDArray, before: Scene, after: Scene) -> None:
    """Show where masks and dynamic foot lie on the static scan, by their own headers."""
    masks = {bone: mask.data > 0 for bone, mask in after.masks.items()}
    index = centre_voxel(masks)[2]
    for axes, scene in zip(panels, (before, after), strict=True):
        # A thin slab of the static grid is enough for one slice.
        slab = scene.static.affine.copy()
        slab[:3, 3] += slab[:3, 2] * (index - 1)
        shape = (*scene.static.shape[:2], 3)
        outlines = {}
        for bone, mask in scene.masks.items():
            placed = resample(Volume((mask.data > 0).astype(np.float32), mask.affine), shape, slab)
            outlines[bone] = slice_of(placed, "sagittal", 1)
        if scene.movie is not None:
            foot = Volume((scene.movie.data > 250).astype(np.float32), scene.movie.affine)
            outlines["foot"] = slice_of(resample(foot, shape, slab), "sagittal", 1)
        draw_slice(
            axes,
            slice_of(scene.static, "sagittal", index),
            limits=window(scene.static.data),
            outlines=outlines,
            colours=BONE_COLOURS | _FOOT,
        )
        if not any(np.max(outline.image) > 0 for outline in outlines.values()):
            axes.text(0.5, 0.9, "the masks lie elsewhere", transform=axes.transAxes, ha="center",
                      color="white")  # fmt: skip
    figure = panels[0].figure
    figure.supxlabel("lines: bone masks and (yellow) the foot of a dynamic sequence", fontsize=9)


def _draw_values(panels: NDArray, before: Scene, after: Scene) -> None:
    """Show the values of the mask that was least binary."""
    bone = max(before.masks, key=lambda name: len(np.unique(before.masks[name].data[::2, ::2])))
    index = centre_voxel({bone: after.masks[bone].data > 0})[2]
    for axes, scene in zip(panels, (before, after), strict=True):
        mask = scene.masks[bone]
        image = slice_of(mask, "sagittal", index)
        rows, columns = np.nonzero(slice_of(after.masks[bone], "sagittal", index).image)
        box = (slice(max(rows.min() - 6, 0), rows.max() + 7),
               slice(max(columns.min() - 6, 0), columns.max() + 7))  # fmt: skip
        top = float(mask.data.max())
        draw_slice(axes, image.crop(box), limits=(0, top), cmap="viridis")
        values = np.unique(mask.data)
        text = f"values {values[0]:g} and {values[-1]:g}"
        if len(values) > 2:
            text = f"{len(values)} values from {values[0]:g} to {values[-1]:g}"
        axes.text(0.5, -0.04, f"{bone} mask: {text}", transform=axes.transAxes, ha="center",
                  va="top")  # fmt: skip


def _draw_missing(panels: NDArray, before: Scene, after: Scene) -> None:
    """Zoom to the missing voxel that is nearest to the bones."""
    missing = ~np.isfinite(before.static.data)
    voxels = np.argwhere(missing)
    bones = centre_voxel({bone: mask.data > 0 for bone, mask in after.masks.items()})
    distance = np.linalg.norm((voxels - bones) * before.static.voxel_size_mm, axis=1)
    column, row, index = (int(n) for n in voxels[distance.argmin()])
    box = (slice(max(row - 25, 0), row + 26), slice(max(column - 25, 0), column + 26))
    limits = window(after.static.data)
    for axes, scene in zip(panels, (before, after), strict=True):
        image = slice_of(scene.static, "sagittal", index).crop(box)
        draw_slice(axes, image, limits=limits)
        holes = ~np.isfinite(image.image)
        if holes.any():
            axes.imshow(
                np.where(holes, 1.0, np.nan), cmap=ListedColormap(["#D55E00"]), origin="lower",
                extent=(0, image.size_mm[0], 0, image.size_mm[1]), interpolation="nearest",
            )  # fmt: skip
    panels[0].text(0.5, -0.04, f"orange: NaN ({int(missing.sum())} voxels in all)", ha="center",
                   va="top", transform=panels[0].transAxes)  # fmt: skip


def _lowest(mask: NDArray, fraction: float) -> int:
    """Return the axial slice at a fraction of a mask's height."""
    filled = np.flatnonzero(np.any(mask, axis=(0, 2)))
    return int(filled[0] + fraction * (filled[-1] - filled[0]))


def _lowest_tibia(mask: NDArray) -> int:
    """Return the coronal slice of the lowest part of the tibia."""
    filled = np.flatnonzero(np.any(mask, axis=(0, 2)))
    tip = np.argwhere(mask[:, filled[0] : filled[0] + 3])
    return int(np.rint(tip[:, 0].mean()))
