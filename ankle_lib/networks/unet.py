"""The U-Net of the report's section 6.1.2."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.networks.base import Head, SliceNetwork, convolution_norm_relu


class UNet(SliceNetwork):
    """Encoder, decoder, and skips between them; 1,179,569 parameters as in the report.

    Every level has three 3×3 convolutions with bias, batch normalisation and ReLU. Between levels
    stand a 2×2 max-pool on the way down and bilinear doubling, joined with the skip, on the way
    up. The lowest level has three more convolutions, the uppermost one more before the 1×1 head.
    The code of 2020 doubles bilinearly where the report speaks of transposed convolutions.

    Parameters
    ----------
    in_channels, out_channels : int
    head : {"probability", "intensity"}
    depth : int
        Number of levels.
    width : int
        Channels of the uppermost level; each level below has twice as many.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        head: Head = "probability",
        depth: int = 4,
        width: int = 16,
    ) -> None:
        super().__init__(in_channels, 2 ** (depth - 1), head)
        channels = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(
            three_convolutions(before, after)
            for before, after in itertools.pairwise([in_channels, *channels])
        )
        self.bottom = three_convolutions(channels[-1], channels[-1])
        self.up = nn.ModuleList(
            three_convolutions(below + skip, skip)
            for below, skip in itertools.pairwise(channels[::-1])
        )
        self.last = nn.Sequential(
            convolution_norm_relu(width, width, bias=True), nn.Conv2d(width, out_channels, 1)
        )

    def body(self, images: Tensor) -> Tensor:
        """Return logits of images whose sides can be halved ``depth - 1`` times."""
        skips: list[Tensor] = []
        features = self.down[0](images)
        for level in self.down[1:]:
            skips.append(features)
            features = level(functional.max_pool2d(features, 2))
        features = self.bottom(features)
        for level in self.up:
            doubled = functional.interpolate(features, scale_factor=2, mode="bilinear")
            features = level(torch.cat([doubled, skips.pop()], dim=1))
        return self.last(features)


def three_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return three 3×3 convolutions with bias, each with batch normalisation and ReLU."""
    return nn.Sequential(
        convolution_norm_relu(in_channels, out_channels, bias=True),
        convolution_norm_relu(out_channels, out_channels, bias=True),
        convolution_norm_relu(out_channels, out_channels, bias=True),
    )
