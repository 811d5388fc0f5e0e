"""Networks that are trained once, by one loop for every network of the course.

Each stays in a folder named after all that decides it. Lightning Fabric takes care of device and
precision; everything else can be read here.
"""

import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ankle_lib import cache
from ankle_lib.files import AnkleError, write_csv
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.losses import LOSSES
from ankle_lib.learning.networks import (
    SliceNetwork,
    is_fast_in_bfloat16,
    parameter_count,
    ready_to_predict,
)
from ankle_lib.learning.optimisers import OPTIMIZERS
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.parallel import enough_memory, run_all
from ankle_lib.patches.source import Batch

WEIGHTS = "network.ckpt"
TABLES = ("losses.csv", "epochs.csv")

MOST_AT_ONCE = 4
"""Networks trained side by side: each process takes most of a gigabyte, also on a GPU."""

Answer = TypeVar("Answer")

DrawBatch = Callable[[int, torch.Generator], Batch]
"""Draws that many patches; the generator is on the training device, see `PatchSource.draw`."""

Penalty = Callable[[SliceNetwork, Tensor, Batch], Tensor]
"""Takes the network, its logits and the batch; returns what is added to the recipe's loss."""

Validate = Callable[[nn.Module], dict[str, float]]
"""Takes the network in evaluation mode; returns numbers, of which ``score`` is to be large."""

BEST, LAST = "best.ckpt", "last.ckpt"
STEPS_CSV, EPOCHS_CSV = "steps.csv", "epochs.csv"

CHECK_STEPS = 20
"""Losses are looked at so many steps later: it makes the processor wait for the GPU."""

NAMED_PATCHES = 3
"""How many patches of a batch an error names."""

Waiting = list[tuple[Tensor, Tensor, Tensor, Callable[[Sequence[int]], str]]]
"""Losses that nobody has looked at yet, whether their batches are finite, and what tells where
these are from."""


@dataclass(frozen=True)
class Trained:
    """A trained network, in evaluation mode.

    Attributes
    ----------
    network : SliceNetwork
    recipe : Recipe
    losses : DataFrame
        Columns step, loss, learning_rate, stage.
    epochs : DataFrame
        Columns epoch, step, loss, …, samples_per_s, stage and, with validation, score.
    folder : Path
        Of the training; what is measured on the network is remembered there.
    """

    network: SliceNetwork
    recipe: Recipe
    losses: pd.DataFrame
    epochs: pd.DataFrame
    folder: Path

    @property
    def parameters(self) -> int:
        """Trained parameters."""
        return parameter_count(self.network)

    @property
    def samples_per_s(self) -> float:
        """Patches per second while it was trained."""
        return float(self.epochs["samples_per_s"].median())

    def remembered(self, name: str, work: Callable[[], Answer], settings: Any) -> Answer:
        """Return what ``work`` measures on this network, done once; see `cache.remembered`.

        Parameters
        ----------
        name : str
            Of the record in the training's folder.
        work : callable
        settings : any value of `cache.digest`
            Everything but the network and the code that the answer depends on.
        """
        record = self.folder / f"{name}-{cache.digest(settings)[:8]}.json"
        return cache.remembered(record, work, inputs=[self.folder / WEIGHTS], settings=settings)


def train_once(
    recipe: Recipe,
    draws: Callable[[Stage], DrawBatch],
    folder: Path,
    *,
    decides: Any,
    validates: Callable[[Stage], Validate] | None = None,
    start: SliceNetwork | None = None,
    penalties: Sequence[Penalty] = (),
    device: str = "cpu",
) -> Trained:
    """Train a network, or read it if that was done before.

    A training that was killed goes on where it stopped. Each recipe, with what it is given, has
    its own folder (see `Recipe.decisive`); when it is finished only the weights, losses and epochs
    stay there.

    Parameters
    ----------
    recipe : Recipe
    draws : callable
        Returns what draws the batches of a stage, e.g. ``source.draw``; called only if there is
        something to do.
    folder : Path
        Of all trainings.
    decides : any value of `cache.digest`
        What the network depends on besides the recipe and the code: the images that ``draws``
        draws from, and those that ``validates`` looks at.
    validates : callable, optional
        Returns the validation of a stage, which scores the network after each epoch.
    start : SliceNetwork, optional
        A network of the recipe's size, whose weights are the first ones instead of random ones.
    penalties : sequence of callables
        Added to the recipe's loss: what is known of the answer besides the labels. Functions of
        modules, or dataclasses.
    device : str
        "cpu" or "cuda".

    Examples
    --------
    >>> recipe = Recipe((Stage(64, 400),), labels=("talus",))
    >>> trained = train_once(recipe, lambda stage: source.draw, folder, decides=checksums)
    """
    first = [] if start is None else [one.cpu().numpy() for one in start.state_dict().values()]
    settings = [recipe.decisive, decides, first, cache.code_digest(train_once)]
    if penalties:
        known = [getattr(one, "__name__", one) for one in penalties]
        settings += [known, [cache.code_digest(one) for one in penalties]]
    place = cache.folder_for(folder, recipe.network, draws, settings)
    if not (place / WEIGHTS).exists():
        network = recipe.fresh()
        if start is not None:
            network.load_state_dict(start.state_dict())
        if recipe.keep_best and validates is None:
            raise AnkleError("to keep the best epoch, give a scan to validate on")
        tables = []
        for number, stage in enumerate(recipe.stages):
            trained = train(
                network,
                recipe,
                draws(stage),
                place / f"stage-{number}",
                stage=number,
                validate=None if validates is None else validates(stage),
                penalties=penalties,
                device=device,
            )
            tables.append(trained)
        for name, of_stages in zip(TABLES, zip(*tables, strict=True), strict=True):
            write_csv(place / name, joined(of_stages))
        save_checkpoint(place / WEIGHTS, network, labels=recipe.labels)
        for number in range(len(recipe.stages)):  # the optimiser's state is twice the weights
            shutil.rmtree(place / f"stage-{number}", ignore_errors=True)
    network = ready_to_predict(load_checkpoint(place / WEIGHTS).network, device)
    losses, epochs = (pd.read_csv(place / name) for name in TABLES)
    return Trained(network, recipe, losses, epochs, place)


