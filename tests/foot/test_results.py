"""A folder holds one whole result, and nobody else's files are touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ankle_lib.files import AnkleError
from ankle_lib.foot.results import RECORD, frames_in_words, result_folder


def write(out: Path, *names: str, engine: str = "torch") -> None:
    with result_folder(out, {"engine": engine}) as folder:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(engine)


def content(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())


def test_a_new_result_replaces_the_earlier_one_and_only_that(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "transforms.json", "masks/frame-00.nii", "masks/frame-01.nii", "flirt/a.mat")
    (out / "masks" / "mine.txt").write_text("kept")
    write(out, "transforms.json", "masks/frame-00.nii", engine="flirt")
    assert content(out) == ["masks/frame-00.nii", "masks/mine.txt", RECORD, "transforms.json"]
    assert (out / "transforms.json").read_text() == "flirt"
    assert not (out / "flirt").exists()
    record = json.loads((out / RECORD).read_text())
    assert record["engine"] == "flirt"
    assert record["files"] == ["masks/frame-00.nii", "transforms.json"]


def test_a_failure_keeps_the_earlier_result(tmp_path: Path) -> None:
    write(tmp_path, "transforms.json", "masks/a.nii")
    before = content(tmp_path)
    with pytest.raises(FileNotFoundError):
        write(tmp_path, "transforms.json", "two/levels/deep.nii", engine="half")
    assert content(tmp_path) == before
    assert (tmp_path / "transforms.json").read_text() == "torch"


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".partial-12345678" / "masks").mkdir(parents=True)
    (tmp_path / ".partial-12345678" / "masks" / "a.nii").write_text("half")
    write(tmp_path, "transforms.json")
    assert content(tmp_path) == [RECORD, "transforms.json"]


@pytest.mark.parametrize(
    "record",
    [
        None,
        "no json",
        "[]",
        '{"files": []}',
        '{"command": "other", "files": []}',
        '{"command": "ankle register", "files": "all"}',
        '{"command": "ankle register", "files": [1]}',
        "[" * 100_000,
    ],
)
def test_a_folder_with_other_files_is_refused(tmp_path: Path, record: str | None) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    if record is not None:
        (tmp_path / RECORD).write_text(record)
    with pytest.raises(AnkleError, match="is not empty and holds no result"):
        write(tmp_path, "transforms.json")
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    assert not (tmp_path / "transforms.json").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(AnkleError, match="is a file"):
        write(tmp_path / "out", "transforms.json")


@pytest.mark.parametrize("name", ["../thesis.txt", "/etc/hostname", "masks/../../thesis.txt", ""])
def test_a_record_cannot_reach_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    out = tmp_path / "out"
    write(out, "transforms.json")
    record = {"command": "ankle register", "files": [name]}
    (out / RECORD).write_text(json.dumps(record))
    with pytest.raises(AnkleError, match="no file of this folder"):
        write(out, "transforms.json")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(out, "transforms.json")
    (out / "masks").symlink_to(elsewhere)
    with pytest.raises(AnkleError, match="leads out of"):
        write(out, "masks/a.nii")
    assert list(elsewhere.iterdir()) == []


def test_many_frames_are_listed_in_part() -> None:
    assert frames_in_words([4]) == "frame 4"
    assert frames_in_words([4, 9]) == "frames 4, 9"
    assert frames_in_words(range(20)) == "frames 0, 1, 2, 3, 4, 5, 6, 7, … (20 in all)"
