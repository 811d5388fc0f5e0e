from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.learning import training
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.networks import SliceNetwork, build
from ankle_lib.learning.optimisers import OPTIMIZERS
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import patch_source, train_on_scans
from ankle_lib.learning.scoring import patch_validation
from ankle_lib.learning.training import (
    BEST,
    LAST,
    Trained,
    train,
    train_once,
    train_side_by_side,
)
from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import PatchRule
from ankle_lib.patches.source import Augmentation, Batch, PatchSource
from tests.toy_scans import small_recipe, toy_scan, weights

LABELS = ("calcaneus", "talus")
ARGUMENTS = {"out_channels": 2, "depth": 2, "width": 16}
RULE = PatchRule((16, 16), tries=50, min_fraction=0.75)


def recipe(steps: int, learning_rate: float = 2e-3, **changes: Any) -> Recipe:
    schedule = changes.pop("schedule", "constant")
    stage = Stage(16, steps, learning_rate=learning_rate, schedule=schedule)
    return Recipe((stage,), **{"labels": LABELS, "epochs": 3} | changes)


QUICK = recipe(12)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def item(subject: str, seed: int, *, chance: bool = False) -> Item:
    """Return blobs brighter and darker than the rest; or labels that have nothing to do with it."""
    random = np.random.default_rng(seed)
    shape = (40, 40, 6)

    def blobs() -> np.ndarray:
        smooth = ndimage.gaussian_filter(random.normal(size=shape), (3, 3, 0))
        return smooth > np.median(smooth)

    first, second = blobs(), blobs()
    image = 1.0 * first - 2.0 * second + 0.1 * random.normal(size=shape)
    labels = (blobs(), blobs()) if chance else (first, second)
    region = np.ones(shape, dtype=bool)
    return Item(subject, "static", image, region, dict(zip(LABELS, labels, strict=True)))


@pytest.fixture(scope="module")
def source() -> PatchSource:
    return PatchSource([item("T01", 1), item("T02", 2)], RULE, labels=LABELS)


def network(seed: int = 0) -> SliceNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build("unet", **ARGUMENTS)


