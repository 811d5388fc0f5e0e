"""Charts of chapter 04: intensities, correlations, numbers and distributions of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ankle_lib.figures.style import BONE_COLOURS, GROUP_COLOURS, new_figure

SAMPLE_COLOURS = ("0.75", "#0072B2", "#D55E00")
CURVE_BINS, SMOOTHING_BINS = 300, 9.0
"""Smoothed by 3 % of the axis: stored intensities are multiples of a scanner's step."""
MOST_BINS = 30


def intensity_curves(
    images: Mapping[str, Mapping[str, tuple[Sequence[NDArray], Sequence[NDArray]]]],
) -> Figure:
    """Show how intensities are distributed before and after normalisation.

    Parameters
    ----------
    images : mapping of title to (mapping of name to (before, after))
        One column per title, one colour per name; ``before`` and ``after`` hold one array of
        intensities per image, in which one line is drawn each.
    """
    figure = new_figure(3.9 * len(images), 5.6)
    panels = figure.subplots(2, len(images), squeeze=False)
    colours = ("black", "#D55E00")
    for column, (title, kinds) in enumerate(images.items()):
        for row, axes in enumerate(panels[:, column]):
            everything = np.concatenate([np.ravel(v) for pair in kinds.values() for v in pair[row]])
            low, high = np.percentile(everything, (0.2, 99.8))
            edges = np.linspace(low, high, CURVE_BINS + 1)
            for colour, (name, pair) in zip(colours, kinds.items(), strict=False):
                for number, values in enumerate(pair[row]):
                    counts = np.histogram(values, edges)[0] / max(len(values), 1)
                    smooth = gaussian_filter1d(counts, SMOOTHING_BINS, mode="constant")
                    axes.plot((edges[1:] + edges[:-1]) / 2, smooth, color=colour, lw=0.9, alpha=0.7,
                              label=name if number == 0 else None)  # fmt: skip
            axes.set_yticks([])
            axes.set_ylim(bottom=0)
            if len(kinds) > 1:
                axes.legend(frameon=False, fontsize=9)
        panels[0, column].set_title(title, fontsize=11)
        panels[0, column].set_xlabel("intensity (scanner units)")
        panels[1, column].set_xlabel("z (standard deviations)")
    for axes, name in zip(panels[:, 0], ("before", "after"), strict=True):
        axes.set_ylabel(f"{name}\nfraction of voxels")
    return figure


def correlation_histogram(table: pd.DataFrame, threshold: float = 0.6) -> Figure:
    """Show how patches of frames correlate with their partners (report, Fig. 6.13).

    Parameters
    ----------
    table : DataFrame
        `patches.Extraction.correlations`: bone, correlation (middle of a bin), n_patches.
    threshold : float
        Patches at or below it are rejected.
    """
    figure = new_figure(7.0, 3.9)
    axes = figure.subplots()
    bins = np.unique(table["correlation"])
    half = float(np.diff(bins).min()) / 2 if len(bins) > 1 else 0.5
    edges = np.append(bins - half, bins[-1] + half)
    for bone, rows in table.groupby("bone", sort=False):
        counts = rows.groupby("correlation")["n_patches"].sum().reindex(bins, fill_value=0.0)
        kept = counts[counts.index > threshold].sum() / max(counts.sum(), 1e-9)
        axes.stairs(counts / 1000, edges, color=BONE_COLOURS.get(str(bone), "0.4"), lw=2,
                    label=f"{bone}: {kept:.0%} kept")  # fmt: skip
    axes.axvspan(-1, threshold, color="0.92", zorder=0)
    axes.axvline(threshold, color="black", ls="--", lw=1.5)
    axes.text(threshold - 0.02, axes.get_ylim()[1] * 0.97, f"rejected: at most {threshold:g}",
              ha="right", va="top")  # fmt: skip
    lowest = bins[np.searchsorted(np.cumsum(table.groupby("correlation")["n_patches"].sum()),
                                  0.0005 * table["n_patches"].sum())]  # fmt: skip
    axes.set_xlim(min(float(lowest) - half, threshold - 0.3), 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("correlation of a frame's patch with its sharp partner")
    axes.set_ylabel("patches (thousands)")
    axes.legend(frameon=False, loc="center left")
    return figure


def patch_numbers(table: pd.DataFrame) -> Figure:
    """Show how many patches there are, beside the report's numbers.

    Parameters
    ----------
    table : DataFrame
        patches.csv: task, group, bone, n_patches, report_n_patches.
    """
    tasks, groups = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["group"]))
    figure = new_figure(3.6 * len(tasks) + 0.6, 3.8)
    panels = np.atleast_1d(figure.subplots(1, len(tasks), sharey=True))
    for axes, task in zip(panels, tasks, strict=True):
        bones = list(dict.fromkeys(table.loc[table["task"] == task, "bone"]))
        for number, group in enumerate(groups):
            rows = table[(table["task"] == task) & (table["group"] == group)]
            shift = 0.3 * (number - (len(groups) - 1) / 2)
            x = np.array([bones.index(bone) for bone in rows["bone"]]) + shift
            colour = GROUP_COLOURS.get(group, "0.4")
            axes.scatter(x, rows["n_patches"], color=colour, s=50, label=f"here, {group}")
            axes.scatter(x, rows["report_n_patches"], facecolors="none", edgecolors=colour,
                         s=60, marker="s", linewidths=1.8, label=f"report, {group}")  # fmt: skip
        axes.set_xticks(range(len(bones)), bones)
        axes.set_xlim(-0.5, len(bones) - 0.5)
        axes.set_title(task.replace("_", " "), fontsize=11)
        axes.set_yscale("log")
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("patches")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def compared_samples(samples: Mapping[str, pd.DataFrame]) -> Figure:
    """Show whether samples of patches are distributed alike: one panel per quantity.

    Parameters
    ----------
    samples : mapping of name to DataFrame
        One row per patch; equal columns, whose names become the panels' labels. The first sample
        is drawn filled, the others as lines.
    """
    columns = list(next(iter(samples.values())).columns)
    figure = new_figure(3.6 * len(columns), 3.4)
    panels = np.atleast_1d(figure.subplots(1, len(columns)))
    for axes, column in zip(panels, columns, strict=True):
        everything = np.concatenate([table[column] for table in samples.values()])
        edges = _bins(everything)
        for number, (name, table) in enumerate(samples.items()):
            counts = np.histogram(table[column], edges, density=True)[0]
            axes.stairs(counts, edges, fill=number == 0, lw=2,
                        color=SAMPLE_COLOURS[number % len(SAMPLE_COLOURS)], label=name)  # fmt: skip
        axes.set_xlabel(column)
        axes.set_yticks([])
    panels[0].set_ylabel("fraction of patches")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(samples), frameon=False)
    return figure


def _bins(values: NDArray) -> NDArray[np.float64]:
    """Return edges of at most 30 bins; whole numbers are never shared out unevenly."""
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu":
        step = max(1, int(np.ceil((high - low + 1) / MOST_BINS)))
        return np.arange(low, high + step + 1, step) - 0.5
    return np.linspace(low, high if high > low else low + 1, MOST_BINS + 1)
