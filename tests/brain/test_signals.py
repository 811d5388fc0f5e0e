"""Signals by hand, contrast agent, mixing; what a scanner adds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ankle_lib.brain.acquisition import BIAS, Scanner, acquire, bias_field
from ankle_lib.brain.signals import (
    SEQUENCES,
    TISSUES,
    Tissue,
    mixed,
    put_in,
    signal,
    with_agent,
)
from ankle_lib.files import AnkleError


def test_white_matter_by_hand() -> None:
    e1 = math.exp(-18 / 850)
    sine, cosine = math.sin(math.pi / 9), math.cos(math.pi / 9)
    t1w = 0.7 * sine * (1 - e1) / (1 - cosine * e1) * math.exp(-5 / 42)
    white = TISSUES["white matter"]
    assert signal(white, "T1w") == pytest.approx(t1w)
    assert signal(white, "T2w") == pytest.approx(
        0.7 * (1 - math.exp(-4 / 0.85)) * math.exp(-90 / 70)
    )
    flair = 0.7 * (1 - 2 * math.exp(-2.5 / 0.85) + math.exp(-9 / 0.85)) * math.exp(-120 / 70)
    assert signal(white, "FLAIR") == pytest.approx(flair)
    with pytest.raises(AnkleError, match="choose one of T1w, T2w, FLAIR"):
        signal(white, "DWI")


def test_contrasts_are_those_of_a_textbook() -> None:
    t1w, t2w, flair = (
        {name: float(signal(tissue, one)) for name, tissue in TISSUES.items()} for one in SEQUENCES
    )
    assert t1w["white matter"] > t1w["grey matter"] > t1w["csf"]
    assert t2w["csf"] > t2w["chronic lesion"] > t2w["grey matter"] > t2w["white matter"]
    assert flair["csf"] < 0.3 * flair["white matter"]
    assert flair["chronic lesion"] > flair["grey matter"] > flair["white matter"]
    assert t1w["chronic lesion"] < t1w["white matter"]


def test_more_agent_is_brighter() -> None:
    tissue = TISSUES["active lesion"]
    levels = [float(signal(with_agent(tissue, c), "T1w")) for c in np.linspace(0, 0.6, 13)]
    assert (np.diff(levels) > 0).all()
    assert levels[0] == pytest.approx(float(signal(tissue, "T1w")))
    weaker = signal(with_agent(tissue, 0.15, relaxivity=3.0), "T1w")
    assert levels[0] < weaker < signal(with_agent(tissue, 0.15), "T1w")
    assert with_agent(tissue, 0.15).t1_s == pytest.approx(1 / (1 / 1.33 + 0.15 * 4.97))


def test_tissues_are_mixed_in_signal() -> None:
    half = np.full((1, 2, 2, 2), 0.5, dtype=np.float32)
    fractions = put_in(np.ones((1, 2, 2, 2), dtype=np.float32), half[0])
    np.testing.assert_allclose(fractions, 0.5)
    wm, csf = TISSUES["white matter"], TISSUES["csf"]
    expected = (signal(wm, "T2w") + signal(csf, "T2w")) / 2
    np.testing.assert_allclose(mixed(fractions, [wm, csf], "T2w"), expected, rtol=1e-6)
    with pytest.raises(AnkleError, match="2 fractions of 1 tissues"):
        mixed(fractions, [Tissue(1, 1, 1)], "T2w")


def test_noise_is_rician() -> None:
    rng = np.random.default_rng(0)
    nothing = acquire(np.zeros((40, 40, 40), dtype=np.float32), 2.0, rng)
    assert nothing.min() >= 0
    assert nothing.mean() == pytest.approx(2.0 * math.sqrt(math.pi / 2), rel=0.02)  # Rayleigh
    bright = acquire(np.full((40, 40, 40), 100, dtype=np.float32), 2.0, rng)
    assert bright.std() == pytest.approx(2.0, rel=0.03)


def test_shading_and_sessions() -> None:
    rng = np.random.default_rng(0)
    shading = bias_field((30, 30, 30), 4.0, rng)
    assert (shading.min(), shading.max()) == pytest.approx(BIAS, abs=1e-3)
    assert np.abs(np.diff(shading, axis=1)).max() < 0.05
    first, second = Scanner.draw(rng), Scanner.draw(rng)
    assert first.gains != second.gains
    assert first.normal[0].t1_s != second.normal[0].t1_s
    assert first.noise_level("T1w") == pytest.approx(
        first.noise["T1w"] * first.gains["T1w"] * signal(first.normal[0], "T1w")
    )
