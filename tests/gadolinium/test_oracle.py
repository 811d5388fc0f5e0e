"""The bounds: numbers known beforehand, hand-made lesions, brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from ankle_lib.brain.lesions import FORM_GIVEN, Lesion, draw_lesion, scatter_covariance
from ankle_lib.brain.ms_patients import World, simulate_patient
from ankle_lib.brain.signals import SEQUENCES, TISSUES, Tissue, signal
from ankle_lib.gadolinium import oracle
from ankle_lib.gadolinium.patients import view_of
from ankle_lib.gadolinium.ranking import auc


def drawn(forms: bool, count: int = 40_000) -> tuple[list[Lesion], np.ndarray]:
    rng = np.random.default_rng(3)
    lesions = [draw_lesion(rng, (0, 0, 0), 50.0, bool(n % 2), forms) for n in range(count)]
    return lesions, np.arange(count) % 2 == 1


@pytest.mark.slow
def test_b1_has_the_areas_that_were_computed_beforehand() -> None:
    lesions, active = drawn(forms=False)
    known = {("t1",): 0.713, ("t2",): 0.758, ("t1", "t2"): 0.770, ("halo",): 0.758}
    known[("t1", "t2", "halo")] = 0.846
    for measures, area in known.items():
        found = auc(active, oracle.log_odds_of_parameters(lesions, measures))
        assert found == pytest.approx(area, abs=0.008), measures  # 40,000 drawn: sd 0.0025


def test_the_formula() -> None:
    assert oracle.best_auc([0]) == pytest.approx(0.713, abs=0.005)
    assert oracle.best_auc([1]) == pytest.approx(0.758, abs=0.005)
    assert oracle.best_auc([0, 1]) == pytest.approx(0.770, abs=0.005)


def test_halos_alone_by_their_exact_odds() -> None:
    chances = oracle.halo_odds()
    for one in chances.values():
        assert one.sum() == pytest.approx(1)
    below = np.cumsum(chances[False]) - chances[False] / 2
    assert (chances[True] * below).sum() == pytest.approx(0.758, abs=0.005)


def test_odds_of_one_lesion_by_hand() -> None:
    # half way between the classes in ln T1 and ln T2, and a halo of the most common size
    middle = tuple(np.log([1.33 / 1.18, 130 / 110]) / 2)
    lesion = Lesion((0, 0, 0), 50.0, False, "even", 0, middle, 1.0, 0.0)
    odds = oracle.log_odds_of_parameters([lesion], ("t1", "t2"))
    assert odds[0] == pytest.approx(oracle.PRIOR_LOG_ODDS)
    ring = Lesion((0, 0, 0), 50.0, False, "ring", 0, (0.3, 0.3), 1.0, 0.0)
    found = oracle.log_odds_of_parameters([ring], ("t1", "t2", "form"))
    assert found[0] == pytest.approx(oracle.PRIOR_LOG_ODDS + np.log(0.23 / 0.06))
    hollow = Lesion((0, 0, 0), 50.0, False, "hollow", 0, (0.0, 0.0), 1.0, 0.0)
    assert oracle.log_odds_of_parameters([hollow])[0] == -np.inf


def test_a_predictive_value_of_the_literature() -> None:
    assert oracle.predictive_value(0.78, 0.73) == pytest.approx(0.107, abs=0.001)
    assert oracle.predictive_value(0.78, 0.73, prevalence=0.15) > 0.3


@pytest.fixture(scope="module")
def patient():
    world = World(2.0, seed=4)
    return next(
        found
        for number in range(9)
        if len((found := simulate_patient(world, f"X{number}")).lesions) > 8
    )


def evidence_by_drawing(view, active: bool, times: dict[str, np.ndarray]) -> float:
    """Return ln p(images | class) from drawn times, summed over forms, sides and halos."""
    found = []
    for form, side in oracle.looks(True):
        share = FORM_GIVEN[active][form] / (6 if form == "arc" else 1)
        activated = view.core * active if form == "even" else view.activated[form, side]
        for chance, halo in zip(oracle.halo_odds()[active], view.halos, strict=True):
            if not share:
                continue
            fit = np.full(len(times["active lesion"]), np.log(share * chance))
            for one in SEQUENCES:
                image = view.plain[one] * (1 - view.core - halo)
                image = image + halo * signal(TISSUES["oedema"], one)
                scale = view.shading[one] / view.noise[one]
                rest = view.seen[one] / view.noise[one] - scale * image
                for name, part in (("active lesion", activated), ("chronic lesion", None)):
                    part = view.core - activated if part is None else part
                    tissue = Tissue(0.8, *times[name].T)
                    rest = np.subtract(rest, signal(tissue, one)[:, None] * (scale * part))
                fit -= (rest**2).sum(-1) / 2
            found.append(logsumexp(fit) - np.log(len(fit)))
    return logsumexp(found)


def test_b2_by_brute_force(patient) -> None:
    """Times that are drawn, in place of Newton's method and Laplace's approximation."""
    rng = np.random.default_rng(0)
    scatter = rng.multivariate_normal([0, 0], scatter_covariance(), 1500)
    times = {
        name: np.exp(scatter) * [TISSUES[name].t1_s, TISSUES[name].t2_ms]
        for name in ("active lesion", "chronic lesion")
    }
    for number in (-1, -2, -3):  # small ones, of which drawn times find the likely ones
        view = view_of(patient, len(patient.lesions) + number)
        found = oracle.log_odds_of_images(view)[SEQUENCES]
        active, chronic = (evidence_by_drawing(view, one, times) for one in (True, False))
        by_force = oracle.PRIOR_LOG_ODDS + active - chronic
        assert found == pytest.approx(by_force, abs=0.35), number


def test_more_sequences_tell_more(patient) -> None:
    """On average the true class gets more of the probability, the more is seen."""
    odds = [oracle.log_odds_of_images(view_of(patient, n)) for n in range(len(patient.lesions))]
    active = np.array([lesion.active for lesion in patient.lesions])

    def loss(subset):
        signed = np.where(active, 1, -1) * np.array([one[subset] for one in odds])
        return np.logaddexp(0, -signed).mean()

    assert loss(SEQUENCES) < loss(("T1w",)) + 0.02


def test_even_worlds_know_no_other_forms(patient) -> None:
    view = view_of(patient, 0)
    assert oracle.looks(False) == [("even", 0)]
    assert len(oracle.looks(True)) == 9
    assert set(view.activated) == set(oracle.looks(True))
    both = oracle.log_odds_of_images(view, True), oracle.log_odds_of_images(view, False)
    assert both[0][SEQUENCES] != both[1][SEQUENCES]
    for odds in FORM_GIVEN.values():
        assert sum(odds.values()) == pytest.approx(1)
