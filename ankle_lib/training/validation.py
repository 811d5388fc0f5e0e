"""A score on patches of the validation subject, the report's way of judging a training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ankle_lib.patches.batch import pair_correlation
from ankle_lib.patches.source import PatchSource

Validate = Callable[[nn.Module], dict[str, float]]
"""Takes the network in evaluation mode; returns numbers, of which ``score`` is to be large."""

THRESHOLD = 0.5
"""Probability from which a pixel counts as bone (report, section 6.2.2)."""


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
        it, 1 where prediction and truth are both empty, and its mean over labels; patches whose
        label is unknown do not count. For intensities ``{"score": …}``, the mean correlation.
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


def _dice(probability: Tensor, target: Tensor) -> Tensor:
    """Return the Dice of each patch and channel, shape (n, channels)."""
    predicted, true = probability > THRESHOLD, target > THRESHOLD
    shared = (predicted & true).sum((2, 3))
    total = predicted.sum((2, 3)) + true.sum((2, 3))
    return torch.where(total > 0, 2 * shared / total.clamp_min(1), 1.0)
