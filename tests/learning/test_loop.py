from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from scipy import ndimage
from torch import nn
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.learning.architectures import SliceNetwork
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.loop import BEST, LAST, History, train
from ankle_lib.learning.losses import LOSSES, compute_loss, report_weight
from ankle_lib.learning.networks import build
from ankle_lib.learning.optimisers import OPTIMIZERS, FilterMuon, adam
from ankle_lib.learning.scoring import patch_validation
from ankle_lib.learning.settings import TrainingSettings
from ankle_lib.metrics import patch_dice
from ankle_lib.patches.augmentation import Augmentation
from ankle_lib.patches.batch import Batch
from ankle_lib.patches.items import Item
from ankle_lib.patches.positions import PatchRule
from ankle_lib.patches.source import PatchSource

LABELS = ("calcaneus", "talus")
ARGUMENTS = {"out_channels": 2, "depth": 2, "width": 16}
RULE = PatchRule((16, 16), tries=50, min_fraction=0.75)
QUICK = TrainingSettings(steps=12, epochs=3, learning_rate=2e-3)


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
    settings: TrainingSettings = QUICK,
    validate: Callable[[torch.nn.Module], dict[str, float]] | None = None,
) -> History:
    return train(
        net,
        draw,
        validate,
        settings,
        folder,
        labels=LABELS,
        device="cpu",
        progress=False,
    )


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_batch_is_learnt_by_heart(source: PatchSource, tmp_path: Path, optimizer: str) -> None:
    batch = source.draw(4, torch.Generator().manual_seed(0))
    settings = TrainingSettings(
        steps=80, epochs=1, learning_rate=2e-2, loss="dice+bce", optimizer=optimizer
    )
    net = network()
    history = trained(net, lambda n, generator: batch, tmp_path, settings)
    losses = history.steps.loss
    assert losses.iloc[-1] < 0.1 * losses.iloc[0]
    with torch.inference_mode():
        agreement = (net.train()(batch.image) > 0.5) == (batch.target > 0.5)
    assert agreement.float().mean() > 0.97


def test_the_loop_is_adam_on_the_reports_loss(source: PatchSource, tmp_path: Path) -> None:
    drawn: list[Batch] = []

    def draw(n: int, generator: torch.Generator) -> Batch:
        drawn.append(source.draw(n, generator))
        return drawn[-1]

    exact = dataclasses.replace(QUICK, precision="32-true")
    history = trained(network(), draw, tmp_path, exact)
    net, losses = network().train(), []
    adam = torch.optim.Adam(net.parameters(), lr=QUICK.learning_rate)
    for batch in drawn:
        loss = functional.binary_cross_entropy(net(batch.image), batch.target)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert history.steps.loss.tolist() == pytest.approx(losses, rel=3e-3)
    places = torch.cat([batch.where for batch in drawn])
    assert len(places.unique(dim=0)) > 0.95 * len(places)


def test_random_labels_teach_nothing(tmp_path: Path) -> None:
    settings = TrainingSettings(steps=60, epochs=1, learning_rate=5e-3)
    scores = {}
    for chance in (False, True):
        pair = [
            PatchSource([item(code, seed, chance=chance)], RULE, labels=LABELS)
            for code, seed in (("T01", 1), ("T02", 2))
        ]
        validate = patch_validation(pair[1], 200)
        folder = tmp_path / str(chance)
        history = trained(network(), pair[0].draw, folder, settings, validate)
        scores[chance] = history.epochs.score.iloc[-1]
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
    settings = dataclasses.replace(QUICK, schedule="one-cycle", optimizer=optimizer)
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
    assert saved == (kill_at >= QUICK.epoch_ends[0])
    resumed = network(seed=5 if saved else 0)
    second = trained(resumed, draw, tmp_path / "killed", settings, validate)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    pd.testing.assert_frame_equal(first.steps, second.steps)
    times = ["seconds", "samples_per_s"]
    pd.testing.assert_frame_equal(
        first.epochs.drop(columns=times), second.epochs.drop(columns=times)
    )
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
    pd.testing.assert_frame_equal(first.epochs, second.epochs)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert len(pd.read_csv(tmp_path / "steps.csv")) == QUICK.steps
    assert load_checkpoint(tmp_path / LAST).labels == LABELS


