"""A reviewer's whole job: chapter 03, the rows of the sheet, and what chapter 04 makes of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from ankle_lib.quality.review_sheet import AUTOMATIC, SHEET_NAME, ReviewSheet
from ankle_lib.running.execution import execute_notebook
from ankle_lib.widgets.review_board import BOARD_CLASS
from tests.browser.lab import ROOT, Person, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CHAPTER, NEXT_CHAPTER = "03_registration", "04_patch_extraction"
KEYS = ("a", "r", "a", "a", "u", "a")
KEYS_LATER = ("a", "r", "a", "a")
PROGRESS = re.compile(r"^\d+ of \d+ judged$")
Judged = tuple[str, str, int, str, str]
"""Subject, sequence, frame, bone, verdict."""
VERDICTS = {"a": "accepted", "r": "rejected", "u": "unsure"}


@pytest.fixture
def course(smoke_results: Path, tmp_path: Path) -> Path:
    """A copy of the course at `smoke`, with the results until chapter 03 that others share.

    The chapter is run again in the browser. It goes on from its fits, which saves most of the
    time; nobody has judged yet.
    """
    root = tmp_path / "course"
    results = root / "results" / "smoke"
    for name in ("cohort", "01_data_cleaning", "02_masking", CHAPTER):
        shutil.copytree(smoke_results / name, results / name)
    shutil.copy(ROOT / "data_manifest.yaml", root)
    notebook = json.loads((ROOT / "notebooks" / f"{CHAPTER}.ipynb").read_text())
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    lines = "".join(cell["source"])
    lines = lines.replace('preset = "laptop"', 'preset = "smoke"').replace('"anonymous"', '"Ada"')
    assert 'preset = "smoke"' in lines
    assert '"Ada"' in lines
    cell["source"] = lines
    shutil.copytree(ROOT / "notebooks" / "checks", root / "notebooks" / "checks")
    (root / "notebooks" / f"{CHAPTER}.ipynb").write_text(json.dumps(notebook))
    return root


def judge(person: Person, keys: Sequence[str]) -> list[Judged]:
    """Press keys on the board; return what it showed at each of them, and the verdict."""
    board = person.find(f".{BOARD_CLASS}", "ReviewBoard(sheet")
    board.locator("img.ankle-picture").first.click()  # the focus, as the board asks for
    done = []
    for key in keys:
        before = board.get_by_text(PROGRESS).inner_text()
        subject, sequence = (
            board.locator("select")
            .first.evaluate("select => select.selectedOptions[0].text")
            .split()
        )
        frame = board.locator('.widget-hslider:has(label:text-is("frame")) .widget-readout')
        bone = board.locator("button").evaluate_all(
            "all => all.find(one => getComputedStyle(one).fontWeight >= 600).innerText"
        )
        done.append((subject, sequence, int(frame.inner_text()), bone.strip(), VERDICTS[key]))
        person.page.keyboard.press(key)
        board.get_by_text(PROGRESS).filter(has_not_text=before).wait_for()
    return done


def judged(sheet: ReviewSheet) -> list[Judged]:
    """Return the verdicts of people, in order."""
    table = sheet.table()
    columns = ["subject", "sequence", "frame", "bone", "verdict"]
    by_people = table.loc[table["reviewer"] != AUTOMATIC, columns]
    return sorted(by_people.itertuples(index=False, name=None))


def test_ten_registrations_by_keyboard(person: Person, course: Path, tmp_path: Path) -> None:
    sheet = ReviewSheet(course / "results" / "smoke" / CHAPTER / SHEET_NAME)
    with serve(course / "notebooks", tmp_path / "home") as lab:
        address = lab.address(f"{CHAPTER}.ipynb")
        person.open(address)
        person.run_all(300)
        assert judged(sheet) == []
        person.find(".ankle-picture", "tuner = RegistrationTuner(")
        person.screenshot("chapter_03_tuner")
        first = judge(person, KEYS)
        person.screenshot("review_board")
        assert judged(sheet) == sorted(first)

        person.save()
        person.open(address)  # the page is loaded anew
        second = judge(person, KEYS_LATER)
        person.screenshot("review_board_later")
        assert person.errors == []

    everything = sorted(first + second)
    assert len({one[:4] for one in everything}) == len(KEYS + KEYS_LATER) == 10
    assert judged(sheet) == everything
    table = sheet.table()
    assert set(table.loc[table["reviewer"] != AUTOMATIC, "reviewer"]) == {"Ada"}

    assert [one[4] for one in everything].count("rejected") == 2
    assert patches_are_taken_from(course, everything) == [
        one[4] == "accepted" for one in everything
    ]


def patches_are_taken_from(course: Path, rows: Sequence[Judged]) -> list[bool]:
    """Run chapter 04; tell for each registration whether it counts patches of it."""
    values = {"preset": "smoke", "results": "results", "cohort": "phantom", "device": "cpu"}
    name = f"{NEXT_CHAPTER}.ipynb"
    notebook = shutil.copy(ROOT / "notebooks" / name, course / "notebooks")
    execute_notebook(Path(notebook), course / name, dict(values))
    table = pd.read_csv(course / "results" / "smoke" / NEXT_CHAPTER / "tables" / "images.csv")
    pairs = table[table["task"] == "reconstruction"]
    taken = set(zip(pairs["subject"], pairs["image"], pairs["bone"], strict=True))
    return [(subject, f"{sequence} frame {frame}", bone) in taken
            for subject, sequence, frame, bone, _ in rows]  # fmt: skip
