from __future__ import annotations

import multiprocessing
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ankle_lib.files import AnkleError
from ankle_lib.geometry import rigid
from ankle_lib.pose_files import FramePose, write_transforms
from ankle_lib.quality.review_sheet import (
    AUTOMATIC,
    COLUMNS,
    KEY,
    SHEET_NAME,
    ReviewSheet,
    accepted,
    frame_path,
    read_registered,
)
from ankle_lib.running import records

# --- the review sheet ---


def rows(correlations: dict[tuple[str, str, int, str], float], gate: float = 0.8) -> pd.DataFrame:
    table = pd.DataFrame([*correlations], columns=list(KEY))
    table["correlation"] = [*correlations.values()]
    table["verdict"] = np.where(table["correlation"] >= gate, "accepted", "rejected")
    return table


FIRST = ("T01", "active_run-01", 0, "talus")
SECOND = ("T01", "active_run-01", 1, "talus")
THIRD = ("T01", "active_run-01", 10, "talus")


@pytest.fixture
def sheet(tmp_path: Path) -> ReviewSheet:
    sheet = ReviewSheet(tmp_path / SHEET_NAME)
    sheet.update(rows({THIRD: 0.5, SECOND: 0.912345, FIRST: 0.95}))
    return sheet


def undecided(sheet: ReviewSheet) -> pd.DataFrame:
    table = sheet.table()
    return table[table["reviewer"] == "automatic"]


def verdicts(sheet: ReviewSheet) -> dict[int, tuple[str, str]]:
    table = sheet.table()
    pairs = zip(table["verdict"], table["reviewer"], strict=True)
    return dict(zip(table["frame"], pairs, strict=True))


def test_a_new_sheet_holds_the_gates_verdicts_in_order(sheet: ReviewSheet) -> None:
    lines = sheet.path.read_text().splitlines()
    assert lines == [
        "subject,sequence,frame,bone,correlation,verdict,reviewer,time,note",
        "T01,active_run-01,0,talus,0.9500,accepted,automatic,,",
        "T01,active_run-01,1,talus,0.9123,accepted,automatic,,",
        "T01,active_run-01,10,talus,0.5000,rejected,automatic,,",
    ]
    assert len(undecided(sheet)) == 3
    assert accepted(sheet.path)["frame"].tolist() == [0, 1]


def test_a_persons_verdict_wins(sheet: ReviewSheet) -> None:
    table = sheet.judge(*SECOND, "rejected", "Ada", "slipped")
    pd.testing.assert_frame_equal(table, sheet.table())
    assert verdicts(sheet)[1] == ("rejected", "Ada")
    row = table[table["frame"] == 1].iloc[0]
    assert row["time"].endswith("Z")
    assert abs(pd.Timestamp(row["time"]) - pd.Timestamp.now("UTC")) < pd.Timedelta("1min")
    assert row["note"] == "slipped"
    assert accepted(sheet.path)["frame"].tolist() == [0]
    assert undecided(sheet)["frame"].tolist() == [0, 10]
    sheet.judge(*SECOND, "unsure", "Ben")
    assert verdicts(sheet)[1] == ("unsure", "Ben")
    assert accepted(sheet.path)["frame"].tolist() == [0]


def test_only_the_registration_that_was_seen_is_judged(sheet: ReviewSheet) -> None:
    with pytest.raises(
        AnkleError, match=r"again meanwhile \(correlation 0.8000, now 0.9500\): look"
    ):
        sheet.judge(*FIRST, "accepted", "Ada", correlation=0.8)
    with pytest.raises(AnkleError, match="again meanwhile"):
        sheet.judge(*FIRST, "accepted", "Ada", correlation=np.nan)
    assert len(undecided(sheet)) == 3
    sheet.judge(*SECOND, "accepted", "Ada", correlation=0.912345)
    assert len(undecided(sheet)) == 2


def test_a_new_run_keeps_verdicts_on_equal_registrations(sheet: ReviewSheet) -> None:
    sheet.judge(*SECOND, "rejected", "Ada", "slipped")
    sheet.judge(*THIRD, "accepted", "Ada", "looks right")
    sheet.update(rows({FIRST: 0.7, SECOND: 0.912345 + 3e-7, THIRD: 0.6}))
    assert verdicts(sheet) == {
        0: ("rejected", AUTOMATIC),  # as the gate sees the new registration
        1: ("rejected", "Ada"),
        10: ("rejected", AUTOMATIC),  # no longer the registration that Ada saw
    }
    note = sheet.table()["note"].iloc[2]
    assert note == "earlier: Ada accepted (0.5000): looks right"


