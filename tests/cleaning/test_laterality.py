from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.cleaning.checks import Findings
from ankle_lib.cleaning.laterality import (
    BoneSide,
    MaskFit,
    decide_flip,
    masks_fit_image,
    side_from_bones,
    wrong_way_up,
)
from ankle_lib.files import AnkleError
from ankle_lib.geometry import rigid
from ankle_lib.volume import Volume, flip_left_right
from tests.toy_ankle import ToyAnkle


def bones_of(ankle: ToyAnkle) -> dict[str, np.ndarray]:
    return {bone: mask.data.astype(bool) for bone, mask in ankle.masks.items()}


# --- left and right ------------------------------------------------------------------------------


def test_side_from_bones_in_any_pose(ankle: ToyAnkle) -> None:
    bones, affine = bones_of(ankle), ankle.static.affine
    mirrored = {bone: flip_left_right(Volume(m, affine)).data for bone, m in bones.items()}
    for rotation in ((0, 0, 0), (35, 0, 0), (-50, 10, 20), (0, 170, 0), (90, 90, 0)):
        world = rigid(rotation, (30, -10, 50))
        assert side_from_bones(bones, world @ affine).side == "left"
        assert side_from_bones(mirrored, world @ affine).side == "right"


def test_side_is_not_guessed(ankle: ToyAnkle) -> None:
    bones = bones_of(ankle)
    symmetric = {
        bone: mask | flip_left_right(Volume(mask, ankle.static.affine)).data
        for bone, mask in bones.items()
    }
    assert side_from_bones(symmetric, ankle.static.affine).side is None
    with pytest.raises(AnkleError, match="the talus is empty"):
        side_from_bones({**bones, "talus": np.zeros_like(bones["talus"])}, ankle.static.affine)


def test_masks_fit_image_tells_a_mirrored_mask(ankle: ToyAnkle) -> None:
    masks = {
        bone: Volume(mask.data.astype(bool), mask.affine) for bone, mask in ankle.masks.items()
    }
    assert masks_fit_image(ankle.static, masks).verdict == "as is"
    assert masks_fit_image(flip_left_right(ankle.static), masks).verdict == "flipped"
    flat = Volume(np.full(ankle.static.shape, 7.0), ankle.static.affine)
    assert masks_fit_image(flat, masks).verdict is None


LEFT, UNSURE = BoneSide("left", 9.0, 8.0), BoneSide(None, 0.5, -3.0)
AS_IS, MIRRORED, UNCLEAR = MaskFit(2.0, 0.1), MaskFit(0.1, 2.0), MaskFit(0.4, 0.5)


@pytest.mark.parametrize(
    ("fit", "bones", "expected", "image", "masks", "reason", "note"),
    [
        (AS_IS, LEFT, "left", False, False, False, False),
        (AS_IS, LEFT, "right", True, True, False, False),
        (MIRRORED, LEFT, "left", True, False, False, False),
        (MIRRORED, LEFT, "right", False, True, False, False),
        (UNCLEAR, LEFT, "left", False, False, False, True),
        (UNCLEAR, LEFT, "right", False, False, True, False),
        (AS_IS, UNSURE, "left", False, False, False, True),
        (MIRRORED, UNSURE, "left", False, False, True, False),
        (AS_IS, LEFT, None, False, False, False, True),
        (MIRRORED, LEFT, None, False, False, True, False),
    ],
)
def test_decide_flip(
    fit: MaskFit,
    bones: BoneSide,
    expected: str | None,
    image: bool,
    masks: bool,
    reason: bool,
    note: bool,
) -> None:
    log = Findings()
    assert decide_flip(fit, bones, expected, log) == (image, masks)
    assert (bool(log.reasons), bool(log.notes)) == (reason, note)


def test_half_turns_of_the_world_are_seen(ankle: ToyAnkle) -> None:
    bones, affine = bones_of(ankle), ankle.static.affine
    for flexion in (-50, 0, 25):
        assert wrong_way_up(bones, rigid((flexion, 10, -10), (0, 0, 0)) @ affine) == ""
    for signs, text in (
        ((-1, -1, 1), "the toes point backwards"),
        ((-1, 1, -1), "the sole lies above"),
        ((1, -1, -1), "the toes point backwards and the sole lies above"),
    ):
        found = wrong_way_up(bones, np.diag([*signs, 1]) @ affine)
        assert found.startswith(f"by its bones, {text}: is the patient's position")
