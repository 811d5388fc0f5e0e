from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ankle_lib.files import AnkleError
from ankle_lib.manifest.document import manifest_from_folder
from ankle_lib.manifest.schema import Subject
from ankle_lib.metrics import dice
from ankle_lib.patches.source import Augmentation
from ankle_lib.presets import PRESETS
from ankle_lib.stroke import head_scans as hs
from ankle_lib.stroke.chronic_stroke import simulate_strokes
from ankle_lib.stroke.head_scans import LESION
from ankle_lib.volume import load, save
from tests.stroke.toy_heads import SIZES, toy_head


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("heads")
    return simulate_strokes(["s004"], out, voxel_mm=SIZES.voxel_mm, z_mm=SIZES.z_mm)


def resolved(folder: Path) -> Subject:
    (subject,) = (
        one
        for one in manifest_from_folder(folder).cohort().subjects
        if one.code.endswith(hs.FIRST_SESSION)
    )
    return subject


def test_a_head_lies_on_the_grid_without_interpolation(folder: Path) -> None:
    scan = hs.read_head(SIZES, None, resolved(folder))
    assert scan.item.image.shape == (32, 64, 10)
    raw = load(resolved(folder).images["T1w"]).data
    region = scan.item.region
    assert scan.item.image[region].mean() == pytest.approx(0, abs=0.05)
    assert scan.item.image[region].std() == pytest.approx(1, abs=0.05)
    # every value of the brain is one of the file's, shifted and scaled
    fit = np.polyfit(np.sort(raw.ravel())[-2000::100], np.sort(
        np.pad(scan.item.image[region], 0))[-2000::100], 1)  # fmt: skip
    assert fit[0] > 0
    truth = load(resolved(folder).images["lesions"]).data > 0
    assert scan.item.labels[LESION].sum() == pytest.approx(truth.sum(), rel=0.05)


def test_smaller_voxels_are_averaged_and_the_lesion_stays_in_its_place(
    folder: Path, tmp_path: Path
) -> None:
    own = resolved(folder)
    paths = []
    for path in (own.images["T1w"], own.images["lesions"]):
        volume = load(path)
        fine = volume.data.repeat(3, 0).repeat(3, 1).repeat(3, 2)
        affine = volume.affine @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
        affine[:3, 3] = volume.affine[:3, 3] - 1.5
        paths.append(save(tmp_path / path.name, fine, affine))
    fine_subject = own.model_copy(update={"images": {"T1w": paths[0], "lesions": paths[1]}})
    coarse, fine = (hs.read_head(SIZES, None, one) for one in (own, fine_subject))
    assert dice(coarse.item.labels[LESION], fine.item.labels[LESION]) > 0.6
    both = np.corrcoef(coarse.item.image[coarse.item.region], fine.item.image[coarse.item.region])
    assert both[0, 1] > 0.8


def test_another_raters_masks_can_be_read(folder: Path) -> None:
    own = hs.read_heads([resolved(folder)], SIZES)[0]
    other = hs.read_heads([resolved(folder)], SIZES, masks=folder / "derivatives")[0]
    assert (own.item.image == other.item.image).all()
    assert (own.item.labels[LESION] != other.item.labels[LESION]).any()


def test_a_head_elsewhere_or_without_a_mask_is_refused(folder: Path, tmp_path: Path) -> None:
    own = resolved(folder)
    with pytest.raises(AnkleError, match="no mask of the lesion"):
        hs.read_head(SIZES, None, own.model_copy(update={"images": {"T1w": own.images["T1w"]}}))
    volume = load(own.images["T1w"])
    far = volume.affine.copy()
    far[:3, 3] += 500
    path = save(tmp_path / "far.nii.gz", volume.data, far)
    with pytest.raises(AnkleError, match="register it first"):
        hs.read_head(SIZES, None, own.model_copy(update={"images": {**own.images, "T1w": path}}))


def test_nobody_is_in_two_parts_and_second_sessions_are_in_none() -> None:
    images = {"T1w": Path("a"), "lesions": Path("b")}
    people = [
        Subject(code=f"r{n:03d}s1{session}", images=images)
        for n in range(9)
        for session in (hs.FIRST_SESSION, hs.SECOND_SESSION)
    ]
    people[0] = people[0].model_copy(update={"images": {"T1w": Path("a")}})
    in_order = hs.split_people(people, SIZES)
    assert [len(part) for part in in_order] == [4, 1, 3]
    codes = [one.code for part in in_order for one in part]
    assert codes == [f"r{n:03d}s1ses1" for n in range(1, 9)]
    shuffled = [one.code for part in hs.split_people(people, SIZES, 7) for one in part]
    assert sorted(shuffled) == codes != shuffled
    with pytest.raises(AnkleError, match="8 are needed"):
        hs.split_people(people[4:], SIZES)


def test_the_mirror_image_stands_behind_and_nobody_else_sees_it() -> None:
    scan = toy_head("s1", 1)
    image, n = scan.item.image, scan.item.image.shape[2]
    item = hs.seen_item(scan, mirror=True)
    for k in (0, 4, n - 1):
        seen = [(k + one) for one in item.context]
        own = [min(max(k + step, 0), n - 1) for step in (-1, 0, 1)]
        for place, slice_of in zip(seen[:3], own, strict=True):
            at = min(max(place, 0), item.image.shape[2] - 1)
            assert (item.image[:, :, at] == image[:, :, slice_of]).all()
        for place, slice_of in zip(seen[3:], own, strict=True):
            at = min(place, item.image.shape[2] - 1)
            assert (item.image[:, :, at] == image[::-1, :, slice_of]).all()
    assert not item.region[:, :, n:].any()
    assert hs.seen_item(scan, mirror=False).image is image


@pytest.mark.parametrize("mirror", [False, True])
def test_half_of_a_batch_shows_a_lesion_and_some_slices_are_turned(mirror: bool) -> None:
    scans = [toy_head("s0", 0)]  # its lesion is on the left
    sources = hs.slice_sources(scans, mirror, "cpu")
    generator = torch.Generator().manual_seed(0)
    batch = hs.draw_slices(sources, Augmentation(), 40, generator)
    assert batch.image.shape == (40, 6 if mirror else 3, *SIZES.plane)
    shows = batch.target.flatten(1).any(1)
    assert shows[:20].all()
    assert not shows[20:].all()
    on_right = batch.target[:20, 0, 16:].flatten(1).any(1)
    assert 3 < int(on_right.sum()) < 17
    # image and lesion are turned together
    dark = (batch.image[:20, 1] < 0.2) & (batch.target[:20, 0] > 0)
    assert dark.sum() > 0.9 * batch.target[:20].sum()
    assert batch.describe(batch.where[0].tolist()).startswith("s0 T1w, slice ")


def test_the_grid_has_left_and_right_in_balance() -> None:
    for preset in PRESETS.values():
        grid = hs.head_grid(preset.stroke)
        ends = [grid.affine[0, 3], grid.affine[0, 3] + grid.affine[0, 0] * (grid.shape[0] - 1)]
        assert sum(ends) == pytest.approx(0)
        assert all(side % 32 == 0 for side in grid.shape[:2])
        region = hs.brain_region(grid)
        share = region[0].mean(), region[-1].mean(), region[:, 0].mean(), region[:, -1].mean()
        assert max(share) == 0  # the brain fits, with its margin
    assert replace(PRESETS["paper"].stroke).z_mm is None
