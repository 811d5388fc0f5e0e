"""Finished work is remembered per subject: a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ankle_lib.files import write_json


def remembered(
    record: Path,
    inputs: Iterable[Path],
    settings: Any,
    work: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Return the answer of ``work()``, from ``record`` if nothing it depends on has changed.

    Parameters
    ----------
    record : Path
        JSON file with the answer; it is written last, so it exists only if ``work`` finished.
    inputs : iterable of Path
        Files that ``work`` reads; compared by name, size and time of modification.
    settings : JSON value
        Everything else that the answer depends on (see `code_digest`).
    work : callable
        Does the work, writes its files, and returns a dict that JSON can hold.

    Returns
    -------
    dict
        What ``work`` returned, after a round trip through JSON either way.
    """
    key = _key(inputs, settings)
    remembered_answer = _read(record, key)
    if remembered_answer is not None:
        return remembered_answer
    record.unlink(missing_ok=True)
    answer = json.loads(json.dumps(work()))
    write_json(record, {"key": key, "answer": answer})
    return answer


def code_digest(*modules: ModuleType) -> str:
    """Return a digest of the modules' source, so that changed code is run again.

    Of a package, every module in it counts.
    """
    digest = hashlib.sha256()
    for module in modules:
        assert module.__file__ is not None
        path = Path(module.__file__)
        for source in sorted(path.parent.rglob("*.py")) if path.stem == "__init__" else [path]:
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _key(inputs: Iterable[Path], settings: Any) -> str:
    stamps = [_stamp(path) for path in sorted(inputs)]
    text = json.dumps([stamps, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _stamp(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError:
        return [str(path), "missing"]
    return [str(path), status.st_size, status.st_mtime_ns]


def _read(record: Path, key: str) -> dict[str, Any] | None:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    answer = content.get("answer")
    return answer if isinstance(answer, dict) else None
