"""The report's reconstruction networks (its section 6.3), and what no weights of them exceed.

The report's ResNet enlarges its features by 4, bilinearly, and mixes them by a 1×1 convolution.
Both are linear and act on different axes, so they commute: the output is one coarse image,
enlarged. Of a patch of 32 × 32 pixels it can choose 8 × 8 = 64 numbers, the others follow.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib import cache
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.losses import report_weight
from ankle_lib.learning.networks import SliceNetwork, ready_to_predict
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.training import WEIGHTS, Trained, train_once
from ankle_lib.metrics import ImageScores, image_scores
from ankle_lib.parallel import enough_memory, in_batches
from ankle_lib.patches.source import Batch
from ankle_lib.presets import BONES
from ankle_lib.reconstruction.report_pairs import LOWEST_R, PARTS, Pairs

PATCH_RANGE = 6.0
"""Data range of patches: their bone's mean plus and minus 3 standard deviations."""

REPORT_FACTOR = 4
"""By which the report's ResNet with three stages enlarges; two stages enlarge by 2, one by 1."""

AT_ONCE = 64

WEIGHT_RATE = 0.05
"""Learning rate of the two parameters of g: they see every patch and settle within a few dozen
steps."""

Answer = Callable[[Batch], Tensor]
"""Maps a batch to what should look like its targets."""


def report_recipe(steps: int, **changes: Any) -> Recipe:
    """Return how the report trains its networks (section 6.3.2), with changes.

    Batches of 16, a learning rate of 0.001, the L1 distance weighted by g.
    """
    usual = {"network": "resnet-basic", "loss": "weighted-l1", "epochs": Recipe.epochs_for(steps)}
    settings: dict[str, Any] = usual | changes
    stage = Stage(None, steps, batch_size=16, learning_rate=1e-3)
    return Recipe((stage,), labels=("intensity",), **settings)


def train_on_pairs(pairs: Pairs, recipe: Recipe) -> Trained:
    """Train a network on the pairs, or read it if that was done before."""
    return train_once(
        recipe,
        lambda stage: pairs.source.draw,
        pairs.folder,
        decides=pairs.decides,
        device=pairs.device,
    )


def outputs_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return a network's output on patches, shape (n, 1, h, w), in full precision."""
    with torch.inference_mode():
        return torch.cat(in_batches(network, images, at_once=AT_ONCE))


def answer_of(network: nn.Module) -> Answer:
    """Return what a trained network makes of the patches of a batch."""
    return lambda batch: outputs_of(network, batch.image)


def score_patches(pairs: Pairs, answers: Mapping[str, Answer]) -> pd.DataFrame:
    """Return the mean scores of patches, per method, part and bone.

    Parameters
    ----------
    pairs : Pairs
    answers : mapping of a method's name to what it makes of a batch

    Returns
    -------
    DataFrame
        Columns method, bone, those of `ImageScores`, part; the data range is `PATCH_RANGE`.

    Examples
    --------
    >>> trained = train_on_pairs(pairs, report_recipe(steps=100))
    >>> score_patches(pairs, {"ResNet": answer_of(trained.network)})
    """
    rows = []
    for method, answer in answers.items():
        for part in PARTS:
            for bone in BONES:
                batch = pairs.scored[part, bone]
                given, wanted = (
                    tensor[:, 0].float().cpu().numpy() for tensor in (answer(batch), batch.target)
                )
                scores = [
                    image_scores(one, two, data_range=PATCH_RANGE)
                    for one, two in zip(given, wanted, strict=True)
                ]
                means = ImageScores(*np.mean(scores, axis=0).tolist())
                rows.append({"method": method, "bone": bone, **means._asdict(), "part": part})
    return pd.DataFrame(rows)


# --- what no weights exceed ---


