"""A slice with the outline of a bone, as a PNG for a widget."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ankle_lib.figures.images import Slice, draw_slice, slice_of, window
from ankle_lib.volume import Volume
from ankle_lib.widgets.pixels import annotate

SIDE_PIXELS = 490
ZOOM_MM = 110.0
"""Side of the square around the bone that is shown when zoomed in."""

PNG_LEVEL = 3
"""Nearly as small as with level 6, in half the time."""

_DPI = 100


class SlicePicture:
    """A square picture; its figure is made once and used again."""

    def __init__(self) -> None:
        side = SIDE_PIXELS / _DPI
        self._figure = Figure(figsize=(side, side), dpi=_DPI, facecolor="black")
        self._canvas = FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0, 0, 1, 1))

    def png(
        self,
        frame: Volume | None,
        mask: Volume | None,
        index: int,
        *,
        name: str,
        outline: bool = True,
        zoom: bool = True,
    ) -> bytes:
        """Draw a sagittal slice of a frame; a black picture without frame.

        Parameters
        ----------
        frame, mask : Volume
            3D, axes P, S, R, on one grid; the mask may be empty.
        index : int
            Which slice, from the left.
        name : str
            The bone, for the outline's colour.
        outline, zoom : bool
            Whether to draw the outline, and to show only the surroundings of the bone.
        """
        if frame is None or mask is None:
            return _png(np.zeros((SIDE_PIXELS, SIDE_PIXELS, 3), dtype=np.uint8))
        image = slice_of(frame, "sagittal", index)
        bone = slice_of(mask, "sagittal", index)
        if zoom and np.any(mask.data > 0):
            box = box_around(mask, image)
            image, bone = image.crop(box), bone.crop(box)
        self._axes.clear()
        draw_slice(
            self._axes,
            image,
            limits=window(frame.data),
            outlines={name: bone} if outline else None,
            bar=False,  # `annotate` writes larger, for a screen
            letters=False,
        )
        self._canvas.draw()
        pixels = np.asarray(self._canvas.buffer_rgba())[..., :3]
        side_mm = max(image.size_mm)
        square = Slice(image.image, (side_mm, side_mm), image.letters)
        return _png(annotate(pixels, square))


def box_around(mask: Volume, shown: Slice) -> tuple[slice, slice]:
    """Return rows and columns of a square around the middle of the whole bone."""
    inside = np.argwhere(mask.data > 0)
    columns, rows = (inside.min(axis=0)[:2] + inside.max(axis=0)[:2] + 1) / 2
    box = []
    for middle, n, length in zip((rows, columns), shown.image.shape, shown.size_mm[::-1],
                                 strict=True):  # fmt: skip
        count = min(n, int(np.ceil(ZOOM_MM / length * n)))
        first = int(np.clip(np.rint(middle - count / 2), 0, n - count))
        box.append(slice(first, first + count))
    return box[0], box[1]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()
