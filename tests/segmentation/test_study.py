from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.foot.segment import segment_file
from ankle_lib.learning import scans
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.prediction import read_segmenter, save_segmenter
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import ROTATIONS_DEG, draw_patches, final_recipe, one_slice
from ankle_lib.learning.scoring import patch_scores
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.segmentation.postmortem import AUGMENTATION, Remedies, recipes
from ankle_lib.segmentation.study import (
    Study,
    read_study,
    score_final,
    train_final,
    volume_masks,
    volume_scores,
)
from ankle_lib.volume import load, save
from tests.toy_scans import (
    CODES,
    SHAPE,
    SIZES,
    VOXEL_MM,
    small_recipe,
    toy_scan,
    trained_reader,
    weights,
    written,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_trainings_see_the_training_part_alone(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    source = scans.patch_source

    def noted(some: Any, *arguments: Any) -> Any:
        part = "validation" if {scan.code for scan in some} == {"T03"} else "train"
        seen.setdefault(part, set()).update(scan.code for scan in some)
        return source(some, *arguments)

    monkeypatch.setattr(scans, "patch_source", noted)
    study.fit(small_recipe(keep_best=True, n_validation=2, labels=("talus",)))
    assert seen == {"train": {"T01", "T02"}, "validation": {"T03"}}


def test_a_recipe_that_comes_again_is_trained_once(study: Study) -> None:
    talus, other = (small_recipe(labels=("talus",), seed=seed) for seed in (0, 1))
    trained = study.fit_all([talus, other, talus], study.folds[0])
    assert list(trained) == [talus, other]
    assert len(list(study.folder.glob("*/network.ckpt"))) == 2
    assert study.fit(talus, study.folds[0]).folder == trained[talus].folder
    assert study.fit(talus, study.folds[1]).folder != trained[talus].folder


def test_a_perfect_network_scores_one(tmp_path: Path) -> None:
    scans, reader = [toy_scan("E01"), toy_scan("E02", 1)], trained_reader(tmp_path)
    volumes = volume_scores(reader, scans)
    assert list(volumes.columns) == ["subject", "bone", "dice", "hd95_mm", "assd_mm"]
    assert len(volumes) == 6
    assert (volumes["dice"] == 1).all()
    assert (volumes["hd95_mm"] == 0).all()
    tiled = volume_scores(reader, scans, tile=16)
    pd.testing.assert_frame_equal(tiled, volumes)


def test_a_blind_network_is_flattered_by_patches_alone(tmp_path: Path) -> None:
    reader = trained_reader(tmp_path, ("talus",))
    with torch.no_grad():
        reader.network.light += 50  # type: ignore[operator, union-attr]
    scan = toy_scan("E01")
    batch = draw_patches(scan, ("talus",), 16, 200)
    flattered = patch_scores(reader.network, {"E01": batch}, ("talus",))["patch_dice"].item()
    empty = float((batch.target.amax((1, 2, 3)) == 0).float().mean())
    assert flattered == pytest.approx(empty)
    assert 0.1 < flattered < 0.9
    volume = volume_scores(reader, [scan]).iloc[0]
    assert volume["dice"] == 0
    assert volume["hd95_mm"] == pytest.approx(np.linalg.norm(np.multiply(SHAPE, VOXEL_MM)))


def test_training_mode_is_another_network_and_leaves_it_alone(study: Study) -> None:
    trained = study.fit(small_recipe(labels=("talus",)))
    before = weights(trained).clone()
    scan = study.part("test")[0]
    one = one_slice(scan, 3)
    usual, as_2020 = (
        volume_masks(trained, one, batchnorm_training=batchnorm)["talus"]
        for batchnorm in (False, True)
    )
    assert (usual != as_2020).any()
    study.patch_scores(trained, "test", batchnorm_training=True)
    assert torch.equal(weights(trained), before)
    assert not trained.network.training


def test_scores_are_remembered(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = study.fit(small_recipe(labels=("talus",)))
    first = study.volume_scores(trained)
    turned = study.volume_scores(trained, rotated=True)
    patches = study.patch_scores(trained, "test")
    assert list(first["subject"]) == ["E01", "E02"]
    for name in ("volume_scores", "patch_scores"):
        monkeypatch.setattr(f"ankle_lib.segmentation.study.{name}", None)
    pd.testing.assert_frame_equal(study.volume_scores(trained), first)
    pd.testing.assert_frame_equal(study.volume_scores(trained, rotated=True), turned)
    pd.testing.assert_frame_equal(study.patch_scores(trained, "test"), patches)


def test_a_study_is_read_from_chapters(tmp_path: Path) -> None:
    subjects = [written(tmp_path, code) for code in CODES]
    sizes = replace(SIZES, pixel_mm=4.1)
    study = read_study(subjects, tmp_path, sizes, tmp_path / "trainings")
    assert (study.split.train, study.split.validation) == (("T01", "T02"), ("T03",))
    assert study.split.test == ("E01", "E02")
    assert len(study.folds) == 3
    assert study.native[0].voxel_size_mm == pytest.approx(VOXEL_MM)
    assert study.scans[0].voxel_size_mm == pytest.approx((4.0, 4.0, 3.0))
    foot = study.native[0].item.region
    assert study.native[0].item.image[foot].mean() == pytest.approx(0, abs=1e-4)
    with pytest.raises(AnkleError, match="there are only controls"):
        read_study(subjects[:3], tmp_path, sizes, tmp_path / "trainings")


def test_presets_differ_in_size_not_in_kind() -> None:
    smoke, laptop, paper = (PRESETS[name].segmentation for name in ("smoke", "laptop", "paper"))
    assert smoke.steps < laptop.steps < paper.steps
    assert smoke.pixel_mm > laptop.pixel_mm > paper.pixel_mm == 0.28
    assert paper.n_seeds >= 3
    for preset in (smoke, laptop, paper):
        recipe = final_recipe(preset.final_stages)
        assert recipe.loss == "dice+bce"
        assert len(recipe.stages) == len(preset.final_stages)
    assert AUGMENTATION.rotation_deg > max(ROTATIONS_DEG)


# --- the answer ---


def test_the_final_network_says_what_it_wants_to_see(study: Study, tmp_path: Path) -> None:
    final = train_final(study)
    assert final.recipe.augmentation.rotation_deg == 180
    path = save_segmenter(tmp_path / "final.ckpt", final, study.final_pixel_mm, study.split.train)
    checkpoint = load_checkpoint(path)
    assert checkpoint.labels == BONES
    assert checkpoint.training["input"]["voxel_mm"] == [4.0, 4.0]
    assert checkpoint.training["subjects"] == ["T01", "T02"]
    segmenter = read_segmenter(path)  # as `ankle segment` reads it
    assert segmenter.pixel_mm == (4.0, 4.0)
    assert segmenter.bones == BONES

    scores = score_final(final, study)
    assert list(scores.columns[:4]) == ["subject", "bone", "angle_deg", "dice"]
    assert len(scores) == 2 * 2 * 3
    angles = scores.loc[scores["angle_deg"] != 0, "angle_deg"].abs()
    assert angles.between(*ROTATIONS_DEG).all()


def test_the_tables_number_is_what_ankle_segment_gives(tmp_path: Path) -> None:
    subjects = [written(tmp_path, code) for code in CODES]
    for subject in subjects[-2:]:  # a user has no foot mask of chapter 02, or another one
        path = tmp_path / f"sub-{subject.code}" / f"sub-{subject.code}_static_desc-foot_mask.nii.gz"
        foot = load(path)
        save(path, ndimage.binary_dilation(foot.data, iterations=3).astype(np.uint8), foot.affine)
    sizes = replace(SIZES, pixel_mm=4.0)
    study = read_study(subjects, tmp_path, sizes, tmp_path / "trainings")
    stages = (Stage(12, 80, 8, 2e-2, "one-cycle"),)
    final = study.fit(Recipe(stages, network="fcn", depth=1, width=8, loss="dice+bce"))
    table = score_final(final, study)
    pixel_mm = study.final_pixel_mm
    checkpoint = tmp_path / "final.ckpt"
    save_segmenter(checkpoint, final, pixel_mm, study.split.train, thickest_mm=10.0)
    upright = table[table["angle_deg"] == 0].set_index(["subject", "bone"])["dice"]
    assert upright.max() > 0.9  # it has learnt to tell a bone
    for subject in subjects[-2:]:
        out = tmp_path / f"{subject.code}.nii.gz"
        segment_file(subject.static, checkpoint, out)
        labels = load(out).data
        for number, bone in enumerate(BONES, start=1):
            mask = load(subject.masks[bone]).data > 0
            assert dice(labels == number, mask) == pytest.approx(
                upright[subject.code, bone], abs=1e-3
            )


def test_distances_of_several_scans_are_measured_at_once(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=20)  # broken unless two are there

    def bone_scores(subject: str, *given: object) -> list[dict[str, object]]:
        both.wait()
        return [{"subject": subject}]

    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr("ankle_lib.segmentation.study.bone_scores", bone_scores)
    table = volume_scores(trained_reader(tmp_path), study.scans[:2])
    assert table["subject"].tolist() == ["T01", "T02"]


def test_no_network_is_trained_twice(study: Study) -> None:
    usual = study.fit(study.report_recipe("unet", "calcaneus"))
    of_default_depth = study.report_recipe("unet", "calcaneus", depth=4)
    for same in (of_default_depth, recipes(study, Remedies())[0]):
        assert study.fit(same).folder == usual.folder
    assert len(list(study.folder.iterdir())) == 1
