"""The report's reconstruction networks (its section 6.3): how they are trained and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ankle_lib.metrics import ImageScores, image_scores
from ankle_lib.patches.source import Batch
from ankle_lib.presets import BONES
from ankle_lib.reconstruction.fitting import Trained, trained
from ankle_lib.reconstruction.report_pairs import PARTS, Pairs, Target

PATCH_RANGE = 6.0
"""Data range of patches: their bone's mean plus and minus 3 standard deviations."""

REPORT_CORRELATION = {
    ("L1", "train"): 0.83,
    ("L1", "validation"): 0.71,
    ("L2", "train"): 0.84,
    ("L2", "validation"): 0.71,
}
"""Table 6.5: mean correlation of output and target patches."""


@dataclass(frozen=True)
class ReportRecipe:
    """How a network is trained on pairs; the report's by default."""

    network: str = "resnet-basic"
    depth: int | None = None
    stem: int | None = None
    loss: str = "weighted-l1"
    target: Target = "sampled"
    steps: int = 100
    batch_size: int = 16
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """What `networks.build` is called with, besides the head."""
        sizes = {"depth": self.depth, "stem": self.stem}
        return {name: value for name, value in sizes.items() if value is not None}

    @property
    def factor(self) -> int:
        """By how much the network enlarges in its last step; 1 if it does not end so."""
        return 2 ** ((self.depth or 3) - 1) if self.network.startswith("resnet") else 1


def fit_report(pairs: Pairs, recipe: ReportRecipe, *, progress: bool = False) -> Trained:
    """Train a network on the pairs, or read it if that was done before."""
    source = pairs.sources[recipe.target]
    return trained(
        pairs.folder,
        decides(pairs, recipe),
        recipe.network,
        recipe.arguments,
        lambda: source.draw,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        loss=recipe.loss,
        seed=recipe.seed,
        device=pairs.device,
        progress=progress,
    )


def decides(pairs: Pairs, recipe: ReportRecipe) -> Any:
    """Return all that decides a training on pairs."""
    return [asdict(recipe), pairs.split.train, pairs.pixels, pairs.stamp]


def outputs_of(network: torch.nn.Module, images: Tensor, at_once: int = 64) -> Tensor:
    """Return the network's output on patches, shape (n, 1, h, w)."""
    with torch.inference_mode():
        return torch.cat([network(part) for part in images.split(at_once)])


def patch_scores(
    pairs: Pairs,
    answer: Callable[[Batch], Tensor],
    method: str,
    target: Target,
    parts: Sequence[str] = PARTS,
) -> pd.DataFrame:
    """Return the mean scores of patches, per part and bone.

    Parameters
    ----------
    pairs : Pairs
    answer : callable
        Maps a batch to what should look like its targets.
    method : str
        Name in the table.
    target : {"sampled", "averaged"}
    parts : sequence of str

    Returns
    -------
    DataFrame
        Columns method, bone, those of `ImageScores`, part; the data range is `PATCH_RANGE`.
    """
    rows = []
    for part in parts:
        for bone in BONES:
            batch = pairs.scored[part, target, bone]
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
