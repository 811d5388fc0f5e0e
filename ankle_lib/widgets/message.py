"""One sentence in a view about what it cannot show."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets


class Message(ipywidgets.HTML):
    """Says in red what is wrong; empty if nothing is."""

    sentences: tuple[str, ...] = ()
    """What it says, as plain text."""

    def say(self, *sentences: str) -> None:
        """Show these sentences, in place of the ones before; none of them is read as HTML."""
        self.show(sentences)

    def show(self, sentences: Sequence[str]) -> None:
        """Show a list of sentences, one per line."""
        self.sentences = tuple(sentence for sentence in sentences if sentence)
        lines = "<br>".join(html.escape(sentence) for sentence in self.sentences)
        self.value = f'<b style="color: #B00000">{lines}</b>' if lines else ""
