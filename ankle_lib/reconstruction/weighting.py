"""The weight g of a pair of patches, learnt with the network (the report's second proposal).

The report fixed g by eye and proposed to learn it, were it not for the trivial answer: if g is 0,
so is the loss. That answer disappears if a weight is understood as a promise of precision. An error
that follows a Laplace distribution of scale s has the negative logarithm d / s + log s; with
g = 1 / s this is g·d - log g. A small g now costs. Of the error as a function of the correlation r
we assume log g = a + b (r - 0.6), with b >= 0: two parameters, rising.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from ankle_lib.cache import code_digest
from ankle_lib.learning.losses import report_weight
from ankle_lib.learning.networks import build
from ankle_lib.patches.source import PatchSource
from ankle_lib.reconstruction.fitting import Trained, kept, place_of, read_kept

LOWEST_R = 0.6
"""Pairs below are not kept (report, section 6.3.1)."""

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
    low, median, high = np.percentile(g, [5, 50, 95])
    return {
        "g_least": float(g.min()),
        "g_low": float(low),
        "g_median": float(median),
        "g_high": float(high),
        "as_good_as": float(g.sum() ** 2 / (g.size * (g**2).sum())),
    }


class _Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))
        self.raw_slope = nn.Parameter(torch.zeros(()))

    @property
    def slope(self) -> Tensor:
        """Never negative: a better match must not count less."""
        return functional.softplus(self.raw_slope)

    def forward(self, correlation: Tensor) -> Tensor:
        """Return log g."""
        return self.level + self.slope * (correlation - LOWEST_R)


def learn_weight(
    folder: Path,
    decides: Any,
    source: PatchSource,
    arguments: dict[str, Any],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    name: str = "resnet-basic",
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Trained, LearntWeight]:
    """Train a network and g together, or read both if that was done before.

    Parameters
    ----------
    folder, decides
        As for `fitting.trained`.
    source : PatchSource
        Of pairs.
    arguments, name
        Of `networks.build`.
    steps, batch_size, learning_rate, seed
        As in the report.
    device : str
        "cpu" or "cuda".
    """
    place = place_of(folder, f"{name}-g", [decides, code_digest(learn_weight)])
    if not (place / "network.ckpt").exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build(name, head="intensity", **arguments).to(device).train()
        weight = _Weight().to(device)
        optimizer = torch.optim.Adam(
            [
                {"params": network.parameters(), "lr": learning_rate},
                {"params": weight.parameters(), "lr": WEIGHT_RATE},
            ]
        )
        generator = torch.Generator(device).manual_seed(seed)
        losses = []
        for _ in range(steps):
            batch = source.draw(batch_size, generator)
            error = (network(batch.image) - batch.target).abs().mean((1, 2, 3))
            log_g = weight(batch.correlation)
            loss = (log_g.exp() * error - log_g).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        table = pd.DataFrame({"step": np.arange(1, steps + 1), "loss": losses})
        found = {"level": float(weight.level.detach()), "slope": float(weight.slope.detach())}
        notes = {"samples_per_s": 0.0, "weight": found}
        kept(place, network, table, json.loads(json.dumps(decides)), notes)
    result = read_kept(place, device)
    return result, LearntWeight(**result.training["weight"])