def test_what_was_said_of_earlier_registrations_is_not_forgotten(sheet: ReviewSheet) -> None:
    sheet.judge(*FIRST, "rejected", "Ada", "slipped; see me")
    for correlation in (0.7, 0.7, 0.71):
        table = rows({FIRST: correlation})
        table["note"] = "fit failed"
        sheet.update(table)
        note = sheet.table()["note"].iloc[0]
        assert note == "fit failed; earlier: Ada rejected (0.9500): slipped; see me"


def test_rows_that_are_gone_stay_if_a_person_judged_them(sheet: ReviewSheet) -> None:
    sheet.judge(*THIRD, "unsure", "Ada")
    sheet.update(rows({SECOND: 0.91}))
    assert verdicts(sheet) == {1: ("accepted", AUTOMATIC), 10: ("unsure", "Ada")}
    sheet.update(rows({}))
    assert verdicts(sheet) == {10: ("unsure", "Ada")}


def test_a_failed_fit_has_no_correlation(sheet: ReviewSheet) -> None:
    sheet.update(rows({FIRST: np.nan}))
    sheet.judge(*FIRST, "rejected", "Ada")
    sheet.update(rows({FIRST: np.nan}))
    assert verdicts(sheet) == {0: ("rejected", "Ada")}
    assert np.isnan(sheet.table()["correlation"][0])
    sheet.update(rows({FIRST: 0.9}))
    assert verdicts(sheet) == {0: ("accepted", AUTOMATIC)}


def test_an_equal_update_does_not_touch_the_file(sheet: ReviewSheet) -> None:
    before = sheet.path.stat()
    sheet.update(rows({THIRD: 0.5, SECOND: 0.912345, FIRST: 0.95}))
    assert sheet.path.stat().st_mtime_ns == before.st_mtime_ns
    assert sheet.path.stat().st_ino == before.st_ino


def test_an_update_may_bring_notes(sheet: ReviewSheet) -> None:
    table = rows({FIRST: 0.95, SECOND: 0.7})
    table["note"] = [np.nan, "fit failed"]
    table["seconds"] = 1.0  # ignored
    assert sheet.update(table)["note"].tolist() == ["", "fit failed"]
    assert list(sheet.table()) == list(COLUMNS)


def test_bad_verdicts_of_people(sheet: ReviewSheet, tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="verdict 'fine': choose one of accepted, rejected"):
        sheet.judge(*FIRST, "fine", "Ada")
    for nobody in ("", " ", AUTOMATIC):
        with pytest.raises(AnkleError, match="name of the person"):
            sheet.judge(*FIRST, "accepted", nobody)
    with pytest.raises(AnkleError, match="has no row T09, active_run-01, 0, talus"):
        sheet.judge("T09", *FIRST[1:], "accepted", "Ada")
    with pytest.raises(AnkleError, match="no such review sheet: run the registration"):
        ReviewSheet(tmp_path / "none.csv").judge(*FIRST, "accepted", "Ada")


NASTY = [
    "=1+1",
    "+cmd",
    'he said "no", twice',
    "two\nlines",
    "semi;colon\ttab",
    "ü ½ 骨",
    "'",
    " a ",
]


@pytest.mark.parametrize("note", NASTY)
def test_notes_survive(sheet: ReviewSheet, note: str) -> None:
    sheet.judge(*FIRST, "accepted", "Ada, M.D.", note)
    sheet.judge(*SECOND, "accepted", "Ben")
    assert sheet.table()["note"].tolist() == [note, "", ""]
    assert sheet.table()["reviewer"].tolist() == ["Ada, M.D.", "Ben", AUTOMATIC]


