"""The site as a folder: what is on it, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import nbformat
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.running import website
from ankle_lib.running.website import build_site
from tests.toy_site import EXECUTED, OTHER, toy_course


@pytest.mark.slow
def test_a_site_is_made_from_a_run(tmp_path: Path) -> None:
    root = toy_course(tmp_path / "course")
    first = build_site("smoke", root=root)
    site = first.parent
    assert first == root / "results" / "site-smoke" / "index.html"
    chapter = (site / "notebooks" / f"{EXECUTED}.html").read_text("utf-8")
    assert "Executed at preset <code>smoke</code> on a CPU, in 41 s with 1.0 GB" in chapter
    assert "Show the solution" in chapter
    assert "Not executed in the run" in (site / "notebooks" / f"{OTHER}.html").read_text("utf-8")
    assert "<math" in (site / "notebooks" / f"{OTHER}.html").read_text("utf-8")
    times = (site / "docs" / "times.html").read_text("utf-8")
    assert re.search(r"5 · The data.*?<td.*?>\s*<p>\d+ min.*?<p>2 s", times, re.S)
    results = (site / "docs" / "results.html").read_text("utf-8")
    assert "no results to compare" in results
    assert str(tmp_path) not in results
    words = (site / "_static" / "words.js").read_text("utf-8")
    assert "equinus" in json.loads(words.removeprefix("window.ankleWords = ").rstrip(";\n"))
    downloads = site / "downloads"
    students = nbformat.read(downloads / f"{EXECUTED}.ipynb", as_version=4)
    assert not any("# Solution" in cell.source for cell in students.cells)
    with zipfile.ZipFile(io.BytesIO((downloads / f"{EXECUTED}_tables.zip").read_bytes())) as tables:
        assert list(csv.reader(io.StringIO(tables.read("one.csv").decode())))[1][0] == "talus"
    everything = [path.read_text("utf-8") for path in site.rglob("*.html")]
    assert not any('src="http' in page for page in everything)
    build_site("smoke", root=root)  # in place of the earlier one


def test_no_site_of_nothing(tmp_path: Path) -> None:
    root = toy_course(tmp_path / "course")
    with pytest.raises(AnkleError, match="run `ankle run --preset laptop`"):
        build_site("laptop", root=root)


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    root, out = toy_course(tmp_path / "course"), tmp_path / "thesis"
    out.mkdir()
    (out / "text.txt").write_text("mine")
    with pytest.raises(AnkleError, match="something else"):
        build_site("smoke", root=root, out=out)
    assert (out / "text.txt").read_text() == "mine"


def test_without_sphinx_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(website, "find_spec", lambda name: None)
    with pytest.raises(AnkleError, match=r"pip install .*\[site\]"):
        build_site("smoke", root=toy_course(tmp_path / "course"))


def test_what_sphinx_complains_of_is_told(tmp_path: Path) -> None:
    root = toy_course(tmp_path / "course")
    page = root / "docs" / "teaching.md"
    page.write_text("# A\n\n#### B\n\n```{nothing}\n```\n")
    with pytest.raises(AnkleError, match="nothing"):
        build_site("smoke", root=root)
    assert not (root / "results" / "site-smoke").exists()
