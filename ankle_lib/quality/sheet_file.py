"""The review sheet as a file: its columns, and how it is written, read and checked."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from ankle_lib.files import AnkleError

SHEET_NAME = "qc_sheet.csv"
KEY = ("subject", "sequence", "frame", "bone")
"""What names a registration."""
COLUMNS = (*KEY, "correlation", "verdict", "reviewer", "time", "note")
VERDICTS = ("accepted", "rejected", "unsure")
AUTOMATIC = "automatic"
"""Reviewer of the rows that no person has judged."""

_DELIMITERS = (",", ";", "\t")


def format_sheet(table: pd.DataFrame) -> str:
    """Return the text of the file: commas, Unix line ends, four decimals."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in records_of(table):
        number = row["correlation"]
        row["correlation"] = "" if np.isnan(number) else f"{number:.4f}"
        writer.writerow([row[name] for name in COLUMNS])
    return text.getvalue()


def parse_sheet(path: Path) -> pd.DataFrame:
    """Read the file as it or a spreadsheet wrote it; `AnkleError` if it is no review sheet."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise AnkleError(f"{path}: not UTF-8: save it again as 'CSV UTF-8'") from None
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None
    delimiter = _delimiter(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        header = [name.strip() for name in next(reader)]
        for cells in reader:
            if any(cell.strip() for cell in cells):
                place = f"{path}, line {reader.line_num}"
                rows.append(_row(place, header, cells, decimal_comma=delimiter != ","))
    except csv.Error as error:
        raise AnkleError(f"{path}, line {reader.line_num}: not a CSV file ({error})") from None
    check_unique([key_of(row) for row in rows], str(path))
    return typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def _delimiter(path: Path, text: str) -> str:
    first = text.splitlines()[0] if text else ""
    for delimiter in _DELIMITERS:
        names = [name.strip().strip('"') for name in first.split(delimiter)]
        if sorted(names) == sorted(COLUMNS):
            return delimiter
    raise AnkleError(
        f"{path}: not a review sheet: its first line is {first[:120]!r}, "
        f"expected {','.join(COLUMNS)}"
    )


def _row(place: str, header: list[str], cells: list[str], decimal_comma: bool) -> dict[str, Any]:
    if len(cells) != len(header):
        raise AnkleError(f"{place}: {len(cells)} cells, expected {len(header)}")
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    for name in ("subject", "sequence", "bone", "reviewer", "time"):
        row[name] = row[name].strip()
    row["note"] = one_kind_of_line_end(row["note"])
    row["verdict"] = row["verdict"].strip().lower()
    check_verdict(row["verdict"], place)
    for name in ("subject", "sequence", "bone", "reviewer"):
        if not row[name]:
            who = f" (a person's name, or {AUTOMATIC!r})" if name == "reviewer" else ""
            raise AnkleError(f"{place}: {name} is empty: fill it in{who}")
    number = row["correlation"].strip()
    number = number.replace(",", ".") if decimal_comma else number
    try:
        frame, correlation = int(row["frame"]), float(number) if number else float("nan")
    except ValueError:
        raise AnkleError(
            f"{place}: frame {row['frame']!r} and correlation {number!r} must be numbers"
        ) from None
    return {**row, "frame": frame, "correlation": correlation}


def one_kind_of_line_end(note: str) -> str:
    """Make every line end a newline; a bare carriage return ends a row for some readers."""
    return note.replace("\r\n", "\n").replace("\r", "\n")


def check_verdict(verdict: str, place: str) -> None:
    """Refuse what is none of `VERDICTS`."""
    if verdict not in VERDICTS:
        raise AnkleError(f"{place}: verdict {verdict!r}: choose one of {', '.join(VERDICTS)}")


def check_unique(keys: list[tuple[Any, ...]], place: str) -> None:
    """Refuse two rows for one registration."""
    seen: set[tuple[Any, ...]] = set()
    for key in keys:
        if key in seen:
            raise AnkleError(f"{place}: {', '.join(map(str, key))} appears twice: keep one row")
        seen.add(key)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns in order: ``frame`` int, ``correlation`` float, Python strings else."""
    kinds = {name: object for name in COLUMNS} | {"frame": np.int64, "correlation": np.float64}
    return table[list(COLUMNS)].astype(kinds)


def records_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dictionaries."""
    return cast(list[dict[str, Any]], table.to_dict("records"))


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what names the row's registration."""
    return tuple(row[name] for name in KEY)
