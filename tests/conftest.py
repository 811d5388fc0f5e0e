from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ankle_lib import parallel
from benchmarks.kill import complete


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/smoke`` of one run of all chapters, for all workers; look, do not write."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait for the first
        if not (folder / "done").exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # the other worker has the other core
                complete(folder / "results", "--preset", "smoke")
            (folder / "done").touch()
    return folder / "results" / "smoke"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all chapters in the first test and look at them in the last: nobody waits meanwhile."""
    looking = [item for item in items if "smoke_results" in getattr(item, "fixturenames", ())]
    seen = set(looking)
    others = [item for item in items if item not in seen]
    items[:] = looking[:1] + others + looking[1:]


@pytest.fixture
def sent_to_cluster(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every task that is sent to a cluster: a stand-in that takes pickled calls and does them."""
    sent: list[Any] = []

    def stand_in(address: str, function: Any, tasks: Any) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            call, argument = pickle.loads(pickle.dumps((function, task)))
            sent.append(argument)
            yield number, call(argument)

    monkeypatch.setenv(parallel.SCHEDULER_VARIABLE, "tcp://stand-in:8786")
    monkeypatch.setattr(parallel, "_on_cluster", stand_in)
    return sent
