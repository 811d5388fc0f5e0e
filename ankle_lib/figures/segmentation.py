"""Figures of chapter 05: slices and patches with what networks see on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice
from ankle_lib.learning.prediction import Segmenter, predict
from ankle_lib.learning.scans import Scan, draw_patches, one_slice, rotation_of, turned
from ankle_lib.learning.scoring import THRESHOLD
from ankle_lib.learning.training import Trained
from ankle_lib.patches.items import slices_at
from ankle_lib.presets import BONES
from ankle_lib.segmentation.study import Study, volume_masks

NETWORK_NAMES = {
    "fcn": "FCN",
    "unet": "U-Net",
    "resnet-basic": "ResNet, basic blocks",
    "resnet-bottleneck": "ResNet, bottlenecks",
}

NETWORK_COLOURS = {
    "fcn": "#999999",
    "unet": "#0072B2",
    "resnet-basic": "#E69F00",
    "resnet-bottleneck": "#CC79A7",
}

CANDIDATES = 200
"""Patches from which the one with most of all bones is shown."""


def shown(
    image: NDArray[Any], masks: Mapping[str, NDArray[Any]], voxel_size_mm: Sequence[float]
) -> Slice:
    """Return a sagittal slice or patch with outlines, for `images.image_grid`.

    Parameters
    ----------
    image : (I, J) array
        Axes posterior and superior, normalised.
    masks : mapping of bone to (I, J) array
    voxel_size_mm : two or three floats
    """
    posterior, superior = (n * mm for n, mm in zip(image.shape, voxel_size_mm, strict=False))
    outlines = {bone: mask.T for bone, mask in masks.items()}
    return Slice((image - image.min()).T, (posterior, superior), outlines=outlines)


def patch_rows(
    networks: Mapping[str, Sequence[Trained]], scans: Sequence[Scan], pixels: int
) -> dict[str, list[Slice]]:
    """Return one patch of each scan as a reader and as the networks see it (report, Fig. 6.11).

    Parameters
    ----------
    networks : mapping of name to trained networks
        One for each bone.
    scans : sequence of Scan
    pixels : int
        Rows and columns of the patches.
    """
    rows: dict[str, list[Slice]] = {"reader": []}
    device = str(next(next(iter(networks.values()))[0].network.parameters()).device)
    for scan in scans:
        batch = draw_patches(scan, BONES, pixels, CANDIDATES, device=device)
        seen = batch.target.mean((2, 3))
        best = int((seen.amin(1) + 0.1 * seen.sum(1)).argmax())
        image = batch.image[best : best + 1]
        masks = {"reader": dict(zip(BONES, batch.target[best], strict=True))}
        for name, of_bones in networks.items():
            with torch.inference_mode():
                maps = {one.recipe.labels[0]: one.network(image)[0, 0] for one in of_bones}
            masks[NETWORK_NAMES.get(name, name)] = maps
        picture = image[0, 0].cpu().numpy()
        for name, maps in masks.items():
            found = {bone: (one > THRESHOLD).cpu().numpy() for bone, one in maps.items()}
            rows.setdefault(name, []).append(shown(picture, found, scan.voxel_size_mm))
    return rows


def reader_slice(scan: Scan, k: int) -> Slice:
    """Return a sagittal slice with the reader's bones."""
    masks = {bone: mask[:, :, k] for bone, mask in scan.item.labels.items()}
    return shown(scan.item.image[:, :, k], masks, scan.voxel_size_mm)


def network_slice(
    networks: Sequence[Trained], scan: Scan, k: int, *, batchnorm_training: bool = False
) -> Slice:
    """Return a whole sagittal slice with the bones that networks see (report, Fig. 6.12)."""
    masks: dict[str, NDArray[Any]] = {}
    for trained in networks:
        found = volume_masks(trained, one_slice(scan, k), batchnorm_training=batchnorm_training)
        masks |= {bone: mask[:, :, 0] for bone, mask in found.items()}
    return shown(scan.item.image[:, :, k], masks, scan.voxel_size_mm)


def final_rows(trained: Trained, study: Study, n: int = 4) -> dict[str, list[Slice]]:
    """Return a slice of the first test subjects with the bones that the final network sees.

    On the scans' own grids, ``as scanned`` and ``turned``.
    """
    segmenter = Segmenter.of(trained, pixel_mm=study.final_pixel_mm)
    rows: dict[str, list[Slice]] = {"as scanned": [], "turned": []}
    for number, scan in enumerate(study.native_test[:n]):
        beside = max(map(abs, slices_at(segmenter.context_mm, scan.voxel_size_mm[2])))
        some = one_slice(scan, middle_slice_of(scan), beside)
        angle = rotation_of(number, len(study.split.test))
        for title, one in (("as scanned", some), ("turned", turned(some, angle))):
            found = predict(one.item.image, one.voxel_size_mm, segmenter, foot=one.item.region)
            masks = {bone: mask[:, :, beside] for bone, mask in found.masks().items()}
            rows[title].append(shown(one.item.image[:, :, beside], masks, one.voxel_size_mm))
    return rows


def middle_slice_of(scan: Scan) -> int:
    """Return the sagittal slice that shows most of the bone of which it shows least."""
    areas = np.stack([mask.sum(axis=(0, 1)) for mask in scan.item.labels.values()])
    return int((areas.min(axis=0) + 1e-3 * areas.sum(axis=0)).argmax())
