"""One loop that trains every network of the course, on a CPU, a GPU or several.

Lightning Fabric takes care of devices and precision; everything else can be read here.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm.auto import tqdm

from ankle_lib.files import AnkleError
from ankle_lib.networks.base import SliceNetwork
from ankle_lib.networks.checkpoint import load_checkpoint
from ankle_lib.networks.precision import is_fast_in_bfloat16
from ankle_lib.patches.batch import Batch
from ankle_lib.training.checkpoints import BEST, TrainingFolder
from ankle_lib.training.history import History, Progress
from ankle_lib.training.losses import SEGMENTATION_LOSSES, compute_loss
from ankle_lib.training.optimisers import OPTIMIZERS
from ankle_lib.training.settings import TrainingSettings
from ankle_lib.training.validation import Validate
from ankle_lib.training.watching import Window, short

DrawBatch = Callable[[int, torch.Generator], Batch]
"""Draws that many patches; the generator is on the training device, see `PatchSource.draw`."""


def train(
    network: SliceNetwork,
    draw_batch: DrawBatch,
    validate: Validate | None,
    settings: TrainingSettings,
    folder: Path,
    *,
    name: str,
    arguments: Mapping[str, Any],
    labels: Sequence[str],
    device: str = "auto",
    fabric: Fabric | None = None,
    progress: bool = True,
) -> History:
    """Train a network in place; go on where an interrupted call stopped.

    ``folder`` receives ``last.ckpt`` and ``best.ckpt`` (see `networks.load_checkpoint`),
    ``steps.csv`` and ``epochs.csv``. What a step draws depends on the seed and the step's number
    only, so a training that was killed and called again ends as if it had never stopped; on a CPU
    to the last bit.

    Parameters
    ----------
    network : SliceNetwork
        Made by ``networks.build(name, **arguments)``. Left on the training device, in evaluation
        mode.
    draw_batch : callable
        ``draw_batch(n, generator) -> Batch``, e.g. ``source.draw``.
    validate : callable, optional
        Called after each epoch, e.g. from `patch_validation`.
    settings : TrainingSettings
    folder : Path
    name, arguments, labels
        What the checkpoints say about the network.
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
    """
    _check(network, validate, settings, labels)
    fabric = fabric or _fabric(device, settings)
    kept = TrainingFolder(Path(folder), name, dict(arguments), tuple(labels))
    so_far, optimizer_state = kept.resume(network, settings)
    with _own_randomness(fabric), _bar(name, settings, so_far, fabric, progress) as bar:
        model, optimizer = _set_up(network, settings, fabric)
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        generator, window = torch.Generator(fabric.device), Window()
        while so_far.step < settings.n_steps and not so_far.stopped:
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
            window.add(loss, batch)
            epoch_ends = so_far.step % settings.steps_per_epoch == 0
            saves = settings.save_every is not None and so_far.step % settings.save_every == 0
            if epoch_ends or saves or window.is_full():
                window.empty_into(so_far, settings, bar)
            if epoch_ends:
                scores = _scores(network, validate, fabric, so_far.step)
                best = so_far.end_epoch(settings, scores)
                bar.set_postfix(short(so_far.epochs[-1]))
                window.restart_clock()
                if best and fabric.is_global_zero:
                    kept.save_best(network, so_far)
            if (epoch_ends or saves) and fabric.is_global_zero:
                kept.save_last(network, so_far, settings, optimizer.state_dict())
    fabric.barrier()
    if settings.keep == "best":
        network.load_state_dict(load_checkpoint(kept.path / BEST).network.state_dict())
    network.eval()
    return so_far.history(settings)


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
    if validate is None and (settings.patience is not None or settings.keep == "best"):
        raise AnkleError("early stopping and the best weights need a validation: give one")
    head = "probability" if settings.loss in SEGMENTATION_LOSSES else "intensity"
    if network.head != head:
        raise AnkleError(
            f"the loss {settings.loss} trains a network with head {head!r}, this one has "
            f"{network.head!r}: build it with the other head"
        )
    if isinstance(labels, str) or not labels:
        raise AnkleError(f"labels are {labels!r}: give one name per output channel")


def _set_up(
    network: SliceNetwork, settings: TrainingSettings, fabric: Fabric
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Bring network and optimiser onto the device, with the layout in which it computes fastest."""
    network.train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model: nn.Module = _Trained(network, logits=settings.loss in SEGMENTATION_LOSSES)
    if settings.compile:
        model = cast(nn.Module, torch.compile(model))
    optimizer = OPTIMIZERS[settings.optimizer](network.parameters(), settings.learning_rate)
    model, wrapped = fabric.setup(model, optimizer)
    return model, wrapped


@contextmanager
def _own_randomness(fabric: Fabric) -> Iterator[None]:
    """Neither disturb the caller's random numbers nor depend on them."""
    gpus = [fabric.device.index or 0] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        yield


def _bar(
    name: str, settings: TrainingSettings, so_far: Progress, fabric: Fabric, progress: bool
) -> tqdm:
    return tqdm(
        desc=f"training {name}",
        total=settings.n_steps,
        initial=so_far.step,
        unit="step",
        disable=not (progress and fabric.is_global_zero),
    )


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
    precision = settings.precision
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
