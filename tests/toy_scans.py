"""Feet of boxes in which each bone has its own brightness, and a network that knows it by that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import Scan
from ankle_lib.learning.training import Trained
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.items import Item
from ankle_lib.patches.split import Split
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.segmentation.study import Study
from ankle_lib.volume import save
from tests.toy_ankle import oblique_affine

SHAPE = (48, 52, 8)
VOXEL_MM = (2.0, 2.0, 3.0)
BOXES = {
    "calcaneus": (slice(26, 40), slice(10, 18), slice(2, 6)),
    "talus": (slice(18, 28), slice(20, 28), slice(2, 6)),
    "tibia": (slice(20, 28), slice(30, 46), slice(2, 6)),
}
LIGHT = {"calcaneus": 2.0, "talus": 3.0, "tibia": 4.0}
CODES = ("T01", "T02", "T03", "E01", "E02")

SIZES = replace(
    PRESETS["smoke"].segmentation,
    pixel_mm=2.0,
    steps=2,
    n_patches=6,
    slice_step=2,
    unet_depths=(2,),
    resnet_depths=(1,),
    unet_rates=(5e-4,),
    followed_bones=BONES,
    final_pixel_mm=4.0,
    final_stages=((16, 2, 4, 1e-3), (24, 2, 2, 1e-3)),
)


def toy_scan(code: str, seed: int = 0) -> Scan:
    random = np.random.default_rng(seed)
    foot = np.zeros(SHAPE, dtype=bool)
    foot[8:42, 4:50, 1:7] = True
    image = np.where(foot, 0.0, -2.0) + random.normal(0, 0.05, SHAPE)
    labels = {}
    for bone, box in BOXES.items():
        labels[bone] = np.zeros(SHAPE, dtype=bool)
        labels[bone][box] = True
        image[box] += LIGHT[bone]
    group = "control" if code.startswith("T") else "equinus"
    item = Item(code, "static", image.astype(np.float32), foot, labels)
    return Scan(item, group, VOXEL_MM)


def toy_study(folder: Path) -> Study:
    scans = tuple(toy_scan(code, number) for number, code in enumerate(CODES))
    folds = (Split(("T02",), ("T01",), ("E01",)), Split(("T01",), ("T02",), ("E01",)))
    split = Split(CODES[:2], CODES[2:3], CODES[3:])
    return Study(scans, scans, split, folds, SIZES, folder)


def small_recipe(**changes: Any) -> Recipe:
    stages = (Stage(16, 2, 2), Stage(24, 2, 2, 1e-4))
    return Recipe(**{"stages": stages, "depth": 2, "width": 4, "epochs": 2} | changes)


def weights(trained: Trained) -> Tensor:
    return torch.cat([one.flatten() for one in trained.network.state_dict().values()])


class Reader(nn.Module):
    """Knows the bones by their brightness, one output for each."""

    def __init__(self, bones: tuple[str, ...] = BONES) -> None:
        super().__init__()
        self.head = "probability"
        self.light = nn.Parameter(torch.tensor([LIGHT[bone] for bone in bones]))

    def forward(self, images: Tensor) -> Tensor:
        return ((images - self.light[:, None, None]).abs() < 0.4).float()


def trained_reader(folder: Path, bones: tuple[str, ...] = BONES) -> Trained:
    kept = Recipe((Stage(16, 1),), bones)
    network: Any = Reader(bones)
    return Trained(network, kept, pd.DataFrame(), pd.DataFrame(), folder)


def written(folder: Path, code: str) -> CleanSubject:
    """Write a scan, its bones and its foot as chapters 01 and 02 leave them."""
    scan, affine = toy_scan(code), oblique_affine(SHAPE, VOXEL_MM)
    static = folder / f"sub-{code}_static.nii.gz"
    light = np.rint(500 * (scan.item.image + 2.5)).astype(np.int16)
    save(static, light, affine)
    masks = {}
    for bone, mask in scan.item.labels.items():
        masks[bone] = folder / f"sub-{code}_static_label-{bone}_mask.nii.gz"
        save(masks[bone], mask.astype(np.uint8), affine)
    foot = folder / f"sub-{code}" / f"sub-{code}_static_desc-foot_mask.nii.gz"
    save(foot, scan.item.region.astype(np.uint8), affine)
    return CleanSubject(code, scan.group, "left", static, masks, {})
