"""The chapters in order, each executed by papermill, skipped if up to date: `run`."""

import ast
import difflib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from pydantic import TypeAdapter, ValidationError

from ankle_lib.files import PARTIAL_PREFIX, AnkleError, write_text
from ankle_lib.privacy import without_folders
from ankle_lib.running import compare, execution, records
from ankle_lib.running.chapter import (
    CHAPTER_VARIABLE,
    DEFAULT_COHORT,
    Place,
    earlier_chapters,
    failed_claims,
    list_chapters,
)

COMMON_PARAMETERS = ("preset", "results", "cohort", "device")
"""Every notebook has these."""


@dataclass
class ChapterRun:
    """How a chapter of a run went: ``status`` is done, up to date, failed or interrupted."""

    chapter: str
    status: str = "interrupted"  # until it ends in another way
    wall_s: float = 0.0
    peak_rss_mb: float = 0.0
    failed_claims: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        took = f" in {self.wall_s:.1f} s" if self.wall_s else ""
        memory = f", at most {self.peak_rss_mb:.0f} MB" if self.peak_rss_mb else ""
        told = "".join(f"\n  does not hold: {claim}" for claim in self.failed_claims)
        return f"{self.chapter}: {self.status}{took}{memory}{told}"


def run(
    preset: str = "laptop",
    *,
    part: str = "all",
    only: str | None = None,
    start: str | None = None,
    cohort: str = DEFAULT_COHORT,
    results: Path | None = None,
    device: str = "auto",
    force: bool = False,
    parameters: dict[str, Any] | None = None,
    reference: Path | None = None,
    root: Path | None = None,
) -> list[ChapterRun]:
    """Execute the chapters in order; skip those that are up to date.

    Parameters
    ----------
    part
        "1", "2" or "all": of which part of the course.
    only, start
        Number (or name) of the one chapter to run, or of the first one.
    results
        Folder of all results; default ``results/`` in the repository.
    force
        Run chapters again, from an empty folder, even if they are up to date.
    parameters
        Further parameters of the notebooks; each must be known to a chapter that is run.
    reference
        Tables to compare those of the chapters with, at the end; see `compare.check`.
    root
        Folder of ``notebooks/`` and ``data_manifest.yaml``; default `chapter.find_root`.

    Raises
    ------
    AnkleError
        Before anything runs, if a name or a parameter is unknown, an earlier chapter is missing or
        another run is going on; later, if a chapter fails: the message names chapter, cell, error
        and partial notebook; at the end, if tables are not as the reference's.

    Examples
    --------
    >>> run("smoke", only="02", parameters={"radius_mm": 2.0})
    """
    results = Path("results") if results is None else results.absolute()
    place = Place.find(preset, results, cohort, device, root)
    notebooks = _select(list_chapters(place.root, part), only, start)
    further = _spread(parameters or {}, notebooks)
    coming = {notebook.stem for notebook in notebooks}
    for name in sorted(coming):
        asked = earlier_chapters(place.root, name)
        place.check_finished(name, [chapter for chapter in asked if chapter not in coming])

    if reference is not None:
        compare.tables_of(reference, coming)  # refused now, not after hours
    runs: list[ChapterRun] = []
    with records.one_writer(place.chapters):
        place.make_cohort()
        for notebook in notebooks:
            runs.append(ChapterRun(notebook.stem))
            parameters = {**place.parameters(), **further[notebook]}
            try:
                _run_chapter(runs[-1], notebook, parameters, place, force)
            except AnkleError:
                runs[-1].status = "failed"
                raise
            finally:
                print(runs[-1], flush=True)
    if reference is not None:
        compare.check(reference, place.chapters, chapters=coming)
    return runs


