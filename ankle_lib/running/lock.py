"""One writer per folder, and none that a killed writer left behind."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import psutil

from ankle_lib.files import AnkleError, write_json

RUN_VARIABLE = "ANKLE_RUN"
"""Environment variable by which the processes that a run starts are known as its own."""

LOCK_FILES = (".lock", ".writer.json")


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the only one that writes to ``folder``.

    The lock ends with its process, however that ends. But a kernel or a worker that it started
    may live on for a while and write what it had begun. Such processes carry the run's mark in
    their environment, and the next writer ends them before it goes on.

    Raises
    ------
    AnkleError
        If another process, which is alive, holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, writer = (folder / name for name in LOCK_FILES)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise AnkleError(
            f"process {_read(writer).get('pid', 'of another run')} is writing to {folder}: "
            "wait for it or end it first (a notebook: shut down its kernel)"
        ) from None
    mark, outer_mark = uuid.uuid4().hex, os.environ.get(RUN_VARIABLE)
    try:
        _end_processes_of(_read(writer).get("mark"))
        write_json(writer, {"pid": os.getpid(), "mark": mark})
        os.environ[RUN_VARIABLE] = mark
        yield
    finally:
        os.environ.pop(RUN_VARIABLE, None)
        if outer_mark is not None:
            os.environ[RUN_VARIABLE] = outer_mark
        writer.unlink(missing_ok=True)
        lock.release()


def _read(writer: Path) -> dict[str, Any]:
    try:
        content = json.loads(writer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _end_processes_of(mark: str | None) -> None:
    if mark is None:
        return
    marked = [process for process in psutil.process_iter() if _mark(process) == mark]
    for process in marked:
        try:
            process.kill()
        except psutil.NoSuchProcess:  # it has just ended by itself
            continue
    psutil.wait_procs(marked, timeout=10)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_VARIABLE)
    except (psutil.Error, OSError):  # gone, or another user's
        return None
