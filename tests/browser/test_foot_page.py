"""The page about a foot in a real browser: it turns, plays, fits a phone, and asks nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.lab import Person, problems
from tests.foot.test_page import page  # noqa: F401  # the fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_the_page_of_a_foot(person: Person, page: str, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    asked, said = [], []
    person.page.on("request", lambda request: asked.append(request.url))
    person.page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    person.page.goto(path.as_uri())
    view, slider = person.page.locator("canvas"), person.page.locator("#frame")
    still = view.screenshot()
    assert len(set(still)) > 20, "nothing is drawn"
    slider.fill("2")
    assert person.page.locator("#number").inner_text() == "frame 2"
    box = view.bounding_box()
    assert box
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    person.page.mouse.move(*middle)
    person.page.mouse.down()
    person.page.mouse.move(middle[0] + 90, middle[1] + 20, steps=3)
    person.page.mouse.up()
    assert view.screenshot() != still, "it does not turn"
    turned = view.screenshot()
    view.press("ArrowLeft")
    assert view.screenshot() != turned, "arrows do not turn it"
    person.page.locator("#play").click()
    for _ in range(100):
        person.page.wait_for_timeout(50)
        if slider.input_value() != "2":
            break
    assert slider.input_value() != "2", "it does not play"
    person.page.locator("#play").click()
    assert person.page.locator("#charts svg").count() == 4
    person.screenshot("foot_page")
    person.page.set_viewport_size({"width": 390, "height": 800})
    width = person.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, f"{width} px wide on a phone"
    person.screenshot("foot_page_on_a_phone")
    assert not problems(person.page)
    assert not person.errors
    assert not [text for text in said if text.startswith("error")]
    assert all(url.startswith(("file:", "data:")) for url in asked)
