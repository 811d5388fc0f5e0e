"""A course of small notebooks in a temporary folder, for tests of the pipeline."""

from __future__ import annotations

from pathlib import Path

import nbformat

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

WRITE_TABLE = """\
import pandas as pd
chapter.table(pd.DataFrame({"value": [1, 2, 3]}), "numbers")
"""

READ_TABLE = """\
import pandas as pd
numbers = pd.read_csv(chapter.previous("01_first") / "tables" / "numbers.csv")
chapter.table(numbers * 2, "doubled")
"""


def two_chapters(root: Path) -> Path:
    """Write a course whose second chapter reads a table of the first."""
    return write_course(
        root,
        {
            "01_first": [OPEN.format(name="01_first"), WRITE_TABLE],
            "02_second": [OPEN.format(name="02_second"), READ_TABLE],
        },
    )
