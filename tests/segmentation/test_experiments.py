from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ankle_lib.presets import BONES
from ankle_lib.segmentation import experiments
from ankle_lib.segmentation.postmortem import Remedies, recipes
from ankle_lib.segmentation.study import Study


def test_reports_tables_have_the_promised_columns(study: Study) -> None:
    networks = {"unet": [study.fit(study.report_recipe("unet", bone)) for bone in BONES]}
    start = ["network", "bone", "dice_mean", "dice_low", "dice_high", "report_dice"]
    validated = experiments.on_patches(study, networks, "train", "validation")
    assert list(validated.columns) == [*start, "part"]
    assert validated.loc[validated["part"] == "validation", "dice_low"].isna().all()
    on_patches = experiments.on_patches(study, networks, "test")
    assert list(on_patches["report_dice"].dropna()) == [0.74, 0.78, 0.87]
    whole = experiments.on_whole_slices(study, networks)
    assert list(whole.columns[:6]) == start
    assert whole["dice_min"].le(whole["dice_mean"]).all()


def test_an_empty_mask_scores_what_the_patches_without_bone_give_it(study: Study) -> None:
    networks = {"unet": [study.fit(study.report_recipe("unet", bone)) for bone in BONES]}
    table = experiments.on_patches(study, networks, "train", "validation", "test")
    empty = table[table["network"] == experiments.EMPTY].set_index(["part", "bone"])["dice_mean"]
    assert len(empty) == 9
    for (part, bone), score in empty.items():
        batches = study._patches((bone,), study.part(part)).values()
        without = [float((one.target.amax((1, 2, 3)) == 0).float().mean()) for one in batches]
        assert score == pytest.approx(np.mean(without))
    architectures, losses = experiments.compare_architectures(study)
    rows = architectures[architectures["network"] == experiments.EMPTY].set_index("bone")
    assert rows["dice_validation"].to_dict() == pytest.approx(empty["validation"].to_dict())
    assert (rows[["parameters", "report_parameters", "steps"]] == 0).all(axis=None)
    assert experiments.EMPTY not in set(losses["network"])


def test_folds_leave_each_control_out(study: Study) -> None:
    table = experiments.cross_validate(study)
    trained = table[table["network"] == "unet"]
    assert list(trained["subject"]) == ["T01"] * 3 + ["T02"] * 3
    assert list(table["network"].unique()) == ["unet", experiments.EMPTY]
    assert table["dice"].between(0, 1).all()


def test_one_field_is_varied(study: Study) -> None:
    table = experiments.depths(study)
    assert list(table.columns) == ["network", "depth", "parameters", "part", "dice"]
    assert set(table["part"]) == {"train", "validation"}
    assert table.groupby("network")["parameters"].first()["unet"] == 70_193
    assert len(experiments.learning_rates(study)) == 4


def test_the_reports_numbers_are_complete() -> None:
    for table in (experiments.REPORT_VALIDATION, experiments.REPORT_PATCHES):
        assert all(len(values) == len(BONES) for values in table.values())
    for mean, low, high in sum(experiments.REPORT_VOLUMES.values(), ()):
        assert low <= mean <= high


def test_no_network_is_trained_twice(study: Study) -> None:
    usual = study.fit(study.report_recipe("unet", "calcaneus"))
    by_hand = replace(study, sizes=replace(study.sizes, unet_depths=(4,), resnet_depths=()))
    assert experiments.depths(by_hand)["parameters"].tolist() == [usual.parameters] * 2
    as_coded = study.fit(recipes(study, Remedies())[0])
    assert as_coded.folder == usual.folder
    assert len(list(study.folder.iterdir())) == 1
