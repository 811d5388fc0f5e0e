"""The site in a real browser: complete, quiet, readable, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from ankle_lib.running.website import build_site
from tests.browser.lab import CHROMIUM, Person, problems
from tests.toy_site import CANVAS, EXECUTED, OTHER, toy_course

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CHAPTER = f"notebooks/{EXECUTED}.html"
PHONE = {"width": 390, "height": 844}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Folder of the site, and its address."""
    if not CHROMIUM.exists():  # as `person` says; nothing is built then
        yield tmp_path, ""
        return
    folder = build_site("smoke", root=toy_course(tmp_path / "course")).parent
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_site(site: tuple[Path, str], person: Person) -> None:
    folder, address = site
    page, said, asked, missing = person.page, [], [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda one: missing.append(one.url) if one.status >= 400 else None)

    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    assert {"index.html", "search.html", CHAPTER, f"notebooks/{OTHER}.html"} <= set(pages)
    links = {}
    pages = [name for name in pages if not name.startswith("live/")]
    for name in pages:
        page.goto(address + name)
        links[name] = everything_linked(page)
        if name in (CHAPTER, "index.html", "search.html", "docs/times.html", "docs/glossary.html"):
            assert not problems(page), name
        if name in (CHAPTER, "index.html"):
            page.emulate_media(color_scheme="dark")
            assert not problems(page), f"{name}, dark"
            page.emulate_media(color_scheme="light")
    for name, found in links.items():
        assert not list(gone(found, address, folder)), name

    page.goto(address + CHAPTER)
    look_at_figures(page)
    look_at_words(page)
    assert page.frame_locator("iframe").locator("text=alive & well").count() == 1
    on_a_phone(person, address, pages)
    search(page, address)
    assert not person.errors
    assert not [text for text in said if text.startswith(("error", "warning"))]
    assert not missing
    assert all(url.startswith((address, "data:")) for url in asked)


def everything_linked(page: Page) -> list[str]:
    script = "[...document.querySelectorAll('a[href]')].map((link) => link.href)"
    return list(set(page.evaluate(script)))


def gone(links: list[str], address: str, folder: Path) -> Iterator[str]:
    """Yield the links whose file, or place in it, is not on the site."""
    for link in links:
        if link.startswith(address):
            name, _, anchor = link.removeprefix(address).partition("#")
            path = folder / (name or "index.html")
            if not path.is_file() or (anchor and f'id="{anchor}"' not in path.read_text("utf-8")):
                yield link
        else:
            assert link.startswith(("https://", "mailto:")), link


def look_at_figures(page: Page) -> None:
    """Every picture has a text; a figure opens large by mouse and keyboard, and closes."""
    pictures: list[dict[str, Any]] = page.evaluate(
        "[...document.querySelectorAll('article img')].map((one) => {one.loading = 'eager';"
        "return {alt: one.alt, src: one.src}})"
    )
    assert len(pictures) == 2
    assert pictures[0]["alt"] == "three planes, with frame; dorsiflexion (°); sagittal"
    assert pictures[1]["alt"] == CANVAS
    page.wait_for_function("[...document.images].every((one) => one.complete)")
    widths = page.evaluate("[...document.querySelectorAll('article img')].map(o => o.naturalWidth)")
    assert all(widths), "a picture is missing"
    large, link = page.locator("#large"), page.locator("a.enlarge").first
    link.click()
    assert large.is_visible()
    assert large.locator("img").get_attribute("alt") == pictures[0]["alt"]
    assert not problems(page)
    page.keyboard.press("Escape")
    assert not large.is_visible()
    link.focus()
    page.keyboard.press("Enter")
    assert large.is_visible()
    large.locator("text=Close").click()
    assert not large.is_visible()


def look_at_words(page: Page) -> None:
    """A word of the glossary explains itself, to a mouse and to the keyboard."""
    word, bubble = page.locator('a.word[href$="#equinus"]').first, page.locator("#explained")
    word.hover()
    assert "cannot be lifted" in bubble.inner_text()
    assert word.get_attribute("aria-describedby") == "explained"
    page.keyboard.press("Escape")
    assert not bubble.is_visible()
    word.focus()
    assert bubble.is_visible()
    assert not problems(page)
    page.keyboard.press("Tab")
    assert "cannot be lifted" not in bubble.inner_text() or not bubble.is_visible()


def on_a_phone(person: Person, address: str, pages: list[str]) -> None:
    """Nothing is wider than the screen, and the chapters are behind one button."""
    page = person.page
    page.set_viewport_size(PHONE)
    for name in pages:
        page.goto(address + name)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{name}: {width} px wide"
    page.goto(address + CHAPTER)
    assert not problems(page)
    table = page.locator(".wide").first
    assert table.get_attribute("tabindex") == "0"
    page.locator("label.nav-overlay-icon, .nav-overlay-icon").first.click()
    page.locator(f'.sidebar-tree a:has-text("{OTHER[:2]} ·")').first.click()
    page.wait_for_url(f"**/{OTHER}.html")
    person.screenshot("site_on_a_phone")
    page.set_viewport_size({"width": 1280, "height": 800})


def search(page: Page, address: str) -> None:
    page.goto(address + "search.html?q=equinus")
    page.locator("#search-results li a").first.wait_for()
    found = page.locator("#search-results li a").all_inner_texts()
    assert any(text.startswith("00") for text in found)
