"""The controls of the review board and where they stand; what they do is `ReviewBoard`'s."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets

from ankle_lib.widgets.keyboard import BOARD_CLASS, Keyboard
from ankle_lib.widgets.message import Message
from ankle_lib.widgets.picture import SIDE_PIXELS

BORDER_PX = 4
"""Around the picture, in the verdict's colour."""

VERDICT_OF = {"accept": "accepted", "reject": "rejected", "unsure": "unsure"}
"""What a button writes to the sheet."""

KEYS_HELP = (
    "keys (click on the board first): <b>a</b> accept, <b>r</b> reject, <b>u</b> unsure, "
    "<b>n</b> next undecided, <b>←</b> <b>→</b> frame, <b>1</b> <b>2</b> <b>3</b> bone, "
    "<b>o</b> outline, <b>z</b> zoom"
)


class ReviewLayout(ipywidgets.VBox):
    """The picture to the left, everything else beside it.

    Parameters
    ----------
    bones : sequence of str
        A button for each.
    n_rows : int
        Registrations to judge, for the bar of progress.
    """

    def __init__(self, bones: Sequence[str], n_rows: int) -> None:
        wide = ipywidgets.Layout(width="330px")  # beside the picture, at 1280 pixels
        third = ipywidgets.Layout(width="106px")
        self.sequence = ipywidgets.Dropdown(description="sequence", layout=wide)
        self.frame = ipywidgets.SelectionSlider(options=(0,), description="frame", layout=wide)
        self.slice = ipywidgets.IntSlider(min=0, max=0, description="slice", layout=wide)
        self.outline = ipywidgets.Checkbox(True, description="outline", indent=False)
        self.zoom = ipywidgets.Checkbox(True, description="zoom", indent=False)
        self.bones = {bone: ipywidgets.Button(description=bone, layout=third) for bone in bones}
        self.verdicts = {name: ipywidgets.Button(description=name.capitalize(), layout=third)
                         for name in VERDICT_OF}  # fmt: skip
        self.next = ipywidgets.Button(description="Next undecided")
        self.note = ipywidgets.Text(description="note", placeholder="saved with the verdict")
        self.note.layout = wide
        self.image = ipywidgets.Image(format="png")
        side = f"{SIDE_PIXELS + 2 * BORDER_PX}px"  # or the browser would shrink the picture
        self.image.layout = ipywidgets.Layout(width=side, height=side)
        self.status, self.message = ipywidgets.HTML(), Message()
        self.progress = ipywidgets.IntProgress(min=0, max=n_rows, layout=wide)
        self.count = ipywidgets.Label()
        self.keyboard = Keyboard()
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
        rows = [ipywidgets.HBox([self.image, right]), ipywidgets.HTML(KEYS_HELP), self.keyboard]
        super().__init__(rows)
        self.add_class(BOARD_CLASS)  # the keyboard listens there
