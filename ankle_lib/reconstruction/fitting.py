"""A training that is done once: the network stays in a folder named after all that decides it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ankle_lib.cache import code_digest
from ankle_lib.files import write_csv
from ankle_lib.learning.architectures import SliceNetwork
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.checkpoints import save_checkpoint as save
from ankle_lib.learning.loop import DrawBatch, train
from ankle_lib.learning.networks import build, parameter_count, ready_to_predict
from ankle_lib.learning.settings import TrainingSettings
from ankle_lib.reconstruction.pairs import SceneSource

WEIGHTS = "network.ckpt"
EPOCHS = 5
"""The report's; after each, a training that is killed goes on."""


@dataclass(frozen=True)
class Trained:
    """A trained network, in evaluation mode.

    Attributes
    ----------
    network : SliceNetwork
    losses : DataFrame
        Columns step, loss, learning_rate.
    samples_per_s : float
        While it was trained.
    training : dict
        What its checkpoint says about the training.
    folder : Path
        Of the training.
    """

    network: SliceNetwork
    losses: pd.DataFrame
    samples_per_s: float
    training: dict[str, Any]
    folder: Path

    @property
    def parameters(self) -> int:
        """Trained parameters."""
        return parameter_count(self.network)


def trained(
    folder: Path,
    decides: Any,
    name: str,
    arguments: Mapping[str, Any],
    draw: Callable[[], DrawBatch],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    loss: str,
    optimizer: str = "adam",
    schedule: str = "constant",
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> Trained:
    """Train a network that gives intensities, or read it if that was done before.

    Parameters
    ----------
    folder : Path
        Of all trainings.
    decides : JSON value
        Everything that decides the network: the recipe and the checksums of what it sees.
    name, arguments
        Of `networks.build`.
    draw : callable
        Returns what draws batches (see `training.train`); called only if there is something to do.
    steps, batch_size, learning_rate, loss, optimizer, schedule, seed
        See `TrainingSettings`.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show a bar.
    """
    place = place_of(folder, name, decides)
    if not (place / WEIGHTS).exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(name, head="intensity", **arguments)
        settings = TrainingSettings(
            steps=steps,
            epochs=EPOCHS,
            batch_size=batch_size,
            learning_rate=learning_rate,
            loss=loss,
            optimizer=optimizer,
            schedule=schedule,
            seed=seed,
        )
        history = train(
            network,
            draw(),
            None,
            settings,
            place / "steps",
            labels=("intensity",),
            device=device,
            progress=progress,
        )
        speed = float(history.epochs["samples_per_s"].median())
        kept(place, network, history.steps, decides, {"samples_per_s": speed})
        shutil.rmtree(place / "steps", ignore_errors=True)
    return read_kept(place, device)


def place_of(folder: Path, name: str, decides: Any) -> Path:
    """Return the folder of a training, named after all that decides it, the code included."""
    text = json.dumps(
        [decides, code_digest(trained), code_digest(SceneSource)], sort_keys=True, default=str
    )
    return folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def kept(
    place: Path,
    network: SliceNetwork,
    losses: pd.DataFrame,
    decides: Any,
    notes: Mapping[str, Any],
) -> None:
    """Write a finished training: losses first, weights last."""
    write_csv(place / "losses.csv", losses)
    save(
        place / WEIGHTS,
        network,
        labels=("intensity",),
        training=json.loads(json.dumps({"decides": decides, **notes}, default=str)),
    )


def read_kept(place: Path, device: str = "cpu") -> Trained:
    """Read a finished training."""
    checkpoint = load_checkpoint(place / WEIGHTS)
    losses = pd.read_csv(place / "losses.csv")
    speed = float(checkpoint.training["samples_per_s"])
    network = ready_to_predict(checkpoint.network, device)
    return Trained(network, losses, speed, checkpoint.training, place)
