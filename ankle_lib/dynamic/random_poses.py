"""Random poses of a leg and of the bones in it; what lies between the bones follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import RigidTransform, Rotation
from torch import Tensor
from torch.nn import functional

from ankle_lib.dynamic.tissues import Tissues
from ankle_lib.motion_fields import flow_back
from ankle_lib.presets import BONES

Point = NDArray[np.float64]

LATTICE_MM = 7.0
"""Spacing at which the motion of the foot is computed; between, it is interpolated."""
DISTANCE_STEP_MM = 3.0
"""Spacing of the bones' distances, by which the soft tissue follows them."""
FLOW_STEPS = 2
AXIS_SPREAD = 0.12
"""How far the ankle's axis leaves the right-left direction, as a tangent (standard deviation)."""


@dataclass(frozen=True)
class Poses:
    """How far the poses may go. Within sagittal slices feet are turned later, patch by patch."""

    ankle_deg: float = 25.0
    """Talus and calcaneus turn up to this about the ankle's right-left axis, either way."""
    bone_deg: float = 4.0
    """Standard deviation of a further turn of each bone about its centre."""
    bone_mm: float = 0.5
    """Standard deviation of a shift of each bone, along each axis."""
    tilt_deg: float = 15.0
    """The leg is turned up to this out of the sagittal plane, about each of two axes."""
    shift_mm: float = 10.0
    """Shift of the whole leg, up to this along each axis."""
    scale: float = 1.12
    """The foot is made larger up to this factor, or smaller down to its inverse."""


def posed(
    tissues: Tissues,
    ranges: Poses,
    rng: np.random.Generator,
    axes: tuple[NDArray[np.float64], ...],
) -> Tensor:
    """Return where in the tissues' grid each point of a scan comes from, (I, J, K, 3) mm."""
    centres = {
        bone: np.argwhere(tissues.bones[bone]).mean(axis=0) * tissues.spacing_mm for bone in BONES
    }
    motions = _bone_motions(centres, ranges, rng)
    leg = _leg_pose(centres["talus"], ranges, rng)
    counts = [max(2, int(np.ceil(np.ptp(a) / LATTICE_MM)) + 1) for a in axes]
    coarse = [np.linspace(a[0], a[-1], count) for a, count in zip(axes, counts, strict=True)]
    points = np.stack(np.meshgrid(*coarse, indexing="ij"), axis=-1)
    back = np.linalg.inv(leg)
    moved = torch.from_numpy((points @ back[:3, :3].T + back[:3, 3]).astype(np.float32))
    home = flow_back(moved, motions, _Distances(tissues), steps=FLOW_STEPS)
    size = tuple(len(a) for a in axes)
    full = functional.interpolate(
        home.permute(3, 0, 1, 2)[None], size=size, mode="trilinear", align_corners=True
    )
    return full[0].permute(1, 2, 3, 0)


def _bone_motions(
    centres: Mapping[str, Point], ranges: Poses, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw how each bone moves within the foot: exponential coordinates (3, 6)."""
    axis = np.array([*rng.normal(0, AXIS_SPREAD, 2), 1.0])
    turn = rng.uniform(-ranges.ankle_deg, ranges.ankle_deg) * axis / np.linalg.norm(axis)
    ankle = _about(centres["talus"], Rotation.from_rotvec(turn, degrees=True))
    motions = []
    for bone in BONES:
        own = Rotation.from_rotvec(rng.normal(0, ranges.bone_deg, 3), degrees=True)
        shift = RigidTransform.from_translation(rng.normal(0, ranges.bone_mm, 3))
        motion = shift * _about(centres[bone], own)
        motions.append(motion if bone == "tibia" else ankle * motion)
    return np.stack([motion.as_exp_coords() for motion in motions])


def _leg_pose(centre: Point, ranges: Poses, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw size and pose of the whole leg: (4, 4), mm of the tissues' grid to mm of the scan."""
    tilts = rng.uniform(-ranges.tilt_deg, ranges.tilt_deg, 2)
    pose = _about(centre, Rotation.from_euler("xy", tilts, degrees=True)).as_matrix()
    reach = np.log(ranges.scale)
    larger = np.eye(4)
    larger[:3, :3] *= np.exp(rng.uniform(-reach, reach))
    larger[:3, 3] = centre - larger[:3, :3] @ centre
    larger[:3, 3] += rng.uniform(-ranges.shift_mm, ranges.shift_mm, 3)
    matrix: NDArray[np.float64] = larger @ pose
    return matrix


def _about(centre: Point, rotation: Rotation) -> RigidTransform:
    return RigidTransform.from_components(centre - rotation.apply(centre), rotation)


class _Distances:
    """Distance in mm to each bone at points of the tissues' grid, zero inside."""

    def __init__(self, tissues: Tissues) -> None:
        steps = [max(1, round(DISTANCE_STEP_MM / one)) for one in tissues.spacing_mm]
        self.spacing = [step * one for step, one in zip(steps, tissues.spacing_mm, strict=True)]
        every = tuple(slice(None, None, step) for step in steps)
        self.fields = torch.from_numpy(
            np.stack(
                [
                    ndimage.distance_transform_edt(~tissues.bones[bone][every], self.spacing)
                    for bone in BONES
                ]
            ).astype(np.float32)
        )

    def __call__(self, bone: int, points: Tensor) -> Tensor:
        """See `motion_fields.Distances`."""
        return sampled(self.fields[bone : bone + 1], points, self.spacing)[0]


def sampled(fields: Tensor, points: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Interpolate fields (C, I, J, K) at points (X, Y, Z, 3) in mm; they go on beyond their grid.

    So a shank that leaves the field of view of the static scan does not end in the air.
    """
    lengths = [(n - 1) * one for n, one in zip(fields.shape[1:], spacing_mm, strict=True)]
    places = 2 * points / torch.tensor(lengths) - 1
    found: Tensor = functional.grid_sample(
        fields[None], places.flip(-1)[None], padding_mode="border", align_corners=True
    )
    return found[0]
