"""How well scores rank active lesions above others, with intervals over patients; calibration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ankle_lib.files import AnkleError
from ankle_lib.gadolinium.oracle import predictive_value

Values = NDArray[np.float64]

DRAWS = 1000
"""Of patients, for an interval."""

BINS = 10
"""Of probabilities, for the calibration error."""


def auc(active: ArrayLike, score: ArrayLike) -> float:
    """Return the area under the ROC curve: how often an active lesion has the higher score.

    Parameters
    ----------
    active : (N,) bools
    score : (N,) floats
        Ties count half; NaN is refused.

    Raises
    ------
    AnkleError
        If there is only one class, or a score is NaN.
    """
    truth, values = np.asarray(active, dtype=bool), np.asarray(score, dtype=float)
    if truth.all() or not truth.any():
        raise AnkleError(f"{truth.sum()} of {len(truth)} lesions are active: an AUC needs both")
    return float(_weighted(truth, values, np.ones((1, len(truth))))[0])


def _weighted(truth: NDArray[np.bool_], score: Values, weights: Values) -> Values:
    """Return the AUC (D,) of lesions that count so often (D, N); NaN where one class is missing."""
    if np.isnan(score).any():
        raise AnkleError(f"{np.isnan(score).sum()} scores are NaN: nobody can rank them")
    order = np.argsort(score, kind="stable")
    first = np.unique(score[order], return_index=True)[1]
    hits = np.add.reduceat(weights[:, order] * truth[order], first, axis=1)
    others = np.add.reduceat(weights[:, order] * ~truth[order], first, axis=1)
    below = np.cumsum(others, axis=1) - others / 2
    pairs = hits.sum(1) * others.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (hits * below).sum(1) / pairs


def auc_intervals(
    table: pd.DataFrame, scores: Sequence[str], against: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the AUC of each score with its 95 % interval over patients.

    Patients are drawn with replacement, with all of their lesions, and the same ones for every
    score, so differences are paired.

    Parameters
    ----------
    table : DataFrame
        A row per lesion: columns patient, active, and the scores.
    scores : sequence of str
    against : sequence of str, optional
        Scores whose AUC is taken off each of the others.

    Returns
    -------
    DataFrame
        Columns score, auc, auc_low, auc_high; then for each of ``against`` ``minus_<score>``, with
        ``_low`` and ``_high``.
    """
    truth = table["active"].to_numpy(bool)
    codes, place = np.unique(table["patient"], return_inverse=True)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), DRAWS)
    weights = np.concatenate([np.ones((1, len(truth))), drawn[:, place]])
    curves = {
        name: _weighted(truth, table[name].to_numpy(float), weights)
        for name in dict.fromkeys([*scores, *against])
    }
    rows = []
    for name in scores:
        row: dict[str, Any] = {"score": name} | _named("auc", curves[name])
        for other in against:
            row |= _named(f"minus_{other}", curves[name] - curves[other])
        rows.append(row)
    return pd.DataFrame(rows)


