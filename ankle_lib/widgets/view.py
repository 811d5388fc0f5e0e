"""What all views share: rows of controls, one drawing per change, and a sentence for bad input."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets

from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.files import AnkleError

FURTHER_COLOURS = ("#F0E442", "#CC79A7", "#E69F00", "#0072B2")
"""Okabe-Ito, for what is no bone."""
EMPTY = "&nbsp;"
"""Keeps the height of a line."""


class Message(ipywidgets.HTML):
    """Says in red what is wrong; empty if nothing is."""

    sentences: tuple[str, ...] = ()
    """What it says, as plain text."""

    def say(self, *sentences: str) -> None:
        """Show these sentences, one per line, in place of those before; none is read as HTML."""
        self.sentences = tuple(sentence for sentence in sentences if sentence)
        lines = "<br>".join(html.escape(sentence) for sentence in self.sentences)
        self.value = f'<b style="color: #B00000">{lines}</b>' if lines else ""


class View(ipywidgets.VBox):
    """A view never raises for bad input, since people look at it, not at a traceback.

    A view of its own checks what it is given and builds its controls within ``with
    self.refusals()``, names its rows by `show_rows`, its controls by `watch`, and draws in `draw`.
    """

    def __init__(self) -> None:
        self.message = Message()
        self.notes: list[str] = []
        """Sentences about what the view was given; they stay."""
        self._quiet = False
        super().__init__([self.message])

    def draw(self) -> None:
        """Bring all pictures to what the controls say."""
        raise NotImplementedError

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn an `AnkleError` into the view's only sentence."""
        try:
            yield
        except AnkleError as error:
            self.message.say(str(error))

    def show_rows(self, *rows: ipywidgets.Widget) -> None:
        """Show these widgets, one below the other, and the message below them."""
        self.children = (*rows, self.message)

    def watch(self, *controls: ipywidgets.Widget, work: Callable[[], object] | None = None) -> None:
        """Draw, or do other ``work``, when one of these controls has a new value.

        Not while the view itself sets its controls.
        """
        for control in controls:
            control.observe(lambda _: None if self._quiet else (work or self.draw)(), "value")

    def change(self, controls: Mapping[Any, Any]) -> None:
        """Give several controls their values, and draw once."""
        with self.silence():
            for control, value in controls.items():
                control.value = value
        if not self._quiet:
            self.draw()

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Do not draw while the view itself sets its controls."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before


def button(name: str, work: Callable[[], object], **look: Any) -> ipywidgets.Button:
    """Return a button that does ``work`` when it is pressed."""
    made = ipywidgets.Button(description=name, layout=ipywidgets.Layout(**look))
    made.on_click(lambda _: work())
    return made


def slider(
    name: str, low: float, high: float, value: float | None = None, *, width: int = 270, **look: Any
) -> ipywidgets.IntSlider | ipywidgets.FloatSlider:
    """Return a slider from ``low`` to ``high``, of whole numbers unless it has a ``step``."""
    kind = ipywidgets.FloatSlider if "step" in look else ipywidgets.IntSlider
    start = low if value is None else value
    return kind(
        value=start,
        min=low,
        max=high,
        description=name,
        layout=ipywidgets.Layout(width=f"{width}px"),
        **look,
    )


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name: the bones' own, then others."""
    others = [name for name in names if name not in BONE_COLOURS]
    further = {name: FURTHER_COLOURS[n % len(FURTHER_COLOURS)] for n, name in enumerate(others)}
    return {name: (BONE_COLOURS | further)[name] for name in names}


def legend(colours: Mapping[str, str]) -> ipywidgets.HTML:
    """Return names, each behind a square in its colour."""
    return ipywidgets.HTML(
        "".join(
            f'<span style="color: {colour}; font-size: 18px">■</span> {html.escape(name)} &nbsp; '
            for name, colour in colours.items()
        )
    )
