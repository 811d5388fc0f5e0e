"""Small networks that answer for every pixel of a plane, and what they are trained on.

A lesion's logit is the mean of the network's logits over the lesion's outline, so that one and the
same network segments, and tells the probability of a lesion.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib import cache
from ankle_lib.brain.signals import SEQUENCES
from ankle_lib.files import AnkleError, atomic_path
from ankle_lib.gadolinium.lesion_crops import LesionSet
from ankle_lib.gadolinium.oracle import PRIOR_LOG_ODDS
from ankle_lib.learning.optimisers import OPTIMIZERS

Dropout = Literal["none", "fixed", "learned"]
Task = Literal["lesion", "segmentation", "translation", "multitask"]

TASKS: tuple[Task, ...] = ("lesion", "segmentation", "translation", "multitask")
"""What is learnt: one answer per lesion; active voxels; how much brighter contrast agent makes
each voxel; active voxels and, beside them, all lesions."""

RATE = 0.2
"""Of the fixed dropout."""

KL_COEFFICIENTS = (0.63576, 1.87320, 1.48695)
"""Of an approximation of the divergence of variational dropout from its prior (Molchanov et al.
2017, arXiv:1701.05369)."""

CONTRAST = 3.0
"""Logarithmic images are multiplied by this: their spread is then about 1."""

IN_PLANE, IN_PLANE_UP = (1, 2, 2), (1.0, 2.0, 2.0)

GAIN_JITTER = 0.03
"""Standard deviation of what is added to each logarithmic image in training."""

RATES_TRIED = (3e-4, 1e-3, 3e-3, 1e-2)
FOLDS = 3
WARM_UP = 0.25


class LearnedNoise(nn.Module):
    """Variational dropout: multiplies channels by noise around 1 whose variance is learnt.

    With the log-uniform prior of Kingma et al. (2015, arXiv:1506.02557). That prior is improper,
    so the posterior is not one of Bayes' rule (Hron et al. 2018, arXiv:1807.01969): take it for
    what it is, noise that the data have chosen.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((channels,), -3.0))

    def forward(self, features: Tensor) -> Tensor:
        """Multiply in training mode; return (N, C, …) as it is otherwise."""
        if not self.training:
            return features
        spread = (self.log_alpha / 2).exp().reshape(1, -1, *[1] * (features.ndim - 2))
        shape = features.shape[:2] + (1,) * (features.ndim - 2)
        return features * (1 + spread * torch.randn(shape, device=features.device))

    def divergence(self) -> Tensor:
        """Return the divergence from the prior, up to a constant."""
        k1, k2, k3 = KL_COEFFICIENTS
        smooth = k1 * torch.sigmoid(k2 + k3 * self.log_alpha)
        return -(smooth - functional.softplus(-self.log_alpha) / 2 - k1).sum()


class LesionNetwork(nn.Module):
    """Two levels of resolution: planes (N, 3, 3, S, S) in, logits (N, out, 3, S, S) out.

    Sequences are the second axis, planes the third: planes share all filters and see nothing of
    each other. The outline of the lesion in question, (N, 3, S, S), is one more image. Before
    training every answer is ``begins_at``: what is known without images.
    """

    def __init__(
        self,
        width: int = 16,
        dropout: Dropout = "none",
        out_channels: int = 1,
        begins_at: float = PRIOR_LOG_ODDS,
    ) -> None:
        super().__init__()
        self.begins_at = begins_at
        self.fine = _block(len(SEQUENCES) + 1, width)
        self.noise = _noise(dropout, width)
        self.coarse = nn.Sequential(_block(width, 2 * width), _block(2 * width, 2 * width))
        self.deep_noise = _noise(dropout, 2 * width)
        self.joint = nn.Sequential(nn.Conv3d(3 * width, 2 * width, 1), nn.ReLU())
        self.last = nn.Conv3d(2 * width, out_channels, 1)
        for weights in self.last.parameters():
            nn.init.zeros_(weights)

    def forward(self, images: Tensor, outlines: Tensor) -> Tensor:
        """Return the logits."""
        known = torch.cat([CONTRAST * images, outlines[:, None].to(images.dtype)], 1)
        fine = self.noise(self.fine(known))
        deep = self.deep_noise(self.coarse(functional.avg_pool3d(fine, IN_PLANE)))
        wide = functional.interpolate(deep, scale_factor=IN_PLANE_UP)
        return self.begins_at + self.last(self.joint(torch.cat([fine, wide], 1)))


def _block(channels: int, out: int) -> nn.Module:
    conv = nn.Conv3d(channels, out, (1, 3, 3), padding=(0, 1, 1), bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(out), nn.ReLU())


