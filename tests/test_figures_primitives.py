"""Grids of images and the charts that every chapter draws with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from ankle_lib.figures import charts
from ankle_lib.figures.images import Slice, box_around, image_grid, in_rows, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume

# Axes P, S, R with voxels of 1, 2 and 5 mm.
THICK = Volume(
    np.arange(20 * 10 * 4, dtype=float).reshape(20, 10, 4),
    np.array([[0, 0, 5, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]], dtype=float),
)


def with_talus() -> Slice:
    talus = np.zeros(THICK.shape, dtype=bool)
    talus[8:12, 4:6] = True
    return slice_of(THICK, "sagittal", 1, {"talus": talus})


def test_a_crop_keeps_outlines_and_knows_where_it_was() -> None:
    image = with_talus()
    near = image.crop(box_around(image, margin_mm=2.0))
    assert near.image.shape == (4, 8)  # 4 mm high and 4 mm wide, and 2 mm on every side
    assert near.size_mm == (8.0, 8.0)
    assert near.origin_mm == (6.0, 6.0)
    assert near.outlines["talus"].sum() == 8
    again = near.crop((slice(1, 3), slice(2, 6)))
    assert again.origin_mm == (8.0, 8.0)


def test_a_box_is_square_in_mm_and_ends_with_the_slice() -> None:
    talus = np.zeros(THICK.shape, dtype=bool)
    talus[2:14, 4:5] = True  # 12 mm by 2 mm
    image = slice_of(THICK, "sagittal", 1, {"talus": talus})
    rows, columns = box_around(image, margin_mm=1.0, square=True)
    assert (columns.start, columns.stop) == (1, 15)
    assert (rows.start, rows.stop) == (1, 8)
    assert box_around(slice_of(THICK, "sagittal", 1)) == (slice(None), slice(None))


def test_a_grid_has_one_scale_and_marks_its_first_image() -> None:
    image = with_talus()
    coronal = slice_of(THICK, "coronal", 3)
    figure, panels = image_grid({"one": [image, coronal], "two": [image]}, ["side", "behind"])
    figure.canvas.draw()
    assert panels.shape == (2, 2)
    assert [axes.get_title() for axes in panels[0]] == ["side", "behind"]
    scales = [axes.get_window_extent().width / np.ptp(axes.get_xlim()) for axes in panels.flat[:3]]
    np.testing.assert_allclose(scales, scales[0], rtol=0.02)
    texts = [[text.get_text() for text in axes.texts] for axes in panels.flat]
    assert texts[0] == ["A", "P", "I", "S", "5 mm", "one"]
    assert texts[1] == texts[3] == []
    assert texts[2] == ["two"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["talus"]


def test_a_grid_of_nothing_is_refused_and_rows_are_wrapped() -> None:
    with pytest.raises(AnkleError, match="at least one image"):
        image_grid([[None]])
    image = with_talus()
    assert [len(row) for row in in_rows([image] * 7, 3)] == [3, 3, 1]


def test_the_window_takes_an_offset_if_asked() -> None:
    data = np.linspace(-100, 900, 1001)
    assert window(data)[0] == 0
    dark, bright = window(data, dark_percentile=1)
    assert dark == pytest.approx(-90)
    assert bright == pytest.approx(895)
    assert window(np.full((4, 4), 7.0), dark_percentile=1)[1] > 7


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
    assert left.lines[0].get_xdata() == pytest.approx([0.65, 0.65])
    table = scores().assign(frame=[0, 1, 2, 3] * 6)
    charts.curves(right, table, "frame", "dice", band=(0.25, 0.75))
    assert list(right.lines[0].get_xdata()) == [0, 1, 2, 3]
    assert len(right.collections) == 3
    charts.log_axis(right, "y")
    charts.legend_outside(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(BONE_COLOURS)
