from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ankle_lib.presets import BONES
from ankle_lib.segmentation.postmortem import (
    AS_CODED,
    TITLES,
    Remedies,
    judged,
    postmortem_trials,
    recipes,
    steps,
    summarised,
)
from ankle_lib.segmentation.study import Study
from tests.toy_scans import (
    SIZES,
)


def test_every_remedy_is_added_once_and_left_out_once() -> None:
    found = steps()
    additive = [step for step in found if step.order == "additive"]
    assert additive[0].remedies == Remedies()
    assert [len(step.remedies) for step in additive] == list(range(9))
    left_out = [step for step in found if step.order == "leave_one_out"]
    missing = [[name for name in TITLES if name not in step.remedies] for step in left_out]
    assert missing == [[name] for name in TITLES]
    assert additive[-2].remedies == left_out[-1].remedies  # the same networks answer both


def test_recipes_change_one_thing(study: Study) -> None:
    coded = recipes(study, Remedies())
    assert [one.labels for one in coded] == [(bone,) for bone in BONES]
    assert coded[0] == study.report_recipe("unet", "calcaneus")
    air = recipes(study, Remedies({"air"}))
    assert [replace(one, min_fraction=0.75) for one in air] == coded
    loss = recipes(study, Remedies({"dice_loss"}))
    assert [replace(one, loss="bce") for one in loss] == coded
    assert recipes(study, Remedies({"tiles", "evaluation_mode"})) == coded  # not of training
    (joint,) = recipes(study, Remedies({"one_network"}))
    assert joint.labels == BONES


def test_patches_grow_at_equal_cost_while_the_rate_falls(study: Study) -> None:
    (grown,) = recipes(study, Remedies({"air", "growing", "one_network"}))
    assert [stage.pixels for stage in grown.stages] == [16, 32, 48]
    rates = [stage.learning_rate for stage in grown.stages]
    assert rates == sorted(rates, reverse=True)
    longer = replace(study, sizes=replace(SIZES, steps=900))
    (grown,) = recipes(longer, Remedies({"air", "growing", "one_network"}))
    costs = [stage.steps * stage.batch_size * stage.pixels**2 for stage in grown.stages]
    np.testing.assert_allclose(costs, costs[0], rtol=0.01)
    # no whole slice is three quarters foot
    (short,) = recipes(study, Remedies({"growing", "one_network"}))
    assert [stage.pixels for stage in short.stages] == [16, 32]


@pytest.mark.slow
def test_a_post_mortem_from_end_to_end(study: Study) -> None:
    table = postmortem_trials(study)
    summary = summarised(table)
    assert list(summary.columns[:6]) == [
        *("step", "bone", "dice_mean", "dice_low", "dice_high", "hd95_mm"),
    ]
    assert len(summary) == len(steps()) * len(BONES)
    assert len(judged(table)) == 2 * len(TITLES) + 4
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
    verdicts = judged(table).set_index("hypothesis")
    assert verdicts.loc["evaluation mode helps", "verdict"] == "holds"
    assert verdicts.loc["evaluation mode helps", "effect"] == pytest.approx(0.3, abs=0.01)
    assert verdicts.loc["evaluation mode is needed in the end", "verdict"] == "holds"
    assert verdicts.loc["patches with air helps", "verdict"] == "contradicted"
    assert verdicts.loc["Dice + BCE helps", "verdict"] == "not shown"  # real, but too small
    assert verdicts.loc["one network helps", "verdict"] == "not shown"
    assert verdicts.loc["turning the foot breaks the network", "verdict"] == "holds"


def test_spread_of_seeds_is_apart_from_that_of_subjects() -> None:
    table = planted({})
    again = table.assign(seed=1, dice=table["dice"] + 0.1)
    result = summarised(pd.concat([table, again], ignore_index=True))
    row = result[result["step"] == AS_CODED].iloc[0]
    assert row["seed_sd"] == pytest.approx(0.1 / np.sqrt(2))
    own = table[table["step"] == AS_CODED]["dice"]
    assert row["subject_sd"] == pytest.approx(own.std())
    assert summarised(table)["seed_sd"].isna().all()
