"""From the tables that chapters leave to one table: means, intervals, the report's values."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ankle_lib.files import AnkleError, write_csv
from ankle_lib.metrics import Interval, bootstrap_interval
from ankle_lib.presets import BONES
from ankle_lib.running.chapter import list_chapters
from ankle_lib.running.records import RUN_RECORD
from ankle_lib.summary.lines import LINES, Line

SUMMARY = "summary/results.csv"
"""In the repository."""

SPLIT = "04_patch_extraction/tables/split.csv"
"""In a preset's results: the subjects, and the part that each belongs to."""

COLUMNS = (
    *("task", "measure", "method", "bone", "report", "report_source", "mean", "low", "high"),
    *("n_subjects", "preset", "device", "file"),
)


def summarise(folder: Path, chapters: Collection[str]) -> pd.DataFrame:
    """Return the report's values beside the means and 95 % intervals of a finished run.

    Parameters
    ----------
    folder : Path
        ``results/<preset>``, as `ankle run` leaves it.
    chapters : collection of str
        The course's chapters, such as ``"05_static_segmentation"``. Lines of any other are left
        out.

    Returns
    -------
    DataFrame
        Columns task, measure, method, bone, report, report_source, mean, low, high, n_subjects,
        preset, device, file; a row per line, method and bone. ``report`` is empty where the report
        has no value, ``low`` and ``high`` where no interval is known. Intervals are those of
        `metrics.bootstrap_interval`, over subjects.

    Raises
    ------
    AnkleError
        If a chapter is not finished, or a table lacks what is asked of it.
    """
    rows = []
    for line in LINES:
        if line.chapter not in chapters:
            continue
        run = _run_of(folder, line.chapter)
        table = _read(folder / line.file)
        for one, of_method in _methods(line, table):
            for bone in BONES:
                rows.append(_row(one, bone, of_method, folder) | run)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_summary(folder: Path, root: Path) -> Path:
    """Summarise ``results/<preset>`` for the chapters that the repository ``root`` has."""
    chapters = [notebook.stem for notebook in list_chapters(root)]
    return write_csv(root / SUMMARY, summarise(folder, chapters))


def read_summary(root: Path) -> pd.DataFrame:
    """Return the summary that the repository ``root`` holds; columns as `summarise` has them."""
    if not (root / SUMMARY).is_file():
        raise AnkleError(f"there is no {SUMMARY} in {root}: run the chapters, then `ankle summary`")
    return pd.read_csv(root / SUMMARY)


def _run_of(folder: Path, chapter: str) -> dict[str, Any]:
    """Return what made a chapter's tables; it is written last, so they are complete."""
    path = folder / chapter / RUN_RECORD
    if not path.is_file():
        raise AnkleError(
            f"{chapter} has no finished run in {folder}: run `ankle run --preset {folder.name} "
            f"--results {folder.parent}`, then this again"
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    return {name: record[name] for name in ("preset", "device")}


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise AnkleError(f"{path}: cannot be read ({reason}): run its chapter again") from None


def _methods(line: Line, table: pd.DataFrame) -> Iterator[tuple[Line, pd.DataFrame]]:
    """Yield a line with its rows, or one for each method that the table has."""
    if line.method:
        try:
            yield line, table.query(line.rows) if line.rows else table
        except NameError:
            raise AnkleError(f"{line.file}: {line.rows} asks for a column it lacks") from None
        return
    of = _column(table, "method", line.file)
    for method in dict.fromkeys(of):
        yield replace(line, method=method), table[of == method]


def _row(line: Line, bone: str, table: pd.DataFrame, folder: Path) -> dict[str, Any]:
    part = table[_column(table, "bone", line.file) == bone]
    if part.empty:
        raise AnkleError(f"{folder / line.file}: no row of {line.method!r} for the {bone}")
    interval, n_subjects = _interval(line, part, folder)
    report = _only(part, line.report_column, line) if line.report_column else math.nan
    return {
        **{name: getattr(line, name) for name in ("task", "measure", "method", "file")},
        **{"bone": bone, "report": report, "report_source": line.report_source},
        **interval._asdict(),
        "n_subjects": n_subjects,
    }


def _interval(line: Line, part: pd.DataFrame, folder: Path) -> tuple[Interval, int]:
    """Return a bone's mean and interval, and the number of subjects that they are of."""
    values = _column(part, line.column, line.file)
    if "subject" in part:
        subjects = part["subject"]
        return bootstrap_interval(values, list(subjects)), subjects[values.notna()].nunique()
    stem = line.column.removesuffix("_mean")
    low, high = (
        _only(part, end, line) if end in part else math.nan
        for end in (f"{stem}_low", f"{stem}_high")
    )
    parts = _column(_read(folder / SPLIT), "part", SPLIT)
    return Interval(_only(part, line.column, line), low, high), int((parts == line.part).sum())


def _column(table: pd.DataFrame, column: str, file: str) -> pd.Series:
    if column not in table:
        raise AnkleError(f"{file}: no column {column!r} among {', '.join(table)}: update its line")
    return table[column]


def _only(part: pd.DataFrame, column: str, line: Line) -> float:
    values = _column(part, column, line.file)
    if len(values) != 1:
        raise AnkleError(f"{line.file}: {len(values)} rows of a bone of {line.method!r}, not 1")
    return float(values.iloc[0])
