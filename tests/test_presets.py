"""The sizes of a run: what a rehearsal shares with paper, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from ankle_lib.files import AnkleError
from ankle_lib.presets import PRESETS, REHEARSAL, get_preset

ITS_OWN = {"name", "subjects", "n_seeds"}


def sizes_of(sizes: Any, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield room, name and value of every size of a preset."""
    for one in fields(sizes):
        value = getattr(sizes, one.name)
        if is_dataclass(value):
            yield from sizes_of(value, one.name)
        else:
            yield where, one.name, value


def test_a_rehearsal_has_the_grids_of_paper_and_a_few_steps() -> None:
    rehearsed = get_preset("rehearsal")
    assert rehearsed is REHEARSAL
    seen = 0
    for (*place, name, few), (*_, many) in zip(
        sizes_of(rehearsed), sizes_of(PRESETS["paper"]), strict=True
    ):
        if name.endswith("steps"):
            assert 2 <= few <= min(4, many), (place, name)
            seen += 1
        elif name == "final_stages":
            assert [(side, *rest) for side, _, *rest in few] == [
                (side, *rest) for side, _, *rest in many
            ]
            assert all(2 <= steps <= 4 for _, steps, *_ in few)
        elif name not in ITS_OWN:
            assert few == many, (place, name)
    assert seen > 15
    assert rehearsed.segmentation.n_seeds == rehearsed.modality.n_seeds == 1
    assert rehearsed.subjects is not None
    assert {code[0] for code in rehearsed.subjects} == {"T", "E"}


def test_an_unknown_preset_is_told_which_there_are() -> None:
    with pytest.raises(AnkleError, match=r"'big': choose one of smoke, laptop, paper, rehearsal"):
        get_preset("big")
