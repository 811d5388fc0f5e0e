"""Views of single chapters without a browser: registration, patches, training, 3D."""

from __future__ import annotations

import io
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ankle_lib.files import AnkleError, write_csv
from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import PatchRule, admissible_positions, box_sums
from ankle_lib.registration.register import Resolution, Settings
from ankle_lib.volume import Volume
from ankle_lib.widgets import training_monitor
from ankle_lib.widgets.patch_explorer import PatchExplorer
from ankle_lib.widgets.picture import Panel
from ankle_lib.widgets.registration_tuner import RegistrationTuner, tuning_figure
from ankle_lib.widgets.training_monitor import TrainingMonitor, training_figure
from tests.registration.scene import FRAME_SHAPE, Scene, scene, turned

KEPT, UNLIKE = (0x00, 0x9E, 0x73), (0xF0, 0xE4, 0x42)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def pixels(panel: Panel) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(panel.canvas.picture)).convert("RGB"), dtype=int)


def count(panel: Panel, colour: tuple[int, int, int], tolerance: int = 40) -> int:
    return int((np.abs(pixels(panel) - colour).max(axis=2) < tolerance).sum())


# --- the registration by hand ---

QUICK = Settings(
    resolutions=(Resolution(3.0, (3.0, 3.0), 3, 6), Resolution(1.5, (1.5, 1.5), 5, 6)),
    start_angles_deg=(0.0,),
    retry=False,
)


@pytest.fixture(scope="module")
def two_frames() -> Scene:
    return scene([turned(0, (0, 0, 0)), turned(8, (0, 0, 2))])


@pytest.fixture
def tuner(two_frames: Scene) -> RegistrationTuner:
    return RegistrationTuner(
        two_frames.frames,
        two_frames.static,
        {"talus": Volume(two_frames.bone, two_frames.static.affine)},
        {"talus": two_frames.weights},
        settings=QUICK,
        truth={"talus": two_frames.truth},
    )


def similarity(tuner: RegistrationTuner) -> float:
    return float(tuner.similarity.value.split("<b>")[1].split("<")[0])


def test_the_similarity_follows_the_sliders(tuner: RegistrationTuner) -> None:
    assert tuner.bone.value == "talus"
    at_truth = similarity(tuner)
    assert at_truth > 0.95
    before = tuner.panels["frame"].canvas.picture
    tuner.turns["left-right"].value = 20.0
    assert similarity(tuner) < at_truth - 0.1
    assert tuner.panels["frame"].canvas.picture != before
    assert count(tuner.panels["frame"], UNLIKE) > 50  # the outline of the start is yellow
    tuner.resetter.click()
    assert similarity(tuner) == at_truth
    tuner.shifts["right"].value = 20.0
    assert similarity(tuner) < at_truth - 0.1
    np.testing.assert_allclose(tuner.pose[:3, 3], [20, 0, 0], atol=1e-9)


def test_a_run_is_listed_and_compared(tuner: RegistrationTuner) -> None:
    tuner.frame.value = 1
    tuner.turns["left-right"].value = 3.0
    tuner.shifts["up"].value = 1.5
    start = similarity(tuner)
    tuner.runner.click()
    (run,) = tuner.runs
    assert (run.bone, run.frame, run.reason) == ("talus", 1, "")
    assert run.before == pytest.approx(start, abs=6e-4)
    assert run.after > max(run.before, 0.95)
    assert run.error_mm < 0.6
    assert "3°, 1.5 mm" in tuner.table.value
    assert f"{run.error_mm:.2f} mm" in tuner.table.value
    assert tuner.side.value == "end"
    end = tuner.panels["static scan, moved"].canvas.picture
    assert count(tuner.panels["frame"], KEPT) > 50  # the talus's own colour
    tuner.side.value = "start"
    assert tuner.panels["static scan, moved"].canvas.picture != end
    tuner.frame.value = 0  # no run there yet
    assert "last run" not in tuner.similarity.value
    assert count(tuner.panels["frame"], KEPT) == 0


def test_many_starts_are_tried_without_a_trace(tuner: RegistrationTuner) -> None:
    tuner.frame.value = 1
    before = tuner.table.value, tuner.similarity.value
    near, far = tuner.try_turns([0.0, -150.0])
    assert near.frame == far.frame == 1
    assert near.before == pytest.approx(similarity(tuner), abs=6e-4)
    assert near.after > 0.95 > far.after
    assert far.error_mm > 2 > near.error_mm
    tuner.turns["left-right"].value = 10.0
    (further,) = tuner.try_turns([-10.0])  # back again
    assert further == replace(near, pose=further.pose)
    tuner.turns["left-right"].value = 0.0
    assert tuner.runs == []
    assert (tuner.table.value, tuner.similarity.value) == before


