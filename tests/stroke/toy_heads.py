"""Blobs in noise for heads: dark lesions on one side of a bright brain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ankle_lib.learning.scans import Scan
from ankle_lib.patches.items import Item
from ankle_lib.presets import PRESETS
from ankle_lib.stroke.fair_trials import NETWORKS, StrokeStudy
from ankle_lib.stroke.head_scans import LESION

SIZES = replace(PRESETS["smoke"].stroke, steps=12, batch=8)
SHAPE = (*SIZES.plane, 10)


def toy_head(code: str, seed: int = 0) -> Scan:
    rng = np.random.default_rng(seed)
    x, y, z = np.indices(SHAPE)
    region = ((x - 15.5) / 14) ** 2 + ((y - 31.5) / 28) ** 2 < 1
    image = np.where(region, 1.0, -2.0) + 0.2 * rng.standard_normal(SHAPE)
    side = 1 if seed % 2 else -1
    centre = (15.5 + side * 7, rng.uniform(22, 42), 5)
    lesion = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < 14
    image[lesion] -= 2
    item = Item(code, "T1w", image.astype(np.float32), region, {LESION: lesion & region})
    return Scan(item, "unknown", (SIZES.voxel_mm,) * 3)


def toy_study(folder: Path) -> StrokeStudy:
    heads = [toy_head(f"s{n}", n) for n in range(6)]
    rates = dict.fromkeys(NETWORKS, 1e-2)
    return StrokeStudy(tuple(heads[:3]), (heads[3],), tuple(heads[4:]), SIZES, rates, folder)
