from __future__ import annotations

import numpy as np
import torch

from ankle_lib.small_data import implicit
from ankle_lib.small_data.implicit import SpaceTime, fit_sequence
from ankle_lib.volume import Volume


def sequence() -> tuple[Volume, np.ndarray]:
    """A smooth pattern in a block, as slices of 8 mm see it in two frames; and its first frame."""
    i, j, k = np.meshgrid(
        np.arange(20), np.arange(18), np.arange(40), indexing="ij"
    )  # 1 mm along k
    block = (abs(i - 10) < 7) & (abs(j - 9) < 6)
    sharp = np.where(block, 600 + 250 * np.sin(2 * np.pi * k / 24) + 12 * i, 20.0)
    thick = sharp.reshape(20, 18, 5, 8).mean(axis=3)
    frames = np.stack([thick + 10 * n for n in range(2)], axis=-1).astype(np.float32)
    return Volume(frames, np.diag([1.5, 1.5, 8.0, 1.0])), sharp


def test_fitted_through_slices_it_gives_the_frames_back_and_is_sharper(monkeypatch) -> None:
    monkeypatch.setattr(implicit, "BATCH", 512)
    frames, sharp = sequence()
    affine = np.diag([1.5, 1.5, 1.0, 1.0])
    affine[2, 3] = -3.5  # eight thin slices to a thick one
    inside = (slice(5, 15), slice(5, 13))
    errors = {}
    for profile in (False, True):
        fitted = fit_sequence(frames, 160, profile=profile)
        found = fitted.at(0, ((20, 18, 40), affine))
        errors[profile] = np.abs(found - sharp)[inside].mean()
    again = found.reshape(20, 18, 5, 8).mean(axis=3)
    assert np.abs(again - frames.data[..., 0])[inside].mean() < 40  # of 800, dark to bright
    assert errors[True] < errors[False]


def test_it_is_continuous_and_starts_from_its_seed() -> None:
    one, same, other = (SpaceTime(np.eye(4), 0.0, 1.0, seed) for seed in (0, 0, 1))
    places = torch.rand(50, 4) * 40
    with torch.inference_mode():
        assert torch.equal(one(places), same(places))
        assert not torch.equal(one(places), other(places))
        assert (one(places) - one(places + 1e-4)).abs().max() < 1e-4


def test_the_lookup_and_its_slope_are_those_of_the_sum_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(30, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = torch.randint(30, (7, 16), generator=generator)
    weights = torch.rand(7, 16, generator=generator, dtype=torch.float64)
    factor = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    found = implicit._Lookup.apply(table, rows, weights)
    (slope,) = torch.autograd.grad((found * factor).sum(), table)
    by_hand = (table[rows] * weights[..., None]).sum(dim=1)
    (wanted,) = torch.autograd.grad((by_hand * factor).sum(), table)
    assert torch.allclose(found, by_hand)
    assert torch.allclose(slope, wanted)


def test_corners_are_in_the_order_of_their_bits() -> None:
    sides = [(torch.tensor([[0]]), torch.tensor([[bit]])) for bit in (8, 4, 2, 1)]
    assert implicit._corners(sides, torch.add).flatten().tolist() == list(range(16))