def test_the_figure_shows_starts_and_ends(
    tuner: RegistrationTuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner.frame.value = 1
    found = tuner.try_turns([0.0])[0]
    away = replace(found, after=0.2, error_mm=9.0, reason="not alike")
    monkeypatch.setattr(tuner, "try_turns", lambda turns: [away, found, found][: len(turns)])
    figure = tuning_figure(tuner, [-30, 0, 30])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["talus, frame 1", "static scan, best end", "", ""]
    start, ends, failed = figure.axes[2].lines
    np.testing.assert_allclose(start.get_ydata(), [found.before] * 3)
    assert ends.get_xdata().tolist() == [0, 30]
    assert ends.get_color() == "#009E73"
    assert failed.get_ydata().tolist() == [0.2]
    assert figure.axes[3].lines[1].get_ydata().tolist() == [9.0]
    unknown = replace(found, error_mm=float("nan"))
    monkeypatch.setattr(tuner, "try_turns", lambda turns: [unknown])
    assert len(tuning_figure(tuner, [0]).axes) == 3  # without truth, no panel of errors


def test_a_bone_out_of_sight_is_said(tuner: RegistrationTuner) -> None:
    middle = tuner.slice.value
    tuner.slice.value = 0
    assert "not in this slice" in tuner.message.value
    tuner.slice.value = middle
    assert tuner.message.value == ""
    tuner._scene._start = np.broadcast_to(np.diag([1.0, 1, 1, 1]), (2, 4, 4)).copy()
    tuner._scene._start[:, :3, 3] = 300.0
    tuner.frame.value = 1
    assert "not in the field of view" in tuner.similarity.value


def holed(volume: Volume) -> Volume:
    """Make one voxel no number."""
    data = volume.data.astype(float)
    data[0, 0, 0] = np.nan
    return Volume(data, volume.affine)


def test_what_cannot_be_registered_is_a_sentence(two_frames: Scene) -> None:
    one = two_frames
    bone = {"talus": Volume(one.bone, one.static.affine)}
    soft = {"talus": one.weights}
    nan = one.frames.data.copy()
    nan[0, 0, 0, 0] = np.nan
    empty = {"talus": Volume(np.zeros_like(one.bone), one.static.affine)}
    cut = {"talus": Volume(one.bone[:-1], one.static.affine)}
    cases = [
        (
            (Volume(nan, one.frames.affine), one.static, bone, soft),
            "a registration needs numbers (1)",
        ),
        ((one.frames, one.static, empty, soft), "mask of talus is empty"),
        ((one.frames, one.static, cut, soft), "on another grid"),
        ((one.frames, one.static, bone, {"talus": 0 * one.weights}), "weights of talus are empty"),
        ((one.frames, one.static, bone, {"tibia": one.weights}), "each bone needs both"),
        ((one.frames, one.frames, bone, soft), "one 3D image is wanted"),
        (
            (one.frames, one.static, {"talus": holed(bone["talus"])}, soft),
            "In the mask of talus, voxels are not numbers but NaN or infinite: a registration",
        ),
        (
            (one.frames, one.static, bone, {"talus": np.where(one.weights > 0.5, np.nan, 0)}),
            "In the weights of talus, voxels are not numbers",
        ),
        (
            (Volume(one.frames.data[..., :0], one.frames.affine), one.static, bone, soft),
            "The sequence has shape (52, 50, 9, 0): it has no voxels",
        ),
    ]
    for arguments, sentence in cases:
        view = RegistrationTuner(*arguments)
        assert sentence in view.message.value
        assert len(view.children) == 1
    view = RegistrationTuner(one.frames, one.static, bone, soft, start=np.zeros((3, 4, 4)))
    assert "Start poses have shape (3, 4, 4)" in view.message.value
    with pytest.raises(AnkleError, match="Start poses have shape"):
        tuning_figure(view)
    view = RegistrationTuner(
        one.frames, one.static, bone, soft, start=np.stack([np.eye(4), np.full((4, 4), np.nan)])
    )
    assert "The start pose of frame 1 is no rotation and shift" in view.message.value
    view = RegistrationTuner(
        one.frames, one.static, bone, soft, truth={"talus": np.array(one.truth)[:1]}
    )
    assert "True poses of talus have shape (1, 4, 4)" in view.message.value
    flat = Volume(np.full((*FRAME_SHAPE, 1), 7.0), one.frames.affine)
    view = RegistrationTuner(flat, one.static, bone, soft, settings=QUICK)
    view.runner.click()
    assert view.runs[0].reason in view.table.value
    assert "failed: " in view.table.value
    single = Volume(one.frames.data[:, :, 4:5], one.frames.affine)
    view = RegistrationTuner(single, one.static, bone, soft, settings=QUICK)
    view.runner.click()
    assert "a single slice cannot say where a bone is" in view.message.value
    assert view.runs == []


# --- patches ---

RULE = PatchRule((12, 12), tries=100, min_fraction=0.5)


def item(name: str = "static", *, pair: bool = False) -> Item:
    random = np.random.default_rng(3)
    image = random.normal(size=(40, 50, 4))
    region = np.zeros(image.shape, dtype=bool)
    region[5:30, 8:35, 1:3] = True
    region[5:30, 8:20, 1] = False  # slice 2 has more of it
    if not pair:
        return Item("T01", name, image, region, {"talus": region})
    target = image.copy()
    target[:, 20:] = random.normal(size=target[:, 20:].shape)
    return Item("T01", name, image, region, target=target, bone="talus")


def test_what_is_shown_is_what_the_extraction_keeps() -> None:
    explorer = PatchExplorer([item()], RULE)
    assert explorer.slice.value == 2
    region = torch.from_numpy(np.moveaxis(item().region, 2, 0).copy())
    kept = admissible_positions(region, RULE)[2].numpy()
    assert f"{kept.mean():.1%} of all positions are kept" in explorer.count.value
    green = count(explorer.panel, (0, 158, 115), 90)
    explorer.fraction.value = 0.9
    fewer = box_sums(region, RULE.size)[2].numpy() >= 0.9 * 144 - 1e-6
    assert f"{fewer.mean():.1%} of all positions" in explorer.count.value
    assert 0 < count(explorer.panel, (0, 158, 115), 90) < green
    explorer.slice.value = 0
    assert "The region is empty in this slice" in explorer.message.value
    assert "0.0% of all" in explorer.count.value


def test_a_click_says_why() -> None:
    explorer = PatchExplorer([item()], RULE)
    canvas = explorer.panel.canvas
    canvas._handle_custom_msg({"kind": "click", "x": 15.5 / 40, "y": 1 - 20.5 / 50}, [])
    assert explorer.verdict.value == "patch at 9, 14: 100% of it in the region: kept"
    canvas._handle_custom_msg({"kind": "click", "x": 0.999, "y": 0.001}, [])
    assert explorer.verdict.value == (
        "patch at 28, 38: 0% of it in the region, 50% are needed: rejected"
    )
    before = canvas.picture
    explorer.tries.value = 20
    assert canvas.picture != before
    canvas._handle_custom_msg({"kind": "move", "x": 0.5, "y": 0.5}, [])
    assert explorer.verdict.value.startswith("patch at 28, 38")


def test_pairs_are_judged_by_their_likeness() -> None:
    rules = {"talus": PatchRule((12, 12), tries=100, min_fraction=0.5, min_correlation=0.6)}
    explorer = PatchExplorer([item(pair=True)], rules)
    assert explorer.judge(9, 8).endswith("correlation with its target 1.00: kept")
    verdict = explorer.judge(9, 22)
    assert "more than 0.60 is needed: rejected" in verdict
    assert count(explorer.panel, UNLIKE, 130) > 100
    explorer.correlation.value = 0.0
    assert "kept" in explorer.judge(9, 8)
    share = float(explorer.count.value.split("%")[0])
    explorer.correlation.value = 0.9
    assert float(explorer.count.value.split("%")[0]) < share


def test_images_without_patches_are_a_sentence() -> None:
    assert "no image" in PatchExplorer([], RULE).message.value
    assert "no rule for patches" in PatchExplorer([item()], {"tibia": RULE}).message.value
    large = PatchRule((64, 64), tries=5, min_fraction=0.5)
    view = PatchExplorer([item()], large)
    assert "Patches of 64 × 64 pixels are larger than the slices of 40 × 50" in view.message.value
    view.panel.canvas._handle_custom_msg({"kind": "click", "x": 0.5, "y": 0.5}, [])
    broken = item()
    broken.image[3, 3, 2] = np.nan
    assert "not numbers: shown black (1)" in PatchExplorer([broken], RULE).message.value
    pair = item(pair=True)
    assert pair.target is not None
    pair.target[3, 3, 2] = np.nan
    said = PatchExplorer([pair], RULE).message.sentences
    assert said == ("Voxels of its target are not numbers: compared as 0 (1).",)
    nothing = Item("T01", "static", np.zeros((40, 50, 0)), np.zeros((40, 50, 0), dtype=bool))
    assert "has no voxels to take patches from" in PatchExplorer([nothing], RULE).message.value


# --- a training ---


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
