"""The static scan moved with its bones: rigid inside them, one smooth flow between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, invert, is_rigid
from ankle_lib.reconstruction.moving_foot import MovingFoot
from ankle_lib.volume import Volume

LATTICE_MM = 2.0
"""Spacing at which the flow is integrated far from the bones; between, it is interpolated."""
SHELL_MM = (-1.0, 2.0)
"""So close to a bone's surface, the flow is integrated for every voxel."""
BOX_MARGIN_MM = 2.0
"""By which a bone reaches beyond the points that stand for it."""
JACOBIAN_MM = 10.0
"""So far around the bones the flow's Jacobian is looked at, on the lattice,"""
STEP_MM = 0.02
"""by differences over this length."""
SLAB_VOXELS = 4_000_000
"""Voxels that are moved at a time, which bounds the memory."""


class MovedScan(NamedTuple):
    """A static scan in the position of a frame."""

    volume: Volume
    """float32, in the frame's world; 0 where the static scan does not reach."""
    covered: NDArray[np.bool_]
    """Where it does."""
    distances_mm: dict[str, NDArray[np.float32]]
    """Bone to the distance of each voxel from it, negative inside, as in the static scan: of the
    place that the voxel comes from. Of all bones with a mask."""
    smallest_jacobian: float
    """Of the flow from the frame back to the static scan, every 2 mm up to 10 mm around the bones;
    below zero, it folds."""
    rigidity_mm: float
    """How far, at most, the flow carries a point of a bone from where the bone's pose puts it.
    In the volume itself bones are moved by their poses."""


