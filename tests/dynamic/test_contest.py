"""The contest of methods, and poses from masks, on a toy ankle in motion."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ankle_lib import cache
from ankle_lib.dynamic import contest
from ankle_lib.dynamic.contest import GATED, METHODS, NETWORK, OVER_TIME, REGISTRATION
from ankle_lib.dynamic.frames import Frame
from ankle_lib.geometry import apply
from ankle_lib.learning.prediction import Prediction, Segmenter
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.training import Trained
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.registration.truth import tre_mm
from tests.dynamic.toy_frames import courses, perfect, static_bones, toy_frames, written_ankle
from tests.toy_motion import Motion, motion

PIXEL_MM = 2.0
ANGLES = (0.0, 6.0, 12.0, 6.0)


@pytest.fixture(scope="module")
def ankle() -> Motion:
    return motion(ANGLES)


def test_poses_from_masks(ankle: Motion) -> None:
    bones = static_bones(ankle)
    frames = toy_frames(ankle, bones)
    found = [perfect(frame) for frame in frames]
    lost = replace(found[3], maps=found[3].maps * np.array([1, 0, 1])[:, None, None, None])
    poses = contest.poses_from_masks([*found[:3], lost], frames[0].affine, bones)
    assert np.isnan(poses["talus"][3]).all()
    for n, true in enumerate(ankle.poses[:3]):
        for bone in bones.masks:
            if bone != "talus":  # a ball: nothing says how it is turned
                assert tre_mm(poses[bone][n], true[bone], bones.points[bone]) < 1.5
            centre = bones.centres[bone]
            apart = apply(poses[bone][n], centre) - apply(true[bone], centre)
            assert np.linalg.norm(apart) < 1.0


@pytest.fixture
def people(ankle: Motion, tmp_path: Path) -> tuple[CleanSubject, Path]:
    return written_ankle(ankle, tmp_path)


def test_the_contest(
    ankle: Motion,
    people: tuple[CleanSubject, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject, registered = people
    frames = toy_frames(ankle, static_bones(ankle))
    answers = {frame.number: perfect(frame) for frame in frames}
    answers[1] = replace(  # blind in one frame
        answers[1], maps=answers[1].maps * 0, labels=answers[1].labels * 0
    )
    calls = []

    def predict_frame(frame: Frame, segmenter: Segmenter) -> Prediction:
        calls.append(frame.number)
        return answers[frame.number]

    laps = itertools.count()
    monkeypatch.setattr(contest, "predict_frame", predict_frame)
    clock = SimpleNamespace(process_time=lambda: float(next(laps)))
    monkeypatch.setattr(contest, "time", clock)
    study: Any = SimpleNamespace(
        subjects=[subject],
        test=frames,
        registered=registered,
        device="cpu",
        poses={("E01", "active_run-01"): courses(ankle)},
        sizes=SimpleNamespace(pixel_mm=PIXEL_MM),
    )
    network: Any = torch.nn.Identity()
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "network.ckpt").write_bytes(b"weights")
    nothing = pd.DataFrame()
    recipe = Recipe((Stage(16, 1),))
    trained = Trained(network, recipe, nothing, nothing, tmp_path / "net")

    def hold() -> contest.Contest:
        return contest.hold_contest(study, trained, tmp_path / "contest")

    held = hold()
    assert calls == [0, 1, 2, 3]
    scores = held.scores.set_index(["method", "frame", "bone"]).sort_index()
    assert len(scores) == len(METHODS) * 4 * 3
    assert (scores.loc[REGISTRATION, "dice"] > 0.99).all()  # it was given the truth
    assert scores.loc[REGISTRATION, "tre_mm"].max() < 1e-6
    assert scores.loc[(REGISTRATION, 2, "tibia"), "lost"]
    blind = scores.loc[(NETWORK, 1)]
    assert blind["lost"].all()
    assert (blind["dice"] == 0).all()
    assert blind["tre_mm"].isna().all()
    assert scores.loc[(GATED, 1), "lost"].all()
    over_time = scores.loc[OVER_TIME]
    assert not over_time["lost"].any()  # the curve fills the blind frame
    assert over_time["dice"].min() > 0.6
    assert over_time.loc[(slice(None), ["tibia", "calcaneus"]), "tre_mm"].median() < 1.0
    assert np.isnan(held.poses[NETWORK]["E01", "active_run-01"]["talus"][1]).all()
    again = hold()
    assert calls == [0, 1, 2, 3]  # remembered
    pd.testing.assert_frame_equal(again.scores, held.scores)
    # every lap takes a second: the network's poses take its masks and the search for them
    seconds = held.seconds.set_index("method")["seconds"]
    assert seconds[[NETWORK, GATED, OVER_TIME]].tolist() == [1, 2, 3]
    # a contest whose code has changed is held again
    source = cache._source
    monkeypatch.setattr(
        cache,
        "_source",
        lambda name: ("changed", source(name)[1]) if name == contest.__name__ else source(name),
    )
    hold()
    assert calls == [0, 1, 2, 3] * 2


def test_a_contest_is_held_again_if_anything_that_decides_it_changes(
    ankle: Motion,
    people: tuple[CleanSubject, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject, registered = people
    frames, held = toy_frames(ankle, static_bones(ankle)), []

    def work(*_: Any) -> dict[str, int]:
        held.append(1)
        return {"held": len(held)}

    monkeypatch.setattr(contest, "_work", work)
    weights = tmp_path / "net" / "network.ckpt"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    network: Any = torch.nn.Identity()
    segmenter = Segmenter(network, tuple(ankle.masks), (PIXEL_MM, PIXEL_MM))
    entry = [subject, frames, 1.0, courses(ankle)]

    def hold(segmenter: Segmenter = segmenter, **changed: Any) -> int:
        given = dict(zip(("subject", "frames", "seconds", "truth"), entry, strict=True)) | changed
        places = (weights.parent, registered, tmp_path / "contest")
        return contest._remembered(segmenter, "cpu", *places, (*given.values(),))["held"]

    assert [hold(), hold()] == [1, 1]
    transforms = registered / "sub-E01" / "sub-E01_task-active_run-01_transforms.json"
    for file in (weights, subject.static, subject.masks["talus"], transforms):
        before = len(held)
        file.write_bytes(file.read_bytes() + b" ")
        assert [hold(), hold()] == [before + 1] * 2, file
    moved = [*frames[:-1], replace(frames[-1], affine=2 * frames[-1].affine)]
    unseen = [replace(frames[0], truth={}), *frames[1:]]
    finer = replace(segmenter, pixel_mm=(1.0, 1.0))
    others = [{"frames": moved}, {"frames": unseen}, {"seconds": 2.0}, {"truth": {}}]
    for other in (*others, {"segmenter": finer}, {"subject": replace(subject, group="control")}):
        before = hold()
        assert hold(**other) == before + 1, other


def test_on_a_gpu_all_is_registered_there_and_timed_by_the_wall_clock(
    ankle: Motion, people: tuple[CleanSubject, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, registered = people
    frames = toy_frames(ankle, static_bones(ankle))
    asked: list[str] = []
    real, laps = contest.register, itertools.count()

    def register(*given: Any, device: str, **options: Any) -> Any:
        asked.append(device)
        return real(*given, **options)  # there is no GPU here

    monkeypatch.setattr(contest, "register", register)
    monkeypatch.setattr(contest, "predict_frame", lambda frame, segmenter: perfect(frame))
    monkeypatch.setattr(contest, "time", SimpleNamespace(perf_counter=lambda: next(laps)))
    segmenter: Any = None
    answer = contest._work(segmenter, "cuda", registered, subject, frames, 1.0, {})
    assert asked == ["cuda"] * 4  # each bone's mask, and the images
    assert answer["seconds"]["seconds"].tolist() == [1, 1, 2, 3]
