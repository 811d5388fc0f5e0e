from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ankle_lib.figures.style import new_figure
from ankle_lib.files import AnkleError, write_csv, write_figure
from ankle_lib.presets import BONES
from ankle_lib.running.compare import PAGE, check, compare

SCORES = "05_static_segmentation/tables/final_scores.csv"
FRAMES = "03_registration/tables/registration.csv"


def scores() -> pd.DataFrame:
    rows = [(code, bone) for code in ("E01", "E02", "E03") for bone in BONES]
    table = pd.DataFrame(rows, columns=["subject", "bone"])
    random = np.random.default_rng(0)
    return table.assign(
        dice=0.95 + 0.02 * random.random(9), hd95_mm=1 + random.random(9), parameters=1_179_569,
        seconds=random.random(9), accepted=True, note=None,
    )  # fmt: skip


def frames() -> pd.DataFrame:
    keys = [(code, n, bone) for code in ("E01", "E02") for n in range(40) for bone in BONES]
    table = pd.DataFrame(keys, columns=["subject", "frame", "bone"])
    return table.assign(tre_mm=0.2 + 0.1 * np.random.default_rng(1).random(len(keys)))


def write(run: Path, tables: dict[str, pd.DataFrame]) -> Path:
    for name, table in tables.items():
        write_csv(run / name, table)
    return run


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write(tmp_path / "old", {SCORES: scores(), FRAMES: frames()})


def moved(old: Path, **changed: pd.DataFrame) -> list[str]:
    """What is too much after a change of the scores or the frames."""
    tables = {SCORES: changed.get("scores", scores()), FRAMES: changed.get("frames", frames())}
    changes, n_tables = compare(old, write(old.parent / "new", tables))
    assert n_tables == 2
    return [str(change) for change in changes if change.too_much]


# --- what is the same ---


def test_equal_runs_pass(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = write(old.parent / "new", {SCORES: scores(), FRAMES: frames()})
    check(old, new)
    assert capsys.readouterr().out == "2 tables compared, 0 changes, 0 of them too large\n"


def test_timings_do_not_count(old: Path) -> None:
    assert moved(old, scores=scores().assign(seconds=99.0)) == []


def test_chance_passes_and_is_told(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(2)
    other = scores()
    other["dice"] += 0.008 * (2 * random.random(9) - 1)
    new = write(old.parent / "new", {SCORES: other, FRAMES: frames()})
    check(old, new)
    told = capsys.readouterr().out
    assert told.startswith("within: 05_static_segmentation/final_scores.csv, dice: by up to 0.00")
    assert "9 of 9 rows" in told


def test_the_order_of_rows_and_columns_does_not_count(old: Path) -> None:
    turned = scores().iloc[::-1]
    assert moved(old, scores=turned[turned.columns[::-1]]) == []


def test_what_only_the_new_run_has_is_no_fault(old: Path) -> None:
    new = write(old.parent / "new", {SCORES: scores().assign(ssim=1.0), FRAMES: frames()})
    write(new, {"07_dynamic_segmentation/tables/labels.csv": scores()})
    changes, _ = compare(old, new)
    assert {change.what for change in changes} == {"the column is new", "the table is new"}
    assert not any(change.too_much for change in changes)


# --- what is not ---


def test_a_change_of_two_hundredths_of_dice_is_found(old: Path) -> None:
    other = scores()
    other.loc[4, "dice"] -= 0.02
    (told,) = moved(old, scores=other)
    assert told.startswith("MOVED: 05_static_segmentation/final_scores.csv, dice: by up to 0.02 ")
    assert "subject E02, bone talus" in told
    assert f"{scores().loc[4, 'dice']:.6g} -> {other.loc[4, 'dice']:.6g}; 1 of 9 rows" in told


def test_so_is_it_where_every_row_moves_a_little_on_the_mean(old: Path) -> None:
    shifted = frames().assign(tre_mm=frames()["tre_mm"] + 0.15)
    assert len(moved(old, frames=shifted)) == 1
    part = frames()
    part.loc[part["bone"] == "talus", "tre_mm"] += 0.15  # 0.05 of all
    assert "the mean of bone talus by 0.15" in moved(old, frames=part)[0]
    one_case = frames()
    one_case.loc[7, "tre_mm"] += 0.15  # 1 of 240: a case may differ
    assert moved(old, frames=one_case) == []
    one_case.loc[7, "tre_mm"] += 5
    assert "frame 2, bone talus" in moved(old, frames=one_case)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": 1_179_570}, "parameters: by up to 1 (0)"),
        ({"dice": np.nan}, "dice: by up to inf"),
        ({"accepted": False}, "9 rows are gone, the first of subject E01"),
        ({"bone": "femur"}, "bone femur"),
    ],
)
def test_other_changes_are_found(old: Path, change: dict, message: str) -> None:
    assert any(message in told for told in moved(old, scores=scores().assign(**change)))


def test_lost_rows_columns_and_tables_are_found(old: Path) -> None:
    assert "1 rows are gone" in moved(old, scores=scores().iloc[1:])[0]
    assert "dice: the column is gone" in moved(old, scores=scores().drop(columns="dice"))[0]
    changes, n_tables = compare(old, write(old.parent / "less", {SCORES: scores()}))
    assert n_tables == 1
    (told,) = map(str, changes)
    assert told == "MOVED: 03_registration/registration.csv: the table is gone"


def test_only_the_asked_chapters_are_compared(old: Path) -> None:
    new = write(old.parent / "new", {SCORES: scores(), FRAMES: frames().iloc[1:]})
    assert compare(old, new, ["05_static_segmentation"]) == ([], 1)


def test_a_folder_without_tables_is_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="holds no tables: give the folder of a run"):
        compare(old, tmp_path / "nowhere")
    with pytest.raises(AnkleError, match=r"holds no tables of 01_data_cleaning"):
        compare(old, old, ["01_data_cleaning"])


# --- the page ---


def test_the_page_shows_changes_and_figures_that_differ(old: Path) -> None:
    other = scores()
    other.loc[4, "dice"] -= 0.02
    new = write(old.parent / "new", {SCORES: other, FRAMES: frames()})
    for run, title in ((old, "one"), (new, "another")):
        for name, shown in (("final", title), ("patches", "the same")):
            figure = new_figure(2, 1)
            figure.suptitle(shown)
            write_figure(run / "05_static_segmentation" / "figures" / name, figure)
    with pytest.raises(AnkleError, match=r"1 changes are larger .* look at .*comparison.html"):
        check(old, new)
    page = (new / PAGE).read_text()
    assert page.count("<img") == 2
    assert "05_static_segmentation/final.png" in page
    assert "patches.png" not in page
    assert "1 figures differ" in page
    assert "subject E02, bone talus" in page
    assert not list(new.glob(".partial-*"))


def test_short_trainings_may_differ_on_another_machine(tmp_path: Path) -> None:
    name = "05_static_segmentation/tables/table_6_3.csv"
    old = write(tmp_path / "old", {name: scores(), SCORES: scores()})
    new = write(tmp_path / "new", {name: scores().assign(dice=0.7), SCORES: scores()})
    assert [change.too_much for change in compare(old, new)[0]] == [True]
    assert [change.too_much for change in compare(old, new, other_machine=True)[0]] == [False]
    write(new, {SCORES: scores().assign(dice=0.9)})
    changes, _ = compare(old, new, other_machine=True)
    assert [change.place for change in changes if change.too_much] == [
        "05_static_segmentation/final_scores.csv, dice"
    ]
