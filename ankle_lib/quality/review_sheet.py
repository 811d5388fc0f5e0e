"""The review sheet: one row per registration, the gate's verdict and people's, in one CSV file.

`read_registered` hands on the registrations that it calls accepted, and no other.

A person's verdict wins over the gate's as long as it speaks of the same registration. Every change
is made under a lock, on the file as it is at that moment, and written atomically, so several
people (and a running chapter) can change it at once and no row is lost.
"""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import filelock
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.files import AnkleError, write_text
from ankle_lib.pose_files import read_transforms

SHEET_NAME = "qc_sheet.csv"
KEY = ("subject", "sequence", "frame", "bone")
"""What names a registration."""
COLUMNS = (*KEY, "correlation", "verdict", "reviewer", "time", "note")
VERDICTS = ("accepted", "rejected", "unsure")
AUTOMATIC = "automatic"
"""Reviewer of the rows that no person has judged."""

_DELIMITERS = (",", ";", "\t")

LOCK_TIMEOUT_S = 30.0

_SAME_CORRELATION = 0.6e-4
"""The sheet holds four decimals; a little more than half of the last lets equal numbers be equal
whatever the rounding did."""
_EARLIER = "earlier: "
"""Where in an automatic row's note begins what people said of other registrations."""


class ReviewSheet:
    """The file ``qc_sheet.csv``; holds no rows itself, so it always tells what the file says.

    Parameters
    ----------
    path : path
        The file, which need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def table(self) -> pd.DataFrame:
        """Return all rows, in the order of the file, with the columns `COLUMNS`.

        Raises
        ------
        AnkleError
            If the file is missing or not a review sheet. A sheet that a spreadsheet has saved
            (semicolons or tabs, byte order mark, Windows line ends, decimal commas, columns in
            another order) is understood.
        """
        if not self.path.exists():
            raise AnkleError(f"{self.path}: no such review sheet: run the registration first")
        return parse_sheet(self.path)

    def update(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Merge the automatic verdicts of all registrations of a run; return the new table.

        - New registrations are added and automatic verdicts replaced.
        - A person's verdict stays if the registration is the same (equal correlation, to four
          decimals). If it has changed, the automatic verdict takes over, and its note keeps what
          the person had said.
        - Rows of registrations that are gone are dropped, but a person's verdict never is.

        Parameters
        ----------
        rows : DataFrame
            Columns subject, sequence, frame, bone, correlation, verdict; note if there is
            something to say. Others are ignored.

        Raises
        ------
        AnkleError
            If the file is not a review sheet.
        """
        note = rows["note"].fillna("") if "note" in rows else ""
        fresh = _sorted(rows.assign(reviewer=AUTOMATIC, time="", note=note))
        with self._locked():
            old = records_of(parse_sheet(self.path)) if self.path.exists() else []
            before = {key_of(row): row for row in old}
            merged = [_merge(row, before.pop(key_of(row), None)) for row in records_of(fresh)]
            gone = [row for row in before.values() if row["reviewer"] != AUTOMATIC]
            table = _sorted(pd.DataFrame([*merged, *gone], columns=list(COLUMNS)))
            self._write(table)
        return table

    def judge(
        self,
        subject: str,
        sequence: str,
        frame: int,
        bone: str,
        verdict: str,
        reviewer: str,
        note: str = "",
        *,
        correlation: float | None = None,
    ) -> pd.DataFrame:
        """Write a person's verdict on one registration, with the time (UTC); return the table.

        Parameters
        ----------
        subject, sequence, frame, bone
            Which registration.
        verdict : str
            One of `VERDICTS`.
        reviewer, note : str
            Who says so, and what else.
        correlation : float, optional
            That of the registration that the person saw.

        Raises
        ------
        AnkleError
            If there is no such row, or it is about a registration with another ``correlation``
            by now; if the verdict is unknown or the reviewer has no name.
        """
        check_verdict(verdict, "judge")
        reviewer = reviewer.strip()
        if reviewer in ("", AUTOMATIC):
            raise AnkleError(f"reviewer {reviewer!r}: give the name of the person who judges")
        key = (subject, sequence, frame, bone)
        with self._locked():
            table = self.table()
            found = (table[list(KEY)] == list(key)).all(axis=1)
            if not found.any():
                raise AnkleError(f"{self.path}: has no row {', '.join(map(str, key))}")
            now = float(table.loc[found, "correlation"].iloc[0])
            if correlation is not None and not same_correlation(now, correlation):
                raise AnkleError(
                    f"{self.path}: {', '.join(map(str, key))} was registered again meanwhile "
                    f"(correlation {correlation:.4f}, now {now:.4f}): look at it again"
                )
            time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            table.loc[found, ["verdict", "reviewer", "time", "note"]] = [
                verdict, reviewer, time, one_kind_of_line_end(note),
            ]  # fmt: skip
            self._write(table)
        return table

    def _write(self, table: pd.DataFrame) -> None:
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.4f")
        # an unchanged file keeps its time, by which later chapters know that nothing changed
        if not self.path.exists() or self.path.read_bytes() != text.encode():
            write_text(self.path, text)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(
            self.path.with_name(f".{self.path.name}.lock"), timeout=LOCK_TIMEOUT_S
        )
        try:
            with lock:
                yield
        except filelock.Timeout:
            raise AnkleError(
                f"{self.path}: another process has held it for {LOCK_TIMEOUT_S:.0f} s: "
                "end that process, then try again"
            ) from None


