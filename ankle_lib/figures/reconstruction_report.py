"""Figures of chapter 06 on networks: weights, depth and bound, patches, scores, sharp slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike, NDArray

from ankle_lib.figures.images import Slice, draw_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.volume import Volume

LEARNT_COLOUR, REPORT_COLOUR = "#0072B2", "#E69F00"
SHOWN_SD = (-2.5, 2.5)
PATCH_LETTERS = ("A", "P", "I", "S")

Weight = Callable[[ArrayLike], NDArray[np.float64]]


def weight_functions(
    correlation: ArrayLike, report: Weight, learnt: Weight | None = None
) -> Figure:
    """Show the weight g over the pairs that the selection leaves (report, Fig. 6.15).

    Parameters
    ----------
    correlation : array
        Of the kept pairs.
    report, learnt : callable
        Map correlations to g.
    """
    figure = new_figure(6.4, 3.4)
    axes = figure.subplots()
    r = np.linspace(0, 1, 201)
    axes.plot(r, report(r), color=REPORT_COLOUR, lw=2, label="g of the report")
    if learnt is not None:
        kept = r[r >= 0.6]
        axes.plot(kept, learnt(kept), color=LEARNT_COLOUR, lw=2, label="g learnt")
    counts, edges = np.histogram(np.asarray(correlation), bins=np.arange(0, 1.01, 0.025))
    axes.stairs(0.5 * counts / max(counts.max(), 1), edges, fill=True, color="0.85",
                label="pairs that are kept")  # fmt: skip
    axes.axvline(0.6, color="0.4", lw=1, ls="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("correlation r of frame and target")
    axes.set_ylabel("weight g(r)")
    axes.legend(frameon=False, loc="upper left")
    return figure


def depth_and_bound(table: pd.DataFrame) -> Figure:
    """Show correlation against the network's size, below what any weights reach (Fig. 6.16).

    Parameters
    ----------
    table : DataFrame
        Columns factor, parameters, part, correlation, bound.
    """
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    ordered = table.sort_values("parameters")
    styles = {"train": (LEARNT_COLOUR, "training"), "validation": ("#D55E00", "validation")}
    for part, (colour, name) in styles.items():
        rows = ordered[ordered["part"] == part]
        axes.plot(rows["parameters"], rows["correlation"], "o-", color=colour, label=name)
        axes.plot(rows["parameters"], rows["bound"], "--", color=colour, lw=1.2,
                  label=f"{name}: no weights exceed this")  # fmt: skip
    for row in ordered[ordered["part"] == "train"].itertuples():
        axes.annotate(f"×{row.factor}", (row.parameters, 0.03), ha="center", fontsize=9)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.04)
    axes.set_xlabel("trained parameters (×: enlargement at the end)")
    axes.set_ylabel("correlation with the target")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 0.1))
    return figure


def report_patches(rows: Mapping[str, NDArray], pixel_mm: float) -> Figure:
    """Show patches, one kind per row (report, Figs 6.18 and 6.19).

    Parameters
    ----------
    rows : mapping of title to (n, h, w) array
        In standard deviations of the bone; a row called ``difference`` is shown in red and blue.
    pixel_mm : float
    """
    n = max(len(row) for row in rows.values())
    figure = new_figure(1.35 * n + 0.6, 1.35 * len(rows) + 0.2)
    panels = figure.subplots(len(rows), n, squeeze=False)
    for number, (title, patches) in enumerate(rows.items()):
        for column, patch in enumerate(patches):
            first = number == 0 and column == 0
            size = (patch.shape[0] * pixel_mm, patch.shape[1] * pixel_mm)
            draw_slice(
                panels[number, column],
                Slice(patch.T, size, PATCH_LETTERS),
                limits=SHOWN_SD,
                bar=first,
                letters=first,
                cmap="RdBu_r" if title == "difference" else "gray",
            )
        _row_title(panels[number, 0], title)
    return figure


def method_scores(
    table: pd.DataFrame, scores: Mapping[str, str], limits: Mapping[str, Sequence[float]]
) -> Figure:
    """Show scores of validation patches, one row per method, one point per bone.

    Parameters
    ----------
    table : DataFrame
        Columns method, bone and the scores.
    scores : mapping of column to label
    limits : mapping of column to (low, high)
        Where a panel is to begin and end.
    """
    methods = list(dict.fromkeys(table["method"]))
    figure = new_figure(3.1 * len(scores) + 1.2, 0.36 * len(methods) + 1.2)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (column, label) in zip(panels, scores.items(), strict=True):
        for bone, colour in BONE_COLOURS.items():
            rows = table[table["bone"] == bone].groupby("method")[column].mean().reindex(methods)
            axes.plot(rows, range(len(methods)), "o", color=colour, label=bone)
        axes.grid(axis="y", color="0.92")
        axes.set_xlabel(label)
        if column in limits:
            axes.set_xlim(*limits[column])
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  frameon=False)  # fmt: skip
    return figure


def weight_and_misfit(pairs: pd.DataFrame, shifts: pd.DataFrame) -> Figure:
    """Show what the correlation says of misregistration: hardly anything within the real range.

    Parameters
    ----------
    pairs : DataFrame
        Columns bone, correlation, tre_mm; see `reconstruction.weights_and_truth`.
    shifts : DataFrame
        Columns shift_mm, bone, correlation; see `reconstruction.what_a_shift_costs`.
    """
    figure = new_figure(8.4, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for bone, colour in BONE_COLOURS.items():
        rows = pairs[pairs["bone"] == bone]
        left.plot(rows["tre_mm"], rows["correlation"], "o", ms=3, alpha=0.6, color=colour,
                  label=bone)  # fmt: skip
        moved = shifts[shifts["bone"] == bone]
        right.plot(moved["shift_mm"], moved["correlation"], "o-", color=colour)
    left.set_xlim(left=0)
    left.set_xlabel("true error of the registration (mm)")
    left.set_ylabel("correlation r of frame and target")
    left.set_title("accepted registrations, kept pairs", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    right.set_xlabel("shifted on purpose by (mm)")
    right.set_title("one control, all pairs", fontsize=10)
    return figure


def reconstruction_trials(table: pd.DataFrame) -> Figure:
    """Show what a network gains from what it sees and makes small, on the validation subject.

    Parameters
    ----------
    table : DataFrame
        Columns method, bone, psnr_db, correlation, sharpness.
    """
    scores = {"psnr_db": "PSNR (dB)", "correlation": "correlation", "sharpness": "sharpness"}
    figure = method_scores(table, scores, {"correlation": (0.4, 1.0)})
    figure.axes[2].axvspan(0.9, 1.1, color="0.92", zorder=0)
    return figure


def reconstruction_scores(table: pd.DataFrame) -> Figure:
    """Show all methods on the test subjects, with 95 % intervals over subjects.

    Parameters
    ----------
    table : DataFrame
        Of `reconstruction.summary`: columns method, bone, and of each score its mean, low, high.
    """
    scores = {"psnr_db": "PSNR (dB)", "correlation": "correlation", "sharpness": "sharpness"}
    methods = list(dict.fromkeys(table["method"]))
    figure = new_figure(10.0, 0.5 * len(methods) + 1.4)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (column, label) in zip(panels, scores.items(), strict=True):
        for offset, (bone, colour) in zip((-0.2, 0.0, 0.2), BONE_COLOURS.items(), strict=True):
            rows = table[table["bone"] == bone].set_index("method").reindex(methods)
            y = np.arange(len(methods)) + offset
            low, high = rows[f"{column}_low"], rows[f"{column}_high"]
            axes.hlines(y, low, high, color=colour, lw=2.5, alpha=0.5)
            axes.plot(rows[column], y, "o", ms=5, color=colour, label=bone)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
    panels[2].axvspan(0.9, 1.1, color="0.92", zorder=0)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  frameon=False)  # fmt: skip
    return figure


def reconstructed_slices(
    images: Mapping[str, NDArray],
    affine: NDArray,
    place: Sequence[int],
    *,
    region: NDArray[np.bool_] | None = None,
    limits_of: str | None = None,
) -> Figure:
    """Show reconstructions in a sagittal slice and in a coronal one, across the thick slices.

    Parameters
    ----------
    images : mapping of title to (I, J, K) array
        On one sharp grid, axes posterior, superior, right; a title that begins with
        ``difference`` is shown in red and blue.
    affine : (4, 4) array
    place : three int
        Voxel through which the slices go.
    region : bool array, optional
        Its box is shown, and a margin.
    limits_of : str, optional
        Title of the image whose window all others take; the first by default.
    """
    box = _shown_box(region, next(iter(images.values())).shape)
    reference = images[limits_of or next(iter(images))]
    limits = window(reference[box])
    figure = new_figure(2.2 * len(images) + 0.3, 4.9)
    panels = figure.subplots(2, len(images), squeeze=False)
    for column, (title, image) in enumerate(images.items()):
        differs = title.startswith("difference")
        volume = Volume(image[box], affine)
        for row, (plane, axis) in enumerate((("sagittal", 2), ("coronal", 0))):
            index = int(np.clip(place[axis] - box[axis].start, 0, volume.shape[axis] - 1))
            shown = slice_of(volume, plane, index)
            draw_slice(
                panels[row, column],
                shown,
                limits=(-limits[1] / 2, limits[1] / 2) if differs else limits,
                bar=column == 0,
                letters=column == 0,
                cmap="RdBu_r" if differs else "gray",
            )
        panels[0, column].set_title(title, fontsize=9)
    return figure


def _shown_box(
    region: NDArray[np.bool_] | None, shape: tuple[int, ...]
) -> tuple[slice, slice, slice]:
    if region is None or not region.any():
        return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
    sides = []
    for others in ((1, 2), (0, 2), (0, 1)):
        filled = np.flatnonzero(region.any(axis=others))
        sides.append(slice(max(int(filled[0]) - 4, 0), int(filled[-1]) + 5))
    return sides[0], sides[1], sides[2]


def _row_title(axes: Axes, title: str) -> None:
    axes.text(-0.08, 0.5, title, transform=axes.transAxes, rotation=90, ha="right", va="center",
              fontsize=9)  # fmt: skip
