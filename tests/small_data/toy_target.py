"""Three balls for bones, and a child of the second generator made of them."""

from __future__ import annotations

import numpy as np

from ankle_lib.learning.scans import Scan
from ankle_lib.patches.items import Item
from ankle_lib.presets import BONES
from ankle_lib.small_data.second_generator import Child, make_child

SPACING = 2.0


def balls() -> dict[str, np.ndarray]:
    """Return a calcaneus below a talus below a tibia; axes posterior, superior, right."""
    i, j, k = np.ogrid[:56, :52, :32]
    centres = {"calcaneus": (32, 11), "talus": (25, 26), "tibia": (26, 42)}
    return {
        bone: (i - p) ** 2 + (j - s) ** 2 + (k - 16) ** 2 < (7.4 if bone == "talus" else 8.2) ** 2
        for bone, (p, s) in centres.items()
    }


def toy_child(seed: int = 0) -> Child:
    """Return a child with bones like balls."""
    return make_child(balls(), SPACING, np.random.default_rng(seed))


def blocks(gap: int) -> Scan:
    """Return a scan of blocks for bones, two of them ``gap`` pixels apart."""
    masks = {bone: np.zeros((40, 40, 3), bool) for bone in BONES}
    masks["calcaneus"][8:20, 4:14] = True
    masks["talus"][8:20, 14 + gap : 26 + gap] = True
    masks["tibia"][26:38, 6:16] = True
    image = np.random.default_rng(0).normal(size=(40, 40, 3)).astype(np.float32)
    return Scan(Item("C01", "x", image, np.ones(image.shape, bool), masks), "control", (1, 1, 1))
