"""What the networks of chapter 07 are trained on, and how they are scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ankle_lib.dynamic import trainings
from ankle_lib.dynamic.trainings import DynamicStudy
from ankle_lib.learning.prediction import Prediction
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import Scan
from ankle_lib.learning.training import Trained
from ankle_lib.patches.split import Split
from ankle_lib.presets import BONES, PRESETS
from tests.dynamic.toy_frames import courses, perfect, static_bones, toy_frames
from tests.toy_motion import Motion, motion


@pytest.fixture(scope="module")
def ankle() -> Motion:
    return motion((0.0, 12.0))


def trained(folder: Path) -> Trained:
    """A network that nobody asks."""
    folder.mkdir(parents=True)
    (folder / "network.ckpt").write_bytes(b"weights")
    network: Any = torch.nn.Identity()
    return Trained(network, Recipe((Stage(16, 1),)), pd.DataFrame(), pd.DataFrame(), folder)


@pytest.fixture
def study(ankle: Motion, tmp_path: Path) -> DynamicStudy:
    bones = static_bones(ankle)
    frames = tuple(toy_frames(ankle, bones))
    still = (frames[0].labelled(frames[0].truth),)
    poses = {("E01", "active_run-01"): courses(ankle)}
    folders = (trained(tmp_path / "static"), {"E01": bones}, poses, tmp_path, None)
    sizes = PRESETS["smoke"].dynamic
    return DynamicStudy(
        (), frames, (), frames, still, still, *folders, Split(("T01",)), sizes, tmp_path
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Sequence[Scan], Any]]:
    """Recipe, scans and first weights of the trainings that were asked for, which do not run."""
    calls: list[tuple[Recipe, Sequence[Scan], Any]] = []

    def train(recipe: Recipe, scans: Sequence[Scan], folder: Path, **options: Any) -> Trained:
        calls.append((recipe, scans, options["start"]))
        return trained(folder / f"training-{len(calls)}")

    monkeypatch.setattr(trainings, "train_on_scans", train)
    return calls


@pytest.fixture
def answers(study: DynamicStudy, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was segmented, by perfect networks."""
    by_image = {id(frame.scan.item.image): frame for frame in study.test}
    calls: list[str] = []

    def predict(image: np.ndarray, *_: Any, **__: Any) -> Prediction:
        frame = by_image[id(image)]
        calls.append(frame.scan.item.name)
        return perfect(frame)

    monkeypatch.setattr(trainings, "predict", predict)
    return calls


def test_the_final_network_learns_from_all_kinds_of_scans(study: DynamicStudy, asked: list) -> None:
    random = [study.static_train[0]] * 2
    trainings.train_final(study, random)
    (recipe, scans, start), (shorter, frames, _) = asked
    assert start is study.static.network
    assert len(scans) == len(study.train) + trainings.STILL_TIMES + len(random)
    assert list(frames) == [frame.scan for frame in study.train]
    assert [one.steps for one in shorter.stages] == [one.steps // 3 for one in recipe.stages]


def test_scores_are_means_over_a_subjects_frames_and_remembered(
    study: DynamicStudy, answers: list, tmp_path: Path
) -> None:
    network = trained(tmp_path / "one")
    scans = [frame.reference for frame in study.test]
    table = trainings.scan_dice([network], scans, 2.0)
    assert table["bone"].tolist() == list(BONES)
    assert table["dice"].tolist() == [1, 1, 1]
    again = trainings.scan_dice([network], scans, 2.0)
    pd.testing.assert_frame_equal(again, table)
    assert len(answers) == len(scans)
    trainings.scan_dice([network], scans[:1], 2.0)
    assert len(answers) == len(scans) + 1
