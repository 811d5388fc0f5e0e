from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ankle_lib.segmentation.evaluation import patch_scores, volume_scores
from ankle_lib.segmentation.recipe import Recipe, Stage, Trained, fit, patch_source
from torch import Tensor, nn

from ankle_lib import segmentation
from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.scans import ROTATIONS_DEG, Scan, one_slice
from ankle_lib.learning.segmenter import read_segmenter
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.metrics import dice
from ankle_lib.patches.items import Item
from ankle_lib.patches.split import Split
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.segmentation import experiments, recipe
from ankle_lib.segmentation.postmortem import (
    AS_CODED,
    AUGMENTATION,
    TITLES,
    Remedies,
    recipes,
    steps,
)
from ankle_lib.segmentation.study import Study
from ankle_lib.volume import save
from tests.toy_ankle import oblique_affine

SHAPE = (48, 52, 8)
VOXEL_MM = (2.0, 2.0, 3.0)
BOXES = {
    "calcaneus": (slice(26, 40), slice(10, 18), slice(2, 6)),
    "talus": (slice(18, 28), slice(20, 28), slice(2, 6)),
    "tibia": (slice(20, 28), slice(30, 46), slice(2, 6)),
}
LIGHT = {"calcaneus": 2.0, "talus": 3.0, "tibia": 4.0}
CODES = ("T01", "T02", "T03", "E01", "E02")

SIZES = replace(
    PRESETS["smoke"].segmentation,
    pixel_mm=2.0,
    steps=2,
    n_patches=6,
    slice_step=2,
    unet_depths=(2,),
    resnet_depths=(1,),
    unet_rates=(5e-4,),
    followed_bones=BONES,
    final_pixel_mm=4.0,
    final_stages=((16, 2, 4, 1e-3), (24, 2, 2, 1e-3)),
)


def toy_scan(code: str, seed: int = 0) -> Scan:
    random = np.random.default_rng(seed)
    foot = np.zeros(SHAPE, dtype=bool)
    foot[8:42, 4:50, 1:7] = True
    image = np.where(foot, 0.0, -2.0) + random.normal(0, 0.05, SHAPE)
    labels = {}
    for bone, box in BOXES.items():
        labels[bone] = np.zeros(SHAPE, dtype=bool)
        labels[bone][box] = True
        image[box] += LIGHT[bone]
    group = "control" if code.startswith("T") else "equinus"
    item = Item(code, "static", image.astype(np.float32), foot, labels)
    return Scan(item, group, VOXEL_MM)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    scans = tuple(toy_scan(code, number) for number, code in enumerate(CODES))
    folds = (Split(("T02",), ("T01",), ("E01",)), Split(("T01",), ("T02",), ("E01",)))
    split = Split(CODES[:2], CODES[2:3], CODES[3:])
    return Study(scans, scans, split, folds, SIZES, tmp_path / "trainings")


class Reader(nn.Module):
    """Knows the bones by their brightness, one output for each."""

    def __init__(self, bones: tuple[str, ...] = BONES) -> None:
        super().__init__()
        self.head = "probability"
        self.light = nn.Parameter(torch.tensor([LIGHT[bone] for bone in bones]))

    def forward(self, images: Tensor) -> Tensor:
        return ((images - self.light[:, None, None]).abs() < 0.4).float()


def fitted_reader(folder: Path, bones: tuple[str, ...] = BONES) -> Trained:
    kept = Recipe((Stage(16, 1),), bones)
    network: Any = Reader(bones)
    return Trained(network, kept, pd.DataFrame(), pd.DataFrame(), folder)


# --- scans ---------------------------------------------------------------------------------------


def test_coarser_pixels_are_means_of_blocks() -> None:
    scan = toy_scan("T01")
    small = segmentation.coarser(scan, 3)
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
    assert segmentation.coarser(scan, 1) is scan


def test_labels_to_learn_from_are_not_larger_than_the_bone() -> None:
    scan = toy_scan("T01")
    mask = np.zeros(SHAPE, dtype=bool)
    mask[11:31] = True  # both ends halve a pixel of two
    scan = replace(scan, item=replace(scan.item, labels={"talus": mask}))
    shown, learnt = (segmentation.coarser(scan, 2, to_learn=to_learn) for to_learn in (False, True))
    assert 4 * shown.item.labels["talus"].sum() == pytest.approx(1.1 * mask.sum())
    assert 4 * learnt.item.labels["talus"].sum() == pytest.approx(mask.sum())


