"""Three balls for bones, and a child of the second generator made of them."""

from __future__ import annotations

import numpy as np

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
