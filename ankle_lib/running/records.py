"""A folder of results: its one writer, what it was made from, and whether it is up to date.

A chapter is up to date if its ``run.json`` exists (it is written last), if the fingerprint in it
(notebook's code, parameters, cohort) is today's, if the modules of ``ankle_lib`` that it imported
and the earlier chapters that it read have not changed since, and if every file that it lists is
still there and, where others read it, has the content that it had.

A chapter that is not up to date starts from an empty folder, with two exceptions. A killed run goes
on: if nothing changed since it *started*, its folder is kept (for what the chapter remembers per
subject), without tables, figures and notebook, which are made again. And trained networks, each
known by all that decides it, stay until a run is asked to start afresh (`TRAININGS`).

What a person has judged is never emptied (`KEPT`). It is no input of the chapter that keeps it, so
a verdict does not make that chapter run again; it is an output like any other, so the chapters
that read it do.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import psutil

import ankle_lib
from ankle_lib.cache import digest, file_digest
from ankle_lib.files import PARTIAL_PREFIX, AnkleError, write_json
from ankle_lib.manifest.schema import Cohort

RUN_VARIABLE = "ANKLE_RUN"
"""Environment variable by which the processes that a run starts are known as its own."""

LOCK_FILES = (".lock", ".writer.json")

RUN_RECORD = "run.json"
NOTEBOOK = "notebook.ipynb"
FAILED_NOTEBOOK = "notebook.failed.ipynb"
KEPT = ("qc_sheet.csv", ".qc_sheet.csv.lock")
"""Files at the top of a chapter's folder that outlive every run: the review sheet with people's
verdicts, and its lock, which a reviewer may hold while the chapter runs."""

TRAININGS = "trainings"
"""Folder of networks that `learning.training.train_once` finds again, whatever else has changed:
one more parameter of a chapter must not cost the hours of those that it does not touch."""

_STARTED = ".started.json"
_FILES = {"static", "masks", "sequences"}  # a subject's absolute paths
_REMADE = ("tables", "figures", NOTEBOOK, FAILED_NOTEBOOK)
_PACKAGES = ("numpy", "scipy", "pandas", "nibabel", "matplotlib", "papermill", "torch")

State = dict[str, Any]
"""``fingerprint`` of notebook, parameters and cohort, and digests of the ``code`` of every module
of the library and of the results of all earlier chapters (``inputs``)."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the only one that writes to ``folder``.

    The lock ends with its process, however that ends. But a kernel or a worker that it started
    may live on for a while and write what it had begun. Such processes carry the run's mark in
    their environment, and the next writer ends them before it goes on.

    Raises
    ------
    AnkleError
        If another process, which is alive, holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, writer = (folder / name for name in LOCK_FILES)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise AnkleError(
            f"process {_read(writer).get('pid', 'of another run')} is writing to {folder}: "
            "wait for it or end it first (a notebook: shut down its kernel)"
        ) from None
    mark, outer_mark = uuid.uuid4().hex, os.environ.get(RUN_VARIABLE)
    try:
        _end_processes_of(_read(writer).get("mark"))
        write_json(writer, {"pid": os.getpid(), "mark": mark})
        os.environ[RUN_VARIABLE] = mark
        yield
    finally:
        os.environ.pop(RUN_VARIABLE, None)
        if outer_mark is not None:
            os.environ[RUN_VARIABLE] = outer_mark
        writer.unlink(missing_ok=True)
        lock.release()


def state_of(
    notebook: Path,
    parameters: dict[str, Any],
    cohort: Cohort,
    results: Path,
    earlier: Iterable[str],
) -> State:
    """Return what a chapter would be made from now.

    Cells of text do not count, nor does the place of the results.

    Parameters
    ----------
    results
        Folder of the chapters' folders.
    earlier
        Names of the chapters before it.
    """
    chosen = {name: value for name, value in parameters.items() if name != "results"}
    return {
        "fingerprint": digest([notebook_code(notebook), chosen, _cohort_stamp(cohort)]),
        "code": _library_digests(),
        "inputs": {chapter: _results_digest(results / chapter) for chapter in earlier},
    }


def up_to_date(folder: Path, now: State) -> bool:
    """Whether ``folder`` holds a finished chapter that was made from what there is now."""
    record = _read(folder / RUN_RECORD)
    try:
        if record["fingerprint"] != now["fingerprint"]:
            return False
        for part in ("code", "inputs"):
            if record[part] != {name: now[part].get(name) for name in record[part]}:
                return False
        digests = record.get("digests") or {}
        return all(
            (folder / name).exists() and _unchanged(folder / name, digests.get(name))
            for name in record["outputs"]
        )
    except (KeyError, TypeError):  # broken
        return False


def prepare_folder(folder: Path, now: State, *, afresh: bool = False) -> None:
    """Empty ``folder`` for a run; keep what a killed run of the very same state had finished.

    `KEPT` stays in any case, even with ``afresh``; the chapter itself decides what of it holds.
    `TRAININGS` stays unless ``afresh``, but for what somebody has changed since it was made.
    """
    digests = _read(folder / RUN_RECORD).get("digests") or {}
    kept = {name: then for name, then in digests.items() if name.startswith(f"{TRAININGS}/")}
    changed = (name for name, then in kept.items() if not _unchanged(folder / name, then))
    _remove(*{folder / TRAININGS / Path(name).parts[1] for name in changed})
    (folder / RUN_RECORD).unlink(missing_ok=True)  # first: what follows is no longer a result
    if afresh or _read(folder / _STARTED) != now:
        (folder / _STARTED).unlink(missing_ok=True)
        stays = {*KEPT, *LOCK_FILES} | (set() if afresh else {TRAININGS})
        present = folder.iterdir() if folder.is_dir() else ()
        _remove(*(path for path in present if path.name not in stays))
    else:
        _remove(*(folder / name for name in _REMADE))
    clear_partial_files(folder)
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(folder / _STARTED, now)


