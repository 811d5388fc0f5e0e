"""One store for finished work: what was done is read, what has changed is done again.

Work is known by the content of the files that it reads, by its settings and by its code. The code
is what this process has loaded, not what its files say by now, and it is found by itself: the
module of the work, and every module of this library that it reaches from there.
"""

import ast
import functools
import hashlib
import importlib.util
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from ankle_lib.files import write_text

PLUMBING = {f"ankle_lib.{name}" for name in ("cache", "files", "parallel", "presets")}
"""Modules without a method of their own: a change in them makes no result out of date."""

_PARSER = threading.Lock()
"""Python's parser must not be called by two threads at once (SystemError: recursion depth)."""

Answer = TypeVar("Answer")

_BEGAN = time.time()
"""When this process loaded the library: a file that is newer is not what is loaded."""


def remembered(
    record: Path,
    work: Callable[[], Answer],
    *,
    inputs: Iterable[Path] = (),
    settings: Any = None,
) -> Answer:
    """Return the answer of ``work()``, read from ``record`` if all that decides it is unchanged.

    Parameters
    ----------
    record : Path
        JSON file with the answer. It is written last, so it exists only if ``work`` has finished.
    work : callable
        Does the work and returns numbers, texts, lists, dicts, arrays or tables (NaN included).
    inputs : iterable of Path
        Files that ``work`` reads, known by their content and by where they lie from ``record``: a
        folder of results may be moved with all that it was made from.
    settings : any value of `digest`
        Everything else that the answer depends on. The code need not be named: see `code_digest`.

    Examples
    --------
    >>> remembered(folder / "scores.json", partial(score, scan), settings=[scan.checksum])
    """
    read = sorted((os.path.relpath(path, record.parent), file_digest(path)) for path in inputs)
    key = digest([read, settings, code_digest(work)])
    try:
        content = json.loads(record.read_text(encoding="utf-8"), object_hook=_decoded)
    except (OSError, ValueError):
        content = None
    if isinstance(content, dict) and content.get("key") == key and "answer" in content:
        return content["answer"]
    record.unlink(missing_ok=True)
    text = json.dumps({"key": key, "answer": work()}, default=_encoded)
    write_text(record, text)
    # read back, so that the first answer equals every later one
    return json.loads(text, object_hook=_decoded)["answer"]


def folder_for(parent: Path, name: str, work: Callable[..., Any], settings: Any) -> Path:
    """Return the folder ``parent/name-…`` of work whose results are files, such as a training.

    Its name tells the settings and the code of ``work`` (see `code_digest`), so other settings or
    changed code have another folder.
    """
    return parent / f"{name}-{digest([settings, code_digest(work)])[:12]}"


def digest(value: Any) -> str:
    """Return the SHA-256 of numbers, texts, lists, dicts, dataclasses, arrays or tables."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, or ``missing``."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return _file_digest(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=10_000)
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(work: Callable[..., Any]) -> str:
    """Return a digest of the code that ``work`` runs, as this process has loaded it.

    Counted are the module of ``work`` and all modules of this library that it imports, directly
    or through others, but for `PLUMBING`, and tables (``.yaml``) beside them of the same name;
    comments and layout of modules do not count. If one of their files
    was changed after this process began, nobody can tell what is loaded: the digest is then one
    that never comes again, so that nothing is taken for finished.
    """
    while isinstance(work, functools.partial):
        work = work.func
    sources, waiting = {}, {work.__module__}
    while waiting:
        name = waiting.pop()
        sources[name], used = _source(name) or (uuid.uuid4().hex, frozenset())
        waiting |= used - sources.keys()
    return digest(sources)


@functools.cache
def _source(module: str) -> tuple[str, frozenset[str]] | None:
    """Return a digest of a module's source and the modules that it imports; None if unknown."""
    spec = None if module == "__main__" else importlib.util.find_spec(module)
    if spec is None or spec.origin is None:  # what a person typed has no file
        return None
    path = Path(spec.origin)
    tables = [table for table in [path.with_suffix(".yaml")] if table.exists()]
    if any(file.stat().st_mtime > _BEGAN for file in (path, *tables)):
        return None
    with _PARSER:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    own = (name for name in names - PLUMBING if name.startswith("ankle_lib."))
    content = "".join([ast.dump(tree), *map(file_digest, tables)])
    return digest(content), frozenset(filter(_is_module, own))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a name in a module
        return False


def _plain(value: Any) -> Any:
    """Return what stands for a value in a digest."""
    if hasattr(value, "__dataclass_fields__"):
        return [type(value).__name__, {n: getattr(value, n) for n in value.__dataclass_fields__}]
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value)
        return [value.dtype.str, value.shape, hashlib.sha256(content.data).hexdigest()]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value) if isinstance(value, Path) else _encoded(value)


def _encoded(value: Any) -> Any:
    """Return a value that JSON does not know as one that it does."""
    if isinstance(value, pd.DataFrame):
        return {"table": value.to_dict("list"), "types": value.dtypes.astype(str).to_dict()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "type": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be remembered: {value!r}")


def _decoded(value: dict[str, Any]) -> Any:
    if value.keys() == {"table", "types"}:
        return pd.DataFrame(value["table"]).astype(value["types"])
    if value.keys() == {"array", "type", "shape"}:
        return np.array(value["array"], dtype=value["type"]).reshape(value["shape"])
    return value
