from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

import ankle_lib.patches.source
from ankle_lib.files import AnkleError
from ankle_lib.patches.counting import count_patches
from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import (
    PatchRule,
    rejection_sampling,
)
from ankle_lib.patches.source import (
    Augmentation,
    PatchSource,
    distort_intensities,
    random_geometry,
)
from ankle_lib.presets import BONES
from tests.patches.toy_items import RULE, foot, generator, item, windows


def observed(kept: list[tuple[str, int, int, int]], expected: dict) -> np.ndarray:
    counts = Counter(kept)
    assert set(counts) <= set(expected), "a patch that the report would not keep"
    return np.array([counts[key] for key in expected])


def exact_distribution(items: list[Item]) -> dict[tuple[str, int, int, int], float]:
    """Return the probability of every patch in the report's set, by a plain search."""
    weights = {}
    for one in items:
        slices = np.moveaxis(one.region, 2, 0)
        fractions = windows(slices, RULE.size).mean((3, 4))
        n_positions = fractions[0].size
        for k, row, column in np.argwhere(fractions >= RULE.min_fraction):
            weights[one.subject, int(k), int(row), int(column)] = 1 / n_positions
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def test_drawing_is_the_reports_rejection_sampling() -> None:
    items = [item("T01", (20, 24, 4), 1), item("T02", (26, 19, 3), 2)]
    distribution = exact_distribution(items)
    source = PatchSource(items, RULE)
    where = source.draw(60_000, generator(3)).where
    drawn = []
    for words in map(source.describe, where.tolist()):
        name, k, row, column = words.split(", ")
        place = (int(part.split()[1]) for part in (k, row, column))
        drawn.append((name.split()[0], *place))
    random = np.random.default_rng(4)
    tried = []
    for one, k in itertools.product(items, range(4)):
        if k < one.region.shape[2]:
            rule = dataclasses.replace(RULE, tries=15_000)
            positions = rejection_sampling(one.region[:, :, k], rule, random)
            tried += [(one.subject, k, int(row), int(column)) for row, column in positions]
    for kept in (drawn, tried):
        counts = observed(kept, distribution)
        expected = np.array(list(distribution.values())) * len(kept)
        assert stats.chisquare(counts, expected).pvalue > 1e-3
    # the test would notice slices that are drawn equally often
    slices = Counter(key[:2] for key in distribution)
    equal = np.array([1 / (len(slices) * slices[key[:2]]) for key in distribution])
    assert stats.chisquare(observed(drawn, distribution), equal * len(drawn)).pvalue < 1e-9


def test_expected_counts_are_those_of_many_extractions() -> None:
    items = [item("T01", seed=1), item("E01", (26, 19, 3), 2), item("T02", seed=5)]
    groups = {"T01": "control", "T02": "control", "E01": "equinus"}
    images = count_patches("static", items, RULE).images
    images = images.assign(group=images["subject"].map(groups))
    table = images.groupby(["group", "bone"], sort=False).sum(numeric_only=True).reset_index()
    assert len(table) == 2 * len(BONES)
    random, n_runs = np.random.default_rng(6), 60
    sums = {group: np.zeros(n_runs) for group in ("control", "equinus")}
    for run, one in itertools.product(range(n_runs), items):
        for k in range(one.region.shape[2]):
            kept = rejection_sampling(one.region[:, :, k], RULE, random)
            sums[groups[one.subject]][run] += len(kept)
    for row in table.itertuples():
        runs = sums[row.group]
        sd = math.sqrt(row.variance)
        assert abs(runs.mean() - row.n_patches) < 4 * sd / math.sqrt(n_runs)
        assert 0.7 < runs.std() / sd < 1.35
    source = PatchSource(items, RULE)
    by_group = table[table.bone == "talus"].n_patches.sum()
    assert source.expected == pytest.approx(by_group)


def test_a_label_that_is_unknown_in_an_image_counts_for_the_others_only() -> None:
    whole = item("T01", seed=1)
    part = dataclasses.replace(item("T01", seed=2), labels={"tibia": whole.labels["tibia"]})
    counts = count_patches("dynamic", [whole, part], RULE).images.groupby("bone")["n_patches"].sum()
    assert counts["talus"] == counts["calcaneus"] < counts["tibia"]
    batch = PatchSource([part], RULE).draw(3, generator())
    assert batch.valid.tolist() == [[False, False, True]] * 3
    assert not batch.target[:, :2].any()


