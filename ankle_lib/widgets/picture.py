"""A slice on the screen, with its title, that knows which voxel the mouse is on.

A picture is made anew for each change, by NumPy and Pillow. That takes milliseconds, where a
matplotlib figure takes a tenth of a second (``benchmarks/widgets.py``).
"""

import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ankle_lib.figures.images import Slice, bar_mm, window
from ankle_lib.geometry import bounding_box
from ankle_lib.volume import Volume

Pixels = NDArray[np.uint8]

LETTER_COLOUR = "#F0E442"
FONT_PX = 14
OUTLINE_PX = 2
JPEG_QUALITY = 90
"""With full colour resolution; a third of the size of a PNG, and noise hides what is lost."""
ZOOM_MM = 110.0
"""Shown of a bone that is looked at closely, always at one scale."""
DARK_PERCENTILE = 0.5
"""Shown black in images with values below 0."""


@dataclass(frozen=True)
class Layer:
    """A region that is drawn over a slice."""

    mask: NDArray
    """(rows, columns), rows upward; above 0 inside."""
    colour: str
    opacity: float = 0.0
    """Of the filling, 0 to 1."""
    outline: bool = True


@dataclass(frozen=True)
class Mark:
    """A rectangle over a slice; or a line, where both sides lie on each other."""

    left: float
    """As a part of the width, 0 to 1; likewise the others."""
    right: float
    bottom: float
    top: float
    colour: str
    width_px: int = 2


class PictureCanvas(anywidget.AnyWidget):
    """Shows an encoded picture in a given size; only the picture travels to the browser.

    It sends ``{"kind": …, "x": …, "y": …}``: "move", "click" or "leave", and where the mouse is, 0
    to 1 from the left and top.
    """

    picture = traitlets.Bytes().tag(sync=True)
    """PNG or JPEG."""
    size_px = traitlets.List(traitlets.Int(), default_value=[1, 1]).tag(sync=True)
    """Width and height on the screen."""
    text = traitlets.Unicode().tag(sync=True)
    """What the picture shows, for those who cannot see it."""

    _esm = Path(__file__).with_name("picture.js").read_text(encoding="utf-8")


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
        self.title.value = f"<b>{html.escape(title)}</b>"
        self.canvas.text = title

    def draw(
        self,
        shown: Slice,
        limits: tuple[float, float],
        layers: Sequence[Layer] = (),
        marks: Sequence[Mark] = (),
        *,
        longest_mm: float | None = None,
    ) -> None:
        """Show a slice; the arguments are those of `paint` and `fit_size`."""
        size = fit_size(shown, self._side_px, longest_mm)
        pixels = annotate(paint(shown, size, limits, layers), shown, marks)
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

        def hear(_: Any, content: dict[str, Any], __: Any) -> None:
            if self._shown is None or content.get("kind") not in ("move", "click", "leave"):
                return
            rows, columns = self._shown.image.shape[:2]
            row, column = int((1 - content["y"]) * rows), int(content["x"] * columns)
            listener(content["kind"], min(row, rows - 1), min(column, columns - 1))

        self.canvas.on_msg(hear)


def fit_size(shown: Slice, side_px: int, longest_mm: float | None = None) -> tuple[int, int]:
    """Return width and height in pixels of a slice in true proportions.

    Parameters
    ----------
    shown : Slice
    side_px : int
        Length of ``longest_mm`` on the screen; of the longer side by default.
    longest_mm : float, optional
        For several slices at one scale.
    """
    scale = side_px / (longest_mm or max(shown.size_mm))
    width, height = (max(1, round(length * scale)) for length in shown.size_mm)
    return width, height