def test_another_training_in_the_folder_is_left_alone(source: PatchSource, tmp_path: Path) -> None:
    trained(network(), source.draw, tmp_path)
    other = dataclasses.replace(QUICK, learning_rate=1e-3)
    with pytest.raises(AnkleError, match=r"learning_rate 0\.002, not 0\.001: choose another"):
        trained(network(), source.draw, tmp_path, other)
    (tmp_path / LAST).write_bytes(b"nothing")
    with pytest.raises(AnkleError, match="no checkpoint"):
        trained(network(), source.draw, tmp_path)


def test_the_callers_random_numbers_are_left_alone(source: PatchSource, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    trained(network(), source.draw, tmp_path, dataclasses.replace(QUICK, steps=4, epochs=1))
    assert torch.equal(torch.rand(5), expected)


# --- several devices -----------------------------------------------------------------------------


def train_on_each(fabric: Fabric, folder: Path) -> None:
    """Train on one of several devices; leave its weights and what it drew in files."""
    torch.set_num_threads(1)
    source = PatchSource([item("T01", 1), item("T02", 2)], RULE, labels=LABELS)
    drawn = []

    def draw(n: int, generator: torch.Generator) -> Batch:
        drawn.append(source.draw(n, generator))
        return drawn[-1]

    net = network()
    settings = dataclasses.replace(QUICK, keep="best")
    history = train(
        net,
        draw,
        patch_validation(source, 20),
        settings,
        folder,
        labels=LABELS,
        fabric=fabric,
        progress=False,
    )
    places = torch.stack([batch.where for batch in drawn])
    content = [dict(net.state_dict()), places, history.epochs.score.tolist()]
    torch.save(content, folder / f"rank{fabric.global_rank}.pt")


@pytest.mark.slow
def test_two_devices_share_weights_and_draw_different_patches(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    fabric.launch(train_on_each, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{n}.pt", weights_only=True) for n in range(2))
    assert all(torch.equal(first[0][key], second[0][key]) for key in first[0])
    assert not torch.equal(first[1], second[1])
    assert first[2] == second[2]
    assert load_checkpoint(tmp_path / LAST).training["progress"]["step"] == QUICK.steps


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
    wild = dataclasses.replace(QUICK, learning_rate=1e30)
    with pytest.raises(AnkleError, match=r"lower the learning rate \(1e\+30\)"):
        trained(network(), source.draw, tmp_path, wild)


def test_the_best_epoch_is_kept(source: PatchSource, tmp_path: Path) -> None:
    scores = iter([0.5, 0.7, 0.6])
    states = []

    def validate(net: torch.nn.Module) -> dict[str, float]:
        assert not net.training
        states.append({key: value.clone() for key, value in net.state_dict().items()})
        return {"score": next(scores), "another": 1.0}

    settings = dataclasses.replace(QUICK, keep="best")
    net = network()
    history = trained(net, source.draw, tmp_path, settings, validate)
    assert history.best_epoch == 2
    assert history.epochs.score.tolist() == [0.5, 0.7, 0.6]
    assert history.epochs.another.tolist() == [1.0] * 3
    for key, value in net.state_dict().items():
        assert torch.equal(value, states[1][key]), key
    best = load_checkpoint(tmp_path / BEST)
    assert best.training == {"epoch": 2, "score": 0.7}
    assert len(trained(net, source.draw, tmp_path, settings, validate).epochs) == 3


def test_no_step_is_left_out(source: PatchSource, tmp_path: Path) -> None:
    history = trained(network(), source.draw, tmp_path, TrainingSettings(steps=7, epochs=5))
    assert len(history.steps) == 7
    assert history.epochs.step.tolist() == [1, 2, 4, 5, 7]
    assert history.epochs.loss[2] == pytest.approx(history.steps.loss[2:4].mean())


def test_a_score_must_be_finite(source: PatchSource, tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="must return a finite score"):
        trained(network(), source.draw, tmp_path, validate=lambda net: {"score": float("nan")})


# --- optimisers ----------------------------------------------------------------------------------


def noise_like(weights: nn.Parameter) -> torch.Tensor:
    random = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    return torch.empty_like(weights).copy_(random)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def filters(request: pytest.FixtureRequest) -> nn.Parameter:
    random = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    return nn.Parameter(random.contiguous(memory_format=request.param))


def test_muon_moves_filters_in_all_directions_alike(filters: nn.Parameter) -> None:
    before, optimizer = filters.detach().clone(), FilterMuon([filters], 0.01)
    one_direction = torch.ones_like(filters) + 0.2 * noise_like(filters)
    filters.grad = one_direction
    optimizer.step()
    moved = (before - filters.detach()).flatten(1)
    flat = torch.linalg.svdvals(one_direction.flatten(1))
    found = torch.linalg.svdvals(moved)
    assert flat[0] > 20 * flat[-1]
    assert found[0] < 5 * found[-1]
    assert 0.1 < float(moved.square().mean().sqrt()) / 0.01 < 0.3  # as large as Adam's
    assert (moved * one_direction.flatten(1)).sum() > 0


def test_muon_leaves_what_is_no_wide_filter_to_adam() -> None:
    random = torch.Generator().manual_seed(0)
    shapes = [(16,), (3, 16, 1, 1), (16, 1, 3, 3)]
    ours = [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    theirs = [nn.Parameter(one.detach().clone()) for one in ours]
    optimizers = FilterMuon(ours, 0.01), adam(theirs, 0.01)
    for parameters in (ours, theirs):
        for one in parameters:
            one.grad = torch.ones_like(one)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert one.grad is None


def test_muon_follows_filters_that_were_moved(filters: nn.Parameter) -> None:
    optimizer = FilterMuon([filters], 0.01)
    filters.data = filters.data.clone()  # as to a GPU
    before = filters.detach().clone()
    filters.grad = noise_like(filters)
    optimizer.step()
    assert not torch.equal(before, filters)


def test_muon_takes_the_rate_that_the_schedule_sets(filters: nn.Parameter) -> None:
    optimizer = FilterMuon([filters], 0.01)
    optimizer.param_groups[0]["lr"] = 0.0
    before = filters.detach().clone()
    filters.grad = noise_like(filters)
    optimizer.step()
    assert torch.equal(before, filters)


# --- settings ------------------------------------------------------------------------------------


def test_settings_out_of_range_are_refused() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"loss": "mse"},
        {"optimizer": "sgd"},
        {"schedule": "falling"},
        {"batch_size": 0},
        {"epochs": 2.0},
        {"steps": True},
        {"learning_rate": -1.0},
        {"seed": -1},
        {"precision": "64"},
    )
    for one in wrong:
        with pytest.raises(AnkleError, match=f"{next(iter(one))} is "):
            TrainingSettings(**{"steps": 3} | one)


@given(steps=st.integers(1, 200), epochs=st.integers(1, 12))
def test_epochs_share_all_steps_evenly(steps: int, epochs: int) -> None:
    ends = TrainingSettings(steps=steps, epochs=epochs).epoch_ends
    lengths = np.diff([0, *ends])
    assert ends[-1] == steps
    assert len(ends) == min(steps, epochs)
    assert lengths.max() - lengths.min() <= 1


def test_schedules_begin_and_end_where_they_say() -> None:
    def rates(schedule: str) -> np.ndarray:
        settings = TrainingSettings(steps=100, epochs=2, schedule=schedule)
        return np.array([settings.learning_rate_at(step) for step in range(100)]) / 5e-4

    assert (rates("constant") == 1).all()
    assert np.allclose(rates("linear"), 1 - np.arange(100) / 100)
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 100)
    theirs = []
    for _ in range(100):
        theirs.append(adam.param_groups[0]["lr"])
        adam.step()
        cosine.step()
    assert np.allclose(rates("cosine"), theirs)
    cycle = rates("one-cycle")
    assert cycle[0] == pytest.approx(0.04)
    assert cycle.argmax() == 30
    assert cycle[-1] < 0.001


def test_network_loss_and_labels_must_go_together(source: PatchSource, tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="trains a network with head 'intensity'"):
        trained(network(), source.draw, tmp_path, dataclasses.replace(QUICK, loss="weighted-l1"))
    with pytest.raises(AnkleError, match="need a validation"):
        trained(network(), source.draw, tmp_path, dataclasses.replace(QUICK, keep="best"))
    one_channel = build("unet", depth=2, width=4)
    with pytest.raises(AnkleError, match="one output channel per label"):
        trained(one_channel, source.draw, tmp_path)
    for device in ("tpu", "cuda:99"):
        with pytest.raises(AnkleError, match=f"device '{device}'"):
            train(
                network(),
                source.draw,
                None,
                QUICK,
                tmp_path,
                labels=LABELS,
                device=device,
            )


# --- losses and validation -----------------------------------------------------------------------


def some_batch(valid: list[list[bool]] | None = None) -> tuple[torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 2, 6, 5), generator=generator)
    target = (torch.rand((3, 2, 6, 5), generator=generator) < 0.4).float()
    known = torch.tensor(valid or [[True, True]] * 3)
    where = torch.zeros((3, 3), dtype=torch.int64)
    return logits, Batch(logits[:, :1], target, known, torch.ones(3), where, str)