def degrees_of_freedom(pixels: int, factor: int = REPORT_FACTOR) -> int:
    """Return how many numbers decide a patch of ``pixels`` x ``pixels``: 64 of 1,024 for 32."""
    return (-(-pixels // factor)) ** 2


@functools.cache
def reachable_basis(pixels: int, factor: int = REPORT_FACTOR) -> NDArray[np.float64]:
    """Return an orthonormal basis of all outputs that a network can give.

    Every coarse pixel by itself is enlarged by the network's own operation, which gives the
    columns; they are made orthonormal. A constant is among the outputs: the weights of an
    enlargement sum to 1.

    Parameters
    ----------
    pixels : int
        Rows and columns of a patch.
    factor : int
        By which the network enlarges.

    Returns
    -------
    (pixels², degrees of freedom) float64 array
    """
    side = -(-pixels // factor)
    units = torch.eye(side * side, dtype=torch.float64).reshape(-1, 1, side, side)
    enlarged = functional.interpolate(units, scale_factor=factor, mode="bilinear")
    columns = enlarged[:, 0, :pixels, :pixels].reshape(side * side, -1).T
    return np.linalg.qr(columns.numpy())[0]


def best_reachable(targets: Tensor, factor: int = REPORT_FACTOR) -> Tensor:
    """Return the output nearest to each target: no weights give a smaller squared error.

    Nor a larger correlation: the outputs hold every constant, so that what is nearest is also most
    alike.

    Parameters
    ----------
    targets : (n, 1, h, h) tensor
    factor : int
        By which the network enlarges; 1 reaches everything.

    Returns
    -------
    (n, 1, h, h) float32 tensor
    """
    basis = torch.from_numpy(reachable_basis(targets.shape[-1], factor)).to(targets.device)
    flat = targets.flatten(1).double()
    return ((flat @ basis) @ basis.T).reshape(targets.shape).float()


def any_weights(factor: int = REPORT_FACTOR) -> Answer:
    """Return what the best of all weights would make of a batch, see `best_reachable`."""
    return lambda batch: best_reachable(batch.target, factor)


def outside_reach(outputs: Tensor, factor: int = REPORT_FACTOR) -> float:
    """Return the largest distance of outputs from what can be reached, as part of their size.

    0 but for rounding if the statement holds for the network that gave them.

    Parameters
    ----------
    outputs : (n, 1, h, h) tensor
    factor : int
    """
    rest = outputs.double() - best_reachable(outputs, factor).double()
    sizes = outputs.double().flatten(1).norm(dim=1).clamp_min(1e-12)
    return float((rest.flatten(1).norm(dim=1) / sizes).max())


# --- the weight g of a pair, learnt with the network: the report's second proposal ---


def report_g(correlation: ArrayLike) -> NDArray[np.float64]:
    """Return the report's g(r) = 1 / (1 + exp(-10 (r - 0.5))) (its Fig. 6.15)."""
    return report_weight(torch.from_numpy(np.array(correlation, dtype=np.float64))).numpy()


def learnt_g(correlation: ArrayLike, slope: float) -> NDArray[np.float64]:
    """Return exp(slope (r - 1)): g(1) = 1, for only the ratio of two weights matters."""
    return np.exp(slope * (np.asarray(correlation, dtype=np.float64) - 1.0))


@enough_memory("take a smaller batch")
def learn_weight(pairs: Pairs, recipe: Recipe) -> tuple[SliceNetwork, float]:
    """Train a network and g together, or read both if that was done before.

    The report fixed g by eye and proposed to learn it, were it not for the trivial answer: if g is
    0, so is the loss. That answer disappears if a weight is understood as a promise of precision.
    An error d, the mean absolute difference, that follows a Laplace distribution of scale s has
    the negative logarithm d / s + log s; with g = 1 / s this is g·d - log g, which takes the place
    of the recipe's loss. A small g now costs. Of the error as a function of the correlation r we
    assume log g = a + b (r - 0.6), with b >= 0: two parameters, rising.

    Returns
    -------
    network : SliceNetwork
    slope : float
        Of `learnt_g`.

    Raises
    ------
    AnkleError
        If a GPU's memory does not hold a step.
    """
    place = cache.folder_for(pairs.folder, "g-learnt", learn_weight, [recipe, pairs.decides])
    if not (place / WEIGHTS).exists():
        (stage,) = recipe.stages
        network = recipe.fresh().to(pairs.device).train()
        level, raw_slope = (torch.zeros((), device=pairs.device).requires_grad_() for _ in range(2))
        optimizer = torch.optim.Adam(
            [
                {"params": network.parameters(), "lr": stage.learning_rate},
                {"params": [level, raw_slope], "lr": WEIGHT_RATE},
            ]
        )
        generator = torch.Generator(pairs.device).manual_seed(recipe.seed)
        for _ in range(stage.steps):
            batch = pairs.source.draw(stage.batch_size, generator)
            error = (network(batch.image) - batch.target).abs().mean((1, 2, 3))
            # the slope is never negative: a better match must not count less
            log_g = level + functional.softplus(raw_slope) * (batch.correlation - LOWEST_R)
            loss = (log_g.exp() * error - log_g).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = {"slope": float(functional.softplus(raw_slope.detach()))}
        save_checkpoint(place / WEIGHTS, network, labels=recipe.labels, training=found)
    checkpoint = load_checkpoint(place / WEIGHTS)
    return ready_to_predict(checkpoint.network, pairs.device), checkpoint.training["slope"]
