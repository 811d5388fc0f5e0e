"""How one network of chapters 05 and 07 is trained: a recipe, and the training that follows it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch

from ankle_lib import networks, patches, training
from ankle_lib.files import AnkleError, write_csv
from ankle_lib.networks.base import SliceNetwork, parameter_count
from ankle_lib.networks.catalogue import build
from ankle_lib.networks.checkpoint import load_checkpoint, save_checkpoint
from ankle_lib.networks.precision import ready_to_predict
from ankle_lib.parallel import run_all
from ankle_lib.patches.augmentation import Augmentation
from ankle_lib.patches.batch import Batch
from ankle_lib.patches.items import slices_at
from ankle_lib.patches.positions import PatchRule
from ankle_lib.patches.source import PatchSource
from ankle_lib.presets import BONES
from ankle_lib.resume import code_digest
from ankle_lib.segmentation.scans import Scan
from ankle_lib.training.loop import train
from ankle_lib.training.settings import TrainingSettings
from ankle_lib.training.validation import patch_validation

TRIES = 300
"""Positions that the report tries in every slice."""

MOST_AT_ONCE = 4
"""Networks trained side by side: each process takes most of a gigabyte."""


@dataclass(frozen=True)
class Stage:
    """A part of a training with one size of patches."""

    pixels: int
    """Rows and columns of a patch."""
    steps: int
    batch_size: int = 8
    learning_rate: float = 5e-4
    schedule: str = "constant"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a network, but the scans that it sees; the report's by default."""

    stages: tuple[Stage, ...]
    """Done one after the other, each with the weights of the one before."""
    bones: tuple[str, ...] = BONES
    """One output for each."""
    network: str = "unet"
    depth: int | None = None
    width: int | None = None
    loss: str = "bce"
    optimizer: str = "adam"
    context_mm: tuple[float, ...] = (0.0,)
    """Where the slices lie that the network sees at a time, from the one that it labels."""
    min_fraction: float = 0.75
    """Part of a patch that must be foot."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    keep_best: bool = False
    """Weights of the best epoch on the validation subject, instead of the last."""
    n_validation: int = 64
    """Patches to find the best epoch with."""
    epochs: int = 5
    seed: int = 0
    """Decides the first weights and the patches."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What `networks.build` is called with."""
        sizes = {"depth": self.depth, "width": self.width}
        chosen = {name: value for name, value in sizes.items() if value is not None}
        return {"in_channels": len(self.context_mm), "out_channels": len(self.bones), **chosen}

    @property
    def pixels(self) -> int:
        """Rows and columns of the last patches."""
        return self.stages[-1].pixels

    def of_bone(self, bone: str) -> Recipe:
        """Return the recipe of the network for one bone."""
        return replace(self, bones=(bone,))


