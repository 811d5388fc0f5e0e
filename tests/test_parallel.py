from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch

from ankle_lib import parallel
from ankle_lib.files import AnkleError
from ankle_lib.parallel import SCHEDULER_VARIABLE, in_batches, run_all, turn_on


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SCHEDULER_VARIABLE, raising=False)


def square(number: int) -> int:
    return number**2


def slowest_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0)
    return number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise AnkleError("scan 3 is empty: export it again")
    return number


def fail_otherwise(number: int) -> int:
    raise KeyError(number)


def process_id(number: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def ids_of_three(number: int) -> set[int]:
    """Return the processes that do three tasks which a task has, and that of the task itself."""
    return {os.getpid(), *run_all(process_id, range(3))}


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_a_mark(folder: Path, number: int) -> int:
    """Tell which process works on what, and take some time."""
    mark = folder / f"{number:02d}-{os.getpid()}"
    mark.touch()
    time.sleep(0.15)
    return number**2


# --- on this machine ---


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_results_come_in_order(workers: Any) -> None:
    numbers = list(range(7))
    assert run_all(slowest_first, numbers, n_jobs=2, workers=workers) == numbers
    assert run_all(square, [3], workers=workers) == [9]
    assert run_all(square, [], workers=workers) == []


def test_where_the_work_is_done() -> None:
    here = os.getpid()
    assert here not in run_all(process_id, range(4), n_jobs=2)
    assert set(run_all(process_id, range(4), n_jobs=2, workers="threads")) == {here}
    assert set(run_all(process_id, range(2), n_jobs=1)) == {here}


@pytest.mark.parametrize("workers", ["processes", "threads"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_errors_come_out_as_they_are(workers: Any, n_jobs: int) -> None:
    with pytest.raises(AnkleError, match=r"^scan 3 is empty: export it again$"):
        run_all(fail_at_three, range(6), n_jobs=n_jobs, workers=workers)
    with pytest.raises(KeyError):
        run_all(fail_otherwise, range(3), n_jobs=n_jobs, workers=workers)


def test_no_thread_works_on_after_an_error() -> None:
    begun, ended = threading.Event(), []

    def work(number: int) -> None:
        if number == 0:
            begun.wait(5)
            raise AnkleError("the disk is full")
        begun.set()
        time.sleep(0.3)
        ended.append(number)

    with pytest.raises(AnkleError, match="full"):
        run_all(work, range(6), n_jobs=2, workers="threads")
    so_far = list(ended)
    assert so_far
    time.sleep(0.7)
    assert ended == so_far


@pytest.mark.parametrize("n_tasks", [2, 5])
def test_a_task_does_its_own_tasks_itself(n_tasks: int) -> None:
    of_tasks = run_all(ids_of_three, range(n_tasks), n_jobs=2)
    assert [len(ids) for ids in of_tasks] == [1] * n_tasks


def test_a_killed_process_is_one_clear_error() -> None:
    with pytest.raises(AnkleError, match="killed, perhaps for want of memory: run fewer than 2 "):
        run_all(die, range(2), n_jobs=2)
    assert run_all(square, range(3), n_jobs=2) == [0, 1, 4]  # and on it goes


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_nobody_elses_warnings_are_hidden(workers: Any) -> None:
    before = list(warnings.filters)
    run_all(square, range(2), n_jobs=2, workers=workers)
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="A worker stopped"):
        warnings.warn("A worker stopped while some jobs were given to somebody", stacklevel=1)


def test_the_bar_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    run_all(square, range(3), n_jobs=1, desc="squares")
    shown = capsys.readouterr().err
    assert "squares" in shown
    assert "3/3" in shown
    run_all(square, range(3), n_jobs=1)
    assert not capsys.readouterr().err


def show_turns(device: str, log: list[str], number: int) -> None:
    with turn_on(device), turn_on(device):  # twice by one thread does no harm
        log.append(f"{number} begins")
        time.sleep(0.02)
        log.append(f"{number} ends")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_task_at_a_time_computes_on_a_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    log: list[str] = []
    task = partial(show_turns, device, log)
    run_all(task, range(4), n_jobs=2, workers="threads", device=device)
    whole_turns = [log[n].split()[0] == log[n + 1].split()[0] for n in range(0, len(log), 2)]
    assert len(log) == 8
    assert all(whole_turns) == (device == "cuda")


def test_other_processes_wait_for_the_gpu_too() -> None:
    take = "from ankle_lib import parallel; parallel.turn_on('cuda').acquire(timeout=0)"
    command = [sys.executable, "-c", take]
    with turn_on("cuda"):
        refused = subprocess.run(command, capture_output=True, text=True)
    assert "filelock._error.Timeout" in refused.stderr
    assert subprocess.run(command).returncode == 0


def test_tasks_for_a_gpu_share_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    assert set(run_all(process_id, range(4), n_jobs=2, device="cuda")) == {os.getpid()}


# --- on a cluster ---


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, **options) as local:
        monkeypatch.setenv(SCHEDULER_VARIABLE, local.scheduler_address)
        yield local


@pytest.mark.slow
def test_a_cluster_gives_the_same_results_even_if_a_worker_is_killed(
    cluster: Any, tmp_path: Path
) -> None:
    task, numbers = partial(leave_a_mark, tmp_path), list(range(16))
    killer = threading.Thread(target=kill_one_worker, args=(tmp_path,))
    killer.start()
    results = run_all(task, numbers)
    killer.join()
    assert results == [square(number) for number in numbers]
    marks = [path.name.split("-") for path in tmp_path.iterdir() if path.name != "killed"]
    workers = {worker for _, worker in marks}
    killed = (tmp_path / "killed").read_text()
    assert killed in workers
    assert str(os.getpid()) not in workers
    assert len(workers) >= 2
    assert len(marks) > len(numbers)  # some were done twice

    # the same cluster goes on: errors come out as they are, and leave nothing behind
    with pytest.raises(AnkleError, match=r"^scan 3 is empty: export it again$"):
        run_all(fail_at_three, numbers)
    assert run_all(square, numbers) == [square(number) for number in numbers]


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_one_clear_error(cluster: Any) -> None:
    with pytest.raises(AnkleError, match="several workers of") as error:
        run_all(die, range(2))
    assert "\n" not in str(error.value)


def kill_one_worker(folder: Path) -> None:
    """Kill a worker in the middle of a task, once some tasks are done."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        marks = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        if len(marks) >= 5:
            worker = marks[-1].name.split("-")[1]
            os.kill(int(worker), signal.SIGKILL)
            (folder / "killed").write_text(worker)
            return
        time.sleep(0.005)


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(parallel, "CONNECT_TIMEOUT_S", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        monkeypatch.setenv(SCHEDULER_VARIABLE, address)
        with pytest.raises(AnkleError, match=f"{SCHEDULER_VARIABLE}={address}: no scheduler") as e:
            run_all(square, [1])
        assert "\n" not in str(e.value)


def test_a_cluster_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCHEDULER_VARIABLE, "tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(AnkleError, match=r'pip install "ankle-lib\[cluster\]"'):
        run_all(square, [1])


def threads_of_a_worker(_: int) -> int:
    import torch

    return torch.get_num_threads()


@pytest.mark.slow
def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    found = run_all(threads_of_a_worker, [0, 1], n_jobs=2)
    assert found == [max(1, joblib.cpu_count() // 2)] * 2


# --- batches ---


def test_batches_are_as_large_as_was_said() -> None:
    numbers = torch.arange(7)
    assert in_batches(len, numbers, at_once=3) == [3, 3, 1]
    assert in_batches(torch.dot, numbers, numbers, at_once=100) == [91]
    assert in_batches(len, numbers[:0], at_once=3) == [0]  # one, so that there is something to join


def test_errors_that_do_not_tell_of_memory_come_out_as_they_are() -> None:
    def fail(rows: torch.Tensor) -> None:
        raise RuntimeError("expected scalar type Half")

    with pytest.raises(RuntimeError, match=r"^expected scalar type Half$"):
        in_batches(fail, torch.arange(2), at_once=2)
