from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.networks import build
from ankle_lib.reconstruction.report_networks import (
    answer_of,
    any_weights,
    best_reachable,
    degrees_of_freedom,
    enlargement_of,
    outputs_of,
    outside_reach,
    reachable_basis,
    report_recipe,
    score_patches,
    train_on_pairs,
)
from ankle_lib.reconstruction.report_pairs import Pairs


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


def test_the_bound_refuses_what_is_no_patch() -> None:
    with pytest.raises(AnkleError, match=r"\(n, 1, h, h\)"):
        best_reachable(torch.zeros(2, 1, 8, 12))


def test_a_larger_stem_sees_farther() -> None:
    def seen(**sizes: int) -> int:
        torch.manual_seed(0)
        network = build("resnet-basic", head="intensity", depth=1, width=2, **sizes).eval()
        image = torch.zeros(1, 1, 61, 61, requires_grad=True)
        network(image + torch.randn(1, 1, 61, 61))[0, 0, 30, 30].backward()
        return int(np.ptp(np.flatnonzero(image.grad[0, 0].abs().sum(0)))) + 1

    assert seen(stem=7) == seen() + 4 == seen(stem=3) + 4
    for stem in (4, 1, 17, 3.0):
        with pytest.raises(AnkleError, match="odd number"):
            build("resnet-basic", stem=stem)
    with pytest.raises(AnkleError, match="no stem"):
        build("unet", stem=7)


def test_no_trained_network_exceeds_the_bound(pairs: Pairs) -> None:
    for depth, factor in ((1, 1), (None, 4)):
        recipe = report_recipe(2, depth=depth)
        assert enlargement_of(recipe) == factor
        trained = train_on_pairs(pairs, recipe)
        assert len(trained.losses) == 2
        answers = {"trained": answer_of(trained), "any weights": any_weights(factor)}
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
    assert enlargement_of(replace(recipe, network="unet")) == 1
