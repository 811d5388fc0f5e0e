from __future__ import annotations

import numpy as np
import pytest
import torch

from ankle_lib.learning.networks import build
from ankle_lib.learning.prediction import Segmenter
from ankle_lib.learning.random_scans import gaussian_looks
from ankle_lib.learning.scans import FINAL_CONTEXT_MM, patch_source
from ankle_lib.presets import BONES, get_preset
from ankle_lib.small_data import adaptation, few_labels
from ankle_lib.small_data.target_scans import read_target, write_target
from ankle_lib.volume import save
from tests.small_data.toy_target import SPACING, balls

SIZES = get_preset("smoke").small_data


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    affine = np.array([[0, 0, SPACING, 0], [-SPACING, 0, 0, 0], [0, SPACING, 0, 0], [0, 0, 0, 1]])
    template = {bone: folder / f"{bone}.nii.gz" for bone in BONES}
    for bone, mask in balls().items():
        save(template[bone], mask, affine)
    write_target(folder, template, ["C01", "C02"], SIZES, 4)
    write_target(folder, template, ["C01"], SIZES, 4)  # made before
    return read_target(folder, ["C01", "C02"])


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build("unet", in_channels=3, out_channels=3, width=2, depth=2).eval()


def test_children_differ_and_come_as_files(target) -> None:
    one, other = target
    assert one.checksum != other.checksum
    assert one.frames.n_frames == len(one.poses) == 4
    assert set(one.sharp) == {2}
    assert one.sharp[2].shape == one.static.shape
    for child in target:
        for frame in (None, 0, 2):
            assert all(mask.any() for mask in child.masks(frame).values())
    scans = few_labels.labelled_scans(target, 2, SIZES.pixel_mm)
    assert [len(scan.item.labels) for scan in scans] == [3] * 6
    hidden = few_labels.labelled_scans(target, 2, SIZES.pixel_mm, labelled=False)
    assert not any(scan.item.labels for scan in hidden)


def test_a_gaussian_look_has_one_mean_for_each_label_and_nothing_else(target) -> None:
    scan = target[0].scan()
    rng = np.random.default_rng(3)
    first, second = gaussian_looks(scan, 2, rng, pixel_mm=SIZES.pixel_mm)
    assert not np.array_equal(first.item.image, second.item.image)
    for made in (first, second):
        assert any(mask.any() for mask in made.item.labels.values())
        assert np.isfinite(made.item.image).all()


def test_every_way_is_scored_on_every_frame_once(target, network, tmp_path) -> None:
    ways = (few_labels.NETWORK, few_labels.RIGID)
    table = few_labels.score_children(network, target, SIZES, tmp_path, step=2, ways=ways)
    assert len(table) == 2 * 2 * 2 * 3
    assert table.loc[table["way"] == few_labels.NETWORK, "tre_mm"].isna().all()
    assert table.loc[table["way"] == few_labels.RIGID, "tre_mm"].notna().all()
    assert not table[["dice", "gap_error_mm", "overlap_mm3"]].isna().any(axis=None)
    assert (table["share_cm3"] > 0).all()
    (record,) = tmp_path.glob("*.json")
    written = record.stat().st_mtime_ns
    few_labels.score_children(network, target, SIZES, tmp_path, step=2, ways=ways)
    assert record.stat().st_mtime_ns == written


def test_outlines_of_the_static_scan_are_carried_as_they_are(target, network, tmp_path) -> None:
    (child, _) = target
    way = few_labels.OUTLINED
    table = few_labels.score_children(network, [child], SIZES, tmp_path, step=2, ways=(way,))
    for bone, rows in table.groupby("bone"):
        cm3 = child.masks()[bone].sum() * np.prod(child.static.voxel_size_mm) / 1000
        if bone != "tibia":  # whose shank goes on beyond the static scan
            assert rows["share_cm3"].max() < 1.05 * cm3
    assert (table["share_cm3"] != table["volume_cm3"]).all()


def test_adaptation_changes_what_it_should_and_nothing_else(target, network) -> None:
    scans = few_labels.labelled_scans(target, 1, SIZES.pixel_mm, labelled=False)
    source = patch_source(scans, BONES, 32, 0.2, "cpu", FINAL_CONTEXT_MM)
    kept = {name: one.clone() for name, one in network.state_dict().items()}
    images = source.draw(16, torch.Generator().manual_seed(5)).image

    def unsure(one) -> float:
        with torch.inference_mode():
            return float(adaptation.entropy(one(images)))

    fresh = adaptation.new_statistics(network, source, 3)
    certain = adaptation.least_entropy(network, source, 30)
    assert all(torch.equal(one, kept[name]) for name, one in network.state_dict().items())
    for name, one in fresh.state_dict().items():
        changed = not torch.equal(one, kept[name])
        assert changed == ("running" in name or "num_batches" in name), name
    assert unsure(certain) < unsure(fresh)
    convolutions = [name for name, one in certain.named_parameters() if one.ndim == 4]
    assert all(torch.equal(certain.state_dict()[name], kept[name]) for name in convolutions)


def test_frames_that_no_rigid_shape_explains_are_not_learnt_from(target, network) -> None:
    segmenter = Segmenter(network, BONES, (SIZES.pixel_mm,) * 2, FINAL_CONTEXT_MM)
    scans, table = adaptation.confirmed_frames(segmenter, target, SIZES)
    assert len(table) == 8
    assert table["kept"].sum() == len(scans) == 0
    assert (table["agreement"] < adaptation.CONFIRMED).all()


def test_entropy_is_that_of_a_coin() -> None:
    assert float(adaptation.entropy(torch.full((4,), 0.5))) == pytest.approx(np.log(2))
    assert float(adaptation.entropy(torch.tensor([0.0, 1.0]))) < 1e-4
