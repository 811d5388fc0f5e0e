"""The registration by hand, without a browser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ankle_lib.files import AnkleError
from ankle_lib.registration.engines import Resolution, Settings
from ankle_lib.volume import Volume
from ankle_lib.widgets.registration_tuner import RegistrationTuner
from tests.registration.scene import FRAME_SHAPE, Scene, scene, turned
from tests.widgets.drawn import count

KEPT, UNLIKE = (0x00, 0x9E, 0x73), (0xF0, 0xE4, 0x42)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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


def test_a_bone_out_of_sight_is_said(tuner: RegistrationTuner) -> None:
    middle = tuner.slice.value
    tuner.slice.value = 0
    assert "not in this slice" in tuner.message.value
    tuner.slice.value = middle
    assert tuner.message.value == ""
    tuner._start = np.broadcast_to(np.diag([1.0, 1, 1, 1]), (2, 4, 4)).copy()
    tuner._start[:, :3, 3] = 300.0
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
        view.try_turns([0.0])
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