@dataclass(frozen=True)
class Fitted:
    """A trained network, in evaluation mode.

    Attributes
    ----------
    network : SliceNetwork
    recipe : Recipe
    losses : DataFrame
        Columns step, loss, learning_rate.
    epochs : DataFrame
        Columns epoch, step, loss, …, samples_per_s and, with validation, score.
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


@dataclass(frozen=True)
class Task:
    """One training: a recipe and what it is given; the arguments of `fit`."""

    recipe: Recipe
    scans: Sequence[Scan]
    validation: Sequence[Scan] = ()
    start: SliceNetwork | None = None


def fit_side_by_side(
    tasks: Sequence[Task], folder: Path, *, device: str = "cpu", progress: bool = False
) -> None:
    """Train several networks side by side, for `fit` to read.

    Small networks on small patches leave most of a processor idle, so each gets one core. On a
    GPU nothing happens here: there they are trained one after the other.

    Parameters
    ----------
    tasks : sequence of Task
    folder, device, progress
        As for `fit`; the bar counts networks.
    """
    if device != "cpu":
        return
    for task in tasks:
        for scan in (*task.scans, *task.validation):
            _ = scan.checksum  # once, not in every process
    run_all(
        partial(_fit_task, folder=folder),
        tasks,
        n_jobs=min(MOST_AT_ONCE, joblib.cpu_count()),
        desc="training",
        unit="network",
        progress=progress,
    )


def _fit_task(task: Task, folder: Path) -> None:
    fit(task.recipe, task.scans, folder, validation=task.validation, start=task.start)


def fit(
    recipe: Recipe,
    scans: Sequence[Scan],
    folder: Path,
    *,
    validation: Sequence[Scan] = (),
    start: SliceNetwork | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Fitted:
    """Train a network on the scans, or read it if that was done before.

    A training that was killed goes on where it stopped. Each recipe, with the scans that it was
    given, has its own folder; when it is finished only the weights and the losses stay there.

    Parameters
    ----------
    recipe : Recipe
    scans : sequence of Scan
        All with pixels of one size.
    folder : Path
        Of all trainings.
    validation : sequence of Scan
        Scored after each epoch, if the recipe keeps the best one.
    start : SliceNetwork, optional
        A network of the recipe's size, whose weights are the first ones instead of random ones.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show a bar.
    """
    place = folder / f"{recipe.network}-{_digest(recipe, scans, validation, start)}"
    weights = place / "network.ckpt"
    if not weights.exists():
        _train_stages(recipe, scans, place, validation, start, device, progress)
    network = ready_to_predict(load_checkpoint(weights).network, device)
    losses, epochs = (pd.read_csv(place / f"{table}.csv") for table in ("losses", "epochs"))
    return Fitted(network, recipe, losses, epochs, place)


def patch_source(
    scans: Sequence[Scan],
    bones: Sequence[str],
    pixels: int,
    min_fraction: float,
    device: str = "cpu",
    context_mm: Sequence[float] = (0.0,),
) -> PatchSource:
    """Return patches of ``pixels`` x ``pixels`` of the scans, labelled with some of the bones.

    A bone that a scan has no label of is unknown there, not absent.
    """
    items = (
        replace(
            scan.item,
            labels={bone: mask for bone, mask in scan.item.labels.items() if bone in bones},
            context=slices_at(context_mm, scan.voxel_size_mm[2]),
        )
        for scan in scans
    )
    rule = PatchRule((pixels, pixels), TRIES, min_fraction)
    return PatchSource(items, rule, labels=bones, device=device)


@lru_cache(maxsize=6)
def _kept_source(
    scans: tuple[Scan, ...],
    bones: tuple[str, ...],
    pixels: int,
    fraction: float,
    device: str,
    context_mm: tuple[float, ...],
) -> PatchSource:
    """Return `patch_source`, the same one for trainings that follow each other."""
    return patch_source(scans, bones, pixels, fraction, device, context_mm)


def _train_stages(
    recipe: Recipe,
    scans: Sequence[Scan],
    place: Path,
    validation: Sequence[Scan],
    start: SliceNetwork | None,
    device: str,
    progress: bool,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(recipe.network, **recipe.arguments)
    if start is not None:
        _take_weights(network, start, recipe)
    losses, epochs = [], []
    for number, stage in enumerate(recipe.stages):
        wanted = (recipe.bones, stage.pixels, recipe.min_fraction, device, recipe.context_mm)
        source = _kept_source(tuple(scans), *wanted)

        def draw(n: int, generator: torch.Generator, source: PatchSource = source) -> Batch:
            return source.draw(n, generator, recipe.augmentation)

        last = number == len(recipe.stages) - 1
        validate = None
        if recipe.keep_best and last:
            if not validation:
                raise AnkleError("to keep the best epoch, give a scan to validate on")
            seen = _kept_source(tuple(validation), *wanted)
            validate = patch_validation(seen, recipe.n_validation)
        settings = TrainingSettings(
            steps_per_epoch=max(1, stage.steps // recipe.epochs),
            epochs=min(recipe.epochs, stage.steps),
            batch_size=stage.batch_size,
            learning_rate=stage.learning_rate,
            optimizer=recipe.optimizer,
            loss=recipe.loss,
            schedule=stage.schedule,  # type: ignore[arg-type]
            keep="best" if validate else "last",
            seed=recipe.seed * 1000 + number,
        )
        history = train(
            network,
            draw,
            validate,
            settings,
            place / f"stage-{number}",
            name=recipe.network,
            arguments=recipe.arguments,
            labels=recipe.bones,
            device=device,
            progress=progress,
        )
        losses.append(history.steps)
        epochs.append(history.epochs)
    write_csv(place / "losses.csv", _joined(losses))
    write_csv(place / "epochs.csv", _joined(epochs))
    save_checkpoint(
        place / "network.ckpt",
        network,
        name=recipe.network,
        arguments=recipe.arguments,
        labels=recipe.bones,
        training=json.loads(json.dumps(asdict(recipe))),
    )
    for number in range(len(recipe.stages)):  # the optimiser's state is twice the weights
        shutil.rmtree(place / f"stage-{number}", ignore_errors=True)


def _take_weights(network: SliceNetwork, start: SliceNetwork, recipe: Recipe) -> None:
    try:
        network.load_state_dict(start.state_dict())
    except RuntimeError:
        raise AnkleError(
            f"a {recipe.network} with {recipe.arguments} cannot start from the weights of a "
            "network of another size: build it alike, or start from random weights"
        ) from None


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put the stages' tables below each other, with steps that go on counting."""
    done, parts = 0, []
    for stage, table in enumerate(tables):
        parts.append(table.assign(step=table["step"] + done, stage=stage))
        done += int(table["step"].max())
    return pd.concat(parts, ignore_index=True)


def _digest(
    recipe: Recipe,
    scans: Sequence[Scan],
    validation: Sequence[Scan],
    start: SliceNetwork | None,
) -> str:
    """Tell one training from another by all that decides it, the code included."""
    seen = [[scan.code, scan.checksum] for scan in scans]
    if recipe.keep_best:
        seen += [[scan.code, scan.checksum] for scan in validation]
    begun = [] if start is None else [_weights_digest(start)]
    text = json.dumps([asdict(recipe), seen, _code(), *begun], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _weights_digest(network: SliceNetwork) -> str:
    digest = hashlib.sha256()
    for weights in network.state_dict().values():
        digest.update(weights.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def _code() -> str:
    return code_digest(networks, patches, training, sys.modules[__name__])
