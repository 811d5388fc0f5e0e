"""The weight g of a pair of patches, learnt with the network (the report's second proposal).

The report fixed g by eye and proposed to learn it, were it not for the trivial answer: if g is 0,
so is the loss. That answer disappears if a weight is understood as a promise of precision. An error
that follows a Laplace distribution of scale s has the negative logarithm d / s + log s; with
g = 1 / s this is g·d - log g. A small g now costs. Of the error as a function of the correlation r
we assume log g = a + b (r - 0.6), with b >= 0: two parameters, rising.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from ankle_lib.learning.losses import report_weight
from ankle_lib.learning.recipes import Recipe
from ankle_lib.learning.training import WEIGHTS, Trained, keep_trained, place_of, read_trained
from ankle_lib.presets import BONES
from ankle_lib.reconstruction.report_pairs import LOWEST_R, Pairs, places_of

WEIGHT_RATE = 0.05
"""Learning rate of the two parameters: they see every patch and settle within a few dozen steps."""


@dataclass(frozen=True)
class LearntWeight:
    """log g = level + slope (r - 0.6)."""

    level: float
    slope: float

    def __call__(self, correlation: ArrayLike) -> NDArray[np.float64]:
        """Return g, scaled so that g(1) = 1: only the ratio of two weights matters."""
        r = np.asarray(correlation, dtype=np.float64)
        return np.exp(self.slope * (r - 1.0))


def report_g(correlation: ArrayLike) -> NDArray[np.float64]:
    """Return the report's g(r) = 1 / (1 + exp(-10 (r - 0.5))) (its Fig. 6.15)."""
    return report_weight(torch.from_numpy(np.array(correlation, dtype=np.float64))).numpy()


def flatness(correlation: ArrayLike) -> dict[str, float]:
    """Return how flat the report's g is over pairs.

    Returns
    -------
    dict
        ``g_low``, ``g_median``, ``g_high``: 5th, 50th and 95th percentile; ``g_least``;
        ``as_good_as``: which part of the pairs, weighted alike, would have the same variance,
        (Σg)² / (n Σg²). 1 is flat.
    """
    g = report_g(correlation)
    found = dict(zip(("g_low", "g_median", "g_high"), np.percentile(g, [5, 50, 95]), strict=True))
    return {"g_least": g.min(), **found, "as_good_as": g.sum() ** 2 / (g.size * (g**2).sum())}


def flat_weights(pairs: Pairs) -> pd.DataFrame:
    """Return how flat g is over the training pairs of each bone, see `flatness`."""
    rows = []
    for bone in BONES:
        r = pairs.scored["train", bone].correlation.cpu().numpy()
        rows.append({"bone": bone, "r_least": float(r.min()), **flatness(r)})
    return pd.DataFrame(rows)


def learn_weight(pairs: Pairs, recipe: Recipe) -> tuple[Trained, LearntWeight]:
    """Train a network and g together, or read both if that was done before.

    The recipe's loss is not used: it is g·d - log g, d being the mean absolute difference.
    """
    decides = [pairs.decides, "g learnt"]
    place = place_of(recipe, learn_weight, pairs.folder, decides=decides)
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
        losses, began = [], time.perf_counter()
        for _ in range(stage.steps):
            batch = pairs.source.draw(stage.batch_size, generator)
            error = (network(batch.image) - batch.target).abs().mean((1, 2, 3))
            # the slope is never negative: a better match must not count less
            log_g = level + functional.softplus(raw_slope) * (batch.correlation - LOWEST_R)
            loss = (log_g.exp() * error - log_g).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        rate = stage.steps * stage.batch_size / (time.perf_counter() - began)
        table = pd.DataFrame({"step": np.arange(1, stage.steps + 1), "loss": losses})
        epochs = pd.DataFrame({"step": [stage.steps], "samples_per_s": [rate]})
        slope = functional.softplus(raw_slope)
        found = {"level": float(level.detach()), "slope": float(slope.detach())}
        keep_trained(place, network, recipe, table, epochs, found)
    trained = read_trained(place, recipe, pairs.device)
    return trained, LearntWeight(**trained.notes)


def weights_and_truth(pairs: Pairs, weight: LearntWeight, registered: Path) -> pd.DataFrame:
    """Set both weights beside the true misregistration, which only a simulation knows.

    Parameters
    ----------
    pairs : Pairs
    weight : LearntWeight
    registered : Path
        Folder of chapter 03, whose ``registration.csv`` holds ``tre_mm``.

    Returns
    -------
    DataFrame
        Columns subject, sequence, frame, bone, correlation, report_g, learnt_g, tre_mm; one row
        per pair. ``tre_mm`` is empty for real scans.
    """
    table = pd.concat([places_of(pairs.scored["train", b]) for b in BONES], ignore_index=True)
    errors = pd.read_csv(registered / "tables" / "registration.csv")
    keys = ["subject", "sequence", "frame", "bone"]
    table = table.merge(errors[[*keys, "tre_mm"]], on=keys, how="left")
    r = table["correlation"].to_numpy()
    return table.assign(report_g=report_g(r), learnt_g=weight(r))
