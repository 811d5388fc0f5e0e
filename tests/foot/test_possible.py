"""What no foot has is known, and what a foot may have is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.foot.possible import (
    IMPOSSIBLE,
    IN_PIECES,
    MISPLACED,
    PIECE_REMOVED,
    SWAPPED,
    against_anatomy,
)
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume
from tests.toy_ankle import oblique_affine
from tests.toy_segmenter import SHAPE, VOXEL_MM, labelled

AFFINE = oblique_affine(SHAPE, VOXEL_MM)


@pytest.fixture
def labels() -> np.ndarray:
    return labelled(SHAPE, AFFINE).astype(np.uint8)


def problems(labels: np.ndarray, affine: np.ndarray = AFFINE, **apart: float) -> dict:
    found = against_anatomy(Volume(labels, affine), apart)
    return {bone: texts for bone, texts in found.items() if texts}


def test_a_foot_has_no_problem(labels: np.ndarray) -> None:
    assert problems(labels) == {}
    assert problems(labels[:, :, ::-1]) == {}  # of either side
    assert problems(np.where(labels == 2, 0, labels)) == {}  # what is missing is told elsewhere
    assert problems(np.zeros_like(labels)) == {}


@pytest.mark.parametrize(
    ("share", "found"),
    [(0.05, []), (0.1, [PIECE_REMOVED]), (0.4, [PIECE_REMOVED]), (0.5, [IN_PIECES])],
)
def test_pieces_that_were_removed_are_told(
    labels: np.ndarray, share: float, found: list[str]
) -> None:
    assert problems(labels, talus=share).get("talus", []) == found


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_calcaneus_and_talus_taken_for_each_other_are_told(labels: np.ndarray, turn: int) -> None:
    exchanged = np.choose(labels, [0, 2, 1, 3]).astype(np.uint8)
    affine = np.diag([*np.roll([1, -1, -1], turn), 1]) @ AFFINE  # however the foot lies
    assert problems(exchanged, affine) == {"talus": [SWAPPED]}


def test_a_talus_elsewhere_is_told(labels: np.ndarray) -> None:
    """Below the calcaneus, above the tibia's middle, or before the foot."""
    talus = np.argwhere(labels == 2)
    bones = {bone: np.argwhere(labels == n).mean(0) for n, bone in enumerate(BONES, 1)}
    limb = bones["tibia"] - bones["calcaneus"]
    for move in (-0.8 * limb, 0.8 * limb, np.array([-70, 0, 0])):
        place = talus + np.rint(move).astype(int)
        wide = np.pad(np.where(labels == 2, 0, labels), 90)
        wide[tuple((place + 90).T)] = 2
        assert problems(wide)["talus"] == [MISPLACED]


@pytest.mark.parametrize(("bone", "times"), [("calcaneus", 5.0), ("talus", 5.0), ("talus", 0.1)])
def test_a_volume_that_nobody_has_is_told(labels: np.ndarray, bone: str, times: float) -> None:
    scale = np.diag([*[np.cbrt(times)] * 3, 1.0])
    assert problems(np.pad(labels, 1), AFFINE @ scale)[bone] == [IMPOSSIBLE]


def test_what_is_cut_off_or_seen_in_thick_slices_may_be_small(labels: np.ndarray) -> None:
    middle = int(np.argwhere(labels == 1)[:, 2].mean())
    cut = labels[:, :, middle : middle + 3]
    assert (cut == 1).sum() * np.prod(VOXEL_MM) / 1000 < 12
    assert problems(cut) == {}
    thick = np.pad(labels[:, :, ::5], 1)
    small = AFFINE @ np.diag([0.5, 0.5, 2.5, 1.0])
    assert problems(thick, small) == {}
    thin = problems(np.pad(labels, 1), AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0]))
    assert thin == {"calcaneus": [IMPOSSIBLE], "talus": [IMPOSSIBLE], "tibia": [IMPOSSIBLE]}
    assert problems(thick, AFFINE @ np.diag([2.0, 2.0, 10.0, 1.0]))["calcaneus"] == [IMPOSSIBLE]
