from __future__ import annotations

from ankle_lib.cleaning.placing import best_affine, coarse, turned_against
from ankle_lib.geometry import rigid
from ankle_lib.volume import Volume
from tests.toy_ankle import ToyAnkle


def test_best_affine_prefers_the_first_when_nothing_differs(ankle: ToyAnkle) -> None:
    own = ankle.sequence.affine
    name, overlaps = best_affine(
        ankle.sequence.frame(0), coarse(ankle.static), {"own": own, "same": own.copy()}
    )
    assert name == "own"
    assert overlaps["own"] == overlaps["same"] > 0.9


def test_half_a_turn_is_seen_by_heel_toes_and_leg(ankle: ToyAnkle) -> None:
    assert turned_against(ankle.static, ankle.sequence) == ""
    away = rigid((8, 3, -5), (10, -20, 30)) @ ankle.sequence.affine
    assert turned_against(ankle.static, Volume(ankle.sequence.data, away)) == ""
    upside_down = rigid((0, 180, 0), (4, 0, 20)) @ ankle.sequence.affine
    found = turned_against(ankle.static, Volume(ankle.sequence.data, upside_down))
    assert found in ("about the front-back axis", "about the left-right axis")
