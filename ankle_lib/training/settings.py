"""How a network is trained: the report's settings, and others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ankle_lib.files import AnkleError
from ankle_lib.training.losses import LOSSES
from ankle_lib.training.optimisers import OPTIMIZERS

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

    steps_per_epoch: int
    """See `epoch_steps`. Patches are drawn without end, so an epoch is a number of steps."""
    epochs: int = 5
    batch_size: int = 8
    """Patches per step and device."""
    learning_rate: float = 5e-4
    """The largest one, where a schedule changes it."""
    optimizer: str = "adam"
    """One of `optimisers.OPTIMIZERS`."""
    loss: str = "bce"
    """One of `losses.LOSSES`."""
    schedule: Schedule = "constant"
    """``linear`` and ``cosine`` fall to zero over all epochs, ``one-cycle`` rises first."""
    patience: int | None = None
    """Stop after this many epochs without a better validation score."""
    keep: Keep = "last"
    """Which weights the network has in the end; the report kept the last."""
    seed: int = 0
    """The same seed draws the same patches."""
    precision: Precision = "auto"
    """``auto`` is bf16-mixed on a GPU and on a CPU that computes in bfloat16, else 32-true."""
    compile: bool = False
    """Pass the network through torch.compile; pays on a GPU, and not on a CPU."""
    save_every: int | None = None
    """Steps between checkpoints within an epoch; only at its end by default."""

    def __post_init__(self) -> None:
        """Refuse values that no training could use."""
        for name in ("steps_per_epoch", "epochs", "batch_size", "patience", "save_every"):
            value = getattr(self, name)
            if value is None and name in ("patience", "save_every"):
                continue
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
            "compile": (False, True),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                listed = ", ".join(map(str, known))
                raise AnkleError(f"{name} is {getattr(self, name)!r}: choose one of {listed}")

    @property
    def n_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        done = step / self.n_steps
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


REPORT_SEGMENTATION: dict[str, Any] = {
    "loss": "bce",
    "learning_rate": 5e-4,
    "batch_size": 8,
    "epochs": 5,
}
"""Report, section 6.2.2; 1e-4 for the ResNet."""

REPORT_RECONSTRUCTION: dict[str, Any] = {
    "loss": "weighted-l1",
    "learning_rate": 1e-3,
    "batch_size": 16,
    "epochs": 5,
}
"""Report, section 6.3.2."""


def epoch_steps(n_patches: float, batch_size: int) -> int:
    """Return the steps in which about ``n_patches`` are seen, e.g. `PatchSource.expected`."""
    return max(1, math.ceil(n_patches / batch_size))


def settings_from(values: Mapping[str, Any]) -> TrainingSettings:
    """Return settings from a mapping, e.g. a notebook's parameters.

    Raises
    ------
    AnkleError
        If a setting is unknown, missing or out of range.
    """
    known = [field.name for field in fields(TrainingSettings)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise AnkleError(f"there is no setting {unknown[0]!r}: choose from {', '.join(known)}")
    if "steps_per_epoch" not in values:
        raise AnkleError("steps_per_epoch is missing: give the number of steps of an epoch")
    return TrainingSettings(**values)


def _falling_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))
