"""Two runs, table by table: what moved, by how much, and whether that is more than may be.

A run is a folder ``results/<preset>``, or a copy of its tables alone (``reference/<preset>``). Rows
are matched by what their columns of text say. A text that changed is therefore a row that is gone
and another one that has come.
"""

import base64
import html
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from math import isnan, nan
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from ankle_lib.files import AnkleError, write_text

PAGE = "comparison.html"

TIMINGS = ("*seconds*", "*_per_s")
"""Columns that say how fast something was. They differ from run to run and are not compared."""

KEYS = ("frame", "seed")
"""Columns of numbers that tell rows apart, as texts do."""

# On one machine equal seeds give equal digits. Another processor, number of threads or GPU rounds
# otherwise, which a training makes as large as another seed would. Two `laptop` runs of different
# commits differed, in the scores of the final networks, by at most 0.005 of Dice, 0.8 mm of HD95,
# 0.003 of correlation, 0.35 dB and 0.02 of sharpness. The tolerances are the next larger round
# numbers; that of Dice is half of what must never pass unseen, 0.02.
TOLERANCES = {
    "*/verdicts.csv, *": 0.01,
    "*/gains.csv, *": 0.5,
    "*_db*": 0.5,
    "*hd95*": 1.0,
    "*_mm": 0.1,
    "*_deg": 0.3,
    "*dice*": 0.01,
    "*correlation*": 0.01,
    "*ssim*": 0.01,
    "*nrmse*": 0.01,
    "*sharpness*": 0.04,
    "*detail*": 0.04,
    "*_sd": 0.01,
}
"""Table and column, and how far its numbers may move; the first that fits counts."""

# There the same two runs differed by up to 0.38 of Dice and 0.03 of correlation.
_OF_05 = ("table_6_*", "depths*", "learning_*", "cross_*", "postmortem*", "verdicts*")
_OF_06 = ("table_6_*", "depths*", "proposals*", "trials*")
SHORT_TRAININGS = {
    **{f"05_*/{table}": 40 for table in _OF_05},
    **{f"06_*/{table}": 5 for table in _OF_06},
}
"""Tables of networks that are trained for a part of the report's steps, and how many times the
tolerance their numbers may differ from those of another machine."""

REPEATED = ("*/beside_the_report.csv", "*/stored_or_drawn.csv")
"""Tables that say in words, to be read, what stands in others; they are not compared."""

RELATIVE = 0.01
"""Numbers under other names may move by this part of themselves, integers not at all."""

MANY = 100
"""Rows of a larger table are single cases, not means. There the mean of the column, and the mean of
the rows that share a text, may move by its tolerance, and a single case by"""
SINGLE = 20
"""so many times that."""
FEWEST = 20
"""Rows that must share a text for their mean to count."""


@dataclass(frozen=True)
class Change:
    """A column that moved, or a table, rows or a column that came or went."""

    place: str
    """Chapter, table and column."""
    what: str
    """What happened, and in which row."""
    too_much: bool
    moved: float = nan
    """The largest difference; NaN where it is none of numbers."""
    allowed: float = nan

    def __str__(self) -> str:
        size = "" if isnan(self.moved) else f"by up to {self.moved:.3g} ({self.allowed:.3g}), "
        return f"{'MOVED' if self.too_much else 'within'}: {self.place}: {size}{self.what}"


def check(
    old: Path,
    new: Path,
    page: Path | None = None,
    *,
    chapters: Collection[str] | None = None,
    other_machine: bool = False,
) -> None:
    """Print what moved between two runs, write a page on it, and refuse what moved too much.

    Parameters
    ----------
    old, new : Path
        Folders of two runs of one preset. What only ``new`` has is told, but no fault.
    page : Path, optional
        ``comparison.html`` in ``new`` by default. It also shows the figures that differ.
    chapters : collection of str, optional
        Those to compare; all by default.
    other_machine : bool
        Whether the runs are from different machines; see `SHORT_TRAININGS`.

    Raises
    ------
    AnkleError
        If numbers moved by more than they may, rows or tables are gone, or there is no table.

    Examples
    --------
    >>> check(Path("reference/smoke"), Path("results/smoke"))
    """
    page = page or new / PAGE
    changes, n_tables = compare(old, new, chapters, other_machine)
    changes.sort(key=lambda one: not one.too_much)
    bad = sum(change.too_much for change in changes)
    said = f"{n_tables} tables compared, {len(changes)} changes, {bad} of them too large"
    print(*changes, said, sep="\n", flush=True)
    figures = [_files(run, "figures/*.png", chapters) for run in (old, new)]
    write_text(page, _page(f"{old} → {new}", said, changes, *figures))
    if bad:
        raise AnkleError(
            f"{new} is not as {old}: {bad} changes are larger than they may be; look at {page}, "
            f"and if they are meant, replace the tables of {old}"
        )


def compare(
    old: Path,
    new: Path,
    chapters: Collection[str] | None = None,
    other_machine: bool = False,
) -> tuple[list[Change], int]:
    """Return everything that differs in the tables of two runs, and how many were compared.

    Arguments and errors are those of `check`.
    """
    before, after = tables_of(old, chapters), tables_of(new, chapters)
    changes = list(_came_or_went("", "table", before, after))
    both = [name for name in before if name in after]
    for name in both:
        short = [times for pattern, times in SHORT_TRAININGS.items() if fnmatch(name, pattern)]
        times = short[0] if short and other_machine else 1
        changes += _changes(name, _read(before[name]), _read(after[name]), times)
    return changes, len(both)


