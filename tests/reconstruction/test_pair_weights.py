from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ankle_lib.patches.source import Batch
from ankle_lib.presets import BONES
from ankle_lib.reconstruction.pair_weights import (
    LearntWeight,
    flat_weights,
    flatness,
    learn_weight,
    report_g,
    weights_and_truth,
)
from ankle_lib.reconstruction.report_networks import report_recipe
from ankle_lib.reconstruction.report_pairs import Pairs


def test_the_reports_weight_is_flat_above_its_selection() -> None:
    assert report_g([0.5])[0] == pytest.approx(0.5)
    found = flatness(np.linspace(0.6, 1.0, 401))
    assert found["g_least"] == pytest.approx(0.731, abs=1e-3)
    assert found["g_high"] < 0.994
    assert found["as_good_as"] > 0.99
    uneven = flatness(np.linspace(0.0, 1.0, 401))  # without the selection
    assert uneven["as_good_as"] < 0.75


class Patches:
    """Pairs whose error grows as their correlation falls."""

    device = torch.device("cpu")

    def draw(self, n: int, generator: torch.Generator) -> Any:
        r = 0.6 + 0.4 * torch.rand(n, generator=generator)
        noise = torch.randn((n, 1, 8, 8), generator=generator)
        target = noise * torch.exp(-4 * (r - 0.6))[:, None, None, None]
        ones = torch.ones((n, 1), dtype=torch.bool)
        return Batch(torch.zeros_like(target), target, ones, r, torch.zeros((n, 3)), str)


def test_a_learnt_weight_is_not_zero_and_follows_the_error(pairs: Pairs, tmp_path: Path) -> None:
    source: Any = Patches()
    toy = replace(pairs, source=source, decides="toy", folder=tmp_path)
    recipe = report_recipe(400, network="fcn", depth=1, width=1)
    trained, weight = learn_weight(toy, recipe)
    assert weight.slope == pytest.approx(4.0, abs=1.0)
    assert float(weight(1.0)) == 1.0
    assert 0.1 < float(weight(0.6)) < 0.4
    assert np.isfinite(trained.losses["loss"]).all()
    assert trained.samples_per_s > 0
    again, same = learn_weight(toy, recipe)
    assert same == weight
    assert again.folder == trained.folder


def test_a_better_match_never_counts_less() -> None:
    r = np.linspace(0.6, 1, 50)
    assert (np.diff(LearntWeight(1.0, 0.3)(r)) > 0).all()


def test_what_the_weights_know(pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    rows = [("T01", "active_run-01", 0, bone, 0.2 + n) for n, bone in enumerate(BONES)]
    columns = ["subject", "sequence", "frame", "bone", "tre_mm"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "tables" / "registration.csv")
    known = weights_and_truth(pairs, LearntWeight(0.0, 2.0), tmp_path)
    assert known.loc[known["bone"] == "talus", "tre_mm"].unique().tolist() == [1.2]
    np.testing.assert_allclose(
        known["report_g"], 1 / (1 + np.exp(-10 * (known["correlation"] - 0.5)))
    )
    assert (flat_weights(pairs)["g_least"] > 0.73).all()
