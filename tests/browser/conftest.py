"""A real browser; without Chromium these tests skip, but not where ANKLE_REQUIRE_BROWSER is set."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.browser.lab import CHROMIUM, CHROMIUM_OPTIONS, SCREEN, Person

# a developer may do without a browser, `.ci/run` may not
REQUIRED = bool(os.environ.get("CI") or os.environ.get("ANKLE_REQUIRE_BROWSER"))


@pytest.fixture
def person(request: pytest.FixtureRequest) -> Iterator[Person]:
    """Someone with a browser of 1280 x 800."""
    if not CHROMIUM.exists():
        if REQUIRED:
            pytest.fail(f"{CHROMIUM} is missing: apt-get install chromium")
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_OPTIONS, headless=True
        )
        try:
            context = browser.new_context(viewport=SCREEN)
            person = Person(context.new_page())
            yield person
            person.screenshot(f"last_{request.node.name}")
        finally:
            browser.close()
