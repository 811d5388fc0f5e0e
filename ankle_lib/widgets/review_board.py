"""The board on which a person judges registrations, one after the other."""

import html
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets

from ankle_lib.figures.images import Slice, middle_slice, slice_of
from ankle_lib.figures.style import BONE_COLOURS, VERDICT_COLOURS
from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.quality.review_sheet import AUTOMATIC, KEY, ReviewSheet, frame_path
from ankle_lib.volume import Volume, load
from ankle_lib.widgets.picture import Layer, Panel, brightness_limits, surroundings
from ankle_lib.widgets.view import (
    OUTSIDE,
    View,
    button,
    colours_of,
    inside,
    not_finite,
    oriented,
    slider,
)

RowKey = tuple[str, str, int, str]
"""Subject, sequence, frame, bone."""

Look = Callable[[str, str, int, str], tuple[Volume, Volume]]
"""Maps subject, sequence, frame, bone to the frame's image and the moved mask on its grid."""

SIDE_PX, BORDER_PX = 490, 4
"""Of the picture, and around it in the verdict's colour."""
BLACK = Slice(np.zeros((1, 1)), (1.0, 1.0), ("", "", "", ""))

VERDICT_OF = {"accept": "accepted", "reject": "rejected", "unsure": "unsure"}
"""What a button writes to the sheet."""

KEYS_HELP = (
    "keys (click on the board first): <b>a</b> accept, <b>r</b> reject, <b>u</b> unsure, "
    "<b>n</b> next undecided, <b>←</b> <b>→</b> frame, <b>1</b> <b>2</b> <b>3</b> bone, "
    "<b>o</b> outline, <b>z</b> zoom"
)


BOARD_CLASS = "ankle-board"
"""CSS class of the widget in which a `Keyboard` listens; the keyboard must lie inside it."""


