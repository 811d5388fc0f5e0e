"""Boxes for bones that MR shows dark and CT bright, on two grids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ankle_lib.learning.scans import Scan
from ankle_lib.modalities.arms import ModalityStudy
from ankle_lib.modalities.unpaired_scans import Child
from ankle_lib.presets import PRESETS
from tests.toy_scans import SHAPE, VOXEL_MM, toy_scan

SIZES = replace(
    PRESETS["smoke"].modality, static_shape=SHAPE, static_voxel_mm=VOXEL_MM, pixel_mm=2.0, pixels=16
)


def toy_child(code: str, seed: int = 0) -> Child:
    mr = toy_scan(code, seed)
    ct = inverted(toy_scan(code, seed + 100))
    registered = inverted(mr)
    hounsfield = registered.item.image.astype(np.float32)
    return Child({"mr": mr, "ct": ct}, registered, hounsfield, hounsfield)


def inverted(scan: Scan) -> Scan:
    image = np.where(scan.item.region, -scan.item.image, scan.item.image.min())
    return replace(scan, item=replace(scan.item, image=image))


def toy_study(folder: Path) -> ModalityStudy:
    codes = ("T31", "E31", "T32", "E32")
    children = {code: toy_child(code, number) for number, code in enumerate(codes)}
    return ModalityStudy(children, codes[:3], codes[3:], SIZES, folder)
