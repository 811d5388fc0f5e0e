"""The one error type, and writes that leave either the whole file or nothing."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationError

NIFTI_SUFFIXES = (".nii.gz", ".nii")

PARTIAL_PREFIX = ".partial-"
FIGURE_DPI = 110

_TAGS = ("phantom", "local", "remote")  # of the union in a manifest


class AnkleError(ValueError):
    """Unusable input: one line that says what was found and what to do next."""


def first_problem(error: ValidationError) -> str:
    """Return one line: the place in a file's content, what is wrong there, what was found."""
    problems = error.errors(include_url=False, include_context=False)
    first, place = problems[0], ""
    for step in first["loc"]:
        # the tag of a union and the mark of a key are pydantic's own
        if step != "[key]" and not (place.endswith(".source") and step in _TAGS):
            place += f"[{step}]" if isinstance(step, int) else f".{step}"
    message = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    found = f" (found {first['input']!r})" if isinstance(first["input"], str | int | float) else ""
    more = f"; and {len(problems) - 1} more problems" if len(problems) > 1 else ""
    return f"{place.removeprefix('.') or 'the whole file'}: {message}{found}{more}"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    The temporary name keeps every suffix of ``path`` (writers choose a format by it). If the
    block raises, the temporary file is removed and ``path`` is left as it was. Whatever a killed
    process leaves behind starts with ``.partial-`` and is never read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{PARTIAL_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """Write ``content`` as indented JSON, atomically. NaN is refused: JSON has none."""
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame) -> Path:
    """Write a table without its index, atomically; floats keep six significant digits."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return Path(path)


def write_figure(path: str | os.PathLike[str], figure: Figure) -> Path:
    """Write ``figure`` as ``path`` with the suffixes ``.png`` and ``.svg``, each atomically."""
    path = Path(path)
    for suffix in (".svg", ".png"):
        with atomic_path(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=FIGURE_DPI, bbox_inches="tight")
    return path.with_suffix(".png")
