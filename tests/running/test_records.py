"""When is a chapter up to date? Without kernels: `finish` is called as `ankle run` would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.manifest.document import load_manifest
from ankle_lib.running import records
from tests.course import two_chapters, write_notebook

PARAMETERS = {"preset": "smoke", "results": "here", "device": "cpu"}
MODULES = ("ankle_lib", "ankle_lib.files", "ankle_lib.phantom")


class Course:
    """A second chapter that has finished and read the first."""

    def __init__(self, root: Path) -> None:
        self.root = two_chapters(root)
        self.notebook = root / "notebooks" / "02_second.ipynb"
        self.first = root / "results" / "01_first"
        self.second = root / "results" / "02_second"
        self.write(self.first / "tables" / "numbers.csv")
        self.prepare()
        self.write(self.second / "tables" / "doubled.csv")
        self.write(self.second / "figures" / "a.png")
        self.finish()

    def now(self, **parameters: object) -> records.State:
        cohort = load_manifest(self.root / "data_manifest.yaml").cohort("toy")
        parameters = {**PARAMETERS, **parameters}
        return records.state_of(self.notebook, parameters, cohort, self.first.parent, ["01_first"])

    def prepare(self, afresh: bool = False, **parameters: object) -> None:
        self.then = self.now(**parameters)
        records.prepare_folder(self.second, self.then, afresh=afresh)

    def finish(self, inputs: tuple[str, ...] = ("01_first",)) -> None:
        records.finish(self.second, {}, self.then, inputs, MODULES)

    def up_to_date(self, **parameters: object) -> bool:
        return records.up_to_date(self.second, self.now(**parameters))

    @staticmethod
    def write(path: Path, text: str = "x") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def files(self) -> list[str]:
        visible = (path for path in self.second.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.second).as_posix() for path in visible)


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return Course(tmp_path)


def test_what_changes_nothing(course: Course) -> None:
    assert course.up_to_date()
    assert course.up_to_date(results="elsewhere")
    notebook = nbformat.read(course.notebook, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("more text"))
    nbformat.write(notebook, course.notebook)
    course.write(course.first / "figures" / "new.png")  # figures are for people
    course.write(course.first / "run.json")
    course.write(course.second / "note.txt", "by hand")
    assert course.up_to_date()


def test_what_makes_it_run_again(course: Course) -> None:
    assert not course.up_to_date(preset="laptop")
    assert not course.up_to_date(radius_mm=3)
    write_notebook(course.notebook, "1 + 1")
    assert not course.up_to_date()


@pytest.mark.parametrize("file", ["tables/doubled.csv", "figures/a.png", "run.json"])
def test_a_missing_output(course: Course, file: str) -> None:
    (course.second / file).unlink()
    assert not course.up_to_date()


def test_a_corrupted_output_is_made_again(course: Course) -> None:
    table = course.second / "tables" / "doubled.csv"
    os.utime(table, (1, 1))  # a copy, or a clock that has jumped
    assert course.up_to_date()
    table.write_text("y")
    assert not course.up_to_date()
    course.prepare()
    assert not table.exists()


def test_figures_and_notebooks_may_be_touched(course: Course) -> None:
    course.write(course.second / "figures" / "a.png", "annotated")
    assert course.up_to_date()


def test_a_changed_scan(course: Course) -> None:
    (course.root / "scans" / "static.txt").write_text("another scan")
    assert not course.up_to_date()


def test_a_changed_manifest(course: Course) -> None:
    manifest = course.root / "data_manifest.yaml"
    manifest.write_text(manifest.read_text().replace("group: control", "group: equinus"))
    assert not course.up_to_date()


@pytest.mark.parametrize("change", ["text", "time", "more", "less"])
def test_changed_results_of_a_chapter_that_it_read(course: Course, change: str) -> None:
    table = course.first / "tables" / "numbers.csv"
    if change == "text":
        table.write_text("longer")
    elif change == "time":
        os.utime(table, (1, 1))
    elif change == "more":
        course.write(course.first / "more.csv")
    else:
        table.unlink()
    assert not course.up_to_date()


def test_changed_code_counts_if_it_was_imported(
    course: Course, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "copy" / "ankle_lib"
    for module in ("__init__.py", "files.py", "cleaning.py", "phantom/__init__.py"):
        course.write(package / module, f"# {module}")
    monkeypatch.setattr("ankle_lib.__file__", str(package / "__init__.py"))
    course.prepare()
    course.finish(())
    assert course.up_to_date()
    course.write(package / "cleaning.py", "# changed")
    assert course.up_to_date()
    course.write(package / "files.py", "# changed")
    assert not course.up_to_date()


def test_what_changes_while_a_chapter_runs_makes_it_run_again(course: Course) -> None:
    course.prepare()
    course.write(course.first / "tables" / "numbers.csv", "new numbers")
    course.finish()
    assert not course.up_to_date()


def test_a_broken_record_is_no_record(course: Course) -> None:
    for text in ("{", "[]", "{}"):
        (course.second / "run.json").write_text(text)
        assert not course.up_to_date()


@pytest.mark.parametrize("lost", ["fingerprint", "code", "inputs", "outputs"])
def test_a_record_that_lacks_something_is_no_record(course: Course, lost: str) -> None:
    record = json.loads((course.second / "run.json").read_text())
    for change in ({}, {lost: None}):
        changed = {name: value for name, value in record.items() if name != lost} | change
        (course.second / "run.json").write_text(json.dumps(changed))
        assert not course.up_to_date()


def test_a_killed_run_keeps_what_it_remembers(course: Course) -> None:
    course.prepare()
    course.write(course.second / "sub-T01" / "image.nii.gz")
    course.write(course.second / "tables" / "half.csv")
    course.prepare()
    assert course.files() == [".started.json", "sub-T01/image.nii.gz"]
    course.prepare(afresh=True)
    assert course.files() == [".started.json"]


def test_a_killed_run_keeps_nothing_if_something_changed(course: Course) -> None:
    course.prepare()
    course.write(course.second / "sub-T01" / "image.nii.gz")
    course.prepare(radius_mm=3)
    assert course.files() == [".started.json"]
    course.write(course.second / "sub-T01" / "image.nii.gz")
    course.write(course.first / "tables" / "numbers.csv", "new numbers")
    course.prepare(radius_mm=3)
    assert course.files() == [".started.json"]


def test_trained_networks_outlive_other_changes(course: Course) -> None:
    networks = [f"trainings/unet-{name}/weights.ckpt" for name in ("one", "two", "three")]
    for network in networks:
        course.write(course.second / network)
    course.write(course.second / "trainings" / ".partial-1-weights.ckpt")
    course.prepare()
    course.finish()
    course.write(course.second / networks[1], "damaged")
    (course.second / networks[2]).unlink()
    course.prepare(radius_mm=3)
    assert course.files() == [".started.json", networks[0]]
    course.prepare(afresh=True, radius_mm=3)
    assert course.files() == [".started.json"]


@pytest.mark.parametrize("change", ["nothing", "code or parameters", "an earlier chapter", "force"])
def test_verdicts_outlive_every_run(course: Course, change: str) -> None:
    for name in records.KEPT:
        course.write(course.second / name, "talus rejected by a person")
    course.write(course.second / "sub-T01" / "qc_sheet.csv", "no review sheet at this place")
    course.write(course.second / ".records" / "T01.json")
    course.prepare(radius_mm=1)
    if change == "an earlier chapter":
        course.write(course.first / "tables" / "numbers.csv", "new numbers")
    course.prepare(afresh=change == "force", radius_mm=2 if "code" in change else 1)
    assert course.files() == sorted([".started.json", *records.KEPT])
    assert all((course.second / name).read_text().startswith("talus") for name in records.KEPT)


def test_a_verdict_concerns_the_chapters_that_read_it(course: Course) -> None:
    sheet = course.second / "qc_sheet.csv"
    course.write(sheet, "talus accepted")
    course.prepare()
    course.write(course.second / "tables" / "doubled.csv")
    course.finish()
    third = course.root / "results" / "03_third"

    def now() -> records.State:
        cohort = load_manifest(course.root / "data_manifest.yaml").cohort("toy")
        earlier = ["01_first", "02_second"]
        return records.state_of(course.notebook, PARAMETERS, cohort, third.parent, earlier)

    records.prepare_folder(third, now())
    records.finish(third, {}, now(), ["02_second"], MODULES)
    assert course.up_to_date()
    assert records.up_to_date(third, now())
    course.write(course.second / ".qc_sheet.csv.lock", "")  # someone looks
    assert records.up_to_date(third, now())
    course.write(sheet, "talus rejected")
    assert course.up_to_date()
    assert not records.up_to_date(third, now())


def test_a_kept_sheet_alone_is_no_result(course: Course) -> None:
    third = course.root / "results" / "03_third"
    course.write(third / "qc_sheet.csv")
    assert not records.has_results(third)
    course.write(third / "tables" / "registration.csv")
    assert records.has_results(third)


def test_unfinished_results_are_no_results(course: Course) -> None:
    assert records.has_results(course.second)
    course.prepare()
    course.write(course.second / "tables" / "half.csv")
    assert not records.has_results(course.second)
    records.start_by_hand(course.second)
    assert not records.has_results(course.second)
    records.finish_by_hand(course.second)
    assert records.has_results(course.second)
    assert not records.has_results(course.root / "results" / "03_third")


def test_partial_files_are_cleared(course: Course) -> None:
    course.write(course.second / "sub-T01" / ".partial-1234-image.nii.gz")
    course.write(course.second / ".partial-notebook.ipynb")
    before = course.files()
    records.clear_partial_files(course.root / "results")
    assert course.files() == [name for name in before if ".partial-" not in name]


def test_the_commit_is_that_of_the_repository(tmp_path: Path) -> None:
    assert records.versions(tmp_path)["commit"] is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    import subprocess

    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("x")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    commit = records.versions(tmp_path)["commit"]
    assert len(commit) == 40
    (tmp_path / "file").write_text("y")
    assert records.versions(tmp_path)["commit"] == f"{commit}-dirty"


# --- one writer per folder ---


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process as a run marked ``abc`` would have started it."""
    environment = {**os.environ, records.RUN_VARIABLE: "abc"}
    command = [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(("mark", "ends"), [("abc", True), ("another", False)])
def test_only_what_a_dead_run_left_is_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], mark: str, ends: bool
) -> None:
    (tmp_path / ".writer.json").write_text(json.dumps({"pid": 1, "mark": mark}))
    with records.one_writer(tmp_path):
        assert (sleeper.poll() is not None) == ends


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with (
        records.one_writer(tmp_path),
        pytest.raises(AnkleError, match=f"process {os.getpid()} is writing to {tmp_path}"),
        records.one_writer(tmp_path),
    ):
        pass
    with records.one_writer(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])


def test_marks_nest_and_end(tmp_path: Path) -> None:
    with records.one_writer(tmp_path / "outer"):
        outer = os.environ[records.RUN_VARIABLE]
        with records.one_writer(tmp_path / "inner"):
            assert os.environ[records.RUN_VARIABLE] != outer
        assert os.environ[records.RUN_VARIABLE] == outer
    assert records.RUN_VARIABLE not in os.environ


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), records.one_writer(tmp_path):
        raise ZeroDivisionError
    with records.one_writer(tmp_path):
        pass


# --- the GPU ---

DRIVER = """\
#!/bin/sh
echo "Some GPU, 570.86, 81559 MiB"
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the driver's tool."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(DRIVER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("driver")
def test_the_record_tells_of_the_gpu() -> None:
    told = records.gpu("cuda")
    assert told is not None
    assert (told["name"], told["driver"], told["memory"]) == ("Some GPU", "570.86", "81559 MiB")
    assert {"cuda", "cudnn"} < told.keys()
    assert records.gpu("cpu") is None


def test_a_machine_without_driver_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    told = records.gpu("cuda")
    assert told is not None
    assert (told["name"], told["driver"]) == (None, None)
