"""How a network is made and trained: the report's recipe, and others."""

import math
from dataclasses import field, replace
from typing import Annotated, Literal, Self

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ankle_lib.learning.losses import SEGMENTATION_LOSSES
from ankle_lib.learning.networks import Head, ResNetSize, Size, SliceNetwork, build
from ankle_lib.patches.source import Augmentation
from ankle_lib.presets import BONES

Schedule = Literal["constant", "cosine", "one-cycle"]

WARM_UP = 0.3
"""Part of a one-cycle schedule in which the learning rate rises (Smith and Topin 2018)."""

FIRST_RATE = 0.04
"""Of the largest rate, at the beginning of a one-cycle schedule; PyTorch's default is 1 / 25."""

Count = Annotated[int, Field(ge=1)]

STEPS_SAVED = 1000
"""A long training is saved, and scored, at least so often."""

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
"""Values that no training could use are refused."""


@dataclass(frozen=True, config=STRICT)
class Stage:
    """A part of a training with one size of patches."""

    pixels: Count | None
    """Rows and columns of a patch; None: whole slices."""
    steps: Count
    """Patches are drawn without end, so a training is a number of steps."""
    batch_size: Count = 8
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """The largest one, where a schedule changes it."""
    schedule: Schedule = "constant"
    """``cosine`` falls to zero over all steps, ``one-cycle`` rises first."""

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        done = step / self.steps
        if self.schedule == "cosine":
            return self.learning_rate * _falling_cosine(done)
        if self.schedule == "one-cycle":
            if done >= WARM_UP:
                return self.learning_rate * _falling_cosine((done - WARM_UP) / (1 - WARM_UP))
            rising = 1 - _falling_cosine(done / WARM_UP)
            return self.learning_rate * (FIRST_RATE + (1 - FIRST_RATE) * rising)
        return self.learning_rate


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that decides a network, but the images that it sees.

    By default the report's U-Net for segmentation (section 6.2.2).
    """

    stages: tuple[Stage, ...]
    """Done one after the other, each with the weights of the one before."""
    labels: Annotated[tuple[str, ...], Field(min_length=1)] = BONES
    """What each output channel shows: bones, or ``("intensity",)``."""
    network: str = "unet"
    depth: int | None = None
    width: int | None = None
    stem: int | None = None
    channels: tuple[str, ...] = ("image",)
    """Images that the network sees of a slice."""
    context_mm: tuple[float, ...] = (0.0,)
    """Where the slices lie that the network sees at a time, from the one that it answers for."""
    loss: Literal[
        "bce", "dice+bce", "dice+lesion-bce", "weighted-l1", "weighted-l2", "l1", "l1+gradient"
    ] = "bce"
    """See `losses.LOSSES`."""
    optimizer: Literal["adam", "muon"] = "adam"
    """See `optimisers.OPTIMIZERS`."""
    min_fraction: float = 0.75
    """Part of a patch that must be foot."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    keep_best: bool = False
    """Weights of the last stage's best epoch on the validation subject, instead of the last."""
    n_validation: int = 64
    """Patches that a validation scores the network on, after each epoch."""
    epochs: Count = 5
    """Parts of about equal length of each stage; after each, a training that is killed goes on."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the first weights and the patches."""

    @classmethod
    def epochs_for(cls, steps: int) -> int:
        """Return the usual number of epochs, or more if a training is as long as the report's."""
        return max(cls.epochs, steps // STEPS_SAVED)

    @property
    def head(self) -> Head:
        """What the network gives, as its loss wants it."""
        return "probability" if self.loss in SEGMENTATION_LOSSES else "intensity"

    @property
    def decisive(self) -> Self:
        """The recipe without the usual depth, so that no network is trained twice."""
        size = ResNetSize if self.network.startswith("resnet") else Size
        usual = self.depth == size.model_fields["depth"].default
        return replace(self, depth=None if usual else self.depth)

    def fresh(self) -> SliceNetwork:
        """Return the network with its first weights, which the seed decides."""
        sizes = {"depth": self.depth, "width": self.width, "stem": self.stem}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return build(
                self.network,
                in_channels=len(self.channels) * len(self.context_mm),
                out_channels=len(self.labels),
                head=self.head,
                **{name: value for name, value in sizes.items() if value is not None},
            )

    def of_bone(self, bone: str) -> Self:
        """Return the recipe of the network for one bone."""
        return replace(self, labels=(bone,))

    def epoch_ends(self, stage: int = 0) -> list[int]:
        """After how many steps of a stage each epoch ends; no step is left out."""
        steps = self.stages[stage].steps
        n_epochs = min(self.epochs, steps)
        return [steps * epoch // n_epochs for epoch in range(1, n_epochs + 1)]


def _falling_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))
