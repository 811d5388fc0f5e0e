"""A notebook becomes a page: figures with texts, live pages, still views, times, links."""

from __future__ import annotations

from pathlib import Path

import pytest

from ankle_lib.running.site_pages import (
    ALT_LENGTH,
    NO_KERNEL,
    SitePage,
    figure_text,
    glossary_words,
    in_words,
    page_of,
    site_text,
)
from tests.toy_site import CANVAS, EXECUTED, INNER, executed_notebook, picture, toy_course

PAGES = {"docs/glossary.md", "docs/report.md", f"notebooks/{EXECUTED}.ipynb"}


@pytest.fixture
def made(tmp_path: Path) -> tuple[str, SitePage, Path]:
    """All that the page shows, in one text; what was counted; the folder of its files."""
    root = toy_course(tmp_path / "course")
    notebook, extra = executed_notebook(), tmp_path / "extra"
    page = page_of(notebook, EXECUTED, root / "results" / "smoke" / EXECUTED, extra, PAGES)
    shown = []
    for cell in notebook.cells:
        shown.append(cell.source)
        for output in cell.get("outputs", []):
            shown.append(output.get("text") or output.data["text/html"])
    return "\n".join(shown), page, extra


def test_figures_become_files_with_texts(made: tuple[str, SitePage, Path]) -> None:
    text, _, extra = made
    assert 'alt="three planes, with frame; dorsiflexion (°); sagittal"' in text
    fine = extra / "figures" / EXECUTED / "01.png"
    assert fine.read_bytes() != picture(), "the finer file of the results"
    assert f'href="../figures/{EXECUTED}/01.png"' in text


def test_a_figure_without_a_file_is_the_notebooks(tmp_path: Path) -> None:
    notebook = executed_notebook()
    page_of(notebook, EXECUTED, tmp_path / "nothing", tmp_path / "extra", PAGES)
    (output,) = next(c for c in notebook.cells if "three_planes" in c.source).outputs
    assert 'alt="Figure of section 1 · Three bones"' in output.data["text/html"]
    assert (tmp_path / "extra" / "figures" / EXECUTED / "01.png").read_bytes() == picture()


def test_live_pages_become_files(made: tuple[str, SitePage, Path]) -> None:
    text, _, extra = made
    assert (extra / "live" / f"{EXECUTED}-1.html").read_text("utf-8") == INNER
    assert f'<iframe src="../live/{EXECUTED}-1.html" title="Live view 1, 1 · Three bones"' in text
    assert "height: 240px" in text
    assert "srcdoc" not in text


def test_views_show_what_they_showed_last(made: tuple[str, SitePage, Path]) -> None:
    text, _, extra = made
    assert NO_KERNEL in text
    assert 'alt="a slice &amp; its bones"' in text
    assert CANVAS == "a slice & its bones"
    assert "unseen" not in text
    (still,) = (extra / "figures" / EXECUTED).glob("*.jpg")
    assert still.read_bytes() == picture("JPEG")


def test_a_view_without_pictures_says_so(tmp_path: Path) -> None:
    notebook = executed_notebook()
    notebook.metadata.pop("widgets")
    page_of(notebook, EXECUTED, tmp_path, tmp_path / "extra", PAGES)
    cell = next(c for c in notebook.cells if c.source.startswith("from ankle_lib.widgets.viewers"))
    told = cell.outputs[0].data["text/html"]
    assert "answers in JupyterLab only." in told
    assert "below" not in told


def test_bars_of_progress_and_what_papermill_added_are_left_out(
    made: tuple[str, SitePage, Path],
) -> None:
    text, _, _ = made
    assert "100%" not in text
    assert text.count("This view") == 1  # of two widgets, one is a bar
    assert "23 children" in text
    assert 'results = "results"\n' not in text


def test_times_are_the_runs_own(made: tuple[str, SitePage, Path]) -> None:
    text, page, _ = made
    notebook = executed_notebook()
    (second,) = (one for one in page.sections if one.title.startswith("2 · "))
    (fifth,) = (one for one in page.sections if one.title.startswith("5 · "))
    codes = [c.source for c in notebook.cells if c.cell_type == "code"]
    assert sum(source.startswith("pd.DataFrame(") for source in codes) == 1  # all of section 5
    assert (second.cells_s, fifth.cells_s) == (0.0, 2.0)
    assert f"{fifth.minutes} min to read · its cells ran in 2 s" in text
    assert f"{second.minutes} min to read</p>" in text
    assert sum(one.words for one in page.sections) > 1500


def test_links_hold_on_the_site() -> None:
    text = (
        "[*Dice*](../docs/glossary.md#dice), [all](../docs/glossary.md), [c](../README.md) and "
        "[01](01_data_cleaning.ipynb), [00](00_start_here.ipynb#x) [out](https://a.org/b.md)"
    )
    assert site_text(text, f"notebooks/{EXECUTED}.ipynb", PAGES) == (
        '<a class="word" href="../docs/glossary.html#dice">*Dice*</a>, '
        '[all](../docs/glossary.md), c and 01, <a href="00_start_here.html#x">00</a> '
        "[out](https://a.org/b.md)"
    )


def test_words_are_explained_in_html() -> None:
    text = '- <a id="a"></a>**A, b** – less than 1 < 2, see *that* [page](x.md) and `f()`.\n\nmore'
    assert glossary_words(text) == {
        "a": "<b>A, b</b> – less than 1 &lt; 2, see <i>that</i> page and <code>f()</code>."
    }


def test_a_figures_text_is_what_is_written_in_it() -> None:
    svg = "<!-- 0.5 -->\n<!-- frame -->\n<!-- A -->\n<!-- dorsiflexion (°) -->\n<!-- frame -->"
    assert figure_text("joint_angles", svg) == "joint angles, with frame; dorsiflexion (°)"
    assert figure_text("bones", None) == "bones"
    long = figure_text("x", "".join(f"<!-- word{n} -->" for n in range(200)))
    assert len(long) <= ALT_LENGTH
    assert long.endswith(" …")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "less than a second"), (41.4, "41 s"), (89.4, "89 s"), (200, "3.3 min")],
)
def test_times_in_words(seconds: float, told: str) -> None:
    assert in_words(seconds) == told
