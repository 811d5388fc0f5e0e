"""What a chapter was made from: fingerprints, ``run.json``, and whether it is up to date.

A chapter is up to date if its ``run.json`` exists (it is written last), if the fingerprint in it
(notebook's code, parameters, cohort) is today's, if the modules of ``ankle_lib`` that it imported
and the earlier chapters that it read have not changed since, and if every file that it lists is
still there.

A chapter that is not up to date starts from an empty folder. One exception lets a killed run go
on: if nothing changed since it *started*, its folder is kept (for what the chapter remembers per
subject), without tables, figures and notebook, which are made again.

What a person has judged is never emptied (`KEPT`). It is no input of the chapter that keeps it, so
a verdict does not make that chapter run again; it is an output like any other, so the chapters
that read it do.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ankle_lib
from ankle_lib.files import PARTIAL_PREFIX, write_json
from ankle_lib.manifest.schema import Cohort

RUN_RECORD = "run.json"
NOTEBOOK = "notebook.ipynb"
FAILED_NOTEBOOK = "notebook.failed.ipynb"
KEPT = ("qc_sheet.csv", ".qc_sheet.csv.lock")
"""Files at the top of a chapter's folder that outlive every run: the review sheet with people's
verdicts, and its lock, which a reviewer may hold while the chapter runs."""

_STARTED = ".started.json"
_FILES = {"static", "masks", "sequences"}  # a subject's absolute paths
_REMADE = ("tables", "figures", NOTEBOOK, FAILED_NOTEBOOK)
_PACKAGES = ("ankle-lib", "numpy", "scipy", "pandas", "nibabel", "matplotlib", "papermill", "torch")


def fingerprint(notebook: Path, parameters: dict[str, Any], cohort: Cohort) -> str:
    """Digest of what a chapter is made from, but for ``ankle_lib`` and the earlier chapters.

    Text cells do not count, nor does the place of the results.
    """
    chosen = {name: value for name, value in parameters.items() if name != "results"}
    parts = [_notebook_code(notebook), chosen, _cohort_stamp(cohort)]
    return _digest(json.dumps(parts, sort_keys=True, default=str))


def results_digest(folder: Path) -> str:
    """Digest of the names, sizes and times of what other chapters may read in ``folder``."""
    return _digest(json.dumps([_stamp(path, folder) for path in _readable(folder)]))


def up_to_date(folder: Path, wanted: str) -> bool:
    """Whether ``folder`` holds a finished chapter with the fingerprint ``wanted``."""
    record = _read(folder / RUN_RECORD)
    if record is None or record.get("fingerprint") != wanted:
        return False
    return (
        record["code"] == _code_digests(record["code"])
        and record["inputs"] == _results_digests(folder.parent, record["inputs"])
        and all((folder / name).exists() for name in record["outputs"])
    )


def prepare_folder(
    folder: Path, wanted: str, earlier: Iterable[str], *, afresh: bool = False
) -> None:
    """Empty ``folder`` for a run; keep what a killed run of the very same inputs had finished.

    `KEPT` stays in any case; the chapter itself decides what of it still holds.

    Parameters
    ----------
    wanted
        The chapter's `fingerprint`.
    earlier
        Names of the chapters before it.
    afresh
        Keep nothing but `KEPT`, even if nothing changed.
    """
    (folder / RUN_RECORD).unlink(missing_ok=True)  # first: what follows is no longer a result
    started = {
        "fingerprint": wanted,
        "code": _code_digests(_all_modules()),
        "inputs": _results_digests(folder.parent, earlier),
    }
    if afresh or _read(folder / _STARTED) != started:
        (folder / _STARTED).unlink(missing_ok=True)
        _remove(*(path for path in _everything(folder) if path.name not in KEPT))
    else:
        _remove(*(folder / name for name in _REMADE))
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(folder / _STARTED, started)


def finish(
    folder: Path, record: dict[str, Any], inputs: Iterable[str], modules: Iterable[str]
) -> None:
    """Write ``run.json``: ``record``, all outputs, and what was read and imported.

    The digests of ``inputs`` (chapters) and ``modules`` are those from before the chapter started
    (`prepare_folder`), so what changed meanwhile makes it run again.
    """
    started = _read(folder / _STARTED) or {"inputs": {}, "code": {}}
    record = {
        **record,
        "inputs": {chapter: started["inputs"].get(chapter) for chapter in inputs},
        "code": {module: started["code"].get(module) for module in modules},
        "outputs": [path.relative_to(folder).as_posix() for path in _visible(folder)],
    }
    write_json(folder / RUN_RECORD, record)
    (folder / _STARTED).unlink(missing_ok=True)


def has_results(folder: Path) -> bool:
    """Whether ``folder`` holds results, and not those of a run that did not finish."""
    made = (path for path in _visible(folder) if path.relative_to(folder).as_posix() not in KEPT)
    return not (folder / _STARTED).exists() and any(made)


def forget(folder: Path) -> None:
    """Remove what is known of the last run, because a person now runs the chapter by hand."""
    (folder / RUN_RECORD).unlink(missing_ok=True)
    (folder / _STARTED).unlink(missing_ok=True)


def clear_partial_files(folder: Path) -> None:
    """Remove what killed writers left under temporary names, anywhere in ``folder``."""
    _remove(*folder.rglob(f"{PARTIAL_PREFIX}*"))


def versions(root: Path) -> dict[str, Any]:
    """Return ``versions`` of Python and the main packages, and the ``commit`` of ``root``.

    ``commit`` ends in ``-dirty`` if the working tree differs from it; it is None without git.
    """
    found = {"python": platform.python_version(), "ankle-lib": ankle_lib.__version__}
    for package in _PACKAGES:
        try:
            found.setdefault(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"versions": found, "commit": _commit(root)}


def _notebook_code(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _results_digests(results: Path, chapters: Iterable[str]) -> dict[str, str]:
    return {chapter: results_digest(results / chapter) for chapter in chapters}


def _code_digests(modules: Iterable[str]) -> dict[str, str | None]:
    """Digest of the source of each module; None for one that is gone."""
    return {module: _source_digest(module) for module in modules}


def _source_digest(module: str) -> str | None:
    base = Path(ankle_lib.__file__).parents[1].joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return _digest(path.read_text(encoding="utf-8"))
    return None


def _all_modules() -> list[str]:
    package = Path(ankle_lib.__file__).parent
    paths = (path.relative_to(package.parent) for path in sorted(package.rglob("*.py")))
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


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


def _everything(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _visible(folder: Path) -> list[Path]:
    """Return the files of ``folder`` that are results, in order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name != RUN_RECORD
    )


def _readable(folder: Path) -> list[Path]:
    return [
        path
        for path in _visible(folder)
        if path.suffix != ".ipynb" and path.relative_to(folder).parts[0] != "figures"
    ]


def _commit(root: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
