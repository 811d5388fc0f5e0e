from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ankle_lib.files import AnkleError
from ankle_lib.running.lock import RUN_VARIABLE, one_writer


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process as a run marked ``abc`` would have started it."""
    environment = {**os.environ, RUN_VARIABLE: "abc"}
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
    with one_writer(tmp_path):
        assert (sleeper.poll() is not None) == ends


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with (
        one_writer(tmp_path),
        pytest.raises(AnkleError, match=f"process {os.getpid()} is writing to {tmp_path}"),
        one_writer(tmp_path),
    ):
        pass
    with one_writer(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])


def test_marks_nest_and_end(tmp_path: Path) -> None:
    with one_writer(tmp_path / "outer"):
        outer = os.environ[RUN_VARIABLE]
        with one_writer(tmp_path / "inner"):
            assert os.environ[RUN_VARIABLE] != outer
        assert os.environ[RUN_VARIABLE] == outer
    assert RUN_VARIABLE not in os.environ


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), one_writer(tmp_path):
        raise ZeroDivisionError
    with one_writer(tmp_path):
        pass
