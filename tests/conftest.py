from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from benchmarks.kill import undisturbed


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/smoke`` of one run of all chapters, for all workers; look, do not write."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait for the first
        if not (folder / "done").exists():
            undisturbed("smoke", folder)
            (folder / "done").touch()
    return folder / "results" / "smoke"
