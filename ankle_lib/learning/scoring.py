"""How good a trained network is: on patches, on whole volumes, and over subjects."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ankle_lib.learning.networks import fast_autocast
from ankle_lib.learning.training import Validate
from ankle_lib.metrics import mask_scores
from ankle_lib.parallel import in_batches
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
        return torch.cat(in_batches(ready, images, at_once=at_once))


def patch_scores(
    network: nn.Module | None,
    batches: Mapping[str, Batch],
    labels: Sequence[str],
    *,
    batchnorm_training: bool = False,
) -> pd.DataFrame:
    """Return the report's score: the Dice of each patch, averaged.

    Parameters
    ----------
    network : nn.Module, optional
        Without one no pixel is bone: the score of an empty mask.
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
        found = torch.zeros_like(batch.target)
        if network is not None:
            found = outputs_of(network, batch.image, batchnorm_training=batchnorm_training)
        means = _patch_dice(found, batch.target).double().mean(0).tolist()
        rows += [(subject, label, mean) for label, mean in zip(labels, means, strict=True)]
    return pd.DataFrame(rows, columns=["subject", "bone", "patch_dice"])


def patch_validation(source: PatchSource, n_patches: int, *, seed: int = 0) -> Validate:
    """Return a function that scores a network on the same random patches every time.

    Parameters
    ----------
    source : PatchSource
        Of the validation subjects, on the network's device.
    n_patches : int
    seed : int
        Decides the patches.

    Returns
    -------
    callable
        ``{"score": …, "dice_talus": …}``: the mean Dice over patches as `patch_scores` has it,
        and its mean over labels; patches whose label is unknown do not count. For intensities
        ``{"score": …}``, the mean correlation.
    """
    generator = torch.Generator(source.device).manual_seed(seed)
    places = source.draw(n_patches, generator).where.split(PATCHES_AT_ONCE)

    def validate(network: nn.Module) -> dict[str, float]:
        found = []
        for where in places:
            batch = source.at(where)
            output = network(batch.image)
            if source.of_labels:
                scores = _patch_dice(output, batch.target)
                found.append(scores.where(batch.valid, torch.nan))
            else:
                found.append(pair_correlation(output.float(), batch.target)[:, None])
        means = torch.cat(found).nanmean(0).tolist()
        names = [f"dice_{label}" for label in source.labels] if source.of_labels else []
        return {"score": float(np.nanmean(means)), **dict(zip(names, means, strict=False))}

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
        {"subject": subject, "bone": bone} | mask_scores(mask, truth[bone], voxel_size_mm)._asdict()
        for bone, mask in found.items()
        if bone in truth
    ]


def _patch_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Return the Dice of each patch and channel, shape (n, channels); 1 if both are empty.

    Not comparable with the Dice of a volume: every patch weighs the same, however little bone it
    shows.
    """
    predicted, true = probability > THRESHOLD, target > THRESHOLD
    shared = (predicted & true).sum((2, 3))
    total = predicted.sum((2, 3)) + true.sum((2, 3))
    return torch.where(total > 0, 2 * shared / total.clamp_min(1), 1.0)
