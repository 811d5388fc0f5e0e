"""What a training makes small. Every loss takes logits or intensities, and a batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ankle_lib.patches.source import Batch

Loss = Callable[[Tensor, Batch], Tensor]

DICE_SMOOTH = 1.0
"""Pixels added above and below, so that a batch without the bone has a defined Dice."""

WEIGHT_SLOPE, WEIGHT_MIDDLE = 10.0, 0.5
"""Of the sigmoid g(r) by which the report weighs patches (section 6.3.2)."""

LESION_WEIGHT = 5.0
"""So many pixels without a lesion count as much as one of a lesion."""

GRADIENT_WEIGHT = 1.0
"""Of the differences of neighbouring pixels, beside the pixels themselves."""


def bce(logits: Tensor, batch: Batch, weight: float = 1.0) -> Tensor:
    """Return the binary cross-entropy, averaged over pixels whose label is known.

    The report applies it to probabilities; from logits it is the same number without overflow.

    Parameters
    ----------
    logits : (n, channels, h, w) tensor
    batch : Batch
    weight : float
        By which pixels of the label count more.
    """
    each = functional.binary_cross_entropy_with_logits(logits, batch.target, reduction="none")
    if weight != 1:
        each = each * (1 + (weight - 1) * batch.target)
    valid = batch.valid.to(each.dtype)
    return (each.mean((2, 3)) * valid).sum() / valid.sum().clamp_min(1.0)


def dice_bce(logits: Tensor, batch: Batch, weight: float = 1.0) -> Tensor:
    """Return `bce` plus one minus the soft Dice of the whole batch, averaged over labels."""
    valid = batch.valid.to(logits.dtype)[:, :, None, None]
    probability = torch.sigmoid(logits) * valid
    target = batch.target * valid
    shared = (probability * target).sum((0, 2, 3))
    total = probability.sum((0, 2, 3)) + target.sum((0, 2, 3))
    soft_dice = (2 * shared + DICE_SMOOTH) / (total + DICE_SMOOTH)
    return bce(logits, batch, weight) + 1 - soft_dice.mean()


def dice_lesion_bce(logits: Tensor, batch: Batch) -> Tensor:
    """Return `dice_bce` with a cross-entropy that is not content with an empty answer.

    A lesion has a hundredth of a slice: without more weight a short training says "none" everywhere
    and stays there.
    """
    return dice_bce(logits, batch, LESION_WEIGHT)


def weighted_l1(intensities: Tensor, batch: Batch) -> Tensor:
    """Return the sum of absolute differences per patch, weighted, averaged (section 6.3.2)."""
    distance = (intensities - batch.target).abs().sum((1, 2, 3))
    return (report_weight(batch.correlation) * distance).mean()


def weighted_l2(intensities: Tensor, batch: Batch) -> Tensor:
    """Return the Euclidean distance per patch, weighted, averaged (report, Table 6.5)."""
    squared = (intensities - batch.target).square().sum((1, 2, 3))
    # the root has no slope at 0
    return (report_weight(batch.correlation) * torch.sqrt(squared + 1e-12)).mean()


def mean_l1(intensities: Tensor, batch: Batch) -> Tensor:
    """Return the mean absolute difference of all pixels."""
    return (intensities - batch.target).abs().mean()


def l1_gradient(intensities: Tensor, batch: Batch) -> Tensor:
    """Return `mean_l1`, and that of the differences of neighbouring pixels, along both axes.

    A blurred image has small errors, but large ones in its edges: the second part keeps texture.
    """
    error = intensities - batch.target
    edges = sum(error.diff(dim=axis).abs().mean() for axis in (2, 3))
    return error.abs().mean() + GRADIENT_WEIGHT * edges


def report_weight(correlation: Tensor) -> Tensor:
    """Return the report's g(r) = 1 / (1 + exp(-10 (r - 0.5)))."""
    return torch.sigmoid(WEIGHT_SLOPE * (correlation - WEIGHT_MIDDLE))


SEGMENTATION_LOSSES: dict[str, Loss] = {
    "bce": bce,
    "dice+bce": dice_bce,
    "dice+lesion-bce": dice_lesion_bce,
}
"""Losses of logits."""

LOSSES: dict[str, Loss] = {
    **SEGMENTATION_LOSSES,
    "weighted-l1": weighted_l1,
    "weighted-l2": weighted_l2,
    "l1": mean_l1,
    "l1+gradient": l1_gradient,
}
