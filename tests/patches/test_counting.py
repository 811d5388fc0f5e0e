from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.counting import count_cohort, count_patches
from ankle_lib.patches.items import Item, as_slices, pixel_mm
from ankle_lib.patches.rules import PatchRule
from ankle_lib.patches.source import PatchSource
from ankle_lib.presets import BONES
from ankle_lib.volume import save

SHAPE = (30, 28, 3)
RULE = PatchRule((7, 9), tries=120, min_fraction=0.5, min_correlation=0.6)


def psr(pixel: float, other: float | None = None) -> np.ndarray:
    """Affine of a sagittal series whose axes run to posterior, superior and right."""
    rows = [[0, 0, 8.0, 0], [-pixel, 0, 0, 0], [0, other or pixel, 0, 0], [0, 0, 0, 1]]
    return np.array(rows)


def pair(subject: str = "T01", bone: str = "talus", seed: int = 0) -> Item:
    random = np.random.default_rng(seed)
    image = random.normal(size=SHAPE).astype(np.float32)
    noise = random.normal(size=SHAPE) * np.linspace(0, 2, SHAPE[1])[:, None]
    region = np.zeros(SHAPE, dtype=bool)
    region[4:26, 3:27, :2] = True
    target = (image + noise).astype(np.float32)
    return Item(subject, "run frame 3", image, region, target=target, bone=bone)


