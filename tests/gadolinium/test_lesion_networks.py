"""Crops and networks: normalisation, pooling, dropout, training, attribution, made lesions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from torch import nn

from ankle_lib.files import AnkleError
from ankle_lib.gadolinium import attribution, lesion_networks, made_lesions
from ankle_lib.gadolinium.lesion_crops import FEATURES, LesionSet, cut_lesions, joined, measures
from ankle_lib.gadolinium.lesion_networks import LearnedNoise, LesionNetwork, Plan
from ankle_lib.gadolinium.ranking import auc
from ankle_lib.volume import Volume

SIDE = 8


def toy_lesions(count: int = 64, seed: int = 0) -> LesionSet:
    """Discs; those that are bright in the second sequence are active."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")) - SIDE / 2 + 0.5
    disc = (grid**2).sum(0) < 6
    outlines = np.broadcast_to(disc, (count, 3, SIDE, SIDE)).copy()
    active = np.arange(count) % 3 == 0
    images = 0.1 * rng.standard_normal((count, 3, 3, SIDE, SIDE)).astype("f4")
    images[:, 1] += outlines * np.where(active, 0.6, 0.2)[:, None, None, None].astype("f4")
    table = pd.DataFrame({"patient": [f"P{n % 8}" for n in range(count)], "active": active})
    enhancement = outlines * np.where(active, 0.3, 0.0)[:, None, None, None].astype("f4")
    return LesionSet(table, images, outlines, outlines.copy(), enhancement.astype("f4"))


# --- planes ---


def toy_volumes(gain: float = 1.0) -> dict[str, Volume]:
    rng = np.random.default_rng(0)
    brain = np.zeros((30, 30, 30), dtype="f4")
    brain[3:27, 3:27, 3:27] = 100 * gain
    numbers = np.zeros(brain.shape, dtype=np.int16)
    numbers[12:16, 12:17, 12:16], numbers[20:24, 20:24, 20:24] = 1, 2
    images = {"T1w": 0.8, "T2w": 1.8, "FLAIR": 1.5, "T1w_post": 1.2}
    affine = np.diag([1.25, 1.25, 1.25, 1.0])
    volumes = {}
    for name, factor in images.items():
        noisy = brain * (1 + 0.01 * rng.standard_normal(brain.shape).astype("f4"))
        noisy[numbers > 0] *= factor if name != "T1w_post" else 1
        noisy[numbers == 1] *= 1.2 if name == "T1w_post" else 1
        volumes[name] = Volume(noisy, affine)
    return volumes | {"lesions": Volume(numbers, affine)}


def test_gains_vanish_and_what_takes_up_agent_is_active() -> None:
    first, second = (cut_lesions("A", toy_volumes(gain), SIDE) for gain in (1.0, 7.0))
    np.testing.assert_allclose(first.images, second.images, atol=1e-4)
    assert first.images.shape == (2, 3, 3, SIDE, SIDE)
    assert first.table["patient"].tolist() == ["A", "A"]
    for factor, image in zip((0.8, 1.8, 1.5), first.images[0], strict=True):
        assert image[first.outlines[0]].mean() == pytest.approx(np.log(factor), abs=0.05)
    assert first.table["volume_mm3"][0] == pytest.approx(80 * 1.25**3)
    assert first.active.all()  # relative to T1w before, both grew


def test_a_skull_is_refused_and_nobody_needs_lesions() -> None:
    volumes = toy_volumes()
    full = replace(volumes["T1w"], data=volumes["T1w"].data + 1)
    with pytest.raises(AnkleError, match="take the skull off"):
        cut_lesions("A", volumes | {"T1w": full}, SIDE)
    none = replace(volumes["lesions"], data=0 * volumes["lesions"].data)
    empty = cut_lesions("A", volumes | {"lesions": none}, SIDE)
    assert len(empty) == 0
    assert len(joined([empty, cut_lesions("B", volumes, SIDE)])) == 2


def test_measures_tell_the_halo_apart() -> None:
    own = np.zeros((9, 9, 9), dtype=bool)
    own[3:6, 3:6, 3:6] = True
    images = np.zeros((3, 9, 9, 9))
    images[:, own] = [[-0.2], [0.5], [0.4]]
    images[1][2, 3:6, 3:6] = 0.3  # a part of a halo
    found = measures(images, own, own, 1.0)
    assert list(found) == list(FEATURES)
    assert found["t1w"] == pytest.approx(-0.2)
    assert found["t2w_halo"] > 0 == found["flair_halo"]
    assert found["ln_volume"] == pytest.approx(np.log(27))


