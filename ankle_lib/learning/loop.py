"""One loop that trains every network of the course, on a CPU, a GPU or several.

Lightning Fabric takes care of devices and precision; everything else can be read here.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm.auto import tqdm

from ankle_lib.files import AnkleError, write_csv
from ankle_lib.learning.architectures import SliceNetwork
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.losses import SEGMENTATION_LOSSES, compute_loss
from ankle_lib.learning.networks import is_fast_in_bfloat16
from ankle_lib.learning.optimisers import OPTIMIZERS
from ankle_lib.learning.settings import TrainingSettings
from ankle_lib.patches.source import Batch

DrawBatch = Callable[[int, torch.Generator], Batch]
"""Draws that many patches; the generator is on the training device, see `PatchSource.draw`."""

Validate = Callable[[nn.Module], dict[str, float]]
"""Takes the network in evaluation mode; returns numbers, of which ``score`` is to be large."""

BEST, LAST = "best.ckpt", "last.ckpt"
STEPS_CSV, EPOCHS_CSV = "steps.csv", "epochs.csv"

CHECK_STEPS, CHECK_SECONDS = 20, 1.0
"""Losses are looked at so many steps later: it makes the processor wait for the GPU."""

NAMED_PATCHES = 3
"""How many patches of a batch an error names."""


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
    """

    steps: pd.DataFrame
    epochs: pd.DataFrame
    best_epoch: int | None


def train(
    network: SliceNetwork,
    draw_batch: DrawBatch,
    validate: Validate | None,
    settings: TrainingSettings,
    folder: Path,
    *,
    labels: Sequence[str],
    device: str = "auto",
    fabric: Fabric | None = None,
    progress: bool = True,
) -> History:
    """Train a network in place; go on where an interrupted call stopped.

    ``folder`` receives ``last.ckpt`` and ``best.ckpt`` (see `checkpoints.load_checkpoint`),
    ``steps.csv`` and ``epochs.csv``. What a step draws depends on the seed and the step's number
    only, so a training that was killed and called again ends as if it had never stopped; on a CPU
    to the last bit.

    Parameters
    ----------
    network : SliceNetwork
        Made by `networks.build`. Left on the training device, in evaluation mode.
    draw_batch : callable
        ``draw_batch(n, generator) -> Batch``, e.g. ``source.draw``.
    validate : callable, optional
        Called after each epoch, e.g. from `scoring.patch_validation`.
    settings : TrainingSettings
    folder : Path
    labels : sequence of str
        One per output channel.
    device : str
        "auto", "cpu", "cuda" or "cuda:1".
    fabric : Fabric, optional
        Launched by the caller, for several devices; ``device`` and precision are then its own, and
        each device draws its own patches.
    progress : bool
        Show a bar.

    Raises
    ------
    AnkleError
        If network, loss and labels do not go together; if ``folder`` holds another training; if
        the loss or the score is not finite.

    Examples
    --------
    >>> network = networks.build("unet", out_channels=3)
    >>> train(network, source.draw, None, TrainingSettings(400), folder, labels=BONES)
    """
    _check(network, validate, settings, labels)
    fabric = fabric or _fabric(device, settings)
    so_far, optimizer_state = _resume(network, settings, labels, folder)
    bar = tqdm(
        desc=f"training {network.name}",
        total=settings.steps,
        initial=so_far.step,
        unit="step",
        disable=not (progress and fabric.is_global_zero),
    )
    with _own_randomness(fabric), bar:
        model, optimizer = _set_up(network, settings, fabric)
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        generator, waiting = torch.Generator(fabric.device), _Waiting()
        for epoch_end in settings.epoch_ends[len(so_far.epochs) :]:
            while so_far.step < epoch_end:
                _seed_step(generator, settings.seed, so_far.step, fabric.global_rank)
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate_at(so_far.step)
                batch = draw_batch(settings.batch_size, generator)
                image = batch.image.contiguous(memory_format=torch.channels_last)
                loss = compute_loss(settings.loss, model(image), batch)
                optimizer.zero_grad()
                fabric.backward(loss)
                optimizer.step()

                so_far.step += 1
                waiting.add(loss, batch)
                if so_far.step == epoch_end or waiting.is_full():
                    waiting.look(so_far, settings, bar)
            is_best = so_far.end_epoch(settings, _scores(network, validate, fabric, so_far.step))
            bar.set_postfix(_short(so_far.epochs[-1]))
            if fabric.is_global_zero:
                if is_best:
                    best = {"epoch": so_far.best_epoch, "score": so_far.best_score}
                    save_checkpoint(folder / BEST, network, labels=labels, training=best)
                so_far.save(network, settings, labels, folder, optimizer.state_dict())
            waiting = _Waiting()  # its clock leaves out what was no training
    fabric.barrier()
    if settings.keep == "best":
        network.load_state_dict(load_checkpoint(folder / BEST).network.state_dict())
    network.eval()
    return so_far.history(settings)


