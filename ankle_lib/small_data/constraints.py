"""What is known of an answer besides its labels: bones do not meet, and they look like bones.

Each constraint is a penalty beside the loss of a training (`training.train_once`), and each has its
measure, so that its own effect can be told. The gap constraint and that on the code of a shape are
those of Boutillon et al. for children's ankles (arXiv 2009.07092, 2101.10173, 2207.13502), written
for one sigmoid per bone: a softmax would rule overlap out, and with it the question.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib import cache
from ankle_lib.learning.scans import Scan, patch_source
from ankle_lib.metrics import dice, joint_gap_mm
from ankle_lib.patches.source import Augmentation, Batch
from ankle_lib.presets import BONES

Mask = NDArray[np.bool_]
Masks = Mapping[str, Mask]

JOINTS = {"talocrural": ("talus", "tibia"), "subtalar": ("talus", "calcaneus")}

GAP_WEIGHT, SHAPE_WEIGHT = 1.0, 0.3
"""Beside a cross-entropy and a Dice; set once, on no child that is scored."""
CODE = 32
"""Numbers that a patch of labels is squeezed into."""
SHAPE_BATCH, SHAPE_RATE = 16, 2e-3


@dataclass(frozen=True)
class GapPenalty:
    """Bones that overlap, or come nearer than the labels ever do.

    The sum of p_a · dilate_r(p_b) over all pixels and pairs of bones, over the sum of p.
    """

    pixels: int
    """r: bones of the training children are never so close within a slice."""
    weight: float = GAP_WEIGHT

    def __call__(self, network: nn.Module | None, logits: Tensor, batch: Batch) -> Tensor:
        """Return the penalty of a batch, see `training.Penalty`."""
        p = torch.sigmoid(logits)
        wide = functional.max_pool2d(p, 2 * self.pixels + 1, stride=1, padding=self.pixels)
        pairs = itertools.permutations(range(p.shape[1]), 2)
        together = sum((p[:, a] * wide[:, b]).sum() for a, b in pairs)
        return self.weight * together / (p.sum() + 1.0)


def smallest_gap_pixels(scans: Sequence[Scan], most: int = 3) -> int:
    """Return the largest r, in pixels, by which no bone of the scans can grow and meet another."""
    for pixels in range(1, most + 1):
        square = np.ones((2 * pixels + 1, 2 * pixels + 1, 1), bool)
        for scan in scans:
            masks = [mask for mask in scan.item.labels.values() if mask.any()]
            for a, b in itertools.combinations(masks, 2):
                if (ndimage.binary_dilation(a, square) & b).any():
                    return pixels - 1
    return most


def _auto_encoder(pixels: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return what maps patches (n, 3, h, w) of labels to codes (n, CODE), and what maps back."""
    side = -(-pixels // 8)
    encoder = nn.Sequential(
        nn.Conv2d(len(BONES), 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * side**2, CODE),
    )  # fmt: skip
    return encoder, nn.Sequential(
        nn.Linear(CODE, 16 * side**2), nn.ReLU(), nn.Unflatten(1, (16, side, side)),
        nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 8, 4, 2, 1),
        nn.ReLU(), nn.ConvTranspose2d(8, len(BONES), 4, 2, 1),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ShapePenalty:
    """Distance of the codes of answer and label under a frozen encoder; see `learn_shapes`."""

    pixels: int
    weights: tuple[NDArray[np.float32], ...]
    """Of the encoder, layer by layer."""
    spread: float
    """Mean squared distance of the codes of two labels: what a wrong shape costs."""
    weight: float = SHAPE_WEIGHT

    def __call__(self, network: nn.Module | None, logits: Tensor, batch: Batch) -> Tensor:
        """Return the penalty of a batch, see `training.Penalty`; unknown labels do not count."""
        known = batch.valid.all(dim=1).to(logits.dtype)
        encoder = self._frozen().to(logits.device)
        apart = (encoder(torch.sigmoid(logits)) - encoder(batch.target)).square().sum(dim=1)
        return self.weight / self.spread * (apart * known).sum() / known.sum().clamp_min(1.0)

    def _frozen(self) -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            encoder = _auto_encoder(self.pixels)[0].requires_grad_(False)
        for parameter, values in zip(encoder.parameters(), self.weights, strict=True):
            parameter.copy_(torch.from_numpy(values))
        return encoder


def learn_shapes(
    scans: Sequence[Scan], pixels: int, steps: int, augmentation: Augmentation, record: Path
) -> tuple[ShapePenalty, float]:
    """Train a small auto-encoder on patches of labels, once.

    Parameters
    ----------
    scans : sequence of Scan
        With all labels; of the source domain, where labels cost nothing.
    pixels, steps : int
        Of a patch; of 16 patches.
    augmentation : Augmentation
        Of the patches that the penalty will see.
    record : Path
        Where the weights are remembered.

    Returns
    -------
    ShapePenalty
    dice : float
        Of patches and what their codes keep of them.
    """
    work = partial(_learnt_shapes, scans, pixels, steps, augmentation)
    settings = [[scan.checksum for scan in scans], pixels, steps, augmentation]
    weights, spread, kept = cache.remembered(record, work, settings=settings)
    arrays = tuple(np.asarray(one, dtype=np.float32) for one in weights)
    return ShapePenalty(pixels, arrays, spread), kept


def _learnt_shapes(
    scans: Sequence[Scan], pixels: int, steps: int, augmentation: Augmentation
) -> list[Any]:
    source = patch_source(scans, BONES, pixels, 0.2)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, decoder = _auto_encoder(pixels)
    both = nn.ModuleList([encoder, decoder])
    optimizer = torch.optim.Adam(both.parameters(), SHAPE_RATE)
    for _ in range(steps):
        target = source.draw(SHAPE_BATCH, generator, augmentation).target
        made = decoder(encoder(target))[..., :pixels, :pixels]
        loss = functional.binary_cross_entropy_with_logits(made, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        target = source.draw(8 * SHAPE_BATCH, generator, augmentation).target
        codes = encoder(target)
        spread = float((codes - codes.roll(1, 0)).square().sum(dim=1).mean())
        kept = dice((decoder(codes)[..., :pixels, :pixels] > 0).numpy(), (target > 0.5).numpy())
    return [[one.detach().numpy() for one in encoder.parameters()], max(spread, 1e-6), kept]


# --- measures ---


def gap_scores(found: Masks, truth: Masks, sizes: Sequence[float]) -> dict[str, float]:
    """Return gap_error_mm (mean over joints) and each joint's gap, found and true."""
    row: dict[str, float] = {}
    errors = []
    for joint, (a, b) in JOINTS.items():
        gaps = [joint_gap_mm(masks[a], masks[b], sizes) for masks in (found, truth)]
        row |= {f"{joint}_gap_mm": gaps[0], f"{joint}_true_gap_mm": gaps[1]}
        errors.append(abs(gaps[0] - gaps[1]))
    return row | {"gap_error_mm": float(np.mean(errors))}