def test_choosing_lesions() -> None:
    lesions = toy_lesions()
    part = lesions.of(["P1", "P2"])
    assert set(part.table["patient"]) == {"P1", "P2"}
    assert len(part) == len(part.images) == 16
    np.testing.assert_array_equal(lesions.chosen([3, 1]).active, lesions.active[[3, 1]])


# --- networks ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> LesionNetwork:
    plan = Plan(steps=80, width=6)
    return lesion_networks.train_once(plan, toy_lesions(), tmp_path_factory.mktemp("trained"))


def test_a_network_learns_what_there_is_to_see(trained: LesionNetwork) -> None:
    fresh = toy_lesions(seed=1)
    assert auc(fresh.active, lesion_networks.scores(trained, fresh)) > 0.95
    blind = lesion_networks.scores(trained, fresh, blank=(0, 1, 2))
    assert np.ptp(blind) < 1e-5


def test_a_network_begins_at_what_is_known_without_images() -> None:
    fresh = Plan(steps=1, width=4).fresh().eval()
    p = expit(lesion_networks.scores(fresh, toy_lesions(6)))
    np.testing.assert_allclose(p, 0.15, atol=1e-6)


def test_trained_once(tmp_path: Path) -> None:
    plan = Plan(steps=2, width=4)
    first = lesion_networks.train_once(plan, toy_lesions(), tmp_path)
    stored = next(tmp_path.rglob("weights.npz"))
    written = stored.stat().st_mtime_ns
    again = lesion_networks.train_once(plan, toy_lesions(), tmp_path)
    assert stored.stat().st_mtime_ns == written
    lesions = toy_lesions(6)
    np.testing.assert_array_equal(
        lesion_networks.scores(first, lesions), lesion_networks.scores(again, lesions)
    )
    lesion_networks.train_once(replace(plan, seed=1), toy_lesions(), tmp_path)
    assert len(list(tmp_path.rglob("weights.npz"))) == 2


def test_rates_are_tried_on_patients_who_did_not_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesions, seen, whole = toy_lesions(48), [], lesion_networks.train_once

    def watched(plan: Plan, kept: LesionSet, *where: object) -> LesionNetwork:
        seen.append(set(kept.table["patient"]))
        return whole(plan, kept, *where)

    monkeypatch.setattr(lesion_networks, "train_once", watched)
    tried = lesion_networks.rate_trials(Plan(steps=40, width=4), lesions, tmp_path)
    everybody = set(lesions.table["patient"])
    held_out = [everybody - one for one in seen[:: len(lesion_networks.RATES_TRIED)]]
    assert set().union(*held_out) == everybody
    assert sum(map(len, held_out)) == len(everybody)
    assert tried.groupby("fold")["patients"].first().tolist() == [len(one) for one in held_out]
    assert tried["rate"].nunique() == len(lesion_networks.RATES_TRIED)
    best = tried.groupby("rate")["loss"].mean()
    assert best[1e-2] < best[1e-3], "in so few steps the largest rate learns most"
    few = lesions.chosen(lesions.table["patient"].isin(sorted(everybody)[:2]))
    with pytest.raises(AnkleError, match="2 patients train, and to try learning rates 3"):
        lesion_networks.rate_trials(Plan(steps=1, width=4), few, tmp_path)


@pytest.mark.parametrize("task", lesion_networks.TASKS)
@pytest.mark.parametrize("dropout", ["none", "fixed", "learned"])
def test_every_task_has_a_loss(task: str, dropout: str, tmp_path: Path) -> None:
    plan = Plan(steps=2, width=4, task=task, dropout=dropout, modality_dropout=True)
    network = lesion_networks.train_once(plan, toy_lesions(), tmp_path)
    found = lesion_networks.scores(network, toy_lesions(5), draws=3)
    assert found.shape == (3, 5)
    assert (np.ptp(found, axis=0) > 0).any() == (dropout != "none")


def test_only_dropout_is_in_training_mode() -> None:
    network = Plan(steps=1, width=4, dropout="fixed").fresh()
    kept = network.fine[1].running_mean.clone()
    with lesion_networks.only_dropout_trains(network):
        modes = {type(one).__name__: one.training for one in network.modules()}
        network(torch.randn(2, 3, 3, 8, 8), torch.ones(2, 3, 8, 8))
    assert modes["Dropout3d"]
    assert not modes["BatchNorm3d"]
    assert torch.equal(network.fine[1].running_mean, kept)
    assert not any(one.training for one in network.modules())