def _run_chapter(
    run: ChapterRun,
    notebook: Path,
    parameters: dict[str, Any],
    place: Place,
    force: bool,
) -> None:
    """Run one chapter if it is not up to date, and note in ``run`` how it went."""
    name, folder = notebook.stem, place.chapters / notebook.stem
    chapters = [path.stem for path in list_chapters(place.root)]
    earlier = chapters[: chapters.index(name)]
    now = records.state_of(notebook, parameters, place.read_cohort(), place.chapters, earlier)
    if not force and records.up_to_date(folder, now):
        run.status = "up to date"
        run.failed_claims = failed_claims(folder)
        return
    with records.one_writer(folder):
        records.prepare_folder(folder, now, afresh=force)
        began = time.perf_counter()
        try:
            executed = _execute(notebook, parameters, folder, place.root)
        except execution.NotebookError as error:
            failed = folder / records.FAILED_NOTEBOOK
            raise AnkleError(f"{name} failed: {error}; see {failed}") from None
        finally:
            run.wall_s = time.perf_counter() - began
        run.status, run.peak_rss_mb = "done", executed.peak_rss_mb
        run.failed_claims = failed_claims(folder)
        record = {
            "preset": place.preset.name,
            "seed": parameters.get("seed", place.seed),
            "parameters": {**parameters, "results": place.results.name},
            "device": place.device,
            **records.versions(place.root),
            "gpu": records.gpu(place.device),
            "wall_s": round(run.wall_s, 2),
            "peak_rss_mb": round(executed.peak_rss_mb, 1),
            "peak_gpu_mb": round(executed.peak_gpu_mb, 1),
            "failed_claims": run.failed_claims,
        }
        records.finish(folder, record, now, executed.inputs, executed.modules)


def _execute(
    notebook: Path, parameters: dict[str, Any], folder: Path, root: Path
) -> execution.Execution:
    """Execute under a temporary name; give the notebook its name when it is known how it ended.

    What is written then names no folder of this machine.
    """
    working = folder / f"{PARTIAL_PREFIX}notebook.ipynb"
    results = folder.parents[1]

    def written(name: str, text: str) -> None:
        write_text(folder / name, without_folders(text, {results: results.name, root: "."}))
        working.unlink()

    try:
        executed = execution.execute_notebook(
            notebook, working, parameters, environment={CHAPTER_VARIABLE: folder.name}
        )
    except (execution.NotebookError, KeyboardInterrupt):
        if working.exists():
            written(records.FAILED_NOTEBOOK, working.read_text("utf-8", errors="replace"))
        raise
    done = nbformat.read(working, as_version=4)
    done.metadata.papermill.output_path = str(folder / records.NOTEBOOK)
    written(records.NOTEBOOK, nbformat.writes(done))
    return executed


def _select(notebooks: list[Path], only: str | None, start: str | None) -> list[Path]:
    if only is not None and start is not None:
        raise AnkleError("--only and --from exclude each other: give one of them")
    wanted = start if only is None else only
    if wanted is None:
        return notebooks
    for place, notebook in enumerate(notebooks):
        if wanted == notebook.stem or wanted.zfill(2) == notebook.stem[:2]:
            return notebooks[place:] if only is None else [notebook]
    names = ", ".join(notebook.stem for notebook in notebooks)
    raise AnkleError(f"there is no chapter {wanted!r}: choose one of {names}")


def _spread(parameters: dict[str, Any], notebooks: list[Path]) -> dict[Path, dict[str, Any]]:
    """Give each notebook those of ``parameters`` that it knows; refuse what none knows."""
    # papermill would only warn, and when the notebook is about to run
    known = {notebook: _known_parameters(notebook) for notebook in notebooks}
    everything = {name: default for names in known.values() for name, default in names.items()}
    for name, value in parameters.items():
        if name in COMMON_PARAMETERS:
            raise AnkleError(f"parameter {name!r} has its own option: use --{name}")
        if name not in everything:
            close = difflib.get_close_matches(name, everything, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(everything)}"
            raise AnkleError(f"no chapter that would run has a parameter {name!r}: {hint}")
        default = everything[name]
        try:
            if default is not None:
                TypeAdapter(type(default)).validate_python(value, strict=True)
        except ValidationError:
            raise AnkleError(
                f"parameter {name!r} is {value!r}, but its default is {default!r}: "
                f"give a {type(default).__name__}"
            ) from None
    return {
        notebook: {name: value for name, value in parameters.items() if name in known[notebook]}
        for notebook in notebooks
    }


def _known_parameters(notebook: Path) -> dict[str, Any]:
    """Return names and default values (None if not a literal) of a notebook's parameters."""
    found = papermill.inspect_notebook(execution.plain(notebook))
    missing = [name for name in COMMON_PARAMETERS if name not in found]
    if missing:
        raise AnkleError(
            f"{notebook} has no parameter {', '.join(missing)}: "
            "define it in a cell tagged 'parameters'"
        )
    return {name: _literal(parameter["default"]) for name, parameter in found.items()}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
