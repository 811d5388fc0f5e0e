"""Slices as pixels of the screen, fast: NumPy and Pillow, without a figure.

A picture is made anew for each change. That takes milliseconds, where a matplotlib figure takes a
tenth of a second (``benchmarks/widgets.py``).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import ipywidgets
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ankle_lib.figures.images import Slice

Pixels = NDArray[np.uint8]

GREY: Pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
"""Colours of intensities from black to white, shape (256, 3)."""

SIGNED: Pixels = np.concatenate([
    np.linspace((86, 180, 233), (0, 0, 0), 128),
    np.linspace((0, 0, 0), (230, 159, 0), 128),
]).astype(np.uint8)  # fmt: skip
"""Colours of differences: blue below 0, black, orange above; shape (256, 3)."""

LETTER_COLOUR = "#F0E442"
FONT_PX = 14
OUTLINE_PX = 2
JPEG_QUALITY = 90
"""With full colour resolution; a third of the size of a PNG, and noise hides what is lost."""
SAMPLES = 500_000
"""Voxels that are enough to choose a window by."""
DARK_BRIGHT = (0.5, 99.5)
"""Percentiles shown as black and white."""


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
    some = image.ravel(order="K")[:: max(1, image.size // SAMPLES)]
    some = some[np.isfinite(some)] if some.dtype.kind == "f" else some
    if some.size and some.min() < 0:
        low, high = (float(value) for value in np.percentile(some, DARK_BRIGHT))
    else:
        filled = some[some > 0]
        low, high = 0.0, float(np.percentile(filled, DARK_BRIGHT[1])) if filled.size else 1.0
    return low, high if high > low else low + 1.0


def window_slider(limits: tuple[float, float], width_px: int) -> ipywidgets.FloatRangeSlider:
    """Return a slider for the intensities shown as black and white, up to twice the white one."""
    low, high = limits
    top = high + (high - low)
    decimals = next((n for n, span in enumerate((40, 4)) if top - low > span), 2)
    return ipywidgets.FloatRangeSlider(
        value=limits,
        min=low,
        max=top,
        step=(top - low) / 400,
        description="window",
        readout_format=f".{decimals}f",  # what fits beside the slider
        layout=ipywidgets.Layout(width=f"{width_px}px"),
    )


def paint(
    shown: Slice,
    size_px: tuple[int, int],
    limits: tuple[float, float],
    layers: Sequence[Layer] = (),
    palette: Pixels = GREY,
) -> Pixels:
    """Return a slice as pixels.

    Parameters
    ----------
    shown : Slice
        Where it is larger than the picture it is averaged, where smaller its voxels show.
    size_px : (int, int)
        Width and height.
    limits : (float, float)
        Intensities at both ends of the palette; values that are not finite are like the first.
    layers : sequence of Layer
        On the slice's grid; later ones lie above.
    palette : (256, 3) uint8 array

    Returns
    -------
    (height, width, 3) uint8 array
        First row on top.
    """
    low, high = limits
    scaled = (np.asarray(shown.image, dtype=np.float32) - low) * (255 / (high - low))
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0)
    grey = np.clip(scaled, 0, 255).astype(np.uint8)
    pixels = palette[_resized(grey, size_px)]
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


def annotate(
    pixels: Pixels,
    shown: Slice,
    marks: Sequence[Mark] = (),
    *,
    letters: bool = True,
    bar: bool = True,
) -> Pixels:
    """Return a picture with rectangles and lines, the letters of its sides, and a scale bar."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for mark in marks:
        box = (
            mark.left * (width - 1),
            (1 - mark.top) * (height - 1),
            mark.right * (width - 1),
            (1 - mark.bottom) * (height - 1),
        )
        if mark.left == mark.right or mark.bottom == mark.top:
            draw.line(box, fill=mark.colour, width=mark.width_px)
        else:
            draw.rectangle(box, outline=mark.colour, width=mark.width_px)
    if letters:
        places = ((5, height / 2), (width - 5, height / 2), (width / 2, height - 4), (width / 2, 4))
        for letter, place, anchor in zip(shown.letters, places, ("lm", "rm", "mb", "mt"),
                                         strict=True):  # fmt: skip
            _write(draw, place, letter, anchor, LETTER_COLOUR)
    if bar:
        _scale_bar(draw, shown.size_mm[0], width, height)
    return np.asarray(image)


def encode(pixels: Pixels) -> bytes:
    """Return a picture as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def _resized(rows_upward: Pixels, size_px: tuple[int, int]) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(rows_upward[::-1]))
    return np.array(image.resize(size_px, Image.Resampling.BOX))


def _scale_bar(draw: ImageDraw.ImageDraw, width_mm: float, width: int, height: int) -> None:
    length = max((n for n in (5, 10, 20, 50) if n <= 0.4 * width_mm), default=0)
    if not length:
        return
    left, right, y = 8, 8 + length / width_mm * width, height - 8
    draw.rectangle((left - 1, y - 3, right + 1, y + 1), fill="black")
    draw.rectangle((left, y - 2, right, y), fill="white")
    _write(draw, ((left + right) / 2, y - 6), f"{length} mm", "mb", "white")


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str, colour: str
) -> None:
    draw.text(
        place, text, fill=colour, font=_font(), anchor=anchor, stroke_width=1, stroke_fill="black"
    )


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_PX)
