"""Figures of chapter 07: what labels are worth, who segments best, and what was not trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ankle_lib.figures.style import BONE_COLOURS, new_figure

_KINDS = {
    "random": ("o-", "another error in every frame"),
    "systematic": ("s-", "the same error everywhere"),
}
_LABELS_COLOUR, _NETWORK_COLOUR = "#999999", "#0072B2"
_NETWORK_COLOURS = ("#0072B2", "#E69F00", "#CC79A7")

_MEASURES = {
    "dice": "Dice",
    "hd95_mm": "HD95 / mm",
    "tre_mm": "error of the pose / mm",
    "rotation_error_deg": "rotation error / degrees",
}


def label_value(table: pd.DataFrame) -> Figure:
    """Show registration error, Dice of the labels and Dice of the network trained on them.

    Parameters
    ----------
    table : DataFrame
        From `dynamic.value_of_labels`.
    """
    means = table.groupby(["labels", "error_mm", "label_dice"], sort=False)["dice_mean"].mean()
    rows = means.reset_index()
    figure = new_figure(9.0, 3.8)
    along, against = figure.subplots(1, 2)
    truth = rows[rows["labels"] == "truth"]
    for kind, (style, title) in _KINDS.items():
        part = pd.concat([truth, rows[rows["labels"] == kind]])
        marker = style[0]
        along.plot(part["error_mm"], part["label_dice"], marker + ":", color=_LABELS_COLOUR)
        along.plot(part["error_mm"], part["dice_mean"], style, color=_NETWORK_COLOUR, label=title)
        against.plot(
            part["label_dice"], part["dice_mean"], style, color=_NETWORK_COLOUR, label=title
        )
    registered = rows[rows["labels"] == "registration"]
    marks = {"marker": "*", "s": 160, "color": "#D55E00", "zorder": 5}
    along.scatter(registered["error_mm"], registered["dice_mean"], label="registrations", **marks)
    against.scatter(registered["label_dice"], registered["dice_mean"], **marks)
    along.plot([], [], ":", color=_LABELS_COLOUR, label="the labels themselves")
    along.set_xlabel("error of the poses / mm")
    along.set_ylabel("Dice against the truth")
    along.legend(frameon=False, fontsize=8)
    low = float(np.floor(10 * rows[["label_dice", "dice_mean"]].min().min()) / 10)
    against.plot([low, 1], [low, 1], color="0.8", lw=0.8, zorder=0)
    against.set_xlabel("Dice of the labels")
    against.set_ylabel("Dice of the network")
    return figure


def contest_scores(scores: pd.DataFrame) -> Figure:
    """Show the methods' scores, one dot per subject and the mean, for each bone.

    Parameters
    ----------
    scores : DataFrame
        From `dynamic.method_scores`; measures that nobody knows are left out.
    """
    measures = [name for name in _MEASURES if scores[name].notna().any()]
    methods = list(dict.fromkeys(scores["method"]))
    figure = new_figure(3.0 * len(measures) + 1.6, 0.55 * len(methods) + 1.6)
    panels = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    for axes, measure in zip(panels, measures, strict=True):
        for number, (bone, colour) in enumerate(BONE_COLOURS.items()):
            part = scores[scores["bone"] == bone]
            for row, method in enumerate(methods):
                values = part.loc[part["method"] == method, measure].to_numpy()
                height = row + 0.22 * (number - 1)
                axes.plot(values, np.full(len(values), height), ".", color=colour, alpha=0.35)
                bar = {"color": colour, "label": bone if row == 0 else None}
                middle = part.loc[part["method"] == method, measure].mean()  # NaN of none
                axes.plot(middle, height, "|", ms=13, mew=2.4, **bar)
        axes.set_xlabel(_MEASURES[measure])
        _light_grid(axes)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def robustness_chart(table: pd.DataFrame, goal: float | None = None) -> Figure:
    """Show how networks do on images of many kinds, one dot per bone.

    Parameters
    ----------
    table : DataFrame
        From `dynamic.robustness`.
    goal : float, optional
        Dice to draw a line at.
    """
    images, networks = (list(dict.fromkeys(table[column])) for column in ("images", "network"))
    figure = new_figure(7.4, 0.5 * len(images) + 1.4)
    axes = figure.subplots()
    for number, network in enumerate(networks):
        colour = _NETWORK_COLOURS[number]
        for row, image in enumerate(images):
            part = table[(table["network"] == network) & (table["images"] == image)]
            height = row + 0.24 * (number - (len(networks) - 1) / 2)
            axes.plot(part["dice_mean"], [height] * len(part), ".", color=colour, alpha=0.5)
            label = network if row == 0 else None
            mean = part["dice_mean"].mean()
            axes.plot(mean, height, "|", ms=14, mew=2.6, color=colour, label=label)
    if goal is not None:
        axes.axvline(goal, color="0.5", lw=0.8, ls="--")
        axes.text(goal, 1.01, f"{goal:.2f}", color="0.4", fontsize=8, ha="center",
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set_yticks(range(len(images)), images)
    axes.invert_yaxis()
    axes.set_xlim(min(0.5, float(table["dice_mean"].min()) - 0.02), 1)
    axes.set_xlabel("Dice (dots: bones; bars: their mean)")
    axes.legend(frameon=False, loc="lower left", fontsize=8)
    _light_grid(axes)
    return figure


def _light_grid(axes: Axes) -> None:
    axes.grid(axis="x", color="0.9", lw=0.6)
    axes.set_axisbelow(True)
