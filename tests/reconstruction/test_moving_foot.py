from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, compose, invert, rigid
from ankle_lib.reconstruction.moving_foot import MovingFoot, _doubled, moved_static
from ankle_lib.volume import Volume, resample
from tests.toy_motion import Motion, hinge, motion


@pytest.fixture(scope="module")
def scene() -> Motion:
    return motion()


@pytest.fixture(scope="module")
def foot(scene: Motion) -> MovingFoot:
    return MovingFoot.prepare(scene.static, scene.masks)


def test_bones_are_moved_by_their_poses_exactly(scene: Motion) -> None:
    smooth = Volume(ndimage.gaussian_filter(scene.static.data, 2.0), scene.static.affine)
    grid = smooth.shape, smooth.affine
    carried = moved_static(MovingFoot.prepare(smooth, scene.masks), scene.poses[1], *grid)
    points = np.moveaxis(np.indices(smooth.shape), 0, -1)
    for bone, mask in scene.masks.items():
        pose = scene.poses[1][bone]
        solid = Volume(mask.astype(np.float32), grid[1])
        inside = resample(solid, *grid, pose=pose).data > 0.99
        assert inside.sum() > 500
        to_static = compose(np.linalg.inv(grid[1]), invert(pose), grid[1])
        exact = ndimage.map_coordinates(
            smooth.data, apply(to_static, points[inside]).T, order=3, mode="mirror"
        )
        assert np.abs(carried.volume.data[inside] - exact).max() < 0.05 * exact.std()
    assert carried.rigidity_mm < 0.05


@pytest.mark.parametrize("angle", [-25.0, 8.0, 25.0])
def test_nothing_folds(scene: Motion, foot: MovingFoot, angle: float) -> None:
    result = moved_static(foot, hinge(angle), scene.static.shape, scene.static.affine)
    assert 0 < result.smallest_jacobian < 1
    assert np.isfinite(result.volume.data).all()


def test_a_common_motion_is_no_deformation(scene: Motion, foot: MovingFoot) -> None:
    points = torch.tensor([[10.0, -40.0, 5.0], [-20.0, 30.0, 60.0]], dtype=torch.float64)
    same = rigid((20, 10, -15), (8, 9, 10))
    home = foot.to_static(points, dict.fromkeys(scene.masks, same))
    np.testing.assert_allclose(home, apply(invert(same), points.numpy()), atol=1e-9)
    extra = {bone: compose(same, pose) for bone, pose in hinge(20).items()}
    one = foot.to_static(points, hinge(20))
    other = foot.to_static(torch.from_numpy(apply(same, points.numpy())), extra)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_bone_without_pose_follows_the_others(foot: MovingFoot) -> None:
    some = {bone: hinge(15)[bone] for bone in ("talus", "tibia")}
    heel = torch.from_numpy(apply(some["talus"], foot.points["calcaneus"]))
    home = foot.to_static(heel, some).numpy()
    # it hangs on the talus, which is nearer than the tibia, but nothing holds it rigid
    assert np.linalg.norm(home - foot.points["calcaneus"], axis=1).mean() < 5


def test_the_static_scan_stays_sharp_when_it_does_not_move(scene: Motion, foot: MovingFoot) -> None:
    still = moved_static(
        foot, dict.fromkeys(scene.masks, np.eye(4)), scene.static.shape, scene.static.affine
    )
    np.testing.assert_allclose(still.volume.data, scene.static.data, atol=0.5)
    assert still.smallest_jacobian == pytest.approx(1, abs=1e-3)


def test_half_a_voxel_costs_little_sharpness(scene: Motion, foot: MovingFoot) -> None:
    half = np.diag([0.5, 0.5, 0.5, 1])
    fine = moved_static(
        foot,
        dict.fromkeys(scene.masks, np.eye(4)),
        (60, 60, 40),
        scene.static.affine @ half,
    ).volume.data
    spline = ndimage.affine_transform(
        scene.static.data, half[:3, :3], output_shape=(60, 60, 40), order=3, mode="mirror"
    )
    np.testing.assert_allclose(fine, spline, atol=1.0)


def test_an_empty_mask_is_refused(scene: Motion) -> None:
    with pytest.raises(AnkleError, match="empty"):
        MovingFoot.prepare(scene.static, {"talus": np.zeros(scene.static.shape, bool)})


def test_a_scan_of_one_slice_keeps_its_values() -> None:
    image = np.random.default_rng(0).normal(size=(6, 5, 1))
    fine = _doubled(image)
    assert fine.shape == (11, 9, 1)
    np.testing.assert_allclose(fine[::2, ::2], image, atol=1e-6)
