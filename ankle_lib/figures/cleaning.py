"""Figures of chapter 01: who stays and who goes, and what was set right."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ankle_lib.cleaning.laterality import side_from_bones
from ankle_lib.cleaning.placing import affines_of, time_mean
from ankle_lib.figures.images import (
    AXIS_OF_PLANE,
    Slice,
    box_around,
    centre_voxel,
    image_grid,
    slice_of,
    window,
)
from ankle_lib.figures.style import BONE_COLOURS, FOOT_COLOUR, new_figure
from ankle_lib.geometry import corner_distance_mm
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.manifest.schema import Subject
from ankle_lib.masking.foot import REPORT_THRESHOLD
from ankle_lib.volume import Volume, load, read_header, resample, to_orientation

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

BOX_COLOUR, LOST_COLOUR = "#0072B2", "#D55E00"
REASON_WIDTH = 66
_ADVICE = re.compile(r": (copy|convert|check|save|replace) .*")


@dataclass(frozen=True)
class Scene:
    """Images of one subject, each where its own header places it, axes as in the course."""

    static: Volume
    masks: dict[str, Volume]
    """Values as they are in the files."""
    movie: Volume | None
    """Mean of a sequence over time."""


def raw_scene(subject: Subject, cleaned: CleanSubject) -> Scene:
    """Return the raw images of a subject that could be cleaned.

    Where a header's qform and sform disagree, the image is placed by the wrong one: the one that
    is farther from the clean scan.
    """
    path, right = subject.static[0], load(cleaned.static).affine
    static, affines = load(path), affines_of(read_header(path)).values()
    wrong = max(affines, key=lambda affine: corner_distance_mm(static.shape, affine, right))
    used = [one.path for one in subject.sequences if one.name in cleaned.sequences]
    return Scene(
        to_orientation(Volume(static.data, wrong)),
        {bone: to_orientation(load(path)) for bone, path in subject.masks.items()},
        to_orientation(time_mean(load(used[0]))) if used else None,
    )


def clean_scene(cleaned: CleanSubject) -> Scene:
    """Return the clean images of a subject."""
    frames = [load(path) for path in next(iter(cleaned.sequences.values()))]
    mean = np.stack([frame.data for frame in frames]).mean(axis=0, dtype=np.float32)
    masks = {bone: load(path) for bone, path in cleaned.masks.items()}
    return Scene(load(cleaned.static), masks, Volume(mean, frames[0].affine))


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
    scenes = (before, after)
    if kind == "binarised":
        shown = _mask_values(scenes)
    elif kind == "missing voxels":
        shown = _missing_voxels(scenes)
    else:
        shown = [_places(scene, after, "mirrored" in kind) for scene in scenes]
    colours = {**BONE_COLOURS, "foot": FOOT_COLOUR}
    titles = [f"{when}{note}" for when, (_, note) in zip(("before", "after"), shown, strict=True)]
    figure, _ = image_grid(
        [[image for image, _ in shown]], titles, width=8.4, marks="all", colours=colours
    )
    figure.suptitle(f"{subject}: {kind}", fontsize=12)
    return figure


def inclusion_flow(inclusion: pd.DataFrame) -> Figure:
    """Draw how many subjects pass each stage, and why each of the others does not.

    Parameters
    ----------
    inclusion : table
        Columns subject, group, included, reasons, kinds, n_active, n_passive. A subject is shown
        at the first stage that it fails, with all of its reasons.
    """
    rest, stages = inclusion, []
    for stage, kinds in STAGES.items():
        found = [set(str(text).split("; ")) for text in rest["kinds"]]
        fails = np.array([not one.isdisjoint(kinds) for one in found], dtype=bool)
        reasons = _reason_lines(rest[fails])
        rest = rest[~fails]
        stages.append((f"{stage}\n{_counted(rest)}", reasons))
    heights = [max(1.1, 0.32 * len(reasons) + 0.6) for _, reasons in stages]
    total = 2.4 + sum(heights)
    figure = new_figure(11.0, 0.62 * total)
    axes = figure.subplots()
    axes.set(xlim=(0, 11), ylim=(0, total))
    axes.set_axis_off()
    y = total - 0.6
    _box(axes, (2.0, y), f"{_counted(inclusion)}\nraw cohort", weight="bold")
    for (text, reasons), height, before in zip(stages, heights, [1.2, *heights], strict=False):
        above, y = y, y - (height + before) / 2
        _arrow(axes, (2.0, above - 0.4), (2.0, y + 0.4))
        _box(axes, (2.0, y), text)
        if reasons:
            _arrow(axes, (3.8, y), (4.3, y))
            look: dict[str, Any] = {"ha": "left", "family": "monospace", "fontsize": 9}
            _box(axes, (4.45, y), "\n".join(reasons), LOST_COLOUR, **look)
    _arrow(axes, (2.0, y - 0.4), (2.0, 1.0))
    counts = rest.groupby("group")[["n_active", "n_passive"]].sum().sum(axis=1)
    sequences = " + ".join(str(int(count)) for count in counts.sort_index()) or "0"
    _box(axes, (2.0, 0.6), f"{_counted(rest)}\n{sequences} dynamic sequences", weight="bold")
    return figure


def _counted(subjects: pd.DataFrame) -> str:
    groups = subjects["group"].value_counts()
    parts = " + ".join(f"{groups[group]} {group}" for group in sorted(groups.index))
    return f"{len(subjects)} children: {parts}" if len(subjects) else "no child"


def _reason_lines(lost: pd.DataFrame) -> list[str]:
    lines = []
    for subject, reasons in zip(lost["subject"], lost["reasons"], strict=True):
        for number, reason in enumerate(reasons.split("; ")):
            # What to do about it is in the table.
            short = textwrap.shorten(_ADVICE.sub("", reason), 2 * REASON_WIDTH)
            first = f"{subject:5}" if number == 0 else "   + "
            lines += textwrap.wrap(
                short, REASON_WIDTH, initial_indent=first, subsequent_indent="     "
            )
    return lines


def _box(
    axes: Axes, place: tuple[float, float], text: str, colour: str = BOX_COLOUR, **look: Any
) -> None:
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10, "linespacing": 1.25}
    frame = {"boxstyle": "round,pad=0.4", "facecolor": (*to_rgb(colour), 0.12), "edgecolor": colour}
    axes.text(*place, text, bbox=frame, **(style | look))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "mutation_scale": 13, "color": "#333333"}
    axes.annotate("", end, start, arrowprops=arrow)


def _places(scene: Scene, after: Scene, mirrored: bool) -> tuple[Slice, str]:
    """Show where masks and dynamic foot lie on the static scan, by their own headers.

    Mirrored feet are seen from above, in the plane of the clean talar head, others from the side.
    """
    plane = "axial" if mirrored else "sagittal"
    clean = {bone: mask.data > 0 for bone, mask in after.masks.items()}
    axis, index = AXIS_OF_PLANE[plane], centre_voxel(clean)[2]
    if mirrored:
        heights = np.flatnonzero(clean["talus"].any(axis=(0, 2)))
        index = int(heights[0] + 0.35 * (heights[-1] - heights[0]))
    # a thin slab of the static grid is enough for one slice
    slab = scene.static.affine.copy()
    slab[:3, 3] += slab[:3, axis] * (index - 1)
    i, j, k = (3 if n == axis else size for n, size in enumerate(scene.static.shape[:3]))
    drawn = {bone: Volume(mask.data > 0, mask.affine) for bone, mask in scene.masks.items()}
    if scene.movie is not None and not mirrored:
        drawn["foot"] = Volume(scene.movie.data > REPORT_THRESHOLD, scene.movie.affine)
    masks: dict[str, NDArray] = {
        name: resample(Volume(mask.data.astype(np.float32), mask.affine), (i, j, k), slab).data
        for name, mask in drawn.items()
    }
    part = np.take(scene.static.data, [index] * 3, axis)
    image = slice_of(Volume(part, slab), plane, 1, masks, limits=window(scene.static.data))
    if mirrored:
        bones = {bone: mask.data > 0 for bone, mask in scene.masks.items()}
        side = side_from_bones(bones, scene.static.affine).side or "doubtful"
        return image, f": masks of a {side} foot"
    there = any(mask.max() > 0 for mask in masks.values())
    return image, "" if there else ": the masks lie elsewhere"


def _mask_values(scenes: tuple[Scene, Scene]) -> list[tuple[Slice, str]]:
    """Show the values of the mask that was least binary."""
    raw, clean = scenes[0].masks, scenes[1].masks
    bone = max(raw, key=lambda name: len(np.unique(raw[name].data[::2, ::2])))
    index = centre_voxel({bone: clean[bone].data > 0})[2]
    box = box_around(slice_of(clean[bone], "sagittal", index, {bone: clean[bone]}), 6.0)
    shown = []
    for mask in (raw[bone], clean[bone]):
        values = np.unique(mask.data)
        text = f"{len(values)} values from" if len(values) > 2 else "values"
        image = slice_of(mask, "sagittal", index, limits=(0, float(values[-1])), cmap="viridis")
        shown.append((image.crop(box), f": {bone}, {text} {values[0]:g} to {values[-1]:g}"))
    return shown


def _missing_voxels(scenes: tuple[Scene, Scene]) -> list[tuple[Slice, str]]:
    """Zoom to the missing voxel that is nearest to the bones."""
    raw, clean = scenes[0].static, scenes[1].static
    voxels = np.argwhere(~np.isfinite(raw.data))
    bones = centre_voxel({bone: mask.data > 0 for bone, mask in scenes[1].masks.items()})
    distance = np.linalg.norm((voxels - bones) * raw.voxel_size_mm, axis=1)
    column, row, index = (int(n) for n in voxels[distance.argmin()])
    box = (slice(max(row - 25, 0), row + 26), slice(max(column - 25, 0), column + 26))
    shown = []
    for volume in (raw, clean):
        image = slice_of(volume, "sagittal", index).crop(box)
        grey = np.clip(image.image / window(clean.data)[1], 0, 1)[..., None].repeat(3, axis=-1)
        grey[~np.isfinite(image.image)] = to_rgb(LOST_COLOUR)
        shown.append(replace(image, image=grey, limits=(0.0, 1.0)))
    return [(shown[0], f": {len(voxels)} voxels are NaN (orange)"), (shown[1], ": filled")]
