from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import psutil
import pytest
from matplotlib import pyplot as plt
from rich.console import Console

from ankle_lib import pipeline
from ankle_lib.files import AnkleError
from ankle_lib.running import kernel_side
from ankle_lib.running.chapter import Place
from ankle_lib.running.lock import alone
from tests.course import OPEN, WRITE_TABLE, two_chapters, write_course, write_notebook


def run(root: Path, **options: Any) -> list[tuple[str, str]]:
    options = {"cohort": "toy", "device": "cpu", "console": Console(file=io.StringIO()), **options}
    runs = pipeline.run("smoke", root=root, **options)
    return [(run.chapter, run.status) for run in runs]


def snapshot(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


# --- a run and what it leaves ---


def test_chapters_run_once_and_again_only_if_something_is_missing(tmp_path: Path) -> None:
    root = two_chapters(tmp_path)
    assert run(root) == [("01_first", "done"), ("02_second", "done")]
    results = root / "results" / "smoke-toy"
    assert sorted(snapshot(results)) == [
        "01_first/notebook.ipynb",
        "01_first/run.json",
        "01_first/tables/numbers.csv",
        "02_second/notebook.ipynb",
        "02_second/run.json",
        "02_second/tables/doubled.csv",
    ]
    record = json.loads((results / "02_second" / "run.json").read_text())
    assert record["preset"] == "smoke"
    assert record["seed"] is None
    assert record["device"] == "cpu"
    assert record["parameters"]["cohort"] == "toy"
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 0.1 < record["wall_s"] < 300
    assert 20 < record["peak_rss_mb"] < 4000
    assert record["peak_gpu_mb"] == 0
    assert list(record["inputs"]) == ["01_first"]
    assert "commit" in record
    executed = nbformat.read(results / "02_second" / "notebook.ipynb", as_version=4)
    assert executed.metadata.papermill.output_path.endswith("02_second/notebook.ipynb")

    before = snapshot(results)
    assert run(root) == [("01_first", "up to date"), ("02_second", "up to date")]
    assert snapshot(results) == before

    (results / "02_second" / "tables" / "doubled.csv").unlink()
    assert run(root) == [("01_first", "up to date"), ("02_second", "done")]
    assert run(root, only="1", force=True) == [("01_first", "done")]
    assert run(root, start="02") == [("02_second", "done")]  # its input was written anew


def test_a_failure_names_chapter_cell_error_and_notebook(tmp_path: Path) -> None:
    opened = OPEN.format(name="01_first")
    root = write_course(
        tmp_path,
        {
            "01_first": [opened, WRITE_TABLE],
            "02_second": [OPEN.format(name="02_second"), "raise KeyError('talus')"],
            "03_third": ["1"],
        },
    )
    run(root, only="1")
    shown = io.StringIO()
    with pytest.raises(AnkleError) as caught:
        run(root, console=Console(file=shown))
    failed = root / "results" / "smoke-toy" / "02_second" / "notebook.failed.ipynb"
    assert str(caught.value) == f"02_second failed: In [4]: KeyError: 'talus'; see {failed}"
    assert failed.exists()
    assert not list(failed.parent.glob("run.json"))
    assert not list(failed.parent.glob("notebook.ipynb"))
    assert not (failed.parents[1] / "03_third").exists()
    assert "failed" in shown.getvalue()
    assert "up to date" in shown.getvalue()

    # what reads a chapter that did not finish is refused; once it is mended all goes on
    place = Place.find("smoke", root / "results", "toy", "cpu", root)
    os.environ["ANKLE_CHAPTER"] = "03_third"
    try:
        chapter = _opened(root, "03_third")
        command = "ankle run --preset smoke --only 02 --cohort toy --results .*/results`"
        with pytest.raises(AnkleError, match=command):
            chapter.previous("02_second")
    finally:
        del os.environ["ANKLE_CHAPTER"]
    write_notebook(root / "notebooks" / "02_second.ipynb", OPEN.format(name="02_second"))
    assert [status for _, status in run(root)] == ["up to date", "done", "done"]
    assert not failed.exists()
    assert place.folder == failed.parents[1]


def test_nothing_of_an_old_run_survives_a_change(tmp_path: Path) -> None:
    remember = "(chapter.folder / 'memory.txt').write_text('old')"
    opened = OPEN.format(name="01_first")
    root = write_course(tmp_path, {"01_first": [opened, WRITE_TABLE, remember]})
    run(root)
    folder = root / "results" / "smoke-toy" / "01_first"
    assert (folder / "memory.txt").exists()
    write_notebook(root / "notebooks" / "01_first.ipynb", opened)
    run(root)
    assert sorted(snapshot(folder)) == ["notebook.ipynb", "run.json"]


# --- refused before anything runs ---


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = two_chapters(tmp_path_factory.mktemp("course"))
    write_notebook(
        root / "notebooks" / "02_second.ipynb",
        parameters="radius_mm = 2.0\nengine = 'torch'\nfast = True\nseed = 2020\n",
    )
    return root


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": {"radius": 3.0}}, "parameter 'radius': did you mean 'radius_mm'"),
        ({"parameters": {"xyz": 3.0}}, "parameter 'xyz': known: "),
        ({"parameters": {"radius_mm": 3.0}, "only": "1"}, "no chapter that would run"),
        ({"parameters": {"radius_mm": "three"}}, "'three', but its default is 2.0: give a float"),
        ({"parameters": {"seed": True}}, "give a int"),
        ({"parameters": {"preset": "paper"}}, "use --preset"),
        ({"only": "7"}, "no chapter '7': choose one of 01_first, 02_second"),
        ({"only": "1", "start": "2"}, "exclude each other"),
        ({"cohort": "other"}, "there is no cohort 'other': choose one of toy"),
        ({"device": "tpu"}, "there is no device 'tpu'"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(
    course: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(AnkleError, match=message.replace("(", r"\(")) as caught:
        run(course, **options)
    assert "\n" not in str(caught.value)
    assert not (course / "results").exists()


def test_a_notebook_without_the_common_parameters_is_refused(tmp_path: Path) -> None:
    root = two_chapters(tmp_path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("preset = 'smoke'")])
    nbformat.write(notebook, root / "notebooks" / "02_second.ipynb")
    with pytest.raises(AnkleError, match="has no parameter preset, results, cohort, device"):
        run(root)
    assert not (root / "results").exists()


def test_parameters_reach_the_chapters_that_know_them(tmp_path: Path) -> None:
    root = two_chapters(tmp_path)
    write_notebook(
        root / "notebooks" / "02_second.ipynb",
        "assert radius_mm == 3 and seed == 7 and preset == 'smoke' and cohort == 'toy'",
        parameters="radius_mm = 2.0\nseed = 2020\n",
    )
    run(root, start="2", parameters={"radius_mm": 3, "seed": 7})
    record = json.loads((root / "results" / "smoke-toy" / "02_second" / "run.json").read_text())
    assert record["seed"] == 7
    assert record["parameters"]["radius_mm"] == 3


# --- one run at a time, killed and interrupted runs ---


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    root = two_chapters(tmp_path)
    with (
        alone(root / "results" / "smoke-toy"),
        pytest.raises(AnkleError, match=f"process {os.getpid()} is writing to"),
    ):
        run(root)


def _start(root: Path) -> subprocess.Popen[str]:
    code = "import sys; sys.argv[0] = 'ankle'; from ankle_lib.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "--preset", "smoke", "--cohort", "toy"]
    # What runs in the background of a script inherits that control-C is ignored; a person's
    # terminal does not.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=root, text=True, stderr=subprocess.PIPE, preexec_fn=listen)


def _wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


SLOW = """\
marker = chapter.folder / "remembered.txt"
text = marker.read_text() if marker.exists() else ""
marker.write_text(text + "run ")
import os, time
(chapter.folder / "kernel.txt").write_text(str(os.getpid()))
(chapter.folder / ".partial-abc").write_text("half")
while (chapter.folder.parents[2] / "wait").exists():
    time.sleep(0.1)
"""


@pytest.fixture
def sleeping_run(tmp_path: Path) -> Any:
    """Start a run whose second chapter waits, the first time it runs."""
    root = two_chapters(tmp_path)
    path = root / "notebooks" / "02_second.ipynb"
    write_notebook(path, OPEN.format(name="02_second"), WRITE_TABLE, SLOW)
    (root / "wait").touch()
    process = _start(root)
    second = root / "results" / "smoke-toy" / "02_second"
    _wait_for((second / ".partial-abc").exists)
    kernel = int((second / "kernel.txt").read_text())
    yield root, process, kernel
    process.kill()
    process.wait()


def test_a_killed_run_goes_on_where_it_stopped(
    sleeping_run: tuple[Path, subprocess.Popen[str], int],
) -> None:
    root, process, kernel = sleeping_run
    second = root / "results" / "smoke-toy" / "02_second"
    process.kill()
    process.wait()
    _wait_for(lambda: not psutil.pid_exists(kernel), seconds=10)
    assert not (second / "notebook.ipynb").exists()
    assert not (second / "run.json").exists()
    assert (second / ".partial-abc").exists()
    (root / "wait").unlink()
    assert run(root) == [("01_first", "up to date"), ("02_second", "done")]
    assert (second / "remembered.txt").read_text() == "run run "  # what it had done was kept
    run(root, only="2", force=True)
    assert (second / "remembered.txt").read_text() == "run "


def test_control_c_ends_run_and_kernel(
    sleeping_run: tuple[Path, subprocess.Popen[str], int],
) -> None:
    root, process, kernel = sleeping_run
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1].startswith("ankle: interrupted")
    assert "Traceback" not in errors
    assert not psutil.pid_exists(kernel)
    assert not (root / "results" / "smoke-toy" / ".writer.json").exists()
    (root / "wait").unlink()
    assert run(root)[1] == ("02_second", "done")


# --- a chapter as its notebook sees it ---


def _opened(root: Path, name: str) -> pipeline.Chapter:
    here = Path.cwd()
    os.chdir(root / "notebooks")
    try:
        return pipeline.open_chapter(name, "smoke", "results", "toy", "cpu")
    finally:
        os.chdir(here)


def test_a_chapter_opened_by_hand_lies_in_the_repository(tmp_path: Path) -> None:
    root = two_chapters(tmp_path)
    folder = root / "results" / "smoke-toy" / "01_first"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    chapter = _opened(root, "01_first")
    assert chapter.folder == folder
    assert chapter.tables.is_dir()
    assert chapter.figures.is_dir()
    assert not (folder / "run.json").exists()  # it no longer describes what is there
    assert chapter.preset.name == "smoke"
    assert chapter.device == "cpu"
    assert chapter.cohort_manifest == root / "data_manifest.yaml"
    assert [s.static for s in chapter.cohort_records.subjects] == [[root / "scans" / "static.txt"]]

    second = _opened(root, "02_second")
    with pytest.raises(AnkleError, match="02_second reads 01_first, which has no finished results"):
        second.previous("01_first")
    table = pd.DataFrame({"x": [1]})
    assert chapter.table(table, "one") is table
    assert second.previous("01_first") == folder
    assert "01_first" in json.loads(kernel_side.report())["inputs"]


def test_figures_are_shown_and_saved(tmp_path: Path) -> None:
    chapter = _opened(two_chapters(tmp_path), "01_first")
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
        pipeline.find_root()


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

    monkeypatch.setattr("ankle_lib.phantom.cohort.simulate", simulate)
    (tmp_path / "data_manifest.yaml").write_text(PHANTOM)
    place = Place.find("smoke", tmp_path / "results", cohort, "cpu", tmp_path)
    place.make_cohort()
    assert asked == [(sizes, f"results/{folder}/cohort", seed, "cpu")]
    assert place.seed == seed