def moved_static(
    foot: MovingFoot,
    poses: Mapping[str, ArrayLike],
    shape: tuple[int, int, int],
    affine: ArrayLike,
) -> MovedScan:
    """Move a static scan, soft tissue and all, into the position of a frame.

    Inside a bone every voxel is moved by the bone's pose; around it by the polyrigid flow.

    Parameters
    ----------
    foot : MovingFoot
    poses : mapping of bone to (4, 4) array
        Static world to frame world, RAS mm; of one bone at least.
    shape, affine
        Grid of the result, in the frame's world.

    Raises
    ------
    AnkleError
        If a pose is not rigid, of a bone without mask, or there is none.
    """
    _check(foot, poses)
    grid = np.asarray(affine, dtype=np.float64)
    lattice, spacing, smallest = _lattice(foot, poses, shape, grid)
    volume = np.empty(shape, dtype=np.float32)
    covered = np.empty(shape, dtype=bool)
    distances = {bone: np.empty(shape, dtype=np.float32) for bone in foot.bones}
    thickness = max(2, SLAB_VOXELS // (shape[0] * shape[1]))
    for first in range(0, shape[2], thickness):
        slab = np.s_[:, :, first : first + thickness]
        points = _grid_points(grid, first, volume[slab].shape, foot.image.device)
        home = _homes(foot, poses, points, lattice, spacing, first)
        values, inside = foot.sample(home)
        volume[slab], covered[slab] = values.cpu().numpy(), inside.cpu().numpy()
        for bone, distance in distances.items():
            distance[slab] = foot.distance(bone, home).cpu().numpy()
    return MovedScan(Volume(volume, grid), covered, distances, smallest, _rigidity(foot, poses))


def _check(foot: MovingFoot, poses: Mapping[str, ArrayLike]) -> None:
    if not poses:
        raise AnkleError("a frame without any pose cannot be reconstructed: leave it out")
    for bone, pose in poses.items():
        if bone not in foot.bones:
            raise AnkleError(f"a pose of the {bone}, but masks of {', '.join(foot.bones)} only")
        if not is_rigid(pose):
            raise AnkleError(f"the pose of the {bone} is not rigid: {np.asarray(pose).tolist()}")


def _lattice(
    foot: MovingFoot,
    poses: Mapping[str, ArrayLike],
    shape: Sequence[int],
    affine: NDArray[np.float64],
) -> tuple[Tensor, NDArray[np.float64], float]:
    """Return channels (1, 4, A, B, C): where the flow comes from, and the distance from the bones.

    Also the lattice's spacing in voxels, and the smallest Jacobian.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    counts = [
        max(2, int(np.ceil((n - 1) * size / LATTICE_MM)) + 1)
        for n, size in zip(shape, sizes, strict=True)
    ]
    spacing = np.array([(n - 1) / (c - 1) for n, c in zip(shape, counts, strict=True)])
    coarse = affine @ np.diag([*spacing, 1.0])
    points = _grid_points(coarse, 0, counts, foot.image.device)
    home = foot.to_static(points, poses)
    away = _bone_distance(foot, poses, points)
    lattice = torch.cat([home, away[..., None]], dim=-1).permute(3, 0, 1, 2)[None]
    around = points[(away > 0) & (away < JACOBIAN_MM)]
    return lattice, spacing, _smallest_jacobian(foot, poses, around)


def _homes(
    foot: MovingFoot,
    poses: Mapping[str, ArrayLike],
    points: Tensor,
    lattice: Tensor,
    spacing: NDArray[np.float64],
    first: int,
) -> Tensor:
    """Where in the static world the points (X, Y, Z, 3) come from: slices from ``first`` on."""
    coordinates = []
    for n, start, step, count in zip(
        points.shape[:3], (0, 0, first), spacing, lattice.shape[2:], strict=True
    ):
        index = torch.arange(n, device=points.device) + start
        coordinates.append(2 * index / (step * (count - 1)) - 1)
    i, j, k = torch.meshgrid(*(c.float() for c in coordinates), indexing="ij")
    where = torch.stack([k, j, i], dim=-1)[None]
    between = functional.grid_sample(lattice, where, align_corners=True)[0].permute(1, 2, 3, 0)
    home, away = between[..., :3].contiguous(), between[..., 3]
    shell = (away > SHELL_MM[0]) & (away < SHELL_MM[1])
    home[shell] = foot.to_static(points[shell], poses)
    for bone, pose in poses.items():
        back = torch.from_numpy(invert(pose)).to(points)
        box = _box(foot, bone, pose, points)
        rigid = points[box] @ back[:3, :3].T + back[:3, 3]
        inside = foot.distance(bone, rigid) <= 0
        home[box] = torch.where(inside[..., None], rigid, home[box])
    return home


def _box(
    foot: MovingFoot, bone: str, pose: ArrayLike, points: Tensor
) -> tuple[slice, slice, slice]:
    """Part of a regular grid of points that a moved bone can touch."""
    corner = points[0, 0, 0].double().cpu().numpy()
    steps = []
    for axis in range(3):
        last = [0, 0, 0]
        last[axis] = points.shape[axis] - 1
        far = points[tuple(last)].double().cpu().numpy()
        steps.append((far - corner) / last[axis] if last[axis] else np.eye(3)[axis])
    to_voxel = np.linalg.inv(np.stack(steps, axis=1))
    voxels = (apply(pose, foot.points[bone]) - corner) @ to_voxel.T
    margin = BOX_MARGIN_MM * np.linalg.norm(to_voxel, axis=1) + 1
    low = np.clip(np.floor(voxels.min(axis=0) - margin), 0, points.shape[:3]).astype(int)
    high = np.clip(np.ceil(voxels.max(axis=0) + margin) + 1, low, points.shape[:3]).astype(int)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _bone_distance(foot: MovingFoot, poses: Mapping[str, ArrayLike], points: Tensor) -> Tensor:
    """Distance (...) in mm from the nearest moved bone, negative inside."""
    nearest = torch.full(points.shape[:-1], torch.inf, device=points.device)
    for bone, pose in poses.items():
        back = torch.from_numpy(invert(pose)).to(points)
        home = points @ back[:3, :3].T + back[:3, 3]
        nearest = torch.minimum(nearest, foot.distance(bone, home))
    return nearest


def _rigidity(foot: MovingFoot, poses: Mapping[str, ArrayLike]) -> float:
    worst = 0.0
    for bone, pose in poses.items():
        there = torch.from_numpy(apply(pose, foot.points[bone])).float().to(foot.image.device)
        home = foot.to_static(there, poses).double().cpu().numpy()
        worst = max(worst, float(np.linalg.norm(home - foot.points[bone], axis=1).max()))
    return worst


def _smallest_jacobian(foot: MovingFoot, poses: Mapping[str, ArrayLike], points: Tensor) -> float:
    """Smallest Jacobian of the flow at points (P, 3); infinite without any."""
    if len(points) == 0:
        return float("inf")
    ends = (
        points.double()[:, None]
        + STEP_MM * torch.cat([torch.zeros(1, 3), torch.eye(3)]).to(points).double()
    )
    home = foot.to_static(ends, poses)
    return float(torch.linalg.det((home[:, 1:] - home[:, :1]) / STEP_MM).min())


def _grid_points(
    affine: NDArray[np.float64],
    first: int,
    shape: Sequence[int],
    device: torch.device,
) -> Tensor:
    """World points (X, Y, Z, 3) of a grid, from slice ``first`` of its third axis on."""
    matrix = torch.from_numpy(affine).to(device)
    i, j, k = (torch.arange(n, device=device, dtype=torch.float64) for n in shape)
    x = (i[:, None] * matrix[:3, 0]).float()[:, None, None]
    y = (j[:, None] * matrix[:3, 1]).float()[None, :, None]
    z = ((k + first)[:, None] * matrix[:3, 2] + matrix[:3, 3]).float()[None, None]
    return x + y + z
