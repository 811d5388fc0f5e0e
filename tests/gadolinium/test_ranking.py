"""Areas, intervals over patients, calibration, uncertainty, Shapley values."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ankle_lib.files import AnkleError
from ankle_lib.gadolinium import ranking


def some_scores(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    active = rng.uniform(size=200) < 0.3
    return active, np.round(rng.normal(size=200) + active, 1)  # with ties


def test_the_area_is_that_of_scikit_learn() -> None:
    active, score = some_scores()
    assert ranking.auc(active, score) == pytest.approx(roc_auc_score(active, score))
    assert ranking.auc([False, True], [-np.inf, 0]) == 1
    with pytest.raises(AnkleError, match="needs both"):
        ranking.auc([True, True], [1, 2])
    with pytest.raises(AnkleError, match="1 scores are NaN"):
        ranking.auc([True, False], [1, np.nan])


def test_intervals_are_over_patients_and_paired() -> None:
    active, score = some_scores()
    table = pd.DataFrame({"patient": np.repeat(range(20), 10), "active": active, "score": score})
    table["same"] = 2 * score + 1
    table["noise"] = np.random.default_rng(1).normal(size=200)
    found = ranking.auc_intervals(table, ["score", "same", "noise"], ["score"]).set_index("score")
    assert found.loc["score", "auc"] == pytest.approx(roc_auc_score(active, score))
    assert (
        found.loc["score", "auc_low"] < found.loc["score", "auc"] < found.loc["score", "auc_high"]
    )
    assert found.loc["same", ["minus_score_low", "minus_score_high"]].abs().max() < 1e-12
    assert found.loc["noise", "minus_score_high"] < 0
    # one patient ten times over is no more than one patient
    clones = pd.concat([table[table["patient"] < 6].assign(patient=lambda t: t["patient"])] * 10)
    wide = ranking.auc_intervals(clones, ["score"]).loc[0]
    assert wide["auc_high"] - wide["auc_low"] > 0.05


def test_a_threshold_and_what_it_means() -> None:
    active, score = np.array([0, 0, 0, 1, 1], bool), np.array([0.1, 0.2, 0.6, 0.5, 0.9])
    threshold = ranking.operating_point(active, score)
    found = ranking.at_threshold(active, score, threshold)
    assert threshold == 0.5
    assert found["sensitivity"] == 1
    assert found["specificity"] == pytest.approx(2 / 3)
    assert found["ppv_at_4_percent"] == pytest.approx(0.04 / (0.04 + 0.96 / 3))


def test_calibration_of_what_is_true_by_construction() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=20_000)
    active = rng.uniform(size=20_000) < p
    assert ranking.calibration_error(active, p) < 0.015
    assert ranking.calibration_error(active, p**3) > 0.1
    assert ranking.reliability(active, p)["lesions"].sum() == 20_000


def test_uncertainty_has_two_parts() -> None:
    draws = np.array([[0.5, 0.1, 0.9], [0.5, 0.9, 0.9]])
    parts = ranking.parts_of_uncertainty(draws)
    assert parts["epistemic"].round(6).tolist()[::2] == [0, 0]
    assert parts["epistemic"][1] > 0.3
    np.testing.assert_allclose(parts["total"], parts["aleatoric"] + parts["epistemic"])
    assert ranking.entropy(0.5) == pytest.approx(np.log(2))


def test_those_one_is_sure_of_are_right_more_often() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=5000)
    active = rng.uniform(size=5000) < p
    curve = ranking.retention_curve(active, p, ranking.entropy(p))
    assert curve["brier"].is_monotonic_increasing
    assert curve["brier"].iloc[-1] == pytest.approx(((p - active) ** 2).mean())
    blind = ranking.retention_curve(active, p, rng.uniform(size=5000))
    assert blind["brier"].iloc[2:].std() < 0.01


def test_shapley_values_share_the_whole() -> None:
    rng = np.random.default_rng(0)
    players = ("T1w", "T2w", "FLAIR")
    sets = [frozenset(s) for n in range(4) for s in itertools.combinations(players, n)]
    worth = {one: float(rng.uniform()) for one in sets}
    values = ranking.shapley_values(worth)
    assert sum(values.values()) == pytest.approx(worth[frozenset(players)] - worth[frozenset()])
    # over all orders, one after the other
    first = np.mean([
        worth[frozenset(o[: o.index("T1w") + 1])] - worth[frozenset(o[: o.index("T1w")])]
        for o in itertools.permutations(players)
    ])  # fmt: skip
    assert values["T1w"] == pytest.approx(first)
    with pytest.raises(AnkleError, match="7 of 8 subsets"):
        ranking.shapley_values({one: 0.0 for one in sets[1:]})


def test_patient_equivalents_are_read_from_the_curve() -> None:
    counts, plain = (4, 8, 16), (0.6, 0.7, 0.8)
    assert ranking.patient_equivalent(counts, plain, 0.7) == pytest.approx(8)
    assert ranking.patient_equivalent(counts, plain, 0.75) == pytest.approx(np.sqrt(128))
    assert ranking.patient_equivalent(counts, plain, 0.9) == pytest.approx(16)
