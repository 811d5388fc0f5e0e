"""Pictures of chapter 04: normalised scans, where patches come from, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, box_around, centre_voxel, draw_slice, slice_of, window
from ankle_lib.figures.style import new_figure
from ankle_lib.patches.rules import PatchRule, box_sums, local_correlation
from ankle_lib.volume import Volume

KEPT_COLOUR, REJECTED_COLOUR, UNLIKE_COLOUR = "#009E73", "#D55E00", "#F0E442"
FOOT_COLOUR = "#F0E442"
TASK_COLOURS = ("#F0E442", "#CC79A7", "#56B4E9")
SHOWN_SD = (-2.0, 3.0)
"""Limits of normalised intensities that are shown as black and white."""


def normalised_slices(images: Mapping[str, tuple[Volume, NDArray, int]]) -> Figure:
    """Show slices of several scans before and after normalisation, each row in one window.

    Parameters
    ----------
    images : mapping of title to (scan, normalised intensities, sagittal slice)
        Scans with axes P, S, R; the normalised array is on their grid.
    """
    figure = new_figure(3.2 * len(images), 7.0)
    panels = figure.subplots(2, len(images), squeeze=False)
    brightest = max(window(image.data)[1] for image, _, _ in images.values())
    for column, (title, (image, normalised, index)) in enumerate(images.items()):
        after = Volume(normalised, image.affine)
        rows = ((image, (0.0, brightest)), (after, SHOWN_SD))
        for row, (shown, limits) in enumerate(rows):
            draw_slice(panels[row, column], slice_of(shown, "sagittal", index), limits=limits,
                       letters=column == 0, bar=row == 0)  # fmt: skip
        panels[0, column].set_title(title, fontsize=11)
    for axes, text in zip(panels[:, 0], ("before", "after"), strict=True):
        row_name(axes, text)
    return figure


def foot_positions(
    image: Volume, foot: NDArray[np.bool_], index: int, rule: PatchRule, tries: NDArray[np.int_]
) -> Figure:
    """Show tries in one slice, kept or not, and how much foot a patch holds at each position.

    Parameters
    ----------
    image : Volume
        3D, axes P, S, R.
    foot : (I, J, K) bool array
    index : int
        Sagittal slice.
    rule : PatchRule
    tries : (n, 2) int array
        First row and column of patches that are drawn as squares.
    """
    region = torch.from_numpy(np.ascontiguousarray(foot[None, :, :, index]))
    share = (box_sums(region, rule.size)[0] / (rule.size[0] * rule.size[1])).numpy()
    shown = slice_of(image, "sagittal", index)
    outline = slice_of(Volume(foot, image.affine), "sagittal", index)
    figure = new_figure(10.0, 5.4)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        draw_slice(axes, shown, limits=window(image.data), outlines={"foot": outline},
                   colours={"foot": FOOT_COLOUR}, letters=axes is left)  # fmt: skip
    for row, column in tries:
        kept = share[row, column] >= rule.min_fraction
        colour = KEPT_COLOUR if kept else REJECTED_COLOUR
        _square(left, image, (row, column), rule.size, colour, "-" if kept else ":")
    names = {f"at least {rule.min_fraction:.0%} foot: kept": (KEPT_COLOUR, "-"),
             "less: rejected": (REJECTED_COLOUR, ":")}  # fmt: skip
    handles = [
        Line2D([], [], color=colour, ls=style, lw=2.5, label=name)
        for name, (colour, style) in names.items()
    ]
    left.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2,
                frameon=False)  # fmt: skip
    left.set_title(f"{len(tries)} random tries", fontsize=11)
    extent = _centres_extent(image, rule, share.shape)
    drawn = right.imshow(share.T, origin="lower", extent=extent, vmin=0, vmax=1, cmap="viridis",
                         alpha=0.75, interpolation="nearest")  # fmt: skip
    if share.min() < rule.min_fraction < share.max():
        right.contour(share.T, levels=[rule.min_fraction], colors="white", linewidths=2.2,
                      extent=extent, origin="lower")  # fmt: skip
    right.set_title(
        f"all positions: {np.mean(share >= rule.min_fraction):.0%} lie inside the line", fontsize=11
    )
    figure.colorbar(drawn, ax=right, label="foot in a patch centred here", shrink=0.8)
    return figure


def pair_positions(
    frame: Volume, moved: Volume, mask: NDArray[np.bool_], index: int, rule: PatchRule, bone: str
) -> Figure:
    """Show a frame and its sharp partner, and which patches of a bone are kept, and why not.

    Parameters
    ----------
    frame, moved : Volume
        3D on one grid, axes P, S, R: a frame, and the static scan moved with the bone.
    mask : (I, J, K) bool array
        The moved bone.
    index : int
        Sagittal slice.
    rule : PatchRule
        With a smallest correlation.
    bone : str
    """
    region, low, high = (
        torch.from_numpy(np.ascontiguousarray(array[None, :, :, index].astype(kind)))
        for array, kind in ((mask, bool), (frame.data, np.float32), (moved.data, np.float32))
    )
    share = box_sums(region, rule.size)[0].numpy() / (rule.size[0] * rule.size[1])
    enough = share >= rule.min_fraction - 1e-9
    alike = (local_correlation(low, high, rule.size)[0] > (rule.min_correlation or -1)).numpy()
    outline = slice_of(Volume(mask, frame.affine), "sagittal", index)
    box = _around(outline, margin_mm=0.6 * rule.size[0] * frame.voxel_size_mm[0])
    figure = new_figure(10.5, 3.6)
    panels = figure.subplots(1, 3)
    titles = ("frame", f"static scan, moved with the {bone}", "centres of patches")
    for axes, image, title in zip(panels, (frame, moved, frame), titles, strict=True):
        draw_slice(axes, slice_of(image, "sagittal", index).crop(box),
                   outlines={bone: outline.crop(box)}, letters=axes is panels[0],
                   bar=axes is panels[0])  # fmt: skip
        axes.set_title(title, fontsize=11)
    kind = np.where(enough, np.where(alike, 1.0, 0.0), np.nan)
    extent = _centres_extent(frame, rule, kind.shape)
    limits = panels[2].axis()
    panels[2].imshow(kind.T, origin="lower", extent=extent, vmin=0, vmax=1, alpha=0.6,
                     cmap=ListedColormap([UNLIKE_COLOUR, KEPT_COLOUR]),
                     interpolation="nearest")  # fmt: skip
    panels[2].axis(limits)
    if enough.any():
        best = [float(n) for n in np.unravel_index(np.argmax(share), share.shape)]
        _square(panels[2], frame, best, rule.size, "white", "--")
    handles = [
        Patch(color=KEPT_COLOUR, label="kept"),
        Patch(color=UNLIKE_COLOUR, label=f"correlation at most {rule.min_correlation}"),
        Line2D([], [], color="0.5", ls="--", label="size of a patch"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def patch_sizes(
    images: Mapping[str, tuple[Volume, Mapping[str, NDArray], Mapping[str, float]]],
) -> Figure:
    """Show how large patches are beside the bones.

    Parameters
    ----------
    images : mapping of title to (image, masks of bones, size in mm of each kind of patch)
        Squares are drawn around the middle of all bones together.
    """
    figure = new_figure(5.0 * len(images), 5.4)
    panels = np.atleast_1d(figure.subplots(1, len(images)))
    handles: list[Line2D] = []
    for axes, (title, (image, masks, sizes)) in zip(panels, images.items(), strict=True):
        row, column, index = centre_voxel(masks)
        outlines = {
            bone: slice_of(Volume(mask, image.affine), "sagittal", index)
            for bone, mask in masks.items()
        }
        draw_slice(axes, slice_of(image, "sagittal", index), limits=window(image.data),
                   outlines=outlines)  # fmt: skip
        for name, size_mm in sizes.items():
            colour = TASK_COLOURS[len(handles) % len(TASK_COLOURS)]
            n = tuple(size_mm / step for step in image.voxel_size_mm[:2])
            _square(axes, image, (row - n[0] / 2, column - n[1] / 2), n, colour, "-")
            label = f"{name}, {size_mm:.1f} mm"
            handles.append(Line2D([], [], color=colour, lw=2.5, label=label))
        axes.set_title(title, fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def row_name(axes: Axes, text: str) -> None:
    """Write the name of a row of panels to the left of its first one."""
    axes.text(-0.06, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center")


def _square(
    axes: Axes,
    image: Volume,
    corner: Sequence[float],
    size: Sequence[float],
    colour: str,
    style: str,
) -> None:
    """Draw a patch whose first voxel is ``corner``."""
    steps = image.voxel_size_mm[:2]
    x, y = (first * step for first, step in zip(corner, steps, strict=True))
    axes.add_patch(Rectangle((x, y), size[0] * steps[0], size[1] * steps[1], fill=False,
                             edgecolor=colour, ls=style, lw=1.8))  # fmt: skip


def _centres_extent(
    image: Volume, rule: PatchRule, shape: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """Return where, in mm, the centres of the patches at all positions lie."""
    (left, right), (bottom, top) = (
        ((side - 1) / 2 * step, ((side - 1) / 2 + n) * step)
        for side, n, step in zip(rule.size, shape, image.voxel_size_mm[:2], strict=True)
    )
    return left, right, bottom, top


def _around(mask: Slice, margin_mm: float) -> tuple[slice, slice]:
    """Return rows and columns around a mask."""
    return box_around(replace(mask, outlines={"mask": mask.image}), margin_mm)