def _noise(dropout: Dropout, channels: int) -> nn.Module:
    if dropout == "learned":
        return LearnedNoise(channels)
    return nn.Dropout3d(RATE) if dropout == "fixed" else nn.Identity()


def pooled(maps: Tensor, outlines: Tensor) -> Tensor:
    """Return the mean (N,) of maps (N, 3, S, S) over outlines (N, 3, S, S)."""
    weights = outlines.to(maps.dtype)
    return (maps * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=1)


# --- training ---


@dataclass(frozen=True)
class Plan:
    """How a network is made and trained."""

    steps: int
    width: int = 16
    batch: int = 32
    task: Task = "lesion"
    dropout: Dropout = "none"
    modality_dropout: bool = False
    """Whether sequences are blanked at random, so that any subset can be answered for."""
    rate: float = 3e-3
    """The largest learning rate; chapters choose it with `rate_trials`."""
    seed: int = 0

    def fresh(self) -> LesionNetwork:
        """Return the network before training."""
        if self.task not in TASKS:
            raise AnkleError(f"there is no task {self.task!r}: choose one of {', '.join(TASKS)}")
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            first = 0.0 if self.task == "translation" else PRIOR_LOG_ODDS
            return LesionNetwork(self.width, self.dropout, 1 + (self.task == "multitask"), first)


def train_once(plan: Plan, lesions: LesionSet, folder: Path, device: str = "cpu") -> LesionNetwork:
    """Train a network, or read its weights if that was done before; in evaluation mode.

    Parameters
    ----------
    plan : Plan
    lesions : LesionSet
        All that it learns from.
    folder : Path
        Of all trainings.
    device : str

    Raises
    ------
    AnkleError
        If there are no active, or no other lesions; if the loss is not finite.
    """
    settings = [plan, lesions.table["active"].tolist(), lesions.images, lesions.outlines]
    place = cache.folder_for(folder, plan.task, train_once, settings) / "weights.npz"
    network = plan.fresh()
    if not place.exists():
        _train(network.to(device), plan, lesions, device)
        with atomic_path(place) as temporary, open(temporary, "wb") as file:
            state = {name: one.cpu().numpy() for name, one in network.state_dict().items()}
            np.savez(file, **state)
    with np.load(place, allow_pickle=False) as stored:
        network.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    return network.to(device).eval()


def rate_trials(plan: Plan, lesions: LesionSet, folder: Path, device: str = "cpu") -> pd.DataFrame:
    """Try learning rates on training patients alone: each is held out once while others train.

    Parameters
    ----------
    plan, lesions, folder, device
        As of `train_once`; the plan's own rate does not matter.

    Returns
    -------
    DataFrame
        Columns rate, fold, patients (how many were held out) and loss: the mean cross-entropy of
        their lesions, in nats.

    Raises
    ------
    AnkleError
        If there are fewer patients than folds.
    """
    n_patients = lesions.table["patient"].nunique()
    if n_patients < FOLDS:
        raise AnkleError(
            f"{n_patients} patients train, and to try learning rates {FOLDS} are needed: each is "
            "held out once"
        )
    splitter = StratifiedGroupKFold(FOLDS)
    rows = []
    for fold, (rest, out) in enumerate(
        splitter.split(lesions.images, lesions.active, lesions.table["patient"])
    ):
        kept, held = lesions.chosen(rest), lesions.chosen(out)
        truth = torch.from_numpy(held.active.astype(np.float64))
        for rate in RATES_TRIED:
            network = train_once(replace(plan, rate=rate), kept, folder, device)
            logits = torch.from_numpy(scores(network, held, device=device))
            loss = functional.binary_cross_entropy_with_logits(logits, truth).item()
            patients = held.table["patient"].nunique()
            rows.append({"rate": rate, "fold": fold, "patients": patients, "loss": loss})
    return pd.DataFrame(rows)


