"""The one error type, and writes that leave either the whole file or nothing."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

NIFTI_SUFFIXES = (".nii.gz", ".nii")

PARTIAL_PREFIX = ".partial-"
FIGURE_DPI = 110


class AnkleError(ValueError):
    """Unusable input: one line that says what was found and what to do next."""


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


def nifti_stem(out: Path, thing: str, example: str) -> str:
    """Return the name of an image to write without its suffix.

    Parameters
    ----------
    out : Path
        Where somebody wants the image.
    thing : str
        What it holds, in the plural, for messages.
    example : str
        A name that would do.

    Raises
    ------
    AnkleError
        If it is a folder, has another suffix than NIfTI's, or lies below a file.
    """
    if out.is_dir():
        raise AnkleError(f"{out}: is a folder: name the file to write, as in {out}/{example}")
    suffix = next((suffix for suffix in NIFTI_SUFFIXES if out.name.endswith(suffix)), None)
    stem = out.name.removesuffix(suffix or "")
    if suffix is None or not stem:
        named = " or ".join(NIFTI_SUFFIXES)
        raise AnkleError(f"{out}: {thing} are written as NIfTI: name a file {named}")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise AnkleError(f"{out}: {parent} is a file: name a folder for the {thing}")
    return stem


def check_replaceable(
    written: Sequence[Path], inputs: Sequence[Path], sign: Path, *, ours: bool, thing: str, by: str
) -> None:
    """Refuse to overwrite what is read, and what this program did not write.

    Parameters
    ----------
    written : sequence of Path
        Images to write, the one that somebody named first.
    inputs : sequence of Path
    sign : Path
        A file beside the first one, by which an earlier result is known.
    ours : bool
        Whether it is there and says so.
    thing, by : str
        What is written, and by which command, for messages.

    Raises
    ------
    AnkleError
        If an image is one of the inputs, or the first one exists and is no earlier result.
    """
    read = {path.resolve() for path in inputs if path.exists()}
    for path in written:
        if path.resolve() in read:
            raise AnkleError(f"{path}: is what is read: name another file for the {thing}")
    if written[0].exists() and not ours:
        raise AnkleError(
            f"{written[0]}: exists and is no result of `{by}` ({sign.name} is missing or of "
            "another program): name another file, or move it away"
        )


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
