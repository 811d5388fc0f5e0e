"""How the ankle moves: two hinges, an out-and-back cycle, and soft tissue that follows the bones.

Everything here is in the reference frame: a left foot, millimetres, x medial, y anterior,
z superior, in the pose of the mean shapes that :mod:`ankle_lib.phantom.shapes` was fitted to.
A pose maps the reference pose to another one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform, Rotation
from torch import Tensor

from ankle_lib.motion_fields import flow_back
from ankle_lib.phantom.fields import Field
from ankle_lib.phantom.shapes import REFERENCE_DORSIFLEXION_DEG

GROUPS = ("tibia", "talus", "calcaneus", "forefoot")
"""What moves as one: tibia with fibula, talus, calcaneus, and all bones in front of these."""

FOREFOOT_SHARE = 0.85
"""Share of the subtalar turn that the forefoot takes: the transverse tarsal joint gives way."""


@dataclass(frozen=True)
class Joints:
    """Axes of the two hinges in the reference frame: a point (3,) in mm and a direction (3,).

    A positive turn about the talocrural axis dorsiflexes, about the subtalar axis everts.
    """

    talocrural_point: NDArray[np.float64]
    talocrural_axis: NDArray[np.float64]
    subtalar_point: NDArray[np.float64]
    subtalar_axis: NDArray[np.float64]

    def pose(
        self, dorsiflexion_deg: float, eversion_deg: float, tibia: RigidTransform | None = None
    ) -> "Pose":
        """Place the bones: the foot at these angles, the tibia at ``tibia`` (default: at rest)."""
        tibia = RigidTransform.identity() if tibia is None else tibia
        talus = tibia * _turn(
            self.talocrural_point,
            self.talocrural_axis,
            dorsiflexion_deg - REFERENCE_DORSIFLEXION_DEG,
        )

        def subtalar(degrees: float) -> RigidTransform:
            return talus * _turn(self.subtalar_point, self.subtalar_axis, degrees)

        forefoot = subtalar(FOREFOOT_SHARE * eversion_deg)
        return Pose(
            transforms=(tibia, talus, subtalar(eversion_deg), forefoot),
            dorsiflexion_deg=dorsiflexion_deg,
            eversion_deg=eversion_deg,
        )


@dataclass(frozen=True)
class Pose:
    """Rigid transforms of ``GROUPS``, in that order, and the joint angles behind them."""

    transforms: tuple[RigidTransform, ...]
    dorsiflexion_deg: float
    eversion_deg: float

    def matrix(self, group: str) -> NDArray[np.float64]:
        """Reference → posed, (4, 4), of one group."""
        matrix: NDArray[np.float64] = self.transforms[GROUPS.index(group)].as_matrix()
        return matrix


def cycle(
    times: NDArray[np.float64],
    *,
    lowest_deg: float,
    highest_deg: float,
    active: bool,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Dorsiflexion (N,) in degrees of one out-and-back cycle at ``times`` (N,) in [0, 1].

    The foot starts and ends plantarflexed and turns fastest on its way to and from the top. A
    passive cycle, driven by the operator, is regular; an active one is skewed and trembles.
    """
    peak = 0.5 + (generator.uniform(-0.06, 0.06) if active else 0.0)
    sharpness = generator.uniform(2.0, 3.0)
    phase = np.where(times < peak, times / peak, (1 - times) / (1 - peak)) / 2
    course = np.sin(np.pi * np.clip(phase, 0, 0.5)) ** sharpness
    tremor_deg = np.zeros_like(times)
    if active:
        for frequency in (2, 3, 5):
            amplitude, shift = generator.normal(0, 1.2 / frequency), generator.uniform(0, 2 * np.pi)
            tremor_deg += amplitude * np.sin(2 * np.pi * frequency * times + shift)
    return np.clip(
        lowest_deg + (highest_deg - lowest_deg) * course + tremor_deg, lowest_deg - 2, highest_deg
    )


def flow_to_reference(points: Tensor, pose: Pose, distances: Field) -> Tensor:
    """Carry posed points back to the reference pose by the polyrigid flow (`flow_back`).

    Parameters
    ----------
    points : Tensor (..., 3)
        Millimetres, posed.
    pose : Pose
    distances : Field
        Distance in mm to each of ``GROUPS`` in the reference pose, one channel each.

    Returns
    -------
    Tensor (..., 3)
        Millimetres, in the reference pose.
    """
    coordinates = np.stack([t.as_exp_coords() for t in pose.transforms])

    def distance(group: int, home: Tensor) -> Tensor:
        return distances.picked(slice(group, group + 1)).sample(home, outside="border")[0]

    return flow_back(points, coordinates, distance)


def _turn(point: NDArray[np.float64], axis: NDArray[np.float64], degrees: float) -> RigidTransform:
    rotation = Rotation.from_rotvec(np.asarray(axis) * np.deg2rad(degrees))
    return RigidTransform.from_components(np.asarray(point) - rotation.apply(point), rotation)