def test_learned_noise_is_around_one_and_prefers_to_be_large() -> None:
    noise = LearnedNoise(4)
    torch.manual_seed(0)
    drawn = noise(torch.ones(20_000, 4, 1, 1, 1)).detach()
    assert float(drawn.mean()) == pytest.approx(1, abs=0.01)
    assert float(drawn.var()) == pytest.approx(float(np.exp(-3)), rel=0.05)
    assert torch.equal(noise.eval()(torch.ones(2, 4, 1, 1, 1)), torch.ones(2, 4, 1, 1, 1))
    small = noise.divergence()
    nn.init.constant_(noise.log_alpha, 2.0)
    assert 0 < noise.divergence() < small


def test_one_class_alone_teaches_nothing(tmp_path: Path) -> None:
    lesions = toy_lesions()
    with pytest.raises(AnkleError, match="needs both"):
        lesion_networks.train_once(Plan(steps=1), lesions.chosen(lesions.active), tmp_path)
    with pytest.raises(AnkleError, match="no task 'guess'"):
        Plan(steps=1, task="guess").fresh()  # type: ignore[arg-type]


# --- why ---


def test_integrated_gradients_add_up(trained: LesionNetwork) -> None:
    lesions = toy_lesions(4, seed=2)
    images = torch.from_numpy(lesions.images)
    outlines = torch.from_numpy(lesions.outlines.astype("f4"))
    found = attribution.integrated_gradients(trained, images, outlines).sum((1, 2, 3, 4))
    forward = attribution.summed_logit(trained)
    gap = (forward(images, outlines) - forward(0 * images, outlines)).detach()
    np.testing.assert_allclose(found.detach(), gap, rtol=0.05, atol=0.5)


@pytest.mark.parametrize("method", attribution.METHODS)
def test_attributions_are_maps_about_the_lesion(trained: LesionNetwork, method: str) -> None:
    lesions = toy_lesions(6, seed=2)
    maps = attribution.attribute(trained, lesions, method)
    assert maps.shape == lesions.outlines.shape
    brain = np.ones_like(lesions.outlines)
    focus = attribution.concentration(maps, attribution.with_halo(lesions), brain)
    assert np.isfinite(focus).all()
    if method != "Grad-CAM":  # whose level is coarse: 4 x 4 pixels here
        assert focus.mean() > 1
    np.testing.assert_allclose(attribution.concentration(brain * 1.0, lesions.outlines, brain), 1)


def test_decoys_are_away_from_lesions() -> None:
    lesions = toy_lesions(5)
    wide = {
        name: np.pad(getattr(lesions, name), [(0, 0)] * axes + [(10, 10)] * 2, constant_values=fill)
        for name, axes, fill in (
            ("images", 3, 0.1), ("outlines", 2, 0), ("all_lesions", 2, 0), ("enhancement", 2, 0)
        )
    }  # fmt: skip
    lesions = LesionSet(lesions.table, **wide)
    found, decoys = attribution.with_decoys(lesions)
    assert len(found) == len(decoys) == 5
    assert decoys.any((1, 2, 3)).all()
    assert not (decoys & lesions.all_lesions).any()
    assert found.images[:, 1][decoys].mean() > 0.5
    nowhere, none = attribution.with_decoys(toy_lesions(3))
    assert len(nowhere) == len(none) == 0


# --- made lesions ---


def level_of(made: LesionSet) -> np.ndarray:
    pairs = zip(made.images, made.outlines, strict=True)
    return np.array([image[1][own].mean() for image, own in pairs])


def test_pasting_keeps_the_class_and_the_look() -> None:
    lesions = toy_lesions()
    made = made_lesions.paste(lesions, 30)
    assert len(made) == 30
    level = level_of(made)
    assert (level[made.active] > 0.4).all()
    assert (level[~made.active] < 0.4).all()


@pytest.mark.parametrize("train", [made_lesions.train_vae, made_lesions.train_gan])
def test_generators_learn_what_classes_look_like(train: Callable) -> None:
    lesions = toy_lesions()
    made = made_lesions.generate(train(lesions, 300), lesions, 60)
    assert made.images.shape == (60, 3, 3, SIDE, SIDE)
    assert np.isfinite(made.images).all()
    level = level_of(made)
    assert level[made.active].mean() - level[~made.active].mean() > 0.15
