from __future__ import annotations

import dataclasses
import math

import pytest

from ankle_lib.phantom.tissues import FFE, STATIC_T1, TISSUES, Tissue, signal


def levels(contrast):
    return {name: signal(tissue, contrast) for name, tissue in TISSUES.items() if name != "air"}


def test_marrow_is_as_bright_as_muscle_in_dynamic_frames_only():
    dynamic, static = levels(FFE), levels(STATIC_T1)
    assert 0.85 < dynamic["marrow"] / dynamic["muscle"] < 1.15
    assert static["marrow"] > 1.5 * static["muscle"]


def test_dynamic_frames_draw_bones_by_dark_cortex_and_bright_cartilage():
    dynamic = levels(FFE)
    assert max(dynamic, key=dynamic.get) == "cartilage"
    assert min(dynamic, key=dynamic.get) == "cortex"


def test_air_is_silent():
    assert signal(TISSUES["air"], FFE) == 0


def test_water_alone_follows_ernsts_equation():
    water = Tissue(proton_density=1.0, fat_fraction=0.0, water_t1_ms=1000.0, t2_star_ms=1e9)
    contrast = dataclasses.replace(FFE, gain=1.0)
    recovery = math.exp(-contrast.repetition_time_ms / 1000.0)
    flip = math.radians(contrast.flip_angle_deg)
    expected = math.sin(flip) * (1 - recovery) / (1 - math.cos(flip) * recovery)
    assert signal(water, contrast) == pytest.approx(expected)


def test_water_and_fat_cancel_at_the_opposed_echo_time():
    mixture = Tissue(proton_density=1.0, fat_fraction=0.5, water_t1_ms=290.0, t2_star_ms=1e9)
    opposed = dataclasses.replace(FFE, echo_time_ms=1000 / 220 / 2)
    in_phase = dataclasses.replace(FFE, echo_time_ms=1000 / 220)
    assert signal(mixture, opposed) < 1e-6 * signal(mixture, in_phase)
