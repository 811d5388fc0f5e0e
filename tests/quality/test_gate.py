from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.quality.gate import REPORT_CORRELATION, fit_gate

# --- the gate ---


def frames(n: int, bad: float, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlation and Dice of frames; at Dice 0.85 the correlation is 0.64 on average."""
    random = np.random.default_rng(seed)
    good_dice = np.clip(random.normal(0.93, 0.025, n), 0.85, 0.99)
    dice = np.where(random.random(n) < bad, random.uniform(0.3, 0.85, n), good_dice)
    correlation = 0.64 + 0.25 * np.tanh((dice - 0.85) / 0.1) + noise * random.normal(size=n)
    return correlation, dice


@pytest.mark.parametrize("bad", [0.5, 0.1, 0.05])
def test_the_gate_finds_the_correlation_at_the_dice_threshold(bad: float) -> None:
    found = [fit_gate(*frames(200, bad, 0.05, seed)) for seed in range(30)]
    assert {gate.method for gate in found} == {"fit"}
    assert np.mean([gate.correlation_threshold for gate in found]) == pytest.approx(0.64, abs=0.015)
    assert np.std([gate.correlation_threshold for gate in found]) < 0.05
    assert min(gate.balanced_accuracy for gate in found) > 0.8


def test_the_gate_is_read_off_the_best_rising_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    correlation, dice = frames(60, 0.3, 0.1)
    dice = dice.round(2)  # so that some are equal
    knots = np.unique(dice)
    groups = [correlation[dice == knot] for knot in knots]

    def mean(first: int, last: int) -> float:
        return float(np.concatenate(groups[first : last + 1]).mean())

    n = len(knots)
    curve = [  # the max-min formula of isotonic regression
        max(min(mean(first, last) for last in range(i, n)) for first in range(i + 1))
        for i in range(n)
    ]
    for threshold in (0.75, 0.85, 0.9):
        expected = np.interp(threshold, knots, curve)
        monkeypatch.setattr("ankle_lib.quality.gate.REPORT_DICE", threshold)
        found = fit_gate(correlation, dice).correlation_threshold
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_gate_does_not_depend_on_the_order_of_frames() -> None:
    correlation, dice = frames(60, 0.3, 0.05)
    order = np.random.default_rng(1).permutation(60)
    assert fit_gate(correlation[order], dice[order]) == fit_gate(correlation, dice)


def test_frames_without_a_number_do_not_count() -> None:
    correlation, dice = frames(60, 0.3, 0.05)
    gate = fit_gate(correlation, dice)
    more = fit_gate([*correlation, np.nan, 0.9], [*dice, 0.2, np.nan])
    assert more == gate
    assert gate.n_good + gate.n_bad == 60


@pytest.mark.parametrize(
    ("dice", "reason"),
    [
        ([0.95] * 20, "only 0 of 20 registrations lie below Dice 0.85"),
        ([0.95] * 20 + [0.5] * 2, "only 2 of 22 registrations lie below Dice 0.85"),
        ([0.5] * 20, "only 0 of 20 registrations reach Dice 0.85"),
        ([np.nan] * 20, "only 0 of 0 registrations"),
        ([], "only 0 of 0 registrations"),
    ],
)
def test_a_gate_that_cannot_be_found_is_the_reports(dice: list[float], reason: str) -> None:
    gate = fit_gate(np.linspace(0.5, 0.9, len(dice)), dice)
    assert gate.correlation_threshold == REPORT_CORRELATION == 0.64
    assert gate.method == "report"
    assert gate.reason.startswith(reason)


@pytest.mark.parametrize("sign", [0, -1])
def test_correlation_that_says_nothing_gives_no_gate(sign: int) -> None:
    _, dice = frames(200, 0.5, 0)
    noise = np.random.default_rng(2).normal(0, 0.05, 200)
    gate = fit_gate(0.7 + 0.3 * sign * dice + noise, dice)
    assert (gate.method, gate.correlation_threshold) == ("report", 0.64)
    assert "tells good from bad" in gate.reason


def test_what_passes_the_gate() -> None:
    gate = fit_gate([], [])
    assert gate.passes([0.64, 0.6399, np.nan, 1.0]).tolist() == [True, False, False, True]
