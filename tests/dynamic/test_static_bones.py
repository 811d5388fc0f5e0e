"""Bones carried onto frames, where they are or off by a known error."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.dynamic.static_bones import misplaced_labels, misplacement
from ankle_lib.files import AnkleError
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES
from ankle_lib.registration.truth import tre_mm
from tests.dynamic.toy_frames import courses, static_bones, toy_frames
from tests.toy_motion import Motion, motion


@pytest.fixture(scope="module")
def ankle() -> Motion:
    return motion((0.0, 12.0))


@pytest.mark.parametrize("error_mm", [0.5, 3.0, 8.0])
def test_a_misplacement_has_the_size_that_was_asked_for(error_mm: float) -> None:
    points = np.random.default_rng(0).normal(0, 15, (500, 3)) + np.array([30, 10, -50])
    directions = np.random.default_rng(1).normal(size=(2, 3))
    off = misplacement(points, error_mm, directions)
    assert tre_mm(off, np.eye(4), points) == pytest.approx(error_mm, rel=0.02)
    np.testing.assert_allclose(off[:3, :3] @ off[:3, :3].T, np.eye(3), atol=1e-12)
    with pytest.raises(AnkleError, match="give a positive length"):
        misplacement(points, 0.0, directions)


def test_wrong_labels_get_worse_with_the_error(ankle: Motion) -> None:
    bones = static_bones(ankle)
    frames = toy_frames(ankle, bones)
    poses = {("E01", "active_run-01"): courses(ankle)}
    given = (frames, {"E01": bones}, poses)
    agreement = {}
    for error in (1.0, 4.0):
        wrong = misplaced_labels(*given, error, systematic=False)
        agreement[error] = np.mean(
            [
                dice(scan.item.labels[bone], frame.truth[bone])
                for scan, frame in zip(wrong, frames, strict=True)
                for bone in BONES
            ]
        )
    assert 0.3 < agreement[4.0] < agreement[1.0] < 1
    again = misplaced_labels(*given, 4.0, systematic=False)
    np.testing.assert_array_equal(again[1].item.labels["tibia"], wrong[1].item.labels["tibia"])
