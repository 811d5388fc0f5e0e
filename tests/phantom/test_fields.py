from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from ankle_lib.phantom.fields import Field


def random_field() -> Field:
    values = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(3))
    return Field(values, torch.tensor([1.0, -2.0, 3.0]), 0.5)


def test_sampling_agrees_with_scipy():
    field = random_field()
    index = np.random.default_rng(0).uniform(0, 4, (50, 3))
    points = torch.from_numpy(index).float() * field.spacing_mm + field.origin_mm
    sampled = field.sample(points)
    for channel in range(2):
        expected = ndimage.map_coordinates(field.values[channel].numpy(), index.T, order=1)
        np.testing.assert_allclose(sampled[channel], expected, atol=1e-5)


def test_points_and_sampling_are_inverse():
    field = random_field()
    torch.testing.assert_close(field.sample(field.points()), field.values)


def test_a_block_holds_the_voxels_of_a_box():
    field = random_field()
    block = field.block(torch.tensor([1.4, -9.0, 4.0]), torch.tensor([2.6, -1.0, 99.0]))
    assert block == (slice(1, 4), slice(0, 3), slice(2, 7))
    torch.testing.assert_close(field.points(block), field.points()[block])


def test_a_box_beside_the_grid_is_empty():
    field = random_field()
    block = field.block(torch.tensor([9.0, 0.0, 0.0]), torch.tensor([10.0, 1.0, 1.0]))
    assert field.points()[block].numel() == 0


def test_cropping_keeps_a_voxel_around():
    field = random_field()
    keep = torch.zeros(5, 6, 7, dtype=torch.bool)
    keep[2, 3, 4] = keep[3, 3, 4] = True
    cropped = field.cropped(keep)
    assert cropped.shape == (4, 3, 3)
    torch.testing.assert_close(cropped.values, field.values[:, 1:5, 2:5, 3:6])
    torch.testing.assert_close(cropped.points(), field.points()[1:5, 2:5, 3:6])


def test_noise_has_unit_variance_and_is_smooth():
    field = Field(torch.zeros(1, 60, 60, 60), torch.zeros(3), 0.5)
    noise = field.noise((3.0, 3.0, 3.0), torch.Generator().manual_seed(0))
    assert abs(noise.mean()) < 0.2
    assert 0.8 < noise.std() < 1.2
    neighbours = np.corrcoef(noise[1:].flatten(), noise[:-1].flatten())[0, 1]
    assert neighbours > 0.9
