"""Slices and patches with the bones that readers and networks see on them, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ankle_lib.learning.scans import Scan, draw_patches, one_slice
from ankle_lib.learning.scoring import THRESHOLD
from ankle_lib.learning.training import Trained
from ankle_lib.presets import BONES
from ankle_lib.segmentation.study import volume_masks

Shown = tuple[NDArray, dict[str, NDArray[np.bool_]]]
"""An image (I, J) and the masks on it."""

CANDIDATES = 200
"""Patches from which the one with most of all bones is shown."""


def patch_examples(
    networks: Mapping[str, Sequence[Trained]], scans: Sequence[Scan], pixels: int, seed: int = 0
) -> dict[str, list[Shown]]:
    """Return one patch of each scan as a reader and as the networks see it (report, Fig. 6.11).

    Returns
    -------
    dict
        ``reader`` and the networks' names to a list of (image, masks).
    """
    rows: dict[str, list[Shown]] = {"reader": [], **{name: [] for name in networks}}
    device = str(next(next(iter(networks.values()))[0].network.parameters()).device)
    for scan in scans:
        batch = draw_patches(scan, BONES, pixels, CANDIDATES, seed, device)
        seen = batch.target.mean((2, 3))
        best = int((seen.amin(1) + 0.1 * seen.sum(1)).argmax())
        image = batch.image[best : best + 1]
        picture = image[0, 0].cpu().numpy()
        truth = batch.target[best].cpu().numpy() > THRESHOLD
        rows["reader"].append((picture, dict(zip(BONES, truth, strict=True))))
        for name, fits in networks.items():
            with torch.inference_mode():
                maps = {one.recipe.labels[0]: one.network(image)[0, 0] for one in fits}
            masks = {bone: (one > THRESHOLD).cpu().numpy() for bone, one in maps.items()}
            rows[name].append((picture, masks))
    return rows


def reader_slice(scan: Scan, k: int) -> Shown:
    """Return a sagittal slice with the reader's bones."""
    item = scan.item
    return item.image[:, :, k], {bone: mask[:, :, k] for bone, mask in item.labels.items()}


def slice_example(
    networks: Sequence[Trained], scan: Scan, k: int, *, batchnorm_training: bool = False
) -> Shown:
    """Return a whole sagittal slice with the bones that networks see (report, Fig. 6.12)."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for trained in networks:
        found = volume_masks(trained, one_slice(scan, k), batchnorm_training=batchnorm_training)
        masks |= {bone: mask[:, :, 0] for bone, mask in found.items()}
    return scan.item.image[:, :, k], masks


def middle_slice_of(scan: Scan) -> int:
    """Return the sagittal slice that shows most of the bone of which it shows least."""
    areas = np.stack([mask.sum(axis=(0, 1)) for mask in scan.item.labels.values()])
    return int((areas.min(axis=0) + 1e-3 * areas.sum(axis=0)).argmax())
