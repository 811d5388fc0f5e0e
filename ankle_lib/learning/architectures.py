"""The report's networks (its section 6.1): slices of any size in, maps of the same size out."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.files import AnkleError

Head = Literal["probability", "intensity"]

STAGE_BLOCKS = (3, 4, 6, 3)
"""Blocks per stage of He et al. 2016 (34 and 50 layers); the report uses the first three."""

BOTTLENECK_EXPANSION = 4


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

    Attributes
    ----------
    name, arguments
        What `networks.build` made it from; checkpoints say so.
    """

    name: str = ""
    arguments: dict[str, Any]

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
