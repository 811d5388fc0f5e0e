"""The monitor of a training, which is only its tables here."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ankle_lib.files import write_csv
from ankle_lib.widgets import training_monitor
from ankle_lib.widgets.training_monitor import TrainingMonitor, training_figure


def write_training(folder: Path, n_epochs: int) -> None:
    steps = np.arange(1, 10 * n_epochs + 1)
    epochs = pd.DataFrame({"epoch": np.arange(1, n_epochs + 1)})
    epochs["step"] = 10 * epochs["epoch"]
    epochs["loss"], epochs["samples_per_s"] = 0.1, 321.0
    for bone, top in (("talus", 0.9), ("tibia", 0.8)):
        epochs[f"dice_{bone}"] = top * (1 - 1 / (1 + epochs["epoch"]))
    epochs["score"] = (epochs["dice_talus"] + epochs["dice_tibia"]) / 2
    write_csv(folder / "steps.csv", pd.DataFrame({"step": steps, "loss": 1.0 / steps}))
    write_csv(folder / "epochs.csv", epochs)


def test_a_training_is_followed_while_it_runs(tmp_path: Path) -> None:
    monitor = TrainingMonitor(tmp_path)
    assert "has ended an epoch yet" in monitor.message.value
    assert monitor.image.value == b""
    monitor.follow(poll_s=0.02)
    write_training(tmp_path / "unet", 1)
    until = time.monotonic() + 10
    while "epoch 1" not in monitor.status.value and time.monotonic() < until:
        time.sleep(0.02)
    assert "step 10, loss 0.1 · epoch 1, score 0.425" in monitor.status.value
    assert monitor.message.value == ""
    first = monitor.image.value
    write_training(tmp_path / "unet", 3)
    monitor.stop()
    assert "epoch 3, score 0.637 (best 0.637, epoch 3) · 321 patches/s" in monitor.status.value
    assert monitor.image.value != first
    shown = Image.open(io.BytesIO(monitor.image.value))
    assert shown.size == (688, 256)


def test_the_block_ends_with_the_final_picture(tmp_path: Path) -> None:
    with TrainingMonitor(tmp_path) as monitor:
        write_training(tmp_path, 2)
    assert "epoch 2" in monitor.status.value
    write_training(tmp_path, 4)
    assert "epoch 2" in monitor.status.value  # it follows no longer
    monitor.again.click()
    assert "epoch 4" in monitor.status.value


def test_a_block_shows_what_is_trained_inside_it(tmp_path: Path) -> None:
    write_training(tmp_path / "before", 3)
    with TrainingMonitor(tmp_path) as monitor:
        assert monitor.image.value == b""
        assert "no new steps.csv" in monitor.message.value
        write_training(tmp_path / "now", 1)
        monitor.refresh()
        assert "epoch 1" in monitor.status.value
    with TrainingMonitor(tmp_path / "before") as monitor:
        pass  # trained already, so nothing is written
    assert "epoch 3" in monitor.status.value
    assert monitor.message.value == ""


def test_a_finished_training_is_shown_by_what_it_keeps(tmp_path: Path) -> None:
    write_training(tmp_path / "other", 1)
    unet = tmp_path / "unet"
    with TrainingMonitor(tmp_path) as monitor:
        write_training(unet / "stage-1", 2)
        monitor.refresh()
        assert "epoch 2" in monitor.status.value
        kept = {}
        for name, table in (("losses", "steps"), ("epochs", "epochs")):
            last = pd.read_csv(unet / "stage-1" / f"{table}.csv")
            first = last.assign(stage=0)
            last = last.assign(stage=1, step=last["step"] + 20)
            kept[name] = pd.concat([first, last], ignore_index=True)
            write_csv(unet / f"{name}.csv", kept[name])
        shutil.rmtree(unet / "stage-1")  # as a training does that is finished
        monitor.look_at(unet)
    assert "step 40, loss 0.05 · stage 2, epoch 2" in monitor.status.value
    left, right = training_figure(kept["losses"], kept["epochs"]).axes
    dotted = [line.get_xdata()[0] for line in left.lines if line.get_linestyle() == ":"]
    assert dotted == [21]
    assert right.lines[0].get_xdata().tolist() == [10, 20, 30, 40]


def test_a_folder_that_vanishes_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_training(tmp_path / "unet", 2)
    monitor = TrainingMonitor(tmp_path)
    before = monitor.image.value
    gone = tmp_path / "unet" / "stage-0" / "steps.csv"
    monkeypatch.setattr(monitor, "_tables", lambda: [gone])
    monkeypatch.setattr(training_monitor, "_written", lambda path: 1)
    monitor.refresh()
    assert monitor.image.value == before
    assert monitor.message.value == ""


def test_the_figure_has_loss_and_dice(tmp_path: Path) -> None:
    write_training(tmp_path, 3)
    steps, epochs = (pd.read_csv(tmp_path / name) for name in ("steps.csv", "epochs.csv"))
    left, right = training_figure(steps, epochs, "unet").axes
    assert len(left.lines[0].get_xdata()) == 30
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels == ["talus", "tibia"]
    assert right.lines[0].get_color() == "#009E73"
    assert len(training_figure(steps, None).axes) == 1
    with_rate = steps.assign(learning_rate=1e-3)
    assert training_figure(with_rate, None).axes[1].get_ylabel() == "learning rate"
    by_correlation = epochs[["epoch", "step", "score"]]
    assert training_figure(steps, by_correlation).axes[1].get_ylabel() == "score of validation"


def test_other_tables_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text("a,b\n1,2\n")
    assert "no table of steps and losses" in TrainingMonitor(tmp_path).message.value
    (tmp_path / "steps.csv").write_text("step,loss\n1,much\n")
    assert "no table of steps and losses" in TrainingMonitor(tmp_path).message.value
    (tmp_path / "steps.csv").write_text("")
    assert "no table of steps and losses" in TrainingMonitor(tmp_path).message.value
    (tmp_path / "steps.csv").write_text("step,loss\n1,0.5\n2,\n")  # not a number
    monitor = TrainingMonitor(tmp_path)
    assert "step 2, loss nan" in monitor.status.value
    assert "NaN or infinite at 1 of 2 steps, first at step 2: not drawn" in monitor.message.value
    assert monitor.image.value


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ("epoch,step,score\n1,2,\n", "epoch 1"),  # a bone that validation does not show
        ("epoch,step,dice_talus,score\n1,1,,\n2,2,0.5,0.5\n", "epoch 2, score 0.500 (best 0.500"),
        ("epoch,step,dice_talus,score\n1,2,-inf,inf\n", "epoch 1, score inf"),
        ("epoch,step,dice_talus,stage\n1,2,x,first\n", "epoch 1"),
        ("epoch,step,score\n,2,0.5\n", "step 2, loss -0.4"),  # no epoch that has a number
    ],
)
def test_scores_that_are_no_numbers_are_not_drawn(tmp_path: Path, epochs: str, said: str) -> None:
    (tmp_path / "steps.csv").write_text("step,loss\n1,0.5\n,0.3\n2,-0.4\n")
    (tmp_path / "epochs.csv").write_text(epochs)
    monitor = TrainingMonitor(tmp_path)
    assert said in monitor.status.value
    assert monitor.message.value == ""
    assert monitor.image.value


def test_losses_below_zero_are_drawn(tmp_path: Path) -> None:
    steps = pd.DataFrame({"step": [1, 2, 3], "loss": [0.5, -0.5, np.inf]})
    (axes,) = training_figure(steps, None).axes
    assert axes.get_yscale() == "linear"
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.5, -0.5, np.nan])
    (axes,) = training_figure(steps.iloc[:1], None).axes
    assert axes.get_yscale() == "log"
