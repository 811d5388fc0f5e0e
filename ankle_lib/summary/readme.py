"""From the summary to the README: one Markdown table between two marks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ankle_lib.files import AnkleError, write_text
from ankle_lib.metrics import Interval
from ankle_lib.summary.comparison import SUMMARY, read_summary

README = "README.md"
BEGIN = "<!-- results: what follows is written by `ankle summary` -->"
END = "<!-- end of results -->"

NOTHING = "–"
BAR = r"\|"  # within a cell
DASH = "\u2060–\u2060"  # word joiners: no line ends within an interval


def as_markdown(summary: pd.DataFrame) -> str:
    """Return a summary as a Markdown table, and below it what was run.

    Parameters
    ----------
    summary : DataFrame
        From `summarise`. A line is made for each method, a column for each bone.
    """
    bones = list(dict.fromkeys(summary["bone"]))
    header = ["task and measure", "method", "report", *bones, "children"]
    lines = [_line(header), "|---" * len(header) + "|"]
    above = ""
    for (task, measure, method), part in summary.groupby(["task", "measure", "method"], sort=False):
        digits = 1 if measure.endswith(("(mm)", "(dB)")) else 2
        what = f"**{task}**, {measure}"
        ours = [_ours(part[part["bone"] == bone], digits) for bone in bones]
        children = "–".join(map(str, sorted({part["n_subjects"].min(), part["n_subjects"].max()})))
        cells = [what if what != above else "", method, _reports(part, digits), *ours, children]
        lines.append(_line(cells))
        above = what
    return "\n".join([*lines, "", _origin(summary)])


def section(text: str) -> str:
    """Return what stands between the two marks of a README.

    Raises
    ------
    AnkleError
        If the marks are not there once each, in this order.
    """
    found, end, _ = text.partition(BEGIN)[2].partition(END)
    if not end or text.count(BEGIN) > 1 or text.count(END) > 1:
        raise AnkleError(f"{README}: one line {BEGIN!r} and below it one {END!r} are expected")
    return found


def write_readme(root: Path) -> Path:
    """Write the summary of the repository ``root`` into its README, between the marks."""
    path = root / README
    text = path.read_text(encoding="utf-8")
    old = f"{BEGIN}{section(text)}{END}"
    new = f"{BEGIN}\n\n{as_markdown(read_summary(root))}\n\n{END}"
    return write_text(path, text.replace(old, new))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _origin(summary: pd.DataFrame) -> str:
    presets, devices = (
        ", ".join(f"`{name}`" for name in dict.fromkeys(summary[column]))
        for column in ("preset", "device")
    )
    return f"Preset {presets}, device {devices}; every number and its file: [{SUMMARY}]({SUMMARY})."


def _ours(part: pd.DataFrame, digits: int) -> str:
    """Return a bone's mean with its interval, if there is one."""
    if part["mean"].isna().all():
        return NOTHING
    mean, low, high = (f"{part[name].iloc[0]:.{digits}f}" for name in Interval._fields)
    return mean if low == "nan" else f"{mean} ({low}{DASH}{high})"


def _reports(part: pd.DataFrame, digits: int) -> str:
    """Return the report's values in the order of the bones, or the one that stands for all."""
    if part["report"].isna().all():
        return NOTHING
    values = [f"{value:.{digits}f}" for value in part["report"]]
    shown = values if len(set(values)) > 1 else values[:1]
    return f"{', '.join(shown)} ({part['report_source'].iloc[0]})"
