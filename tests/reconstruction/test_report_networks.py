from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.networks import build
from ankle_lib.patches.source import Batch
from ankle_lib.reconstruction.report_networks import (
    answer_of,
    any_weights,
    best_reachable,
    degrees_of_freedom,
    learn_weight,
    learnt_g,
    outputs_of,
    outside_reach,
    reachable_basis,
    report_g,
    report_recipe,
    score_patches,
    train_on_pairs,
)
from ankle_lib.reconstruction.report_pairs import Pairs, places_of


@pytest.mark.parametrize(("pixels", "degrees"), [(32, 64), (20, 25), (16, 16)])
def test_a_patch_has_one_degree_of_freedom_in_sixteen(pixels: int, degrees: int) -> None:
    basis = reachable_basis(pixels)
    assert basis.shape == (pixels**2, degrees)
    np.testing.assert_allclose(basis.T @ basis, np.eye(degrees), atol=1e-12)
    assert np.linalg.matrix_rank(basis) == degrees == degrees_of_freedom(pixels)


@pytest.mark.parametrize(("depth", "factor"), [(3, 4), (2, 2)])
def test_whatever_its_weights_the_resnet_stays_within_reach(depth: int, factor: int) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        network = build("resnet-basic", head="intensity", depth=depth, width=4).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.5)
            outputs = network(torch.randn(4, 1, 32, 32))
        assert float(outputs.std()) > 1e-3
        assert outside_reach(outputs, factor) < 1e-5


def test_all_that_is_within_reach_can_be_given() -> None:
    """The bound is no tighter than the truth: some weights give any element of the basis."""
    coarse = torch.randn(1, 1, 8, 8)
    given = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    assert outside_reach(given) < 1e-6
    torch.testing.assert_close(best_reachable(given), given, atol=1e-5, rtol=0)


def test_other_networks_are_not_so_bound() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = build("unet", head="intensity", width=4).eval()(torch.randn(2, 1, 32, 32))
    assert outside_reach(outputs - outputs.mean()) > 0.1


def test_no_weights_are_better_than_the_projection() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1, 1, 20, 20, generator=generator)
    best = best_reachable(target)
    least = float((best - target).square().mean())
    most = float(np.corrcoef(best.ravel(), target.ravel())[0, 1])
    for _ in range(50):
        coarse = torch.randn(1, 1, 5, 5, generator=generator)
        other = best + 0.3 * nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
        assert float((other - target).square().mean()) > least
        assert float(np.corrcoef(other.ravel(), target.ravel())[0, 1]) < most
    torch.testing.assert_close(best_reachable(target, 1), target)


def test_a_larger_stem_sees_farther() -> None:
    def seen(**sizes: int) -> int:
        torch.manual_seed(0)
        network = build("resnet-basic", head="intensity", depth=1, width=2, **sizes).eval()
        image = torch.zeros(1, 1, 61, 61, requires_grad=True)
        network(image + torch.randn(1, 1, 61, 61))[0, 0, 30, 30].backward()
        return int(np.ptp(np.flatnonzero(image.grad[0, 0].abs().sum(0)))) + 1

    assert seen(stem=7) == seen() + 4 == seen(stem=3) + 4
    for stem in (4, 1, 17):
        with pytest.raises(AnkleError, match="stem: "):
            build("resnet-basic", stem=stem)
    with pytest.raises(AnkleError, match="stem: Extra inputs"):
        build("unet", stem=7)


def test_no_trained_network_exceeds_the_bound(pairs: Pairs) -> None:
    for depth, factor in ((1, 1), (None, 4)):
        recipe = report_recipe(2, depth=depth)
        trained = train_on_pairs(pairs, recipe)
        assert len(trained.losses) == 2
        answers = {"trained": answer_of(trained.network), "any weights": any_weights(factor)}
        table = score_patches(pairs, answers).set_index(["method", "part", "bone"])
        given, most = table.loc["trained"], table.loc["any weights"]
        assert (given["correlation"] <= most["correlation"] + 1e-6).all()
        assert (given["psnr_db"] <= most["psnr_db"] + 1e-6).all()
        if factor == 1:
            assert most["correlation"].tolist() == pytest.approx([1.0] * 6)
        images = pairs.scored["validation", "talus"].image
        assert outside_reach(outputs_of(trained.network, images), factor) < 1e-5


def test_the_recipe_is_the_reports(pairs: Pairs) -> None:
    recipe = report_recipe(100)
    (stage,) = recipe.stages
    assert (recipe.network, recipe.loss, recipe.head) == (
        "resnet-basic",
        "weighted-l1",
        "intensity",
    )
    assert (stage.steps, stage.batch_size) == (100, 16)
    assert math.isclose(stage.learning_rate, 1e-3)


# --- the learnt weight ---


def test_the_reports_weight_is_flat_above_its_selection() -> None:
    assert report_g([0.5])[0] == pytest.approx(0.5)
    found = report_g(np.linspace(0.6, 1.0, 401))
    assert found.min() == pytest.approx(0.731, abs=1e-3)
    assert found.max() < 0.994


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
    network, slope = learn_weight(toy, recipe)
    assert slope == pytest.approx(4.0, abs=1.0)
    assert float(learnt_g(1.0, slope)) == 1.0
    assert 0.1 < float(learnt_g(0.6, slope)) < 0.4
    again, same = learn_weight(toy, recipe)
    assert same == slope
    for one, two in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_pairs_below_the_selection_have_no_weight(pairs: Pairs) -> None:
    known = places_of(pairs.scored["train", "talus"])
    assert list(known) == ["subject", "sequence", "frame", "bone", "correlation"]
    assert set(known["bone"]) == {"talus"}
    assert (report_g(known["correlation"]) > 0.73).all()
