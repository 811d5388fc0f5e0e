"""A folder that holds one whole result: the earlier one, or the new one, never half of each."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ankle_lib.files import PARTIAL_PREFIX, AnkleError, write_json

RECORD = "register.json"
"""What was registered and how, and the files that belong to the result."""

COMMAND = "ankle register"


@contextmanager
def result_folder(out: Path, record: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty folder; when the block succeeds, its files become the content of ``out``.

    The files of an earlier result of the same command are replaced; other files in ``out`` are
    left alone. If the block raises, or the process is killed, ``out`` keeps the earlier result.

    Parameters
    ----------
    out : Path
        New, empty, or with an earlier result.
    record : JSON object
        Kept in ``register.json`` together with the names of the files.

    Raises
    ------
    AnkleError
        If ``out`` holds files but no result of this command, or a link leads out of it.
    """
    earlier = check_result_folder(out)
    for leftover in out.glob(f"{PARTIAL_PREFIX}*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    staging = out / f"{PARTIAL_PREFIX}{uuid.uuid4().hex[:8]}"
    staging.mkdir(parents=True)
    try:
        yield staging
        files = sorted(
            path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()
        )
        for name in (*files, *earlier):
            _check_inside(out, name)
        head = {"command": COMMAND, **record}
        # While files of both results lie there, the record claims them all.
        write_json(out / RECORD, {**head, "files": sorted({*files, *earlier})})
        for name in set(earlier) - set(files):
            (out / name).unlink(missing_ok=True)
            _remove_if_empty((out / name).parent, out)
        for name in files:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, out / name)
        write_json(out / RECORD, {**head, "files": files})
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_result_folder(out: Path) -> list[str]:
    """Return the files of an earlier result in ``out``, before any work is done for a new one.

    Hidden files do not count as content.

    Raises
    ------
    AnkleError
        If ``out`` is a file, or holds files but no result of this command.
    """
    if out.exists() and not out.is_dir():
        raise AnkleError(f"{out}: is a file: name a folder for the results")
    if not out.exists() or all(path.name.startswith(".") for path in out.iterdir()):
        return []
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        names = record["files"] if record["command"] == COMMAND else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AnkleError(
            f"{out}: is not empty and holds no result of `{COMMAND}`: name another folder"
        )
    return names


def _check_inside(out: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise AnkleError(f"{out / RECORD}: {name!r} is no file of this folder: name another folder")
    if not (out / name).parent.resolve().is_relative_to(out.resolve()):
        raise AnkleError(f"{(out / name).parent}: leads out of {out}: name another folder")


def _remove_if_empty(folder: Path, out: Path) -> None:
    if folder != out and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