def test_bce_is_the_reports_on_probabilities() -> None:
    logits, batch = some_batch()
    expected = functional.binary_cross_entropy(torch.sigmoid(logits), batch.target)
    assert compute_loss("bce", logits, batch) == pytest.approx(float(expected), rel=1e-5)


def test_dice_and_bce_agree_with_monai() -> None:
    losses = pytest.importorskip("monai.losses")
    logits, batch = some_batch()
    dice = losses.DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = dice(logits, batch.target) + functional.binary_cross_entropy_with_logits(
        logits, batch.target
    )
    assert compute_loss("dice+bce", logits, batch) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", ["bce", "dice+bce"])
def test_unknown_labels_do_not_count(loss: str) -> None:
    logits, batch = some_batch([[True, False], [True, True], [False, True]])
    before = compute_loss(loss, logits, batch)
    batch.target[0, 1] = 1 - batch.target[0, 1]
    logits[2, 0] = 50.0
    assert compute_loss(loss, logits, batch) == before
    batch.target[1, 1] = 1 - batch.target[1, 1]
    assert compute_loss(loss, logits, batch) != before


def test_losses_of_reconstruction_weigh_patches_by_correlation() -> None:
    values, batch = some_batch()
    batch = dataclasses.replace(batch, correlation=torch.tensor([0.5, 0.7, 1.0]))
    weight = 1 / (1 + np.exp(-10 * (batch.correlation.numpy() - 0.5)))
    assert np.allclose(report_weight(batch.correlation).numpy(), weight, atol=1e-6)
    difference = (values - batch.target).numpy().reshape(3, -1)
    absolute, root = np.abs(difference).sum(1), np.sqrt((difference**2).sum(1))
    for name, distance in (("weighted-l1", absolute), ("weighted-l2", root)):
        expected = (weight * distance).mean()
        assert float(LOSSES[name](values, batch)) == pytest.approx(expected, rel=1e-5)


