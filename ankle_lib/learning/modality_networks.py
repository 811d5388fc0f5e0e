"""U-Nets for images of two modalities, which are told of each image what it is.

One channel more than the images says so: 0 or 1 everywhere. What the modalities share and what
each has for itself is all that the two networks differ in.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.learning.networks import Size, SliceNetwork, UNet, ascend, descend

N_MODALITIES = 2


class NormByModality(nn.Module):
    """Batch normalisation with statistics, scale and shift of each modality's own.

    Attributes
    ----------
    counts : list of int
        How many images of each modality the batch has, one modality after the other; whoever calls
        says so before.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(N_MODALITIES))
        self.counts: list[int] = []

    def forward(self, features: Tensor) -> Tensor:
        """Return the features (batch, channels, height, width), each normalised by its own norm."""
        parts = zip(self.norms, features.split(self.counts), strict=True)
        found = [norm(part) for norm, part in parts if len(part)]
        return found[0] if len(found) == 1 else torch.cat(found)


class _Told(SliceNetwork):
    """Sorts a batch by modality, and gives `body` the images without the channel that tells it."""

    counts: Sequence[int] = ()
    """How many images of each modality are in the batch, one modality after the other."""

    def logits(self, images: Tensor) -> Tensor:
        """Return logits; the last channel of the images is their modality, 0 or 1."""
        told = images[:, -1, 0, 0].round().int().tolist()
        self.counts = [told.count(modality) for modality in range(N_MODALITIES)]
        order = sorted(range(len(told)), key=told.__getitem__)
        if told == sorted(told):
            return super().logits(images)
        return super().logits(images[order])[sorted(range(len(order)), key=order.__getitem__)]


class UNetByModality(_Told, UNet):
    """The U-Net with all filters shared, and norms of each modality's own (Dou et al. 2020).

    Attributes
    ----------
    deepest : Tensor, optional
        In training, features of the lowest level (batch, channels, height, width), one modality
        after the other.
    """

    deepest: Tensor | None = None

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.in_channels += 1
        for module in [*self.modules()]:
            for name, child in [*module.named_children()]:
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, NormByModality(child.num_features))

    def body(self, images: Tensor) -> Tensor:
        """Return logits of sorted images, with their modality in the last channel."""
        for module in self.modules():
            if isinstance(module, NormByModality):
                module.counts = list(self.counts)
        skips, features = descend(self.down, images[:, :-1])
        features = self.bottom(features)
        self.deepest = features if self.training else None
        return self.last(ascend(self.up, features, skips))


class XUNet(_Told):
    """The U-Net with its upper levels once for each modality, the lower ones shared.

    The X-shape of Valindria et al. 2018: two ways in, a common middle, two ways out. Half of the
    levels are shared.
    """

    def __init__(self, size: Size) -> None:
        if size.depth < 2:
            raise AnkleError("x-unet: a depth of 1 leaves no level to share: give 2 or more")
        super().__init__(size, 2 ** (size.depth - 1))
        self.in_channels += 1
        whole = [UNet(size) for _ in range(N_MODALITIES)]
        own = size.depth // 2
        self.ways_in = nn.ModuleList(one.down[:own] for one in whole)
        self.ways_out = nn.ModuleList(one.up[len(one.up) - own :] for one in whole)
        self.lasts = nn.ModuleList(one.last for one in whole)
        self.down, self.bottom = whole[0].down[own:], whole[0].bottom
        self.up = whole[0].up[: len(whole[0].up) - own]

    def body(self, images: Tensor) -> Tensor:
        """Return logits of sorted images, with their modality in the last channel."""
        present = [m for m in range(N_MODALITIES) if self.counts[m]]
        counts = [self.counts[m] for m in present]
        parts = zip(present, images[:, :-1].split(counts), strict=True)
        entered = [descend(_levels(self.ways_in, m), part) for m, part in parts]
        halved = functional.max_pool2d(torch.cat([features for _, features in entered]), 2)
        skips, features = descend(self.down, halved)
        shared = ascend(self.up, self.bottom(features), skips).split(counts)
        found = []
        for m, middle, (own_skips, last_skip) in zip(present, shared, entered, strict=True):
            features = ascend(_levels(self.ways_out, m), middle, [*own_skips, last_skip])
            found.append(self.lasts[m](features))
        return torch.cat(found)


def _levels(ways: nn.ModuleList, modality: int) -> nn.ModuleList:
    """Return the levels of one modality."""
    levels = ways[modality]
    assert isinstance(levels, nn.ModuleList)
    return levels
