from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

import ankle_lib.patches.source
from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.augmentation import Augmentation, distort_intensities, random_geometry
from ankle_lib.patches.counting import count_patches, counts_by_group
from ankle_lib.patches.items import Item, dynamic_items, reconstruction_items, static_items, zscore
from ankle_lib.patches.rules import (
    DYNAMIC_SEGMENTATION,
    RECONSTRUCTION,
    STATIC_SEGMENTATION,
    PatchRule,
    admissible_positions,
    box_sums,
    local_correlation,
    rejection_sampling,
)
from ankle_lib.patches.source import PatchSource
from ankle_lib.patches.split import Split, cross_validation, report_split
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.volume import save

PSR = np.array([[0, 0, 8.0, 0], [-0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1]])
"""Affine of a sagittal series whose axes run to posterior, superior and right."""

RULE = PatchRule((5, 6), tries=40, min_fraction=0.75)


def foot(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Return a random blob that fills about half of the slices, and less of the last ones."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (3, 3, 1))
    return smooth > smooth.std() * np.linspace(-1.0, 1.0, shape[2])


def item(subject: str = "T01", shape: tuple[int, int, int] = (20, 24, 4), seed: int = 0) -> Item:
    random = np.random.default_rng(seed)
    region = foot(shape, seed)
    labels = {bone: random.random(shape) < 0.3 for bone in BONES}
    return Item(subject, "static", random.normal(size=shape).astype(np.float32), region, labels)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- intensities ---------------------------------------------------------------------------------


def test_zscore_is_standard_inside_the_mask() -> None:
    random = np.random.default_rng(0)
    data, mask = random.gamma(3.0, 200.0, (9, 8, 7)), random.random((9, 8, 7)) < 0.4
    result = zscore(data.astype(np.int16), mask)
    assert result.dtype == np.float32
    assert result[mask].mean() == pytest.approx(0, abs=1e-5)
    assert result[mask].std() == pytest.approx(1, abs=1e-5)
    assert np.corrcoef(result.ravel(), data.ravel())[0, 1] > 0.99999


def test_zscore_refuses_what_it_cannot_scale() -> None:
    data, mask = np.ones((3, 3, 3)), np.ones((3, 3, 3), dtype=bool)
    with pytest.raises(AnkleError, match="constant inside the mask"):
        zscore(data, mask)
    with pytest.raises(AnkleError, match="mask is empty"):
        zscore(data, ~mask)
    with pytest.raises(AnkleError, match="not finite"):
        zscore(np.where(np.arange(27).reshape(3, 3, 3) == 5, np.nan, 1.0), mask)
    with pytest.raises(AnkleError, match=r"\(3, 3, 3\) and mask of shape \(3, 3\)"):
        zscore(data, mask[0])


# --- positions -----------------------------------------------------------------------------------


def windows(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return every patch of every slice, shape (K, rows, columns, h, w)."""
    return np.lib.stride_tricks.sliding_window_view(array, size, axis=(1, 2))


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(3, 9), st.integers(3, 9)),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    fraction=st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.7, 0.75, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_admissible_positions_are_those_of_a_plain_search(
    shape: tuple[int, int, int], height: int, width: int, fraction: float, seed: int
) -> None:
    region = np.random.default_rng(seed).random(shape) < 0.6
    rule = PatchRule((height, width), tries=1, min_fraction=fraction)
    kept = admissible_positions(torch.from_numpy(region), rule)
    fractions = windows(region, rule.size).mean((3, 4))
    assert np.array_equal(kept.numpy(), fractions >= fraction - 1e-9)


def test_box_sums_and_local_correlation_are_those_of_every_patch() -> None:
    random = np.random.default_rng(1)
    first = random.normal(size=(3, 11, 13))
    second = first + random.normal(size=(3, 11, 13))
    second[1, :6, :7] = 2.5
    size = (4, 5)
    one, two = torch.from_numpy(first), torch.from_numpy(second)
    assert np.allclose(box_sums(one, size).numpy(), windows(first, size).sum((3, 4)))
    correlation = local_correlation(one, two, size).numpy()
    pairs = zip(
        windows(first, size).reshape(-1, 20), windows(second, size).reshape(-1, 20), strict=True
    )
    expected = [np.corrcoef(a, b)[0, 1] if np.ptp(b) else 0.0 for a, b in pairs]
    assert np.allclose(correlation.ravel(), expected, atol=1e-9)
    assert (correlation[1, :3, :3] == 0).all()


def test_correlation_of_faint_texture_on_a_bright_ground_is_exact() -> None:
    random = np.random.default_rng(2)
    first = 5 + 0.01 * random.normal(size=(1, 40, 40))
    second = first + 0.005 * random.normal(size=(1, 40, 40))
    values = local_correlation(torch.from_numpy(first), torch.from_numpy(second), (8, 8))
    patches = first[0, 3:11, 4:12], second[0, 3:11, 4:12]
    expected = np.corrcoef(*(patch.ravel() for patch in patches))[0, 1]
    assert float(values[0, 3, 4]) == pytest.approx(expected, abs=1e-4)


# --- the same distribution as the report's extraction --------------------------------------------


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
    table = counts_by_group(count_patches("static", items, RULE).images, groups)
    assert table.columns.tolist()[:4] == ["task", "group", "bone", "n_patches"]
    assert len(table) == 2 * len(BONES)
    random, n_runs = np.random.default_rng(6), 60
    sums = {group: np.zeros(n_runs) for group in ("control", "equinus")}
    for run, one in itertools.product(range(n_runs), items):
        for k in range(one.region.shape[2]):
            kept = rejection_sampling(one.region[:, :, k], RULE, random)
            sums[groups[one.subject]][run] += len(kept)
    for row in table.itertuples():
        runs = sums[row.group]
        assert abs(runs.mean() - row.n_patches) < 4 * row.n_patches_sd / math.sqrt(n_runs)
        assert 0.7 < runs.std() / row.n_patches_sd < 1.35
    source = PatchSource(items, RULE)
    by_group = table[table.bone == "talus"].n_patches.sum()
    assert source.expected == pytest.approx(by_group)


def test_a_label_that_is_unknown_in_an_image_counts_for_the_others_only() -> None:
    whole = item("T01", seed=1)
    part = dataclasses.replace(item("T01", seed=2), labels={"tibia": whole.labels["tibia"]})
    table = counts_by_group(
        count_patches("dynamic", [whole, part], RULE).images, {"T01": "control"}
    )
    counts = table.set_index("bone").n_patches
    assert counts["talus"] == counts["calcaneus"] < counts["tibia"]
    batch = PatchSource([part], RULE).draw(3, generator())
    assert batch.valid.tolist() == [[False, False, True]] * 3
    assert not batch.target[:, :2].any()


# --- patches -------------------------------------------------------------------------------------


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
    augmentation = Augmentation(rotation_deg=90, scale=1.2, mirror=True, gain=0.2, noise=0.3)
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


def test_geometry_covers_its_range_and_no_more() -> None:
    turns = random_geometry(4000, Augmentation(rotation_deg=40, scale=1.25), generator()).double()
    steps = torch.linalg.det(turns).sqrt()
    angles = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert 39 < angles.max() <= 40.001
    assert -40.001 <= angles.min() < -39
    assert 1.24 < steps.max() < 1.2501
    assert 0.7999 < steps.min() < 0.81
    mirrored = random_geometry(1000, Augmentation(mirror=True), generator())
    assert 400 < (torch.linalg.det(mirrored) < 0).sum() < 600


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
    with pytest.raises(AnkleError, match="scale is 3"):
        Augmentation(scale=3)
    with pytest.raises(AnkleError, match="noise is -1"):
        Augmentation(noise=-1)


# --- reconstruction ------------------------------------------------------------------------------


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
    table = counts_by_group(
        count_patches("reconstruction", [pair], rules).images, {"T01": "control"}
    )
    assert table.bone.tolist() == ["talus"]
    with pytest.raises(AnkleError, match="no rule for patches of 'talus'"):
        PatchSource([pair], {"tibia": RULE})


# --- what is refused -----------------------------------------------------------------------------


def test_sources_refuse_what_cannot_be_drawn() -> None:
    good = item()
    with pytest.raises(AnkleError, match="no patch of"):
        PatchSource([dataclasses.replace(good, region=np.zeros_like(good.region))], RULE)
    with pytest.raises(AnkleError, match="not finite"):
        PatchSource([dataclasses.replace(good, image=np.full_like(good.image, np.nan))], RULE)
    with pytest.raises(AnkleError, match="too large"):
        PatchSource([dataclasses.replace(good, image=good.image * 1e6)], RULE)
    with pytest.raises(AnkleError, match="'talus' is none of tibia"):
        PatchSource([good], RULE, labels=("tibia", "calcaneus"))
    with pytest.raises(AnkleError, match="some items have labels"):
        PatchSource([good, dataclasses.replace(good, labels={}, target=good.image)], RULE)
    with pytest.raises(AnkleError, match="labels or a target to learn, not both"):
        dataclasses.replace(good, target=good.image)
    with pytest.raises(AnkleError, match=r"talus has shape \(2, 2, 2\)"):
        dataclasses.replace(good, labels={"talus": np.ones((2, 2, 2), dtype=bool)})
    with pytest.raises(AnkleError, match="give a mask of bool"):
        dataclasses.replace(good, region=good.region * 1.0)
    with pytest.raises(AnkleError, match="no patch can obey"):
        PatchRule((5, 5), 10, 1.5)


# --- split ---------------------------------------------------------------------------------------


def subject(code: str, **paths: object) -> CleanSubject:
    group = "equinus" if code.startswith("E") else "control"
    given: dict = {"static": Path(), "masks": {}, "sequences": {}} | paths
    return CleanSubject(code, group, None, **given)


def test_the_reports_split_and_its_cross_validation() -> None:
    people = [subject(code) for code in ("E02", "T05", "T01", "E01", "T02")]
    assert report_split(people) == Split(("T01", "T02"), ("T05",), ("E01", "E02"))
    folds = cross_validation(people)
    assert [fold.validation for fold in folds] == [("T01",), ("T02",), ("T05",)]
    assert all(fold.test == ("E01", "E02") for fold in folds)
    assert all(set(fold.train + fold.validation) == {"T01", "T02", "T05"} for fold in folds)
    with pytest.raises(AnkleError, match="1 control subjects"):
        report_split(people[:2])
    controls = [one for one in people if one.group == "control"]
    assert report_split(controls).test == ()
    with pytest.raises(AnkleError, match="there are only controls"):
        report_split(controls, tested=True)


def test_no_subject_is_in_two_parts() -> None:
    with pytest.raises(AnkleError, match="T02 would be in more than one place"):
        Split(("T01", "T02"), ("T02",))
    with pytest.raises(AnkleError, match="T01 would be"):
        Split(("T01", "T01"))
    with pytest.raises(AnkleError, match="no subject to train on"):
        Split((), ("T01",))
    split = Split(("T01",), ("T02",), ("E01",))
    split.check(PatchSource([item("T01")], RULE).subjects, "train")
    with pytest.raises(AnkleError, match="E01 must not be seen"):
        split.check(PatchSource([item("T01"), item("E01")], RULE).subjects, "train")
    with pytest.raises(AnkleError, match="E09 is in no part"):
        split.check(["E09"], "test")
    with pytest.raises(AnkleError, match=r"T02 .* not in the cohort"):
        split.pick([subject("T01")], "validation")


# --- sizes ---------------------------------------------------------------------------------------


def test_patches_keep_their_size_in_mm() -> None:
    pixels = {
        name: tuple(
            task.pixels(preset.static_voxel_mm[0] if task.grid == "static" else dynamic)
            for task in (STATIC_SEGMENTATION, DYNAMIC_SEGMENTATION, RECONSTRUCTION)
        )
        for name, preset in PRESETS.items()
        for dynamic in (preset.dynamic_voxel_mm[0],)
    }
    assert pixels == {"smoke": (32, 48, 12), "laptop": (64, 80, 20), "paper": (128, 128, 32)}
    assert STATIC_SEGMENTATION.size_mm == pytest.approx(35.84)
    assert RECONSTRUCTION.rule(0.568, "talus") == PatchRule((32, 32), 14000, 0.5, 0.6)
    assert RECONSTRUCTION.rules(0.568)["calcaneus"].min_fraction == 0.7
    with pytest.raises(AnkleError, match="no patches of 'fibula'"):
        STATIC_SEGMENTATION.rule(0.28, "fibula")


# --- reading the chapters' results ---------------------------------------------------------------


@dataclass(frozen=True)
class Registered:
    subject: str
    sequence: str
    frame: int
    bone: str
    mask: Path
    moved_static: Path


@dataclass(frozen=True)
class Results:
    subjects: list[CleanSubject]
    masked: Path
    accepted: list[Registered]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Write two subjects of two frames; the tibia of frame 1 was not accepted."""
    random, shape = np.random.default_rng(0), (24, 24, 3)
    people, accepted = [], []

    def image(name: str) -> Path:
        return save(tmp_path / name, random.integers(1, 900, shape).astype(np.int16), PSR)

    def mask(name: str) -> Path:
        inside = np.zeros(shape, dtype=np.uint8)
        inside[4:20, 4:20] = 1
        return save(tmp_path / name, inside, PSR)

    for code in ("T01", "E01"):
        frames = [image(f"{code}_{n}.nii.gz") for n in range(2)]
        masks = {bone: mask(f"{code}_{bone}.nii.gz") for bone in BONES}
        static = image(f"{code}.nii.gz")
        people.append(
            subject(code, static=static, masks=masks, sequences={"active_run-01": frames})
        )
        for name in ("static", *(f"task-active_run-01_frame-{n:02d}" for n in range(2))):
            mask(f"masked/sub-{code}/sub-{code}_{name}_desc-foot_mask.nii.gz")
        for n, bone in itertools.product(range(2), BONES):
            if (n, bone) != (1, "tibia"):
                moved = image(f"{code}_{n}_{bone}_moved.nii.gz")
                accepted.append(Registered(code, "active_run-01", n, bone, masks[bone], moved))
    return Results(people, tmp_path / "masked", accepted)


def test_items_are_read_from_the_chapters_folders(results: Results) -> None:
    static = list(static_items(results.subjects, results.masked))
    assert [one.subject for one in static] == ["T01", "E01"]
    assert set(static[0].labels) == set(BONES)
    assert static[0].image[static[0].region].std() == pytest.approx(1, abs=1e-4)
    dynamic = list(dynamic_items(results.subjects, results.masked, results.accepted))
    assert [one.name for one in dynamic] == ["active_run-01 frame 0", "active_run-01 frame 1"] * 2
    assert [sorted(one.labels) for one in dynamic[:2]] == [sorted(BONES), sorted(BONES[:2])]
    pairs = list(reconstruction_items(results.subjects[:1], results.accepted))
    assert [one.bone for one in pairs] == [*BONES, *BONES[:2]]
    assert all(one.target is not None for one in pairs)


def test_frames_and_sequences_follow_their_subject(results: Results) -> None:
    split = Split(("T01",), test=("E01",))
    train, test = split.pick(results.subjects, "train"), split.pick(results.subjects, "test")
    rule = PatchRule((8, 8), 20, 0.75)
    for read in (
        lambda people: dynamic_items(people, results.masked, results.accepted),
        lambda people: reconstruction_items(people, results.accepted),
        lambda people: static_items(people, results.masked),
    ):
        sources = [PatchSource(read(people), rule) for people in (train, test)]
        assert [source.subjects for source in sources] == [("T01",), ("E01",)]
        drawn = {source.describe(row)[:3] for source in sources[:1] for row in places(source)}
        assert drawn == {"T01"}


def places(source: PatchSource) -> list[list[int]]:
    return source.draw(100, generator()).where.tolist()


def test_files_that_do_not_belong_together_are_named(results: Results, tmp_path: Path) -> None:
    other = save(tmp_path / "other.nii.gz", np.ones((5, 5, 5), dtype=np.uint8), np.eye(4))
    wrong = dataclasses.replace(results.accepted[0], mask=other)
    with pytest.raises(AnkleError, match=r"other\.nii\.gz: not on the grid"):
        list(dynamic_items(results.subjects, results.masked, [wrong]))
    late = dataclasses.replace(results.accepted[0], frame=7)
    with pytest.raises(AnkleError, match="T01 has no frame 7"):
        list(dynamic_items(results.subjects, results.masked, [late]))
    save(results.subjects[0].static, np.full((24, 24, 3), 7.0), PSR)
    with pytest.raises(AnkleError, match=r"T01\.nii\.gz: the image is constant"):
        list(static_items(results.subjects, results.masked))
