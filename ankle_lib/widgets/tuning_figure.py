"""What a `RegistrationTuner` shows, on paper: many starts tried at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ankle_lib.figures.images import Slice, draw_slice, window
from ankle_lib.figures.style import VERDICT_COLOURS, new_figure
from ankle_lib.widgets.inputs import colours_of
from ankle_lib.widgets.registration_scene import Run
from ankle_lib.widgets.registration_tuner import START_COLOUR, RegistrationTuner

TURNS_DEG = tuple(range(-60, 61, 10))
FAILED_COLOUR = VERDICT_COLOURS["rejected"]


def tuning_figure(tuner: RegistrationTuner, turns_deg: Sequence[float] = TURNS_DEG) -> Figure:
    """Turn the start about the left-right axis, register from each, and show where that ends.

    Left the frame with the bone where the tuner starts (yellow) and where the best of these
    registrations ends; then the static scan, moved there. Right the correlation where each
    registration began and where it ended, and its error, if the truth is known.

    Parameters
    ----------
    tuner : RegistrationTuner
        Its bone, frame and slice are taken; it stays as it is.
    turns_deg : sequence of float
        On top of the tuner's sliders.

    Raises
    ------
    AnkleError
        If the tuner has nothing to register, with the sentence that it shows.
    """
    runs = tuner.try_turns(turns_deg)
    best = max(runs, key=lambda run: np.nan_to_num(run.after, nan=-1.0))
    known = bool(np.isfinite([run.error_mm for run in runs]).any())
    figure = new_figure(12.5, 4.2)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.3, 1))[0]
    end = colours_of([best.bone])[best.bone]
    start, found = tuner.shown(), tuner.shown(best.pose)
    pictures = left.subplots(1, 2)
    lines = {"start": start.bone, "end": found.bone}
    _picture(pictures[0], start.frame, lines, end, f"{best.bone}, frame {best.frame}")
    _picture(pictures[1], found.carried, {"end": found.bone}, end, "static scan, best end")
    panels = right.subplots(2 if known else 1, 1, sharex=True, squeeze=False)[:, 0]
    _correlations(panels[0], turns_deg, runs, end)
    if known:
        _errors(panels[1], turns_deg, runs, end)
    panels[-1].set_xlabel("start, turned about left-right (°)")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    right.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _picture(
    axes: Axes, image: Slice, lines: dict[str, Slice], end_colour: str, title: str
) -> None:
    colours = {"start": START_COLOUR, "end": end_colour}
    draw_slice(axes, image, limits=window(image.image), outlines=lines, colours=colours)
    axes.set_title(title, fontsize=11)


def _correlations(axes: Axes, turns: Sequence[float], runs: Sequence[Run], colour: str) -> None:
    axes.plot(turns, [run.before for run in runs], color="#666666", lw=1.5, label="at the start")
    _dots(axes, turns, runs, [run.after for run in runs], colour)
    axes.set_ylabel("correlation")


def _errors(axes: Axes, turns: Sequence[float], runs: Sequence[Run], colour: str) -> None:
    _dots(axes, turns, runs, [run.error_mm for run in runs], colour)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("error (mm)")


def _dots(
    axes: Axes, turns: Sequence[float], runs: Sequence[Run], values: Sequence[float], colour: str
) -> None:
    """Mark ends that may be used by dots, failed ones by crosses."""
    failed = np.array([bool(run.reason) for run in runs])
    x, y = np.asarray(turns, dtype=float), np.asarray(values, dtype=float)
    axes.plot(x[~failed], y[~failed], "o", color=colour, label="at the end")
    axes.plot(x[failed], y[failed], "x", color=FAILED_COLOUR, mew=2, label="at the end, failed")
