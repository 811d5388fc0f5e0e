"""Finished work is found again, and only if nothing that decides it has changed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ankle_lib
from ankle_lib import cache
from ankle_lib.cache import code_digest, digest, file_digest, folder_for, remembered
from ankle_lib.masking.mask_images import mask_cohort


@dataclass(frozen=True)
class Sizes:
    steps: int
    names: tuple[str, ...] = ("talus",)


@pytest.fixture
def work() -> tuple[Callable[[], Any], list[int]]:
    calls: list[int] = []

    def count() -> Any:
        calls.append(len(calls))
        return {"call": len(calls)}

    return count, calls


def test_work_is_done_once(tmp_path: Path, work: tuple[Callable[[], Any], list[int]]) -> None:
    count, calls = work
    for _ in range(3):
        assert remembered(tmp_path / "a" / "r.json", count, settings=Sizes(3)) == {"call": 1}
    assert calls == [0]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["r.json"]


def test_other_settings_or_other_content_are_other_work(
    tmp_path: Path, work: tuple[Callable[[], Any], list[int]]
) -> None:
    count, calls = work
    scan = tmp_path / "scan.nii"
    scan.write_bytes(b"one")
    record = tmp_path / "r.json"
    ask = partial(remembered, record, count, inputs=[scan])
    ask(settings=[1, Sizes(3)])
    ask(settings=[1, Sizes(4)])
    ask(settings=[1, Sizes(4, ("tibia",))])
    assert len(calls) == 3
    status = scan.stat()
    scan.write_bytes(b"two")  # as long, and as old
    os.utime(scan, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    ask(settings=[1, Sizes(4, ("tibia",))])
    assert len(calls) == 4
    copied = tmp_path / "copy.nii"
    shutil.copyfile(scan, copied)
    assert file_digest(copied) == file_digest(scan)
    scan.unlink()
    ask(settings=[1, Sizes(4, ("tibia",))])
    assert len(calls) == 5


def test_what_is_moved_together_stays_finished(
    tmp_path: Path, work: tuple[Callable[[], Any], list[int]]
) -> None:
    count, calls = work
    for folder in ("one", "two"):
        scan, record = tmp_path / folder / "01" / "scan.nii", tmp_path / folder / "03" / "r.json"
        if folder == "one":
            scan.parent.mkdir(parents=True)
            scan.write_bytes(b"one")
        else:
            (tmp_path / "one").rename(tmp_path / folder)
        remembered(record, count, inputs=[scan])
    assert len(calls) == 1
    renamed = scan.rename(scan.with_name("other.nii"))
    remembered(record, count, inputs=[renamed])
    assert len(calls) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "x"}', '{"answer": 1}'])
def test_a_broken_record_is_made_again(
    tmp_path: Path, work: tuple[Callable[[], Any], list[int]], content: str
) -> None:
    count, calls = work
    record = tmp_path / "r.json"
    remembered(record, count)
    record.write_text(content)
    assert remembered(record, count) == {"call": 2}
    assert len(calls) == 2


def test_what_fails_leaves_no_record(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        remembered(tmp_path / "r.json", fail)
    assert list(tmp_path.iterdir()) == []


def test_tables_and_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"bone": ["talus", "tibia"], "n": [1, 2], "dice": [0.1, np.nan], "ok": [True, False]}
    )
    poses = np.stack([np.eye(4), np.full((4, 4), np.nan)]).astype(np.float32)
    answer = {"table": table, "poses": {"talus": poses}, "none": None, "mean": np.float64(1 / 3)}
    for _ in range(2):
        found = remembered(tmp_path / "r.json", lambda: answer)
        pd.testing.assert_frame_equal(found["table"], table)
        np.testing.assert_array_equal(found["poses"]["talus"], poses)
        assert found["poses"]["talus"].dtype == np.float32
        assert found["none"] is None
        assert found["mean"] == 1 / 3


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Path cannot be remembered"):
        remembered(tmp_path / "r.json", lambda: Path("x"))


def test_digests_tell_values_apart() -> None:
    values: list[Any] = [
        *(1, "1", [1], None, Sizes(1), Sizes(2), replace(Sizes(1), names=("tibia",))),
        *(np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.ones(4), Path("a")),
        *({"a": 1}, {"b": 1}, pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1.0]})),
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(np.zeros((3, 4)).T) == digest(np.zeros((4, 3)))


METHOD = "from ankle_lib.rooms.constants import GATE\n\ndef work():\n    return GATE\n"
SCRIPT = """\
import sys, time
from pathlib import Path
from ankle_lib.cache import code_digest, folder_for
from ankle_lib.rooms.method import work
if len(sys.argv) > 1:
    path = Path(sys.argv[1])
    path.write_text(path.read_text().replace("8", "9"))
print(code_digest(work), folder_for(Path("x"), "unet", work, [1]))
"""


def test_code_is_what_is_loaded_and_all_that_it_imports(tmp_path: Path) -> None:
    package = tmp_path / "ankle_lib"
    (package / "rooms").mkdir(parents=True)
    here = Path(ankle_lib.__file__).parent
    for name in ("cache.py", "files.py"):
        shutil.copy(here / name, package / name)
    for empty in (package / "__init__.py", package / "rooms" / "__init__.py"):
        empty.touch()
    constants, method = (package / "rooms" / f"{name}.py" for name in ("constants", "method"))
    constants.write_text("GATE = 0.8\n")
    method.write_text(METHOD)

    def run(*arguments: str) -> list[str]:
        command = [sys.executable, "-c", SCRIPT, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    # systems tell to a second when a process began
    hour_ago = time.time() - 3600
    for path in package.rglob("*.py"):
        os.utime(path, (hour_ago, hour_ago))
    first = run()
    constants.write_text("# a comment\nGATE  =  0.8\n")
    os.utime(constants, (hour_ago, hour_ago))
    assert run() == first
    changed_meanwhile = run(str(constants))  # what is loaded says 0.8, the file says 0.9
    os.utime(constants, (hour_ago, hour_ago))
    again = run()
    table = constants.with_suffix(".yaml")
    table.write_text("gate: 0.8\n")
    os.utime(table, (hour_ago, hour_ago))
    assert len({*first, *changed_meanwhile, *again, *run()}) == 8


def test_threads_parse_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's parser gives a SystemError where two threads use it at once."""
    parse, busy, most = ast.parse, [0], [0]

    def watched(*arguments: Any) -> Any:
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        time.sleep(0.002)
        busy[0] -= 1
        return parse(*arguments)

    monkeypatch.setattr(ast, "parse", watched)
    cache._source.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(code_digest, [mask_cohort] * 4))) == 1
    assert most == [1]


def test_what_a_person_typed_is_never_the_same() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def work():\n    return 1\n", namespace)
    assert code_digest(namespace["work"]) != code_digest(namespace["work"])
    assert code_digest(digest) == code_digest(partial(partial(digest), 1))


def test_folders_are_named_after_all_that_decides(tmp_path: Path) -> None:
    one = folder_for(tmp_path, "unet", digest, [Sizes(1)])
    assert one.parent == tmp_path
    assert one.name.startswith("unet-")
    assert one == folder_for(tmp_path, "unet", digest, [Sizes(1)])
    assert one != folder_for(tmp_path, "unet", digest, [Sizes(2)])
    assert one != folder_for(tmp_path, "unet", replace, [Sizes(1)])
