"""Figures of chapter 07."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ankle_lib import figures
from ankle_lib.dynamic.contest import METHODS
from ankle_lib.presets import BONES


def worth() -> pd.DataFrame:
    rows = [
        (labels, error, dice, bone, network)
        for labels, error, dice, network in (
            ("truth", 0.0, 1.0, 0.92),
            ("registration", 0.2, 0.95, 0.91),
            ("random", 2.0, 0.8, 0.9),
            ("random", 8.0, 0.4, 0.7),
            ("systematic", 8.0, 0.4, 0.45),
        )
        for bone in BONES
    ]
    return pd.DataFrame(rows, columns=["labels", "error_mm", "label_dice", "bone", "dice_mean"])


def test_lines_of_wrong_labels_begin_at_the_truth() -> None:
    along, against = figures.label_value(worth()).axes
    random, systematic = (
        line for line in along.lines if line.get_label() in ("another error in every frame",
                                                             "the same error everywhere")
    )  # fmt: skip
    np.testing.assert_allclose(random.get_xydata(), [(0, 0.92), (2, 0.9), (8, 0.7)])
    np.testing.assert_allclose(systematic.get_xydata(), [(0, 0.92), (8, 0.45)])
    np.testing.assert_allclose(against.collections[0].get_offsets(), [(0.95, 0.91)])


@pytest.mark.parametrize("known", [True, False])
def test_the_contest_leaves_out_what_nobody_knows(known: bool) -> None:
    rows = [
        (method, code, bone, 0.9, 2.0, 0.3 if known else np.nan, 1.0 if known else np.nan)
        for method in METHODS
        for code in ("E01", "E02")
        for bone in BONES
    ]
    columns = ["method", "subject", "bone", "dice", "hd95_mm", "tre_mm", "rotation_error_deg"]
    figure = figures.contest_scores(pd.DataFrame(rows, columns=columns))
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[:2] == ["Dice", "HD95 / mm"]
    assert len(labels) == (4 if known else 2)
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert shown == list(METHODS)


def test_every_kind_of_image_has_a_row_in_the_chart() -> None:
    rows = [
        (images, network, bone, dice)
        for images, dice in (("as simulated", 0.92), ("real bones", 0.4))
        for network in ("one network", "specialist")
        for bone in BONES
    ]
    table = pd.DataFrame(rows, columns=["images", "network", "bone", "dice_mean"])
    axes = figures.robustness_chart(table, goal=0.82).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["as simulated", "real bones"]
    assert axes.get_xlim()[0] < 0.4
    bars = [line for line in axes.lines if line.get_marker() == "|"]
    assert len(bars) == 4
