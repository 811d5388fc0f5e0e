"""Patches per second: drawn on the fly, by the report's loop, and by MONAI, on the same volumes.

    python benchmarks/patches.py --results results/laptop --subjects T02 T04 T05

All three draw from the same distribution: within each static scan, uniformly over the positions
at which at least 75 % of the patch is foot. MONAI is given the map of these positions as weights.
Times are those of the processor on one thread, without reading files; preparation is the time
before the first patch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from monai.transforms import RandWeightedCropd

from ankle_lib.manifest.layouts import read_clean_cohort
from ankle_lib.patches.items import Item, static_items
from ankle_lib.patches.rules import (
    STATIC_SEGMENTATION,
    PatchRule,
    admissible_positions,
    rejection_sampling,
)
from ankle_lib.patches.source import Augmentation, PatchSource
from ankle_lib.presets import BONES
from ankle_lib.volume import load, to_orientation

BATCH = 8
TURNED = Augmentation(rotation_deg=180, scale=1.2, gain=0.2, shading=0.2, gamma=0.2, noise=0.1)

Draw = Callable[[], np.ndarray | torch.Tensor]
"""Returns images, shape (n, 1 or more channels, h, w)."""


def main() -> int:
    """Time every way of drawing; 1 if ours is slower than MONAI."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/laptop"))
    parser.add_argument("--subjects", nargs="+", default=["T02", "T04", "T05"])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each way")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    people = read_clean_cohort(arguments.results / "01_data_cleaning")
    people = [subject for subject in people if subject.code in arguments.subjects]
    items = list(static_items(people, arguments.results / "02_masking"))
    rule = STATIC_SEGMENTATION.rule(voxel_mm(people[0].static))
    print(f"{len(items)} static scans of {items[0].image.shape}, patches of {rule.size} pixels")
    ways = {
        "loop of 2020": loop,
        "MONAI RandWeightedCropd": monai_crops,
        "ours": ours,
        "ours, turned, scaled, distorted": ours_augmented,
    }
    rates = {}
    for name, prepare in ways.items():
        start = time.process_time()
        draw = prepare(items, rule)
        draw()
        preparation = time.process_time() - start
        rates[name] = rate(draw, arguments.seconds)
        print(f"{name:34s} {rates[name]:9.0f} patches/s   preparation {preparation:6.2f} s")
    return 0 if rates["ours"] > rates["MONAI RandWeightedCropd"] else 1


def rate(draw: Draw, seconds: float) -> float:
    """Return patches per second of processor time."""
    start, n = time.process_time(), 0
    while time.process_time() - start < seconds:
        n += len(draw())
    return n / (time.process_time() - start)


def loop(items: list[Item], rule: PatchRule) -> Draw:
    """Try positions slice by slice, and copy what is kept."""
    random = np.random.default_rng(0)
    slices = endless(items)

    def draw() -> np.ndarray:
        item, k = next(slices)
        patches = []
        for row, column in rejection_sampling(item.region[:, :, k], rule, random):
            cut = np.s_[row : row + rule.size[0], column : column + rule.size[1], k]
            channels = [item.image, *(item.labels[bone] for bone in BONES)]
            patches.append(np.stack([channel[cut] for channel in channels]))
        return np.array(patches)

    return draw


def endless(items: list[Item]) -> Iterator[tuple[Item, int]]:
    """Yield every slice again and again."""
    while True:
        for item in items:
            for k in range(item.image.shape[2]):
                yield item, k


def monai_crops(items: list[Item], rule: PatchRule) -> Draw:
    """Crop around voxels drawn by their weight."""
    height, width = rule.size
    crop = RandWeightedCropd(
        ["image", "label"], "weight", spatial_size=(height, width, 1), num_samples=BATCH
    ).set_random_state(0)
    data = []
    for item in items:
        region = torch.from_numpy(np.ascontiguousarray(np.moveaxis(item.region, 2, 0)))
        kept = admissible_positions(region, rule).permute(1, 2, 0)
        weight = torch.zeros(item.image.shape)
        top, left = height // 2, width // 2
        weight[top : top + kept.shape[0], left : left + kept.shape[1]] = kept.float()
        labels = np.stack([item.labels[bone] for bone in BONES]).astype(np.uint8)
        tensors = {"image": torch.from_numpy(item.image[None]), "label": torch.from_numpy(labels)}
        data.append(tensors | {"weight": weight[None]})
    turn = iter(range(10**9))

    def draw() -> torch.Tensor:
        crops = crop(data[next(turn) % len(data)])
        return torch.stack([torch.cat([one["image"], one["label"]])[..., 0] for one in crops])

    return draw


def ours(items: list[Item], rule: PatchRule) -> Draw:
    """Draw as a training does."""
    source, generator = PatchSource(items, rule), torch.Generator().manual_seed(0)
    return lambda: source.draw(BATCH, generator).image


def ours_augmented(items: list[Item], rule: PatchRule) -> Draw:
    """Draw as a training with augmentation does."""
    source, generator = PatchSource(items, rule), torch.Generator().manual_seed(0)
    return lambda: source.draw(BATCH, generator, TURNED).image


def voxel_mm(path: Path) -> float:
    """Return the pixel's size within the slices."""
    return to_orientation(load(path)).voxel_size_mm[0]


if __name__ == "__main__":
    sys.exit(main())
