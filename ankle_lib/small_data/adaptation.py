"""A network meets another world, and nobody there has outlined anything.

Three ways on: take the statistics of the new scans for the batch normalisation (Schneider et al.,
arXiv 2006.16971), make answers certain (Wang et al., arXiv 2006.10726), or learn from one's own
answers, where motion confirms them: a bone is rigid, so frames that one shape explains are right.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ankle_lib.learning.networks import SliceNetwork
from ankle_lib.learning.prediction import Segmenter
from ankle_lib.learning.scans import Scan, coarser, factor_for
from ankle_lib.metrics import dice
from ankle_lib.parallel import run_all
from ankle_lib.patches.source import PatchSource
from ankle_lib.presets import BONES, SmallDataSizes
from ankle_lib.small_data.few_labels import look_at
from ankle_lib.small_data.rigid_layer import fit_poses
from ankle_lib.small_data.target_scans import TargetChild

BATCH = 16
ENTROPY_RATE = 1e-3
CONFIRMED = 0.85
"""Dice of what the network sees in a frame and what one rigid shape, carried there, would show."""


def new_statistics(network: SliceNetwork, source: PatchSource, steps: int) -> SliceNetwork:
    """Return the network with mean and variance of the new scans in its batch normalisations.

    Parameters
    ----------
    network : SliceNetwork
        Left as it is.
    source : PatchSource
        Of scans without labels.
    steps : int
        Of 16 patches each.
    """
    result = copy.deepcopy(network).train()
    for module in result.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches
    with torch.inference_mode():
        for batch in _batches(source, steps):
            result.logits(batch)
    return result.eval()


def least_entropy(network: SliceNetwork, source: PatchSource, steps: int) -> SliceNetwork:
    """Return the network after its batch normalisations have learnt to make it certain.

    Scale and shift of each normalisation are trained, nothing else, with the new scans' own
    statistics. Parameters as for `new_statistics`.
    """
    result = copy.deepcopy(network).train().requires_grad_(False)
    layers = [module for module in result.modules() if isinstance(module, nn.BatchNorm2d)]
    learnt = [p for layer in layers for p in layer.parameters()]
    for parameter in learnt:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learnt, ENTROPY_RATE)
    for batch in _batches(source, steps):
        loss = entropy(torch.sigmoid(result.logits(batch)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return new_statistics(result.requires_grad_(True), source, steps)


def entropy(probability: Tensor) -> Tensor:
    """Return the mean entropy of yes-or-no probabilities, in nats: 0 if certain, 0.69 if not."""
    p = probability.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean()


def _batches(source: PatchSource, steps: int) -> list[Tensor]:
    generator = torch.Generator(source.device).manual_seed(0)
    return [source.draw(BATCH, generator).image for _ in range(steps)]


def confirmed_frames(
    segmenter: Segmenter, children: Sequence[TargetChild], sizes: SmallDataSizes
) -> tuple[list[Scan], pd.DataFrame]:
    """Label unlabelled children by the network itself, where rigid motion over time agrees.

    The bones of the network's static labels are carried into all frames. Where they agree with
    what the network sees there, for every bone, the carried bones are the frame's labels; other
    frames are left out.

    Parameters
    ----------
    segmenter : Segmenter
    children : sequence of TargetChild
        Their labels are not looked at, but for the last column of the table.
    sizes : SmallDataSizes

    Returns
    -------
    list of Scan
        To learn from.
    DataFrame
        Columns subject, frame, agreement, kept, dice (mean of the bones, of the labels against the
        truth: for the reader's eye alone).
    """
    found = run_all(partial(_confirmed, segmenter, sizes), children, desc="asking motion")
    scans = [scan for of_child, _ in found for scan in of_child]
    rows = [row for _, of_child in found for row in of_child]
    return scans, pd.DataFrame(rows, columns=["subject", "frame", "agreement", "kept", "dice"])


def _confirmed(
    segmenter: Segmenter, sizes: SmallDataSizes, child: TargetChild
) -> tuple[list[Scan], list[tuple[str, int, float, bool, float]]]:
    """Return a child's confirmed frames, and a row for each frame."""
    scans, rows = [], []
    seen = look_at(child, segmenter, range(child.frames.n_frames))
    for frame, poses in enumerate(fit_poses(seen, sizes.rigid_steps)):
        masks = seen.carried_masks(poses, child.frames.grid)
        truth, own = child.masks(frame), seen.masks[frame]
        # what neither of them sees agrees in nothing
        agreement = min(float(np.nan_to_num(dice(masks[bone], own[bone]))) for bone in BONES)
        right = float(np.mean([dice(masks[bone], truth[bone]) for bone in BONES]))
        rows.append((child.code, frame, agreement, agreement >= CONFIRMED, right))
        if agreement >= CONFIRMED:
            scan = child.scan(frame, labelled=False)
            scan = replace(scan, item=replace(scan.item, labels=masks))
            scans.append(coarser(scan, factor_for(scan, sizes.pixel_mm), to_learn=True))
    return scans, rows