def accepted(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the rows of a review sheet whose verdict is ``accepted``."""
    table = ReviewSheet(path).table()
    return table[table["verdict"] == "accepted"]


def same_correlation(first: float, second: float) -> bool:
    """Whether two correlations are equal to four decimals; NaN equals NaN."""
    return bool(np.isclose(first, second, rtol=0, atol=_SAME_CORRELATION, equal_nan=True))


def _merge(automatic: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    if before is None:
        return automatic
    if before["reviewer"] == AUTOMATIC:
        _, mark, said = before["note"].partition(_EARLIER)
    elif same_correlation(automatic["correlation"], before["correlation"]):
        return before
    else:
        mark = _EARLIER
        said = f"{before['reviewer']} {before['verdict']} ({before['correlation']:.4f})"
        said += f": {before['note']}" if before["note"] else ""
    return {**automatic, "note": "; ".join(filter(None, [automatic["note"], mark + said]))}


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    return typed(table).sort_values(list(KEY), ignore_index=True)


# --- what is handed on ---


@dataclass(frozen=True)
class RegisteredFrame:
    """One bone in one frame, whose registration was accepted."""

    subject: str
    sequence: str
    """As in ``active_run-01``."""
    frame: int
    bone: str
    pose: NDArray[np.float64]
    """(4, 4), world of the static scan to world of the frame, RAS mm."""
    correlation: float
    """Of the frame and the moved static scan; NaN if unknown."""
    mask: Path
    """The moved mask on the frame's grid."""
    moved_static: Path
    """The static scan moved with the bone, as thick as the frame's slices, on the frame's grid."""


def frame_path(
    folder: Path, subject: str, sequence: str, frame: int, bone: str, *, image: bool = False
) -> Path:
    """Return the file of a moved mask, or with ``image`` of the moved static scan."""
    what = "_desc-moved_static" if image else "_mask"
    name = f"sub-{subject}_task-{sequence}_frame-{frame:02d}_label-{bone}{what}.nii.gz"
    return folder / f"sub-{subject}" / name


def transforms_path(folder: Path, subject: str, sequence: str) -> Path:
    """Return the file with the poses of a sequence."""
    return folder / f"sub-{subject}" / f"sub-{subject}_task-{sequence}_transforms.json"


def read_registered(folder: Path) -> list[RegisteredFrame]:
    """Return the accepted registrations of a finished registration chapter.

    What the review sheet calls rejected or unsure is not among them, whoever said so.

    Parameters
    ----------
    folder : Path
        With ``qc_sheet.csv`` and ``sub-T01/sub-T01_task-active_run-01_transforms.json`` etc.

    Raises
    ------
    AnkleError
        If a file is missing or damaged, or if a verdict speaks of another registration than the
        one in the folder.
    """
    sheet, registered = folder / SHEET_NAME, []
    for (subject, sequence), rows in accepted(sheet).groupby(["subject", "sequence"], sort=False):
        path = transforms_path(folder, subject, sequence)
        listed = read_transforms(path) if path.exists() else []
        poses = {(pose.frame, pose.bone): pose for pose in listed}
        for row in records_of(rows):
            frame, bone = row["frame"], row["bone"]
            found = poses.get((frame, bone))
            if found is None and row["reviewer"] != AUTOMATIC:
                continue  # a person's verdict outlives its registration
            known = None if found is None else found.correlation
            correlation = np.nan if known is None else known
            if found is None or not same_correlation(correlation, row["correlation"]):
                now = "is none" if found is None else f"has {correlation:.4f}"
                raise AnkleError(
                    f"{sheet}: judges a registration of {subject} {sequence} frame {frame} {bone} "
                    f"with correlation {row['correlation']:.4f}, but there {now}: run the "
                    "registration again"
                )
            files = [frame_path(folder, *(row[k] for k in KEY), image=i) for i in (False, True)]
            for file in files:
                if not file.exists():
                    raise AnkleError(f"{file}: no such file: run the registration again")
            pose = np.asarray(found.matrix)
            registered.append(
                RegisteredFrame(subject, sequence, frame, bone, pose, correlation, *files)
            )
    return registered


# --- the file: how it is written, read and checked ---


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
    table = typed(pd.DataFrame(rows, columns=list(COLUMNS)))
    for row in records_of(table[table.duplicated(list(KEY))]):
        key = ", ".join(map(str, key_of(row)))
        raise AnkleError(f"{path}: {key} appears twice: keep one row")
    return table


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
