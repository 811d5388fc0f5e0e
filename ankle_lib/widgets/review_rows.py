"""The rows of a review sheet in the order in which a person judges them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.quality.review_sheet import AUTOMATIC, KEY

RowKey = tuple[str, str, int, str]
"""Subject, sequence, frame, bone."""

_PLACE = {bone: place for place, bone in enumerate(BONE_COLOURS)}


def keys_of(table: pd.DataFrame) -> list[RowKey]:
    """Return all rows' keys: one bone through all frames of a sequence, then the next bone."""
    return sorted(table[list(KEY)].itertuples(index=False, name=None), key=_order)


def row_of(table: pd.DataFrame, key: RowKey) -> dict[str, Any] | None:
    """Return a row; None if the sheet lacks it."""
    for name, value in zip(KEY, key, strict=True):
        table = table[table[name] == value]
    return None if table.empty else dict(table.iloc[0])


def bones_of(table: pd.DataFrame) -> list[str]:
    """Return the bones of the sheet, those of the course first and in their order."""
    return sorted(set(table["bone"]), key=_place)


def undecided(table: pd.DataFrame) -> list[RowKey]:
    """Return the keys of the rows that no person has judged."""
    return keys_of(table[table["reviewer"] == AUTOMATIC])


def next_undecided(table: pd.DataFrame, after: RowKey) -> RowKey | None:
    """Return the next row that no person has judged, from the start again after the last one."""
    left = undecided(table)
    following = [key for key in left if _order(key) > _order(after)]
    return next(iter(following or left), None)


def _place(bone: str) -> tuple[int, str]:
    return _PLACE.get(bone, len(_PLACE)), bone


def _order(key: RowKey) -> tuple[Any, ...]:
    subject, sequence, frame, bone = key
    return subject, sequence, _place(bone), frame