def _named(name: str, draws: Values) -> dict[str, float]:
    low, high = np.nanpercentile(draws[1:], [2.5, 97.5])
    return {name: float(draws[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


def operating_point(active: ArrayLike, score: ArrayLike) -> float:
    """Return the threshold at which sensitivity and specificity together are largest (Youden).

    Choose it on patients who do not test.
    """
    truth, values = np.asarray(active, dtype=bool), np.asarray(score, dtype=float)
    levels = np.unique(values)
    hits = [(values[truth] >= one).mean() - (values[~truth] >= one).mean() for one in levels]
    return float(levels[int(np.argmax(hits))])


def at_threshold(active: ArrayLike, score: ArrayLike, threshold: float) -> dict[str, float]:
    """Return sensitivity, specificity and the predictive value at 4 % prevalence."""
    truth, called = np.asarray(active, dtype=bool), np.asarray(score, dtype=float) >= threshold
    sensitivity, specificity = float(called[truth].mean()), float((~called[~truth]).mean())
    value = float(predictive_value(sensitivity, specificity)) if called.any() else np.nan
    return {"sensitivity": sensitivity, "specificity": specificity, "ppv_at_4_percent": value}


# --- probabilities ---


def reliability(active: ArrayLike, probability: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """Return mean probability, frequency and number of lesions in bins of equal width."""
    truth, p = np.asarray(active, dtype=float), np.asarray(probability, dtype=float)
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    table = pd.DataFrame({"bin": bin_of, "probability": p, "frequency": truth, "lesions": 1})
    of_bin = table.groupby("bin").agg(
        {"probability": "mean", "frequency": "mean", "lesions": "sum"}
    )
    return of_bin.reset_index()


def calibration_error(active: ArrayLike, probability: ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error: the mean gap of `reliability`, by lesions."""
    table = reliability(active, probability, bins)
    gaps = (table["probability"] - table["frequency"]).abs()
    return float((gaps * table["lesions"]).sum() / table["lesions"].sum())


def entropy(probability: ArrayLike) -> Values:
    """Return the entropy in nats of yes or no with these probabilities."""
    p = np.clip(np.asarray(probability, dtype=float), 1e-9, 1 - 1e-9)
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


def parts_of_uncertainty(draws: ArrayLike) -> pd.DataFrame:
    """Return total, aleatoric and epistemic uncertainty of each lesion.

    Parameters
    ----------
    draws : (D, N) floats
        Probabilities by several networks, or draws of one.

    Returns
    -------
    DataFrame
        ``probability``, the mean; ``total``, its entropy; ``aleatoric``, the mean entropy of the
        draws; ``epistemic``, the difference: how much the draws disagree.
    """
    p = np.asarray(draws, dtype=float)
    mean = p.mean(0)
    total, aleatoric = entropy(mean), entropy(p).mean(0)
    return pd.DataFrame(
        {
            "probability": mean,
            "total": total,
            "aleatoric": aleatoric,
            "epistemic": total - aleatoric,
        }
    )


def retention_curve(
    active: ArrayLike, probability: ArrayLike, uncertainty: ArrayLike, steps: int = 20
) -> pd.DataFrame:
    """Return the Brier score of the most certain lesions, over the part that is kept.

    Columns retained (from 1 / steps to 1) and brier.
    """
    truth, p = np.asarray(active, dtype=float), np.asarray(probability, dtype=float)
    order = np.argsort(np.asarray(uncertainty), kind="stable")
    errors = np.cumsum((p - truth)[order] ** 2) / np.arange(1, len(p) + 1)
    shares = np.arange(1, steps + 1) / steps
    kept = np.maximum((shares * len(p)).round().astype(int), 1)
    return pd.DataFrame({"retained": shares, "brier": errors[kept - 1]})


# --- which sequence ---


def shapley_values(worth: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Return what each player brings, averaged over all orders in which they may come.

    Parameters
    ----------
    worth : mapping of a set of players to a number
        Of every subset, the empty one too.

    Raises
    ------
    AnkleError
        If a subset is missing.
    """
    players = sorted(frozenset().union(*worth))
    if len(worth) != 2 ** len(players):
        raise AnkleError(f"{len(worth)} of {2 ** len(players)} subsets of {', '.join(players)}")
    values = dict.fromkeys(players, 0.0)
    n = len(players)
    for player in players:
        for subset, value in worth.items():
            if player not in subset:
                # so many of the n! orders begin with this subset, and then the player
                k = len(subset)
                share = math.factorial(k) * math.factorial(n - k - 1) / math.factorial(n)
                values[player] += share * (worth[subset | {player}] - value)
    return values


def patient_equivalent(counts: Sequence[int], plain: Sequence[float], score: float) -> float:
    """Return how many patients without help reach a score, from the rising curve of ``plain``.

    Interpolated in ln(patients) between the counts; beyond its ends, the curve's end.
    """
    levels = np.maximum.accumulate(np.asarray(plain, dtype=float))
    return float(np.exp(np.interp(score, levels, np.log(counts))))
