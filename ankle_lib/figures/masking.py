"""Figures of chapter 02: intensities and thresholds, foot masks, balls and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, centre_voxel, draw_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, GROUP_COLOURS, new_figure
from ankle_lib.masking.bone_weights import REPORT_VOXEL_MM, ball_voxels, bone_weights, in_mm
from ankle_lib.masking.foot import REPORT_THRESHOLD, Histogram, smoothed
from ankle_lib.volume import Volume

REPORT_COLOUR, VALLEY_COLOUR = "#D55E00", "#0072B2"

_COMPARED = (
    ("dice_truth", "threshold", REPORT_COLOUR),
    ("other_dice_truth", "other_threshold", VALLEY_COLOUR),
)


def intensity_histograms(
    histograms: Mapping[str, Histogram], valleys: Mapping[str, float]
) -> Figure:
    """Show the intensities of every image, all pooled, and both thresholds (report, Fig. 5.4).

    Parameters
    ----------
    histograms : mapping of title to Histogram
        Such as "static" and "dynamic".
    valleys : mapping of title to threshold
    """
    figure = new_figure(10.0, 4.2)
    panels = np.atleast_1d(figure.subplots(1, len(histograms), sharey=False))
    for axes, (title, histogram) in zip(panels, histograms.items(), strict=True):
        each = smoothed(histogram.counts)
        each /= np.maximum(each.sum(axis=1, keepdims=True), 1)
        pooled = smoothed(histogram.pooled) / histogram.pooled.sum()
        axes.plot(histogram.centres, each.T, color="0.75", lw=0.5)
        axes.plot(histogram.centres, pooled, color="black", lw=1.8, label="all together")
        axes.axvline(REPORT_THRESHOLD, color=REPORT_COLOUR, lw=2, ls="--",
                     label=f"report: {REPORT_THRESHOLD:.0f}")  # fmt: skip
        axes.axvline(
            valleys[title], color=VALLEY_COLOUR, lw=2, label=f"valley: {valleys[title]:.0f}"
        )
        axes.set_yscale("log")
        axes.set_ylim(1e-5, 0.5)
        axes.set_xlim(0, 2500)
        n_voxels = histogram.counts.sum() + histogram.n_zero.sum()
        zero = histogram.n_zero.sum() / n_voxels
        axes.set_title(f"{title}: {len(histogram.counts)} images, {zero:.0%} of voxels are 0")
        axes.set_xlabel("intensity (scanner units)")
        axes.set_ylabel("fraction of the voxels above 0")
        axes.legend(frameon=False)
    return figure


def foot_masks(images: Mapping[str, tuple[Volume, NDArray, int]]) -> Figure:
    """Show images with the outline of the foot, and the masks below (report, Fig. 5.5).

    Parameters
    ----------
    images : mapping of title to (image, mask, index of a sagittal slice)
    """
    figure = new_figure(4.0 * len(images), 8.0)
    panels = figure.subplots(2, len(images), squeeze=False)
    for column, (title, (image, mask, index)) in enumerate(images.items()):
        shown = slice_of(image, "sagittal", index)
        foot = slice_of(Volume(mask, image.affine), "sagittal", index)
        draw_slice(panels[0, column], shown, limits=window(image.data), outlines={"foot": foot},
                   colours={"foot": "#F0E442"})  # fmt: skip
        binary = Slice(foot.image.astype(np.uint8), foot.size_mm, foot.letters)
        draw_slice(panels[1, column], binary, limits=(0, 1))
        panels[0, column].set_title(title, fontsize=11)
    return figure


def mask_agreement(table: pd.DataFrame) -> Figure:
    """Show the overlap with the true foot of every image, for both thresholds.

    Parameters
    ----------
    table : foot_masks.csv
        With dice_truth and other_dice_truth.
    """
    kind = np.where(table["image"] == "static", "static", "dynamic")
    figure = new_figure(7.0, 3.6)
    axes = figure.subplots()
    random = np.random.default_rng(0)
    names: list[str] = []
    for which in ("static", "dynamic"):
        for column, threshold, colour in _COMPARED:
            rows = table[(kind == which) & table[column].notna()]
            if rows.empty:
                continue
            place = len(names)
            names.append(f"{which}\n> {rows[threshold].iloc[0]:.0f}")
            x = place + random.uniform(-0.2, 0.2, len(rows))
            axes.scatter(x, rows[column], s=9, color=colour, alpha=0.6, lw=0)
            median = float(rows[column].median())
            axes.plot([place - 0.3, place + 0.3], [median] * 2, color="black", lw=2)
            axes.text(place + 0.32, median, f"{median:.3f}", va="center", fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.2)
    axes.set_ylabel("Dice with the true foot")
    axes.set_title("each dot is one image, the bar is the median")
    return figure


def dilation_balls(radii: Sequence[int] = (1, 2, 3, 4, 5)) -> Figure:
    """Show the report's balls, in voxels and as long as they really are (report, Fig. 5.6)."""
    figure = new_figure(10.0, 2.7)
    panels = figure.subplots(2, len(radii))
    across_mm, up_mm = REPORT_VOXEL_MM[2], REPORT_VOXEL_MM[1]
    reach = (max(radii) + 0.5) * across_mm
    for column, radius in enumerate(radii):
        middle = ball_voxels(radius)[radius]
        n = len(middle) / 2
        for row, (width, title) in enumerate(((up_mm, "sagittal"), (across_mm, "coronal"))):
            axes = panels[row, column]
            axes.pcolormesh(
                np.linspace(-n, n, len(middle) + 1) * width,
                np.linspace(-n, n, len(middle) + 1) * up_mm,
                middle,
                cmap="Blues",
                vmin=0,
                vmax=1.3,
                edgecolors="0.8",
                lw=0.4,
            )
            axes.set_xlim(-reach, reach)
            axes.set_ylim(-0.45 * reach, 0.45 * reach)
            axes.set_aspect("equal")
            if column == 0:
                axes.set_ylabel(f"{title}\nmm")
            else:
                axes.set_yticklabels([])
            if row == 1:
                axes.set_xlabel("mm")
        panels[0, column].set_title(f"radius {radius}", fontsize=11)
    return figure