def trained(
    net: SliceNetwork,
    draw: Callable[[int, torch.Generator], Batch],
    folder: Path,
    settings: Recipe = QUICK,
    validate: Callable[[torch.nn.Module], dict[str, float]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    return train(net, settings, draw, folder, validate=validate, device="cpu")


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_batch_is_learnt_by_heart(source: PatchSource, tmp_path: Path, optimizer: str) -> None:
    batch = source.draw(4, torch.Generator().manual_seed(0))
    settings = recipe(80, 2e-2, epochs=1, loss="dice+bce", optimizer=optimizer)
    net = network()
    losses = trained(net, lambda n, generator: batch, tmp_path, settings)[0].loss
    assert losses.iloc[-1] < 0.1 * losses.iloc[0]
    with torch.inference_mode():
        agreement = (net.train()(batch.image) > 0.5) == (batch.target > 0.5)
    assert agreement.float().mean() > 0.97


def test_the_loop_is_adam_on_the_reports_loss(
    source: PatchSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "is_fast_in_bfloat16", lambda kind: False)
    drawn: list[Batch] = []

    def draw(n: int, generator: torch.Generator) -> Batch:
        drawn.append(source.draw(n, generator))
        return drawn[-1]

    steps, _ = trained(network(), draw, tmp_path)
    net, losses = network().train(), []
    adam = torch.optim.Adam(net.parameters(), lr=QUICK.stages[0].learning_rate)
    for batch in drawn:
        loss = functional.binary_cross_entropy(net(batch.image), batch.target)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert steps.loss.tolist() == pytest.approx(losses, rel=3e-3)
    places = torch.cat([batch.where for batch in drawn])
    assert len(places.unique(dim=0)) > 0.95 * len(places)


@pytest.mark.parametrize("fast", [True, False])
def test_networks_train_in_bfloat16_where_it_is_fast(
    source: PatchSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(training, "is_fast_in_bfloat16", lambda kind: fast)
    outputs, losses = set(), set()
    net = network()
    net.last.register_forward_hook(lambda module, given, found: outputs.add(found.dtype))
    bce = training.LOSSES["bce"]

    def noted(output: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses.add(output.dtype)
        return bce(output, batch)

    monkeypatch.setitem(training.LOSSES, "bce", noted)
    trained(net, source.draw, tmp_path, recipe(2, epochs=1))
    assert outputs == {torch.bfloat16 if fast else torch.float32}
    assert losses == {torch.float32}


def test_random_labels_teach_nothing(tmp_path: Path) -> None:
    settings = recipe(120, 5e-3, epochs=1)
    scores = {}
    for chance in (False, True):
        pair = [
            PatchSource([item(code, seed, chance=chance)], RULE, labels=LABELS)
            for code, seed in (("T01", 1), ("T02", 2))
        ]
        validate = patch_validation(pair[1], 200)
        folder = tmp_path / str(chance)
        _, epochs = trained(network(), pair[0].draw, folder, settings, validate)
        scores[chance] = epochs.score.iloc[-1]
    # half of the pixels are labelled: whoever marks all of them reaches 2/3, guessing 1/2
    assert scores[False] > 0.8
    assert scores[True] < 0.7


# --- going on after a kill -----------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kill_at", [2, 6, 11])
def test_a_killed_training_ends_as_if_it_had_never_stopped(
    source: PatchSource, tmp_path: Path, kill_at: int, optimizer: str
) -> None:
    settings = recipe(12, schedule="one-cycle", optimizer=optimizer, keep_best=True)
    augmentation = Augmentation(rotation_deg=90, noise=0.1)
    validate = patch_validation(source, 20)
    calls = itertools.count()

    def draw(n: int, generator: torch.Generator) -> Batch:
        return source.draw(n, generator, augmentation)

    def draw_until_killed(n: int, generator: torch.Generator) -> Batch:
        if next(calls) == kill_at:
            raise Killed
        return draw(n, generator)

    whole, other = network(), network()
    first = trained(whole, draw, tmp_path / "whole", settings, validate)
    with pytest.raises(Killed):
        trained(other, draw_until_killed, tmp_path / "killed", settings, validate)
    torch.manual_seed(99)
    saved = (tmp_path / "killed" / LAST).exists()
    assert saved == (kill_at >= QUICK.epoch_ends()[0])
    resumed = network(seed=5 if saved else 0)
    second = trained(resumed, draw, tmp_path / "killed", settings, validate)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    pd.testing.assert_frame_equal(first[0], second[0])
    times = ["seconds", "samples_per_s"]
    pd.testing.assert_frame_equal(first[1].drop(columns=times), second[1].drop(columns=times))
    assert (tmp_path / "whole" / "steps.csv").read_bytes() == (
        tmp_path / "killed" / "steps.csv"
    ).read_bytes()
    best = [load_checkpoint(tmp_path / name / BEST) for name in ("whole", "killed")]
    assert best[0].training == best[1].training


def test_a_finished_training_is_not_done_again(source: PatchSource, tmp_path: Path) -> None:
    net, again = network(), network(seed=1)
    first = trained(net, source.draw, tmp_path)

    def never(n: int, generator: torch.Generator) -> Batch:
        raise AssertionError("trained again")

    second = trained(again, never, tmp_path)
    pd.testing.assert_frame_equal(first[1], second[1])
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert len(pd.read_csv(tmp_path / "steps.csv")) == 12
    assert load_checkpoint(tmp_path / LAST).labels == LABELS


def test_the_callers_random_numbers_are_left_alone(source: PatchSource, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    trained(network(), source.draw, tmp_path, recipe(4, epochs=1))
    assert torch.equal(torch.rand(5), expected)


# --- stopping ------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_its_patches(source: PatchSource, tmp_path: Path) -> None:
    steps = itertools.count(1)
    drawn: list[Batch] = []

    def poisoned(n: int, generator: torch.Generator) -> Batch:
        batch = source.draw(n, generator)
        if next(steps) == 3:
            batch.image[0, 0, 5, 5] = torch.nan
            drawn.append(batch)
        return batch

    with pytest.raises(AnkleError) as caught:
        trained(network(), poisoned, tmp_path)
    message = str(caught.value)
    assert message.startswith("the loss is nan at step 3, on patches of T0")
    assert source.describe(drawn[0].where[0].tolist()) in message
    assert message.endswith("and 5 more: the images or targets are not finite, so check these")
    assert not (tmp_path / LAST).exists()
    wild = recipe(12, 1e30)
    with pytest.raises(AnkleError, match=r"lower the learning rate \(1e\+30\)"):
        trained(network(), source.draw, tmp_path, wild)


def test_the_best_epoch_is_kept(source: PatchSource, tmp_path: Path) -> None:
    scores = iter([0.5, 0.7, 0.6])
    states = []

    def validate(net: torch.nn.Module) -> dict[str, float]:
        assert not net.training
        states.append({key: value.clone() for key, value in net.state_dict().items()})
        return {"score": next(scores), "another": 1.0}

    net = network()
    _, epochs = trained(net, source.draw, tmp_path, replace(QUICK, keep_best=True), validate)
    assert epochs.score.tolist() == [0.5, 0.7, 0.6]
    assert epochs.another.tolist() == [1.0] * 3
    for key, value in net.state_dict().items():
        assert torch.equal(value, states[1][key]), key
    best = load_checkpoint(tmp_path / BEST)
    assert best.training == {"epoch": 2, "score": 0.7}
    assert (
        len(trained(net, source.draw, tmp_path, replace(QUICK, keep_best=True), validate)[1]) == 3
    )


def test_a_score_after_each_epoch_changes_no_weight(source: PatchSource, tmp_path: Path) -> None:
    plain, scored = network(), network()
    trained(plain, source.draw, tmp_path / "plain")
    _, epochs = trained(
        scored, source.draw, tmp_path / "scored", validate=patch_validation(source, 8)
    )
    assert epochs.score.notna().all()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, scored.state_dict()[key]), key


def test_no_step_of_a_stage_is_left_out(source: PatchSource, tmp_path: Path) -> None:
    steps, epochs = trained(network(), source.draw, tmp_path, recipe(7, epochs=5))
    assert len(steps) == 7
    assert epochs.step.tolist() == [1, 2, 4, 5, 7]
    assert epochs.loss[2] == pytest.approx(steps.loss[2:4].mean())


def test_a_score_must_be_finite(source: PatchSource, tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="must return a finite score"):
        trained(network(), source.draw, tmp_path, validate=lambda net: {"score": float("nan")})


# --- trained once ---


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


def test_the_best_epoch_needs_a_validation(tmp_path: Path) -> None:
    best = small_recipe(keep_best=True, n_validation=4)
    with pytest.raises(AnkleError, match="give a scan to validate on"):
        train_on_scans(best, [toy_scan("T01")], tmp_path)
    trained = train_on_scans(best, [toy_scan("T01")], tmp_path, validation=[toy_scan("T02")])
    assert trained.epochs.loc[trained.epochs["stage"] == 1, "score"].notna().all()


def test_networks_trained_side_by_side_are_those_trained_alone(tmp_path: Path) -> None:
    scans = [toy_scan("T01")]
    recipes = [small_recipe(labels=("talus",), seed=seed) for seed in (0, 1)]

    def tasks(folder: str) -> list[Any]:
        return [partial(train_on_scans, one, scans, tmp_path / folder) for one in recipes]

    beside = train_side_by_side(tasks("beside"))
    alone = [task() for task in tasks("alone")]
    other_seed = torch.dist(weights(alone[0]), weights(alone[1]))
    for one, two in zip(beside, alone, strict=True):
        # the number of threads decides how sums are rounded, most of all those of bfloat16
        assert torch.dist(weights(one), weights(two)) < 0.01 * other_seed
        assert one.folder.name == two.folder.name


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
