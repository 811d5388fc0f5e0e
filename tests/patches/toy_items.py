"""Small images to draw patches from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import (
    PatchRule,
)
from ankle_lib.presets import BONES

PSR = np.array([[0, 0, 8.0, 0], [-0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1]])
"""Affine of a sagittal series whose axes run to posterior, superior and right."""

RULE = PatchRule((5, 6), tries=40, min_fraction=0.75)


def foot(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Return a random blob that fills about half of the slices, and less of the last ones."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (3, 3, 1))
    return smooth > smooth.std() * np.linspace(-1.0, 1.0, shape[2])


def item(subject: str = "T01", shape: tuple[int, int, int] = (20, 24, 4), seed: int = 0) -> Item:
    random = np.random.default_rng(seed)
    region = foot(shape, seed)
    labels = {bone: random.random(shape) < 0.3 for bone in BONES}
    return Item(subject, "static", random.normal(size=shape).astype(np.float32), region, labels)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return every patch of every slice, shape (K, rows, columns, h, w)."""
    return np.lib.stride_tricks.sliding_window_view(array, size, axis=(1, 2))


def subject(code: str, **paths: object) -> CleanSubject:
    group = "equinus" if code.startswith("E") else "control"
    given: dict = {"static": Path(), "masks": {}, "sequences": {}} | paths
    return CleanSubject(code, group, None, **given)
