"""Runs killed again and again, in one results folder; `benchmarks/kill.py` does more of it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from benchmarks.kill import complete, differences, kill_after

KILLS = int(os.environ.get("ANKLE_KILLS", "3"))


@pytest.mark.slow
@pytest.mark.timeout(1800 + 400 * KILLS)
def test_a_run_that_was_killed_gives_the_same_tables(smoke_results: Path, tmp_path: Path) -> None:
    draw = random.Random(2020)
    results = tmp_path / "results"
    for _ in range(KILLS):
        kill_after(draw.uniform(2, 25), "smoke", results)
    assert differences(complete("smoke", results), smoke_results) == []
