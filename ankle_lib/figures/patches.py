"""Pictures of chapter 04: where patches come from, what a network sees and what it is to learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, box_around, image_grid, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, FOOT_COLOUR, legend_below
from ankle_lib.patches.rules import PatchRule, box_sums, local_correlation
from ankle_lib.patches.source import Batch
from ankle_lib.volume import Volume

KEPT_COLOUR, REJECTED_COLOUR, UNLIKE_COLOUR = "#009E73", "#D55E00", "#F0E442"
SHOWN_SD = (-2.0, 3.0)
"""Limits of normalised intensities that are shown as black and white."""


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
    share = _share(foot, index, rule)
    shown = slice_of(image, "sagittal", index, {"foot": foot}, limits=window(image.data))
    inside = f"all positions: {np.mean(share >= rule.min_fraction):.0%} lie inside the line"
    figure, panels = image_grid(
        *([[shown, shown]], [f"{len(tries)} random tries", inside]),
        colours={"foot": FOOT_COLOUR},
        legend=False,
    )
    left, right = panels[0]
    looks = {True: (KEPT_COLOUR, "-"), False: (REJECTED_COLOUR, ":")}
    for row, column in tries:
        look = looks[bool(share[row, column] >= rule.min_fraction)]
        _square(left, image, (row, column), rule.size, *look)
    names = {True: f"at least {rule.min_fraction:.0%} foot: kept", False: "less: rejected"}
    handles = [
        Line2D([], [], color=colour, ls=style, lw=2.5, label=names[kept])
        for kept, (colour, style) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    extent = _centres_extent(image, rule, share.shape)
    drawn = right.imshow(share.T, origin="lower", extent=extent, vmin=0, vmax=1, cmap="viridis",
                         alpha=0.75, interpolation="nearest")  # fmt: skip
    if share.min() < rule.min_fraction < share.max():
        right.contour(share.T, levels=[rule.min_fraction], colors="white", linewidths=2.2,
                      extent=extent, origin="lower")  # fmt: skip
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
    share = _share(mask, index, rule)
    low, high = (
        torch.from_numpy(np.ascontiguousarray(image.data[None, :, :, index], dtype=np.float32))
        for image in (frame, moved)
    )
    alike = (local_correlation(low, high, rule.size)[0] > (rule.min_correlation or -1)).numpy()
    kind = np.where(share >= rule.min_fraction - 1e-9, alike.astype(float), np.nan)
    slices = [slice_of(image, "sagittal", index, {bone: mask}) for image in (frame, moved, frame)]
    box = box_around(slices[0], margin_mm=0.6 * rule.size[0] * frame.voxel_size_mm[0])
    titles = ["frame", f"static scan, moved with the {bone}", "centres of patches"]
    figure, panels = image_grid(
        [[one.crop(box) for one in slices]], titles, width=10.5, legend=False
    )
    last = panels[0, 2]
    limits = last.axis()
    last.imshow(kind.T, origin="lower", extent=_centres_extent(frame, rule, kind.shape), vmin=0,
                vmax=1, alpha=0.6, cmap=ListedColormap([UNLIKE_COLOUR, KEPT_COLOUR]),
                interpolation="nearest")  # fmt: skip
    last.axis(limits)
    if np.isfinite(kind).any():
        best = [float(n) for n in np.unravel_index(np.argmax(share), share.shape)]
        _square(last, frame, best, rule.size, "white", "--")
    handles = [
        Patch(color=KEPT_COLOUR, label="kept"),
        Patch(color=UNLIKE_COLOUR, label=f"correlation at most {rule.min_correlation}"),
        Line2D([], [], color="0.5", ls="--", label="size of a patch"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def label_gallery(
    batch: Batch, labels: Sequence[str], pixel_mm: float, *, upright: bool = True
) -> Figure:
    """Show patches above what is to be learnt from them (report, Figs 6.5 and 6.20).

    Parameters
    ----------
    batch : Batch
        With one channel per label.
    labels : sequence of str
        Names of the channels.
    pixel_mm : float
    upright : bool
        Whether letters and scale bar hold; not so for patches that were turned and scaled.
    """
    answers = []
    for masks in batch.target.cpu().numpy():
        coloured = np.zeros((*masks.shape[1:], 3))
        for label, mask in zip(labels, masks, strict=True):
            coloured[mask > 0.5] = to_rgb(BONE_COLOURS.get(label, "white"))
        answers.append(_patch(coloured, pixel_mm, (0.0, 1.0)))
    figure, panels = _gallery(
        batch, {"image (X)": _images(batch.image, pixel_mm), "labels (Y)": answers}, upright
    )
    for axes, valid in zip(panels[1], batch.valid.tolist(), strict=True):
        unknown = [name for name, known in zip(labels, valid, strict=True) if not known]
        if unknown:
            axes.set_title("unknown: " + "\n".join(unknown), fontsize=8, color=REJECTED_COLOUR)
    legend_below(figure, {name: BONE_COLOURS.get(name, "white") for name in labels})
    return figure


def pair_gallery(batch: Batch, pixel_mm: float) -> Figure:
    """Show patches of frames above their sharp partners, by correlation (report, Fig. 6.14).

    Parameters
    ----------
    batch : Batch
        With intensities as target.
    pixel_mm : float
    """
    order = torch.argsort(batch.correlation)
    rows = {
        "frame (X)": _images(batch.image[order], pixel_mm),
        "static scan,\nmoved (Y)": _images(batch.target[order], pixel_mm),
    }
    figure, panels = _gallery(batch, rows, True, order.tolist())
    for axes, correlation in zip(panels[1], batch.correlation[order].tolist(), strict=True):
        axes.set_title(f"r = {correlation:.2f}", fontsize=10)
    return figure


def _gallery(
    batch: Batch, rows: dict[str, list[Slice]], upright: bool, order: Sequence[int] = ()
) -> tuple[Figure, NDArray]:
    """Show patches above their answers; each has a name: image, bone and slice."""
    n = len(batch.image)
    marks = "first" if upright else "none"
    figure, panels = image_grid(rows, [""], width=1.6 * n + 0.4, marks=marks, legend=False)
    figure.set_figheight(4.1)
    for axes, number in zip(panels[0], order or range(n), strict=True):
        image, place, *_ = batch.describe(batch.where[number].tolist()).split(", ")
        words = image.split()
        bone = words.pop() if words[-1] in BONE_COLOURS else ""
        name = " ".join(words).replace(" frame", "\nframe") + f"\n{bone} {place}"
        axes.set_title(name.replace("\n ", "\n"), fontsize=8)
    return figure, panels


def _images(values: torch.Tensor, pixel_mm: float) -> list[Slice]:
    return [_patch(one[0], pixel_mm, SHOWN_SD) for one in values.cpu().numpy()]


def _patch(values: NDArray, pixel_mm: float, limits: tuple[float, float]) -> Slice:
    """Return a patch (posterior, superior) as a slice to be drawn."""
    size = (values.shape[0] * pixel_mm, values.shape[1] * pixel_mm)
    return Slice(values.swapaxes(0, 1), size, limits=limits)


def _share(mask: NDArray[np.bool_], index: int, rule: PatchRule) -> NDArray[np.float64]:
    """Return which part of the patch at each position of a sagittal slice lies in a mask."""
    region = torch.from_numpy(np.ascontiguousarray(mask[None, :, :, index]))
    share: NDArray[np.float64] = box_sums(region, rule.size)[0].numpy() / np.prod(rule.size)
    return share


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
