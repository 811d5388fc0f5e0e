from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ankle_lib.metrics import dice
from ankle_lib.stroke import fair_trials as fair
from ankle_lib.stroke import simple_rivals as rivals
from ankle_lib.stroke.head_scans import LESION
from tests.stroke.toy_heads import SIZES, toy_head, toy_study


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> fair.StrokeStudy:
    return toy_study(tmp_path_factory.mktemp("trainings"))


def test_all_are_alike_but_for_the_network_and_its_rate(study) -> None:
    recipes = {arm: study.recipe(fair.Run(arm, 3, 12)) for arm in fair.NETWORKS}
    alike = replace(recipes[fair.UNET], network="", width=None, channels=())
    for arm, recipe in recipes.items():
        assert replace(recipe, network="", width=None, channels=()) == alike
        assert recipe.network == fair.NETWORKS[arm]
        assert recipe.fresh().in_channels == (6 if arm == fair.MIRROR else 3)
    assert study.recipe(fair.Run(fair.UNET, 3, 12, rate=0.5)).stages[0].learning_rate == 0.5


def test_a_network_learns_is_kept_and_scored_person_by_person(study) -> None:
    # the others find nothing new after so few steps: their shapes are tested with the networks
    runs = [fair.Run(fair.OWN_UNET, 3, 40), fair.Run(fair.MIRROR, 2, 2)]
    fitted = study.fit_all(runs)
    scores, lesions = fair.scores_of(study, fitted)
    assert list(scores["subject"]) == ["s4", "s5"] * 2
    first = scores[scores["arm"] == fair.OWN_UNET]
    assert first["dice"].mean() > 0.3
    assert set(lesions["arm"]) == {fair.OWN_UNET, fair.MIRROR}
    assert len(lesions) == 4
    found = fair.found_lesions(fitted[runs[0]], study.test[0])
    assert found.shape == study.test[0].item.image.shape
    assert not (found & ~study.test[0].item.region).any()
    truth = study.test[0].item.labels[LESION]
    assert first["dice"].iloc[0] == pytest.approx(dice(found, truth))
    # the second time everything is read
    again = study.fit_all(runs)
    assert [one.folder for one in again.values()] == [one.folder for one in fitted.values()]
    pd.testing.assert_frame_equal(fair.scores_of(study, again)[0], scores)
    seconds = fair.seconds_of(fitted)
    assert (seconds["seconds"] > 0).all()
    assert seconds["parameters"].iloc[0] > 0


def test_trials_choose_by_the_validation_people_alone(study) -> None:
    trials = fair.tuning_trials(study, [fair.OWN_UNET], 2)
    assert list(trials["rate"]) == list(fair.RATES)
    assert trials["dice"].between(0, 1).all()
    table = pd.DataFrame(
        [(arm, rate, rate == chosen) for arm, chosen in
         ((fair.OWN_TRANSFORMER, 1e-2), (fair.OWN_UNET, 5e-3), (fair.SWIN, 2e-2),
          (fair.UNETR, 5e-3)) for rate in fair.RATES],
        columns=["arm", "rate", "dice"],
    )  # fmt: skip
    best = fair.best_rates(table)
    assert (best[fair.OWN_TRANSFORMER], best[fair.OWN_UNET]) == (1e-2, 5e-3)
    assert best[fair.SWIN_IDENTITY] == best[fair.SWIN] == 2e-2
    assert best[fair.UNETR_IDENTITY] == 5e-3


@pytest.mark.parametrize("task", fair.LAPTOP_TRIALS)
def test_every_network_has_had_as_many_tries(task: str) -> None:
    trials = fair.trials_at_laptop(task)
    assert list(trials.columns) == ["arm", "rate", "dice"]
    assert all(tuple(tries) == fair.RATES for _, tries in trials.groupby("arm")["rate"])
    known = set(fair.best_rates(trials))
    assert known == set(fair.NETWORKS) - {fair.MEDNEXT} or task != fair.LESIONS
    assert known >= {fair.UNET, fair.OWN_UNET, fair.OWN_TRANSFORMER, fair.SWIN}


def test_every_contestant_has_a_price() -> None:
    assert set(fair.COST_MS) == set(fair.NETWORKS) - {fair.SWIN_IDENTITY, fair.UNETR_IDENTITY}
    assert fair.steps_in_equal_time(fair.UNET, 150) == 150
    assert fair.steps_in_equal_time(fair.SWIN, 150) < 150


def test_specks_and_what_lies_outside_the_brain_are_no_answer() -> None:
    scan = toy_head("s0")
    found = scan.item.labels[LESION] | ~scan.item.region
    found[16, 60, 0] = True
    assert (fair.as_mask(found, scan) == scan.item.labels[LESION]).all()


def test_simple_rivals_find_what_is_simple(study) -> None:
    scan = study.test[0]
    truth = scan.item.labels[LESION]
    darker = rivals.asymmetry(scan)
    assert darker[truth].mean() > 5 * abs(darker[scan.item.region & ~truth].mean())
    assert np.allclose(darker, -darker[::-1], atol=1e-5)
    by_threshold = rivals.asymmetry_threshold(study.train)(scan)
    assert dice(by_threshold, truth) > 0.5
    # a template's tissue on the toy's grid: its slices are as many
    prior = np.zeros((3, *scan.item.image.shape), dtype=np.float32)
    seen = rivals.features(scan, prior)
    assert seen.shape == (scan.item.region.sum(), 6)
    by_regression = rivals.logistic_regression(study.train, SIZES)(scan)
    assert dice(by_regression, truth) > 0.5


def test_the_ankle_has_the_same_contest(tmp_path: Path) -> None:
    from tests.toy_scans import toy_scan

    sizes = replace(SIZES, ankle_steps=2, ankle_pixel_mm=2.0)
    study = replace(toy_study(tmp_path), sizes=sizes)
    scans = [toy_scan(code, number) for number, code in enumerate(("T31", "E31"))]
    rates = {fair.OWN_UNET: 5e-3, fair.OWN_TRANSFORMER: 2e-2}
    bones = fair.ankle_contest(study, rates.items(), scans[:1], scans[1:])
    assert len(bones) == 6
    assert set(bones["subject"]) == {"E31"}
    assert bones["dice"].between(0, 1).all()
    # a try is the contest with that rate, on other children
    trials = fair.ankle_trials(study, [fair.OWN_UNET], scans[:1], scans[1:])
    assert list(trials["rate"]) == list(fair.RATES)
    own = bones[bones["arm"] == fair.OWN_UNET]["dice"].mean()
    assert trials["dice"].iloc[0] == pytest.approx(own)