def test_a_turned_foot_is_rigid_in_mm() -> None:
    scan = replace(toy_scan("T01"), voxel_size_mm=(2.0, 1.5, 3.0))
    turned = segmentation.turned(scan, 40.0)
    centre = np.argwhere(np.logical_or.reduce([*scan.item.labels.values()]).any(axis=2)).mean(
        axis=0
    )
    angle = np.deg2rad(40.0)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for bone in BONES:
        before = np.argwhere(scan.item.labels[bone])[:, :2].mean(axis=0) - centre
        after = np.argwhere(turned.item.labels[bone])[:, :2].mean(axis=0) - centre
        expected = rotation @ (before * (2.0, 1.5))
        np.testing.assert_allclose(after * (2.0, 1.5), expected, atol=0.6)
    for bone in ("calcaneus", "talus"):  # the tibia's end leaves the field of view
        volumes = [one.item.labels[bone].sum() for one in (scan, turned)]
        assert volumes[1] == pytest.approx(volumes[0], rel=0.05)
        bright = turned.item.image[turned.item.labels[bone]]
        assert np.median(bright) == pytest.approx(LIGHT[bone], abs=0.1)
    assert turned.item.image[0, 0, 0] == pytest.approx(scan.item.image.min())  # air


def test_turning_the_other_way_brings_the_foot_back() -> None:
    scan = toy_scan("T01")
    back = segmentation.turned(segmentation.turned(scan, 25.0), -25.0)
    overlap = dice(back.item.labels["talus"], scan.item.labels["talus"])
    assert overlap > 0.9
    assert segmentation.turned(scan, 0.0).item.image == pytest.approx(scan.item.image)


def test_angles_cover_the_range_in_both_directions() -> None:
    angles = [segmentation.rotation_of(number, 7) for number in range(7)]
    assert all(ROTATIONS_DEG[0] <= abs(angle) <= ROTATIONS_DEG[1] for angle in angles)
    assert min(angles) < -40 < 40 < max(angles)
    assert len({abs(angle) for angle in angles}) == 7


def test_fewer_slices() -> None:
    scan = toy_scan("T01")
    half = segmentation.every(scan, 2)
    np.testing.assert_array_equal(half.item.image, scan.item.image[:, :, 1::2])
    assert half.voxel_size_mm == (2.0, 2.0, 6.0)
    assert segmentation.every(scan, 100).item.image.shape == (48, 52, 1)
    alone = one_slice(scan, 3)
    np.testing.assert_array_equal(
        alone.item.labels["tibia"][..., 0], scan.item.labels["tibia"][..., 3]
    )
    last = scan.item.image.shape[2] - 1
    between = one_slice(scan, last - 1, beside=2)
    wanted = scan.item.image[:, :, [last - 3, last - 2, last - 1, last, last]]
    np.testing.assert_array_equal(between.item.image, wanted)


def test_a_checksum_notices_every_voxel() -> None:
    scan = toy_scan("T01")
    masks = {bone: mask.copy() for bone, mask in scan.item.labels.items()}
    masks["talus"][20, 22, 3] = False
    changed = replace(scan, item=replace(scan.item, labels=masks))
    assert changed.checksum != scan.checksum == toy_scan("T01").checksum


# --- trainings -----------------------------------------------------------------------------------


def small_recipe(**changes: Any) -> Recipe:
    stages = (Stage(16, 2, 2), Stage(24, 2, 2, 1e-4))
    return Recipe(**{"stages": stages, "depth": 2, "width": 4, "epochs": 2} | changes)


def weights(fitted: Trained) -> Tensor:
    return torch.cat([one.flatten() for one in fitted.network.state_dict().values()])


def test_a_finished_training_is_read_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [toy_scan("T01")]
    first = fit(small_recipe(), scans, tmp_path)
    assert list(first.losses["step"]) == [1, 2, 3, 4]
    assert list(first.losses["stage"]) == [0, 0, 1, 1]
    assert sorted(path.name for path in first.folder.iterdir()) == [
        *("epochs.csv", "losses.csv", "network.ckpt"),
    ]
    monkeypatch.setattr(recipe, "train", None)
    again = fit(small_recipe(), scans, tmp_path)
    assert torch.equal(weights(first), weights(again))
    assert not again.network.training


