"""A chapter as its notebook sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from ankle_lib.files import AnkleError
from ankle_lib.running import chapter as chapters
from ankle_lib.running import kernel_side, records
from ankle_lib.running.chapter import Chapter, Place, open_chapter
from tests.course import READ_TABLE, two_chapters, write_notebook

Open = Callable[[str], Chapter]


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return two_chapters(tmp_path)


@pytest.fixture
def opened(course: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open a chapter of the course as a person does, with a kernel in notebooks/."""
    monkeypatch.chdir(course / "notebooks")
    yield lambda name: open_chapter(name, "smoke", "results", "toy", "cpu")
    for lock in reversed(chapters._written.values()):  # as if the kernel ended
        lock.close()
    chapters._written.clear()


def test_a_chapter_opened_by_hand_lies_in_the_repository(course: Path, opened: Open) -> None:
    folder = course / "results" / "smoke-toy" / "01_first"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    chapter = opened("01_first")
    assert chapter.folder == folder
    assert chapter.tables.is_dir()
    assert chapter.figures.is_dir()
    assert not (folder / "run.json").exists()  # it no longer describes what is there
    assert chapter.preset.name == "smoke"
    assert chapter.device == "cpu"
    assert chapter.cohort_manifest == course / "data_manifest.yaml"
    assert [s.static for s in chapter.cohort_records.subjects] == [
        [course / "scans" / "static.txt"]
    ]
    table = pd.DataFrame({"x": [1]})
    assert chapter.table(table, "one") is table


def test_a_chapter_reads_tables_that_a_longer_run_left(course: Path, opened: Open) -> None:
    chapter = opened("01_first")
    tables = course / "reference" / "long" / "01_first" / "tables"
    tables.mkdir(parents=True)
    (tables / "dice.csv").write_text("bone,dice\ntalus,0.9\n")
    assert chapter.reference("long", "dice")["dice"].tolist() == [0.9]
    with pytest.raises(AnkleError, match=r"hd95\.csv is missing: it belongs to the repository"):
        chapter.reference("long", "hd95")


def test_half_a_chapter_run_by_hand_is_no_result(opened: Open) -> None:
    first = opened("01_first")
    first.table(pd.DataFrame({"x": [1]}), "one")
    with pytest.raises(
        AnkleError, match=r"02_second reads 01_first, which has no finished results"
    ):
        opened("02_second")
    first.finish()
    second = opened("02_second")
    assert second.previous("01_first") == first.folder
    assert "01_first" in json.loads(kernel_side.report())["inputs"]
    opened("01_first")  # once more, to change something
    with pytest.raises(AnkleError, match=r"run its notebook to the end, or `ankle run --preset"):
        opened("02_second")
    with pytest.raises(AnkleError, match="no finished results"):
        second.previous("01_first")  # which was finished when this one was opened


def test_missing_chapters_are_told_before_a_cohort_is_simulated(
    course: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "make_cohort", lambda self: pytest.fail("simulated"))
    with pytest.raises(AnkleError, match=r"02_second reads 01_first, which has no finished"):
        opened("02_second")
    write_notebook(course / "notebooks" / "02_second.ipynb", READ_TABLE.replace('"', "'"))
    assert chapters.earlier_chapters(course, "02_second") == ["01_first"]


def test_part_two_begins_with_chapter_08(tmp_path: Path) -> None:
    for name in ("A1_words", "07_last", "08_beyond", "11_end"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb")
    parts = {
        part: [path.stem for path in chapters.list_chapters(tmp_path, part)]
        for part in ("1", "2", "all")
    }
    assert parts["1"] == ["07_last", "A1_words"]
    assert parts["2"] == ["08_beyond", "11_end"]
    assert parts["all"] == ["07_last", "08_beyond", "11_end", "A1_words"]


def test_two_notebooks_do_not_write_to_one_chapter(course: Path, opened: Open) -> None:
    opened("01_first")
    opened("01_first")  # the same one, its first cell once more
    code = (
        "from ankle_lib.running.chapter import open_chapter\n"
        "open_chapter('01_first', 'smoke', 'results', 'toy', 'cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=course, capture_output=True, text=True)
    assert f"process {os.getpid()} is writing to" in done.stderr


def test_a_notebook_does_not_write_where_a_run_computes(course: Path, opened: Open) -> None:
    with (
        records.one_writer(course / "results" / "smoke-toy" / "01_first"),  # as `ankle run` does
        pytest.raises(AnkleError, match=f"process {os.getpid()} is writing to .*01_first"),
    ):
        opened("01_first")


def test_figures_are_shown_and_saved(opened: Open) -> None:
    chapter = opened("01_first")
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    assert chapter.show(figure, "line") is figure
    plt.close(figure)
    assert sorted(path.name for path in chapter.figures.iterdir()) == ["line.png", "line.svg"]


def test_a_folder_outside_the_course_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ankle_lib.running.chapter.__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(AnkleError, match="change into the cloned repository"):
        chapters.find_root()


PHANTOM = """\
version: 1
cohorts:
- {name: phantom, licence: none, source: {type: phantom, seed: 11}}
- {name: bigger, licence: none, source: {type: phantom, preset: laptop}}
"""


@pytest.mark.parametrize(
    ("cohort", "folder", "sizes", "seed"),
    [("phantom", "smoke", "smoke", 11), ("bigger", "smoke-bigger", "laptop", 2020)],
)
def test_a_simulated_cohort_is_made_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cohort: str,
    folder: str,
    sizes: str,
    seed: int,
) -> None:
    asked: list[Any] = []

    def simulate(preset: Any, out: Path, *, seed: int, device: str) -> None:
        asked.append((preset.name, out.relative_to(tmp_path).as_posix(), seed, device))

    monkeypatch.setattr("ankle_lib.phantom.simulate.simulate", simulate)
    (tmp_path / "data_manifest.yaml").write_text(PHANTOM)
    place = Place.find("smoke", tmp_path / "results", cohort, "cpu", tmp_path)
    place.make_cohort()
    assert asked == [(sizes, f"results/{folder}/cohort", seed, "cpu")]
    assert place.seed == seed
