from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ankle_lib.learning.networks import build
from ankle_lib.learning.prediction import Prediction
from ankle_lib.modalities import arms
from ankle_lib.modalities.unpaired_scans import MODALITIES, Regime
from ankle_lib.patches.source import Augmentation
from ankle_lib.presets import BONES
from tests.modalities.toy_children import toy_study

REGIME = Regime(1, 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> arms.ModalityStudy:
    return toy_study(tmp_path_factory.mktemp("trainings"))


def test_nobody_trains_in_both_and_all_that_is_seen_is_of_the_training(study) -> None:
    seen = study.scans_to_learn(arms.Run(arms.OWN, REGIME))
    codes = {one: [scan.code for scan in scans] for one, scans in seen.items()}
    assert codes == {"mr": ["T31"], "ct": ["E31", "T32"]}
    (stacks,) = study.scans_to_learn(arms.Run(arms.BOTH, REGIME)).values()
    assert [scan.code for scan in stacks] == ["T31", "E31", "T32"]


def test_a_batch_holds_as_many_of_each_and_says_which(study) -> None:
    scans = study.scans_to_learn(arms.Run(arms.OWN, REGIME))
    sources = [arms.patch_source(own, BONES, 16, 0.2) for own in scans.values()]
    generator = torch.Generator().manual_seed(0)
    batch = arms.draw_patches_of_all(sources, Augmentation(), True, False, 8, generator)
    assert batch.image.shape == (8, 2, 16, 16)
    assert batch.image[:, 1].amax((1, 2)).tolist() == [0.0] * 4 + [1.0] * 4
    # bones are brighter than the rest of the foot in MR, darker in CT
    bones = batch.target.sum(1) > 0
    means = [float(batch.image[part, 0][bones[part]].mean()) for part in (slice(4), slice(4, 8))]
    assert means[0] > 1 > -1 > means[1]
    assert batch.describe(batch.where[0].tolist()).startswith("T31")
    assert batch.describe(batch.where[7].tolist())[:3] in ("E31", "T32")


def test_both_at_once_sees_the_same_place_in_both_and_sometimes_one_alone(study) -> None:
    (stacks,) = study.scans_to_learn(arms.Run(arms.BOTH, REGIME)).values()
    context = study.both_context_mm()
    source = arms.patch_source(stacks, BONES, 16, 0.2, "cpu", context)
    generator = torch.Generator().manual_seed(0)
    image = arms.draw_patches_of_all([source], Augmentation(), False, True, 60, generator).image
    half = len(context) // 2
    blank = (image == 0).flatten(2).all(2)
    without_mr, without_ct = blank[:, :half].all(1), blank[:, half:].all(1)
    assert 10 < int(without_mr.sum()) < 30
    assert 10 < int(without_ct.sum()) < 30
    assert not (without_mr & without_ct).any()
    whole = image[~without_mr & ~without_ct]
    pairs = torch.stack([whole[:, 1].flatten(), whole[:, half + 1].flatten()])
    assert float(torch.corrcoef(pairs)[0, 1]) < -0.3  # the toy's CT is its MR turned over


def test_every_arm_is_trained_once_and_scored(study) -> None:
    runs = [arms.Run(arm, REGIME) for arm in (arms.ALONE, arms.DISTILLED, arms.X_SHAPED, arms.BOTH)]
    fitted = study.fit_all(runs)
    folders = sorted(study.folder.iterdir())
    again = study.fit_all(runs)
    assert sorted(study.folder.iterdir()) == folders
    assert fitted[runs[0]]["mr"].folder != fitted[runs[0]]["ct"].folder
    assert fitted[runs[1]]["mr"].folder == again[runs[1]]["ct"].folder
    scores = arms.scores_of(study, fitted)
    seen = set(zip(scores["arm"], scores["modality"], strict=True))
    expected = {(run.arm, one) for run in runs for one in MODALITIES} | {(arms.BOTH, "both")}
    assert seen == expected
    assert set(scores["subject"]) == set(study.test)
    assert scores["dice"].notna().all()
    cost = arms.parameters_and_seconds(fitted).set_index("arm")["parameters"]
    assert cost[arms.ALONE] > 1.9 * cost[arms.DISTILLED]
    relations = arms.relations_of(study, fitted[runs[1]]["mr"])
    torch.testing.assert_close(relations["ct"].sum(1), torch.ones(4))


def test_the_penalty_decides_the_training(study) -> None:
    fitted = study.fit_all([arms.Run(arm, REGIME) for arm in (arms.OWN, arms.DISTILLED)])
    one, other = (of["mr"].network.last[1].weight for of in fitted.values())
    assert not torch.equal(one, other)


def test_borrowed_bones_fit_a_child_who_is_the_same(study) -> None:
    scores = arms.scores_of_borrowed(study, REGIME)
    assert scores["dice"].min() > 0.9  # the toys differ in noise alone


def test_told_and_without_change_what_the_network_sees() -> None:
    class Sum(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.sum((2, 3))

    images = torch.ones(1, 4, 2, 2)
    assert arms.Told(Sum(), "ct")(images)[0].tolist() == [4, 4, 4, 4, 4]
    assert arms.Told(Sum(), "mr")(images)[0].tolist() == [4, 4, 4, 4, 0]
    assert arms.Without(Sum(), "ct")(images)[0].tolist() == [4, 4, 0, 0]


def test_certain_of_nothing_is_low_entropy_and_no_expected_dice() -> None:
    grid, shape = np.eye(4), (1, 2, 2, 2)
    empty = Prediction(
        np.zeros((2, 2, 2), np.uint8), np.zeros(shape, np.float16), BONES[:1], grid,
        {"calcaneus": 0.0}, {},
    )  # fmt: skip
    half = np.full(shape, 0.5, np.float16)
    found = Prediction(np.ones((2, 2, 2), np.uint8), half, BONES[:1], grid, {"calcaneus": 0.6}, {})
    assert arms.entropy(empty) < 0.02 < arms.entropy(found) == pytest.approx(1.0)
    assert arms.expected_dice(empty) < arms.expected_dice(found)


def test_norms_know_what_they_have_seen() -> None:
    torch.manual_seed(0)
    network = build("unet-by-modality", out_channels=3, depth=2, width=4).train()
    generator = torch.Generator().manual_seed(0)

    def images(modality: int) -> torch.Tensor:
        image = (1, -3)[modality] + (1, 4)[modality] * torch.randn(
            4, 1, 16, 16, generator=generator
        )
        return torch.cat([image, torch.full_like(image, modality)], dim=1)

    for _ in range(30):
        network.logits(torch.cat([images(0), images(1)]))
    for number, modality in enumerate(MODALITIES):
        seen = images(number)[:, :1]
        misfit = {one: arms.norm_misfit(arms.Told(network, one), seen) for one in MODALITIES}
        assert min(misfit, key=misfit.get) == modality  # type: ignore[arg-type]
        assert misfit[modality] < 0.5 * max(misfit.values())
    assert not any(one._forward_hooks for one in network.modules())


def test_gains_and_choices_by_hand() -> None:
    rows = [
        (arm, "1 MR + 2 CT", 0, "mr", subject, bone, value + lift, 1.0, 2.0, *of_branches)
        for arm, lift, of_branches in (
            (arms.ALONE, 0.0, (math.nan,) * 8),
            (arms.OWN, 0.1, (0.3, 0.1, 0.9, 0.2, 1.5, 1.6, 0.8, 0.0)),
        )
        for subject, value in (("E31", 0.5), ("T31", 0.7))
        for bone in BONES
    ]
    columns = ["arm", "regime", "seed", "modality", "subject", "bone", "dice", "assd_mm", "hd95_mm"]
    columns += ["entropy_mr", "entropy_ct", "expected_dice_mr", "expected_dice_ct"]
    columns += ["norm_misfit_mr", "norm_misfit_ct"]
    scores = pd.DataFrame(rows, columns=[*columns, "dice_mr", "dice_ct"])
    (gain,) = arms.gains_over(scores).to_dict("records")
    assert gain["arm"] == arms.OWN
    for end in ("mean", "low", "high"):
        assert gain[f"dice_{end}"] == pytest.approx(0.1)
    choices = arms.branch_choices(scores).set_index("rule")
    wrong, *others = choices[["right", "dice_told", "dice_blind"]].to_numpy().tolist()
    assert wrong == [0, 0.8, 0]  # by entropy
    assert others == [[1, 0.8, 0.8]] * 2


def test_random_looks_come_from_all_labelled_scans(study, tmp_path: Path) -> None:
    run = arms.Run(arms.RANDOM, REGIME)
    painted = arms.paint_anew(study, run, study.scans_to_learn(run))
    assert [scan.code for scan in painted] == ["T31", "E31", "T32"]
