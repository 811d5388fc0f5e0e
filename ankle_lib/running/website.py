"""The course as a static site, made by Sphinx from the notebooks that a run has executed.

The pages and all that they show lie in one folder that can be opened from a disk, or served by
anything; see ``docs/site`` for their looks. What a run has not executed is shown without results.
"""

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat

from ankle_lib import summary
from ankle_lib.files import AnkleError, atomic_path, write_text
from ankle_lib.running.chapter import find_root, list_chapters
from ankle_lib.running.records import NOTEBOOK, RUN_RECORD
from ankle_lib.running.site_pages import SitePage, glossary_words, in_words, page_of, site_text
from ankle_lib.running.student_copy import student_copy

LOOKS = Path("docs") / "site"
"""Sphinx's settings, the first page, styles and scripts."""

TEXTS = (
    "docs/glossary.md",
    "docs/report.md",
    "docs/teaching.md",
    "ankle_lib/weights/README.md",
)
"""Texts of the repository that are pages of the site."""

REPAIRS = {
    '<p class="caption" role="heading">': '<p class="caption">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Chapters">',
    '<th class="head"><p></p></th>': "<td></td>",
    '<div id="search-results">': '<h1>Search</h1>\n<div id="search-results">',
}
"""What Sphinx and the theme write, and what screen readers need in its place."""

RESULTS_PAGE, TIMES_PAGE = "docs/results.md", "docs/times.md"


