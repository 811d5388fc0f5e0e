from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ankle_lib import figures
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.files import write_figure
from ankle_lib.presets import BONES
from ankle_lib.segmentation.postmortem import steps


def saved(figure: Figure, folder: Path) -> None:
    assert write_figure(folder / "figure.png", figure).stat().st_size > 3000


def test_losses_are_smoothed_and_named(tmp_path: Path) -> None:
    losses = pd.DataFrame(
        {"network": ["unet"] * 40 + ["fcn"] * 40, "step": [*range(40)] * 2, "loss": 0.5}
    )
    losses.loc[39, "loss"] = 0.9
    figure = figures.training_losses(losses, window_steps=4)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["U-Net", "FCN"]
    assert axes.get_lines()[0].get_ydata()[-1] == pytest.approx(0.6)
    assert axes.get_yscale() == "log"
    saved(figure, tmp_path)


@pytest.mark.parametrize(
    ("draw", "column"),
    [(figures.dice_by_parameters, "parameters"), (figures.dice_by_rate, "rate")],
)
def test_training_is_filled_and_validation_open(draw, column: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table = pd.DataFrame(
        {
            "network": "unet",
            column: [100.0, 1.0, 100.0, 1.0],
            "part": ["train", "train", "validation", "validation"],
            "dice": [0.9, 0.5, 0.8, 0.4],
        }
    )
    figure = draw(table)
    train, validation = figure.axes[0].get_lines()
    assert list(train.get_xdata()) == [1, 100]  # in order
    assert list(train.get_ydata()) == [0.5, 0.9]
    assert validation.get_markerfacecolor() == "white" != train.get_markerfacecolor()
    saved(figure, tmp_path)


def test_folds_show_every_control_and_shade_the_outlier(tmp_path: Path) -> None:
    rows = [
        ("unet", code, bone, 0.3 if code == "T03" else 0.8)
        for code in ("T01", "T02", "T03")
        for bone in BONES
    ]
    table = pd.DataFrame(rows, columns=["network", "subject", "bone", "dice"])
    figure = figures.dice_by_fold(table)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["T01", "T02", "T03"]
    assert {to_hex(line.get_color()).upper() for line in axes.get_lines()} == set(
        BONE_COLOURS.values()
    )
    assert len(axes.patches) == 1
    assert not figures.dice_by_fold(table, outlier=None).axes[0].patches
    saved(figure, tmp_path)


def test_slices_stand_upright_with_their_outlines(tmp_path: Path) -> None:
    image = np.zeros((20, 30))
    image[0, 29] = 1.0  # anterior, superior: upper left
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 5:10] = True
    rows = {"reader": [(image, {"talus": mask})], "network": [(image, {"talus": ~mask & False})]}
    figure = figures.segmented_slices(rows, (1.0, 2.0, 3.0), ["E01"])
    first, second = figure.axes
    assert first.get_title() == "E01"
    assert first.images[0].get_array()[-1, 0] == 1.0
    assert first.images[0].get_extent() == [0, 20, 0, 60]
    assert len(first.collections) == 1  # the outline
    assert not second.collections
    saved(figure, tmp_path)


def test_the_post_mortem_shows_every_step_in_order(tmp_path: Path) -> None:
    rows = [
        (step.name, step.order, bone, 0.5, 0.4, 0.6, 0.3, 0.9) for step in steps() for bone in BONES
    ]
    columns = ["step", "order", "bone", "dice_mean", "dice_low", "dice_high"]
    table = pd.DataFrame(rows, columns=[*columns, "rotated_dice", "patch_dice"])
    figure = figures.postmortem_chart(table)
    above, below = figure.axes
    names = [label.get_text() for label in above.get_yticklabels()]
    assert names[:2] == ["as coded in 2020", "+ evaluation mode"]
    assert above.get_ylim()[0] > above.get_ylim()[1]  # first step on top
    assert len(below.get_yticklabels()) == 8
    names = [label.get_text() for label in below.get_yticklabels()]
    assert all(name.startswith("without ") for name in names)
    saved(figure, tmp_path)


def test_final_scores_stand_beside_the_report(tmp_path: Path) -> None:
    rows = [
        (code, bone, angle, 0.93, 1.2)
        for code in ("E01", "E02")
        for bone in BONES
        for angle in (0.0, 50.0)
    ]
    table = pd.DataFrame(rows, columns=["subject", "bone", "angle_deg", "dice", "hd95_mm"])
    figure = figures.final_scores(table, {"talus": 0.7})
    overlap, distance = figure.axes
    assert len(overlap.collections) == 1  # the report's line
    assert len(overlap.get_lines()) == 6 + 3
    assert distance.get_ylabel() == "HD95 (mm)"
    assert {len(line.get_xdata()) for line in distance.get_lines()} == {2}
    saved(figure, tmp_path)
