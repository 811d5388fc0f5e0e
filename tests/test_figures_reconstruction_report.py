from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ankle_lib import figures
from ankle_lib.presets import BONES
from ankle_lib.reconstruction.weighting import LearntWeight, report_g

SCORES = {"psnr_db": 20.0, "correlation": 0.8, "sharpness": 0.9}


def drawn(figure: Figure) -> Figure:
    figure.canvas.draw()
    return figure


def scores(methods: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for number, (method, bone) in enumerate(itertools.product(methods, BONES)):
        row: dict[str, object] = {"method": method, "bone": bone}
        for name, value in SCORES.items():
            row |= {name: value + 0.01 * number, f"{name}_low": value, f"{name}_high": value + 0.1}
        rows.append(row)
    return pd.DataFrame(rows)


def test_weights_are_drawn_where_they_are_known() -> None:
    learnt = LearntWeight(0.0, 2.0)
    figure = drawn(figures.weight_functions([0.7, 0.8, 0.9], report_g, learnt))
    axes = figure.axes[0]
    report, line = axes.lines[:2]
    np.testing.assert_allclose(report.get_ydata(), report_g(report.get_xdata()))
    assert min(line.get_xdata()) >= 0.6  # below, no pair was seen
    assert axes.get_ylim()[0] == 0


def test_the_bound_is_above_what_was_trained() -> None:
    table = pd.DataFrame(
        [
            (factor, parameters, part, value, bound)
            for factor, parameters, value, bound in ((1, 2e5, 0.8, 1.0), (4, 8e6, 0.6, 0.7))
            for part in ("train", "validation")
        ],
        columns=["factor", "parameters", "part", "correlation", "bound"],
    )
    figure = drawn(figures.depth_and_bound(table))
    lines = figure.axes[0].lines
    assert len(lines) == 4
    for trained, bound in zip(lines[::2], lines[1::2], strict=True):
        assert (trained.get_ydata() <= bound.get_ydata()).all()
    assert {text.get_text() for text in figure.axes[0].texts} == {"×1", "×4"}


def test_patches_stand_in_rows_and_the_difference_is_coloured() -> None:
    random = np.random.default_rng(0)
    names = ("frame", "target", "network", "difference")
    rows = {name: random.normal(size=(3, 20, 20)) for name in names}
    figure = drawn(figures.report_patches(rows, 0.9))
    assert len(figure.axes) == 12
    maps = [axes.images[0].get_cmap().name for axes in figure.axes]
    assert maps == ["gray"] * 9 + ["RdBu_r"] * 3
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, rows["frame"][0].T)


def test_every_method_has_a_point_for_each_bone() -> None:
    methods = ("nearest", "U-Net")
    names = {name: name for name in SCORES}
    for figure in (
        figures.method_scores(scores(methods), names, {"correlation": (0.4, 1.0)}),
        figures.reconstruction_trials(scores(methods)),
        figures.reconstruction_scores(scores(methods)),
    ):
        drawn(figure)
        assert len(figure.axes) == 3
        labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert labels == list(methods)
        table = scores(methods)
        for axes, name in zip(figure.axes, SCORES, strict=True):
            points = [line for line in axes.lines if line.get_marker() == "o"]
            found = np.concatenate([line.get_xdata() for line in points])
            np.testing.assert_allclose(sorted(found), sorted(table[name]))


def test_misfit_and_shifts_are_beside_each_other() -> None:
    pairs = pd.DataFrame({"bone": BONES, "correlation": [0.7, 0.8, 0.9], "tre_mm": [0.1, 0.2, 0.3]})
    shifts = pd.DataFrame(
        [(shift, bone, 0.8 - shift / 10) for shift in (0.0, 2.0) for bone in BONES],
        columns=["shift_mm", "bone", "correlation"],
    )
    left, right = drawn(figures.weight_and_misfit(pairs, shifts)).axes
    assert [len(line.get_xdata()) for line in left.lines] == [1, 1, 1]
    assert [len(line.get_xdata()) for line in right.lines] == [2, 2, 2]


@pytest.mark.parametrize("with_region", [True, False])
def test_sharp_slices_are_cut_around_the_region(with_region: bool) -> None:
    random = np.random.default_rng(0)
    images = {name: random.normal(1000, 100, (40, 50, 20)) for name in ("frame", "truth")}
    images["difference"] = images["frame"] - images["truth"]
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -0.6, 0.6, 0.8, 1
    region = np.zeros((40, 50, 20), dtype=bool)
    region[10:20, 20:40, 5:15] = True
    figure = drawn(
        figures.reconstructed_slices(
            images, affine, (15, 30, 10), region=region if with_region else None, limits_of="truth"
        )
    )
    assert len(figure.axes) == 6
    box = (slice(6, 24), slice(16, 44)) if with_region else (slice(None), slice(None))
    expected = images["frame"][(*box, 10)].T
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected)
    limits = [axes.images[0].get_clim() for axes in figure.axes[:2]]
    assert limits[0] == limits[1]
    assert figure.axes[2].images[0].get_cmap().name == "RdBu_r"