@dataclass
class _Progress:
    """How far a training has come; all of it goes into the last checkpoint."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    epoch_seconds: float = 0.0
    best_score: float | None = None
    best_epoch: int | None = None

    def end_epoch(self, settings: TrainingSettings, scores: dict[str, float]) -> bool:
        """Write an epoch down; return whether it is the best so far."""
        n_steps = self.step - (self.epochs[-1]["step"] if self.epochs else 0)
        row = {
            "epoch": len(self.epochs) + 1,
            "step": self.step,
            "loss": sum(self.losses[-n_steps:]) / n_steps,
            "learning_rate": settings.learning_rate_at(self.step - 1),
            "seconds": self.epoch_seconds,
            "samples_per_s": n_steps * settings.batch_size / self.epoch_seconds,
        }
        self.epochs.append(row | scores)
        self.epoch_seconds = 0.0
        score = scores.get("score")
        if score is None or (self.best_score is not None and score <= self.best_score):
            return False
        self.best_score, self.best_epoch = score, len(self.epochs)
        return True

    def history(self, settings: TrainingSettings) -> History:
        """Return the record so far."""
        rates = [settings.learning_rate_at(step) for step in range(len(self.losses))]
        steps = pd.DataFrame(
            {"step": range(1, len(self.losses) + 1), "loss": self.losses, "learning_rate": rates}
        )
        return History(steps, pd.DataFrame(self.epochs), self.best_epoch)

    def save(
        self,
        network: SliceNetwork,
        settings: TrainingSettings,
        labels: Sequence[str],
        folder: Path,
        optimizer: dict[str, Any],
    ) -> None:
        """Write both tables, and last everything that `_resume` needs."""
        history = self.history(settings)
        write_csv(folder / STEPS_CSV, history.steps)
        write_csv(folder / EPOCHS_CSV, history.epochs)
        progress = {**vars(self), "losses": torch.tensor(self.losses, dtype=torch.float64)}
        state = {"settings": asdict(settings), "progress": progress, "optimizer": optimizer}
        save_checkpoint(folder / LAST, network, labels=labels, training=state)


class _Waiting:
    """Steps whose losses nobody has looked at yet."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor, Tensor, Callable[[Sequence[int]], str]]] = []
        self.since = time.perf_counter()

    def add(self, loss: Tensor, batch: Batch) -> None:
        """Remember a step, and whether its batch was finite, without waiting for its loss."""
        usable = torch.isfinite(batch.image).all() & torch.isfinite(batch.target).all()
        self.steps.append((loss.detach(), usable, batch.where, batch.describe))

    def is_full(self) -> bool:
        """Tell whether it is time to look."""
        waited = time.perf_counter() - self.since
        return len(self.steps) >= CHECK_STEPS or waited > CHECK_SECONDS

    def look(self, so_far: _Progress, settings: TrainingSettings, bar: tqdm) -> None:
        """Check the losses and write them down; one that is not finite ends the training."""
        losses = torch.stack([step[0] for step in self.steps]).tolist()
        first = so_far.step - len(losses) + 1
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                _, usable, where, describe = self.steps[index]
                places = [describe(one) for one in where.tolist()]
                raise AnkleError(_origin(loss, first + index, bool(usable), places, settings))
        seconds = time.perf_counter() - self.since
        so_far.losses += losses
        so_far.epoch_seconds += seconds
        now = {"loss": losses[-1], "samples_per_s": len(losses) * settings.batch_size / seconds}
        before = so_far.epochs[-1] if so_far.epochs else {}
        bar.set_postfix(_short(before | now), refresh=False)
        bar.update(len(losses))
        self.steps, self.since = [], time.perf_counter()


class _Trained(nn.Module):
    """The network as its loss wants it: logits for segmentation, intensities otherwise."""

    def __init__(self, network: SliceNetwork, *, logits: bool) -> None:
        super().__init__()
        self.network = network
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.network.logits(images) if self.logits else self.network(images)