@settings(max_examples=60, deadline=None)
@given(note=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_note_survives(tmp_path_factory: pytest.TempPathFactory, note: str) -> None:
    sheet = ReviewSheet(tmp_path_factory.mktemp("sheet") / SHEET_NAME)
    sheet.update(rows({FIRST: 0.9, SECOND: 0.8}))
    sheet.judge(*FIRST, "accepted", "Ada", note)
    expected = note.replace("\r\n", "\n").replace("\r", "\n")
    assert sheet.table()["note"].tolist() == [expected, ""]


# --- what a spreadsheet makes of it ---


def by_spreadsheet(text: str, delimiter: str = ";") -> str:
    lines = text.splitlines()
    return "\r\n".join(line.replace(",", delimiter) for line in lines) + "\r\n"


def test_a_sheet_from_a_spreadsheet_is_understood(sheet: ReviewSheet) -> None:
    before = sheet.table()
    text = sheet.path.read_text()
    sheet.path.write_bytes(by_spreadsheet(text).replace("0.9", "0,9").encode("utf-8-sig"))
    pd.testing.assert_frame_equal(sheet.table(), before)
    sheet.path.write_bytes(by_spreadsheet(text, "\t").encode())
    pd.testing.assert_frame_equal(sheet.table(), before)
    sheet.path.write_text(text + ",,,,,,,,\n\n")
    pd.testing.assert_frame_equal(sheet.table(), before)
    sheet.path.write_text(text.replace("accepted", " Accepted").replace("subject,", '"subject",'))
    pd.testing.assert_frame_equal(sheet.table(), before)
    sheet.judge(*FIRST, "rejected", "Ada")  # is written in the one form again
    assert sheet.path.read_text().splitlines()[2] == text.splitlines()[2]


def test_columns_may_come_in_another_order(sheet: ReviewSheet) -> None:
    before = sheet.table()
    before[[*COLUMNS[::-1]]].to_csv(sheet.path, index=False)
    pd.testing.assert_frame_equal(sheet.table(), before)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("subject,", "patient,", "not a review sheet: its first line is 'patient,.*expected sub"),
        (",note", "", "not a review sheet"),
        (",note", ",note,mine", "not a review sheet"),
        ("0.9500,accepted", "0.9500,good", "line 2: verdict 'good': choose one of"),
        ("T01,active_run-01,1,", "T01,active_run-01,0,", "0, talus appears twice: keep one row"),
        ("run-01,1,", "run-01,one,", "line 3: frame 'one' and correlation '0.9123' must be numb"),
        ("0.9123", "n/a", "line 3: frame '1' and correlation 'n/a' must be numbers"),
        ("0.9500,accepted,automatic", "0.9500,accepted,", "line 2: reviewer is empty"),
        ("accepted,automatic,,", "accepted,automatic,", "line 2: 8 cells, expected 9"),
        ("automatic,,", 'automatic,,"open', "not a CSV file"),
    ],
)  # fmt: skip
def test_a_damaged_sheet_is_one_clear_error(
    sheet: ReviewSheet, old: str, new: str, message: str
) -> None:
    sheet.path.write_text(sheet.path.read_text().replace(old, new, 1))
    before = sheet.path.read_bytes()
    for action in (
        sheet.table,
        lambda: sheet.judge(*FIRST, "accepted", "Ada"),
        lambda: sheet.update(rows({FIRST: 0.9})),
    ):
        with pytest.raises(AnkleError, match=message) as caught:
            action()
        assert "\n" not in str(caught.value)
    assert sheet.path.read_bytes() == before


def test_a_sheet_that_is_no_text(sheet: ReviewSheet) -> None:
    sheet.path.write_bytes("note über".encode("latin-1"))
    with pytest.raises(AnkleError, match="not UTF-8: save it again"):
        sheet.table()
    sheet.path.write_text("")
    with pytest.raises(AnkleError, match="not a review sheet"):
        sheet.table()


# --- several people ---


def judge_many(path: Path, reviewer: str, numbers: list[int]) -> None:
    sheet = ReviewSheet(path)
    for frame in numbers:
        sheet.judge("T01", "active_run-01", frame, "talus", "unsure", reviewer, f"by {reviewer}")


def test_two_people_at_once_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / SHEET_NAME
    sheet = ReviewSheet(path)
    everything = {("T01", "active_run-01", frame, "talus"): 0.9 for frame in range(80)}
    sheet.update(rows(everything))
    spawn = multiprocessing.get_context("fork")
    people = [
        spawn.Process(target=judge_many, args=(path, name, list(range(start, 80, 2))))
        for start, name in enumerate(("Ada", "Ben"))
    ]
    for person in people:
        person.start()
    for _ in range(5):
        sheet.update(rows(everything))  # and the chapter runs meanwhile
    for person in people:
        person.join(60)
        assert person.exitcode == 0
    table = sheet.table()
    assert table["reviewer"].tolist() == ["Ada", "Ben"] * 40
    assert not [p for p in tmp_path.iterdir() if p.name not in records.KEPT]