def _train(network: LesionNetwork, plan: Plan, lesions: LesionSet, device: str) -> None:
    if lesions.active.all() or not lesions.active.any():
        raise AnkleError(
            f"{lesions.active.sum()} of {len(lesions)} lesions are active: to learn the difference "
            "a network needs both"
        )
    tensors = {
        "images": torch.from_numpy(lesions.images),
        "outlines": torch.from_numpy(lesions.outlines),
        "all": torch.from_numpy(lesions.all_lesions),
        "enhancement": torch.from_numpy(lesions.enhancement),
        "active": torch.from_numpy(lesions.active.astype(np.float32)),
    }
    optimizer = OPTIMIZERS["muon"](network.parameters(), plan.rate)
    generator = torch.Generator().manual_seed(plan.seed)
    noises = [one for one in network.modules() if isinstance(one, LearnedNoise)]
    network.train()
    with torch.random.fork_rng(["cuda"] if device == "cuda" else []):
        torch.manual_seed(plan.seed + 1)
        for step in range(plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * _schedule(step / plan.steps)
            batch = _draw(tensors, plan, generator)
            batch = {name: one.to(device) for name, one in batch.items()}
            loss = loss_of(plan.task, network(batch["images"], batch["outlines"]), batch)
            for noise in noises:
                loss = loss + noise.divergence() / len(lesions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not math.isfinite(loss.item()):
            raise AnkleError(
                f"the loss is {loss.item()} after {plan.steps} steps: check the images"
            )


def _schedule(done: float) -> float:
    """Rise over the first quarter, then fall to zero with a cosine."""
    if done < WARM_UP:
        return 0.05 + 0.95 * done / WARM_UP
    return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


def _draw(tensors: dict[str, Tensor], plan: Plan, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw lesions, mirror planes, change gains a little, blank sequences if the plan says so."""
    n = len(tensors["active"])
    chosen = torch.randint(n, (min(plan.batch, n),), generator=generator)
    batch = {name: one[chosen] for name, one in tensors.items()}
    axes = [axis for axis in (-2, -1) if torch.rand((), generator=generator) < 0.5]
    if axes:
        batch = {name: one.flip(axes) if one.ndim > 1 else one for name, one in batch.items()}
    images = batch["images"].float()
    size = (*images.shape[:2], 1, 1, 1)
    images = images + GAIN_JITTER * torch.randn(size, generator=generator) * (images != 0)
    if plan.modality_dropout:
        kept = torch.rand(images.shape[:2], generator=generator) < 0.6
        rescued = torch.randint(images.shape[1], (len(images),), generator=generator)
        kept[torch.arange(len(images)), rescued] |= ~kept.any(1)  # at least one is seen
        images = images * kept[:, :, None, None, None]
    return batch | {"images": images}


def loss_of(task: Task, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of a batch.

    What is learnt voxel by voxel is averaged over lesions and over everything else apart, or the
    few voxels of lesions would not count.
    """
    if task == "lesion":
        logit = pooled(output[:, 0], batch["outlines"])
        return functional.binary_cross_entropy_with_logits(logit, batch["active"])
    own = batch["outlines"]
    if task == "translation":
        return _two_means((output[:, 0] - batch["enhancement"]) ** 2, own, ~own)
    target = own * batch["active"][:, None, None, None]
    ignored = batch["all"] & ~own  # other lesions: active or not, they have planes of their own
    errors = functional.binary_cross_entropy_with_logits(output[:, 0], target, reduction="none")
    loss = _two_means(errors, own, ~own & ~ignored)
    if task == "multitask":
        every = batch["all"].float()
        outline = functional.binary_cross_entropy_with_logits(output[:, 1], every, reduction="none")
        loss = loss + _two_means(outline, batch["all"], ~batch["all"])
    return loss


def _two_means(errors: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return pooled(errors, first).mean() + pooled(errors, second).mean()


# --- answers ---


@contextmanager
def only_dropout_trains(network: nn.Module) -> Iterator[None]:
    """Put the dropout layers into training mode, and nothing else: norms keep what they learnt."""
    network.eval()
    for module in network.modules():
        if isinstance(module, LearnedNoise | nn.Dropout3d):
            module.train()
    try:
        yield
    finally:
        network.eval()


def scores(
    network: LesionNetwork,
    lesions: LesionSet,
    *,
    draws: int = 0,
    blank: tuple[int, ...] = (),
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Return the logit of each lesion (N,), or ``draws`` of them with dropout (draws, N).

    Parameters
    ----------
    blank : tuple of int
        Sequences that the network does not get to see.
    """
    with torch.inference_mode():
        if not draws:
            network.eval()
            return _answers(network, lesions, blank, device)
        with torch.random.fork_rng([]), only_dropout_trains(network):
            torch.manual_seed(0)
            return np.stack([_answers(network, lesions, blank, device) for _ in range(draws)])


def _answers(
    network: nn.Module, lesions: LesionSet, blank: tuple[int, ...], device: str
) -> NDArray[np.float64]:
    found = []
    for first in range(0, len(lesions), 128):
        part = slice(first, first + 128)
        images = torch.from_numpy(lesions.images[part]).clone()
        images[:, list(blank)] = 0
        outlines = torch.from_numpy(lesions.outlines[part])
        output = network(images.to(device), outlines.to(device))[:, 0].cpu()
        found.append(pooled(output, outlines))
    return torch.cat(found).double().numpy() if found else np.zeros(0)