def tables_of(run: Path, chapters: Collection[str] | None = None) -> dict[str, Path]:
    """Return the tables of a run, by chapter and name; refuse a folder without any."""
    found = {
        name: path
        for name, path in _files(run, "tables/*.csv", chapters).items()
        if not any(fnmatch(name, pattern) for pattern in REPEATED)
    }
    if not found:
        chosen = "" if chapters is None else f" of {', '.join(sorted(chapters))}"
        raise AnkleError(
            f"{run} holds no tables{chosen}: give the folder of a run, as in results/smoke"
        )
    return found


def _files(run: Path, pattern: str, chapters: Collection[str] | None) -> dict[str, Path]:
    paths = sorted(run.glob(f"*/{pattern}"))
    chosen = [one for one in paths if chapters is None or one.parts[-3] in chapters]
    return {f"{path.parts[-3]}/{path.name}": path for path in chosen}


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except pd.errors.EmptyDataError:  # as of an experiment that real scans do not allow
        return pd.DataFrame()


def _came_or_went(
    place: str, what: str, old: Collection[str], new: Collection[str]
) -> Iterator[Change]:
    for names, others, word in ((old, new, "gone"), (new, old, "new")):
        for name in names:
            if name not in others:
                yield Change(f"{place}{name}", f"the {what} is {word}", word == "gone")


def _changes(name: str, old: pd.DataFrame, new: pd.DataFrame, times: float) -> Iterator[Change]:
    """Yield what differs in a table, whose numbers may move by so many times the tolerance."""
    yield from _came_or_went(f"{name}, ", "column", list(old), list(new))
    shared = [c for c in old if c in new and not any(fnmatch(c, timing) for timing in TIMINGS)]
    numbers = [c for c in shared if c not in KEYS and _is_number(old[c]) and _is_number(new[c])]
    texts = [c for c in shared if c not in numbers]
    before, after = (_by_texts(table, texts) for table in (old, new))
    for one, other, word in ((before, after, "gone"), (after, before, "new")):
        alone = one.index.difference(other.index, sort=False)
        if len(alone):
            yield Change(name, f"{len(alone)} rows are {word}, the first of {alone[0][0]}", True)
    both = before.index.intersection(after.index, sort=False)
    for column in numbers:
        x, y = (one.loc[both, column].to_numpy(dtype=np.float64) for one in (before, after))
        with np.errstate(invalid="ignore"):  # of infinite numbers
            apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(y - x))
        apart[np.isnan(apart)] = np.inf  # one of them is empty
        if not apart.any():
            continue
        place = f"{name}, {column}"
        whole = is_integer_dtype(old[column]) and is_integer_dtype(new[column])
        fitting = [limit for pattern, limit in TOLERANCES.items() if fnmatch(place, pattern)]
        relative = (0 if whole else RELATIVE) * np.abs(np.nan_to_num(x))
        allowed = times * (np.full(len(x), fitting[0]) if fitting else relative)
        worst = int(np.argmax(apart - allowed))
        moved, limit = float(apart[worst]), float(allowed[worst])
        too_much = moved > limit
        if len(both) > MANY:
            shift, of = max(_mean_shifts(pd.Series(y - x, both), before.loc[both, texts]))
            too_much = moved > SINGLE * limit or shift > float(allowed.mean())
        what = f"{both[worst][0]}: {x[worst]:.6g} -> {y[worst]:.6g}"
        what += f"; {np.count_nonzero(apart)} of {len(x)} rows"
        if len(both) > MANY:
            what += f", the mean of {of} by {shift:.3g}"
        yield Change(place, what, too_much, moved, limit)


def _mean_shifts(moved: pd.Series, texts: pd.DataFrame) -> Iterator[tuple[float, str]]:
    """Yield by how much the mean of all rows moved, and of those that share a text, and whose."""
    yield abs(float(moved.mean())), "all"
    for column in texts:
        groups = moved.groupby(texts[column].astype(str))
        means = groups.mean().abs()[groups.size() >= FEWEST]
        yield from ((float(mean), f"{column} {value}") for value, mean in means.items())


def _is_number(column: pd.Series) -> bool:
    return is_numeric_dtype(column) and not is_bool_dtype(column)


def _by_texts(table: pd.DataFrame, texts: list[str]) -> pd.DataFrame:
    """Give each row its texts as its name, and a number where several share one."""
    words = [
        ", ".join(f"{column} {value}" for column, value in zip(texts, row, strict=True)) or "a row"
        for row in table[texts].to_numpy(dtype=object)
    ]
    named = pd.Series(words, dtype=object)
    return table.set_index(pd.MultiIndex.from_arrays([named, named.groupby(named).cumcount()]))


def _page(
    title: str, said: str, changes: list[Change], old: dict[str, Path], new: dict[str, Path]
) -> str:
    """Return a page that needs no other file: all changes, and figures that differ, in pairs."""
    parts = []
    for name in sorted(old.keys() | new.keys()):
        pair = [files[name].read_bytes() if name in files else b"" for files in (old, new)]
        if pair[0] != pair[1]:
            coded = (base64.b64encode(one).decode() for one in pair)
            shown = "".join(f'<img alt="none" src="data:image/png;base64,{one}">' for one in coded)
            parts.append(f"<h2>{html.escape(name)}</h2><div>{shown}</div>")
    with pd.option_context("display.max_colwidth", None):
        table = pd.DataFrame([vars(one) for one in changes]).to_html(index=False, na_rep="")
    style = "div {display: flex; align-items: start} img {width: 49%} body {margin: 2em}"
    return (
        f'<!doctype html><meta charset="utf-8"><style>{style}</style>'
        f"<title>{html.escape(title)}</title><h1>{html.escape(title)}</h1>"
        f"<p>{said}; {len(parts)} figures differ: the older to the left.</p>"
        f"{table if changes else ''}{''.join(parts)}\n"
    )
