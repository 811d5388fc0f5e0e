"""Figures of chapter 05: losses, depths and rates, folds, segmented slices, the post-mortem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ankle_lib.figures.images import draw_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.volume import Volume

NETWORK_NAMES = {
    "fcn": "FCN",
    "unet": "U-Net",
    "resnet-basic": "ResNet, basic blocks",
    "resnet-bottleneck": "ResNet, bottlenecks",
}

NETWORK_COLOURS = {
    "fcn": "#999999",
    "unet": "#0072B2",
    "resnet-basic": "#E69F00",
    "resnet-bottleneck": "#CC79A7",
}

_PARTS = {"train": ("o", "full", "training"), "validation": ("o", "none", "validation")}


def training_losses(losses: pd.DataFrame, window_steps: int | None = None) -> Figure:
    """Show how the loss falls (report, Fig. 6.6).

    Parameters
    ----------
    losses : DataFrame
        Columns network, step, loss; of one bone.
    window_steps : int, optional
        Losses are averaged over this many steps; a twentieth of them by default.
    """
    figure = new_figure(7.0, 3.8)
    axes = figure.subplots()
    for network, part in losses.groupby("network", sort=False):
        name = str(network)
        width = window_steps or max(1, len(part) // 20)
        smooth = part["loss"].rolling(width, min_periods=1).mean()
        colour = NETWORK_COLOURS.get(name, "black")
        axes.plot(part["step"], smooth, color=colour, lw=1.8, label=NETWORK_NAMES.get(name, name))
    axes.set_yscale("log")
    axes.set_xlabel("batches seen")
    axes.set_ylabel("binary cross-entropy")
    axes.legend(frameon=False)
    return figure


def dice_by_parameters(table: pd.DataFrame) -> Figure:
    """Show the patch Dice against the size of the network (report, Fig. 6.7).

    Parameters
    ----------
    table : DataFrame
        Columns network, parameters, part, dice.
    """
    figure = new_figure(7.0, 3.8)
    axes = figure.subplots()
    _by_number(axes, table, "parameters")
    axes.set_xlabel("trained parameters")
    return figure


def dice_by_rate(table: pd.DataFrame) -> Figure:
    """Show the patch Dice against the learning rate (report, Fig. 6.9).

    Parameters
    ----------
    table : DataFrame
        Columns network, rate, part, dice.
    """
    figure = new_figure(7.0, 3.8)
    axes = figure.subplots()
    _by_number(axes, table, "rate")
    axes.set_xlabel("learning rate")
    return figure


def dice_by_fold(table: pd.DataFrame, outlier: str | None = "T03") -> Figure:
    """Show the patch Dice of each control that was left out of the training (report, Fig. 6.10).

    Parameters
    ----------
    table : DataFrame
        Columns network, subject, bone, dice.
    outlier : str, optional
        Code of a subject to shade.
    """
    networks = list(dict.fromkeys(table["network"]))
    figure = new_figure(7.0, 3.0 * len(networks) + 0.6)
    panels = figure.subplots(len(networks), 1, squeeze=False, sharex=True)[:, 0]
    for axes, network in zip(panels, networks, strict=True):
        rows = table[table["network"] == network]
        subjects = sorted(set(rows["subject"]))
        for bone, part in rows.groupby("bone", sort=False):
            dice = part.set_index("subject")["dice"].reindex(subjects)
            colour = BONE_COLOURS.get(str(bone), "black")
            axes.plot(range(len(subjects)), dice, "o-", color=colour, label=str(bone))
        if outlier in subjects:
            place = subjects.index(outlier)
            axes.axvspan(place - 0.4, place + 0.4, color="0.9", zorder=0)
        axes.set_xticks(range(len(subjects)), subjects)
        axes.set_ylim(0, 1)
        axes.set_ylabel("Dice of patches")
        axes.set_title(NETWORK_NAMES.get(network, network), fontsize=11)
    panels[0].legend(frameon=False, ncols=3, loc="lower right")
    panels[-1].set_xlabel("control left out")
    return figure


def segmented_slices(
    rows: Mapping[str, Sequence[tuple[NDArray, Mapping[str, NDArray]]]],
    voxel_size_mm: Sequence[float],
    titles: Sequence[str] = (),
) -> Figure:
    """Show images with the outlines of bones (report, Figs. 6.11 and 6.12).

    Parameters
    ----------
    rows : mapping of title to a sequence of (image, masks)
        Images (I, J) of sagittal slices or patches, axes posterior and superior, and a bool mask
        of the same shape for each bone. As many in each row.
    voxel_size_mm : two or three floats
    titles : sequence of str, optional
        Above the columns.
    """
    n = max(len(row) for row in rows.values())
    figure = new_figure(2.1 * n + 0.3, 2.2 * len(rows) + 0.3)
    panels = figure.subplots(len(rows), n, squeeze=False)
    for number, (title, row) in enumerate(rows.items()):
        for column, (image, masks) in enumerate(row):
            axes = panels[number, column]
            shown = slice_of(_volume(image - image.min(), voxel_size_mm), "sagittal", 0)
            outlines = {
                bone: slice_of(_volume(mask.astype(np.uint8), voxel_size_mm), "sagittal", 0)
                for bone, mask in masks.items()
            }
            first = number == 0 and column == 0
            draw_slice(axes, shown, limits=window(shown.image), outlines=outlines,
                       bar=first, letters=first)  # fmt: skip
            if number == 0 and titles:
                axes.set_title(titles[column], fontsize=9)
        panels[number, 0].text(
            -0.05, 0.5, title, transform=panels[number, 0].transAxes, rotation=90,
            ha="right", va="center", fontsize=10,
        )  # fmt: skip
    return figure


def postmortem_chart(table: pd.DataFrame) -> Figure:
    """Show what each remedy does, alone and left out.

    Parameters
    ----------
    table : postmortem.csv
        Columns step, order, bone, dice_mean, dice_low, dice_high, rotated_dice, patch_dice.
    """
    orders = {"additive": "one remedy after the other", "leave_one_out": "all but one"}
    counts = [table.loc[table["order"] == order, "step"].nunique() for order in orders]
    figure = new_figure(9.0, 0.42 * sum(counts) + 2.2)
    panels = figure.subplots(2, 1, sharex=True, height_ratios=[max(count, 1) for count in counts])
    for axes, (order, title) in zip(panels, orders.items(), strict=True):
        rows = table[table["order"] == order]
        names = list(dict.fromkeys(rows["step"]))
        for offset, (bone, colour) in zip((-0.22, 0.0, 0.22), BONE_COLOURS.items(), strict=True):
            part = rows[rows["bone"] == bone].set_index("step").reindex(names)
            y = np.arange(len(names)) + offset
            axes.hlines(y, part["dice_low"], part["dice_high"], color=colour, lw=2.5, alpha=0.5)
            axes.plot(part["dice_mean"], y, "o", color=colour, label=bone)
            axes.plot(part["rotated_dice"], y, "o", color=colour, mfc="white", ms=5)
            axes.plot(part["patch_dice"], y, "|", color=colour, ms=9, mew=1.6)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.set_title(title, fontsize=11, loc="left")
    panels[0].set_xlim(-0.02, 1.02)
    for marker, fill, name in (("o", "0.3", "whole volume, 95 % of subjects"),
                               ("o", "white", "foot turned by 40 to 60°"),
                               ("|", "0.3", "mean of patches")):  # fmt: skip
        panels[0].plot([], [], marker, color="0.3", mfc=fill, label=name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  frameon=False)  # fmt: skip
    panels[-1].set_xlabel("Dice")
    return figure


def final_scores(table: pd.DataFrame, report: Mapping[str, float]) -> Figure:
    """Show the final network on every test subject, upright and turned.

    Parameters
    ----------
    table : DataFrame
        Columns subject, bone, angle_deg (0 is upright), dice, hd95_mm.
    report : mapping of bone to Dice
        The report's best mean on whole volumes, drawn as a line.
    """
    figure = new_figure(9.0, 3.8)
    panels = figure.subplots(1, 2)
    for axes, column in zip(panels, ("dice", "hd95_mm"), strict=True):
        for place, (bone, colour) in enumerate(BONE_COLOURS.items()):
            for shift, is_turned in ((-0.18, False), (0.18, True)):
                rows = table[(table["bone"] == bone) & ((table["angle_deg"] != 0) == is_turned)]
                spread = np.linspace(-0.1, 0.1, len(rows)) if len(rows) > 1 else np.zeros(len(rows))
                axes.plot(place + shift + spread, rows[column], "o", ms=5, color=colour,
                          mfc="white" if is_turned else colour)  # fmt: skip
            if column == "dice" and bone in report:
                axes.hlines(report[bone], place - 0.35, place + 0.35, color="black", ls="--")
        axes.set_xticks(range(len(BONE_COLOURS)), list(BONE_COLOURS))
    panels[0].set_ylim(0, 1.02)
    panels[0].set_ylabel("Dice of the volume")
    panels[1].set_ylim(bottom=0)
    panels[1].set_ylabel("HD95 (mm)")
    panels[0].plot([], [], "o", color="0.3", label="as scanned")
    panels[0].plot([], [], "o", color="0.3", mfc="white", label="turned by 40 to 60°")
    panels[0].plot([], [], "k--", label="report's better network")
    panels[0].legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def _by_number(axes: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw the Dice of both parts against a number, one line per network."""
    for (network, part), rows in table.groupby(["network", "part"], sort=False):
        marker, fill, label = _PARTS[str(part)]
        colour = NETWORK_COLOURS.get(str(network), "black")
        ordered = rows.sort_values(column)
        axes.plot(
            ordered[column],
            ordered["dice"],
            marker=marker,
            ls="-" if fill == "full" else "--",
            color=colour,
            mfc=colour if fill == "full" else "white",
            label=f"{NETWORK_NAMES.get(str(network), network)}, {label}",
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_ylabel("Dice of patches, calcaneus")
    axes.legend(frameon=False, fontsize=9)


def _volume(plane: NDArray, voxel_size_mm: Sequence[float]) -> Volume:
    """Return one sagittal slice as a volume with axes posterior, superior, right."""
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = (
        -voxel_size_mm[0],
        voxel_size_mm[1],
        1.0,
        1.0,
    )
    return Volume(plane[:, :, None], affine)