def surroundings(mask: Volume) -> tuple[slice, slice]:
    """Return rows and columns of sagittal slices around a bone, 110 mm wide (axes P, S, R).

    They stay on the grid, and so are all of it if it is smaller, or the mask is empty.
    """
    box = bounding_box(mask.data > 0) or tuple(slice(0, n) for n in mask.shape)
    parts = []
    for side, n, step_mm in zip(box[:2], mask.shape, mask.voxel_size_mm, strict=False):
        count = min(n, int(np.ceil(ZOOM_MM / step_mm)))
        first = min(max((side.start + side.stop - count) // 2, 0), n - count)
        parts.append(slice(first, first + count))
    return parts[1], parts[0]


def brightness_limits(image: NDArray) -> tuple[float, float]:
    """Return the intensities to show as black and white, for images of any sign.

    Parameters
    ----------
    image : array
        Values that are not finite do not count.

    Returns
    -------
    low, high : float
        ``low < high``. Zeros are air: where no value is negative, black is 0.
    """
    low, high = window(image, DARK_PERCENTILE if np.any(image < 0) else None)
    return low, high if high > np.nextafter(low, np.inf) else low + 1.0


def paint(
    shown: Slice,
    size_px: tuple[int, int],
    limits: tuple[float, float],
    layers: Sequence[Layer] = (),
) -> Pixels:
    """Return a slice as pixels.

    Parameters
    ----------
    shown : Slice
        Where it is larger than the picture it is averaged, where smaller its voxels show.
    size_px : (int, int)
        Width and height.
    limits : (float, float)
        Intensities shown as black and white; values that are not finite are like the first.
    layers : sequence of Layer
        On the slice's grid; later ones lie above.

    Returns
    -------
    (height, width, 3) uint8 array
        First row on top.
    """
    low, high = limits
    scaled = (np.asarray(shown.image, dtype=np.float32) - low) * (255 / (high - low))
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0)
    grey = np.clip(scaled, 0, 255).astype(np.uint8)
    pixels = np.repeat(_resized(grey, size_px)[..., None], 3, axis=2)
    for layer in layers:
        inside = _resized((layer.mask > 0).astype(np.uint8) * 255, size_px) > 127
        if not inside.any():
            continue
        colour = np.array([round(255 * part) for part in to_rgb(layer.colour)], dtype=np.float32)
        if layer.opacity > 0:
            mixed = (1 - layer.opacity) * pixels[inside] + layer.opacity * colour
            pixels[inside] = mixed.astype(np.uint8)
        if layer.outline:
            inner = ndimage.binary_erosion(inside, iterations=OUTLINE_PX)
            pixels[inside & ~inner] = colour.astype(np.uint8)
    return pixels


def annotate(pixels: Pixels, shown: Slice, marks: Sequence[Mark] = ()) -> Pixels:
    """Return a picture with rectangles and lines, the letters of its sides, and a scale bar."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for mark in marks:
        left, right = (part * (width - 1) for part in (mark.left, mark.right))
        top, bottom = ((1 - part) * (height - 1) for part in (mark.top, mark.bottom))
        if left == right or top == bottom:
            draw.line((left, top, right, bottom), fill=mark.colour, width=mark.width_px)
        else:
            draw.rectangle((left, top, right, bottom), outline=mark.colour, width=mark.width_px)
    places = ((5, height / 2), (width - 5, height / 2), (width / 2, height - 4), (width / 2, 4))
    for letter, place, anchor in zip(shown.letters, places, ("lm", "rm", "mb", "mt"), strict=True):
        _write(draw, place, letter, anchor, LETTER_COLOUR)
    if length := bar_mm(shown.size_mm[0]):
        left, right, y = 8, 8 + length / shown.size_mm[0] * width, height - 8
        draw.rectangle((left - 1, y - 3, right + 1, y + 1), fill="black")
        draw.rectangle((left, y - 2, right, y), fill="white")
        _write(draw, ((left + right) / 2, y - 6), f"{length} mm", "mb", "white")
    return np.asarray(image)


def encode(pixels: Pixels) -> bytes:
    """Return a picture as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def _resized(rows_upward: Pixels, size_px: tuple[int, int]) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(rows_upward[::-1]))
    return np.array(image.resize(size_px, Image.Resampling.BOX))


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str, colour: str
) -> None:
    draw.text(
        place, text, fill=colour, font=_font(), anchor=anchor, stroke_width=1, stroke_fill="black"
    )


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_PX)
