"""An executed chapter as a page of the course's site: it asks for no kernel and no network.

Figures become files with a text for those who cannot see them, pages inside a page (3D bones, slice
views) files of their own, and views that need a kernel the pictures that they showed last. Times
are those of the run's record.
"""

import base64
import html
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from nbformat import NotebookNode

from ankle_lib.files import atomic_path, write_text
from ankle_lib.running.student_copy import SOLUTION

WORDS_PER_MINUTE = 150
"""Of text and code. People read prose at 200 to 250 words a minute, and think about code."""

ALT_LENGTH = 300
"""Letters of a picture's text, as screen readers do not stop in between."""

WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGETS = "application/vnd.jupyter.widget-state+json"
PROGRESS = "FloatProgressModel"
"""Of which tqdm makes its bars."""
NO_KERNEL = "This view answers in JupyterLab only; below is what it showed at the end of the run."

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([\w./-]+?\.(?:md|ipynb|csv|cff))(#[\w-]+)?\)")
_WORD = re.compile(r'^- <a id="([\w-]+)"></a>(.+)$', re.MULTILINE)
_INLINE = (
    (r"\[([^\]]+)\]\([^)]+\)", r"\1"),
    (r"\*\*(.+?)\*\*", r"<b>\1</b>"),
    (r"\*(.+?)\*", r"<i>\1</i>"),
    (r"`(.+?)`", r"<code>\1</code>"),
)


@dataclass
class Section:
    """A section of a chapter, and the time it takes."""

    title: str
    words: int = 0
    cells_s: float = 0.0

    @property
    def minutes(self) -> int:
        """Minutes to read it, at least one."""
        return max(1, round(self.words / WORDS_PER_MINUTE))

    @property
    def run(self) -> str:
        """Return how long its cells ran, in words."""
        return in_words(self.cells_s)


@dataclass
class SitePage:
    """A chapter's page, as it is being made: `page_of` makes it."""

    chapter: str
    results: Path
    """The chapter's own folder."""
    extra: Path
    """Folder whose content lies beside the pages: ``figures/<chapter>`` and ``live`` go there."""
    sections: list[Section] = field(default_factory=list)
    live: int = 0
    pictures: int = 0

    def picture(self, data: bytes, text: str, *, kind: str = "png") -> str:
        """Write a picture, and return the HTML of a figure that opens large."""
        self.pictures += 1
        name = f"figures/{self.chapter}/{self.pictures:02d}.{kind}"
        path = self.extra / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        shown = html.escape(text, quote=True)
        return (
            f'<a class="enlarge" href="../{name}" aria-label="Open large: {shown}">'
            f'<img src="../{name}" alt="{shown}" loading="lazy"></a>'
        )

    def inner_page(self, document: str, height: str) -> str:
        """Write a page that stands in a chapter, and return the HTML that shows it there."""
        self.live += 1
        where = self.sections[-1].title if self.sections else self.chapter
        name = f"live/{self.chapter}-{self.live}.html"
        write_text(self.extra / name, document)
        title = html.escape(f"Live view {self.live}, {where}", quote=True)
        return (
            f'<div class="live"><iframe src="../{name}" title="{title}" loading="lazy" '
            f'style="height: {height}"></iframe><p><a href="../{name}" target="_blank">'
            "Open this view on a page of its own</a></p></div>"
        )


def page_of(
    notebook: NotebookNode, chapter: str, results: Path, extra: Path, pages: Collection[str]
) -> SitePage:
    """Turn an executed notebook into a page; ``notebook`` is changed.

    Parameters
    ----------
    notebook : NotebookNode
        As `ankle run` left it, or without any output.
    chapter : str
        Such as ``"05_static_segmentation"``.
    results : Path
        Its folder: figures are taken from there, since they are finer than those in the notebook.
    extra : Path
        See `SitePage`.
    pages : collection of str
        Paths of all sources of the site, from its root; links to other files become plain text.
    """
    page = SitePage(chapter, results, extra)
    widgets = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    kept = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            continue  # the page's head tells the preset
        if cell.cell_type == "markdown":
            _count(page, cell.source)
            cell.source = site_text(cell.source, f"notebooks/{chapter}.ipynb", pages)
        elif cell.cell_type == "code":
            _note_code(page, cell)
            cell.outputs = list(_outputs(page, cell, widgets))
            if SOLUTION in tags:
                cell.metadata["tags"] = [*tags, "hide-cell"]
        kept.append(cell)
    notebook.cells = kept
    notebook.metadata.pop("widgets", None)
    _show_times(notebook, page.sections)
    return page


def site_text(text: str, at: str, pages: Collection[str]) -> str:
    """Return a Markdown text with links that hold on the site.

    Words of the glossary get links that a script can show as pop-ups; links to files that are not
    on the site become plain text.

    Parameters
    ----------
    text : str
    at : str
        Path of the text from the site's root, to which its links are relative.
    pages : collection of str
    """

    def link(found: re.Match[str]) -> str:
        shown, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        path = _joined(PurePosixPath(at).parent / target)
        if path not in pages:
            return shown
        if anchor:  # a place in a page: Markdown knows none of ours
            word = ' class="word"' if path == "docs/glossary.md" else ""
            address = re.sub(r"\.(md|ipynb)$", ".html", target) + anchor
            return f'<a{word} href="{address}">{shown}</a>'
        return found.group(0)

    return _LINK.sub(link, text)


def glossary_words(text: str) -> dict[str, str]:
    """Return the explanations of a glossary as HTML, by their anchors.

    Parameters
    ----------
    text : str
        Markdown with lines ``- <a id="dice"></a>**Dice** – twice the common part …``.
    """
    words = {}
    for anchor, explained in _WORD.findall(text):
        explained = html.escape(explained, quote=False)
        for pattern, replacement in _INLINE:
            explained = re.sub(pattern, replacement, explained)
        words[anchor] = explained
    return words


def in_words(seconds: float) -> str:
    """Return a time in words.

    Examples
    --------
    >>> in_words(0.2), in_words(41.4), in_words(200)
    ('less than a second', '41 s', '3.3 min')
    """
    if seconds < 1:
        return "less than a second"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def figure_text(name: str, svg: str | None) -> str:
    """Return what a figure shows, for those who cannot see it: its name and what is written in it.

    Parameters
    ----------
    name : str
        Of its file, such as ``"joint_angles"``.
    svg : str or None
        As matplotlib writes it: each text is a comment before its outlines. Numbers and single
        letters (ticks, directions) are left out.
    """
    told = [html.unescape(text).strip() for text in re.findall(r"<!-- (.*?) -->", svg or "", re.S)]
    words = [re.sub(r"[$\\{}]|\s+", " ", text) for text in told]
    words = [text for text in dict.fromkeys(words) if re.search(r"[^\W\d]{2}", text)]
    shown = name.replace("_", " ") + (f", with {'; '.join(words)}" if words else "")
    return shown if len(shown) <= ALT_LENGTH else shown[: ALT_LENGTH - 1].rsplit(" ", 1)[0] + " …"


def _joined(path: PurePosixPath) -> str:
    """Return a path without ``..``."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _count(page: SitePage, text: str) -> None:
    """Count words of a text in the sections that it belongs to, and begins."""
    for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        if heading := re.match(r"## (.+)", part):
            page.sections.append(Section(heading.group(1).strip()))
        if page.sections:
            page.sections[-1].words += len(part.split())


def _note_code(page: SitePage, cell: NotebookNode) -> None:
    if page.sections:
        solved = SOLUTION in cell.metadata.get("tags", [])
        page.sections[-1].words += 0 if solved else len(cell.source.split())
        duration = cell.metadata.get("papermill", {}).get("duration")
        page.sections[-1].cells_s += float(duration or 0)


def _show_times(notebook: NotebookNode, sections: list[Section]) -> None:
    """Write below the heading of each section how long it takes."""
    times = {section.title: section for section in sections}
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        lines = []
        for line in cell.source.splitlines():
            lines.append(line)
            section = times.get(line.removeprefix("## ").strip()) if line[:3] == "## " else None
            if section:
                told = f"{section.minutes} min to read"
                told += f" · its cells ran in {section.run}" if section.cells_s else ""
                lines += ["", f'<p class="time">{told}</p>', ""]
        cell.source = "\n".join(lines)


def _outputs(page: SitePage, cell: NotebookNode, widgets: dict[str, Any]) -> Iterator[NotebookNode]:
    """Yield a cell's outputs as they stand on the page."""
    files = iter(_figures_of(page, cell.source))
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stdout" and output.text.strip():
                yield output
            continue  # bars of progress
        data = output.get("data", {})
        if WIDGET in data:
            model = data[WIDGET]["model_id"]
            if not _is_progress(model, widgets):
                yield _html(_still(page, model, widgets))
        elif "image/png" in data:
            yield _html(_figure(page, base64.b64decode(data["image/png"]), next(files, None)))
        elif "text/html" in data:
            yield _html(_standing(page, "".join(data["text/html"])))
        elif "text/plain" in data or output.output_type == "error":
            yield output


def _html(text: str) -> NotebookNode:
    return NotebookNode(output_type="display_data", metadata={}, data={"text/html": text})


def _figures_of(page: SitePage, source: str) -> list[Path]:
    """Return the files of the figures that a cell saves, in the order in which it shows them."""
    found: list[Path] = []
    for prefix, name in re.findall(r'\bchapter\.show\((?:.*?,\s*)(f?)"([^"]+)"\)', source, re.S):
        folder = page.results / "figures"
        if prefix:  # several, of which the cell makes the names
            wanted = "*".join(re.split(r"\{.*?\}", name))
            found += sorted(folder.glob(f"{wanted}.png"), key=lambda path: path.stat().st_mtime_ns)
        else:
            found.append(folder / f"{name}.png")
    return found


def _figure(page: SitePage, data: bytes, file: Path | None) -> str:
    where = page.sections[-1].title if page.sections else page.chapter
    if file is None or not file.is_file():
        return f'<div class="shown">{page.picture(data, f"Figure of section {where}")}</div>'
    svg = file.with_suffix(".svg")
    text = figure_text(file.stem, svg.read_text("utf-8") if svg.is_file() else None)
    return f'<div class="shown">{page.picture(file.read_bytes(), text)}</div>'


def _standing(page: SitePage, shown: str) -> str:
    """Return HTML that a cell shows, with pages inside it as files and tables in a frame."""
    inner = re.search(r'<iframe[^>]*\bsrcdoc="([^"]*)"[^>]*>', shown)
    if inner:
        height = re.search(r'\bheight="?(\d+)', inner.group(0).replace(inner.group(1), ""))
        return page.inner_page(html.unescape(inner.group(1)), f"{height[1] if height else 480}px")
    shown = re.sub(r"<style scoped>.*?</style>", "", shown, flags=re.S)
    shown = shown.replace(' border="1"', "").replace("<th></th>", "<td></td>")
    return f'<div class="wide">{shown}</div>' if "<table" in shown else shown


def _still(page: SitePage, model: str, widgets: dict[str, Any]) -> str:
    """Return the pictures of a view that needs a kernel, as they were when the run ended."""
    pictures = "".join(
        page.picture(data, text, kind="jpg" if data[:2] == b"\xff\xd8" else "png")
        for data, text in _pictures(model, widgets)
    )
    told = NO_KERNEL if pictures else NO_KERNEL.split(";")[0] + "."
    return f'<div class="still"><p>{told}</p><div class="row">{pictures}</div></div>'


def _pictures(model: str, widgets: dict[str, Any]) -> Iterator[tuple[bytes, str]]:
    """Yield the pictures of a widget and of those inside it, with their texts."""
    one = widgets.get(model.removeprefix("IPY_MODEL_"), {})
    state = one.get("state", {})
    if state.get("layout", None) and _hidden(state["layout"], widgets):
        return
    for buffer in one.get("buffers", []):
        if buffer.get("path") == ["picture"] and buffer.get("data"):
            yield base64.b64decode(buffer["data"]), state.get("text") or "a picture of this view"
    for child in state.get("children", []):
        yield from _pictures(child, widgets)


def _is_progress(model: str, widgets: dict[str, Any]) -> bool:
    """Tell whether a widget is a bar of progress, or holds one."""
    one = widgets.get(model.removeprefix("IPY_MODEL_"), {})
    children = one.get("state", {}).get("children", [])
    bar = one.get("model_name") == PROGRESS
    return bar or any(_is_progress(child, widgets) for child in children)


def _hidden(layout: str, widgets: dict[str, Any]) -> bool:
    state = widgets.get(layout.removeprefix("IPY_MODEL_"), {}).get("state", {})
    return state.get("display") == "none" or state.get("visibility") == "hidden"
