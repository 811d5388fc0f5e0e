from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.running import course as courses
from ankle_lib.running.chapter import Place, open_chapter
from ankle_lib.running.records import one_writer
from tests.course import (
    OPEN,
    WRITE_TABLE,
    execute_here,
    two_chapters,
    write_course,
    write_notebook,
)


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute notebooks in this process: most promises of a run need no kernel."""
    monkeypatch.setattr("ankle_lib.running.execution.execute_notebook", execute_here)


def run(root: Path, **options: Any) -> list[tuple[str, str]]:
    options = {"cohort": "toy", "device": "cpu", **options}
    runs = courses.run("smoke", root=root, **options)
    return [(run.chapter, run.status) for run in runs]


def snapshot(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


# --- a run and what it leaves ---


def test_a_run_leaves_results_notebooks_and_records(tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("no_kernel")
def test_chapters_run_again_only_if_something_is_missing(tmp_path: Path) -> None:
    root = two_chapters(tmp_path)
    results = root / "results" / "smoke-toy"
    run(root)
    before = snapshot(results)
    assert run(root) == [("01_first", "up to date"), ("02_second", "up to date")]
    assert snapshot(results) == before

    (results / "02_second" / "tables" / "doubled.csv").unlink()
    assert run(root) == [("01_first", "up to date"), ("02_second", "done")]
    assert run(root, only="1", force=True) == [("01_first", "done")]
    assert run(root, start="02") == [("02_second", "done")]  # its input was written anew


@pytest.mark.usefixtures("no_kernel")
def test_a_failure_names_chapter_cell_error_and_notebook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    capsys.readouterr()
    with pytest.raises(AnkleError) as caught:
        run(root)
    failed = root / "results" / "smoke-toy" / "02_second" / "notebook.failed.ipynb"
    assert str(caught.value) == f"02_second failed: In [4]: KeyError: 'talus'; see {failed}"
    assert failed.exists()
    assert not list(failed.parent.glob("run.json"))
    assert not list(failed.parent.glob("notebook.ipynb"))
    assert not (failed.parents[1] / "03_third").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "01_first: up to date"
    assert lines[1].startswith("02_second: failed in ")

    # what reads a chapter that did not finish is refused; once it is mended all goes on
    place = Place.find("smoke", root / "results", "toy", "cpu", root)
    with pytest.raises(
        AnkleError, match=r"02_second, which .* `ankle run --preset smoke --only 02"
    ):
        place.check_finished("03_third", ["01_first", "02_second"])
    write_notebook(root / "notebooks" / "02_second.ipynb", OPEN.format(name="02_second"))
    assert [status for _, status in run(root)] == ["up to date", "done", "done"]
    assert not failed.exists()
    assert place.chapters == failed.parents[1]


@pytest.mark.usefixtures("no_kernel")
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
        ({"part": "2"}, "no notebooks NN_name.ipynb of part 2"),
        ({"part": "II"}, "no part 'II': choose 1, 2 or all"),
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


@pytest.mark.usefixtures("no_kernel")
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
        one_writer(root / "results" / "smoke-toy"),
        pytest.raises(AnkleError, match=f"process {os.getpid()} is writing to"),
    ):
        run(root)


@pytest.mark.usefixtures("no_kernel")
def test_a_run_leaves_a_folder_alone_in_which_a_notebook_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = two_chapters(tmp_path)
    run(root)
    monkeypatch.chdir(root)
    chapter = open_chapter("02_second", "smoke", "results", "toy", "cpu")
    written = chapter.folder / "by_hand.txt"
    written.write_text("precious")
    with pytest.raises(AnkleError, match=r"02_second: .*shut down its kernel"):
        run(root)
    assert run(root, only="1") == [("01_first", "up to date")]
    assert written.exists()
    chapter.finish()
    assert run(root) == [("01_first", "up to date"), ("02_second", "done")]
    assert not written.exists()


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("options", [{"only": "2"}, {"start": "2"}])
def test_missing_chapters_are_told_before_a_cohort_is_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    root = two_chapters(tmp_path)
    monkeypatch.setattr(Place, "make_cohort", lambda self: pytest.fail("simulated"))
    with pytest.raises(AnkleError, match="02_second reads 01_first, which has no finished results"):
        run(root, **options)


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ankle_lib.running.execution.execute_notebook", execute_here)
        run(root, only="1")
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
    sleeping_run: tuple[Path, subprocess.Popen[str], int], monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr("ankle_lib.running.execution.execute_notebook", execute_here)
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


@pytest.mark.usefixtures("no_kernel")
def test_any_path_will_do(tmp_path: Path) -> None:
    root, results = two_chapters(tmp_path / "a {b} [c]"), tmp_path / "my {y} ü"
    assert run(root, results=results) == [("01_first", "done"), ("02_second", "done")]
    assert (results / "smoke-toy" / "02_second" / "tables" / "doubled.csv").exists()
    assert [status for _, status in run(root, results=results)] == ["up to date"] * 2


# --- claims, and a reference to compare with ---

CLAIM = """\
shown = chapter.claim({"numbers rise": numbers["value"].diff().dropna() > 0, "all are one": False})
"""


@pytest.mark.usefixtures("no_kernel")
def test_a_failed_claim_is_told_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = two_chapters(tmp_path)
    notebook = root / "notebooks" / "01_first.ipynb"
    write_notebook(
        notebook, OPEN.format(name="01_first"), WRITE_TABLE.replace("chapter", "numbers = chapter"),
        CLAIM,
    )  # fmt: skip
    assert run(root) == [("01_first", "done"), ("02_second", "done")]
    assert capsys.readouterr().out.splitlines()[1] == "  does not hold: all are one"
    folder = root / "results" / "smoke-toy" / "01_first"
    assert json.loads((folder / "run.json").read_text())["failed_claims"] == ["all are one"]
    table = (folder / "tables" / "claims.csv").read_text()
    assert table == "claim,holds\nnumbers rise,True\nall are one,False\n"
    run(root)
    assert "does not hold: all are one" in capsys.readouterr().out  # also of what is up to date


@pytest.mark.usefixtures("no_kernel")
def test_a_run_is_compared_with_a_reference(tmp_path: Path) -> None:
    root = two_chapters(tmp_path)
    run(root)
    reference = tmp_path / "reference"
    shutil.copytree(root / "results" / "smoke-toy", reference)
    run(root, reference=reference)
    table = reference / "02_second" / "tables" / "doubled.csv"
    table.write_text(table.read_text().replace("4", "5"))
    run(root, only="1", reference=reference)
    with pytest.raises(AnkleError, match="1 changes are larger than they may be"):
        run(root, reference=reference)
    with pytest.raises(AnkleError, match="nowhere holds no tables"):
        run(root, reference=tmp_path / "nowhere", force=True)
    assert (root / "results" / "smoke-toy" / "01_first" / "run.json").exists()  # nothing was run


@pytest.mark.usefixtures("no_kernel")
def test_paper_does_not_end_up_on_a_cpu_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    root = two_chapters(tmp_path)
    with pytest.raises(AnkleError, match=r"paper is for a GPU.* --device cpu") as caught:
        courses.run("paper", cohort="toy", root=root)
    assert "\n" not in str(caught.value)
    assert not (root / "results").exists()
    assert [one.status for one in courses.run("paper", cohort="toy", root=root, device="cpu")]
    assert [one.status for one in courses.run("smoke", cohort="toy", root=root)]
