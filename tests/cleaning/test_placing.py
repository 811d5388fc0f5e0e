from __future__ import annotations

import pytest

from ankle_lib.cleaning.placing import best_affine, coarse, same_grid
from ankle_lib.geometry import corner_distance_mm, rigid
from tests.toy_ankle import ToyAnkle


def test_same_grid_is_half_a_voxel(ankle: ToyAnkle) -> None:
    affine, shape = ankle.static.affine, ankle.static.shape
    shifted = rigid((0, 0, 0), (0.9, 0, 0)) @ affine
    assert corner_distance_mm(shape, affine, shifted) == pytest.approx(0.9)
    assert same_grid(shape, affine, shifted)
    assert not same_grid(shape, affine, rigid((0, 0, 0), (1.1, 0, 0)) @ affine)


def test_best_affine_prefers_the_first_when_nothing_differs(ankle: ToyAnkle) -> None:
    own = ankle.sequence.affine
    name, overlaps = best_affine(
        ankle.sequence.frame(0), coarse(ankle.static), {"own": own, "same": own.copy()}
    )
    assert name == "own"
    assert overlaps["own"] == overlaps["same"] > 0.9
