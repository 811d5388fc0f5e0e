"""The report's experiments on reconstruction, why they came out smooth, and its four proposals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ankle_lib.patches.source import Batch
from ankle_lib.presets import BONES
from ankle_lib.reconstruction.bound import best_reachable, degrees_of_freedom, outside_reach
from ankle_lib.reconstruction.fitting import Trained
from ankle_lib.reconstruction.report import (
    REPORT_CORRELATION,
    ReportRecipe,
    decides,
    fit_report,
    outputs_of,
    patch_scores,
)
from ankle_lib.reconstruction.report_pairs import PARTS, Pairs, Target
from ankle_lib.reconstruction.weighting import LearntWeight, learn_weight

DISTANCES = {"L1": "weighted-l1", "L2": "weighted-l2"}

AS_IT_WAS = "L1"

PROPOSALS: dict[str, dict[str, Any]] = {
    "7x7 stem": {"stem": 7},
    "U-Net": {"network": "unet"},
    "FCN": {"network": "fcn"},
}
"""Larger filters first; other architectures. g is learnt by `weighting`."""


def recipe_of(pairs: Pairs, **changes: Any) -> ReportRecipe:
    """Return the report's recipe at this preset's number of steps, with changes."""
    return replace(ReportRecipe(steps=pairs.sizes.pair_steps), **changes)


def compare_distances(pairs: Pairs) -> tuple[pd.DataFrame, dict[str, Trained]]:
    """Train with both distances, on the target of 2020 (report, Table 6.5).

    Returns
    -------
    table : DataFrame
        Columns method (L1, L2), bone, those of `ImageScores`, part, and report_correlation, which
        is one number for all bones.
    networks : dict
        The trained networks by distance.
    """
    tables, networks = [], {}
    for name, loss in DISTANCES.items():
        fitted = networks[name] = fit_report(pairs, recipe_of(pairs, loss=loss))
        tables.append(patch_scores(pairs, _answers(fitted), name, "sampled"))
    table = pd.concat(tables, ignore_index=True)
    keys = zip(table["method"], table["part"], strict=True)
    return table.assign(report_correlation=[REPORT_CORRELATION[key] for key in keys]), networks


def vary_depth(pairs: Pairs) -> pd.DataFrame:
    """Train ResNets of several depths (report, Fig. 6.16).

    Returns
    -------
    DataFrame
        Columns depth, factor, parameters, part, correlation, and bound: the largest correlation
        that any weights reach with this factor.
    """
    rows = []
    for depth in pairs.sizes.depths:
        # the report's own depth is the network of Table 6.5
        recipe = recipe_of(pairs, depth=None if depth == 3 else depth)
        fitted = fit_report(pairs, recipe)
        found = patch_scores(pairs, _answers(fitted), "", "sampled")
        most = _bound_scores(pairs, "sampled", recipe.factor)
        for part in PARTS:
            mean, bound = (
                float(table.loc[table["part"] == part, "correlation"].mean())
                for table in (found, most)
            )
            rows.append((depth, recipe.factor, fitted.parameters, part, mean, bound))
    columns = ["depth", "factor", "parameters", "part", "correlation", "bound"]
    return pd.DataFrame(rows, columns=columns)


def bounds(pairs: Pairs, networks: dict[str, Trained]) -> pd.DataFrame:
    """Compare what was trained with the best that any weights of this architecture reach.

    Returns
    -------
    DataFrame
        Columns method, bone, those of `ImageScores`, part; methods are the frame as it is, the
        trained networks, and ``any weights``.
    """
    tables = [patch_scores(pairs, lambda batch: batch.image, "frame as it is", "sampled")]
    for name, fitted in networks.items():
        tables.append(patch_scores(pairs, _answers(fitted), f"ResNet, {name}", "sampled"))
    tables.append(_bound_scores(pairs, "sampled"))
    return pd.concat(tables, ignore_index=True)


def within_reach(pairs: Pairs, fitted: Trained) -> dict[str, float]:
    """Return how far a trained network's outputs lie from what the bound says it can give.

    Returns
    -------
    dict
        ``degrees``: numbers it can choose; ``pixels``: numbers in a patch; ``outside``: largest
        part of an output that is not reachable, 0 but for rounding.
    """
    images = pairs.scored["validation", "sampled", BONES[0]].image
    outside = outside_reach(outputs_of(fitted.network, images))
    degrees = degrees_of_freedom(pairs.pixels)
    return {"degrees": degrees, "pixels": pairs.pixels**2, "outside": outside}


def compare_proposals(pairs: Pairs) -> tuple[pd.DataFrame, LearntWeight, dict[str, Trained]]:
    """Train what the report proposed, each change alone, on the target of 2020.

    Returns
    -------
    table : DataFrame
        Columns method, bone, those of `ImageScores`, part.
    weight : LearntWeight
        The g that was learnt.
    networks : dict
        By method.
    """
    networks = {"as it was": fit_report(pairs, recipe_of(pairs))}
    recipe = recipe_of(pairs)
    networks["g learnt"], weight = learn_weight(
        pairs.folder,
        ["g", *decides(pairs, recipe)],
        pairs.sources["sampled"],
        recipe.arguments,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        device=pairs.device,
    )
    for name, changes in PROPOSALS.items():
        networks[name] = fit_report(pairs, recipe_of(pairs, **changes))
    tables = [
        patch_scores(pairs, _answers(fitted), name, "sampled") for name, fitted in networks.items()
    ]
    return pd.concat(tables, ignore_index=True), weight, networks


def shown_patches(
    pairs: Pairs, fitted: Trained, n: int = 6, part: str = "validation"
) -> dict[str, NDArray]:
    """Return patches to be shown (report, Figs 6.18 and 6.19).

    Returns
    -------
    dict
        ``frame``, ``target``, ``network``, ``any weights`` and ``difference`` (network - target) to
        (n, h, w) arrays; two patches of each bone by default.
    """
    each = max(1, n // len(BONES))
    batches = [pairs.scored[part, "sampled", bone] for bone in BONES]
    images = torch.cat([batch.image[:each] for batch in batches])
    targets = torch.cat([batch.target[:each] for batch in batches])
    rows: dict[str, Tensor] = {
        "frame": images,
        "target": targets,
        "network": outputs_of(fitted.network, images),
        "any weights": best_reachable(targets),
    }
    rows["difference"] = rows["network"] - targets
    return {name: tensor[:, 0].float().cpu().numpy() for name, tensor in rows.items()}


def _answers(fitted: Trained) -> Callable[[Batch], Tensor]:
    def answer(batch: Batch) -> Tensor:
        return outputs_of(fitted.network, batch.image)

    return answer


def _bound_scores(pairs: Pairs, target: Target, factor: int = 4) -> pd.DataFrame:
    return patch_scores(
        pairs, lambda batch: best_reachable(batch.target, factor), "any weights", target
    )