def test_validation_is_the_mean_patch_dice(source: PatchSource) -> None:
    net = network().eval()
    validate = patch_validation(source, 50, seed=4, batch_size=16)
    with torch.inference_mode():
        scores = validate(net)
        assert validate(net) == scores
        batch = source.draw(50, torch.Generator().manual_seed(4))
        predicted = net(batch.image).numpy() > 0.5
    true = batch.target.numpy() > 0.5
    each = [patch_dice(predicted[:, n], true[:, n]).mean() for n in range(2)]
    assert scores["dice_calcaneus"] == pytest.approx(each[0], abs=1e-5)
    assert scores["score"] == pytest.approx(np.mean(each), abs=1e-5)


def test_intensities_are_validated_by_their_correlation(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    target = ndimage.gaussian_filter(random.normal(size=(40, 40, 4)), (1, 1, 0))
    image = target + 0.1 * random.normal(size=target.shape)
    region = np.ones(target.shape, dtype=bool)
    source = PatchSource([Item("T01", "frame 0", image, region, target=target)], RULE)
    validate = patch_validation(source, 30)
    with torch.inference_mode():
        identity = validate(Identity())
    expected = source.draw(30, torch.Generator().manual_seed(0)).correlation.mean()
    assert identity == {"score": pytest.approx(float(expected), abs=1e-5)}
    arguments = {"head": "intensity", "depth": 2, "width": 4}
    settings = dataclasses.replace(QUICK, loss="weighted-l1")
    history = train(
        build("unet", **arguments),
        source.draw,
        validate,
        settings,
        tmp_path,
        labels=("intensity",),
        device="cpu",
        progress=False,
    )
    assert history.steps.loss.iloc[-1] < history.steps.loss.iloc[0]


class Identity(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.weight
