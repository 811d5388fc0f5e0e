from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from ankle_lib.geometry import rigid
from ankle_lib.phantom import scanner
from ankle_lib.phantom.anatomy import Anatomy, build
from ankle_lib.phantom.subjects import Recipe, draw_recipe

SHAPE, VOXEL_MM = (64, 64, 5), (1.6, 1.6, 8.0)


@pytest.fixture(scope="module")
def subject() -> tuple[Recipe, Anatomy]:
    recipe = draw_recipe("T09", 2020)
    return recipe, build(recipe.child, [recipe.pose(-5)], soft_voxel_mm=2.0)


def image_grid() -> np.ndarray:
    affine = rigid((4, -6, 9), (0, 0, 0)) @ np.array(
        [[0, 0, 8.0, 0], [-1.6, 0, 0, 0], [0, 1.6, 0, 0], [0, 0, 0, 1]]
    )
    affine[:3, 3] = [0, 0, -25] - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def test_the_sharp_truth_averaged_over_slices_is_the_frame_without_noise(
    subject: tuple[Recipe, Anatomy],
) -> None:
    recipe, anatomy = subject
    quiet = replace(scanner.DYNAMIC_SCANNER, noise_sd=0.0, rescale_slope=1.0, measured=1.0)
    pose, place, affine = recipe.pose(-5.0), np.eye(4), image_grid()

    def rendered(grid: np.ndarray, shape: tuple[int, int, int]) -> scanner.Rendering:
        return scanner.render(anatomy, pose, place, (shape, grid), "dynamic")

    shape, planes = scanner.slice_planes((SHAPE, affine), 8)
    thick = scanner.thick(rendered(planes, shape), 8)
    generator = torch.Generator().manual_seed(1)
    coil = scanner.draw_coil(thick.inside, VOXEL_MM, quiet, generator)
    given = (VOXEL_MM, np.array([0.9]), coil, generator, quiet)
    frame = scanner.image_frames([thick] * 3, *given)[..., 0]
    # a grid turned against that of the frame, of small voxels
    grid = rigid((-7, 3, 2), (0, 0, 0)) @ np.diag([0.8, 0.8, 0.8, 1.0])
    shape = (60, 150, 130)
    grid[:3, 3] = [0, 0, -25] - grid[:3, :3] @ ((np.array(shape) - 1) / 2)
    sharp = scanner.image_sharp(rendered(grid, shape), grid, (SHAPE, affine), coil, 0.9).numpy()
    total, known = np.zeros(SHAPE), np.ones(SHAPE, dtype=bool)
    for part in (np.arange(8) + 0.5) / 8 - 0.5:
        shift = np.eye(4)
        shift[2, 3] = part
        to_sharp = np.linalg.inv(grid) @ affine @ shift
        values = ndimage.affine_transform(sharp, to_sharp, output_shape=SHAPE, order=1, cval=np.nan)
        known &= np.isfinite(values)
        total += np.nan_to_num(values) / 8
    known &= frame.numpy() > 300
    assert known.sum() > 3000
    error = (total - frame.numpy())[known]
    # interpolation blurs edges a little; shading (70 % over the image) and gain leave no trace
    assert np.corrcoef(total[known], frame.numpy()[known])[0, 1] > 0.995
    assert abs(error.mean()) < 0.005 * total[known].mean()
    assert error.std() < 0.1 * total[known].std()


def test_a_coil_is_brightest_at_the_heel_and_one_on_average() -> None:
    inside = torch.ones(20, 22, 6)
    coil = scanner.draw_coil(
        inside, (6.0, 6.0, 8.0), scanner.DYNAMIC_SCANNER, torch.Generator().manual_seed(0)
    )
    axes = [
        ((torch.arange(n) - (n - 1) / 2) * mm).reshape([-1 if m == a else 1 for m in range(3)])
        for a, (n, mm) in enumerate(zip(inside.shape, (6.0, 6.0, 8.0), strict=True))
    ]
    field = coil.sensitivity(axes)
    assert float(field.mean()) == pytest.approx(1, abs=1e-5)
    i, j, _ = np.unravel_index(int(field.argmax()), field.shape)
    assert i > 12, "posterior"
    assert j < 8, "inferior"
