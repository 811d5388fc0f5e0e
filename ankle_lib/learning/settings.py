"""How one network is trained by the loop: the report's settings, and others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ankle_lib.files import AnkleError
from ankle_lib.learning.losses import LOSSES
from ankle_lib.learning.optimisers import OPTIMIZERS

Schedule = Literal["constant", "linear", "cosine", "one-cycle"]
Keep = Literal["last", "best"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

WARM_UP = 0.3
"""Part of a one-cycle schedule in which the learning rate rises (Smith and Topin 2018)."""

FIRST_RATE = 0.04
"""Of the largest rate, at the beginning of a one-cycle schedule; PyTorch's default is 1 / 25."""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides a training, besides the network and its data.

    The defaults are the report's for segmentation (section 6.2.2).
    """

    steps: int
    """Patches are drawn without end, so a training is a number of steps."""
    epochs: int = 5
    """Parts of about equal length, after each of which a network is validated and saved."""
    batch_size: int = 8
    """Patches per step and device."""
    learning_rate: float = 5e-4
    """The largest one, where a schedule changes it."""
    optimizer: str = "adam"
    """One of `optimisers.OPTIMIZERS`."""
    loss: str = "bce"
    """One of `losses.LOSSES`."""
    schedule: str = "constant"
    """``linear`` and ``cosine`` fall to zero over all steps, ``one-cycle`` rises first."""
    keep: str = "last"
    """Which weights the network has in the end: of the ``last`` epoch, as in the report, or of the
    ``best`` one."""
    seed: int = 0
    """The same seed draws the same patches."""
    precision: str = "auto"
    """``auto`` is bf16-mixed on a GPU and on a CPU that computes in bfloat16, else 32-true."""

    def __post_init__(self) -> None:
        """Refuse values that no training could use."""
        for name in ("steps", "epochs", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise AnkleError(f"{name} is {value!r}: give a whole number, 1 or more")
        if type(self.seed) is not int or self.seed < 0:
            raise AnkleError(f"seed is {self.seed!r}: give a whole number, 0 or more")
        rate = self.learning_rate
        if not (isinstance(rate, float) and math.isfinite(rate) and rate > 0):
            raise AnkleError(f"learning_rate is {rate!r}: give a positive number")
        choices = {
            "loss": tuple(LOSSES),
            "optimizer": tuple(OPTIMIZERS),
            "schedule": get_args(Schedule),
            "keep": get_args(Keep),
            "precision": get_args(Precision),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                listed = ", ".join(known)
                raise AnkleError(f"{name} is {getattr(self, name)!r}: choose one of {listed}")

    @property
    def epoch_ends(self) -> list[int]:
        """After how many steps each epoch ends; no step is left out."""
        n_epochs = min(self.epochs, self.steps)
        return [self.steps * epoch // n_epochs for epoch in range(1, n_epochs + 1)]

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


def _falling_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))