class Keyboard(anywidget.AnyWidget):
    """Sends ``{"key": …}`` for keys that are pressed while the board around it has the focus.

    Keys typed into a text field stay there, and arrows stay with a slider that has the focus.
    """

    listened_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Which keys to send, as JavaScript names them in ``KeyboardEvent.key``."""

    _esm = Path(__file__).with_name("keyboard.js").read_text(encoding="utf-8")


class ReviewBoard(View):
    """Judge registrations one after the other; each verdict is at once in the review sheet.

    Shown is a sagittal slice of the frame with the outline of the moved bone, at first through
    the bone's middle. After a verdict comes the next registration that no person has judged: the
    same bone in the frames that follow, then the next bone. A note is saved with the verdict.

    Parameters
    ----------
    sheet : ReviewSheet
        Others may work on the same file.
    look : callable
        See `Look`. If it raises `AnkleError` or `OSError`, the board shows the message.
    reviewer : str
        Name of the person who judges.

    Raises
    ------
    AnkleError
        If the sheet cannot be read or has no rows, or the reviewer has no name.

    Examples
    --------
    >>> ReviewBoard(sheet, registered_view(subjects, folder), "Ada")
    """

    def __init__(self, sheet: ReviewSheet, look: Look, reviewer: str) -> None:
        if reviewer.strip() in ("", AUTOMATIC):
            raise AnkleError(f"reviewer {reviewer!r}: give the name of the person who judges")
        self._sheet, self._look, self._reviewer = sheet, look, reviewer.strip()
        self._table = sheet.table()
        if self._table.empty:
            raise AnkleError(f"{sheet.path}: has no rows to judge: run the registration first")
        super().__init__()
        self._shown: tuple[Volume, Volume] | None = None
        self._key = (self._keys(undecided=True) or self._keys())[0]
        self._build()
        self._show()

    # --- what one can do ---

    @property
    def current(self) -> RowKey:
        """Subject, sequence, frame and bone of the registration that is shown."""
        return self._key

    def judge(self, verdict: str) -> None:
        """Write ``accepted``, ``rejected`` or ``unsure`` to the sheet, and go on."""
        row, note = self._row(self._key), self.note.value
        known = None if row is None else row["correlation"]
        try:
            self._table = self._sheet.judge(
                *self._key, verdict, self._reviewer, note, correlation=known
            )
        except AnkleError as error:
            with suppress(AnkleError):  # show what the file now says, if it can be read
                self._table = self._sheet.table()
            self._show()
            self.note.value = note
            self.message.say(str(error))
            return
        self._go_to_undecided()

    def next_undecided(self) -> None:
        """Show the next registration that no person has judged, also not someone else meanwhile."""
        with self.refusals():
            self._table = self._sheet.table()
            self._go_to_undecided()

    def step(self, frames: int) -> None:
        """Show the same bone so many frames later."""
        if 0 <= self.frame.index + frames < len(self.frame.options):
            self.frame.index += frames

    def choose_bone(self, bone: str) -> None:
        """Show another bone in the same frame."""
        self.go_to(*self._key[:3], bone)

    def go_to(self, subject: str, sequence: str, frame: int, bone: str) -> None:
        """Show a registration; if the sheet lacks it, say so."""
        key = (subject, sequence, frame, bone)
        if self._row(key) is None:
            self.message.say(f"The sheet has no row {', '.join(map(str, key))}.")
            return
        self._key = key
        self._show()

    def press(self, key: str) -> None:
        """Do what a key does (see the line below the board); other keys do nothing."""
        if key in self._actions:
            self._actions[key]()

    def draw(self) -> None:
        """Show the slice; a black picture without a frame."""
        if self._shown is None:
            self.panel.draw(BLACK, (0.0, 1.0))
            return
        frame, mask = self._shown
        bone = self._key[3]
        image = slice_of(frame, "sagittal", self.slice.value, {bone: mask})
        if self.zoom.value and mask.data.any():
            image = image.crop(surroundings(mask))
        layers = [Layer(image.outlines[bone], colours_of([bone])[bone])]
        self.panel.draw(image, self._limits, layers if self.outline.value else [])

    # --- the controls, and what happens on a change ---

    def _build(self) -> None:
        wide, third = ipywidgets.Layout(width="330px"), "106px"  # beside the picture, at 1280 px
        self.sequence = ipywidgets.Dropdown(description="sequence", layout=wide)
        self.frame = ipywidgets.SelectionSlider(options=(0,), description="frame", layout=wide)
        self.slice = slider("slice", 0, 0, width=330)
        self.outline = ipywidgets.Checkbox(True, description="outline", indent=False)
        self.zoom = ipywidgets.Checkbox(True, description="zoom", indent=False)
        self.note = ipywidgets.Text(description="note", placeholder="saved with the verdict",
                                    layout=wide)  # fmt: skip
        self.panel = Panel("", SIDE_PX)
        side = f"{SIDE_PX + 2 * BORDER_PX}px"  # of any slice, so that nothing jumps
        self.panel.canvas.layout = ipywidgets.Layout(width=side, height=side)
        self.status, self.count = ipywidgets.HTML(), ipywidgets.Label()
        self.progress = ipywidgets.IntProgress(layout=wide)
        self.keyboard = Keyboard()
        self._actions: dict[str, Callable[[], None]] = {
            "n": self.next_undecided,
            "ArrowLeft": partial(self.step, -1),
            "ArrowRight": partial(self.step, 1),
            "o": partial(_toggle, self.outline),
            "z": partial(_toggle, self.zoom),
        }
        self.next = button("Next undecided", self.next_undecided)
        self.bones, self.verdicts = {}, {}
        for number, bone in enumerate(sorted(set(self._table["bone"]), key=_place), start=1):
            work = self._actions[str(number)] = partial(self.choose_bone, bone)
            self.bones[bone] = button(bone, work, width=third)
        for name, verdict in VERDICT_OF.items():
            work = self._actions[name[0]] = partial(self.judge, verdict)
            self.verdicts[name] = button(name.capitalize(), work, width=third)
        self.watch(self.sequence, work=self._show_sequence)
        self.watch(self.frame, work=self._show_frame)
        self.watch(self.slice, self.outline, self.zoom)
        self.keyboard.listened_keys = list(self._actions)
        self.keyboard.on_msg(lambda _, content, buffers: self.press(content.get("key", "")))
        right = ipywidgets.VBox([
            self.sequence,
            self.frame,
            self.slice,
            ipywidgets.HBox(list(self.bones.values())),
            ipywidgets.HBox([self.outline, self.zoom]),
            self.status,
            self.note,
            ipywidgets.HBox(list(self.verdicts.values())),
            self.next,
            self.progress,
            self.count,
            self.message,
        ])  # fmt: skip
        help_line = ipywidgets.HTML(KEYS_HELP)
        self.children = (ipywidgets.HBox([self.panel, right]), help_line, self.keyboard)
        self.add_class(BOARD_CLASS)  # the keyboard listens there

    def _show_sequence(self) -> None:
        """Show the same bone in the sequence that was chosen, if the sheet has it there."""
        keys = [key for key in self._keys() if key[:2] == self.sequence.value]
        self.go_to(*next((key for key in keys if key[3] == self._key[3]), keys[0]))

    def _show_frame(self) -> None:
        self.go_to(*self._key[:2], self.frame.value, self._key[3])

    def _go_to_undecided(self) -> None:
        left = self._keys(undecided=True)
        following = [key for key in left if _order(key) > _order(self._key)] or left
        self._key = following[0] if following else self._key
        self._show()
        if not following:
            self.message.say(f"All {len(self._table)} registrations are judged.")

    def _show(self) -> None:
        """Bring all controls and the picture to the current registration."""
        subject, sequence, _, bone = self._key
        row = self._row(self._key)
        if row is None:  # taken out of the file meanwhile
            self.message.say(f"The sheet no longer has a row {', '.join(map(str, self._key))}.")
            return
        self.message.say()
        keys = self._keys()
        frames = tuple(key[2] for key in keys if (*key[:2], key[3]) == (subject, sequence, bone))
        with self.silence():
            _choose(self.sequence, {f"{key[0]} {key[1]}": key[:2] for key in keys}, self._key[:2])
            _choose(self.frame, frames, self._key[2])
            self._load()
        for name, choice in self.bones.items():
            choice.style.button_color = colours_of([name])[name] if name == bone else None
            choice.style.font_weight = "bold" if name == bone else "normal"
        self._show_verdict(row)
        self.draw()

    def _show_verdict(self, row: dict[str, Any]) -> None:
        colour, person = VERDICT_COLOURS[row["verdict"]], row["reviewer"] != AUTOMATIC
        border = f"{BORDER_PX}px {'solid' if person else 'dashed'} {colour}"
        self.panel.canvas.layout.border = border
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
            given = self._look(*self._key)
            frame = oriented(given[0], "frame")
            mask = oriented(given[1], "mask", like=frame)
        except (AnkleError, OSError) as error:
            self.message.say(str(error))
            return
        odd = not_finite(mask.data, "moved mask", OUTSIDE)
        mask = replace(mask, data=inside(mask.data))
        self._shown, self._limits = (frame, mask), brightness_limits(frame.data)
        self.slice.max = frame.shape[2] - 1
        empty = "The moved mask is empty: the bone lies outside of this frame."
        if mask.data.any():
            self.slice.value, empty = middle_slice(mask.data), ""
        self.message.say(not_finite(frame.data, "frame"), odd, empty)

    # --- the rows of the sheet ---

    def _keys(self, *, undecided: bool = False) -> list[RowKey]:
        """Return all rows, or those that no person has judged, in the order of `_order`."""
        table = self._table[self._table["reviewer"] == AUTOMATIC] if undecided else self._table
        return sorted(table[list(KEY)].itertuples(index=False, name=None), key=_order)

    def _row(self, key: RowKey) -> dict[str, Any] | None:
        """Return a row; None if the sheet lacks it."""
        there = (self._table[list(KEY)] == list(key)).all(axis=1)
        return dict(self._table[there].iloc[0]) if there.any() else None


def registered_view(subjects: Sequence[CleanSubject], folder: Path) -> Look:
    """Return what `ReviewBoard` looks at in a registration folder.

    Parameters
    ----------
    subjects : sequence of CleanSubject
        From `layouts.read_clean_cohort`: where the frames are.
    folder : Path
        Where the registration chapter wrote the moved masks.
    """
    people = {subject.code: subject for subject in subjects}

    def look(subject: str, sequence: str, frame: int, bone: str) -> tuple[Volume, Volume]:
        try:
            image = people[subject].sequences[sequence][frame]
        except (KeyError, IndexError):
            raise AnkleError(f"the cohort has no frame {frame} of {subject} {sequence}") from None
        return load(image), load(frame_path(folder, subject, sequence, frame, bone))

    return look


def _order(key: RowKey) -> tuple[Any, ...]:
    """Go through all frames of a sequence with one bone, then with the next bone."""
    subject, sequence, frame, bone = key
    return subject, sequence, _place(bone), frame


def _place(bone: str) -> tuple[int, str]:
    """Put the course's bones first and in their order."""
    bones = list(BONE_COLOURS)
    return (bones.index(bone) if bone in bones else len(bones)), bone


def _choose(control: Any, options: Any, value: Any) -> None:
    if control.options != options:  # setting equal ones would make the control jump
        control.options = options
    control.value = value


def _toggle(control: ipywidgets.Checkbox) -> None:
    control.value = not control.value