def build_site(
    preset: str = "laptop",
    *,
    results: Path | None = None,
    out: Path | None = None,
    root: Path | None = None,
) -> Path:
    """Make the site from a finished run, in place of an earlier one, and return its first page.

    Parameters
    ----------
    preset : str
    results : Path, optional
        Folder of all results; default ``results/`` in the repository.
    out : Path, optional
        Folder of the site; default ``site-<preset>/`` among the results.
    root : Path, optional
        The repository; default `chapter.find_root`.

    Raises
    ------
    AnkleError
        If Sphinx is not installed, no chapter is finished, or Sphinx has something to complain of.
    """
    if not find_spec("myst_nb") or not find_spec("furo"):
        raise AnkleError('Sphinx is missing: .venv/bin/pip install -c constraints.txt -e ".[site]"')
    root = root or find_root()
    results = (results or root / "results").absolute()
    run, out = results / preset, (out or results / f"site-{preset}").absolute()
    if (out.exists() and not (out / "objects.inv").exists()) and any(out.iterdir()):
        raise AnkleError(f"{out} holds something else than a site: give another folder with --out")
    chapters = list_chapters(root)
    if not any((run / one.stem / RUN_RECORD).is_file() for one in chapters):
        raise AnkleError(
            f"no chapter is finished in {run}: run `ankle run --preset {preset}`, then this again"
        )
    with tempfile.TemporaryDirectory(prefix="ankle-site-") as folder:
        source, made = Path(folder) / "source", Path(folder) / "site"
        _write_sources(source, root, run, chapters)
        command = [*(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html")]
        command += ["-d", str(Path(folder) / "doctrees"), str(source), str(made)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise AnkleError("Sphinx: " + " | ".join(line.strip() for line in lines[-8:]))
        for page in made.rglob("*.html"):
            if "live" not in page.relative_to(made).parts:
                page.write_text(_repaired(page.read_text("utf-8")), "utf-8")
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)
    return out / "index.html"


def _repaired(page: str) -> str:
    for written, needed in REPAIRS.items():
        page = page.replace(written, needed)
    return page


def _write_sources(source: Path, root: Path, run: Path, chapters: list[Path]) -> None:
    """Write all that Sphinx reads; paths are those of the repository, where that can be."""
    shutil.copytree(root / LOOKS, source)
    extra = source / "extra"
    pages = {f"notebooks/{one.name}" for one in chapters} | {*TEXTS, RESULTS_PAGE, TIMES_PAGE}
    for name in TEXTS:
        write_text(source / name, site_text((root / name).read_text("utf-8"), name, pages))
    words = glossary_words((root / "docs" / "glossary.md").read_text("utf-8"))
    script = f"window.ankleWords = {json.dumps(words, ensure_ascii=False)};\n"
    write_text(source / "_static" / "words.js", script)
    made: dict[Path, tuple[SitePage, dict[str, Any]]] = {}
    for chapter in chapters:
        made[chapter] = _write_chapter(source, chapter, run, pages)
    write_text(source / TIMES_PAGE, _times(made))
    write_text(source / RESULTS_PAGE, _results(run, [one.stem for one in chapters], extra))
    first = (source / "index.md").read_text("utf-8")
    first = first.replace("[chapters]", _chapters(made)).replace("[preset]", run.name)
    write_text(source / "index.md", first + _navigation(chapters))


def _write_chapter(
    source: Path, chapter: Path, run: Path, pages: set[str]
) -> tuple[SitePage, dict[str, Any]]:
    """Write a chapter's page and downloads; return what was made, and its run's record."""
    folder, extra = run / chapter.stem, source / "extra"
    record: dict[str, Any] = {}
    executed = chapter
    if (folder / RUN_RECORD).is_file():
        record = json.loads((folder / RUN_RECORD).read_text("utf-8"))
        executed = folder / NOTEBOOK
    downloads = extra / "downloads"
    student = nbformat.writes(student_copy(nbformat.read(chapter, as_version=4)))
    write_text(downloads / chapter.name, student + "\n")
    write_text(downloads / f"solved_{chapter.name}", chapter.read_text("utf-8"))
    offered = [
        (chapter.name, "notebook for students"),
        (f"solved_{chapter.name}", "with solutions"),
    ]
    if tables := sorted((folder / "tables").glob("*.csv")):
        name = f"{chapter.stem}_tables.zip"
        with atomic_path(downloads / name) as temporary:
            temporary.write_bytes(_zipped(tables))
        offered.append((name, "tables (CSV)"))
    notebook = nbformat.read(executed, as_version=4)
    page = page_of(notebook, chapter.stem, folder, extra, pages)
    first = notebook.cells[0]
    title, _, rest = first.source.partition("\n")
    links = " · ".join(f'<a href="../downloads/{name}">{what}</a>' for name, what in offered)
    first.source = f'{title}\n\n<p class="run">{_told(record)}<br>{links}</p>\n{rest}'
    write_text(source / "notebooks" / chapter.name, nbformat.writes(notebook))
    return page, record


def _zipped(files: list[Path]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.name)
    return stream.getvalue()


def _told(record: dict[str, Any]) -> str:
    """Return in a sentence which run a page shows."""
    if not record:
        return "Not executed in the run that this site shows: text and code, without results."
    memory = f"{record['peak_rss_mb'] / 1024:.1f} GB of memory"
    device = (record.get("gpu") or {}).get("name") or record["device"].upper()
    return (
        f"Executed at preset <code>{record['preset']}</code> on a {device}, "
        f"in {in_words(record['wall_s'])} with {memory}."
    )


def _question(chapter: Path) -> tuple[str, str]:
    """Return title and question of a notebook, which are its first lines."""
    text = "".join(nbformat.read(chapter, as_version=4).cells[0].source)
    title = text.partition("\n")[0].removeprefix("# ").strip()
    question = re.search(r"\*\*(.+?)\*\*", text, re.S)
    return title, " ".join(question.group(1).split()) if question else ""


def _chapters(made: dict[Path, tuple[SitePage, dict[str, Any]]]) -> str:
    lines = ["| chapter | question | to read | the run took |", "|---|---|---|---|"]
    for chapter, (page, record) in made.items():
        title, question = _question(chapter)
        minutes = sum(section.minutes for section in page.sections)
        took = in_words(record["wall_s"]) if record else "not run"
        link = f"[{title}](notebooks/{chapter.name})"
        lines.append(f"| {link} | {question} | {minutes} min | {took} |")
    return "\n".join(lines)


def _times(made: dict[Path, tuple[SitePage, dict[str, Any]]]) -> str:
    """Return the page of times: every section of every chapter, from the records of the run."""
    lines = [
        "# Time for each section",
        "",
        "Minutes to read are counted from the words of text and code, 150 a minute; what the cells "
        "took is from the record of the run that this site shows, without solving the exercises.",
    ]
    for chapter, (page, record) in made.items():
        lines += ["", f"## [{_question(chapter)[0]}](../notebooks/{chapter.name})", ""]
        lines += [_told(record), "", "| section | to read | cells |", "|---|---|---|"]
        for one in page.sections:
            ran = one.run if one.cells_s else "–"
            lines.append(f"| {one.title} | {one.minutes} min | {ran} |")
    return "\n".join(lines) + "\n"


def _results(run: Path, chapters: list[str], extra: Path) -> str:
    """Return the page that sets this run's results beside the report's."""
    lines = ["# Results beside the report's", ""]
    try:
        table = summary.summarise(run, chapters)
        if table.empty:
            raise AnkleError("the chapters that have some are not among its own")
    except AnkleError as error:
        told = str(error).split(" in /")[0]
        return "\n".join([*lines, f"This run has no results to compare: {told}.", ""])
    with atomic_path(extra / "downloads" / "results.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    shown = summary.as_markdown(table).rpartition("\n\n")[0]
    lines += [
        f"Means over the children who test, with 95 % intervals over children, at preset "
        f"`{run.name}`. The report's scans are private and ours are a phantom's: compare the "
        'pattern, not the third digit. <a href="../downloads/results.csv">All numbers (CSV)</a>',
        "",
        shown,
        "",
    ]
    return "\n".join(lines)


def _navigation(chapters: list[Path]) -> str:
    parts: dict[str, list[str]] = {
        "Part I · the ankle": [],
        "Part II · other questions": [],
        "Primer": [],
    }
    first, second, primer = parts
    for one in chapters:
        part = primer if one.stem[0] == "A" else second if one.stem[:2] >= "08" else first
        parts[part].append(f"notebooks/{one.stem}")
    around = [RESULTS_PAGE, TIMES_PAGE, *TEXTS]
    parts["Around the course"] = [path.removesuffix(".md") for path in around]
    blocks = []
    for caption, names in parts.items():
        if names:
            block = ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""]
            blocks.append("\n".join(block))
    return "\n".join(blocks)