def _check(
    network: SliceNetwork,
    validate: Validate | None,
    settings: TrainingSettings,
    labels: Sequence[str],
) -> None:
    """Refuse now what would fail after the first epoch, or never show."""
    if validate is None and settings.keep == "best":
        raise AnkleError("the best weights need a validation: give one")
    head = "probability" if settings.loss in SEGMENTATION_LOSSES else "intensity"
    if network.head != head:
        raise AnkleError(
            f"the loss {settings.loss} trains a network with head {head!r}, this one has "
            f"{network.head!r}: build it with the other head"
        )
    if isinstance(labels, str) or not labels:
        raise AnkleError(f"labels are {labels!r}: give one name per output channel")


def _resume(
    network: SliceNetwork, settings: TrainingSettings, labels: Sequence[str], folder: Path
) -> tuple[_Progress, dict[str, Any] | None]:
    """Take weights and state from the last checkpoint, if there is one."""
    path = folder / LAST
    if not path.exists():
        return _Progress(), None
    found = load_checkpoint(path)
    state = found.training
    if set(state) != {"settings", "progress", "optimizer"}:
        raise AnkleError(f"{path}: not of a training: choose another folder")
    ours = {"network": network.name, **network.arguments, "labels": tuple(labels)}
    ours |= asdict(settings)
    theirs = {"network": found.name, **found.arguments, "labels": found.labels}
    theirs |= state["settings"]
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise AnkleError(
                f"{folder}: holds a training with {key} {theirs.get(key)!r}, not "
                f"{ours.get(key)!r}: choose another folder, or delete this one"
            )
    network.load_state_dict(found.network.state_dict())
    progress = state["progress"] | {"losses": state["progress"]["losses"].tolist()}
    return _Progress(**progress), state["optimizer"]


def _set_up(
    network: SliceNetwork, settings: TrainingSettings, fabric: Fabric
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Bring network and optimiser onto the device, with the layout in which it computes fastest."""
    network.train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = _Trained(network, logits=settings.loss in SEGMENTATION_LOSSES)
    optimizer = OPTIMIZERS[settings.optimizer](network.parameters(), settings.learning_rate)
    return fabric.setup(model, optimizer)


@contextmanager
def _own_randomness(fabric: Fabric) -> Iterator[None]:
    """Neither disturb the caller's random numbers nor depend on them."""
    gpus = [fabric.device.index or 0] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        yield


def _fabric(device: str, settings: TrainingSettings) -> Fabric:
    """Return Fabric on one device."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdigit()):
        raise AnkleError(f"there is no device {device!r}: choose auto, cpu, cuda or cuda:1")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise AnkleError(f"device {device!r} is not there ({torch.cuda.device_count()} GPUs found)")
    # it tells the precision anew for every training of a chapter
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    precision: Any = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if is_fast_in_bfloat16(kind) else "32-true"
    return Fabric(accelerator=kind, devices=[int(index)] if index else 1, precision=precision)


def _seed_step(generator: torch.Generator, seed: int, step: int, rank: int) -> None:
    """Let patches and dropout of a step depend on nothing but these numbers."""
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=4).digest()
    number = int.from_bytes(digest, "little")
    generator.manual_seed(number)
    torch.manual_seed(number)


def _scores(
    network: SliceNetwork, validate: Validate | None, fabric: Fabric, step: int
) -> dict[str, float]:
    """Return what validation gives, ``score`` first; every device is told the first one's."""
    if validate is None:
        return {}
    network.eval()
    with torch.inference_mode(), fabric.autocast():
        scores = fabric.broadcast(validate(network))
    network.train()
    if not math.isfinite(scores.get("score", math.nan)):
        raise AnkleError(
            f"validation after step {step} gave {scores}: it must return a finite score"
        )
    return {"score": scores["score"], **scores}


def _short(row: dict[str, Any]) -> dict[str, str]:
    """Return what fits beside a bar."""
    wanted = ("loss", "score", "samples_per_s")
    return {key: f"{row[key]:.3g}" for key in wanted if key in row}


def _origin(
    loss: float, number: int, usable: bool, places: list[str], settings: TrainingSettings
) -> str:
    """Say where a loss that is not finite came from, and what to do."""
    more = len(places) - NAMED_PATCHES
    patches = "; ".join(places[:NAMED_PATCHES]) + (f"; and {more} more" if more > 0 else "")
    advice = (
        f"lower the learning rate ({settings.learning_rate:g})"
        if usable
        else "the images or targets are not finite, so check these"
    )
    return f"the loss is {loss} at step {number}, on patches of {patches}: {advice}"