def test_a_sheet_that_someone_holds(sheet: ReviewSheet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ankle_lib.quality.review_sheet.LOCK_TIMEOUT_S", 0.05)
    with (
        filelock.FileLock(sheet.path.with_name(f".{SHEET_NAME}.lock")),
        pytest.raises(AnkleError, match="another process has held it"),
    ):
        sheet.judge(*FIRST, "accepted", "Ada")


def test_the_pipeline_keeps_the_sheet_and_its_lock(sheet: ReviewSheet) -> None:
    sheet.judge(*FIRST, "accepted", "Ada")
    assert {path.name for path in sheet.path.parent.iterdir()} <= set(records.KEPT)
    assert SHEET_NAME in records.KEPT


# --- what goes on ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A registration folder of one subject: 3 frames, 2 bones, and the foot as a whole."""
    poses, table = [], {}
    for frame in range(3):
        for number, bone in enumerate(("whole", "talus", "tibia")):
            matrix = rigid((0, 0, frame), (number, 0, 0))
            correlation = 0.95 - 0.1 * frame + 0.001234 * number
            poses.append(FramePose(frame, bone, matrix, correlation, accepted=True))
            if bone == "whole":
                continue
            table["T01", "active_run-01", frame, bone] = correlation
            for image in (False, True):
                path = frame_path(tmp_path, "T01", "active_run-01", frame, bone, image=image)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"x")
    write_transforms(tmp_path / "sub-T01" / "sub-T01_task-active_run-01_transforms.json", poses)
    ReviewSheet(tmp_path / SHEET_NAME).update(rows(table))
    return tmp_path


def handed_on(folder: Path) -> set[tuple[int, str]]:
    return {(found.frame, found.bone) for found in read_registered(folder)}


def test_only_what_was_accepted_goes_on(folder: Path) -> None:
    assert handed_on(folder) == {(0, "talus"), (0, "tibia"), (1, "talus"), (1, "tibia")}
    sheet = ReviewSheet(folder / SHEET_NAME)
    sheet.judge("T01", "active_run-01", 0, "talus", "rejected", "Ada")
    sheet.judge("T01", "active_run-01", 1, "tibia", "unsure", "Ada")
    sheet.judge("T01", "active_run-01", 2, "tibia", "accepted", "Ada")  # the gate had not
    assert handed_on(folder) == {(0, "tibia"), (1, "talus"), (2, "tibia")}


def test_what_goes_on_is_complete(folder: Path) -> None:
    found = next(f for f in read_registered(folder) if (f.frame, f.bone) == (1, "tibia"))
    assert (found.subject, found.sequence) == ("T01", "active_run-01")
    np.testing.assert_allclose(found.pose, rigid((0, 0, 1), (2, 0, 0)))
    assert found.correlation == pytest.approx(0.85 + 0.002468)
    name = "sub-T01_task-active_run-01_frame-01_label-tibia"
    assert found.mask == folder / "sub-T01" / f"{name}_mask.nii.gz"
    assert found.moved_static == folder / "sub-T01" / f"{name}_desc-moved_static.nii.gz"


def test_verdicts_on_another_registration_are_refused(folder: Path) -> None:
    pose = FramePose(0, "talus", np.eye(4), 0.99, accepted=True)
    write_transforms(folder / "sub-T01" / "sub-T01_task-active_run-01_transforms.json", [pose])
    with pytest.raises(AnkleError, match=r"frame 0 talus with correlation 0.9512.*has 0.9900.*run"):
        read_registered(folder)


def test_a_verdict_without_registration(folder: Path) -> None:
    path = folder / "sub-T01" / "sub-T01_task-active_run-01_transforms.json"
    path.unlink()
    with pytest.raises(AnkleError, match="but there is none: run the registration again"):
        read_registered(folder)
    sheet = ReviewSheet(folder / SHEET_NAME)
    for frame, bone in ((0, "talus"), (0, "tibia"), (1, "talus"), (1, "tibia")):
        sheet.judge("T01", "active_run-01", frame, bone, "accepted", "Ada")
    assert read_registered(folder) == []


def test_a_missing_image(folder: Path) -> None:
    path = frame_path(folder, "T01", "active_run-01", 0, "talus", image=True)
    path.unlink()
    with pytest.raises(AnkleError, match=f"{path}: no such file: run"):
        read_registered(folder)
