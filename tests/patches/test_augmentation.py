from __future__ import annotations

import math

import pytest
import torch

from ankle_lib.files import AnkleError
from ankle_lib.patches.augmentation import Augmentation, distort_intensities, random_geometry
from tests.patches.toy_items import generator


def test_geometry_covers_its_range_and_no_more() -> None:
    turns = random_geometry(4000, Augmentation(rotation_deg=40, scale=1.25), generator()).double()
    steps = torch.linalg.det(turns).sqrt()
    angles = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert 39 < angles.max() <= 40.001
    assert -40.001 <= angles.min() < -39
    assert 1.24 < steps.max() < 1.2501
    assert 0.7999 < steps.min() < 0.81
    mirrored = random_geometry(1000, Augmentation(mirror=True), generator())
    assert 400 < (torch.linalg.det(mirrored) < 0).sum() < 600


def test_distortions_leave_air_black_and_change_light_as_asked() -> None:
    images = torch.rand((50, 1, 16, 16), generator=generator()) * 3 - 1.5
    images[:, :, :, :4] = -1.5
    black = torch.full((50,), -1.5)

    def changed(**kwargs: float) -> torch.Tensor:
        return distort_intensities(images, black, Augmentation(**kwargs), generator(1))

    assert torch.allclose(changed(), images, atol=1e-6)
    for kwargs in ({"gain": 0.5}, {"gamma": 0.5}, {"shading": 0.5}):
        result = changed(**kwargs)
        assert torch.allclose(result[..., :4], images[..., :4], atol=1e-6)
        assert (result - images)[..., 4:].abs().mean() > 0.05
    factors = ((changed(gain=0.3) + 1.5) / (images + 1.5))[..., 4:].flatten(1)
    assert torch.allclose(factors.amin(1), factors.amax(1), rtol=1e-3)
    assert math.exp(-0.3) - 1e-3 < factors.min() < factors.max() < math.exp(0.3) + 1e-3
    gamma = changed(gamma=0.5)
    assert torch.allclose(gamma.amax((1, 2, 3)), images.amax((1, 2, 3)), atol=1e-5)
    noise = (changed(noise=0.4) - images).flatten(1).std(1)
    assert 0.3 < noise.max() < 0.45
    with pytest.raises(AnkleError, match="scale is 3"):
        Augmentation(scale=3)
    with pytest.raises(AnkleError, match="noise is -1"):
        Augmentation(noise=-1)
