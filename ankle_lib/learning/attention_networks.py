"""Networks in which every place of a slice can look at every other: attention beside convolution.

The U-Net transformer is the course's own, written to be read; the others are MONAI's, in 2D. A
name that ends in ``-identity`` is that network with its transformer blocks replaced by nothing.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.learning.networks import Size, SliceNetwork, UNet, descend

HEADS = 4
"""Attentions side by side, each with its part of the channels."""

WAVELENGTH = 100.0
"""Pixels of a level; the longest wave of a position's code is 2π times as long."""

TOKEN_PIXELS = 16
"""Side of the squares that UNETR cuts a slice into."""

UNETR_GRID = 6
"""Squares along each side of a slice for which UNETR learns positions; others lie in between."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int = HEADS) -> Tensor:
    """Return for each query the mean of all values, weighted by how well their keys fit it.

    The weights of a query are softmax(query · key / √d) over all keys, where d is the number of
    channels of a head (Vaswani et al. 2017, arXiv:1706.03762).

    Parameters
    ----------
    queries : (batch, n, channels) tensor
    keys : (batch, m, channels) tensor
    values : (batch, m, other_channels) tensor
    heads : int
        Divides both numbers of channels.

    Returns
    -------
    (batch, n, other_channels) tensor
    """
    q, k, v = (rearrange(one, "b n (h c) -> b h n c", h=heads) for one in (queries, keys, values))
    weighted = functional.scaled_dot_product_attention(q, k, v)
    return rearrange(weighted, "b h n c -> b n (h c)")


def positions(channels: int, rows: int, columns: int) -> Tensor:
    """Return sines and cosines that tell each place of a grid, shape (1, channels, rows, columns).

    The first half of the channels tells the row, the second half the column. Attention does not
    know where its tokens lie but for them.
    """
    waves = max(1, channels // 4)
    rates = WAVELENGTH ** -(torch.arange(waves) / waves)
    codes = []
    for n in (rows, columns):
        angles = rates[:, None] * torch.arange(n)
        codes.append(torch.cat([angles.sin(), angles.cos()]))
    row, column = codes
    grid = torch.cat(
        [
            row[:, :, None].expand(-1, -1, columns),
            column[:, None, :].expand(-1, rows, -1),
        ]
    )
    missing = channels - len(grid)
    return functional.pad(grid, (0, 0, 0, 0, 0, max(missing, 0)))[None, :channels]


class SelfAttention(nn.Module):
    """Each place of the lowest level adds what it draws from all others.

    Parameters
    ----------
    channels : int
        A multiple of `HEADS`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.ask, self.offer, self.give = (nn.Linear(channels, channels) for _ in range(3))
        self.out = nn.Linear(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (batch, channels, rows, columns) of the same shape."""
        rows, columns = features.shape[2:]
        placed = features + positions(features.shape[1], rows, columns).to(features)
        tokens = self.norm(rearrange(placed, "b c h w -> b (h w) c"))
        found = self.out(attend(self.ask(tokens), self.offer(tokens), self.give(tokens)))
        return features + rearrange(found, "b (h w) c -> b c h w", h=rows)


class CrossAttention(nn.Module):
    """A skip is let through where the level below, which has seen more, asks for it.

    Queries and keys come from below, values from the skip, brought to the grid below. What comes
    out, enlarged and between 0 and 1, multiplies the skip (Petit et al. 2021, arXiv:2103.06104).

    Parameters
    ----------
    below, skip : int
        Channels, multiples of `HEADS`.
    """

    def __init__(self, below: int, skip: int) -> None:
        super().__init__()
        self.norm_below, self.norm_skip = nn.LayerNorm(below), nn.LayerNorm(skip)
        self.ask, self.offer = nn.Linear(below, skip), nn.Linear(below, skip)
        self.give, self.out = nn.Linear(skip, skip), nn.Linear(skip, skip)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """Return the skip (batch, channels, rows, columns), each value times 0 to 1.

        ``below`` has half as many rows and columns.
        """
        rows, columns = below.shape[2:]
        placed = below + positions(below.shape[1], rows, columns).to(below)
        deep = self.norm_below(rearrange(placed, "b c h w -> b (h w) c"))
        own = rearrange(functional.max_pool2d(skip, 2), "b c h w -> b (h w) c")
        found = attend(self.ask(deep), self.offer(deep), self.give(self.norm_skip(own)))
        gate = torch.sigmoid(rearrange(self.out(found), "b (h w) c -> b c h w", h=rows))
        return skip * functional.interpolate(gate, scale_factor=2, mode="bilinear")


class UNetTransformer(UNet):
    """The course's U-Net with self-attention at the bottom and cross-attention in the skips.

    After Petit et al. 2021. The uppermost skip stays as it is: its grid below has as many places
    as a quarter of the slice has pixels, and attention compares each with each. Without its
    attention this is the U-Net, which so is its identity test.
    """

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        channels = [size.width * 2**level for level in range(size.depth)]
        self.self_attention = SelfAttention(channels[-1])
        # from the bottom up, as `up` has its levels
        self.gates = nn.ModuleList(
            CrossAttention(channels[level + 1], channels[level])
            for level in range(size.depth - 2, 0, -1)
        )

    def body(self, images: Tensor) -> Tensor:
        """Return logits of images whose sides can be halved ``depth - 1`` times."""
        skips, features = descend(self.down, images)
        features = self.self_attention(self.bottom(features))
        for number, level in enumerate(self.up):
            skip = skips.pop()
            if number < len(self.gates):
                skip = self.gates[number](skip, features)
            doubled = functional.interpolate(features, scale_factor=2, mode="bilinear")
            features = level(torch.cat([doubled, skip], dim=1))
        return self.last(features)


# --- MONAI's networks ---


class WidthSize(Size):
    """The size of a network that MONAI makes, whose levels are fixed."""

    depth: Literal[5] = 5


class MonaiNetwork(SliceNetwork):
    """A network of MONAI in 2D, with the input and output of the course's.

    At a width of 8 they have between half a million and two million parameters; at 16 BasicUNet,
    SwinUNETR and MedNeXt have MONAI's usual widths.

    Parameters
    ----------
    size : WidthSize
    make : callable
        Makes MONAI's network of that size.
    """

    def __init__(self, size: WidthSize, make: Callable[[WidthSize], nn.Module]) -> None:
        super().__init__(size, 32)
        self.network = make(size)

    def body(self, images: Tensor) -> Tensor:
        """Return logits of images whose sides are multiples of 32."""
        logits: Tensor = self.network(images)
        return logits


class Unetr(MonaiNetwork):
    """MONAI's UNETR, for slices of any size: the codes of positions are interpolated."""

    def body(self, images: Tensor) -> Tensor:
        """Return logits of images whose sides are multiples of 32."""
        name = "vit.patch_embedding.position_embeddings"
        learnt: Tensor = self.network.get_parameter(name)
        rows, columns = (length // TOKEN_PIXELS for length in images.shape[2:])
        learnt_grid = rearrange(learnt, "b (h w) c -> b c h w", h=UNETR_GRID)
        grid = functional.interpolate(learnt_grid, (rows, columns), mode="bilinear")
        here = rearrange(grid, "b c h w -> b (h w) c")
        # MONAI lays its tokens out on the grid of the size that it was made for
        setattr(self.network, "proj_view_shape", [rows, columns, learnt.shape[2]])  # noqa: B010
        logits: Tensor = torch.func.functional_call(self.network, {name: here}, (images,))
        return logits


class Nothing(nn.Module):
    """Gives what it is given first: what a transformer block is replaced by."""

    def forward(self, tokens: Tensor, *_: object) -> Tensor:
        """Return the tokens."""
        return tokens


def basic_unet(size: WidthSize) -> nn.Module:
    """Return MONAI's BasicUNet."""
    # MONAI takes seconds to import, and only its networks need it
    from monai.networks.nets.basic_unet import BasicUNet

    first = 2 * size.width
    features = (first, first, 2 * first, 4 * first, 8 * first, first)
    return BasicUNet(2, size.in_channels, size.out_channels, features)


def swin_unetr(size: WidthSize, attends: bool = True) -> nn.Module:
    """Return MONAI's SwinUNETR (Hatamizadeh et al. 2022), with or without transformer blocks."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    features = 12 * math.ceil(size.width / 8)
    with torch.device("cpu"):  # it computes with numbers that the meta device does not have
        network = SwinUNETR(
            size.in_channels, size.out_channels, feature_size=features, spatial_dims=2
        )
    if not attends:
        for number in range(1, 5):
            for layer in getattr(network.swinViT, f"layers{number}"):
                layer.blocks = nn.ModuleList(Nothing() for _ in layer.blocks)
    return network


def unetr(size: WidthSize, attends: bool = True) -> nn.Module:
    """Return MONAI's UNETR (Hatamizadeh et al. 2022), with or without transformer blocks."""
    from monai.networks.nets.unetr import UNETR

    network = UNETR(
        size.in_channels,
        size.out_channels,
        (UNETR_GRID * TOKEN_PIXELS,) * 2,
        feature_size=size.width,
        hidden_size=12 * size.width,
        mlp_dim=48 * size.width,
        num_heads=6,
        spatial_dims=2,
    )
    if not attends:
        network.vit.blocks = nn.ModuleList(Nothing() for _ in network.vit.blocks)
    return network


def mednext(size: WidthSize) -> nn.Module:
    """Return MONAI's MedNeXt (Roy et al. 2023), a convolutional network built as transformers."""
    from monai.networks.nets.mednext import MedNeXt

    return MedNeXt(2, 2 * size.width, size.in_channels, size.out_channels)