def test_patches_are_cut_from_their_own_image_and_labels() -> None:
    items = {one.subject: one for one in (item("T01", seed=1), item("T02", (26, 19, 3), 2))}
    source = PatchSource(items.values(), RULE, dtype=torch.float32)
    batch = source.draw(40, generator(1))
    assert batch.image.shape == (40, 1, 5, 6)
    for n, where in enumerate(batch.where.tolist()):
        name, *numbers = batch.describe(where).split(", ")
        k, row, column = (int(part.split()[1]) for part in numbers)
        one, cut = items[name.split()[0]], np.s_[row : row + 5, column : column + 6, k]
        assert np.array_equal(batch.image[n, 0].numpy(), one.image[cut])
        for channel, bone in enumerate(BONES):
            assert np.array_equal(batch.target[n, channel].numpy(), one.labels[bone][cut])
        assert one.region[cut].mean() >= RULE.min_fraction


def test_same_seed_same_patches() -> None:
    source = PatchSource([item()], RULE)
    augmentation = Augmentation(rotation_deg=90, scale=1.2, gain=0.2, noise=0.3)
    first, again, other = (source.draw(9, generator(s), augmentation) for s in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.image, other.image)


def test_slices_smaller_than_a_patch_are_continued_with_air() -> None:
    small = item(shape=(7, 30, 2))
    small = dataclasses.replace(small, region=np.ones_like(small.region))
    rule = PatchRule((10, 8), tries=10, min_fraction=0.5)
    batch = PatchSource([small], rule, dtype=torch.float32).draw(20, generator())
    air = float(small.image.min())
    assert (batch.image[:, :, :1] == air).all()
    assert (batch.image[:, :, 8:] == air).all()
    assert not batch.target[:, :, 8:].any()
    assert "row -1" in batch.describe(batch.where[0].tolist())


@pytest.mark.parametrize("angle", [0, 40])
def test_channels_are_neighbouring_slices(monkeypatch: pytest.MonkeyPatch, angle: float) -> None:
    context = (-2, 0, 1)
    plain = [item("T01", (20, 24, 9), 1), item("T02", (26, 19, 3), 2)]
    beside = [dataclasses.replace(one, context=context) for one in plain]
    images = {one.subject: one.image for one in plain}
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turned_by(monkeypatch, np.array([[c, -s], [s, c]]))
    augmentation = Augmentation(rotation_deg=1) if angle else None
    own_first = [dataclasses.replace(one, context=(0, -2, 1)) for one in plain]
    single = PatchSource(own_first, RULE, dtype=torch.float32)  # has the slices without patches
    source = PatchSource(beside, RULE, dtype=torch.float32)
    batch = source.draw(60, generator(3), augmentation)
    for n, where in enumerate(batch.where.tolist()):
        name = source.describe(where)
        k = int(name.split(", ")[1].split()[1])
        image = images[name.split()[0]]
        for channel, offset in enumerate(context):
            seen = min(max(k + offset, 0), image.shape[2] - 1)
            wanted = name.replace(f"slice {k},", f"slice {seen},")
            places = [
                [number, *where[1:]]
                for number in range(len(single._names))
                if single.describe([number, *where[1:]]) == wanted
            ]
            assert len(places) == 1
            same = single.at(torch.tensor(places), augmentation, generator())
            assert torch.equal(batch.image[n, channel], same.image[0, 0])
            if offset == 0:
                assert torch.equal(batch.target[n], same.target[0])


