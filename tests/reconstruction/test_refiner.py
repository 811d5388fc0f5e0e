from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.networks import build
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.presets import PRESETS
from ankle_lib.reconstruction.refiner import (
    IMAGE,
    Refiner,
    read_refiner,
    refine,
    refine_recipe,
    refined_by,
    refiner_of,
    save_refiner,
    train_refiner,
)
from ankle_lib.reconstruction.scene_scores import BASELINES, INTERPOLATIONS, gains, score_scenes
from ankle_lib.reconstruction.sharp_scenes import Scene

SIZES = replace(
    PRESETS["smoke"].reconstruction, pixels=16, width=2, trial_steps=2, final_steps=3, slice_step=2
)


def recipe_of(stage: Stage, depth: int = 2, width: int = 2) -> Recipe:
    return replace(refine_recipe(SIZES, 1), stages=(stage,), depth=depth, width=width)


SMALL = recipe_of(Stage(16, 2, 2, 1e-2, "one-cycle"))


class Contrast(nn.Module):
    """Knows how the toy's contrast comes about: the truth is 1500 - 0.8 x static."""

    in_channels = 2

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.scales = scene.scales

    def forward(self, images: Tensor) -> Tensor:
        (mean, sd), (static_mean, static_sd) = self.scales["measured"], self.scales["static"]
        truth = 1500 - 0.8 * (static_mean + static_sd * images[:, 1:])
        return self.scale * (truth - (mean + sd * images[:, :1])) / sd


def test_refine_gives_back_the_truth_with_the_right_network(scene: Scene) -> None:
    found = refine(Refiner(Contrast(scene)), scene.measured, scene.moved_static, scene.region)
    known = scene.region & (scene.moved_static > 0)
    np.testing.assert_allclose(found[known], scene.truth[known], atol=0.5)
    empty = ~scene.region.any(axis=(0, 1))
    np.testing.assert_array_equal(found[:, :, empty], scene.measured[:, :, empty])


def test_refine_takes_some_slices_and_leaves_the_network(scene: Scene) -> None:
    network = build("unet", in_channels=2, head="intensity", depth=2, width=2).train()
    given = (Refiner(network), scene.measured, scene.moved_static, scene.region)
    whole, some = refine(*given), refine(*given, step=3)
    assert network.training
    assert scene.region[:, :, ::3].any()
    np.testing.assert_array_equal(some[:, :, ::3], whole[:, :, ::3])
    np.testing.assert_array_equal(some[:, :, 1::3], scene.measured[:, :, 1::3])


def test_a_network_that_gives_nothing_changes_nothing(scene: Scene) -> None:
    network = build("unet", in_channels=2, head="intensity", depth=2, width=2)
    torch.nn.init.zeros_(list(network.parameters())[-1])
    torch.nn.init.zeros_(list(network.parameters())[-2])
    given = (scene.measured, scene.moved_static, scene.region)
    found = refine(Refiner(network), *given)
    np.testing.assert_array_equal(found, scene.measured)
    mean = refine(Refiner(network, residual=False), *given)[scene.region]
    np.testing.assert_allclose(mean, scene.scales["measured"][0], rtol=1e-5)


def test_refine_refuses_what_it_cannot_use(scene: Scene) -> None:
    network = Refiner(Contrast(scene))
    given = [scene.measured, scene.moved_static, scene.region]
    with pytest.raises(AnkleError, match="no bone lies"):
        refine(network, *given[:2], given[2] & False)
    broken = scene.moved_static.copy()
    broken[scene.region] = np.nan
    with pytest.raises(AnkleError, match="not finite"):
        refine(network, scene.measured, broken, scene.region)
    with pytest.raises(AnkleError, match="constant"):
        refine(network, scene.measured, 0 * broken + 1, given[2] & False | given[2])


def test_a_saved_refiner_says_how_to_use_it(scene: Scene, tmp_path: Path) -> None:
    recipe = replace(SMALL, channels=("static",), labels=IMAGE)
    fitted = train_refiner(recipe, [scene], tmp_path / "trainings")
    path = save_refiner(tmp_path / "final.ckpt", fitted, [scene])
    wanted = load_checkpoint(path).training["input"]
    assert wanted["names"] == ["static"]
    assert wanted["voxel_mm"] == pytest.approx(scene.voxel_size_mm)
    refiner = read_refiner(path)
    assert refiner.voxel_mm == pytest.approx(scene.voxel_size_mm)
    assert (refiner.channels, refiner.residual) == (("static",), False)
    expected = refined_by(refiner_of(fitted))(scene)
    np.testing.assert_allclose(refined_by(refiner)(scene), expected, rtol=1e-5)
    for changes, message in (
        ({"normalisation": "zscore-foot"}, "normalisation: .*use the network of chapter 06"),
        ({"names": ["measured", "static"]}, "sees 1 images"),
    ):
        training = {"input": wanted | changes}
        other = save_checkpoint(
            tmp_path / "other.ckpt", fitted.network, labels=IMAGE, training=training
        )
        with pytest.raises(AnkleError, match=message):
            read_refiner(other)


def test_a_training_is_remembered_and_no_step_is_lost(scene: Scene, tmp_path: Path) -> None:
    recipe = recipe_of(Stage(16, 7, 2, 1e-2, "one-cycle"))
    first = train_refiner(recipe, [scene], tmp_path)
    assert len(first.losses) == 7  # five epochs of one step, and two more
    stamp = (first.folder / "network.ckpt").stat().st_mtime_ns
    again = train_refiner(recipe, [scene], tmp_path)
    assert (again.folder / "network.ckpt").stat().st_mtime_ns == stamp
    for one, two in zip(first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, two)
    other = train_refiner(replace(SMALL, loss="l1"), [scene], tmp_path)
    assert other.folder != first.folder
    changed = replace(scene, moved_static=scene.moved_static + 1)
    assert train_refiner(recipe, [changed], tmp_path).folder != first.folder


def test_a_trained_refiner_is_better_than_the_frame(scene: Scene, tmp_path: Path) -> None:
    recipe = recipe_of(Stage(24, 80, 4, 1e-2, "one-cycle"), width=8)
    fitted = train_refiner(recipe, [scene], tmp_path)
    answers = BASELINES | {"network": refined_by(refiner_of(fitted))}
    gain = gains(score_scenes([scene], answers), "network", list(INTERPOLATIONS))
    assert (gain.loc[gain["bone"] == "all", "gain"] > 1).all()


def test_without_scenes_nothing_is_learnt(tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="no scene to learn from"):
        train_refiner(SMALL, [], tmp_path)
