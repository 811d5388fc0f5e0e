"""Images and masks carried by a pose, and the errors of poses."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.geometry import (
    apply,
    arrival,
    compose,
    invert,
    part_of,
    rigid,
    slice_direction,
    world_to_voxel,
)
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.truth import bone_points, rotation_errors_deg, tre_mm
from ankle_lib.volume import Volume, resample
from tests.registration.scene import CENTRE, FRAME_SHAPE, Scene, oblique, scene, turned


@pytest.fixture(scope="module")
def seen() -> Scene:
    return scene([turned(12)])


def test_the_slice_axis_is_the_thickest() -> None:
    affine = oblique((10, 10, 4), (1.5, 1.5, 8.0), (5, -3, 8), CENTRE)
    profile = slice_direction(affine[:, [2, 0, 1, 3]])
    assert profile.axis == 0
    assert profile.thickness_mm == pytest.approx(8.0)
    np.testing.assert_allclose(profile.normal * 8, affine[:3, 2])


def test_a_moved_image_explains_the_frame_that_it_made(seen: Scene) -> None:
    grid = seen.frames.shape, seen.frames.affine
    whole = resample(seen.static, *grid, pose=seen.truth[0], slice_samples=12)
    thin = resample(seen.static, *grid, pose=seen.truth[0])
    inside = moved_mask(Volume(seen.bone, seen.static.affine), seen.truth[0], *grid).data
    frame = seen.frames.data[..., 0]
    averaged, point = (np.corrcoef(v.data[inside], frame[inside])[0, 1] for v in (whole, thin))
    assert averaged > 0.97
    assert averaged > point


def test_a_moved_mask_is_the_bone_where_the_pose_puts_it(seen: Scene) -> None:
    bone = Volume(seen.bone, seen.static.affine)
    grid = seen.frames.shape, seen.frames.affine
    mask = moved_mask(bone, seen.truth[0], *grid, slice_samples=9)
    assert mask.data.dtype == bool
    solid = Volume(seen.bone.astype(float), bone.affine)
    filled = resample(solid, *grid, pose=seen.truth[0], slice_samples=9)
    np.testing.assert_array_equal(mask.data, filled.data >= 0.5)
    np.testing.assert_array_equal(
        mask.data, moved_mask(cut_to_mask(bone), seen.truth[0], *grid, slice_samples=9).data
    )


def test_a_mask_that_leaves_the_field_of_view(seen: Scene) -> None:
    bone = cut_to_mask(Volume(seen.bone, seen.static.affine))
    away = rigid((0, 0, 0), (0, 500, 0))
    assert not moved_mask(bone, away, FRAME_SHAPE, seen.frames.affine).data.any()
    box = arrival(bone.grid, away, seen.frames.grid)
    assert min(part_of(box, seen.frames.affine)[0]) == 0
    with pytest.raises(AnkleError, match="empty"):
        cut_to_mask(Volume(np.zeros((3, 3, 3), dtype=bool), np.eye(4)))


def test_a_part_of_a_grid_keeps_its_place(seen: Scene) -> None:
    box = (slice(3, 9), slice(5, 30), slice(2, 4))
    shape, affine = part_of(box, seen.frames.affine)
    assert shape == (6, 25, 2)
    there = apply(affine, (1, 2, 1))
    np.testing.assert_allclose(world_to_voxel(seen.frames.affine, there), (4, 7, 3), atol=1e-9)


def test_errors_of_a_pose(seen: Scene) -> None:
    points = bone_points(seen.bone, seen.static.affine)
    pose = seen.truth[0]
    shifted = compose(rigid((0, 0, 0), (3, 0, 4)), pose)
    assert tre_mm(shifted, pose, points) == pytest.approx(5)
    np.testing.assert_allclose(rotation_errors_deg(shifted, pose), 0, atol=1e-6)
    turned_pose = compose(rigid((0, 2, 0), (0, 0, 0), CENTRE), pose)
    np.testing.assert_allclose(rotation_errors_deg(turned_pose, pose), (0, 2, 0), atol=1e-6)
    assert tre_mm(compose(pose, invert(pose), pose), pose, points) < 1e-9
    with pytest.raises(AnkleError, match="empty"):
        bone_points(np.zeros((2, 2, 2), dtype=bool), np.eye(4))
