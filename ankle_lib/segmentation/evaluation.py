"""How good a trained network is: on patches, on whole volumes, on feet that are turned."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.inference import labels_from, tidy_labels, tiles, whole_slices
from ankle_lib.metrics import bootstrap_interval, mask_scores, patch_dice
from ankle_lib.networks.precision import fast_autocast
from ankle_lib.patches.items import slices_at
from ankle_lib.segmentation.recipe import Fitted, patch_source
from ankle_lib.segmentation.scans import Scan, coarser

REPORT_FRACTION = 0.75
"""Part of a patch that must be foot for the report to look at it."""

THRESHOLD = 0.5

PATCHES_AT_ONCE = 32


def patch_scores(
    fitted: Fitted,
    scans: Iterable[Scan],
    *,
    pixels: int | None = None,
    n_patches: int = 128,
    batchnorm_training: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the report's score: the Dice of each patch, averaged.

    Parameters
    ----------
    fitted : Fitted
    scans : iterable of Scan
    pixels : int, optional
        Size of the patches; that of the training by default. At least 75 % of each is foot.
    n_patches : int
        Per scan.
    batchnorm_training : bool
        Repeat the error of the 2020 scripts; patches then go one by one.
    seed : int
        Decides the patches.

    Returns
    -------
    DataFrame
        Columns subject, bone, patch_dice. Patches without the bone in truth and prediction count
        as 1, as in the report.
    """
    device = next(fitted.network.parameters()).device
    network = copy.deepcopy(fitted.network).train(batchnorm_training)
    at_once = 1 if batchnorm_training else PATCHES_AT_ONCE
    rows = []
    for scan in scans:
        bones, size = fitted.recipe.bones, pixels or fitted.recipe.pixels
        images, targets = _drawn(scan, bones, size, n_patches, seed, str(device))
        with torch.inference_mode(), fast_autocast(device):
            parts = [network(part) for part in images.split(at_once)]
        predicted = (torch.cat(parts) > THRESHOLD).cpu().numpy()
        true = (targets > THRESHOLD).cpu().numpy()
        for channel, bone in enumerate(bones):
            scores = patch_dice(predicted[:, channel], true[:, channel])
            rows.append((scan.code, bone, float(scores.mean())))
    return pd.DataFrame(rows, columns=["subject", "bone", "patch_dice"])


def volume_masks(
    fitted: Fitted, scan: Scan, *, batchnorm_training: bool = False, tile: int | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Return each bone as the network sees it in whole slices, air included, as in the report.

    Parameters
    ----------
    fitted : Fitted
    scan : Scan
    batchnorm_training : bool
        Repeat the error of the 2020 scripts (see `inference.whole_slices`).
    tile : int, optional
        Side of overlapping tiles instead of whole slices.
    """
    image = scan.item.image
    options: dict[str, Any] = {
        "context": slices_at(fitted.recipe.context_mm, scan.voxel_size_mm[2]),
        "batchnorm_training": batchnorm_training,
    }
    if tile is not None and tile < max(image.shape[:2]):
        maps = tiles(fitted.network, image, size=tile, **options)
    else:
        maps = whole_slices(fitted.network, image, **options)
    return {bone: maps[channel] > THRESHOLD for channel, bone in enumerate(fitted.recipe.bones)}


def volume_scores(
    fitted: Fitted,
    scans: Iterable[Scan],
    *,
    batchnorm_training: bool = False,
    tile: int | None = None,
) -> pd.DataFrame:
    """Return Dice, HD95 and ASSD of each bone, one number per volume.

    Parameters
    ----------
    fitted : Fitted
    scans : iterable of Scan
    batchnorm_training, tile
        As for `volume_masks`.

    Returns
    -------
    DataFrame
        Columns subject, bone, dice, hd95_mm, assd_mm; a bone that is missed has the image's
        diagonal as its distance.
    """
    rows = []
    for scan in scans:
        found = volume_masks(fitted, scan, batchnorm_training=batchnorm_training, tile=tile)
        for bone, mask in found.items():
            scores = mask_scores(mask, scan.item.labels[bone], scan.voxel_size_mm)
            rows.append((scan.code, bone, *scores))
    return pd.DataFrame(rows, columns=["subject", "bone", "dice", "hd95_mm", "assd_mm"])


def segment(fitted: Fitted, scan: Scan, factor: int = 1) -> NDArray[np.uint8]:
    """Return the labels of a scan on its own grid, by a network trained on coarser pixels.

    Slice by slice where the foot is; probabilities, not labels, are brought back to the scan's
    grid; each bone is one piece without holes.

    Parameters
    ----------
    fitted : Fitted
        With one output per bone.
    scan : Scan
    factor : int
        Pixels of the network per pixel of the scan, see `coarser`.

    Returns
    -------
    (I, J, K) uint8 array
        0, or 1 + the position of the bone in the recipe.
    """
    small = coarser(scan, factor)
    context = slices_at(fitted.recipe.context_mm, scan.voxel_size_mm[2])
    maps = whole_slices(fitted.network, small.item.image, context=context, foot=small.item.region)
    return finer_labels(maps, scan.item.image.shape, factor)


def finer_labels(
    maps: NDArray[np.floating], shape: tuple[int, ...], factor: int
) -> NDArray[np.uint8]:
    """Bring probabilities to a finer grid and make labels of them there, one piece per bone.

    Parameters
    ----------
    maps : (channels, i, j, K) array
        Of a scan that `coarser` made.
    shape : (I, J, K)
        Of the scan itself.
    factor : int
        Pixels of the maps per pixel of the scan.

    Returns
    -------
    (I, J, K) uint8 array
        0, or 1 + the channel.
    """
    rows, columns, n_slices = shape
    labels = np.zeros(shape, dtype=np.uint8)
    for k in range(n_slices):
        fine = torch.from_numpy(maps[None, ..., k].astype(np.float32))
        if factor > 1:
            fine = functional.interpolate(fine, scale_factor=factor, mode="bilinear")
        labels[:, :, k] = labels_from(fine[0, :, :rows, :columns, None].numpy(), THRESHOLD)[..., 0]
    return tidy_labels(labels)


def summary(table: pd.DataFrame, by: Sequence[str] = ("bone",)) -> pd.DataFrame:
    """Return mean and 95 % interval over subjects of the Dice, and the mean HD95.

    Parameters
    ----------
    table : DataFrame
        Columns subject, ``by``, dice and, if there is one, hd95_mm. Rows of one subject (seeds)
        are averaged before subjects are drawn.

    Returns
    -------
    DataFrame
        Columns ``by``, dice_mean, dice_low, dice_high, and hd95_mm.
    """
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        interval = bootstrap_interval(part["dice"], list(part["subject"]))
        row = dict(zip(by, key, strict=True))
        row |= {f"dice_{name}": value for name, value in interval._asdict().items()}
        if "hd95_mm" in part:
            row["hd95_mm"] = float(part.groupby("subject")["hd95_mm"].mean().mean())
        rows.append(row)
    return pd.DataFrame(rows)


@lru_cache(maxsize=64)
def _drawn(
    scan: Scan, bones: tuple[str, ...], pixels: int, n: int, seed: int, device: str
) -> tuple[Tensor, Tensor]:
    """Return patches of a scan and their targets: every network is scored on the same ones."""
    source = patch_source([scan], bones, pixels, REPORT_FRACTION, device)
    batch = source.draw(n, torch.Generator(source.device).manual_seed(seed))
    return batch.image, batch.target
