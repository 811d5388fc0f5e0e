"""Results that are whole: the earlier one or the new one, never half of each.

A result is a folder (`result_folder`), or one image with files beside it (`written`).
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ankle_lib.files import NIFTI_SUFFIXES, PARTIAL_PREFIX, AnkleError, atomic_path, write_json

RECORD = "register.json"
"""What was registered and how, and the files that belong to the result."""

COMMAND = "ankle register"


MOST_LISTED = 8


@dataclass
class Outcome:
    """What a command tells when it is done."""

    files: list[Path]
    lines: list[str]
    """What was found."""
    notes: list[str] = field(default_factory=list)
    """What a person should look at, one sentence each."""
    problem: str = ""
    """What was asked for and could not be done, though the files are there."""


@contextmanager
def written(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary paths for files; if the block succeeds all become final, else none."""
    with ExitStack() as together:
        # renamed in reverse: the first comes last, when all the rest is there
        yield [together.enter_context(atomic_path(path)) for path in files]


def beside(
    out: Path,
    names: Sequence[str],
    inputs: Sequence[Path],
    *,
    sign: str,
    thing: str,
    command: str,
) -> list[Path]:
    """Return the files to write, the image first, before any work is done for them.

    Parameters
    ----------
    out : Path
        The image, ``.nii`` or ``.nii.gz``. An earlier result of the command is replaced.
    names : sequence of str
        Ends of the names of the other files, as in ``_labels.txt``. By a line of the first one an
        earlier result is known.
    inputs : sequence of Path
        Files that must not be overwritten.
    sign : str
        That line.
    thing, command : str
        What is written, and by which command, for messages.

    Raises
    ------
    AnkleError
        If ``out`` is a folder, lies below a file, has another suffix than NIfTI's, is one of the
        inputs, or exists and is no result of the command.
    """
    if out.is_dir():
        raise AnkleError(f"{out}: is a folder: name the file to write, as in {out}/{thing}.nii.gz")
    suffix = next((suffix for suffix in NIFTI_SUFFIXES if out.name.endswith(suffix)), None)
    stem = out.name.removesuffix(suffix or "")
    if suffix is None or not stem:
        named = " or ".join(NIFTI_SUFFIXES)
        raise AnkleError(f"{out}: {thing} are written as NIfTI: name a file {named}")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise AnkleError(f"{out}: {parent} is a file: name a folder for the {thing}")
    files = [out, *(out.with_name(stem + name) for name in names)]
    read = {path.resolve() for path in inputs if path.exists()}
    for path in files:
        if path.resolve() in read:
            raise AnkleError(f"{path}: is what is read: name another file for the {thing}")
    if out.exists() and not _has_line(files[1], sign):
        raise AnkleError(
            f"{out}: exists and is no result of `{command}` ({files[1].name} is missing or of "
            "another program): name another file, or move it away"
        )
    return files


def frames_in_words(frames: Sequence[int]) -> str:
    """Return e.g. ``frame 3``, ``frames 3, 4`` or ``frames 3, 4, 5, … (40 in all)``."""
    if len(frames) == 1:
        return f"frame {frames[0]}"
    more = f", … ({len(frames)} in all)" if len(frames) > MOST_LISTED else ""
    return f"frames {', '.join(map(str, frames[:MOST_LISTED]))}{more}"


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
            with suppress(OSError):  # the folder is left where it holds something else
                (out / name).parent.rmdir()
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


def _has_line(path: Path, line: str) -> bool:
    try:
        return line in path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
