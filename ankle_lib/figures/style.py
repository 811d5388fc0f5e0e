"""What all figures share: colours with a meaning, an empty figure, names, legends, a scale bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

BONE_COLOURS = {"calcaneus": "#D55E00", "talus": "#009E73", "tibia": "#56B4E9"}
"""Okabe-Ito: distinct for colour-blind readers too."""

GROUP_COLOURS = {"control": "#0072B2", "equinus": "#CC79A7"}
VERDICT_COLOURS = {"accepted": "#0072B2", "rejected": "#E00000", "unsure": "#F0E442"}
FOOT_COLOUR = "#F0E442"

DARK_EDGE = [patheffects.withStroke(linewidth=2.0, foreground="black")]
"""Makes light writing readable on an image."""


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return a figure (inches) that no global state knows, so that it cannot leak."""
    return Figure(figsize=(width, height), layout="compressed", **options)


def row_name(axes: Axes, text: str, **options: Any) -> None:
    """Write the name of a row of panels, turned, to the left of its first one."""
    place: dict[str, Any] = {
        "transform": axes.transAxes,
        "rotation": 90,
        "ha": "right",
        "va": "center",
    }
    axes.text(-0.04, 0.5, text, **(place | {"multialignment": "center"} | options))


def legend_below(figure: Figure, colours: Mapping[str, str], **options: Any) -> None:
    """Write names with lines in their colours below a figure."""
    handles = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in colours.items()]
    place: dict[str, Any] = {
        "loc": "outside lower center",
        "ncols": max(len(handles), 1),
        "frameon": False,
    }
    figure.legend(handles=handles, **(place | options))


def scale_bar(axes: Axes, width_mm: float, colour: str = "white") -> None:
    """Draw a bar of 5 to 50 mm at the lower left of axes that are in mm, ``width_mm`` wide."""
    length = max((n for n in (5, 10, 20, 50) if n <= 0.4 * width_mm), default=5)
    x, y = axes.get_xlim()[0] + 0.04 * width_mm, 0.05
    edge = DARK_EDGE if colour == "white" else None
    options: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "path_effects": edge}
    axes.plot([x, x + length], [y, y], color=colour, lw=2.5, solid_capstyle="butt", **options)
    axes.text(x + length / 2, y + 0.015, f"{length} mm", color=colour, fontsize=8, ha="center",
              va="bottom", **options)  # fmt: skip