def searched(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlation of every patch with enough bone, and its slice, one by one."""
    height, width = RULE.size
    found = []
    for k in range(SHAPE[2]):
        for row, column in itertools.product(range(31 - height), range(29 - width)):
            cut = np.s_[row : row + height, column : column + width, k]
            if item.region[cut].mean() >= RULE.min_fraction - 1e-9:
                one, two = item.image[cut].ravel(), item.target[cut].ravel()
                found.append((np.corrcoef(one, two)[0, 1], k))
    return np.array(found).T[0], np.array(found).T[1]


def test_an_image_is_counted_as_a_plain_search_would() -> None:
    item = pair()
    extraction = count_patches("pairs", [item], RULE)
    correlations, slices = searched(item)
    share = RULE.tries / (24 * 20)
    (row,) = extraction.images.to_dict("records")
    assert (row["task"], row["subject"], row["bone"]) == ("pairs", "T01", "talus")
    assert row["image"] == "run frame 3"
    assert (row["n_slices"], row["n_tries"]) == (3, 360)
    assert row["n_in_region"] == pytest.approx(len(correlations) * share)
    kept = correlations > 0.6
    assert 0 < kept.sum() < len(kept)
    assert row["n_patches"] == pytest.approx(kept.sum() * share)
    p = np.array([(kept & (slices == k)).sum() for k in range(3)]) / (24 * 20)
    assert row["variance"] == pytest.approx((RULE.tries * p * (1 - p)).sum())


def test_the_histogram_holds_every_patch_in_the_bone() -> None:
    item = pair()
    table = count_patches("pairs", [item], RULE).correlations
    counts, edges = np.histogram(searched(item)[0], 40, (-1, 1))
    assert np.allclose(table["correlation"], (edges[1:] + edges[:-1]) / 2)
    assert np.allclose(table["n_patches"], counts * RULE.tries / (24 * 20))
    assert set(table["bone"]) == {"talus"}


def test_counting_and_drawing_use_the_same_patches() -> None:
    item = pair()
    n = count_patches("pairs", [item], RULE).images["n_patches"].sum()
    assert n == pytest.approx(float(as_slices(item, RULE).expected.sum()))
    source = PatchSource([item], RULE, dtype=torch.float32)
    assert n == pytest.approx(source.expected)
    assert source.n_positions == int(as_slices(item, RULE).kept.sum())
    height, width = source._heights[0], source._widths[0]
    assert source.n_bytes == 2 * 2 * 4 * height * width + 4 * source.n_positions


def test_no_image_gives_an_empty_table() -> None:
    extraction = count_patches("pairs", [], RULE)
    assert extraction.images.empty
    assert extraction.correlations.empty


# --- a cohort on disk ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Registered:
    subject: str
    sequence: str
    frame: int
    bone: str
    mask: Path
    moved_static: Path


def write_subject(folder: Path, code: str, seed: int) -> tuple[CleanSubject, list[Registered]]:
    """Write a static scan of 1 mm and two frames of 1.5 mm with their masks."""
    random, shape = np.random.default_rng(seed), (70, 72, 3)
    texture = random.normal(600, 100, shape)
    inside = np.zeros(shape, dtype=np.uint8)
    inside[6:64, 6:66] = 1

    def image(name: str, step: float, noise: float) -> Path:
        values = texture + random.normal(0, noise, shape)
        return save(folder / name, values.astype(np.float32), psr(step))

    def mask(name: str, step: float) -> Path:
        return save(folder / name, inside, psr(step))

    masks = {bone: mask(f"{code}_{bone}.nii.gz", 1.0) for bone in BONES}
    frames = [image(f"{code}_{n}.nii.gz", 1.5, 0) for n in range(2)]
    static = image(f"{code}.nii.gz", 1.0, 0)
    for name, step in (("static", 1.0), ("task-run_frame-00", 1.5), ("task-run_frame-01", 1.5)):
        mask(f"masked/sub-{code}/sub-{code}_{name}_desc-foot_mask.nii.gz", step)
    accepted = [
        Registered(
            code, "run", n, bone,
            mask(f"{code}_{n}_{bone}.nii.gz", 1.5),
            image(f"{code}_{n}_{bone}_moved.nii.gz", 1.5, 80),
        )
        for n, bone in ((0, "calcaneus"), (0, "talus"), (1, "talus"))
    ]  # fmt: skip
    group = "control" if code.startswith("T") else "equinus"
    return CleanSubject(code, group, None, static, masks, {"run": frames}), accepted


def test_a_cohort_is_counted_for_all_tasks(tmp_path: Path) -> None:
    people, accepted = [], []
    for seed, code in enumerate(("T01", "E01")):
        subject, own = write_subject(tmp_path, code, seed)
        people.append(subject)
        accepted += own
    extraction = count_cohort(people, tmp_path / "masked", accepted)
    images = extraction.images
    assert images.groupby("task", sort=False).size().to_dict() == {
        "static_segmentation": 2 * 3,
        "reconstruction": 2 * 3,
        "dynamic_segmentation": 2 * 3,
    }
    assert list(dict.fromkeys(images["subject"])) == ["T01", "E01"]
    pairs = images[images["task"] == "reconstruction"]
    assert (pairs["n_patches"] > 0).all()
    assert set(zip(pairs["image"], pairs["bone"], strict=True)) == {
        ("run frame 0", "calcaneus"),
        ("run frame 0", "talus"),
        ("run frame 1", "talus"),
    }
    histogram = extraction.correlations.groupby(["subject", "bone"])["n_patches"].sum()
    inside = pairs.groupby(["subject", "bone"])["n_in_region"].sum()
    assert np.allclose(histogram.sort_index(), inside.sort_index())

    # a registration that is not accepted takes its patches with it, and nobody else's
    fewer = count_cohort(people, tmp_path / "masked", accepted[1:]).images
    key = ["task", "subject", "image", "bone"]
    gone = set(images[key].itertuples(index=False, name=None)) - set(
        fewer[key].itertuples(index=False, name=None)
    )
    assert gone == {
        ("reconstruction", "T01", "run frame 0", "calcaneus"),
        ("dynamic_segmentation", "T01", "run frame 0", "calcaneus"),
    }
    alone = count_cohort(people, tmp_path / "masked", [])
    assert set(alone.images["task"]) == {"static_segmentation"}
    assert alone.correlations.empty


def test_the_pixels_of_a_cohort_have_one_size(tmp_path: Path) -> None:
    data = np.zeros((4, 4, 2), dtype=np.int16)
    steps = (0.28, 0.281, 0.29)
    paths = [save(tmp_path / f"{n}.nii.gz", data, psr(step)) for n, step in enumerate(steps)]
    assert pixel_mm(paths) == pytest.approx(0.281)
    coarse = save(tmp_path / "coarse.nii.gz", data, psr(0.56))
    with pytest.raises(AnkleError, match=r"coarse\.nii\.gz: pixels of 0\.560 x 0\.560 mm"):
        pixel_mm([*paths, coarse])
    oblong = save(tmp_path / "oblong.nii.gz", data, psr(0.28, 0.4))
    with pytest.raises(AnkleError, match=r"oblong\.nii\.gz: pixels of 0\.280 x 0\.400 mm"):
        pixel_mm([*paths, oblong])
    with pytest.raises(AnkleError, match="is the cohort empty"):
        pixel_mm([])
