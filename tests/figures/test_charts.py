"""The charts that every chapter draws with."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from ankle_lib.figures import charts
from ankle_lib.figures.style import BONE_COLOURS, new_figure


def scores() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"method": method, "bone": bone, "dice": 0.5 + 0.1 * n, "low": 0.4, "high": 0.9}
            for method in ("ours", "theirs")
            for bone in BONE_COLOURS
            for n in range(4)
        ]
    )


def test_dots_are_all_rows_in_their_colours_with_medians() -> None:
    axes = new_figure(5, 3).subplots()
    assert charts.dots(axes, scores(), "dice", "method") == ["ours", "theirs"]
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert [to_hex(line.get_color()).upper() for line in drawn[:3]] == list(BONE_COLOURS.values())
    assert all(list(line.get_xdata()) == [0.5, 0.6, 0.7, 0.8] for line in drawn)
    bars = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert [line.get_xdata()[0] for line in bars] == pytest.approx([0.65] * 6)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ours", "theirs"]
    assert axes.get_legend_handles_labels()[1] == list(BONE_COLOURS)


def test_dots_go_up_and_unknown_hues_are_left_out() -> None:
    axes = new_figure(5, 3).subplots()
    table = pd.concat([scores(), scores().assign(bone="navicular")])
    charts.dots(axes, table, "dice", "bone", vertical=True, bar=None)
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    assert len(drawn) == 3
    assert list(drawn[0].get_ydata()) == [0.5, 0.6, 0.7, 0.8, 0.5, 0.6, 0.7, 0.8]
    assert abs(drawn[1].get_xdata() - 1).max() < 0.5


def test_intervals_and_curves() -> None:
    figure = new_figure(8, 3)
    left, right = figure.subplots(1, 2)
    charts.intervals(left, scores(), "dice", "method", ends=("low", "high"))
    assert len(left.collections) == 3
    assert left.lines[3].get_xdata() == pytest.approx([0.65, 0.65])
    table = scores().assign(frame=[0, 1, 2, 3] * 6)
    charts.curves(right, table, "frame", "dice", band=(0.25, 0.75))
    assert list(right.lines[0].get_xdata()) == [0, 1, 2, 3]
    assert len(right.collections) == 3
    charts.curves(right, table, "frame", "dice", middle="mean", band="sd", label="_mean")
    low = right.collections[3].get_datalim(right.transData).y0
    assert low == pytest.approx(0.5)  # two equal values at each place
    charts.log_axis(right, "y")
    charts.legend_outside(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(BONE_COLOURS)
