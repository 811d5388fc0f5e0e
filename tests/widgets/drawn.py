"""Images for the views, and what their panels show of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ankle_lib.volume import Volume
from ankle_lib.widgets.picture import (
    Panel,
)
from tests.toy_ankle import oblique_affine

SHAPE = (30, 40, 6)
AFFINE = oblique_affine(SHAPE, (1.0, 1.0, 8.0))
TALUS, TIBIA = (0x00, 0x9E, 0x73), (0x56, 0xB4, 0xE9)


def image(seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).uniform(100, 400, SHAPE), AFFINE)


def box_mask(*sides: slice) -> Volume:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[sides] = 1
    return Volume(mask, AFFINE)


MASK = box_mask(slice(5, 15), slice(10, 25), slice(2, 4))


def pixels(panel: Panel) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(panel.canvas.picture)).convert("RGB"), dtype=int)


def count(panel: Panel, colour: tuple[int, int, int], tolerance: int = 40) -> int:
    return int((np.abs(pixels(panel) - colour).max(axis=2) < tolerance).sum())


def mouse(panel: Panel, kind: str, x: float, y: float) -> None:
    """Do what happens when the browser tells where the mouse is."""
    panel.canvas._handle_custom_msg({"kind": kind, "x": x, "y": y}, [])


def place_in(panel_shape: tuple[int, int], row: int, column: int) -> tuple[float, float]:
    """Middle of a pixel of a slice, as parts of the picture from its left and top."""
    return (column + 0.5) / panel_shape[1], 1 - (row + 0.5) / panel_shape[0]


def holed(scan: Volume, *values: float) -> Volume:
    """Put values that are not finite into the middle of what the views show."""
    data = scan.data.astype(float)
    for number, value in enumerate(values):
        data[7 + number, 12, 2] = value
    return Volume(data, scan.affine)


def sequence(n_frames: int = 4) -> Volume:
    return Volume(np.stack([image(n).data for n in range(n_frames)], axis=3), AFFINE)
