"""How good a trained network is: on patches, on whole volumes, and over subjects."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ankle_lib.learning.loop import Validate
from ankle_lib.learning.networks import fast_autocast
from ankle_lib.metrics import bootstrap_interval, mask_scores, patch_dice
from ankle_lib.patches.source import Batch, PatchSource, pair_correlation

THRESHOLD = 0.5
"""Probability from which a pixel counts as bone (report, section 6.2.2)."""

PATCHES_AT_ONCE = 32


def outputs_of(network: nn.Module, images: Tensor, *, batchnorm_training: bool = False) -> Tensor:
    """Return what a network gives for many patches, shape (n, channels, h, w).

    Parameters
    ----------
    network : nn.Module
        Left as it is.
    images : (n, channels, h, w) tensor
        On its device.
    batchnorm_training : bool
        Repeat the error of the 2020 scripts (see `slices.whole_slices`); patches then go one by
        one.
    """
    at_once = 1 if batchnorm_training else PATCHES_AT_ONCE
    ready = copy.deepcopy(network).train(batchnorm_training)
    with torch.inference_mode(), fast_autocast(images.device):
        return torch.cat([ready(part) for part in images.split(at_once)])


def patch_scores(
    network: nn.Module,
    batches: Mapping[str, Batch],
    labels: Sequence[str],
    *,
    batchnorm_training: bool = False,
) -> pd.DataFrame:
    """Return the report's score: the Dice of each patch, averaged.

    Parameters
    ----------
    network : nn.Module
    batches : mapping of subject to Batch
        E.g. of `scans.draw_patches`, on the network's device.
    labels : sequence of str
        One per channel.
    batchnorm_training : bool
        As for `outputs_of`.

    Returns
    -------
    DataFrame
        Columns subject, bone, patch_dice. Patches without the bone in truth and prediction count
        as 1, as in the report.
    """
    rows = []
    for subject, batch in batches.items():
        given = outputs_of(network, batch.image, batchnorm_training=batchnorm_training)
        found, true = ((one > THRESHOLD).cpu().numpy() for one in (given, batch.target))
        for channel, label in enumerate(labels):
            mean = float(patch_dice(found[:, channel], true[:, channel]).mean())
            rows.append((subject, label, mean))
    return pd.DataFrame(rows, columns=["subject", "bone", "patch_dice"])


def patch_validation(
    source: PatchSource, n_patches: int, *, seed: int = 0, batch_size: int = 32
) -> Validate:
    """Return a function that scores a network on the same random patches every time.

    Parameters
    ----------
    source : PatchSource
        Of the validation subjects.
    n_patches : int
    seed : int
        Decides the patches.
    batch_size : int

    Returns
    -------
    callable
        ``{"score": …, "dice_talus": …}``: the mean Dice over patches as `metrics.patch_dice` has
        it, and its mean over labels; patches whose label is unknown do not count. For intensities
        ``{"score": …}``, the mean correlation.
    """
    generator = torch.Generator(source.device).manual_seed(seed)
    places = source.draw(n_patches, generator).where.split(batch_size)

    def validate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        sums, numbers = torch.zeros(1, device=device), torch.zeros(1, device=device)
        for where in places:
            batch = source.at(where)
            output, target = network(batch.image.to(device)), batch.target.to(device)
            if source.of_labels:
                scores, valid = _dice(output, target), batch.valid.to(device)
            else:
                scores = pair_correlation(output.float(), target)[:, None]
                valid = torch.ones_like(scores, dtype=torch.bool)
            sums = sums + (scores * valid).sum(0)
            numbers = numbers + valid.sum(0)
        means = (sums / numbers).tolist()
        if not source.of_labels:
            return {"score": means[0]}
        known = [mean for mean, n in zip(means, numbers.tolist(), strict=True) if n]
        by_label = {f"dice_{label}": mean for label, mean in zip(source.labels, means, strict=True)}
        return {"score": sum(known) / len(known), **by_label}

    return validate


def bone_scores(
    subject: str,
    found: Mapping[str, NDArray[np.bool_]],
    truth: Mapping[str, NDArray[np.bool_]],
    voxel_size_mm: Sequence[float],
) -> list[dict[str, Any]]:
    """Return a row for each bone whose truth is known: subject, bone, dice, hd95_mm, assd_mm.

    A bone that is missed has the image's diagonal as its distance.
    """
    return [
        {
            "subject": subject,
            "bone": bone,
            **mask_scores(mask, truth[bone], voxel_size_mm)._asdict(),
        }
        for bone, mask in found.items()
        if bone in truth
    ]


def summary(
    table: pd.DataFrame, by: Sequence[str] = ("bone",), *, score: str = "dice"
) -> pd.DataFrame:
    """Return mean and 95 % interval over subjects of the Dice, and the mean HD95.

    Parameters
    ----------
    table : DataFrame
        Columns subject, ``by``, the score and, if there is one, hd95_mm. Rows of one subject
        (seeds) are averaged before subjects are drawn.
    by : sequence of str
    score : str
        Column with a Dice, ``dice`` or ``patch_dice``.

    Returns
    -------
    DataFrame
        Columns ``by``, dice_mean, dice_low, dice_high, and hd95_mm.
    """
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        interval = bootstrap_interval(part[score], list(part["subject"]))
        row = dict(zip(by, key, strict=True))
        row |= {f"dice_{name}": value for name, value in interval._asdict().items()}
        if "hd95_mm" in part:
            row["hd95_mm"] = float(part.groupby("subject")["hd95_mm"].mean().mean())
        rows.append(row)
    return pd.DataFrame(rows)


def _dice(probability: Tensor, target: Tensor) -> Tensor:
    """Return the Dice of each patch and channel, shape (n, channels)."""
    predicted, true = probability > THRESHOLD, target > THRESHOLD
    shared = (predicted & true).sum((2, 3))
    total = predicted.sum((2, 3)) + true.sum((2, 3))
    return torch.where(total > 0, 2 * shared / total.clamp_min(1), 1.0)
