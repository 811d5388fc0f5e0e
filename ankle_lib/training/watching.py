"""Losses are looked at a few steps later, and one that is not finite stops the training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ankle_lib.files import AnkleError
from ankle_lib.patches.batch import Batch
from ankle_lib.training.history import Progress
from ankle_lib.training.settings import TrainingSettings

CHECK_STEPS, CHECK_SECONDS = 20, 1.0
"""A window's length. Looking at a loss makes the processor wait for the GPU."""

NAMED_PATCHES = 3
"""How many patches of a batch an error names."""

_Step = tuple[Tensor, Tensor, Tensor, Callable[[Sequence[int]], str]]
"""Loss, whether the batch was finite, where its patches lie, and how to say that."""


class Window:
    """The steps whose losses nobody has looked at yet."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave out what happened since: it was no training."""
        self.since = time.perf_counter()

    def add(self, loss: Tensor, batch: Batch) -> None:
        """Remember a step without waiting for its loss."""
        usable = torch.isfinite(batch.image).all() & torch.isfinite(batch.target).all()
        self.steps.append((loss.detach(), usable, batch.where, batch.describe))

    def is_full(self) -> bool:
        """Tell whether it is time to look."""
        waited = time.perf_counter() - self.since
        return len(self.steps) >= CHECK_STEPS or waited > CHECK_SECONDS

    def empty_into(self, so_far: Progress, settings: TrainingSettings, bar: tqdm) -> None:
        """Check the losses and write them down.

        Raises
        ------
        AnkleError
            If one is not finite; the message names the patches.
        """
        if not self.steps:
            return
        losses = torch.stack([step[0] for step in self.steps]).tolist()
        first = so_far.step - len(losses) + 1
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise AnkleError(_origin(loss, first + index, self.steps[index], settings))
        seconds = time.perf_counter() - self.since
        so_far.losses += losses
        so_far.epoch_seconds += seconds
        now = {"loss": losses[-1], "samples_per_s": len(losses) * settings.batch_size / seconds}
        before = so_far.epochs[-1] if so_far.epochs else {}
        bar.set_postfix(short(before | now), refresh=False)
        bar.update(len(losses))
        self.steps = []
        self.restart_clock()


def short(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what fits beside a bar."""
    wanted = ("loss", "score", "samples_per_s")
    return {key: f"{row[key]:.3g}" for key in wanted if key in row}


def _origin(loss: float, number: int, step: _Step, settings: TrainingSettings) -> str:
    """Say where a loss that is not finite came from, and what to do."""
    _, usable, where, describe = step
    places = [describe(one) for one in where.tolist()[:NAMED_PATCHES]]
    more = len(where) - len(places)
    patches = "; ".join(places) + (f"; and {more} more" if more else "")
    advice = (
        f"lower the learning rate ({settings.learning_rate:g})"
        if bool(usable)
        else "the images or targets are not finite, so check these"
    )
    return f"the loss is {loss} at step {number}, on patches of {patches}: {advice}"
