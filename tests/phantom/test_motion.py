from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import RigidTransform

from ankle_lib.motion_fields import jacobian_determinant
from ankle_lib.phantom.fields import Field
from ankle_lib.phantom.motion import (
    GROUPS,
    REFERENCE_DORSIFLEXION_DEG,
    Joints,
    cycle,
    flow_to_reference,
)

JOINTS = Joints(
    talocrural_point=np.array([3.0, 0.0, -20.0]),
    talocrural_axis=np.array([1.0, 0.0, 0.0]),
    subtalar_point=np.array([2.0, -5.0, -22.0]),
    subtalar_axis=np.array([0.0, 1.0, 0.0]),
)
CENTRES_MM = {"tibia": (0, 0, 40), "talus": (0, 0, -12), "calcaneus": (0, -25, -45),
              "forefoot": (0, 60, -45)}  # fmt: skip
RADIUS_MM = 12.0


def points(start_mm: torch.Tensor, spacing_mm: float, shape: tuple[int, ...]) -> torch.Tensor:
    return Field(torch.zeros(1, *shape), start_mm, spacing_mm).points()


@pytest.fixture(scope="module")
def balls() -> Field:
    """Distances to four balls, one for each group of bones."""
    low, high = torch.tensor([-40.0, -70.0, -90.0]), torch.tensor([40.0, 100.0, 90.0])
    field = Field.empty(low, high, 2.0, len(GROUPS), torch.device("cpu"))
    points = field.points()
    for channel, group in enumerate(GROUPS):
        outside = (points - torch.tensor(CENTRES_MM[group])).norm(dim=-1) > RADIUS_MM
        field.values[channel] = torch.from_numpy(
            ndimage.distance_transform_edt(outside.numpy(), sampling=2.0)
        )
    return field


def test_the_reference_pose_is_the_identity():
    pose = JOINTS.pose(REFERENCE_DORSIFLEXION_DEG, 0.0)
    for group in GROUPS:
        np.testing.assert_allclose(pose.matrix(group), np.eye(4), atol=1e-12)


def test_dorsiflexion_lifts_the_toes_and_eversion_turns_the_sole_outwards():
    toes, sole = np.array([0.0, 100.0, -40.0]), np.array([0.0, 0.0, -60.0])
    lifted = JOINTS.pose(REFERENCE_DORSIFLEXION_DEG + 10, 0.0).transforms[2].apply(toes)
    assert lifted[2] > toes[2] + 10
    turned = JOINTS.pose(REFERENCE_DORSIFLEXION_DEG, 8.0).transforms[2].apply(sole)
    assert turned[0] < sole[0] - 3, "lateral is -x"


def test_the_foot_follows_the_tibia():
    shift = RigidTransform.from_translation([1.0, 2.0, 3.0])
    still, moved = JOINTS.pose(-10, 3), JOINTS.pose(-10, 3, shift)
    for a, b in zip(still.transforms, moved.transforms, strict=True):
        np.testing.assert_allclose(b.as_matrix(), (shift * a).as_matrix(), atol=1e-12)


@pytest.mark.parametrize("active", [True, False])
def test_a_cycle_goes_out_and_back_and_keeps_its_limits(active):
    times = np.linspace(0, 1, 61)
    for seed in range(20):
        angles = cycle(
            times,
            lowest_deg=-30,
            highest_deg=-4,
            active=active,
            generator=np.random.default_rng(seed),
        )
        assert angles.max() <= -4
        assert angles.min() >= -32
        assert 20 < angles.argmax() < 40
        assert angles[0] < -24
        assert angles[-1] < -24


def test_bones_stay_rigid_under_the_flow(balls):
    pose = JOINTS.pose(5.0, 6.0)
    generator = torch.Generator().manual_seed(0)
    for group in GROUPS:
        offsets = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=1)
        home = torch.tensor(CENTRES_MM[group]) + 0.8 * RADIUS_MM * offsets
        matrix = torch.from_numpy(pose.matrix(group)).float()
        posed = home @ matrix[:3, :3].T + matrix[:3, 3]
        error = (flow_to_reference(posed, pose, balls) - home).norm(dim=-1)
        assert error.max() < 0.2, f"{group}: {error.max():.3f} mm"


def test_the_flow_does_not_fold_over_the_whole_range(balls):
    grid = points(torch.tensor([-30.0, -60.0, -80.0]), 3.0, (21, 51, 54))
    for dorsiflexion in (-40.0, -10.0, 15.0):
        home = flow_to_reference(grid, JOINTS.pose(dorsiflexion, 5.0), balls)
        assert jacobian_determinant(home, 3.0).min() > 0.05


def test_the_jacobian_of_a_known_map():
    grid = points(torch.zeros(3), 2.0, (4, 5, 6))
    stretched = grid * torch.tensor([2.0, 3.0, -0.5])
    torch.testing.assert_close(jacobian_determinant(stretched, 2.0), torch.full((3, 4, 5), -3.0))