def test_a_killed_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = [toy_scan("T01")]
    whole = fit(small_recipe(), scans, tmp_path / "whole")
    train, calls = recipe.train, []

    def killed(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[4].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(recipe, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(small_recipe(), scans, tmp_path / "killed")
    resumed = fit(small_recipe(), scans, tmp_path / "killed")
    assert calls == ["stage-0", "stage-1", "stage-0", "stage-1"]
    assert torch.equal(weights(resumed), weights(whole))


def test_other_recipes_and_scans_are_other_trainings(tmp_path: Path) -> None:
    one = fit(small_recipe(), [toy_scan("T01")], tmp_path)
    others = (
        fit(small_recipe(seed=1), [toy_scan("T01")], tmp_path),
        fit(small_recipe(loss="dice+bce"), [toy_scan("T01")], tmp_path),
        fit(small_recipe(), [toy_scan("T01", seed=5)], tmp_path),
    )
    assert len({one.folder, *(other.folder for other in others)}) == 4
    assert not any(torch.equal(weights(one), weights(other)) for other in others)


def test_the_best_epoch_needs_a_validation(tmp_path: Path) -> None:
    best = small_recipe(keep_best=True, n_validation=4)
    with pytest.raises(AnkleError, match="give a scan to validate on"):
        fit(best, [toy_scan("T01")], tmp_path)
    fitted = fit(best, [toy_scan("T01")], tmp_path, validation=[toy_scan("T02")])
    assert fitted.epochs.loc[fitted.epochs["stage"] == 1, "score"].notna().all()


def test_trainings_see_the_training_part_alone(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    source = recipe.patch_source

    def noted(scans: Any, *arguments: Any) -> Any:
        scans = list(scans)
        part = "validation" if {scan.code for scan in scans} == {"T03"} else "train"
        seen.setdefault(part, set()).update(scan.code for scan in scans)
        return source(scans, *arguments)

    monkeypatch.setattr(recipe, "patch_source", noted)
    study.fit(small_recipe(keep_best=True, n_validation=2, bones=("talus",)))
    assert seen == {"train": {"T01", "T02"}, "validation": {"T03"}}


def test_networks_trained_side_by_side_are_those_trained_alone(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [small_recipe(bones=("talus",)), small_recipe(bones=("talus",), seed=1)]
    replace(study, device="cuda").fit_all(wanted)  # one after the other there: nothing happens
    assert not study.folder.exists()
    study.fit_all([*wanted, wanted[0]], study.folds)
    assert len(list(study.folder.glob("*/network.ckpt"))) == 4
    alone = [replace(study, folder=tmp_path / "alone").fit(one, study.folds[0]) for one in wanted]
    monkeypatch.setattr(recipe, "train", None)
    other_seed = torch.dist(weights(alone[0]), weights(alone[1]))
    for one, again in zip(wanted, alone, strict=True):
        read = study.fit(one, study.folds[0])
        # the number of threads decides how sums are rounded, most of all those of bfloat16
        assert torch.dist(weights(read), weights(again)) < 0.01 * other_seed
        assert read.folder.name == again.folder.name


def test_a_source_per_bone_has_that_bone_alone() -> None:
    batch = patch_source([toy_scan("T01")], ("talus",), 16, 0.75).draw(64, torch.Generator())
    assert batch.target.shape == (64, 1, 16, 16)
    light = batch.image[batch.target > 0]
    assert float(light.min()) > 2.5


# --- scores --------------------------------------------------------------------------------------


def test_a_perfect_network_scores_one(tmp_path: Path) -> None:
    scans, reader = [toy_scan("E01"), toy_scan("E02", 1)], fitted_reader(tmp_path)
    on_patches = patch_scores(reader, scans, n_patches=20)
    assert list(on_patches.columns) == ["subject", "bone", "patch_dice"]
    assert (on_patches["patch_dice"] == 1).all()
    volumes = volume_scores(reader, scans)
    assert len(volumes) == 6
    assert (volumes["dice"] == 1).all()
    assert (volumes["hd95_mm"] == 0).all()
    tiled = volume_scores(reader, scans, tile=16)
    pd.testing.assert_frame_equal(tiled, volumes)


def test_a_blind_network_is_flattered_by_patches_alone(tmp_path: Path) -> None:
    reader = fitted_reader(tmp_path, ("talus",))
    with torch.no_grad():
        reader.network.light += 50  # type: ignore[operator, union-attr]
    scans = [toy_scan("E01")]
    flattered = patch_scores(reader, scans, n_patches=200)["patch_dice"].item()
    source = patch_source(scans, ("talus",), 16, 0.75)
    batch = source.draw(200, torch.Generator().manual_seed(0))
    empty = float((batch.target.amax((1, 2, 3)) == 0).float().mean())
    assert flattered == pytest.approx(empty)
    assert 0.1 < flattered < 0.9
    volume = volume_scores(reader, scans).iloc[0]
    assert volume["dice"] == 0
    assert volume["hd95_mm"] == pytest.approx(np.linalg.norm(np.multiply(SHAPE, VOXEL_MM)))


def test_training_mode_is_another_network_and_leaves_it_alone(study: Study) -> None:
    fitted = study.fit(small_recipe(bones=("talus",)))
    before = weights(fitted).clone()
    scan = study.part("test")[0]
    usual = segmentation.slice_example([fitted], scan, 3)
    as_2020 = segmentation.slice_example([fitted], scan, 3, batchnorm_training=True)
    assert (usual[1]["talus"] != as_2020[1]["talus"]).any()
    patch_scores(fitted, [scan], n_patches=2, batchnorm_training=True)
    assert torch.equal(weights(fitted), before)
    assert not fitted.network.training


def test_probabilities_return_to_the_scans_grid(tmp_path: Path) -> None:
    scan, reader = toy_scan("E01"), fitted_reader(tmp_path)
    labels = segmentation.segment(reader, scan)
    for number, bone in enumerate(BONES, start=1):
        np.testing.assert_array_equal(labels == number, scan.item.labels[bone])
    by_coarse = segmentation.segment(reader, scan, 2)
    assert by_coarse.shape == SHAPE
    for number, bone in enumerate(BONES, start=1):
        assert dice(by_coarse == number, scan.item.labels[bone]) > 0.9


def test_scores_are_remembered(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = study.fit(small_recipe(bones=("talus",)))
    first = study.volume_scores(fitted)
    turned = study.volume_scores(fitted, rotated=True)
    assert list(first["subject"]) == ["E01", "E02"]
    monkeypatch.setattr("ankle_lib.segmentation.study.volume_scores", None)
    pd.testing.assert_frame_equal(study.volume_scores(fitted), first)
    pd.testing.assert_frame_equal(study.volume_scores(fitted, rotated=True), turned)


def test_summaries_average_seeds_before_subjects() -> None:
    table = pd.DataFrame(
        {
            "subject": ["E01", "E01", "E02", "E02"],
            "bone": "talus",
            "dice": [0.8, 0.6, 0.9, 0.9],
            "hd95_mm": [2.0, 4.0, 1.0, 1.0],
        }
    )
    row = segmentation.summary(table).iloc[0]
    assert row["dice_mean"] == pytest.approx(0.8)
    assert row["hd95_mm"] == pytest.approx(2.0)
    assert 0.7 <= row["dice_low"] < 0.8 < row["dice_high"] <= 0.9


# --- the report's experiments --------------------------------------------------------------------


def test_reports_tables_have_the_promised_columns(study: Study) -> None:
    networks = {"unet": [study.fit(study.report_recipe("unet", bone)) for bone in BONES]}
    start = ["network", "bone", "dice_mean", "dice_low", "dice_high", "report_dice"]
    validated = segmentation.trained_and_validated(study, networks)
    assert list(validated.columns) == [*start, "part"]
    assert validated.loc[validated["part"] == "validation", "dice_low"].isna().all()
    on_patches = segmentation.on_test_patches(study, networks)
    assert list(on_patches.columns) == start
    assert list(on_patches["report_dice"]) == [0.74, 0.78, 0.87]
    whole = segmentation.on_whole_slices(study, networks)
    assert list(whole.columns[:6]) == start
    assert whole["dice_min"].le(whole["dice_mean"]).all()


def test_folds_leave_each_control_out(study: Study) -> None:
    table = segmentation.cross_validate(study)
    assert list(table["subject"]) == ["T01"] * 3 + ["T02"] * 3
    assert set(table["network"]) == {"unet"}
    assert table["dice"].between(0, 1).all()


def test_one_field_is_varied(study: Study) -> None:
    table = segmentation.depths(study)
    assert list(table.columns) == ["network", "depth", "parameters", "part", "dice"]
    assert set(table["part"]) == {"train", "validation"}
    assert table.groupby("network")["parameters"].first()["unet"] == 70_193
    assert len(segmentation.learning_rates(study)) == 4


def test_the_reports_numbers_are_complete() -> None:
    for table in (experiments.REPORT_VALIDATION, experiments.REPORT_TRAINED):
        assert all(len(values) == len(BONES) for values in table.values())
    for mean, low, high in sum(experiments.REPORT_VOLUMES.values(), ()):
        assert low <= mean <= high


# --- post-mortem ---------------------------------------------------------------------------------


def test_every_remedy_is_added_once_and_left_out_once() -> None:
    found = steps()
    additive = [step for step in found if step.order == "additive"]
    assert additive[0].remedies == Remedies()
    assert [sum(vars(step.remedies).values()) for step in additive] == list(range(9))
    left_out = [step for step in found if step.order == "leave_one_out"]
    missing = [[name for name, on in vars(step.remedies).items() if not on] for step in left_out]
    assert missing == [[name] for name in TITLES]
    assert additive[-2].remedies == left_out[-1].remedies  # the same networks answer both


def test_recipes_change_one_thing(study: Study) -> None:
    coded = recipes(study, Remedies())
    assert [one.bones for one in coded] == [(bone,) for bone in BONES]
    assert coded[0] == study.report_recipe("unet", "calcaneus", n_validation=6)
    air = recipes(study, Remedies(air=True))
    assert [replace(one, min_fraction=0.75) for one in air] == coded
    loss = recipes(study, Remedies(dice_loss=True))
    assert [replace(one, loss="bce") for one in loss] == coded
    assert recipes(study, Remedies(tiles=True, evaluation_mode=True)) == coded  # not of training
    (joint,) = recipes(study, Remedies(one_network=True))
    assert joint.bones == BONES


def test_patches_grow_at_equal_cost_while_the_rate_falls(study: Study) -> None:
    (grown,) = recipes(study, Remedies(air=True, growing=True, one_network=True))
    assert [stage.pixels for stage in grown.stages] == [16, 32, 48]
    rates = [stage.learning_rate for stage in grown.stages]
    assert rates == sorted(rates, reverse=True)
    longer = replace(study, sizes=replace(SIZES, steps=900))
    (grown,) = recipes(longer, Remedies(air=True, growing=True, one_network=True))
    costs = [stage.steps * stage.batch_size * stage.pixels**2 for stage in grown.stages]
    np.testing.assert_allclose(costs, costs[0], rtol=0.01)
    # no whole slice is three quarters foot
    (short,) = recipes(study, Remedies(growing=True, one_network=True))
    assert [stage.pixels for stage in short.stages] == [16, 32]


@pytest.mark.slow
def test_a_post_mortem_from_end_to_end(study: Study) -> None:
    table = segmentation.postmortem_trials(study)
    summary = segmentation.summarised(table)
    assert list(summary.columns[:6]) == [
        *("step", "bone", "dice_mean", "dice_low", "dice_high", "hd95_mm"),
    ]
    assert len(summary) == len(steps()) * len(BONES)
    judged = segmentation.judged(table)
    assert len(judged) == 2 * len(TITLES) + 4
    extra = table[table["order"] == "extra"]
    assert extra["rotated_dice"].isna().all()


def planted(effects: dict[str, float]) -> pd.DataFrame:
    """Return a post-mortem in which each added remedy changes the Dice by so much."""
    random = np.random.default_rng(0)
    subjects = [f"E{number:02d}" for number in range(1, 8)]
    own = dict(zip(subjects, random.normal(0, 0.05, 7), strict=True))
    rows, level = [], 0.4
    for step in steps():
        if step.order == "additive":
            level += effects.get(step.name.removeprefix("+ "), 0.0)
        loss = effects.get(step.name.removeprefix("without "), 0.0)
        for subject in subjects:
            value = (level if step.order == "additive" else level - loss) + own[subject]
            noisy = value + random.normal(0, 0.002)
            rows.append((step.name, step.order, 0, subject, "talus", noisy, noisy / 2, 0.9))
    columns = ["step", "order", "seed", "subject", "bone", "dice", "rotated_dice", "patch_dice"]
    return pd.DataFrame(rows, columns=columns).assign(hd95_mm=5.0)


def test_verdicts_find_what_was_planted() -> None:
    table = planted({"evaluation mode": 0.3, "patches with air": -0.1, "Dice + BCE": 0.004})
    judged = segmentation.judged(table).set_index("hypothesis")
    assert judged.loc["evaluation mode helps", "verdict"] == "holds"
    assert judged.loc["evaluation mode helps", "effect"] == pytest.approx(0.3, abs=0.01)
    assert judged.loc["evaluation mode is needed in the end", "verdict"] == "holds"
    assert judged.loc["patches with air helps", "verdict"] == "contradicted"
    assert judged.loc["Dice + BCE helps", "verdict"] == "not shown"  # real, but too small
    assert judged.loc["one network helps", "verdict"] == "not shown"
    assert judged.loc["turning the foot breaks the network", "verdict"] == "holds"


def test_spread_of_seeds_is_apart_from_that_of_subjects() -> None:
    table = planted({})
    again = table.assign(seed=1, dice=table["dice"] + 0.1)
    result = segmentation.summarised(pd.concat([table, again], ignore_index=True))
    row = result[result["step"] == AS_CODED].iloc[0]
    assert row["seed_sd"] == pytest.approx(0.1 / np.sqrt(2))
    own = table[table["step"] == AS_CODED]["dice"]
    assert row["subject_sd"] == pytest.approx(own.std())
    assert segmentation.summarised(table)["seed_sd"].isna().all()


# --- the final network ---------------------------------------------------------------------------


def test_the_final_network_says_what_it_wants_to_see(study: Study, tmp_path: Path) -> None:
    final = segmentation.train_final(study)
    assert final.recipe.augmentation.rotation_deg == 180
    path = segmentation.save_final(tmp_path / "networks" / "final.ckpt", final, study)
    checkpoint = load_checkpoint(path)
    assert checkpoint.labels == BONES
    assert checkpoint.training["input"]["voxel_mm"] == [4.0, 4.0]
    assert checkpoint.training["subjects"] == ["T01", "T02"]
    segmenter = read_segmenter(path)  # as `ankle segment` reads it
    assert segmenter.pixel_mm == (4.0, 4.0)
    assert segmenter.bones == BONES

    scores = segmentation.score_final(final, study)
    assert list(scores.columns[:4]) == ["subject", "bone", "angle_deg", "dice"]
    assert len(scores) == 2 * 2 * 3
    angles = scores.loc[scores["angle_deg"] != 0, "angle_deg"].abs()
    assert angles.between(*ROTATIONS_DEG).all()
    shown = segmentation.final_slices(final, study, 1)
    assert [image.shape for image, _ in (*shown["as scanned"], *shown["turned"])] == [SHAPE[:2]] * 2


# --- reading a cohort ----------------------------------------------------------------------------


def written(folder: Path, code: str) -> CleanSubject:
    scan, affine = toy_scan(code), oblique_affine(SHAPE, VOXEL_MM)
    static = folder / f"sub-{code}_static.nii.gz"
    light = np.rint(500 * (scan.item.image + 2.5)).astype(np.int16)
    save(static, light, affine)
    masks = {}
    for bone, mask in scan.item.labels.items():
        masks[bone] = folder / f"sub-{code}_static_label-{bone}_mask.nii.gz"
        save(masks[bone], mask.astype(np.uint8), affine)
    foot = folder / f"sub-{code}" / f"sub-{code}_static_desc-foot_mask.nii.gz"
    foot.parent.mkdir()
    save(foot, scan.item.region.astype(np.uint8), affine)
    return CleanSubject(code, scan.group, "left", static, masks, {})


def test_a_study_is_read_from_chapters(tmp_path: Path) -> None:
    subjects = [written(tmp_path, code) for code in CODES]
    sizes = replace(SIZES, pixel_mm=4.1)
    study = segmentation.read_study(subjects, tmp_path, sizes, tmp_path / "trainings")
    assert (study.split.train, study.split.validation) == (("T01", "T02"), ("T03",))
    assert study.split.test == ("E01", "E02")
    assert len(study.folds) == 3
    assert study.native[0].voxel_size_mm == pytest.approx(VOXEL_MM)
    assert study.scans[0].voxel_size_mm == pytest.approx((4.0, 4.0, 3.0))
    foot = study.native[0].item.region
    assert study.native[0].item.image[foot].mean() == pytest.approx(0, abs=1e-4)
    with pytest.raises(AnkleError, match="there are only controls"):
        segmentation.read_study(subjects[:3], tmp_path, sizes, tmp_path / "trainings")


def test_presets_differ_in_size_not_in_kind() -> None:
    smoke, laptop, paper = (PRESETS[name].segmentation for name in ("smoke", "laptop", "paper"))
    assert smoke.steps < laptop.steps < paper.steps
    assert smoke.pixel_mm > laptop.pixel_mm > paper.pixel_mm == 0.28
    assert paper.n_seeds >= 3
    for preset in (smoke, laptop, paper):
        recipe = segmentation.final_recipe(preset.final_stages)
        assert recipe.loss == "dice+bce"
        assert len(recipe.stages) == len(preset.final_stages)
    assert AUGMENTATION.rotation_deg > max(ROTATIONS_DEG)