def weight_gallery(
    static: Volume,
    masks: Mapping[str, NDArray],
    radii: Sequence[int] = (1, 2, 3, 4, 5),
    sigma_voxels: float = 2.0,
) -> Figure:
    """Show the weights of each bone for several radii of dilation (report, Fig. 5.7).

    Parameters
    ----------
    static : Volume
        3D, axes P, S, R.
    masks : mapping of bone to (I, J, K) bool array
    radii, sigma_voxels
        In voxels of the report's grid.
    """
    figure = new_figure(2.05 * len(radii) + 0.4, 2.0 * len(masks) + 0.7)
    panels = figure.subplots(len(masks), len(radii), squeeze=False)
    shown = None
    for row, (bone, mask) in enumerate(masks.items()):
        index = centre_voxel({bone: mask})[2]
        outline = slice_of(Volume(mask, static.affine), "sagittal", index)
        box = _square(outline, margin_mm=6.0)
        for column, radius in enumerate(radii):
            axes = panels[row, column]
            soft = bone_weights(mask, static.voxel_size_mm, in_mm(radius), in_mm(sigma_voxels))
            weights = slice_of(Volume(soft, static.affine), "sagittal", index).crop(box)
            draw_slice(axes, weights, limits=(0, 1), cmap="magma", bar=column == 0,
                       letters=column == 0, outlines={bone: outline.crop(box)})  # fmt: skip
            shown = axes.images[0]
            if row == 0:
                axes.set_title(f"radius {radius}", fontsize=11)
        panels[row, 0].text(
            -0.04, 0.5, bone, transform=panels[row, 0].transAxes, rotation=90, va="center",
            ha="right", color=BONE_COLOURS[bone], fontweight="bold",
        )  # fmt: skip
    if shown is not None:
        figure.colorbar(shown, ax=panels, label="weight", shrink=0.6)
    return figure


def bone_volumes(table: pd.DataFrame, references: Mapping[str, float]) -> Figure:
    """Show the volume of each bone of each subject beside a published one.

    Parameters
    ----------
    table : bone_volumes.csv
        With the column group.
    references : mapping of bone to cm3
        Drawn as a line.
    """
    figure = new_figure(7.0, 3.8)
    axes = figure.subplots()
    bones = list(dict.fromkeys(table["bone"]))
    groups = sorted(set(table["group"]))
    for place, bone in enumerate(bones):
        for number, group in enumerate(groups):
            rows = table[(table["bone"] == bone) & (table["group"] == group)]
            x = place + 0.3 * (number - (len(groups) - 1) / 2)
            axes.scatter(np.full(len(rows), x), rows["volume_cm3"], s=28, alpha=0.75,
                         color=GROUP_COLOURS.get(group, "0.4"),
                         label=group if place == 0 else None)  # fmt: skip
        if bone in references:
            axes.plot([place - 0.35, place + 0.35], [references[bone]] * 2, color="black", ls="--",
                      label="mean child" if place == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(bones)), bones)
    axes.set_ylabel("volume (cm³)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def _square(mask: Slice, margin_mm: float) -> tuple[slice, slice]:
    """Return the rows and columns of a square around a mask."""
    rows, columns = np.nonzero(mask.image)
    pixel = (mask.size_mm[1] / mask.image.shape[0], mask.size_mm[0] / mask.image.shape[1])
    spans = [(found.min(), found.max()) for found in (rows, columns)]
    half_mm = max((b - a) * size / 2 for (a, b), size in zip(spans, pixel, strict=True)) + margin_mm
    parts = []
    for (a, b), size, n in zip(spans, pixel, mask.image.shape, strict=True):
        middle, half = (a + b) // 2, round(half_mm / size)
        parts.append(slice(max(middle - half, 0), min(middle + half + 1, n)))
    return parts[0], parts[1]
