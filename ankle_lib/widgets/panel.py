"""One slice with its title; it knows which voxel the mouse is on."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import ipywidgets

from ankle_lib.figures.images import Slice
from ankle_lib.widgets.canvas import PictureCanvas
from ankle_lib.widgets.pixels import GREY, Layer, Mark, Pixels, annotate, encode, fit_size, paint

PanelMouse = Callable[[str, int, int], None]
"""Takes ``"move"``, ``"click"`` or ``"leave"``, and row (upward) and column of the slice."""


class Panel(ipywidgets.VBox):
    """Title above, picture below.

    Parameters
    ----------
    title : str
    side_px : int
        Length of the longer side on the screen.
    """

    def __init__(self, title: str, side_px: int) -> None:
        self._side_px = side_px
        self._shown: Slice | None = None
        self.title = ipywidgets.HTML()
        self.canvas = PictureCanvas()
        super().__init__([self.title, self.canvas])
        self.layout.margin = "0 8px 0 0"
        self.layout.flex = "0 0 auto"  # or a narrow window would cut it off
        self.name(title)

    def name(self, title: str) -> None:
        """Change the title."""
        self.title.value = f"<b>{html.escape(title)}</b>"
        self.canvas.text = title

    def draw(
        self,
        shown: Slice,
        limits: tuple[float, float],
        layers: Sequence[Layer] = (),
        marks: Sequence[Mark] = (),
        *,
        palette: Pixels = GREY,
        longest_mm: float | None = None,
    ) -> None:
        """Show a slice; the arguments are those of `pixels.paint` and `pixels.fit_size`."""
        size = fit_size(shown, self._side_px, longest_mm)
        pixels = annotate(paint(shown, size, limits, layers, palette), shown, marks)
        with self.canvas.hold_sync():  # one message to the browser
            self.canvas.size_px = list(size)
            self.canvas.picture = encode(pixels)
        self._shown = shown

    def clear(self) -> None:
        """Show nothing."""
        self._shown = None
        self.canvas.picture = b""

    def on_mouse(self, listener: PanelMouse) -> None:
        """Call ``listener`` with the pixel of the slice that the mouse is on."""

        def hear(kind: str, x: float, y: float) -> None:
            if self._shown is None:
                return
            rows, columns = self._shown.image.shape[:2]
            row, column = int((1 - y) * rows), int(x * columns)
            listener(kind, min(row, rows - 1), min(column, columns - 1))

        self.canvas.on_mouse(hear)
