"""Charts of tables: dots of categories, dots with intervals, curves with bands."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ankle_lib.figures.style import BONE_COLOURS

SPREAD = 0.24
"""Between the colours within one category, whose distance is 1."""


def dots(
    axes: Axes,
    table: pd.DataFrame,
    value: str,
    category: str,
    hue: str = "bone",
    colours: Mapping[str, str] = BONE_COLOURS,
    *,
    bar: str | None = "median",
    vertical: bool = False,
    **marks: Any,
) -> list[str]:
    """Draw one dot per row of a table, a line of dots for each category and colour.

    Parameters
    ----------
    table : DataFrame
        With the columns ``value``, ``category`` and ``hue`` (equal to ``category`` if each
        category has its own colour).
    colours : mapping of hue to colour
        In their order; rows of other hues are left out. Their names are labels for a legend.
    bar : str, optional
        What is drawn as a short bar across each line of dots: "median", "mean" or None.
    vertical : bool
        Whether values go up and categories to the right; else the first category is on top.
    **marks
        For `Axes.plot`, such as ``marker``, ``ms``, ``mfc``, ``alpha``.

    Returns
    -------
    list of str
        The categories in the order of their places 0, 1, 2, ….

    Examples
    --------
    >>> axes = (figure := new_figure(7, 3)).subplots()
    >>> dots(axes, scores, "dice", "method", bar="mean")
    """
    style: dict[str, Any] = {"marker": "o", "ls": "", "ms": 4, "mew": 0, "alpha": 0.55} | marks
    hues = _named(axes, table, hue, colours, style["marker"])
    categories = _places(axes, table, category, vertical)
    shift = 0.0 if hue == category else _shift(hues)
    width = shift or 0.6
    for place, name in enumerate(categories):
        for number, one in enumerate(hues):
            chosen = (table[category] == name) & (table[hue] == one)
            values = table.loc[chosen, value].dropna().to_numpy(float)
            middle = place + shift * (number - (len(hues) - 1) / 2)
            # regular, and so the same in every run
            across = middle + 0.6 * width * ((np.arange(len(values)) * 0.618) % 1 - 0.5)
            points = (across, values) if vertical else (values, across)
            axes.plot(*points, color=colours[one], **style)
            if bar and len(values):
                half = 0.48 * width
                ends = np.array([middle - half, middle + half])
                level = np.full(2, pd.Series(values).agg(bar))
                line = (ends, level) if vertical else (level, ends)
                axes.plot(*line, color=colours[one], lw=2.6, solid_capstyle="butt")
    return categories


def intervals(
    axes: Axes,
    table: pd.DataFrame,
    value: str,
    category: str,
    ends: Sequence[str] = (),
    **marks: Any,
) -> None:
    """Draw one dot and its interval for each category, from top to bottom, and bone.

    Parameters
    ----------
    table : DataFrame
        One row for each category and bone; several are averaged.
    ends : two str, optional
        Columns with the interval's ends.
    **marks
        As for `dots`.
    """
    style: dict[str, Any] = {"marker": "o", "ls": "", "ms": 5} | marks
    hues = _named(axes, table, "bone", BONE_COLOURS, style["marker"])
    categories = _places(axes, table, category)
    for number, bone in enumerate(hues):
        wanted, colour = [value, *ends], BONE_COLOURS[bone]
        rows = table[table["bone"] == bone].groupby(category)[wanted].mean().reindex(categories)
        places = np.arange(len(categories)) + _shift(hues) * (number - (len(hues) - 1) / 2)
        if ends:
            axes.hlines(places, rows[ends[0]], rows[ends[1]], color=colour, lw=2.5, alpha=0.5)
        axes.plot(rows[value], places, color=colour, **style)


def curves(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    hue: str = "bone",
    colours: Mapping[str, str] = BONE_COLOURS,
    *,
    middle: str = "median",
    band: tuple[float, float] | Literal["sd"] | None = None,
    **style: Any,
) -> None:
    """Draw the median or mean of ``y`` over ``x``, one curve per colour.

    Parameters
    ----------
    middle : str
        "median" or "mean".
    band : two floats or "sd", optional
        Quantiles between which a band is shaded; or one standard deviation to either side.
    **style
        For `Axes.plot`, such as ``marker``, ``ls``, ``mfc``.
    """
    for name in _known(table, hue, colours):
        look: dict[str, Any] = {"color": colours[name], "label": name, "lw": 1.8} | style
        groups = table[table[hue] == name].dropna(subset=[x, y]).groupby(x)[y]
        curve = groups.agg(middle)
        if band == "sd":
            spread = groups.std().fillna(0)
            low, high = curve - spread, curve + spread
        elif band:
            low, high = groups.quantile(band[0]), groups.quantile(band[1])
        if band:
            axes.fill_between(curve.index, low, high, color=colours[name], alpha=0.15, lw=0)
        axes.plot(curve.index, curve, **look)


def light_grid(axes: Axes, which: str = "x") -> None:
    """Draw pale lines behind the data along an axis, and no frame at the top and right."""
    axes.grid(axis=which, color="0.92")  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_axis(axes: Axes, which: str = "x") -> None:
    """Make an axis logarithmic, with labels such as 0.1, 0.2, 0.5, 1."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_outside(figure: Figure, place: str = "outside upper center", **options: Any) -> None:
    """Write the labels of the first axes outside of all panels, each label once."""
    found = {label: handle for axes in figure.axes
             for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    look: dict[str, Any] = {"loc": place, "ncols": max(len(found), 1), "frameon": False} | options
    figure.legend(list(found.values()), list(found), **look)


def _places(axes: Axes, table: pd.DataFrame, category: str, vertical: bool = False) -> list[str]:
    """Name an axis by the categories; return them."""
    categories = list(dict.fromkeys(table[category]))
    axis = axes.xaxis if vertical else axes.yaxis
    axis.set_ticks(range(len(categories)), [str(name) for name in categories])
    ends = -0.5, len(categories) - 0.5
    axes.set(**({"xlim": ends} if vertical else {"ylim": ends[::-1]}))
    light_grid(axes, "y" if vertical else "x")
    return categories


def _shift(hues: Sequence[str]) -> float:
    return min(SPREAD, 0.75 / max(len(hues), 1))


def _known(table: pd.DataFrame, hue: str, colours: Mapping[str, str]) -> list[str]:
    return [name for name in colours if (table[hue] == name).any()]


def _named(
    axes: Axes, table: pd.DataFrame, hue: str, colours: Mapping[str, str], marker: Any
) -> list[str]:
    """Give the hues labels for a legend, each once; return them."""
    hues, labelled = _known(table, hue, colours), axes.get_legend_handles_labels()[1]
    for name in hues:
        if name not in labelled:
            axes.plot([], [], color=colours[name], marker=marker, ls="", label=name)
    return hues