def turned_by(monkeypatch: pytest.MonkeyPatch, matrix: np.ndarray) -> None:
    def fixed(n: int, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
        return torch.tensor(matrix, dtype=torch.float32).expand(n, 2, 2)

    monkeypatch.setattr(ankle_lib.patches.source, "random_geometry", fixed)


@pytest.mark.parametrize(("angle", "step"), [(0, 1.0), (30, 1.0), (-75, 0.8), (45, 1.4)])
def test_turned_patches_are_those_of_scipy(
    monkeypatch: pytest.MonkeyPatch, angle: float, step: float
) -> None:
    one = item(shape=(40, 50, 3), seed=7)
    region = np.zeros(one.image.shape, dtype=bool)
    region[15:32, 20:42] = True
    one = dataclasses.replace(one, region=region)
    rule = PatchRule((9, 10), tries=5, min_fraction=0.6)
    source = PatchSource([one], rule, dtype=torch.float32)
    c, s = np.cos(np.deg2rad(angle)) * step, np.sin(np.deg2rad(angle)) * step
    turned_by(monkeypatch, np.array([[c, -s], [s, c]]))
    batch = source.draw(30, generator(2), Augmentation(rotation_deg=1))
    y, x = np.mgrid[:9, :10] - np.array([4.0, 4.5])[:, None, None]
    for n, where in enumerate(batch.where.tolist()):
        k, row, column = (int(t.split()[1]) for t in batch.describe(where).split(", ")[1:])
        at = [c * y - s * x + row + 4.0, s * y + c * x + column + 4.5]
        air = one.image.min()
        grown = np.pad(one.image[:, :, k], 20, constant_values=air)
        wanted = ndimage.map_coordinates(grown, [a + 20 for a in at], order=1)
        assert np.allclose(batch.image[n, 0].numpy(), wanted, atol=2e-3)
        if angle not in (0, 45):  # there the nearest pixel is a matter of rounding
            mask = one.labels["talus"][:, :, k].astype(float)
            nearest = ndimage.map_coordinates(mask, at, order=0, mode="constant")
            assert (batch.target[n, 1].numpy() == nearest).mean() > 0.98


def test_pairs_are_selected_by_their_correlation() -> None:
    random = np.random.default_rng(8)
    shape = (30, 30, 3)
    target = ndimage.gaussian_filter(random.normal(size=shape), (1, 1, 0))
    image = target + 0.8 * ndimage.gaussian_filter(random.normal(size=shape), (1, 1, 0))
    pair = Item("T01", "frame 0", image, foot(shape, 8), target=target, bone="talus")
    rules = {"talus": PatchRule((8, 8), 100, 0.5, 0.6)}
    source = PatchSource([pair], rules, dtype=torch.float32)
    batch = source.draw(500, generator())
    assert batch.target.shape == (500, 1, 8, 8)
    assert batch.valid.all()
    expected = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for a, b in zip(batch.image.numpy(), batch.target.numpy(), strict=True)
    ]
    assert np.allclose(batch.correlation.numpy(), expected, atol=1e-4)
    assert min(expected) > 0.6
    all_pairs = PatchSource([pair], PatchRule((8, 8), 100, 0.5))
    assert source.expected < all_pairs.expected
    assert "talus, slice" in batch.describe(batch.where[0].tolist())
    assert count_patches("reconstruction", [pair], rules).images.bone.tolist() == ["talus"]
    with pytest.raises(AnkleError, match="no rule for patches of 'talus'"):
        PatchSource([pair], {"tibia": RULE})


def test_sources_refuse_what_cannot_be_drawn() -> None:
    good = item()
    with pytest.raises(AnkleError, match="no patch obeys"):
        PatchSource([dataclasses.replace(good, region=np.zeros_like(good.region))], RULE)
    with pytest.raises(AnkleError, match="not finite"):
        PatchSource([dataclasses.replace(good, image=np.full_like(good.image, np.nan))], RULE)
    with pytest.raises(AnkleError, match="too large"):
        PatchSource([dataclasses.replace(good, image=good.image * 1e6)], RULE)
    with pytest.raises(AnkleError, match="'talus' is none of tibia"):
        PatchSource([good], RULE, labels=("tibia", "calcaneus"))
    with pytest.raises(AnkleError, match="for labels and targets"):
        PatchSource([good, dataclasses.replace(good, labels={}, target=good.image)], RULE)
    with pytest.raises(AnkleError, match="no patch can obey"):
        PatchRule((5, 5), 10, 1.5)


# --- random changes ---


def test_geometry_covers_its_range_and_no_more() -> None:
    turns = random_geometry(4000, Augmentation(rotation_deg=40, scale=1.25), generator()).double()
    steps = torch.linalg.det(turns).sqrt()
    angles = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert 39 < angles.max() <= 40.001
    assert -40.001 <= angles.min() < -39
    assert 1.24 < steps.max() < 1.2501
    assert 0.7999 < steps.min() < 0.81


def test_distortions_leave_air_black_and_change_light_as_asked() -> None:
    images = torch.rand((50, 1, 16, 16), generator=generator()) * 3 - 1.5
    images[:, :, :, :4] = -1.5
    black = torch.full((50,), -1.5)

    def changed(**kwargs: float) -> torch.Tensor:
        return distort_intensities(images, black, Augmentation(**kwargs), generator(1))

    assert torch.allclose(changed(), images, atol=1e-6)
    for kwargs in ({"gain": 0.5}, {"gamma": 0.5}, {"shading": 0.5}):
        result = changed(**kwargs)
        assert torch.allclose(result[..., :4], images[..., :4], atol=1e-6)
        assert (result - images)[..., 4:].abs().mean() > 0.05
    factors = ((changed(gain=0.3) + 1.5) / (images + 1.5))[..., 4:].flatten(1)
    assert torch.allclose(factors.amin(1), factors.amax(1), rtol=1e-3)
    assert math.exp(-0.3) - 1e-3 < factors.min() < factors.max() < math.exp(0.3) + 1e-3
    gamma = changed(gamma=0.5)
    assert torch.allclose(gamma.amax((1, 2, 3)), images.amax((1, 2, 3)), atol=1e-5)
    noise = (changed(noise=0.4) - images).flatten(1).std(1)
    assert 0.3 < noise.max() < 0.45
    with pytest.raises(AnkleError, match="scale=3"):
        Augmentation(scale=3)
    with pytest.raises(AnkleError, match="noise=-1"):
        Augmentation(noise=-1)
