"""How a network is made and trained: the report's recipe, and others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch

from ankle_lib.files import AnkleError
from ankle_lib.learning.architectures import Head, SliceNetwork
from ankle_lib.learning.losses import LOSSES, SEGMENTATION_LOSSES
from ankle_lib.learning.networks import build
from ankle_lib.learning.optimisers import OPTIMIZERS
from ankle_lib.patches.source import Augmentation
from ankle_lib.presets import BONES

Schedule = Literal["constant", "linear", "cosine", "one-cycle"]

WARM_UP = 0.3
"""Part of a one-cycle schedule in which the learning rate rises (Smith and Topin 2018)."""

FIRST_RATE = 0.04
"""Of the largest rate, at the beginning of a one-cycle schedule; PyTorch's default is 1 / 25."""

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value can be used, and what to give instead of one that cannot."""


def _whole(least: int) -> Rule:
    return lambda value: type(value) is int and value >= least, f"a whole number, {least} or more"


def _one_of(known: Mapping[str, Any] | tuple[str, ...]) -> Rule:
    return lambda value: value in known, f"one of {', '.join(known)}"


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(one, str) for one in value)


_STAGE: dict[str, Rule] = {
    "steps": _whole(1),
    "batch_size": _whole(1),
    "learning_rate": (_is_rate, "a positive number"),
    "schedule": _one_of(get_args(Schedule)),
}
_RECIPE: dict[str, Rule] = {
    "epochs": _whole(1),
    "seed": _whole(0),
    "loss": _one_of(LOSSES),
    "optimizer": _one_of(OPTIMIZERS),
    "labels": (_are_names, "a tuple with one name per output channel"),
}


@dataclass(frozen=True)
class Stage:
    """A part of a training with one size of patches."""

    pixels: int | None
    """Rows and columns of a patch; None: whole slices."""
    steps: int
    """Patches are drawn without end, so a training is a number of steps."""
    batch_size: int = 8
    learning_rate: float = 5e-4
    """The largest one, where a schedule changes it."""
    schedule: str = "constant"
    """``linear`` and ``cosine`` fall to zero over all steps, ``one-cycle`` rises first."""

    def __post_init__(self) -> None:
        """Refuse values that no training could use."""
        _check(self, _STAGE)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        done = step / self.steps
        if self.schedule == "linear":
            return self.learning_rate * (1 - done)
        if self.schedule == "cosine":
            return self.learning_rate * _falling_cosine(done)
        if self.schedule == "one-cycle":
            if done >= WARM_UP:
                return self.learning_rate * _falling_cosine((done - WARM_UP) / (1 - WARM_UP))
            rising = 1 - _falling_cosine(done / WARM_UP)
            return self.learning_rate * (FIRST_RATE + (1 - FIRST_RATE) * rising)
        return self.learning_rate


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a network, but the images that it sees.

    By default the report's U-Net for segmentation (section 6.2.2).
    """

    stages: tuple[Stage, ...]
    """Done one after the other, each with the weights of the one before."""
    labels: tuple[str, ...] = BONES
    """What each output channel shows: bones, or ``("intensity",)``."""
    network: str = "unet"
    depth: int | None = None
    width: int | None = None
    stem: int | None = None
    channels: tuple[str, ...] = ("image",)
    """Images that the network sees of a slice."""
    context_mm: tuple[float, ...] = (0.0,)
    """Where the slices lie that the network sees at a time, from the one that it answers for."""
    loss: str = "bce"
    """One of `losses.LOSSES`."""
    optimizer: str = "adam"
    """One of `optimisers.OPTIMIZERS`."""
    min_fraction: float = 0.75
    """Part of a patch that must be foot."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    keep_best: bool = False
    """Weights of the last stage's best epoch on the validation subject, instead of the last."""
    n_validation: int = 64
    """Patches to find the best epoch with."""
    epochs: int = 5
    """Parts of about equal length of each stage; after each, a training that is killed goes on."""
    seed: int = 0
    """Decides the first weights and the patches."""

    def __post_init__(self) -> None:
        """Refuse values that no training could use."""
        _check(self, _RECIPE)

    @property
    def head(self) -> Head:
        """What the network gives, as its loss wants it."""
        return "probability" if self.loss in SEGMENTATION_LOSSES else "intensity"

    @property
    def arguments(self) -> dict[str, Any]:
        """What `networks.build` is called with, besides the name."""
        sizes = {"depth": self.depth, "width": self.width, "stem": self.stem}
        return {
            "in_channels": len(self.channels) * len(self.context_mm),
            "out_channels": len(self.labels),
            "head": self.head,
            **{name: value for name, value in sizes.items() if value is not None},
        }

    def fresh(self) -> SliceNetwork:
        """Return the network with its first weights, which the seed decides."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return build(self.network, **self.arguments)

    def of_bone(self, bone: str) -> Recipe:
        """Return the recipe of the network for one bone."""
        return replace(self, labels=(bone,))

    def epoch_ends(self, stage: int = 0) -> list[int]:
        """After how many steps of a stage each epoch ends; no step is left out."""
        steps = self.stages[stage].steps
        n_epochs = min(self.epochs, steps)
        return [steps * epoch // n_epochs for epoch in range(1, n_epochs + 1)]


def _check(settings: Stage | Recipe, rules: Mapping[str, Rule]) -> None:
    for name, (is_usable, wanted) in rules.items():
        value = getattr(settings, name)
        if not is_usable(value):
            raise AnkleError(f"{name} is {value!r}: give {wanted}")


def _falling_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))
