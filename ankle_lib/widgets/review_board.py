"""The board on which a person judges registrations, one after the other."""

from __future__ import annotations

import html
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import ipywidgets
import numpy as np

from ankle_lib.figures.images import middle_slice
from ankle_lib.figures.style import BONE_COLOURS, VERDICT_COLOURS
from ankle_lib.files import AnkleError
from ankle_lib.quality.review_sheet import AUTOMATIC, ReviewSheet
from ankle_lib.volume import Volume
from ankle_lib.widgets.inputs import OUTSIDE, inside, not_finite
from ankle_lib.widgets.picture import SlicePicture
from ankle_lib.widgets.review_layout import BORDER_PX, VERDICT_OF, ReviewLayout
from ankle_lib.widgets.review_rows import (
    RowKey,
    bones_of,
    keys_of,
    next_undecided,
    row_of,
    undecided,
)
from ankle_lib.widgets.review_view import View, look


class ReviewBoard(ReviewLayout):
    """Judge registrations one after the other; each verdict is at once in the review sheet.

    Shown is a sagittal slice of the frame with the outline of the moved bone, at first through
    the bone's middle. After a verdict comes the next registration that no person has judged: the
    same bone in the frames that follow, then the next bone. A note is saved with the verdict.

    Parameters
    ----------
    sheet : ReviewSheet
        Others may work on the same file.
    view : callable
        See `View`. If it raises `AnkleError` or `OSError`, the board shows the message.
    reviewer : str
        Name of the person who judges.

    Raises
    ------
    AnkleError
        If the sheet cannot be read or has no rows, or the reviewer has no name.
    """

    def __init__(self, sheet: ReviewSheet, view: View, reviewer: str) -> None:
        if reviewer.strip() in ("", AUTOMATIC):
            raise AnkleError(f"reviewer {reviewer!r}: give the name of the person who judges")
        self._sheet, self._view, self._reviewer = sheet, view, reviewer.strip()
        self._table = sheet.table()
        if self._table.empty:
            raise AnkleError(f"{sheet.path}: has no rows to judge: run the registration first")
        self._picture = SlicePicture()
        self._shown: tuple[Volume, Volume] | None = None
        self._moving = False  # while the board itself sets its controls
        self._key = (undecided(self._table) or keys_of(self._table))[0]
        super().__init__(bones_of(self._table), len(self._table))
        self._listen()
        self._show()

    # --- what one can do ---

    @property
    def current(self) -> RowKey:
        """Subject, sequence, frame and bone of the registration that is shown."""
        return self._key

    def judge(self, verdict: str) -> None:
        """Write ``accepted``, ``rejected`` or ``unsure`` to the sheet, and go on."""
        row = row_of(self._table, self._key)
        try:
            self._table = self._sheet.judge(
                *self._key,
                verdict,
                self._reviewer,
                self.note.value,
                correlation=None if row is None else row["correlation"],
            )
        except AnkleError as error:
            self._show_again()
            self.message.say(str(error))
            return
        self._go_to_undecided()

    def accept(self) -> None:
        """Accept what is shown."""
        self.judge("accepted")

    def reject(self) -> None:
        """Reject what is shown."""
        self.judge("rejected")

    def unsure(self) -> None:
        """Leave the decision to someone else; it does not go on to later chapters."""
        self.judge("unsure")

    def next_undecided(self) -> None:
        """Show the next registration that no person has judged, also not someone else meanwhile."""
        try:
            self._table = self._sheet.table()
        except AnkleError as error:
            self.message.say(str(error))
            return
        self._go_to_undecided()

    def next_frame(self) -> None:
        """Show the same bone in the next frame."""
        self._step(1)

    def previous_frame(self) -> None:
        """Show the same bone in the frame before."""
        self._step(-1)

    def choose_bone(self, number: int) -> None:
        """Show bone ``number`` (from 1, in the order of the buttons) in the same frame."""
        if number <= len(self.bones):
            subject, sequence, frame, _ = self._key
            self.go_to(subject, sequence, frame, list(self.bones)[number - 1])

    def go_to(self, subject: str, sequence: str, frame: int, bone: str) -> None:
        """Show a registration; if the sheet lacks it, say so."""
        key = (subject, sequence, frame, bone)
        if row_of(self._table, key) is None:
            self.message.say(f"The sheet has no row {', '.join(map(str, key))}.")
            return
        self._key = key
        self._show()

    def press(self, key: str) -> None:
        """Do what a key does (see the line below the board); other keys do nothing."""
        action = self._actions.get(key)
        if action is not None:
            action()

    # --- what happens on a change ---

    def _listen(self) -> None:
        self._actions: dict[str, Callable[[], None]] = {
            "a": self.accept,
            "r": self.reject,
            "u": self.unsure,
            "n": self.next_undecided,
            "ArrowLeft": self.previous_frame,
            "ArrowRight": self.next_frame,
            **{str(n): partial(self.choose_bone, n) for n in range(1, len(self.bones) + 1)},
            "o": partial(_toggle, self.outline),
            "z": partial(_toggle, self.zoom),
        }
        for number, button in enumerate(self.bones.values(), start=1):
            button.on_click(lambda _, number=number: self.choose_bone(number))
        for name, button in self.verdicts.items():
            button.on_click(lambda _, verdict=VERDICT_OF[name]: self.judge(verdict))
        self.next.on_click(lambda _: self.next_undecided())
        self.sequence.observe(self._on_sequence, "value")
        self.frame.observe(self._on_frame, "value")
        for control in (self.slice, self.outline, self.zoom):
            control.observe(self._on_look, "value")
        self.keyboard.listened_keys = list(self._actions)
        self.keyboard.on_msg(lambda _, content, buffers: self.press(content.get("key", "")))

    def _on_sequence(self, change: dict[str, Any]) -> None:
        if self._moving:
            return
        keys = [key for key in keys_of(self._table) if key[:2] == change["new"]]
        same_bone = [key for key in keys if key[3] == self._key[3]]
        self.go_to(*(same_bone or keys)[0])

    def _on_frame(self, change: dict[str, Any]) -> None:
        if not self._moving:
            subject, sequence, _, bone = self._key
            self.go_to(subject, sequence, change["new"], bone)

    def _on_look(self, change: dict[str, Any]) -> None:
        if not self._moving:
            self._draw()

    def _step(self, step: int) -> None:
        frames = list(self.frame.options)
        place = frames.index(self.frame.value) + step
        if 0 <= place < len(frames):
            self.frame.value = frames[place]

    def _go_to_undecided(self) -> None:
        following = next_undecided(self._table, self._key)
        self._key = following or self._key
        self._show()
        if following is None:
            self.message.say(f"All {len(self._table)} registrations are judged.")

    # --- showing ---

    def _show(self) -> None:
        """Bring all controls and the picture to the current registration."""
        subject, sequence, frame, bone = self._key
        row = row_of(self._table, self._key)
        if row is None:  # taken out of the file meanwhile
            self.message.say(f"The sheet no longer has a row {', '.join(map(str, self._key))}.")
            return
        self.message.say()
        keys = keys_of(self._table)
        self._moving = True
        try:
            _choose(self.sequence, {f"{k[0]} {k[1]}": k[:2] for k in keys}, (subject, sequence))
            frames = tuple(k[2] for k in keys if (*k[:2], k[3]) == (subject, sequence, bone))
            _choose(self.frame, frames, frame)
            self._load()
        finally:
            self._moving = False
        for name, button in self.bones.items():
            chosen = name == bone
            button.style.button_color = BONE_COLOURS.get(name, "#999999") if chosen else None
            button.style.font_weight = "bold" if chosen else "normal"
        self._show_verdict(row)
        self._draw()

    def _show_again(self) -> None:
        """Show what the file now says of the current registration, if it can be read."""
        note = self.note.value
        with suppress(AnkleError):
            self._table = self._sheet.table()
        self._show()
        self.note.value = note

    def _show_verdict(self, row: dict[str, Any]) -> None:
        colour = VERDICT_COLOURS[row["verdict"]]
        person = row["reviewer"] != AUTOMATIC
        line = "solid" if person else "dashed"
        self.image.layout.border = f"{BORDER_PX}px {line} {colour}"
        who = html.escape(f"{row['reviewer']}, {row['time']}" if person else "by the gate")
        number = "none" if np.isnan(row["correlation"]) else f"{row['correlation']:.2f}"
        self.status.value = (
            f'<span style="border-left: 12px solid {colour}; padding-left: 6px">'
            f"<b>{row['verdict']}</b> ({who}), correlation {number}</span>"
        )
        self.note.value = row["note"]
        judged = int((self._table["reviewer"] != AUTOMATIC).sum())
        self.progress.max, self.progress.value = len(self._table), judged
        self.count.value = f"{judged} of {len(self._table)} judged"

    def _load(self) -> None:
        """Read frame and mask, and choose the slice through the bone's middle."""
        self._shown = None
        try:
            self._shown = look(self._view, self._key)
        except (AnkleError, OSError) as error:
            self.message.say(str(error))
            return
        frame, given = self._shown
        mask = Volume(inside(given.data), given.affine)
        self._shown = frame, mask
        self.slice.max = frame.shape[2] - 1
        there = bool(mask.data.any())
        if there:
            self.slice.value = middle_slice(mask.data)
        empty = "" if there else "The moved mask is empty: the bone lies outside of this frame."
        odd = not_finite(given, "moved mask", OUTSIDE)
        self.message.say(not_finite(frame, "frame"), odd, empty)

    def _draw(self) -> None:
        frame, mask = self._shown or (None, None)
        self.image.value = self._picture.png(
            frame,
            mask,
            self.slice.value,
            name=self._key[3],
            outline=self.outline.value,
            zoom=self.zoom.value,
        )


def _choose(control: Any, options: Any, value: Any) -> None:
    if control.options != options:  # setting equal ones would make the control jump
        control.options = options
    control.value = value


def _toggle(control: ipywidgets.Checkbox) -> None:
    control.value = not control.value
