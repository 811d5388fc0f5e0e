"""A network that is trained once: it stays in a folder named after all that decides it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import joblib
import pandas as pd

from ankle_lib import cache
from ankle_lib.files import AnkleError, write_csv
from ankle_lib.learning.architectures import SliceNetwork
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.loop import DrawBatch, Validate, train
from ankle_lib.learning.networks import parameter_count, ready_to_predict
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.parallel import run_all

WEIGHTS = "network.ckpt"

MOST_AT_ONCE = 4
"""Networks trained side by side: each process takes most of a gigabyte."""

Answer = TypeVar("Answer")


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
    notes : dict
        What else its checkpoint says of the training.
    """

    network: SliceNetwork
    recipe: Recipe
    losses: pd.DataFrame
    epochs: pd.DataFrame
    folder: Path
    notes: Mapping[str, Any] = field(default_factory=dict)

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
    device: str = "cpu",
    progress: bool = False,
) -> Trained:
    """Train a network, or read it if that was done before.

    A training that was killed goes on where it stopped. Each recipe, with what it is given, has
    its own folder; when it is finished only the weights, losses and epochs stay there.

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
        Returns the validation of the last stage, if the recipe keeps the best epoch.
    start : SliceNetwork, optional
        A network of the recipe's size, whose weights are the first ones instead of random ones.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show a bar.

    Examples
    --------
    >>> recipe = Recipe((Stage(64, 400),), labels=("talus",))
    >>> trained = train_once(recipe, lambda stage: source.draw, folder, decides=checksums)
    """
    first = None
    if start is not None:
        first = [weights.cpu().numpy() for weights in start.state_dict().values()]
    place = place_of(recipe, draws, folder, decides=[decides, first])
    if not (place / WEIGHTS).exists():
        network = recipe.fresh()
        if start is not None:
            _take_weights(network, start)
        last, tables = len(recipe.stages) - 1, []
        for number, stage in enumerate(recipe.stages):
            validate = None
            if recipe.keep_best and number == last:
                if validates is None:
                    raise AnkleError("to keep the best epoch, give a scan to validate on")
                validate = validates(stage)
            trained = train(
                network,
                recipe,
                draws(stage),
                place / f"stage-{number}",
                stage=number,
                validate=validate,
                device=device,
                progress=progress,
            )
            tables.append(trained)
        losses, epochs = (joined(of_stages) for of_stages in zip(*tables, strict=True))
        keep_trained(place, network, recipe, losses, epochs)
        for number in range(len(recipe.stages)):  # the optimiser's state is twice the weights
            shutil.rmtree(place / f"stage-{number}", ignore_errors=True)
    return read_trained(place, recipe, device)


def train_side_by_side(
    trainings: Sequence[Callable[[], Trained]], *, device: str = "cpu", progress: bool = False
) -> list[Trained]:
    """Train several networks, side by side on a CPU; what was trained before is read.

    Small networks on small patches leave most of a processor idle, so each gets one core. On a
    GPU they are trained one after the other.

    Parameters
    ----------
    trainings : sequence of callables without arguments
        Each trains a network once, e.g. a `functools.partial` of `scans.train_on_scans`.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show a bar that counts networks.
    """
    if device == "cpu":
        n_jobs = min(MOST_AT_ONCE, joblib.cpu_count())
        words: dict[str, Any] = {"desc": "training", "unit": "network", "progress": progress}
        run_all(_done, trainings, n_jobs=n_jobs, **words)
    return [training() for training in trainings]


def _done(training: Callable[[], Trained]) -> None:
    training()


def place_of(recipe: Recipe, work: Callable[..., Any], folder: Path, *, decides: Any) -> Path:
    """Return the folder of a training, named after all that decides it, the code included."""
    decides = [recipe, decides, cache.code_digest(train_once)]
    return cache.folder_for(folder, recipe.network, work, decides)


def keep_trained(
    place: Path,
    network: SliceNetwork,
    recipe: Recipe,
    losses: pd.DataFrame,
    epochs: pd.DataFrame,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a finished training for `read_trained`: tables first, weights last."""
    write_csv(place / "losses.csv", losses)
    write_csv(place / "epochs.csv", epochs)
    training = {"recipe": json.loads(json.dumps(asdict(recipe))), "notes": dict(notes or {})}
    save_checkpoint(place / WEIGHTS, network, labels=recipe.labels, training=training)


def read_trained(place: Path, recipe: Recipe, device: str = "cpu") -> Trained:
    """Read a finished training."""
    checkpoint = load_checkpoint(place / WEIGHTS)
    losses, epochs = (pd.read_csv(place / f"{table}.csv") for table in ("losses", "epochs"))
    network = ready_to_predict(checkpoint.network, device)
    return Trained(network, recipe, losses, epochs, place, checkpoint.training["notes"])


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put the stages' tables below each other, with steps that go on counting."""
    done, parts = 0, []
    for stage, table in enumerate(tables):
        parts.append(table.assign(step=table["step"] + done, stage=stage))
        done += int(table["step"].max())
    return pd.concat(parts, ignore_index=True)


def _take_weights(network: SliceNetwork, start: SliceNetwork) -> None:
    try:
        network.load_state_dict(start.state_dict())
    except RuntimeError:
        raise AnkleError(
            f"a {network.name} with {network.arguments} cannot start from the weights of a "
            "network of another size: build it alike, or start from random weights"
        ) from None
