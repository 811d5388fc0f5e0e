from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from ankle_lib.learning.random_scans import AIR, JOINT, Tissues
from ankle_lib.presets import BONES
from ankle_lib.weights.feet import random_foot

SPACING_MM = 3.0


@pytest.fixture(scope="module", params=["phantom", "noise"])
def foot(request: pytest.FixtureRequest) -> Tissues:
    return random_foot(1, 0, SPACING_MM, flesh=request.param)


def test_a_foot_has_three_bones_apart_in_flesh_and_air(foot: Tissues) -> None:
    volumes = {bone: mask.sum() * SPACING_MM**3 / 1000 for bone, mask in foot.bones.items()}
    assert list(volumes) == list(BONES)
    assert 15 < volumes["calcaneus"] < 110
    assert 8 < volumes["talus"] < 60
    assert np.sum([*foot.bones.values()], axis=0).max() == 1
    for mask in foot.bones.values():
        assert foot.foot[mask].mean() > 0.99
        assert (foot.depth_mm[mask] > 0).all()
    assert ((foot.classes == AIR) == ~foot.foot).mean() > 0.97
    assert len(np.unique(foot.classes)) > 4
    assert JOINT in foot.classes


def test_a_number_and_a_seed_are_one_foot() -> None:
    one, again, next_one, other = (
        random_foot(number, seed, SPACING_MM, flesh="noise")
        for number, seed in ((2, 0), (2, 0), (3, 0), (2, 1))
    )
    for field in fields(Tissues):
        np.testing.assert_equal(getattr(one, field.name), getattr(again, field.name))
    assert one.classes.shape != next_one.classes.shape != other.classes.shape


def test_talus_lies_between_tibia_and_calcaneus() -> None:
    foot = random_foot(5, 0, SPACING_MM, flesh="noise")
    middle = {bone: np.argwhere(mask).mean(0) for bone, mask in foot.bones.items()}
    assert middle["calcaneus"][1] < middle["talus"][1] < middle["tibia"][1]  # superior
    assert middle["calcaneus"][0] > middle["talus"][0]  # posterior
