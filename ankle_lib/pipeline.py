"""The chapters in order, each executed by papermill, skipped if up to date: `run`.

Notebooks open their chapter with `open_chapter`. What both stand on is in `ankle_lib.running`;
papermill is imported when `run` needs it, for notebooks should not wait for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ankle_lib.files import PARTIAL_PREFIX, AnkleError, write_text
from ankle_lib.running import records
from ankle_lib.running.chapter import (
    CHAPTER_VARIABLE,
    DEFAULT_COHORT,
    Place,
)
from ankle_lib.running.chapter import Chapter as Chapter
from ankle_lib.running.chapter import find_root as find_root
from ankle_lib.running.chapter import open_chapter as open_chapter
from ankle_lib.running.lock import alone

if TYPE_CHECKING:
    from ankle_lib.running.execution import Execution


@dataclass
class ChapterRun:
    """How a chapter of a run went: ``status`` is done, up to date, failed or interrupted."""

    chapter: str
    status: str
    wall_s: float = 0.0
    peak_rss_mb: float = 0.0


def run(
    preset: str = "laptop",
    *,
    only: str | None = None,
    start: str | None = None,
    cohort: str = DEFAULT_COHORT,
    results: Path | None = None,
    device: str = "auto",
    force: bool = False,
    parameters: dict[str, Any] | None = None,
    root: Path | None = None,
    console: Console | None = None,
) -> list[ChapterRun]:
    """Execute the chapters in order; skip those that are up to date.

    Parameters
    ----------
    only, start
        Number (or name) of the one chapter to run, or of the first one.
    results
        Folder of all results; default ``results/`` in the repository.
    force
        Run chapters again, from an empty folder, even if they are up to date.
    parameters
        Further parameters of the notebooks; each must be known to a chapter that is run.
    root
        Folder of ``notebooks/`` and ``data_manifest.yaml``; default `find_root`.

    Raises
    ------
    AnkleError
        Before anything runs, if a name or a parameter is unknown or another run is going on;
        later, if a chapter fails: the message names chapter, cell, error and partial notebook.
    """
    from ankle_lib.running.parameters import spread_parameters

    console = console or Console(highlight=False)
    results = Path("results") if results is None else results.absolute()
    place = Place.find(preset, results, cohort, device, root)
    notebooks = _select(list_chapters(place.root), only, start)
    further = spread_parameters(parameters or {}, notebooks)

    with alone(place.folder):
        records.clear_partial_files(place.folder)
        place.make_cohort()
        request = _Request(place, console, force)
        try:
            for notebook in notebooks:
                request.runs.append(_run_chapter(notebook, further[notebook], request))
        except _ChapterStopped as stopped:
            request.runs.append(stopped.run)
            raise stopped.error from None
        finally:
            console.print(_summary(request.runs))
    return request.runs


def list_chapters(root: Path) -> list[Path]:
    """Return the notebooks ``NN_name.ipynb`` of ``root`` in order."""
    notebooks = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise AnkleError(f"there are no notebooks NN_name.ipynb in {root / 'notebooks'}")
    return notebooks


@dataclass
class _Request:
    place: Place
    console: Console
    force: bool
    runs: list[ChapterRun] = field(default_factory=list)


class _ChapterStopped(Exception):
    """Carries what the summary says of a chapter that did not finish, and why it stopped."""

    def __init__(self, run: ChapterRun, error: BaseException) -> None:
        super().__init__(str(error))
        self.run = run
        self.error = error


def _run_chapter(notebook: Path, further: dict[str, Any], request: _Request) -> ChapterRun:
    place, name = request.place, notebook.stem
    parameters = {**place.parameters(), **further}
    folder = place.folder / name
    wanted = records.fingerprint(notebook, parameters, place.cohort_records())
    if not request.force and records.up_to_date(folder, wanted):
        request.console.print(f"{name}: up to date")
        return ChapterRun(name, "up to date")

    chapters = [path.stem for path in list_chapters(place.root)]
    earlier = chapters[: chapters.index(name)]
    records.prepare_folder(folder, wanted, earlier, afresh=request.force)
    began = time.perf_counter()
    execution = _execute(notebook, parameters, folder, request)
    wall_s = time.perf_counter() - began
    record = {
        "preset": place.preset.name,
        "seed": parameters.get("seed", place.seed),
        "parameters": parameters,
        "device": place.device,
        **records.versions(place.root),
        "wall_s": round(wall_s, 2),
        "peak_rss_mb": round(execution.peak_rss_mb, 1),
        "peak_gpu_mb": round(execution.peak_gpu_mb, 1),
        "fingerprint": wanted,
    }
    records.finish(folder, record, execution.inputs, execution.modules)
    request.console.print(f"{name}: done in {wall_s:.1f} s")
    return ChapterRun(name, "done", wall_s, execution.peak_rss_mb)


def _execute(
    notebook: Path, parameters: dict[str, Any], folder: Path, request: _Request
) -> Execution:
    """Execute under a temporary name; give the notebook its name when it is known how it ended."""
    import nbformat

    from ankle_lib.running.execution import NotebookError, execute_notebook

    name = folder.name
    working = folder / f"{PARTIAL_PREFIX}notebook.ipynb"
    began = time.perf_counter()
    try:
        with _progress_line(name, request.console) as on_cell:
            execution = execute_notebook(
                notebook,
                working,
                parameters,
                environment={CHAPTER_VARIABLE: name},
                on_cell=on_cell,
            )
    except (NotebookError, KeyboardInterrupt) as error:
        failed = folder / records.FAILED_NOTEBOOK
        if working.exists():
            os.replace(working, failed)
        interrupted = isinstance(error, KeyboardInterrupt)
        status = "interrupted" if interrupted else "failed"
        request.console.print(f"{name}: {status}")
        reason = error if interrupted else AnkleError(f"{name} failed: {error}; see {failed}")
        raise _ChapterStopped(
            ChapterRun(name, status, time.perf_counter() - began), reason
        ) from None
    executed = nbformat.read(working, as_version=4)
    executed.metadata.papermill.output_path = str(folder / records.NOTEBOOK)
    write_text(folder / records.NOTEBOOK, nbformat.writes(executed))
    working.unlink()
    return execution


@contextmanager
def _progress_line(name: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("cell {task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        line = progress.add_task(name, total=0)
        yield lambda number, total: progress.update(line, completed=number, total=total)


def _summary(runs: list[ChapterRun]) -> Table:
    table = Table("chapter", "status", title=None)
    table.add_column("wall s", justify="right")
    table.add_column("peak MB", justify="right")
    for run in runs:
        measured = (f"{run.wall_s:.1f}" if run.wall_s else "", f"{run.peak_rss_mb:.0f}")
        table.add_row(run.chapter, run.status, measured[0], measured[1] if run.peak_rss_mb else "")
    return table


def _select(notebooks: list[Path], only: str | None, start: str | None) -> list[Path]:
    if only is not None and start is not None:
        raise AnkleError("--only and --from exclude each other: give one of them")
    if only is not None:
        return [_find(notebooks, only)]
    if start is not None:
        return notebooks[notebooks.index(_find(notebooks, start)) :]
    return notebooks


def _find(notebooks: list[Path], wanted: str) -> Path:
    for notebook in notebooks:
        if wanted == notebook.stem or wanted.zfill(2) == notebook.stem[:2]:
            return notebook
    names = ", ".join(notebook.stem for notebook in notebooks)
    raise AnkleError(f"there is no chapter {wanted!r}: choose one of {names}")
