"""Runs killed again and again, in one results folder; `benchmarks/kill.py` kills real chapters."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from benchmarks.kill import complete, differences, kill_after, tables
from tests.course import FINISH, OPEN, READ_TABLE, write_course

KILLS = int(os.environ.get("ANKLE_KILLS", "2"))
OPTIONS = ("--preset", "smoke", "--cohort", "toy", "--device", "cpu")

REMEMBER = """\
import time
from functools import partial
import pandas as pd
from ankle_lib.cache import remembered
from ankle_lib.files import write_json
from ankle_lib.metrics import bootstrap_interval
rows = []
for n in range(12):
    write_json(chapter.folder / f"sub-{n:02d}" / "values.json", list(range(n, 20_000)))
    work = partial(bootstrap_interval, [n, n + 1, n + 2], ["a", "b", "c"])
    rows.append(remembered(chapter.folder / ".records" / f"{n}.json", work, settings=n))
    time.sleep(0.1)
chapter.table(pd.DataFrame(rows), "numbers")"""


@pytest.mark.slow
@pytest.mark.timeout(300 + 60 * KILLS)
def test_a_run_that_was_killed_gives_the_same_tables(tmp_path: Path) -> None:
    draw = random.Random(2020)
    course = write_course(
        tmp_path / "course",
        {
            "01_first": [OPEN.format(name="01_first"), REMEMBER, FINISH],
            "02_second": [OPEN.format(name="02_second"), READ_TABLE, FINISH],
        },
    )
    expected, results = tmp_path / "undisturbed", tmp_path / "killed"
    seconds = complete(expected, *OPTIONS, root=course)
    assert len(tables(expected)) == 2
    for _ in range(KILLS):
        kill_after(draw.uniform(0.3, 0.9) * seconds, results, *OPTIONS, root=course)
    complete(results, *OPTIONS, root=course)
    assert differences(results, expected) == []
