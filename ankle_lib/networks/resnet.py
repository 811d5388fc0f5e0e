"""The residual networks of the report's section 6.1.3."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.networks.base import Head, SliceNetwork, convolution_norm_relu

STAGE_BLOCKS = (3, 4, 6, 3)
"""Blocks per stage of He et al. 2016 (34 and 50 layers); the report uses the first three."""

BOTTLENECK_EXPANSION = 4


class ResNet(SliceNetwork):
    """Residual stages of falling resolution, then one bilinear enlargement.

    A 3×3 stem, three stages with 3, 4 and 6 blocks at 64, 128 and 256 channels of which the second
    and third halve the resolution, and a 1×1 head: 8,161,729 parameters with basic blocks,
    8,535,489 with bottlenecks, as in the report.

    The report enlarges by 4 and then applies the 1×1 head. Both are linear and the weights of the
    enlargement sum to 1, so they commute: here the head comes first, which gives the same numbers
    with a fraction of the memory. It also shows that the output is a 4 times coarser image,
    smoothly enlarged, whatever the weights.

    Parameters
    ----------
    in_channels, out_channels : int
    head : {"probability", "intensity"}
    depth : int
        Number of stages, 1 to 4.
    width : int
        Channels of the stem and of the first stage (before a bottleneck's expansion).
    stem : int
        Rows and columns of the stem's filters; odd. The report's has 3, He et al. 2016 have 7.
    bottleneck : bool
        Blocks of 1×1, 3×3 and 1×1 convolutions that expand the channels by 4.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        head: Head = "probability",
        depth: int = 3,
        width: int = 64,
        stem: int = 3,
        *,
        bottleneck: bool = False,
    ) -> None:
        super().__init__(in_channels, 2 ** (depth - 1), head)
        self.stem = convolution_norm_relu(in_channels, width, bias=False, size=stem)
        block = bottleneck_path if bottleneck else basic_path
        before, blocks = width, []
        for stage, n_blocks in enumerate(STAGE_BLOCKS[:depth]):
            inner = width * 2**stage
            after = inner * BOTTLENECK_EXPANSION if bottleneck else inner
            for number in range(n_blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Residual(block(before, inner, stride), before, after, stride))
                before = after
        self.stages = nn.Sequential(*blocks)
        self.last = nn.Conv2d(before, out_channels, 1)

    def body(self, images: Tensor) -> Tensor:
        """Return logits of images whose sides can be halved ``depth - 1`` times."""
        coarse = self.last(self.stages(self.stem(images)))
        return functional.interpolate(coarse, scale_factor=self.multiple, mode="bilinear")


class Residual(nn.Module):
    """ReLU of a path plus its input; the input is projected where the path changes its shape."""

    def __init__(
        self, path: nn.Sequential, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.path = path
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(*norm_convolution(in_channels, out_channels, 1, stride))

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        return functional.relu(self.path(features) + self.shortcut(features))


def basic_path(in_channels: int, inner: int, stride: int) -> nn.Sequential:
    """Return two 3×3 convolutions with batch normalisation, ReLU between them."""
    return nn.Sequential(
        *norm_convolution(in_channels, inner, 3, stride),
        nn.ReLU(inplace=True),
        *norm_convolution(inner, inner, 3),
    )


def bottleneck_path(in_channels: int, inner: int, stride: int) -> nn.Sequential:
    """Return 1×1, 3×3 and 1×1 convolutions; the 3×3 one strides, so that every pixel is seen."""
    return nn.Sequential(
        *norm_convolution(in_channels, inner, 1),
        nn.ReLU(inplace=True),
        *norm_convolution(inner, inner, 3, stride),
        nn.ReLU(inplace=True),
        *norm_convolution(inner, inner * BOTTLENECK_EXPANSION, 1),
    )


def norm_convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return a convolution without bias and its batch normalisation."""
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out_channels)
