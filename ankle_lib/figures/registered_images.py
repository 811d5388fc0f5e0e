"""Pictures of chapter 03: the static scan carried onto a frame, as a whole and bone by bone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from ankle_lib.figures.images import Slice, centre_voxel, draw_slice, middle_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, VERDICT_COLOURS, new_figure
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, world_to_voxel
from ankle_lib.registration.moving import moved, moved_mask
from ankle_lib.volume import Volume

SLICE_SAMPLES = 9
"""Samples across a thick slice, for pictures."""
MARGIN_MM = 8.0


def global_registration(
    static: Volume, frame: Volume, masks: Mapping[str, NDArray[np.bool_]], pose: ArrayLike
) -> Figure:
    """Show the static scan on a frame before and after a registration (report, Figs 5.8, 5.9).

    Four panels: the static scan; the frame with the bones where scanner coordinates put them;
    the frame with the bones where ``pose`` puts them; the static scan carried there, as thick as
    the frame's slices.

    Parameters
    ----------
    static, frame : Volume
        3D, axes P, S, R.
    masks : mapping of bone to (I, J, K) bool array
        On the static grid.
    pose : array, shape (4, 4)
        Static world to frame world, RAS mm.
    """
    carried = moved(static, pose, frame.shape, frame.affine, slice_samples=SLICE_SAMPLES)
    before, after = (
        {
            bone: moved_mask(Volume(mask, static.affine), matrix, frame.shape, frame.affine)
            for bone, mask in masks.items()
        }
        for matrix in (np.eye(4), np.asarray(pose))
    )
    at_rest = {bone: Volume(mask, static.affine) for bone, mask in masks.items()}
    everything = np.any([mask.data for mask in after.values()], axis=0)
    index = middle_slice(everything) if everything.any() else frame.shape[2] // 2
    panels: tuple[tuple[str, Volume, Mapping[str, Volume], int], ...] = (
        ("static scan", static, at_rest, centre_voxel(masks)[2]),
        ("frame, bones in scanner coordinates", frame, before, index),
        ("frame, bones after registration", frame, after, index),
        ("static scan after registration", carried, after, index),
    )
    figure = new_figure(14.0, 4.4)
    for axes, (title, image, outlines, k) in zip(figure.subplots(1, 4), panels, strict=True):
        lines = {bone: slice_of(mask, "sagittal", k) for bone, mask in outlines.items()}
        draw_slice(axes, slice_of(image, "sagittal", k), limits=window(image.data), outlines=lines)
        axes.set_title(title, fontsize=11)
    handles = [Line2D([], [], color=BONE_COLOURS[bone], lw=3, label=bone) for bone in masks]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def bone_registrations(
    frame: Volume, images: Mapping[str, Volume], masks: Mapping[str, Volume]
) -> Figure:
    """Show each bone on a frame, and the static scan moved with it (report, Figs 5.11, 5.12).

    Parameters
    ----------
    frame : Volume
        3D, axes P, S, R.
    images, masks : mapping of bone to Volume
        The static scan moved with the bone, and the moved mask, both on the frame's grid.
    """
    figure = new_figure(3.4 * len(masks), 6.8)
    panels = figure.subplots(2, len(masks), squeeze=False)
    for column, (bone, mask) in enumerate(masks.items()):
        index = middle_slice(mask.data) if np.any(mask.data) else frame.shape[2] // 2
        outline = slice_of(mask, "sagittal", index)
        box = _around(outline)
        for axes, image in zip(panels[:, column], (frame, images[bone]), strict=True):
            shown = slice_of(image, "sagittal", index).crop(box)
            draw_slice(axes, shown, outlines={bone: outline.crop(box)}, bar=column == 0)
        panels[0, column].set_title(bone, fontsize=12, color=BONE_COLOURS[bone], fontweight="bold")
    for axes, text in zip(panels[:, 0], ("frame", "static scan, moved with the bone"), strict=True):
        _row_name(axes, text)
    return figure


def high_resolution(
    frame: Volume, thick: Volume, sharp: Volume, mask: Volume, name: str = "talus"
) -> Figure:
    """Show a bone as the frame does, and as the moved static scan does on two grids.

    All are cut to the grid of ``sharp``; thick voxels keep their shape.

    Parameters
    ----------
    frame : Volume
        3D, axes P, S, R.
    thick : Volume
        The moved static scan on the frame's grid, as thick as its slices.
    sharp : Volume
        The moved static scan on a fine grid along the same axes, see `registration.bone_grid`.
    mask : Volume
        The moved mask on the fine grid.

    Raises
    ------
    AnkleError
        If the mask is empty or not on the fine grid.
    """
    if mask.shape != sharp.shape or not np.any(mask.data):
        raise AnkleError(
            f"a sharp bone needs its mask on the same grid {sharp.shape}: found {mask.shape} with "
            f"{np.count_nonzero(mask.data)} voxels"
        )
    columns = {
        "frame": (_whole_voxels(frame, sharp), window(frame.data)),
        "static scan, frame's grid": (_whole_voxels(thick, sharp), window(thick.data)),
        "static scan, fine grid": (sharp, window(sharp.data)),
    }
    middle = apply(mask.affine, np.argwhere(mask.data).mean(axis=0))
    # Through the middle of a thick slice, so that both sagittal pictures show the same place.
    on_slice = np.rint(world_to_voxel(frame.affine, middle))
    slice_there = world_to_voxel(sharp.affine, apply(frame.affine, on_slice))[2]
    coronal, _, sagittal = np.rint(world_to_voxel(sharp.affine, middle)).astype(int)
    sagittal = int(np.clip(np.rint(slice_there), 0, sharp.shape[2] - 1))
    figure = new_figure(10.5, 6.6)
    cuts = (("sagittal", sagittal), ("coronal", int(coronal)))
    heights = [slice_of(sharp, plane, index).size_mm[1] for plane, index in cuts]
    panels = figure.subplots(2, 3, height_ratios=heights)
    for column, (title, (image, limits)) in enumerate(columns.items()):
        for row, (plane, index) in enumerate(cuts):
            draw_slice(
                panels[row, column],
                slice_of(image, plane, index),
                limits=limits,
                outlines={name: slice_of(mask, plane, index)},
                bar=column == 0,
            )
        panels[0, column].set_title(title, fontsize=11)
    for axes, (plane, _) in zip(panels[:, 0], cuts, strict=True):
        _row_name(axes, plane)
    return figure


def wrong_fits(examples: Mapping[str, tuple[Volume, Volume, Volume]]) -> Figure:
    """Show where fits put a bone (red) and where it is (yellow).

    Parameters
    ----------
    examples : mapping of title to (frame, mask as fitted, true mask)
        All 3D on the frame's grid, axes P, S, R.
    """
    figure = new_figure(3.5 * len(examples), 4.3)
    colours = {"as fitted": VERDICT_COLOURS["rejected"], "where the bone is": "#F0E442"}
    panels = figure.subplots(1, len(examples), squeeze=False)[0]
    for axes, (title, (frame, fitted, true)) in zip(panels, examples.items(), strict=True):
        index = middle_slice(true.data)
        lines = {
            name: slice_of(mask, "sagittal", index)
            for name, mask in zip(colours, (fitted, true), strict=True)
        }
        both = np.any([line.image for line in lines.values()], axis=0)
        shown = slice_of(frame, "sagittal", index)
        box = _around(Slice(both, shown.size_mm, shown.letters))
        draw_slice(
            axes,
            shown.crop(box),
            outlines={name: line.crop(box) for name, line in lines.items()},
            colours=colours,
        )
        axes.set_title(title, fontsize=10)
    handles = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _whole_voxels(volume: Volume, fine: Volume) -> Volume:
    """Give each voxel of a fine grid the value of the thick one that it lies in.

    The axes of both are parallel. Unlike `volume.resample` this keeps the outer halves of the
    border's voxels.
    """
    corners = apply(fine.affine, np.array([(0, 0, 0), fine.shape]) - [[0], [1]])
    first, last = world_to_voxel(volume.affine, corners)
    index = [
        np.rint(np.linspace(a, b, n)).astype(int)
        for a, b, n in zip(first, last, fine.shape, strict=True)
    ]
    inside = [(0 <= i) & (i < n) for i, n in zip(index, volume.shape, strict=True)]
    data = np.zeros(fine.shape, dtype=volume.data.dtype)
    data[np.ix_(*inside)] = volume.data[
        np.ix_(*(i[there] for i, there in zip(index, inside, strict=True)))
    ]
    return Volume(data, fine.affine)


def _around(mask: Slice) -> tuple[slice, slice]:
    """Return rows and columns of a square around a mask; everything if it is empty."""
    if not np.any(mask.image):
        return slice(None), slice(None)
    pixel = (mask.size_mm[1] / mask.image.shape[0], mask.size_mm[0] / mask.image.shape[1])
    spans = [(found.min(), found.max() + 1) for found in np.nonzero(mask.image)]
    half_mm = MARGIN_MM + max((b - a) * mm / 2 for (a, b), mm in zip(spans, pixel, strict=True))
    rows, columns = (
        slice(max(round((a + b) / 2 - half_mm / mm), 0), round((a + b) / 2 + half_mm / mm))
        for (a, b), mm in zip(spans, pixel, strict=True)
    )
    return rows, columns


def _row_name(axes: Axes, text: str) -> None:
    axes.text(-0.03, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center")
