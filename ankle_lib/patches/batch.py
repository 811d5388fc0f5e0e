"""What a network is trained on at one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Patches and what to learn from them.

    Attributes
    ----------
    image : (n, channels, h, w) float32 tensor
        One channel, or one for each slice of `Item.context`.
    target : (n, channels, h, w) float32 tensor
        0 and 1, one channel per label; or intensities, one channel.
    valid : (n, channels) bool tensor
        False where a label is unknown.
    correlation : (n,) float32 tensor
        Of image and target where the target is an intensity, 1 otherwise.
    where : (n, 3) int64 tensor
        Slice of the source, first row and first column in it.
    describe : callable
        Turns a row of ``where`` into words.
    """

    image: Tensor
    target: Tensor
    valid: Tensor
    correlation: Tensor
    where: Tensor
    describe: Callable[[Sequence[int]], str]


def pair_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation of each pair of patches, shape (n,); 0 where one is constant.

    Parameters
    ----------
    first, second : (n, channels, h, w) float tensors
    """
    one = first.flatten(1) - first.flatten(1).mean(1, keepdim=True)
    two = second.flatten(1) - second.flatten(1).mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(two, dim=1)
    return torch.where(norm > 0, (one * two).sum(1) / norm.clamp_min(1e-12), 0.0)
