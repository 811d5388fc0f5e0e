from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ankle_lib.patches.rules import (
    DYNAMIC_SEGMENTATION,
    RECONSTRUCTION,
    STATIC_SEGMENTATION,
    PatchRule,
    admissible_positions,
    box_sums,
    local_correlation,
)
from ankle_lib.presets import PRESETS
from tests.patches.toy_items import windows


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(3, 9), st.integers(3, 9)),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    fraction=st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.7, 0.75, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_admissible_positions_are_those_of_a_plain_search(
    shape: tuple[int, int, int], height: int, width: int, fraction: float, seed: int
) -> None:
    region = np.random.default_rng(seed).random(shape) < 0.6
    rule = PatchRule((height, width), tries=1, min_fraction=fraction)
    kept = admissible_positions(torch.from_numpy(region), rule)
    fractions = windows(region, rule.size).mean((3, 4))
    assert np.array_equal(kept.numpy(), fractions >= fraction - 1e-9)


def test_box_sums_and_local_correlation_are_those_of_every_patch() -> None:
    random = np.random.default_rng(1)
    first = random.normal(size=(3, 11, 13))
    second = first + random.normal(size=(3, 11, 13))
    second[1, :6, :7] = 2.5
    size = (4, 5)
    one, two = torch.from_numpy(first), torch.from_numpy(second)
    assert np.allclose(box_sums(one, size).numpy(), windows(first, size).sum((3, 4)))
    correlation = local_correlation(one, two, size).numpy()
    pairs = zip(
        windows(first, size).reshape(-1, 20), windows(second, size).reshape(-1, 20), strict=True
    )
    expected = [np.corrcoef(a, b)[0, 1] if np.ptp(b) else 0.0 for a, b in pairs]
    assert np.allclose(correlation.ravel(), expected, atol=1e-9)
    assert (correlation[1, :3, :3] == 0).all()


def test_correlation_of_faint_texture_on_a_bright_ground_is_exact() -> None:
    random = np.random.default_rng(2)
    first = 5 + 0.01 * random.normal(size=(1, 40, 40))
    second = first + 0.005 * random.normal(size=(1, 40, 40))
    values = local_correlation(torch.from_numpy(first), torch.from_numpy(second), (8, 8))
    patches = first[0, 3:11, 4:12], second[0, 3:11, 4:12]
    expected = np.corrcoef(*(patch.ravel() for patch in patches))[0, 1]
    assert float(values[0, 3, 4]) == pytest.approx(expected, abs=1e-4)


def test_patches_keep_their_size_in_mm() -> None:
    pixels = {
        name: tuple(
            task.pixels(preset.static_voxel_mm[0] if task.grid == "static" else dynamic)
            for task in (STATIC_SEGMENTATION, DYNAMIC_SEGMENTATION, RECONSTRUCTION)
        )
        for name, preset in PRESETS.items()
        for dynamic in (preset.dynamic_voxel_mm[0],)
    }
    assert pixels == {"smoke": (32, 48, 12), "laptop": (64, 80, 20), "paper": (128, 128, 32)}
    assert STATIC_SEGMENTATION.size_mm == pytest.approx(35.84)
    assert RECONSTRUCTION.rule(0.568, "talus") == PatchRule((32, 32), 14000, 0.5, 0.6)
    assert RECONSTRUCTION.rules(0.568)["calcaneus"].min_fraction == 0.7
