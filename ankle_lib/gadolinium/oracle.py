"""How far any method could go: the true probability that a lesion is active.

Lesions are drawn from known distributions (`brain.lesions`), so Bayes' rule gives the probability
that one is active; nobody can do better on average. Two bounds: B1 for whoever knows the lesion's
true T1, T2, halo and form; B2 for whoever sees the images, and knows of everything else (anatomy,
outline, shading, noise) what it is. Real methods have to find out the outline and the shading, too.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from ankle_lib.brain.lesions import (
    FORM_GIVEN,
    FORMS,
    HALO_LONGEST_MM,
    HALO_MM,
    HALO_SPREAD_MM,
    HALO_STEP_MM,
    PREVALENCE,
    SIDES,
    Lesion,
    scatter_covariance,
)
from ankle_lib.brain.signals import SEQUENCES, TISSUES, Tissue, signal

Values = NDArray[np.float64]

MEASURES = ("t1", "t2", "halo", "form")

HALOS = np.arange(0, HALO_LONGEST_MM + HALO_STEP_MM / 2, HALO_STEP_MM)

SUBSETS = tuple(subset for n in range(1, 4) for subset in itertools.combinations(SEQUENCES, n))
"""All sets of sequences but the empty one."""

PRIOR_LOG_ODDS = float(np.log(PREVALENCE / (1 - PREVALENCE)))

STEPS = 5
"""Newton steps to the likeliest T1 and T2."""

LARGEST = 0.8
"""Scatter of ln T1 and ln T2 beyond which nobody looks."""


def halo_odds() -> dict[bool, Values]:
    """Return the probability of each of `HALOS` in chronic (False) and active lesions (True)."""
    edges = np.concatenate([[-np.inf], HALOS[:-1] + HALO_STEP_MM / 2, [np.inf]])
    return {
        active: np.diff(norm.cdf(edges, mean, HALO_SPREAD_MM)) for active, mean in HALO_MM.items()
    }


# --- B1: the true parameters are known ---


def class_means() -> dict[bool, Values]:
    """Return the mean (2,) of ln T1 and ln T2 of even lesions, by class."""
    kinds = {False: TISSUES["chronic lesion"], True: TISSUES["active lesion"]}
    return {active: np.log([kind.t1_s, kind.t2_ms]) for active, kind in kinds.items()}


def log_odds_of_parameters(lesions: Sequence[Lesion], known: Collection[str] = MEASURES) -> Values:
    """Return the log odds (N,) that each lesion is active, for whoever knows its parameters.

    Parameters
    ----------
    lesions : N lesions
    known : some of "t1", "t2", "halo", "form"
        T1 and T2 tell something of even lesions only: in the others both tissues are seen, and the
        difference between them is the same in both classes. Without "form" all count as even.
    """
    odds = np.full(len(lesions), PRIOR_LOG_ODDS)
    if "form" in known:
        share = {active: [FORM_GIVEN[active][one.form] for one in lesions] for active in FORM_GIVEN}
        with np.errstate(divide="ignore"):
            odds += np.log(share[True]) - np.log(share[False])
    places = [place for place, name in enumerate(("t1", "t2")) if name in known]
    if places:
        times = np.array([one.ln_times for one in lesions])[:, places]
        covariance = scatter_covariance()[np.ix_(places, places)]
        means = class_means()
        distance = {
            active: _mahalanobis(times - mean[places], covariance) for active, mean in means.items()
        }
        even = np.array([one.form == "even" or "form" not in known for one in lesions])
        odds += even * (distance[False] - distance[True]) / 2
    if "halo" in known:
        chances = halo_odds()
        step = np.array([round(one.halo_mm / HALO_STEP_MM) for one in lesions], dtype=int)
        odds += np.log(chances[True][step] / chances[False][step])
    return odds


def _mahalanobis(deviations: Values, covariance: Values) -> Values:
    return np.einsum("ni,ij,nj->n", deviations, np.linalg.inv(covariance), deviations)


def best_auc(places: Sequence[int]) -> float:
    """Return the largest possible AUC from ln T1 (0), ln T2 (1) or both, of even lesions.

    Two normal distributions of one covariance whose means are d standard deviations apart (by
    Mahalanobis) give Phi(d / sqrt(2)).
    """
    chosen = list(places)
    means = class_means()
    apart = (means[True] - means[False])[None, chosen]
    covariance = scatter_covariance()[np.ix_(chosen, chosen)]
    return float(norm.cdf(np.sqrt(_mahalanobis(apart, covariance)[0] / 2)))


# --- B2: images are seen ---


@dataclass(frozen=True, eq=False)
class View:
    """What the ideal observer knows of the V voxels about one lesion.

    Attributes
    ----------
    seen : mapping of sequence to (V,) array
        The images, with noise.
    plain : mapping of sequence to (V,) array
        Signals as they would be without the lesion, without shading and gain.
    shading : mapping of sequence to (V,) array
        Shading times gain.
    noise : mapping of sequence to float
        Standard deviation.
    core : (V,) array
        Part of each voxel that is lesion.
    activated : mapping of (form, side) to (V,) array
        Part that would look active.
    halos : (H, V) array
        Part that a halo of each of `HALOS` would take.
    """

    seen: Mapping[str, Values]
    plain: Mapping[str, Values]
    shading: Mapping[str, Values]
    noise: Mapping[str, float]
    core: Values
    activated: Mapping[tuple[str, int], Values]
    halos: Values


def looks(forms: bool) -> list[tuple[str, int]]:
    """Return the looks that a lesion may have: its form, and the side of an arc."""
    if not forms:
        return [("even", 0)]
    return [
        (form, side) for form in FORMS for side in (range(len(SIDES)) if form == "arc" else (0,))
    ]


def log_odds_of_images(
    view: View, forms: bool = True, subsets: Sequence[tuple[str, ...]] = SUBSETS
) -> dict[tuple[str, ...], float]:
    """Return the log odds that a lesion is active, given some of the images.

    For each look and each halo the lesion's signals enter the image linearly, and are smooth
    functions of ln T1 and ln T2. The integral over both is that of the normal distribution which
    fits best at the likeliest values (Laplace's approximation); looks and halos are summed over.
    """
    # an even lesion is all active or all chronic; other looks are the same in both classes
    maps = {("even", 0, True): view.core, ("even", 0, False): 0 * view.core}
    for form, side in looks(forms):
        if form != "even":
            maps[form, side, True] = maps[form, side, False] = view.activated[form, side]
    evidence = _evidence(view, maps, subsets)
    prior = halo_odds()
    answers = {}
    for number, subset in enumerate(subsets):
        of_class = {}
        for active in (True, False):
            terms = []
            for place, (form, _, of) in enumerate(maps):
                share = FORM_GIVEN[active][form] if forms else 1.0
                if of != active or not share:
                    continue
                share /= len(SIDES) if form == "arc" else 1
                terms.append(np.log(share) + np.log(prior[active]) + evidence[number, place])
            of_class[active] = logsumexp(terms)
        answers[subset] = float(PRIOR_LOG_ODDS + of_class[True] - of_class[False])
    return answers


def _evidence(view: View, maps: Mapping[Any, Values], subsets: Sequence[tuple[str, ...]]) -> Values:
    """Return ln p(images | look, halo) (subsets, looks, halos), up to a constant of the images."""
    oedema = TISSUES["oedema"]
    weights = np.array([[one in subset for one in SEQUENCES] for subset in subsets], dtype=float)
    parts = np.array([[active, view.core - active] for active in maps.values()])  # (G, 2, V)
    left, b, q = [], [], []
    for one in SEQUENCES:
        shading = view.shading[one] / view.noise[one]
        without = view.plain[one] * (1 - view.core - view.halos)
        without += view.halos * float(signal(oedema, one))
        rest = view.seen[one] / view.noise[one] - shading * without  # (H, V)
        scaled = parts * shading
        left.append((rest**2).sum(-1))
        b.append(np.einsum("gpv,hv->ghp", scaled, rest))
        q.append(np.einsum("gpv,grv->gpr", scaled, scaled))
    precision: Values = np.linalg.inv(scatter_covariance()).astype(np.float64)
    first = second = np.zeros((len(subsets), len(maps), len(HALOS)))
    for _ in range(STEPS):
        _, (u, v), (uu, uv, vv) = _fit((first, second), weights, b, q, precision)
        determinant = uu * vv - uv**2
        first = np.clip(first + (vv * u - uv * v) / determinant, -LARGEST, LARGEST)
        second = np.clip(second + (uu * v - uv * u) / determinant, -LARGEST, LARGEST)
    fit, _, (uu, uv, vv) = _fit((first, second), weights, b, q, precision)
    constant = np.einsum("ws,sh->wh", weights, np.array(left))[:, None]
    volume = np.log(np.linalg.det(precision)) - np.log(uu * vv - uv**2)
    return fit - constant / 2 + volume / 2


def _fit(
    scatter: tuple[Values, Values],
    weights: Values,
    b: list[Values],
    q: list[Values],
    precision: Values,
) -> tuple[Values, list[Values], list[Values]]:
    """Return the log posterior of the scatter, its slope and its curvature (Gauss-Newton).

    Without what does not depend on the scatter; written out, since matrices of 2 x 2 are slow.
    """
    first, second = scatter
    (p11, p12), (_, p22) = precision
    fit = -(p11 * first**2 + 2 * p12 * first * second + p22 * second**2) / 2
    slope = [-(p11 * first + p12 * second), -(p12 * first + p22 * second)]
    curvature = [np.full_like(fit, one) for one in (p11, p12, p22)]
    for number, one in enumerate(SEQUENCES):
        weight = weights[:, number, None, None]
        (a, a1, a2), (c, c1, c2) = _levels(first, second, one)
        b1, b2 = b[number][..., 0], b[number][..., 1]
        q11, q12, q22 = (q[number][:, i, j, None] for i, j in ((0, 0), (0, 1), (1, 1)))
        r1, r2 = b1 - q11 * a - q12 * c, b2 - q12 * a - q22 * c
        fit += weight * (a * (b1 + r1) + c * (b2 + r2)) / 2
        slope[0] += weight * (a1 * r1 + c1 * r2)
        slope[1] += weight * (a2 * r1 + c2 * r2)
        curvature[0] += weight * (a1 * a1 * q11 + 2 * a1 * c1 * q12 + c1 * c1 * q22)
        curvature[1] += weight * (a1 * a2 * q11 + (a1 * c2 + c1 * a2) * q12 + c1 * c2 * q22)
        curvature[2] += weight * (a2 * a2 * q11 + 2 * a2 * c2 * q12 + c2 * c2 * q22)
    return fit, slope, curvature


def _levels(first: Values, second: Values, sequence: str) -> list[tuple[Any, Any, Any]]:
    """Return the signal of active tissue with its two slopes, then of chronic tissue."""
    small = 1e-4
    found = []
    for name in ("active lesion", "chronic lesion"):
        kind = TISSUES[name]
        t1, t2 = kind.t1_s * np.exp(first), kind.t2_ms * np.exp(second)
        here, longer_t1, longer_t2 = (
            signal(Tissue(kind.proton_density, *times), sequence)
            for times in ((t1, t2), (t1 * (1 + small), t2), (t1, t2 * (1 + small)))
        )
        found.append((here, (longer_t1 - here) / small, (longer_t2 - here) / small))
    return found


# --- what a number means to a patient ---


def predictive_value(
    sensitivity: ArrayLike, specificity: ArrayLike, prevalence: float = 0.04
) -> Any:
    """Return the positive predictive value: how many of those called active are active.

    4 % is about the part of lesions that enhance in a clinic's follow-up scans.
    """
    hit = np.asarray(sensitivity) * prevalence
    false = (1 - np.asarray(specificity)) * (1 - prevalence)
    return hit / (hit + false)
