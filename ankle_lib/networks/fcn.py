"""The plain fully convolutional network of the report's section 6.1.1."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from ankle_lib.networks.base import Head, SliceNetwork, convolution_norm_relu


class FCN(SliceNetwork):
    """Convolutions at full resolution that widen, then transposed ones that narrow.

    This is a reconstruction: the report only gives 390,609 parameters and a depth of 128 channels,
    and no source was found. Two 3×3 convolutions without bias, each with batch normalisation and
    ReLU, at 16, 32, 64 and 128 channels, three 3×3 transposed convolutions of stride 1 with bias
    down to 16, and a 1×1 convolution meet that count. ReLU after the transposed ones is our
    choice. A pixel sees 23×23 others at most, 6.4 mm of the report's static scan.

    Parameters
    ----------
    in_channels, out_channels : int
    head : {"probability", "intensity"}
    depth : int
        Number of times that the channels double, plus one.
    width : int
        Channels of the first convolutions.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        head: Head = "probability",
        depth: int = 4,
        width: int = 16,
    ) -> None:
        super().__init__(in_channels, 1, head)
        channels = [width * 2**level for level in range(depth)]
        widening: list[nn.Module] = []
        for before, after in itertools.pairwise([in_channels, *channels]):
            widening.append(convolution_norm_relu(before, after, bias=False))
            widening.append(convolution_norm_relu(after, after, bias=False))
        narrowing: list[nn.Module] = []
        for before, after in itertools.pairwise(channels[::-1]):
            narrowing.append(nn.ConvTranspose2d(before, after, 3, padding=1))
            narrowing.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*widening, *narrowing)
        self.last = nn.Conv2d(width, out_channels, 1)

    def body(self, images: Tensor) -> Tensor:
        """Return logits; nothing is halved, so that every size is fine."""
        return self.last(self.layers(images))
