from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ankle_lib.phantom.anatomy import build
from ankle_lib.phantom.subjects import draw_recipe, ideal_poses
from ankle_lib.phantom.tissues import CONTRASTS, CT, TISSUES, signal
from ankle_lib.phantom.tomography import NOISE_HU, simulate_pairs, tomogram
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.volume import load

TINY = dataclasses.replace(
    PRESETS["smoke"],
    static_shape=(40, 40, 20),
    static_voxel_mm=(4.0, 4.0, 4.0),
    anatomy_voxel_mm=4.0,
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return simulate_pairs(TINY, 4.0, ["T31"], tmp_path_factory.mktemp("pairs"))


def test_tissues_have_the_hounsfield_units_of_their_composition() -> None:
    hounsfield = {name: signal(tissue, CT) - 1000 for name, tissue in TISSUES.items()}
    assert hounsfield["air"] == -1000
    assert -110 < hounsfield["fat"] < -70
    assert 40 < hounsfield["muscle"] < 70
    assert hounsfield["growth_plate"] < hounsfield["marrow"] - 50  # a dark line in a child's bone
    assert 150 < hounsfield["marrow"] < 350
    assert 1000 < hounsfield["cortex"] < 1500


def test_a_further_contrast_changes_nothing_in_the_others() -> None:
    recipe = draw_recipe("T31", 2020)
    poses = ideal_poses(recipe)[:2]
    usual = build(recipe.child, poses, soft_voxel_mm=6.0)
    more = build(recipe.child, poses, soft_voxel_mm=6.0, contrasts={**CONTRASTS, "ct": CT})
    assert torch.equal(usual.soft.values, more.soft.values[:3])
    for name, bone in usual.bones.items():
        assert torch.equal(bone.look.values, more.bones[name].look.values[:3])
        assert torch.equal(bone.distance.values, more.bones[name].distance.values)


def test_noise_falls_with_dose_and_has_no_low_frequencies() -> None:
    water = torch.full((48, 48, 24), 1000.0)
    sd = {}
    for dose in (0.5, 2.0):
        generator = torch.Generator().manual_seed(0)
        taken = tomogram(water, (1.0, 1.0, 1.0), dose, generator, axial=(0, 1))
        assert float(taken.noiseless.abs().max()) < 1e-2
        sd[dose] = float(taken.scanned.std())
    assert sd[0.5] == pytest.approx(2 * sd[2.0], rel=0.01)
    assert sd[0.5] == pytest.approx(NOISE_HU * 2**0.5, rel=0.01)
    # the mean over an axial plane is free of noise: white noise would leave a 48th of it
    assert float(taken.scanned.mean((0, 1)).abs().max()) < 0.01 * sd[2.0]


def test_both_scans_show_the_same_child_and_the_pair_lies_on_one_grid(cohort: Path) -> None:
    raw, truth = cohort / "raw" / "T31", cohort / "truth" / "T31"
    mr, ct = (load(raw / f"T31_{kind}.nii.gz") for kind in ("static_3DT1", "CT"))
    paired, noiseless = (load(truth / f"static_CT{end}.nii.gz") for end in ("", "_noiseless"))
    np.testing.assert_array_equal(paired.affine, mr.affine)
    assert 5 < (paired.data.astype(float) - noiseless.data)[mr.data > 300].std() < 60
    assert ct.data.min() > -1100
    for bone in BONES:
        volumes = []
        for kind, image in (("static_3DT1", mr), ("CT", ct)):
            mask = load(raw / f"T31_{kind}_segment_{bone}.nii.gz")
            assert mask.shape == image.shape
            volumes.append(mask.data.sum() * abs(np.linalg.det(mask.affine[:3, :3])))
        if bone != "tibia":  # which the fields of view cut elsewhere
            assert volumes[0] == pytest.approx(volumes[1], rel=0.1)
    inside = load(raw / "T31_CT_segment_talus.nii.gz").data > 0
    assert 150 < ct.data[inside].mean() < 700


def test_a_child_that_is_there_is_kept(cohort: Path) -> None:
    file = cohort / "raw" / "T31" / "T31_CT.nii.gz"
    content, written = file.read_bytes(), file.stat().st_mtime_ns
    simulate_pairs(TINY, 4.0, ["T31"], cohort)
    assert file.stat().st_mtime_ns == written
    file.unlink()
    simulate_pairs(TINY, 4.0, ["T31"], cohort)
    assert file.read_bytes() == content