def train_side_by_side(trainings: Sequence[Callable[[], Trained]]) -> list[Trained]:
    """Train several networks in processes side by side; what was trained before is read.

    Small networks on small patches leave most of a processor idle, so each gets one core, and
    most of a GPU, which waits for a processor to launch what it is to do next.

    Parameters
    ----------
    trainings : sequence of callables without arguments
        Each trains a network once, e.g. a `functools.partial` of `scans.train_on_scans`.
    """
    run_all(_done, trainings, n_jobs=MOST_AT_ONCE, desc="training networks")
    return [training() for training in trainings]


def _done(training: Callable[[], Trained]) -> None:
    training()


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put the stages' tables below each other, with steps that go on counting."""
    done, parts = 0, []
    for stage, table in enumerate(tables):
        parts.append(table.assign(step=table["step"] + done, stage=stage))
        done += int(table["step"].max())
    return pd.concat(parts, ignore_index=True)


# --- the loop ---


@enough_memory("let the recipe have smaller batches or a smaller network")
def train(
    network: SliceNetwork,
    recipe: Recipe,
    draw_batch: DrawBatch,
    folder: Path,
    *,
    stage: int = 0,
    validate: Validate | None = None,
    penalties: Sequence[Penalty] = (),
    device: str = "cpu",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train a network in place; go on where an interrupted call stopped.

    ``folder`` receives ``last.ckpt`` and ``best.ckpt`` (see `checkpoints.load_checkpoint`),
    ``steps.csv`` and ``epochs.csv``. What a step draws depends on the seed and the step's number
    only, so a training that was killed and called again ends as if it had never stopped; on a CPU
    to the last bit.

    Parameters
    ----------
    network : SliceNetwork
        Made by `networks.build`. Left on the training device, in evaluation mode.
    recipe : Recipe
    draw_batch : callable
        ``draw_batch(n, generator) -> Batch``, e.g. ``source.draw``.
    folder : Path
        Of this training alone.
    stage : int
        Which of the recipe's stages this is, from 0.
    validate : callable, optional
        Called after each epoch, e.g. from `scoring.patch_validation`. If the recipe keeps the best
        epoch, the network ends the last stage with its weights.
    penalties : sequence of callables
        Added to the recipe's loss.
    device : str
        "cpu" or "cuda".

    Returns
    -------
    steps : DataFrame
        Columns step, loss, learning_rate; one row per batch, as in the report's Fig. 6.6.
    epochs : DataFrame
        Columns epoch, step, loss, learning_rate, seconds, samples_per_s, then what validation
        gave, ``score`` first.

    Raises
    ------
    AnkleError
        If the loss or the score is not finite, or a GPU's memory does not hold a step.

    Examples
    --------
    >>> recipe = Recipe((Stage(64, 400),), labels=("talus",))
    >>> steps, epochs = train(recipe.fresh(), recipe, source.draw, folder)
    """
    fabric = _fabric(device)
    keeps_best = validate is not None and recipe.keep_best and stage == len(recipe.stages) - 1
    settings, seed = recipe.stages[stage], recipe.seed * 1000 + stage
    state: dict[str, Any] = {"losses": torch.zeros(0), "epochs": [], "optimizer": None}
    if (folder / LAST).exists():
        found = load_checkpoint(folder / LAST)
        network.load_state_dict(found.network.state_dict())
        state = found.training
    losses, epochs, ends = state["losses"].tolist(), state["epochs"], recipe.epoch_ends(stage)

    # the caller's random numbers are neither disturbed nor of any influence
    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        network.train()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = OPTIMIZERS[recipe.optimizer](network.parameters(), settings.learning_rate)
        model, optimizer = fabric.setup(network, optimizer)
        if state["optimizer"]:
            optimizer.load_state_dict(state["optimizer"])
        generator = torch.Generator(fabric.device)
        for end in ends[len(epochs) :]:
            first, began = len(losses), time.perf_counter()
            waiting: Waiting = []
            for step in range(first, end):
                _seed_step(generator, seed, step)
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate_at(step)
                batch = draw_batch(settings.batch_size, generator)
                image = batch.image.contiguous(memory_format=torch.channels_last)
                with fabric.autocast():
                    output = model.logits(image).float()
                loss = LOSSES[recipe.loss](output, batch)
                for penalty in penalties:
                    loss = loss + penalty(network, output, batch)
                optimizer.zero_grad()
                fabric.backward(loss)
                optimizer.step()

                usable = torch.isfinite(batch.image).all() & torch.isfinite(batch.target).all()
                waiting.append((loss.detach(), usable, batch.where, batch.describe))
                if len(waiting) == CHECK_STEPS or step + 1 == end:
                    losses += _checked_losses(waiting, len(losses) + 1, settings.learning_rate)
                    waiting = []

            seconds = time.perf_counter() - began
            row: dict[str, Any] = {
                "epoch": len(epochs) + 1,
                "step": end,
                "loss": sum(losses[first:]) / (end - first),
                "learning_rate": settings.learning_rate_at(end - 1),
                "seconds": seconds,
                "samples_per_s": (end - first) * settings.batch_size / seconds,
            }
            if validate is not None:
                row |= _scores(network, validate, fabric, end)
                if keeps_best and all(row["score"] > before["score"] for before in epochs):
                    best = {"epoch": row["epoch"], "score": row["score"]}
                    save_checkpoint(folder / BEST, network, labels=recipe.labels, training=best)
            epochs.append(row)
            write_csv(folder / STEPS_CSV, _steps_table(recipe, stage, losses))
            write_csv(folder / EPOCHS_CSV, pd.DataFrame(epochs))
            state = {"losses": torch.tensor(losses, dtype=torch.float64), "epochs": epochs}
            state["optimizer"] = optimizer.state_dict()
            save_checkpoint(folder / LAST, network, labels=recipe.labels, training=state)
    if keeps_best:
        network.load_state_dict(load_checkpoint(folder / BEST).network.state_dict())
    network.eval()
    return _steps_table(recipe, stage, losses), pd.DataFrame(epochs)


def _fabric(device: str) -> Fabric:
    """Return Fabric on one device, in bfloat16 where that is fast."""
    # it tells the precision anew for every training of a chapter
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    precision: Any = "bf16-mixed" if is_fast_in_bfloat16(device) else "32-true"
    return Fabric(accelerator=device, devices=1, precision=precision)


def _seed_step(generator: torch.Generator, seed: int, step: int) -> None:
    """Let patches and dropout of a step depend on nothing but these numbers."""
    digest = hashlib.blake2b(f"{seed} {step} 0".encode(), digest_size=4).digest()
    number = int.from_bytes(digest, "little")
    generator.manual_seed(number)
    torch.manual_seed(number)


def _checked_losses(waiting: Waiting, first: int, learning_rate: float) -> list[float]:
    """Return the losses of steps that follow each other; refuse one that is not finite."""
    losses: list[float] = torch.stack([step[0] for step in waiting]).tolist()
    for number, loss in enumerate(losses):
        if math.isfinite(loss):
            continue
        _, usable, where, describe = waiting[number]
        places = [describe(one) for one in where.tolist()]
        more = len(places) - NAMED_PATCHES
        patches = "; ".join(places[:NAMED_PATCHES]) + (f"; and {more} more" if more > 0 else "")
        advice = "the images or targets are not finite, so check these"
        if usable:
            advice = f"lower the learning rate ({learning_rate:g})"
        raise AnkleError(
            f"the loss is {loss} at step {first + number}, on patches of {patches}: {advice}"
        )
    return losses


def _scores(
    network: SliceNetwork, validate: Validate, fabric: Fabric, step: int
) -> dict[str, float]:
    """Return what validation gives, ``score`` first."""
    network.eval()
    with torch.inference_mode(), fabric.autocast():
        scores = validate(network)
    network.train()
    if not math.isfinite(scores.get("score", math.nan)):
        raise AnkleError(
            f"validation after step {step} gave {scores}: it must return a finite score"
        )
    return {"score": scores["score"], **scores}


def _steps_table(recipe: Recipe, stage: int, losses: Sequence[float]) -> pd.DataFrame:
    rates = [recipe.stages[stage].learning_rate_at(step) for step in range(len(losses))]
    steps = range(1, len(losses) + 1)
    return pd.DataFrame({"step": steps, "loss": losses, "learning_rate": rates})