def finish(
    folder: Path, record: dict[str, Any], then: State, inputs: Iterable[str], modules: Iterable[str]
) -> None:
    """Write ``run.json``: ``record``, all outputs, and what was read and imported.

    Of ``inputs`` (chapters) and ``modules`` the digests are those of ``then``, before the chapter
    started, so what changed meanwhile makes it run again.
    """
    record = {
        **record,
        "fingerprint": then["fingerprint"],
        "inputs": {chapter: then["inputs"].get(chapter) for chapter in inputs},
        "code": {module: then["code"].get(module) for module in modules},
        "outputs": [path.relative_to(folder).as_posix() for path in _visible(folder)],
        "digests": {
            path.relative_to(folder).as_posix(): [*_stamp(path, folder)[1:], file_digest(path)]
            for path in _readable(folder)
            if path.name not in KEPT
        },
    }
    write_json(folder / RUN_RECORD, record)
    (folder / _STARTED).unlink(missing_ok=True)


def has_results(folder: Path) -> bool:
    """Whether ``folder`` holds results, and not those of a run that did not finish."""
    made = (path for path in _visible(folder) if path.relative_to(folder).as_posix() not in KEPT)
    return not (folder / _STARTED).exists() and any(made)


def start_by_hand(folder: Path) -> None:
    """Count the results as unfinished: a person runs the chapter, until `finish_by_hand`."""
    write_json(folder / _STARTED, {"by": "hand"})  # equals no state, so nothing of it is kept
    (folder / RUN_RECORD).unlink(missing_ok=True)


def finish_by_hand(folder: Path) -> None:
    """Count the results as finished; without ``run.json``, since no run made them."""
    (folder / _STARTED).unlink(missing_ok=True)


def clear_partial_files(folder: Path) -> None:
    """Remove what killed writers left under temporary names, anywhere in ``folder``."""
    _remove(*folder.rglob(f"{PARTIAL_PREFIX}*"))


def versions(root: Path) -> dict[str, Any]:
    """Return ``versions`` of Python and the main packages, and the ``commit`` of ``root``.

    ``commit`` ends in ``-dirty`` if the working tree differs from it; it is None without git.
    """
    found = {"python": platform.python_version(), "ankle-lib": ankle_lib.__version__}
    found |= {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"versions": found, "commit": _commit(root)}


def gpu(device: str) -> dict[str, Any] | None:
    """Return name, driver and memory of the GPU, and the CUDA and cuDNN of torch; None on a CPU."""
    if device == "cpu":
        return None
    import torch  # not at the top: takes seconds, and chapters on a CPU may do without

    # asked of the driver: torch would take some of the GPU's memory to answer
    query = "--query-gpu=name,driver_version,memory.total"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    told: list[str | None] = [None] * 3  # where there is no such tool
    with suppress(OSError, subprocess.CalledProcessError, IndexError):
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        told = [part.strip() for part in lines.splitlines()[0].split(",")]
    name, driver, memory = told
    return {
        "name": name,
        "driver": driver,
        "memory": memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def notebook_code(notebook: Path) -> list[str]:
    """Return the text of each cell of code."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _library_digests() -> dict[str, str]:
    """Return a digest of the source of every module of this library, by its dotted name."""
    package = Path(ankle_lib.__file__).parent
    digests = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        digests[".".join(parts).removesuffix(".__init__")] = digest(path.read_text("utf-8"))
    return digests


def _results_digest(folder: Path) -> str:
    """Digest of the names, sizes and times of what other chapters may read in ``folder``."""
    return digest([_stamp(path, folder) for path in _readable(folder)])


def _readable(folder: Path) -> list[Path]:
    """Return the results that other chapters may read: no notebooks, no figures."""
    return [
        path
        for path in _visible(folder)
        if path.suffix != ".ipynb" and path.relative_to(folder).parts[0] != "figures"
    ]


def _unchanged(path: Path, then: list[Any] | None) -> bool:
    """Tell whether a file has the size, time and digest of then; read only if the first differ."""
    return not then or _stamp(path, path.parent)[1:] == then[:2] or file_digest(path) == then[2]


def _cohort_stamp(cohort: Cohort) -> list[Any]:
    files = [path for subject in cohort.subjects for _, path in subject.files()]
    root = cohort.root or Path("/")
    described = cohort.model_dump(mode="json", exclude={"subjects": {"__all__": _FILES}})
    return [described, [_stamp(path, root) for path in files]]


def _stamp(path: Path, folder: Path) -> list[Any]:
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    try:
        status = path.stat()
    except OSError:
        return [name, None]
    return [name, status.st_size, status.st_mtime_ns]


def _visible(folder: Path) -> list[Path]:
    """Return the files of ``folder`` that are results, in order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name != RUN_RECORD
    )


def _commit(root: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; nothing of one that is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _end_processes_of(mark: str | None) -> None:
    if mark is None:
        return
    marked = [process for process in psutil.process_iter() if _mark(process) == mark]
    for process in marked:
        try:
            process.kill()
        except psutil.NoSuchProcess:  # it has just ended by itself
            continue
    psutil.wait_procs(marked, timeout=10)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_VARIABLE)
    except (psutil.Error, OSError):  # gone, or another user's
        return None
