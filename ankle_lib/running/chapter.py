"""A chapter as its notebook sees it, and the places that a preset and a cohort give it.

Results of the cohort ``phantom`` lie in ``results/<preset>/<chapter>/``, those of any other
cohort in ``results/<preset>-<cohort>/<chapter>/``, so cohorts never mix. A simulated cohort is
written to ``cohort/`` beside its chapters.
"""

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure

from ankle_lib.files import AnkleError, write_csv, write_figure
from ankle_lib.manifest.document import load_manifest
from ankle_lib.manifest.schema import Cohort, PhantomSource
from ankle_lib.presets import Preset, get_preset
from ankle_lib.running import kernel_side, records

MANIFEST = "data_manifest.yaml"
DEFAULT_COHORT = "phantom"
GPU_PRESET = "paper"

CLAIMS = "claims"
"""Name of the table of a chapter's claims; see `Chapter.claim`."""

CHAPTER_VARIABLE = "ANKLE_CHAPTER"
"""Environment variable that tells a kernel which chapter `ankle run` executes in it."""

_written: dict[Path, ExitStack] = {}
"""Folders of the chapters that this process has opened by hand, each with its lock."""


@dataclass(frozen=True)
class Place:
    """Where the chapters of one preset and one cohort are read and written.

    Attributes
    ----------
    root
        The repository.
    results
        Absolute folder of all results.
    cohort
        As ``data_manifest.yaml`` declares it: a simulated one has no files yet.
    """

    root: Path
    preset: Preset
    results: Path
    cohort: Cohort
    device: str
    """``"cpu"`` or ``"cuda"``."""

    @classmethod
    def find(
        cls, preset: str, results: Path, cohort: str, device: str, root: Path | None = None
    ) -> Self:
        """Look everything up; a relative ``results`` lies in the repository."""
        root = root or find_root()
        declared = load_manifest(root / MANIFEST).cohort(cohort)
        sizes, device = get_preset(preset), resolve_device(device, preset)
        return cls(root, sizes, root / results, declared, device)

    @property
    def chapters(self) -> Path:
        """Folder of the chapters' folders."""
        name = self.preset.name
        if self.cohort.name != DEFAULT_COHORT:
            name = f"{name}-{self.cohort.name}"
        return self.results / name

    @property
    def cohort_manifest(self) -> Path:
        """Manifest that lists the cohort's files."""
        if isinstance(self.cohort.source, PhantomSource):
            return self.chapters / "cohort" / "manifest.yaml"
        return self.root / MANIFEST

    @property
    def seed(self) -> int | None:
        """Seed of a simulated cohort."""
        source = self.cohort.source
        return source.seed if isinstance(source, PhantomSource) else None

    def check_finished(self, name: str, chapters: Iterable[str]) -> None:
        """Refuse to go on with ``name`` if one of ``chapters`` has no finished results here."""
        for chapter in chapters:
            if not records.has_results(self.chapters / chapter):
                raise AnkleError(
                    f"{name} reads {chapter}, which has no finished results in "
                    f"{self.chapters / chapter}: run its notebook to the end, or "
                    f"`{self._command(chapter)}`, then this again"
                )

    def _command(self, chapter: str) -> str:
        """Return the command that runs a chapter here."""
        words = ["ankle run", f"--preset {self.preset.name}", f"--only {chapter[:2]}"]
        if self.cohort.name != DEFAULT_COHORT:
            words.append(f"--cohort {self.cohort.name}")
        if self.results != self.root / "results":
            words.append(f"--results {self.results}")
        return " ".join(words)

    def make_cohort(self) -> None:
        """Simulate the cohort if it is a simulated one; what is there already is kept."""
        source = self.cohort.source
        if not isinstance(source, PhantomSource):
            return
        # imported here: a chapter runs again if a module changes that it imports, and chapters
        # depend on the phantom's files, not on its code
        from ankle_lib.phantom.simulate import simulate

        folder = self.cohort_manifest.parent
        if not self.cohort_manifest.exists():
            print(f"simulating the cohort in {folder}", flush=True)
        sizes = get_preset(source.preset) if source.preset else self.preset
        with records.one_writer(folder):
            records.clear_partial_files(folder)
            simulate(sizes, folder, seed=source.seed, device=self.device)

    def read_cohort(self) -> Cohort:
        """Return the cohort with the absolute paths of its files, which exist by now."""
        if isinstance(self.cohort.source, PhantomSource):
            return load_manifest(self.cohort_manifest).cohort()  # the only one in there
        return self.cohort

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that every notebook receives."""
        return {
            "preset": self.preset.name,
            "results": str(self.results),
            "cohort": self.cohort.name,
            "device": self.device,
        }


@dataclass(frozen=True)
class Chapter(Place):
    """A chapter's own folder, and what it may read.

    Attributes
    ----------
    name
        Such as ``"01_data_cleaning"``.
    cohort_records
        The raw cohort, with absolute paths.
    """

    name: str
    cohort_records: Cohort

    @property
    def folder(self) -> Path:
        """``results/<preset>/<name>/``; it exists, and so do ``tables`` and ``figures`` in it."""
        return self.chapters / self.name

    @property
    def tables(self) -> Path:
        """Folder of the chapter's CSV tables."""
        return self.folder / "tables"

    @property
    def figures(self) -> Path:
        """Folder of the chapter's figures."""
        return self.folder / "figures"

    def previous(self, chapter: str) -> Path:
        """Return the folder of an earlier chapter that has finished.

        `ankle run` remembers what was asked for here: this chapter runs again if that changes.

        Raises
        ------
        AnkleError
            If that chapter has no results, or only those of a run that did not finish; the
            message names the command that makes them.
        """
        self.check_finished(self.name, [chapter])
        kernel_side.note_input(chapter)
        return self.chapters / chapter

    def finish(self) -> None:
        """Say that all results are written: from now on later chapters read them.

        It is the last line of every notebook, for those who run it by hand. Under `ankle run` it
        does nothing, since the run itself knows when a chapter is finished.
        """
        if self.folder in _written:
            records.finish_by_hand(self.folder)
            _written.pop(self.folder).close()

    def show(self, figure: Figure, name: str) -> Figure:
        """Save ``figure`` as ``figures/<name>.png`` and ``.svg``, and return it for display."""
        write_figure(self.figures / f"{name}.png", figure)
        return figure

    def table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Save ``table`` as ``tables/<name>.csv``, and return it for display."""
        write_csv(self.tables / f"{name}.csv", table)
        return table

    def reference(self, run: str, name: str) -> pd.DataFrame:
        """Return a table of this chapter that a longer run left in ``reference/<run>``.

        Raises
        ------
        AnkleError
            If the repository has no such table.
        """
        path = self.root / "reference" / run / self.name / "tables" / f"{name}.csv"
        if not path.is_file():
            raise AnkleError(f"{path} is missing: it belongs to the repository, get it from there")
        return pd.read_csv(path)

    def claim(self, claims: Mapping[str, Any]) -> pd.DataFrame:
        """Write down which of the chapter's claims hold, and go on if one does not.

        The run tells which failed, when all is done. What would make later cells wrong is no claim
        and must be asserted.

        Parameters
        ----------
        claims : mapping of a sentence to whether it is true
            Of one value or an array of them, which all must be true.

        Returns
        -------
        DataFrame
            ``tables/claims.csv``: columns claim, holds.

        Examples
        --------
        >>> chapter.claim({"every bone has a Dice of 0.9": scores["dice"] >= 0.9})
        """
        rows = [(claim, bool(np.all(true))) for claim, true in claims.items()]
        return self.table(pd.DataFrame(rows, columns=["claim", "holds"]), CLAIMS)


def open_chapter(
    name: str,
    preset: str = "laptop",
    results: str | Path = "results",
    cohort: str = DEFAULT_COHORT,
    device: str = "auto",
) -> Chapter:
    """Open the chapter called ``name``: its folders exist afterwards, and so does the cohort.

    A notebook calls this with its parameters. Under `ankle run` everything is prepared; in
    JupyterLab a missing simulated cohort is made now. There the chapter's folder belongs to this
    notebook until `Chapter.finish` or until its kernel ends, and its results count as unfinished.

    Parameters
    ----------
    results
        Folder of all results; a relative one lies in the repository, whatever the working folder.
    cohort
        Name of a cohort in ``data_manifest.yaml``.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    AnkleError
        If preset, cohort or device is unknown, the working folder is not in the repository, an
        earlier chapter that this one reads is not finished, or somebody else writes to its folder.

    Examples
    --------
    >>> chapter = open_chapter("02_masking", preset="smoke")
    >>> subjects = read_clean_cohort(chapter.previous("01_data_cleaning"))
    """
    if shell := get_ipython():  # show figures that pyplot does not know as pictures, not as text
        select_figure_formats(shell, {"png"})
    place = Place.find(preset, Path(results), cohort, device)
    folder = place.chapters / name
    if os.environ.get(CHAPTER_VARIABLE) != name:
        place.check_finished(name, earlier_chapters(place.root, name))
        if folder not in _written:
            lock = ExitStack()
            lock.enter_context(records.one_writer(folder))
            _written[folder] = lock
        place.make_cohort()
        records.start_by_hand(folder)
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return Chapter(**vars(place), name=name, cohort_records=place.read_cohort())


def failed_claims(folder: Path) -> list[str]:
    """Return the claims of a chapter that its results do not bear out."""
    path = folder / "tables" / f"{CLAIMS}.csv"
    if not path.is_file():
        return []
    claims = pd.read_csv(path)
    return [str(claim) for claim in claims.loc[claims["holds"].astype(str) == "False", "claim"]]


def earlier_chapters(root: Path, name: str) -> list[str]:
    """Return the chapters that the notebook ``name`` asks for with `Chapter.previous`."""
    notebook = root / "notebooks" / f"{name}.ipynb"
    code = "\n".join(records.notebook_code(notebook)) if notebook.is_file() else ""
    return list(dict.fromkeys(re.findall(r"""\.previous\(\s*["'](\w+)["']""", code)))


def list_chapters(root: Path, part: str = "all") -> list[Path]:
    """Return the notebooks ``NN_name.ipynb`` of ``root`` in order, then ``A1_name.ipynb`` etc.

    Parameters
    ----------
    root : Path
    part : {"1", "2", "all"}
        Part II begins with chapter 08; the primer belongs to Part I.
    """
    if part not in ("1", "2", "all"):
        raise AnkleError(f"there is no part {part!r}: choose 1, 2 or all")
    notebooks = [
        notebook
        for notebook in sorted((root / "notebooks").glob("[0-9A][0-9]_*.ipynb"))
        if part in ("all", "2" if "08" <= notebook.stem[:2] < "A" else "1")
    ]
    if not notebooks:
        asked = "" if part == "all" else f" of part {part}"
        raise AnkleError(f"there are no notebooks NN_name.ipynb{asked} in {root / 'notebooks'}")
    return notebooks


def find_root() -> Path:
    """Return the repository: the folder with ``notebooks/`` and ``data_manifest.yaml``.

    It is looked for from the working folder upward, then where ``ankle_lib`` was imported from.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / MANIFEST).is_file() and (folder / "notebooks").is_dir():
            return folder
    raise AnkleError(
        f"{here} is not in a copy of the course (no folder above it holds {MANIFEST} and "
        "notebooks/): change into the cloned repository"
    )


def resolve_device(device: str, preset: str = "") -> str:
    """Return ``"cpu"`` or ``"cuda"`` for ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    AnkleError
        If there is no such device, in general or here; if ``paper``, which takes days on a CPU,
        would end up there without anybody having asked for it.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise AnkleError(f"there is no device {device!r}: choose one of auto, cpu, cuda")
    if device == "cpu":
        return device
    import torch  # not at the top: takes seconds, and chapters on a CPU may do without

    if torch.cuda.is_available():
        return "cuda"
    if device == "auto" and preset == GPU_PRESET:
        raise AnkleError(
            f"preset {preset} is for a GPU, and torch {torch.__version__} finds none here: go to "
            "a machine with CUDA, or give --device cpu and days of time"
        )
    if device == "auto":
        return "cpu"
    raise AnkleError(
        f"torch {torch.__version__} finds no CUDA device here: use --device cpu or auto"
    )
