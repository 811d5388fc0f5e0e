"""The report's networks (its section 6.1): slices of any size in, maps of the same size out.

`build` makes them by name; below stands how they compute fastest.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.files import AnkleError, first_problem

Network = TypeVar("Network", bound=nn.Module)

Head = Literal["probability", "intensity"]

Channels = Annotated[int, Field(ge=1, le=64)]

STAGE_BLOCKS = (3, 4, 6, 3)
"""Blocks per stage of He et al. 2016 (34 and 50 layers); the report uses the first three."""

BOTTLENECK_EXPANSION = 4

REPORT_PARAMETERS = {
    "fcn": 390_609,
    "unet": 1_179_569,
    "resnet-basic": 8_161_729,
    "resnet-bottleneck": 8_535_489,
}
"""Parameters of each network with one input and one output (the report's Table 6.1)."""

NETWORKS = tuple(REPORT_PARAMETERS)


class Size(BaseModel):
    """The size of a network; the report's by default."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    in_channels: Channels = 1
    """Images per slice."""
    out_channels: Channels = 1
    """Maps per slice."""
    head: Head = "probability"
    """A sigmoid per output channel, for segmentation, or nothing, for reconstruction."""
    depth: Annotated[int, Field(ge=1, le=6)] = 4
    """Levels of resolution (of width for the FCN)."""
    width: Annotated[int, Field(ge=1, le=256)] = 16
    """Channels of the first level, doubled at every further one."""


class ResNetSize(Size):
    """The size of a ResNet, whose levels are stages."""

    depth: Annotated[int, Field(ge=1, le=len(STAGE_BLOCKS))] = 3
    width: Annotated[int, Field(ge=1, le=256)] = 64
    """Before a bottleneck's expansion."""
    stem: Literal[3, 5, 7, 9, 11, 13, 15] = 3
    """Rows and columns of the first filters. The report's have 3, He et al. 2016 have 7."""


class SliceNetwork(nn.Module, ABC):
    """A fully convolutional network for 2D slices.

    A subclass writes `body`. Inputs whose height or width is no multiple of ``multiple`` are
    continued beyond the lower and right border with their last row and column, and the result is
    cut back; other inputs pass unchanged.

    Parameters
    ----------
    size : Size
    multiple : int
        Heights and widths that `body` can halve and double again are multiples of this.

    Attributes
    ----------
    name, arguments
        What `build` made it from; checkpoints say so.
    """

    name: str = ""

    def __init__(self, size: Size, multiple: int) -> None:
        super().__init__()
        self.arguments = size.model_dump()
        self.in_channels = size.in_channels
        self.head = size.head
        self.multiple = multiple

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


class FCN(SliceNetwork):
    """Convolutions at full resolution that widen, then transposed ones that narrow.

    This is a reconstruction: the report only gives 390,609 parameters and a depth of 128 channels,
    and no source was found. Two 3×3 convolutions without bias, each with batch normalisation and
    ReLU, at 16, 32, 64 and 128 channels, three 3×3 transposed convolutions of stride 1 with bias
    down to 16, and a 1×1 convolution meet that count. ReLU after the transposed ones is our
    choice. A pixel sees 23×23 others at most, 6.4 mm of the report's static scan.
    """

    def __init__(self, size: Size) -> None:
        super().__init__(size, 1)
        channels = [size.width * 2**level for level in range(size.depth)]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([size.in_channels, *channels]):
            layers += [block(before, after), block(after, after)]
        for before, after in itertools.pairwise(channels[::-1]):
            layers += [nn.ConvTranspose2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv2d(size.width, size.out_channels, 1)

    def body(self, images: Tensor) -> Tensor:
        """Return logits; nothing is halved, so that every size is fine."""
        return self.last(self.layers(images))


class UNet(SliceNetwork):
    """Encoder, decoder, and skips between them; 1,179,569 parameters as in the report.

    Every level has three 3×3 convolutions with bias, batch normalisation and ReLU. Between levels
    stand a 2×2 max-pool on the way down and bilinear doubling, joined with the skip, on the way
    up. The lowest level has three more convolutions, the uppermost one more before the 1×1 head.
    The code of 2020 doubles bilinearly where the report speaks of transposed convolutions.
    """

    def __init__(self, size: Size) -> None:
        super().__init__(size, 2 ** (size.depth - 1))
        channels = [size.width * 2**level for level in range(size.depth)]
        self.down = nn.ModuleList(
            three_blocks(before, after)
            for before, after in itertools.pairwise([size.in_channels, *channels])
        )
        self.bottom = three_blocks(channels[-1], channels[-1])
        self.up = nn.ModuleList(
            three_blocks(below + skip, skip) for below, skip in itertools.pairwise(channels[::-1])
        )
        self.last = nn.Sequential(
            block(size.width, size.width, bias=True), nn.Conv2d(size.width, size.out_channels, 1)
        )

    def body(self, images: Tensor) -> Tensor:
        """Return logits of images whose sides can be halved ``depth - 1`` times."""
        skips, features = descend(self.down, images)
        features = self.bottom(features)
        return self.last(ascend(self.up, features, skips))


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
    size : ResNetSize
    bottleneck : bool
        Blocks of 1×1, 3×3 and 1×1 convolutions that expand the channels by 4.
    """

    def __init__(self, size: ResNetSize, bottleneck: bool) -> None:
        super().__init__(size, 2 ** (size.depth - 1))
        self.stem = block(size.in_channels, size.width, size.stem)
        before, blocks = size.width, []
        for stage, n_blocks in enumerate(STAGE_BLOCKS[: size.depth]):
            for number in range(n_blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Residual(before, size.width * 2**stage, stride, bottleneck))
                before = blocks[-1].out_channels
        self.stages = nn.Sequential(*blocks)
        self.last = nn.Conv2d(before, size.out_channels, 1)

    def body(self, images: Tensor) -> Tensor:
        """Return logits of images whose sides can be halved ``depth - 1`` times."""
        coarse = self.last(self.stages(self.stem(images)))
        return functional.interpolate(coarse, scale_factor=self.multiple, mode="bilinear")


class Residual(nn.Module):
    """ReLU of a path plus its input; the input is projected where the path changes its shape.

    A basic path has two 3×3 convolutions. In a bottleneck the 3×3 one strides, so that every pixel
    is seen.
    """

    def __init__(self, in_channels: int, inner: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            self.out_channels = inner * BOTTLENECK_EXPANSION
            path = [*block(in_channels, inner, 1), *block(inner, inner, 3, stride)]
            path += block(inner, self.out_channels, 1)
        else:
            self.out_channels = inner
            path = [*block(in_channels, inner, 3, stride), *block(inner, inner)]
        self.path = nn.Sequential(*path[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != self.out_channels:
            self.shortcut = block(in_channels, self.out_channels, 1, stride)[:-1]

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        return functional.relu(self.path(features) + self.shortcut(features))


def descend(levels: Iterable[nn.Module], features: Tensor) -> tuple[list[Tensor], Tensor]:
    """Go down a U-Net's levels: return what each but the last gives to its skip, and the last's."""
    skips: list[Tensor] = []
    for number, level in enumerate(levels):
        if number:
            skips.append(features)
            features = functional.max_pool2d(features, 2)
        features = level(features)
    return skips, features


def ascend(levels: Iterable[nn.Module], features: Tensor, skips: list[Tensor]) -> Tensor:
    """Go up a U-Net's levels, each of which takes the last skip that is left."""
    for level in levels:
        doubled = functional.interpolate(features, scale_factor=2, mode="bilinear")
        features = level(torch.cat([doubled, skips.pop()], dim=1))
    return features


def block(
    in_channels: int, out_channels: int, size: int = 3, stride: int = 1, *, bias: bool = False
) -> nn.Sequential:
    """Return a convolution with filters of an odd ``size``, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def three_blocks(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return three 3×3 convolutions with bias, each with batch normalisation and ReLU."""
    ends = ((in_channels, out_channels), (out_channels, out_channels), (out_channels, out_channels))
    return nn.Sequential(*(block(*channels, bias=True) for channels in ends))


def build(name: str, **size: Any) -> SliceNetwork:
    """Return a network with fresh weights (PyTorch's default initialisation).

    Parameters
    ----------
    name : str
        Of `NETWORKS`; "unet-by-modality" or "x-unet", see `modality_networks`; "unet-transformer",
        "basic-unet", "swin-unetr", "unetr", "mednext", "swin-unetr-identity" or "unetr-identity",
        see `attention_networks`.
    **size
        Of `Size`, `ResNetSize` or `attention_networks.WidthSize`.

    Raises
    ------
    AnkleError
        If there is no such network, or an argument is outside its range.

    Examples
    --------
    >>> build("unet", in_channels=3, out_channels=3)(torch.zeros(1, 3, 100, 100)).shape
    torch.Size([1, 3, 100, 100])
    """
    # they are made of the networks above
    from ankle_lib.learning import attention_networks as attention
    from ankle_lib.learning.modality_networks import UNetByModality, XUNet

    swin_identity = partial(attention.swin_unetr, attends=False)
    unetr_identity = partial(attention.unetr, attends=False)

    kinds: dict[str, tuple[Any, type[Size]]] = {
        "fcn": (FCN, Size),
        "unet": (UNet, Size),
        "resnet-basic": (partial(ResNet, bottleneck=False), ResNetSize),
        "resnet-bottleneck": (partial(ResNet, bottleneck=True), ResNetSize),
        "unet-by-modality": (UNetByModality, Size),
        "x-unet": (XUNet, Size),
        "unet-transformer": (attention.UNetTransformer, Size),
        **{
            name: (partial(kind_of, make=make), attention.WidthSize)
            for name, kind_of, make in (
                ("basic-unet", attention.MonaiNetwork, attention.basic_unet),
                ("swin-unetr", attention.MonaiNetwork, attention.swin_unetr),
                ("swin-unetr-identity", attention.MonaiNetwork, swin_identity),
                ("unetr", attention.Unetr, attention.unetr),
                ("unetr-identity", attention.Unetr, unetr_identity),
                ("mednext", attention.MonaiNetwork, attention.mednext),
            )
        },
    }
    if name not in kinds:
        raise AnkleError(f"there is no network {name!r}: choose one of {', '.join(kinds)}")
    kind, of_kind = kinds[name]
    try:
        network = kind(of_kind(**size))
    except ValidationError as error:
        raise AnkleError(f"{name}: {first_problem(error)}") from None
    network.name = name
    return network


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained parameters, as the report's Table 6.1 counts them."""
    return sum(parameter.numel() for parameter in network.parameters())


def is_fast_in_bfloat16(device_type: str) -> bool:
    """Tell whether a kind of device multiplies bfloat16 itself; else float32 is faster there.

    A GPU does from compute capability 8.0 on. A processor does if it can and if PyTorch uses all
    of it: ``ATEN_CPU_CAPABILITY=avx2`` makes it compute as older ones. PyTorch before 2.11 does
    not tell; float32 is right everywhere.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    uses_it = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return uses_it and bool(told.get("avx512_bf16"))


def fast_autocast(device: torch.device) -> torch.autocast:
    """Return the context in which a trained network computes fastest on a device.

    Convolutions then take bfloat16, of which 8 bits count, where the device is fast in it.
    """
    enabled = is_fast_in_bfloat16(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def ready_to_predict(network: Network, device: torch.device | str | None = None) -> Network:
    """Bring a network, in place, to a device and into evaluation mode, with channels last.

    Results differ from those of other layouts by rounding.
    """
    if device is not None:
        network.to(device)
    # the U-Net runs 1.6 times as fast on a CPU with channels last
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()
