from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from ankle_lib.figures.segmentation import final_rows
from ankle_lib.foot.segment import segment_file
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import ROTATIONS_DEG
from ankle_lib.learning.segmenter import read_segmenter, save_segmenter
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES
from ankle_lib.segmentation.final import (
    final_pixel_mm,
    save_final,
    score_final,
    train_final,
)
from ankle_lib.segmentation.study import Study, read_study
from ankle_lib.volume import load, save
from tests.toy_scans import CODES, SHAPE, SIZES, written


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_final_network_says_what_it_wants_to_see(study: Study, tmp_path: Path) -> None:
    final = train_final(study)
    assert final.recipe.augmentation.rotation_deg == 180
    path = save_final(tmp_path / "networks" / "final.ckpt", final, study)
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
    shown = final_rows(final, study, 1)
    sizes = [one.size_mm for one in (*shown["as scanned"], *shown["turned"])]
    assert sizes == [(2.0 * SHAPE[0], 2.0 * SHAPE[1])] * 2


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
    pixel_mm = final_pixel_mm(study)
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
