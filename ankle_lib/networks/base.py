"""What the report's networks share: slices of any size in, maps of the same size out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.files import AnkleError

Head = Literal["probability", "intensity"]


class SliceNetwork(nn.Module, ABC):
    """A fully convolutional network for 2D slices.

    A subclass writes `body`. Inputs whose height or width is no multiple of ``multiple`` are
    continued beyond the lower and right border with their last row and column, and the result is
    cut back; other inputs pass unchanged.

    Parameters
    ----------
    in_channels : int
        Images per slice.
    multiple : int
        Heights and widths that `body` can halve and double again are multiples of this.
    head : {"probability", "intensity"}
        Whether `forward` ends in a sigmoid, one per channel, or in nothing.
    """

    def __init__(self, in_channels: int, multiple: int, head: Head) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.multiple = multiple
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities in [0, 1] or intensities, as the head says.

        Parameters
        ----------
        images : (batch, in_channels, height, width) tensor

        Returns
        -------
        (batch, out_channels, height, width) tensor
            Of the input's type; float32 where autocast computed in half precision.
        """
        logits = self.logits(images)
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        return torch.sigmoid(logits) if self.head == "probability" else logits

    def logits(self, images: Tensor) -> Tensor:
        """Return what `forward` returns, before its sigmoid: for losses that take logits."""
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise AnkleError(
                f"the network takes images of shape (batch, {self.in_channels}, height, width), "
                f"these have shape {tuple(images.shape)}"
            )
        height, width = images.shape[2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            images = functional.pad(images, (0, right, 0, below), mode="replicate")
        return self.body(images)[..., :height, :width]

    @abstractmethod
    def body(self, images: Tensor) -> Tensor:
        """Map images whose sides are multiples of ``multiple`` to logits of the same size."""


def convolution_norm_relu(
    in_channels: int, out_channels: int, *, bias: bool, size: int = 3
) -> nn.Sequential:
    """Return a convolution with filters of an odd ``size``, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained parameters, as the report's Table 6.1 counts them."""
    return sum(parameter.numel() for parameter in network.parameters())
