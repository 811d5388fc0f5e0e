"""Figures of chapter 03: how the gate was found, and how large the errors are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.quality.gate import REPORT_CORRELATION, Gate

AXIS_NAMES = {
    "rotation_lr_deg": "left–right",
    "rotation_ap_deg": "anterior–posterior",
    "rotation_si_deg": "superior–inferior",
}

KEPT_COLOUR, REFUSED_COLOUR = "#0072B2", "#E00000"
N_SPEED_BINS = 6


def gate_figure(table: pd.DataFrame, gate: Gate) -> Figure:
    """Show correlation against Dice, our threshold and the report's (report, Fig. 5.10).

    Parameters
    ----------
    table : DataFrame
        Columns correlation and dice; the dots are coloured by ``bone`` if there is that column.
    gate : Gate
        From `quality.fit_gate`.
    """
    figure = new_figure(7.4, 4.4)
    axes = figure.subplots()
    shown = table[np.isfinite(table["dice"]) & np.isfinite(table["correlation"])]
    bones = shown["bone"] if "bone" in shown else pd.Series("registrations", index=shown.index)
    for bone, part in shown.groupby(bones, sort=False):
        axes.scatter(part["dice"], part["correlation"], s=16, alpha=0.7, lw=0, label=str(bone),
                     color=BONE_COLOURS.get(str(bone), "0.35"))  # fmt: skip
    axes.axvline(gate.dice_threshold, color="0.6", lw=1.2)
    axes.axhline(REPORT_CORRELATION, color="0.35", lw=1.5, ls="--",
                 label=f"report: {REPORT_CORRELATION:.2f}")  # fmt: skip
    if gate.method == "fit":
        axes.axhline(gate.correlation_threshold, color="black", lw=1.8,
                     label=f"ours: {gate.correlation_threshold:.2f}")  # fmt: skip
        kept = shown["correlation"] >= gate.correlation_threshold
        good = shown["dice"] >= gate.dice_threshold
        axes.set_title(
            f"kept: {(kept & good).sum()} of {good.sum()} with Dice ≥ {gate.dice_threshold:g}, "
            f"{(kept & ~good).sum()} of {(~good).sum()} with less",
            fontsize=11,
        )
    else:
        axes.set_title(f"the report's gate is kept: {gate.reason}", fontsize=11, wrap=True)
    axes.annotate(f"Dice {gate.dice_threshold:g}", (gate.dice_threshold, 0.01), fontsize=9,
                  xycoords=("data", "axes fraction"), xytext=(4, 2), color="0.4",
                  textcoords="offset points")  # fmt: skip
    axes.set_xlabel("Dice of the moved and the true mask")
    axes.set_ylabel("correlation of the frame and the moved static scan")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def radius_choice(
    table: pd.DataFrame, ours: Mapping[str, float], report: Mapping[str, float]
) -> Figure:
    """Show the error of each bone against the radius of its mask's dilation.

    Parameters
    ----------
    table : DataFrame
        Columns radius (in the report's voxels; negative is erosion), bone, tre_mm.
    ours, report : mapping of bone to radius
        Marked with a filled and an open circle.
    """
    figure = new_figure(7.4, 4.2)
    axes = figure.subplots()
    for bone, part in table.groupby("bone", sort=False):
        colour = BONE_COLOURS.get(str(bone), "0.35")
        quartiles = part.groupby("radius")["tre_mm"].quantile([0.25, 0.5, 0.75]).unstack()
        axes.fill_between(quartiles.index, quartiles[0.25], quartiles[0.75], color=colour,
                          alpha=0.15, lw=0)  # fmt: skip
        axes.plot(quartiles.index, quartiles[0.5], color=colour, lw=1.8, label=str(bone))
        for chosen, fill in ((report, "white"), (ours, colour)):
            if chosen[str(bone)] in quartiles.index:
                place = chosen[str(bone)]
                axes.plot(place, quartiles[0.5][place], "o", ms=9, mfc=fill, mec=colour, mew=2)
    axes.axvline(0, color="0.8", lw=1, zorder=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("← eroded      radius (voxels of the report's grid)      dilated →")
    axes.set_ylabel("target registration error (mm)")
    axes.spines[["top", "right"]].set_visible(False)
    marks = [
        Line2D([], [], ls="", marker="o", ms=9, mec="0.3", mew=2, mfc=fill, label=label)
        for label, fill in (("ours", "0.3"), ("report", "white"))
    ]
    handles = [*axes.get_legend_handles_labels()[0], *marks]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9,
                  title="median, quartiles")  # fmt: skip
    return figure


def variant_errors(table: pd.DataFrame, limit_mm: float = 1.0) -> Figure:
    """Show the error of every fit for several ways to register, one row each.

    Parameters
    ----------
    table : DataFrame
        Columns variant, bone, tre_mm.
    limit_mm : float
        Counted are the fits with a larger error.
    """
    variants = list(dict.fromkeys(table["variant"]))
    figure = new_figure(9.0, 0.62 * len(variants) + 1.6)
    axes = figure.subplots()
    random = np.random.default_rng(0)
    bones = [bone for bone in BONE_COLOURS if bone in set(table["bone"])]
    for row, variant in enumerate(variants):
        shown = table[(table["variant"] == variant) & table["tre_mm"].notna()]
        for number, bone in enumerate(bones):
            errors = shown.loc[shown["bone"] == bone, "tre_mm"]
            y = row + 0.26 * (number - (len(bones) - 1) / 2)
            spread = y + random.uniform(-0.07, 0.07, len(errors))
            axes.scatter(errors, spread, s=9, alpha=0.6, lw=0, color=BONE_COLOURS[bone],
                         label=bone if row == 0 else None)  # fmt: skip
            axes.plot([errors.median()] * 2, [y - 0.12, y + 0.12], color="black", lw=2)
        large = int((shown["tre_mm"] > limit_mm).sum())
        axes.text(1.01, row, f"{large} of {len(shown)}", va="center", fontsize=9,
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.text(1.01, -0.75, f"> {limit_mm:g} mm", fontsize=9, va="center", fontweight="bold",
              transform=axes.get_yaxis_transform())  # fmt: skip
    axes.axvline(limit_mm, color="0.7", lw=1, zorder=0)
    _log_mm(axes)
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.9)
    axes.set_xlabel("target registration error (mm); bar: median")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, markerscale=3)
    return figure


def rotation_errors(table: pd.DataFrame) -> Figure:
    """Show the errors of rotation about the three anatomical axes, bone by bone.

    Parameters
    ----------
    table : DataFrame
        Columns bone, rotation_lr_deg, rotation_ap_deg, rotation_si_deg.
    """
    figure = new_figure(8.4, 3.8)
    panels = figure.subplots(1, 3, sharey=True)
    bones = [bone for bone in BONE_COLOURS if bone in set(table["bone"])]
    random = np.random.default_rng(0)
    for axes, (column, name) in zip(panels, AXIS_NAMES.items(), strict=True):
        for place, bone in enumerate(bones):
            errors = table.loc[(table["bone"] == bone) & table[column].notna(), column]
            x = place + random.uniform(-0.25, 0.25, len(errors))
            axes.scatter(x, errors, s=7, alpha=0.5, lw=0, color=BONE_COLOURS[bone])
            low, high = errors.quantile([0.025, 0.975])
            axes.plot([place, place], [low, high], color="black", lw=1.5)
            axes.plot([place - 0.3, place + 0.3], [errors.median()] * 2, color="black", lw=2.5)
        axes.axhline(0, color="0.7", lw=1, zorder=0)
        axes.set_xticks(range(len(bones)), bones)
        spread = float(np.sqrt(np.mean(table[column].dropna() ** 2)))
        axes.set_title(f"{name}\nr.m.s. {spread:.2f}°", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    reach = np.nanpercentile(np.abs(table[list(AXIS_NAMES)].to_numpy(float)), 99.5)
    panels[0].set_ylim(-1.15 * reach, 1.15 * reach)
    panels[0].set_ylabel("rotation error (°)\nbars: median, middle 95 %")
    return figure


def error_by_frame(table: pd.DataFrame) -> Figure:
    """Show the error over the cycle, and below it how fast the bones move.

    Parameters
    ----------
    table : DataFrame
        Columns frame, bone, tre_mm, speed_mm.
    """
    figure = new_figure(7.4, 5.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes, column in ((above, "tre_mm"), (below, "speed_mm")):
        for bone, part in table.groupby("bone", sort=False):
            colour = BONE_COLOURS.get(str(bone), "0.35")
            spread = part.groupby("frame")[column].quantile([0.05, 0.5, 0.95]).unstack()
            axes.plot(spread.index, spread[0.5], color=colour, lw=1.8, label=str(bone))
            axes.fill_between(spread.index, spread[0.05], spread[0.95], color=colour, alpha=0.15,
                              lw=0)  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    above.set_ylabel("target registration\nerror (mm)")
    below.set_ylabel("motion\n(mm per frame)")
    below.set_xlabel("frame")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    above.legend(frameon=False, ncols=3, title="median, middle 90 %", fontsize=9)
    return figure


def error_by_speed(table: pd.DataFrame) -> Figure:
    """Show the error of every fit against how fast the bone moves, with medians.

    Parameters
    ----------
    table : DataFrame
        Columns bone, tre_mm, speed_mm.
    """
    figure = new_figure(7.4, 4.0)
    axes = figure.subplots()
    for bone, rows in table.groupby("bone", sort=False):
        part = rows[rows["tre_mm"].notna() & rows["speed_mm"].notna()]
        colour = BONE_COLOURS.get(str(bone), "0.35")
        axes.scatter(part["speed_mm"], part["tre_mm"], s=8, alpha=0.35, lw=0, color=colour)
        groups = part.groupby(pd.qcut(part["speed_mm"], N_SPEED_BINS, duplicates="drop"),
                              observed=True)[["speed_mm", "tre_mm"]].median()  # fmt: skip
        axes.plot(groups["speed_mm"], groups["tre_mm"], "o-", color=colour, mec="white", lw=2,
                  label=str(bone))  # fmt: skip
    _log_mm(axes, "y")
    axes.set_xlabel("motion of the bone (mm per frame)")
    axes.set_ylabel("target registration error (mm)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9,
                  title="dots: fits\nlines: medians")  # fmt: skip
    return figure


def errors_and_gate(table: pd.DataFrame, limit_mm: float = 2.0) -> Figure:
    """Show correlation and true error of every fit, and which ones are refused.

    Parameters
    ----------
    table : DataFrame
        Columns correlation, tre_mm, accepted.
    limit_mm : float
        A fit with a larger error is a wrong one.
    """
    figure = new_figure(7.4, 4.2)
    axes = figure.subplots()
    shown = table[table["tre_mm"].notna()]
    accepted = shown["accepted"].astype(bool)
    for rows, marker, colour, label in (
        (shown[accepted], "o", KEPT_COLOUR, "accepted"),
        (shown[~accepted], "X", REFUSED_COLOUR, "refused"),
    ):
        axes.scatter(rows["tre_mm"], rows["correlation"], s=26, marker=marker, alpha=0.6, lw=0,
                     color=colour, label=label)  # fmt: skip
    axes.axvline(limit_mm, color="0.7", lw=1, zorder=0)
    wrong = shown["tre_mm"] > limit_mm
    axes.set_title(
        f"refused: {(wrong & ~accepted).sum()} of {wrong.sum()} fits off by more than "
        f"{limit_mm:g} mm, {(~wrong & ~accepted).sum()} of {(~wrong).sum()} others",
        fontsize=11,
    )
    _log_mm(axes)
    axes.set_xlabel("target registration error (mm)")
    axes.set_ylabel("correlation with the frame")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _log_mm(axes: Axes, which: str = "x") -> None:
    """Make an axis logarithmic, with labels such as 0.1, 0.2, 0.5, 1."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
