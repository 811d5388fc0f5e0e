from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ankle_lib.learning import scans
from ankle_lib.learning.scans import (
    ROTATIONS_DEG,
    coarser,
    draw_patches,
    every,
    one_slice,
    patch_source,
    rotation_of,
    train_on_scans,
    turned,
)
from ankle_lib.metrics import dice
from ankle_lib.patches.source import PatchSource
from ankle_lib.presets import BONES
from tests.toy_scans import (
    LIGHT,
    SHAPE,
    small_recipe,
    toy_scan,
)


def test_coarser_pixels_are_means_of_blocks() -> None:
    scan = toy_scan("T01")
    small = coarser(scan, 3)
    assert small.item.image.shape == (16, 18, 8)  # 52 is continued to 54
    assert small.voxel_size_mm == (6.0, 6.0, 3.0)
    expected = scan.item.image[3:6, 6:9, 4].mean()
    assert small.item.image[1, 2, 4] == pytest.approx(expected, rel=1e-5)
    last = np.concatenate([scan.item.image[3:6, 51:52, 4]] * 3, axis=1).mean()
    assert small.item.image[1, 17, 4] == pytest.approx(last, rel=1e-5)
    mask = scan.item.labels["talus"]
    for block in ((6, 7), (8, 9), (9, 9)):
        part = mask[3 * block[0] : 3 * block[0] + 3, 3 * block[1] : 3 * block[1] + 3, 3]
        assert small.item.labels["talus"][(*block, 3)] == (part.mean() >= 0.5)
    assert coarser(scan, 1) is scan


def test_labels_to_learn_from_are_not_larger_than_the_bone() -> None:
    scan = toy_scan("T01")
    mask = np.zeros(SHAPE, dtype=bool)
    mask[11:31] = True  # both ends halve a pixel of two
    scan = replace(scan, item=replace(scan.item, labels={"talus": mask}))
    shown, learnt = (coarser(scan, 2, to_learn=to_learn) for to_learn in (False, True))
    assert 4 * shown.item.labels["talus"].sum() == pytest.approx(1.1 * mask.sum())
    assert 4 * learnt.item.labels["talus"].sum() == pytest.approx(mask.sum())


def test_a_turned_foot_is_rigid_in_mm() -> None:
    scan = replace(toy_scan("T01"), voxel_size_mm=(2.0, 1.5, 3.0))
    there = turned(scan, 40.0)
    centre = np.argwhere(np.logical_or.reduce([*scan.item.labels.values()]).any(axis=2)).mean(
        axis=0
    )
    angle = np.deg2rad(40.0)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for bone in BONES:
        before = np.argwhere(scan.item.labels[bone])[:, :2].mean(axis=0) - centre
        after = np.argwhere(there.item.labels[bone])[:, :2].mean(axis=0) - centre
        expected = rotation @ (before * (2.0, 1.5))
        np.testing.assert_allclose(after * (2.0, 1.5), expected, atol=0.6)
    for bone in ("calcaneus", "talus"):  # the tibia's end leaves the field of view
        volumes = [one.item.labels[bone].sum() for one in (scan, there)]
        assert volumes[1] == pytest.approx(volumes[0], rel=0.05)
        bright = there.item.image[there.item.labels[bone]]
        assert np.median(bright) == pytest.approx(LIGHT[bone], abs=0.1)
    assert there.item.image[0, 0, 0] == pytest.approx(scan.item.image.min())  # air


def test_turning_the_other_way_brings_the_foot_back() -> None:
    scan = toy_scan("T01")
    back = turned(turned(scan, 25.0), -25.0)
    overlap = dice(back.item.labels["talus"], scan.item.labels["talus"])
    assert overlap > 0.9
    assert turned(scan, 0.0).item.image == pytest.approx(scan.item.image)


def test_angles_cover_the_range_in_both_directions() -> None:
    angles = [rotation_of(number, 7) for number in range(7)]
    assert all(ROTATIONS_DEG[0] <= abs(angle) <= ROTATIONS_DEG[1] for angle in angles)
    assert min(angles) < -40 < 40 < max(angles)
    assert len({abs(angle) for angle in angles}) == 7


def test_fewer_slices() -> None:
    scan = toy_scan("T01")
    half = every(scan, 2)
    np.testing.assert_array_equal(half.item.image, scan.item.image[:, :, 1::2])
    assert half.voxel_size_mm == (2.0, 2.0, 6.0)
    assert every(scan, 100).item.image.shape == (48, 52, 1)
    alone = one_slice(scan, 3)
    np.testing.assert_array_equal(
        alone.item.labels["tibia"][..., 0], scan.item.labels["tibia"][..., 3]
    )
    last = scan.item.image.shape[2] - 1
    between = one_slice(scan, last - 1, beside=2)
    wanted = scan.item.image[:, :, [last - 3, last - 2, last - 1, last, last]]
    np.testing.assert_array_equal(between.item.image, wanted)


def test_a_checksum_notices_all_that_is_seen() -> None:
    scan = toy_scan("T01")
    masks = {bone: mask.copy() for bone, mask in scan.item.labels.items()}
    masks["talus"][20, 22, 3] = False
    names = dict(zip(("talus", "tibia", "calcaneus"), scan.item.labels.values(), strict=True))
    changed = (
        replace(scan, item=replace(scan.item, labels=masks)),
        replace(scan, item=replace(scan.item, labels=names)),
        replace(scan, voxel_size_mm=(2.0, 2.0, 1.6)),
    )
    checksums = {scan.checksum, *(one.checksum for one in changed)}
    assert len(checksums) == 4
    assert scan.checksum == toy_scan("T01").checksum


def test_a_source_per_bone_has_that_bone_alone() -> None:
    batch = patch_source([toy_scan("T01")], ("talus",), 16, 0.75).draw(64, torch.Generator())
    assert batch.target.shape == (64, 1, 16, 16)
    light = batch.image[batch.target > 0]
    assert float(light.min()) > 2.5


def test_patches_to_score_on_are_drawn_once() -> None:
    scan = toy_scan("T01")
    batch = draw_patches(scan, ("talus",), 16, 4)
    assert draw_patches(scan, ("talus",), 16, 4) is batch
    assert draw_patches(toy_scan("T01"), ("talus",), 16, 4) is not batch
    assert draw_patches(scan, ("talus",), 16, 5) is not batch


def test_drawn_patches_keep_neither_scan_nor_source(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = []

    def followed(*arguments: Any) -> PatchSource:
        source = patch_source(*arguments)
        sources.append(weakref.ref(source))
        return source

    monkeypatch.setattr(scans, "patch_source", followed)
    scan = toy_scan("T01")
    batch = draw_patches(scan, ("talus",), 16, 4)
    kept = weakref.ref(scan)
    del scan
    gc.collect()
    assert [kept(), *(source() for source in sources)] == [None, None]
    assert batch.describe(batch.where[0].tolist()).startswith("T01")


def test_a_training_holds_no_scan_when_it_has_ended(tmp_path: Path) -> None:
    scan = toy_scan("T01")
    train_on_scans(small_recipe(), [scan], tmp_path)
    kept = weakref.ref(scan)
    del scan
    gc.collect()
    assert kept() is None
