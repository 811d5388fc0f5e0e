"""What happened during a training, in memory, in its checkpoint and in CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ankle_lib.files import write_csv
from ankle_lib.training.settings import TrainingSettings

STEPS_CSV, EPOCHS_CSV = "steps.csv", "epochs.csv"


@dataclass(frozen=True)
class History:
    """The record of a training.

    Attributes
    ----------
    steps : DataFrame
        Columns step, loss, learning_rate; one row per batch, as in the report's Fig. 6.6.
    epochs : DataFrame
        Columns epoch, step, loss, learning_rate, seconds, samples_per_s, then what validation
        gave, ``score`` first.
    best_epoch : int or None
        The epoch, from 1, with the best score; None without validation.
    stopped_early : bool
        Whether the patience ran out.
    """

    steps: pd.DataFrame
    epochs: pd.DataFrame
    best_epoch: int | None
    stopped_early: bool


@dataclass
class Progress:
    """How far a training has come; all of it goes into the last checkpoint."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    epoch_seconds: float = 0.0
    best_score: float | None = None
    best_epoch: int | None = None
    stopped: bool = False

    def waited(self) -> int:
        """Return the number of epochs since the best one."""
        return len(self.epochs) - (self.best_epoch or 0)

    def end_epoch(self, settings: TrainingSettings, scores: dict[str, float]) -> bool:
        """Write an epoch down; return whether it is the best so far."""
        epoch = len(self.epochs) + 1
        in_epoch = self.losses[-settings.steps_per_epoch :]
        samples = settings.steps_per_epoch * settings.batch_size
        row = {
            "epoch": epoch,
            "step": self.step,
            "loss": sum(in_epoch) / len(in_epoch),
            "learning_rate": settings.learning_rate_at(self.step - 1),
            "seconds": self.epoch_seconds,
            "samples_per_s": samples / self.epoch_seconds,
        }
        self.epochs.append(row | scores)
        self.epoch_seconds = 0.0
        score = scores.get("score")
        best = score is not None and (self.best_score is None or score > self.best_score)
        if best:
            self.best_score, self.best_epoch = score, epoch
        self.stopped = settings.patience is not None and self.waited() >= settings.patience
        return best

    def history(self, settings: TrainingSettings) -> History:
        """Return the record so far."""
        rates = [settings.learning_rate_at(step) for step in range(len(self.losses))]
        steps = pd.DataFrame(
            {"step": range(1, len(self.losses) + 1), "loss": self.losses, "learning_rate": rates}
        )
        return History(steps, pd.DataFrame(self.epochs), self.best_epoch, self.stopped)

    def write(self, folder: Path, settings: TrainingSettings) -> History:
        """Write both tables; return the record."""
        history = self.history(settings)
        write_csv(folder / STEPS_CSV, history.steps)
        write_csv(folder / EPOCHS_CSV, history.epochs)
        return history

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint can hold."""
        return {**vars(self), "losses": torch.tensor(self.losses, dtype=torch.float64)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """Return what `state` was made from."""
        losses: Sequence[float] = state["losses"].tolist()
        return cls(**{**state, "losses": list(losses), "epochs": list(state["epochs"])})
