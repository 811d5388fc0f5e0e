from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import RigidTransform
from torch import Tensor

from ankle_lib.geometry import apply, invert, rigid
from ankle_lib.motion_fields import Distances, flow_back, jacobian_determinant

# A leg above a hinge and a foot below it, their round ends 3 mm apart.
CENTRES = ((0.0, 0.0, 22.0), (0.0, 0.0, -17.0))
RADII = (20.0, 16.0)


def distances(bone: int, points: Tensor) -> Tensor:
    return (points - torch.tensor(CENTRES[bone]).to(points)).norm(dim=-1) - RADII[bone]


def coordinates(angle_deg: float) -> np.ndarray:
    """The leg rests, the foot turns about its own middle."""
    turn = rigid((angle_deg, 0, 0), (0, 0, 0), CENTRES[1])
    return np.stack([RigidTransform.from_matrix(m).as_exp_coords() for m in (np.eye(4), turn)])


def grid(spacing: float = 1.5) -> Tensor:
    axis = torch.arange(-36, 36.1, spacing)
    return torch.stack(torch.meshgrid(axis, axis, axis + 2, indexing="ij"), dim=-1)


@pytest.mark.parametrize("angle", [10.0, 25.0])
def test_the_flow_keeps_bones_rigid_and_does_not_fold(angle: float) -> None:
    points = grid(3.0).double()
    home = flow_back(points, coordinates(angle), distances, steps=8)
    turn = rigid((angle, 0, 0), (0, 0, 0), CENTRES[1])
    for bone, pose in enumerate((np.eye(4), turn)):
        inside = distances(bone, torch.from_numpy(apply(invert(pose), points.numpy()))) < 0
        rigidly = torch.from_numpy(apply(invert(pose), points[inside].numpy()))
        assert (home[inside] - rigidly).norm(dim=-1).max() < 0.03
    step = 0.01 * torch.eye(3, dtype=torch.float64)
    ends = flow_back(points[..., None, :] + step, coordinates(angle), distances, steps=8)
    assert torch.linalg.det((ends - home[..., None, :]) / 0.01).min() > 0.05


def test_the_pointwise_form_folds_and_bends_bones() -> None:
    """From about 20 degrees on, as the notes on the lab's model say."""
    points = grid(1.0)

    def look(angle: float) -> tuple[float, float]:
        there = pointwise_fusion(points, coordinates(angle), distances_outside)
        turn = rigid((angle, 0, 0), (0, 0, 0), CENTRES[1])
        inside = distances(1, points) < 0
        rigidly = torch.from_numpy(apply(turn, points[inside])).float()
        bent = (there[inside] - rigidly).norm(dim=-1).max()
        return float(jacobian_determinant(there, 1.0).min()), float(bent)

    small, large = look(5.0), look(60.0)
    assert small[0] > 0
    assert large[0] < 0
    assert large[1] > 1.0


def distances_outside(bone: int, points: Tensor) -> Tensor:
    return distances(bone, points).clamp(min=0)


def test_one_bone_carries_everything_along() -> None:
    pose = rigid((10, 20, -5), (3, 4, 5))
    alone = RigidTransform.from_matrix(pose).as_exp_coords()[None]
    points = grid(12.0).double()
    home = flow_back(points, alone, distances, steps=32)
    np.testing.assert_allclose(home, apply(invert(pose), points.numpy()), atol=1e-2)
    there = pointwise_fusion(points, alone, distances_outside)
    np.testing.assert_allclose(there, apply(pose, points.numpy()), atol=1e-9)


def pointwise_fusion(points: Tensor, coordinates: np.ndarray, distances: Distances) -> Tensor:
    """The lab's earlier model, exp(sum of w_i L_i) of each point, w = 1 / (1 + d² / 2)."""
    weights = torch.stack(
        [1 / (1 + 0.5 * distances(i, points) ** 2) for i in range(len(coordinates))], dim=-1
    )
    weights = weights / weights.sum(dim=-1, keepdim=True)
    fused = weights.double().numpy().reshape(-1, len(coordinates)) @ coordinates
    moved = RigidTransform.from_exp_coords(fused).apply(points.double().numpy().reshape(-1, 3))
    return torch.from_numpy(moved).to(points).reshape(points.shape)
