"""A course of small notebooks in a temporary folder, for tests of what runs it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import nbformat

from ankle_lib.running import kernel_side
from ankle_lib.running.chapter import CHAPTER_VARIABLE
from ankle_lib.running.execution import Execution, NotebookError

PARAMETERS = 'preset = "laptop"\nresults = "results"\ncohort = "phantom"\ndevice = "auto"\n'

MANIFEST = """\
version: 1
cohorts:
- name: toy
  licence: none
  source: {type: local, root: scans}
  subjects:
  - code: T01
    group: control
    static: [static.txt]
"""


def write_notebook(path: Path, *cells: str, parameters: str = "") -> Path:
    """Write a notebook with a parameters cell and these code cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = nbformat.v4.new_code_cell(PARAMETERS + parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(
        cells=[first, *map(nbformat.v4.new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "P"}},
    )
    nbformat.write(notebook, path)
    return path


def write_course(root: Path, chapters: dict[str, list[str]]) -> Path:
    """Write a repository with these chapters and a cohort ``toy`` of one text file."""
    for name, cells in chapters.items():
        write_notebook(root / "notebooks" / f"{name}.ipynb", *cells)
    (root / "scans").mkdir(parents=True, exist_ok=True)
    (root / "scans" / "static.txt").write_text("a scan", encoding="utf-8")
    (root / "data_manifest.yaml").write_text(MANIFEST, encoding="utf-8")
    return root


OPEN = """\
from ankle_lib.running.chapter import open_chapter
chapter = open_chapter("{name}", preset, results, cohort, device)
"""

FINISH = "chapter.finish()"

WRITE_TABLE = """\
import pandas as pd
chapter.table(pd.DataFrame({"value": [1, 2, 3]}), "numbers")
"""

READ_TABLE = """\
import pandas as pd
numbers = pd.read_csv(chapter.previous("01_first") / "tables" / "numbers.csv")
chapter.table(numbers * 2, "doubled")
"""


def execute_here(
    notebook: Path,
    output: Path,
    parameters: dict[str, Any],
    *,
    environment: dict[str, str],
) -> Execution:
    """Stand in for `execute_notebook` without a kernel, which takes seconds to start."""
    book = nbformat.read(notebook, as_version=4)
    book.metadata.papermill = {"output_path": str(output)}
    variables: dict[str, Any] = {}
    kernel_side._inputs.clear()
    here, os.environ[CHAPTER_VARIABLE] = Path.cwd(), environment[CHAPTER_VARIABLE]
    os.chdir(notebook.parent)
    try:
        for number, cell in enumerate(book.cells):
            exec(cell.source, variables)
            variables.update(parameters if number == 0 else {})
    except Exception as error:
        name = type(error).__name__
        raise NotebookError(f"In [{number + 2}]: {name}: {error}") from None
    finally:
        nbformat.write(book, output)
        os.chdir(here)
        del os.environ[CHAPTER_VARIABLE]
    return Execution(100.0, 0.0, tuple(kernel_side._inputs), ("ankle_lib", "ankle_lib.files"))


def two_chapters(root: Path) -> Path:
    """Write a course whose second chapter reads a table of the first."""
    return write_course(
        root,
        {
            "01_first": [OPEN.format(name="01_first"), WRITE_TABLE, FINISH],
            "02_second": [OPEN.format(name="02_second"), READ_TABLE, FINISH],
        },
    )


def solved(path: Path) -> list[tuple[str, str]]:
    """Return each solution of a notebook with the cell of code after it."""
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    return [
        (cell.source, following.source)
        for cell, following in itertools.pairwise(code)
        if "solution" in cell.metadata.get("tags", [])
    ]
