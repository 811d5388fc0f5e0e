from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ankle_lib.files import AnkleError
from ankle_lib.learning import training
from ankle_lib.learning.networks import build
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import patch_source, train_on_scans
from ankle_lib.learning.training import (
    Trained,
    keep_trained,
    place_of,
    read_trained,
    train_once,
    train_side_by_side,
)
from tests.toy_scans import small_recipe, toy_scan, weights


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_finished_training_is_read_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [toy_scan("T01")]
    first = train_on_scans(small_recipe(), scans, tmp_path)
    assert list(first.losses["step"]) == [1, 2, 3, 4]
    assert list(first.losses["stage"]) == [0, 0, 1, 1]
    assert first.samples_per_s > 0
    assert sorted(path.name for path in first.folder.iterdir()) == [
        *("epochs.csv", "losses.csv", "network.ckpt"),
    ]
    monkeypatch.setattr(training, "train", None)
    again = train_on_scans(small_recipe(), scans, tmp_path)
    assert torch.equal(weights(first), weights(again))
    assert not again.network.training


def test_no_step_is_left_out(tmp_path: Path) -> None:
    seven = Recipe((Stage(16, 7, 2),), depth=1, width=2)
    trained = train_on_scans(seven, [toy_scan("T01")], tmp_path)
    assert len(trained.losses) == 7
    assert len(trained.epochs) == seven.epochs == 5


def test_a_killed_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = [toy_scan("T01")]
    whole = train_on_scans(small_recipe(), scans, tmp_path / "whole")
    train, calls = training.train, []

    def killed(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[3].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(training, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        train_on_scans(small_recipe(), scans, tmp_path / "killed")
    resumed = train_on_scans(small_recipe(), scans, tmp_path / "killed")
    assert calls == ["stage-0", "stage-1", "stage-0", "stage-1"]
    assert torch.equal(weights(resumed), weights(whole))


def test_other_recipes_scans_and_first_weights_are_other_trainings(tmp_path: Path) -> None:
    one = train_on_scans(small_recipe(), [toy_scan("T01")], tmp_path)
    others = (
        train_on_scans(small_recipe(seed=1), [toy_scan("T01")], tmp_path),
        train_on_scans(small_recipe(loss="dice+bce"), [toy_scan("T01")], tmp_path),
        train_on_scans(small_recipe(), [toy_scan("T01", seed=5)], tmp_path),
        train_on_scans(small_recipe(), [toy_scan("T01")], tmp_path, start=one.network),
    )
    assert len({one.folder, *(other.folder for other in others)}) == 5
    assert not any(torch.equal(weights(one), weights(other)) for other in others)


def test_first_weights_must_fit(tmp_path: Path) -> None:
    wide = build("unet", out_channels=3, depth=2, width=8)
    with pytest.raises(AnkleError, match="of another size: build it alike"):
        train_on_scans(small_recipe(), [toy_scan("T01")], tmp_path, start=wide)


def test_the_best_epoch_needs_a_validation(tmp_path: Path) -> None:
    best = small_recipe(keep_best=True, n_validation=4)
    with pytest.raises(AnkleError, match="give a scan to validate on"):
        train_on_scans(best, [toy_scan("T01")], tmp_path)
    trained = train_on_scans(best, [toy_scan("T01")], tmp_path, validation=[toy_scan("T02")])
    assert trained.epochs.loc[trained.epochs["stage"] == 1, "score"].notna().all()


def test_networks_trained_side_by_side_are_those_trained_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [toy_scan("T01")]
    recipes = [small_recipe(labels=("talus",), seed=seed) for seed in (0, 1)]

    def tasks(folder: str) -> list[Any]:
        return [partial(train_on_scans, one, scans, tmp_path / folder) for one in recipes]

    beside = train_side_by_side(tasks("beside"))
    alone = [task() for task in tasks("alone")]
    monkeypatch.setattr(training, "run_all", None)
    after = train_side_by_side(tasks("after"), device="one after the other")
    other_seed = torch.dist(weights(alone[0]), weights(alone[1]))
    for one, two, three in zip(beside, alone, after, strict=True):
        # the number of threads decides how sums are rounded, most of all those of bfloat16
        assert torch.dist(weights(one), weights(two)) < 0.01 * other_seed
        assert torch.equal(weights(two), weights(three))
        assert one.folder.name == two.folder.name == three.folder.name


def test_a_network_of_intensities_is_trained_on_what_draws(tmp_path: Path) -> None:
    recipe = Recipe(
        (Stage(None, 3, 2),), labels=("intensity",), depth=1, width=2, stem=3,
        channels=("measured", "static"), loss="l1", network="resnet-basic",
    )  # fmt: skip
    assert recipe.head == "intensity"
    patches = patch_source([toy_scan("T01")], ("talus",), 16, 0.75)

    def draws(stage: Stage) -> Any:
        def draw(n: int, generator: torch.Generator) -> Any:
            batch = patches.draw(n, generator)
            return replace(batch, image=batch.image.repeat(1, 2, 1, 1))

        return draw

    trained = train_once(recipe, draws, tmp_path, decides=["one"])
    assert trained.network(torch.zeros(1, 2, 8, 8)).shape == (1, 1, 8, 8)
    assert train_once(recipe, draws, tmp_path, decides=["two"]).folder != trained.folder


def test_what_another_loop_has_trained_is_kept_with_its_notes(tmp_path: Path) -> None:
    recipe = small_recipe()
    place = place_of(recipe, keep_trained, tmp_path, decides=1)
    assert place == place_of(recipe, keep_trained, tmp_path, decides=1)
    assert place != place_of(recipe, keep_trained, tmp_path, decides=2)
    losses = pd.DataFrame({"step": [1], "loss": [0.5]})
    epochs = pd.DataFrame({"samples_per_s": [3.0]})
    keep_trained(place, recipe.fresh(), recipe, losses, epochs, {"weight": {"slope": 2.0}})
    trained = read_trained(place, recipe)
    assert trained.notes == {"weight": {"slope": 2.0}}
    assert trained.samples_per_s == 3.0


def test_what_is_measured_is_measured_once(tmp_path: Path) -> None:
    trained = train_on_scans(small_recipe(), [toy_scan("T01")], tmp_path)
    calls: list[Trained] = []

    def work() -> pd.DataFrame:
        calls.append(trained)
        return pd.DataFrame({"subject": ["E01"], "dice": [float("nan")]})

    for settings in (1, 1, 2):
        table = trained.remembered("scores", work, settings)
        assert table["dice"].isna().all()
    assert len(calls) == 2
