"""What is added to the loss of a network for two modalities, so that they learn from each other.

Both penalties are `training.Penalty`: they take the network, its logits and the batch, whose
images tell their modality in the last channel.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ankle_lib.learning.modality_networks import N_MODALITIES, UNetByModality
from ankle_lib.learning.networks import SliceNetwork
from ankle_lib.patches.source import Batch
from ankle_lib.presets import BONES

CLASSES = ("no bone", *BONES)

TEMPERATURE, DISTILLATION_WEIGHT = 2.0, 0.5
SMALLEST_COUNT = 1e-6
"""All three as Dou et al. 2020 have them."""

CONTRAST_TEMPERATURE, CONTRAST_WEIGHT = 0.1, 0.1
"""The first is that of Khosla et al. 2020 (arXiv:2004.11362), the second our choice."""


def modality_of(batch: Batch) -> Tensor:
    """Return the modality of each image, (n,) int64: 0 or 1."""
    return batch.image[:, -1, 0, 0].round().long()


def class_relations(
    logits: Tensor, target: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a network thinks, on average, of the pixels of each class.

    For each class c the logits z of its pixels y_c are averaged, z_c = Σ y_c z / (Σ y_c + 1e-6),
    and softened, q_c = softmax(z_c / 2) (Dou et al., IEEE Trans. Med. Imaging 2020,
    doi:10.1109/TMI.2019.2963882). Here the logit of "no bone" is 0, which is what a sigmoid
    compares the others with.

    Parameters
    ----------
    logits : (n, bones, h, w) tensor
    target : (n, bones, h, w) tensor
        1 where the bone is, else 0.
    counted : (n,) tensor, optional
        1 for the images that count, 0 for others; by default all do.

    Returns
    -------
    relations : (classes, classes) tensor
        Row c is q_c; classes as in `CLASSES`.
    present : (classes,) bool tensor
        Whether there is a pixel of the class. Where there is none, its row says nothing: all
        classes are alike in it.

    Examples
    --------
    >>> q, present = class_relations(network.logits(batch.image), batch.target)
    """
    background = torch.zeros_like(logits[:, :1])
    values = torch.cat([background, logits], dim=1)
    none = (1 - target.sum(1, keepdim=True)).clamp_min(0)
    masks = torch.cat([none, target], dim=1)
    if counted is not None:
        masks = masks * counted.to(masks.dtype)[:, None, None, None]
    counts = masks.sum((0, 2, 3))
    means = torch.einsum("nchw,nkhw->ck", masks, values) / (counts + SMALLEST_COUNT)[:, None]
    return torch.softmax(means / TEMPERATURE, dim=1), counts > 0


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of both Kullback-Leibler divergences of each row.

    Parameters
    ----------
    first, second : (classes, classes) tensors
        Probabilities, none of them 0.
    """
    return ((first - second) * (first.log() - second.log())).sum(1) / 2


def relations_apart(logits: Tensor, target: Tensor, modality: Tensor) -> Tensor:
    """Return how far the two modalities are apart in their class relations.

    The mean over classes of the symmetric divergence. A class that one of the modalities does not
    show in this batch is left out; the published code counts it, with a row of equal
    probabilities, and so pulls the other modality's row towards saying nothing. 0 if no class is
    shown by both.

    Parameters
    ----------
    logits, target : (n, bones, h, w) tensors
    modality : (n,) tensor
    """
    (first, shown), (second, also_shown) = (
        class_relations(logits, target, modality == one) for one in range(N_MODALITIES)
    )
    both = shown & also_shown
    return torch.where(both, symmetric_divergence(first, second), 0.0).sum() / both.sum().clamp(1)


def distillation(network: SliceNetwork, logits: Tensor, batch: Batch) -> Tensor:
    """Return the penalty of Dou et al.: 0.5 times `relations_apart`."""
    return DISTILLATION_WEIGHT * relations_apart(logits, batch.target, modality_of(batch))


def contrast(network: SliceNetwork, logits: Tensor, batch: Batch) -> Tensor:
    """Return the contrastive penalty on the network's deepest features.

    Each image is one direction: its features, averaged over the image. Directions of one modality
    are to be near, those of the other far (Boutillon et al. 2021, arXiv:2105.10310, for joints
    instead of modalities; the loss is that of Khosla et al. 2020). They project the features by a
    further layer first, which is left out here.
    """
    assert isinstance(network, UNetByModality)
    assert network.deepest is not None  # in training it is there
    directions = functional.normalize(network.deepest.float().mean((2, 3)), dim=1)
    modality = modality_of(batch).sort().values  # the features are sorted
    return CONTRAST_WEIGHT * supervised_contrast(directions, modality)


def supervised_contrast(directions: Tensor, labels: Tensor) -> Tensor:
    """Return the supervised contrastive loss (Khosla et al. 2020, its equation 2).

    Parameters
    ----------
    directions : (n, channels) tensor
        Of length 1.
    labels : (n,) tensor
        Images of one label belong together; one that is alone with its label is left out.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    likeness = (directions @ directions.T / CONTRAST_TEMPERATURE).masked_fill(itself, -torch.inf)
    surprise = likeness.logsumexp(1, keepdim=True) - likeness
    together = (labels[:, None] == labels) & ~itself
    n_together = together.sum(1)
    each = torch.where(together, surprise, 0.0).sum(1) / n_together.clamp_min(1)
    return each.sum() / (n_together > 0).sum().clamp_min(1)
