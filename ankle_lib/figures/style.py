"""What all figures share: colours with a meaning, an empty figure, legends."""

from collections.abc import Mapping
from typing import Any

from matplotlib import patheffects
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


def legend_below(figure: Figure, colours: Mapping[str, str], **options: Any) -> None:
    """Write names with lines in their colours below a figure."""
    handles = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in colours.items()]
    place: dict[str, Any] = {
        "loc": "outside lower center",
        "ncols": max(len(handles), 1),
        "frameon": False,
    }
    figure.legend(handles=handles, **(place | options))
