from __future__ import annotations

import numpy as np
import pytest
import torch

from ankle_lib.geometry import apply, rigid, rotation_angle_deg
from ankle_lib.presets import BONES
from ankle_lib.small_data import rigid_layer
from ankle_lib.volume import Volume, resample
from tests.small_data.toy_target import balls

STATIC = np.array([[0, 0, 2.0, -30], [-2, 0, 0, 50], [0, 2, 0, -20], [0, 0, 0, 1]])


def test_gradients_are_right_through_the_thick_slice() -> None:
    generator = torch.Generator().manual_seed(0)
    static = torch.rand(6, 7, 5, generator=generator, dtype=torch.float64)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    pose = 0.1 * torch.rand(2, 6, generator=generator, dtype=torch.float64)
    centre = torch.tensor([5.0, 6.0, 4.0], dtype=torch.float64)
    voxels = np.array([[2, 2, 0], [3, 4, 0], [1, 3, 1]])
    points = rigid_layer.across(voxels, np.diag([2.0, 2.0, 4.0, 1.0])).double() + 0.137

    def layer(static: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        return rigid_layer.carried(static, affine, pose, centre, points)

    inputs = (static.requires_grad_(), pose.requires_grad_())
    assert torch.autograd.gradcheck(layer, inputs, eps=1e-6, atol=1e-5)


def test_it_agrees_with_resampling_through_slices() -> None:
    mask = balls()["talus"]
    frame = STATIC @ np.diag([1, 1, 4.0, 1])  # 8 mm slices
    middle = apply(STATIC, np.argwhere(mask).mean(axis=0))
    pose = rigid([10, 3, -4], [1, -2, 1.5], middle)
    static = Volume(mask.astype(np.float32), STATIC)
    wanted = resample(static, (56, 52, 8), frame, pose=pose, slice_samples=rigid_layer.N_PARTS).data
    voxels = np.argwhere(wanted > 0.05)
    six = torch.tensor([[*np.deg2rad([10, 3, -4]), 1, -2, 1.5]])
    found = rigid_layer.carried(
        torch.from_numpy(static.data), STATIC, six.float(), torch.from_numpy(middle).float(),
        rigid_layer.across(voxels, frame),
    )  # fmt: skip
    assert np.abs(found[0].numpy() - wanted[tuple(voxels.T)]).max() < 1e-3


@pytest.fixture(scope="module")
def seen():
    """Three bones that are no balls, in three frames of known poses, as thick slices show them."""
    bones = balls()
    for mask in bones.values():
        mask[:, :, 20:] &= (np.indices(mask.shape)[0] > np.argwhere(mask)[:, 0].mean())[:, :, 20:]
    frame = rigid([0, 0, 5], [0, 0, 0]) @ STATIC @ np.diag([1, 1, 4.0, 1])
    static = np.stack([bones[bone].astype(np.float32) for bone in BONES])
    poses = []
    for angle in (0, -12, -24):
        one = {}
        for bone in BONES:
            centre = apply(STATIC, np.argwhere(bones[bone]).mean(axis=0))
            one[bone] = rigid([angle if bone != "tibia" else 2, 1, 0], [0.5, 1, -1], centre)
        poses.append(one)
    frames = np.stack([
        np.stack([resample(Volume(static[b], STATIC), (56, 52, 8), frame, pose=one[bone],
                           slice_samples=8).data for b, bone in enumerate(BONES)])
        for one in poses
    ])  # fmt: skip
    return static, frames, frame, poses


def test_poses_are_found_from_afar(seen) -> None:
    static, frames, frame, poses = seen
    looked = rigid_layer.Seen(static, STATIC, frames, frame)
    fit = rigid_layer.fit_poses(looked, 50)
    for n, one in enumerate(poses):
        for bone in BONES:
            off = np.linalg.inv(one[bone]) @ fit[n][bone]
            assert rotation_angle_deg(off) < 3
            centre = apply(STATIC, np.argwhere(static[BONES.index(bone)] > 0.5).mean(axis=0))
            there = [apply(pose, centre) for pose in (one[bone], fit[n][bone])]
            assert np.linalg.norm(there[0] - there[1]) < 0.4
    carried = looked.carried_masks(fit[2], ((56, 52, 8), frame))
    for b, bone in enumerate(BONES):
        wanted = frames[2, b] >= 0.5
        assert 2 * (carried[bone] & wanted).sum() / (carried[bone].sum() + wanted.sum()) > 0.95


def test_joints_keep_their_width_if_asked_to(seen) -> None:
    static, frames, frame, _ = seen
    shifted = frames.copy()
    shifted[:, 1] = np.roll(frames[:, 1], 2, axis=2)  # a network that sees the talus 4 mm too high
    looked = rigid_layer.Seen(static, STATIC, shifted, frame)
    (a, b, field, near, width), *_ = rigid_layer._joints(looked)
    still = torch.zeros(1, 6)

    def opened(keep: bool) -> float:
        gaps = []
        for poses in rigid_layer.fit_poses(looked, 40, keep_joints=keep):
            home = np.linalg.inv(poses[BONES[b]]) @ poses[BONES[a]]
            points = torch.from_numpy(apply(home, near.numpy()).astype(np.float32))
            zero = torch.zeros(3)
            now = rigid_layer.joint_widths(field, STATIC, points, still, zero, still, zero)
            gaps.append(abs(float(now - width)))
        return float(np.mean(gaps))

    assert opened(True) < 0.5 * opened(False)
