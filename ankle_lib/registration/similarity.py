"""How well the carried static scan explains the frames, and which small motion would help.

In a region with weights w, a frame D is compared with the static scan m, carried by a pose and
averaged across the thick slice. Gain, offset and slow coil shading are no fault of the pose, so
the best ones are found along with it: D is explained by the columns 1, m and m times position.
What stays unexplained is the cost, 1 - R²; with gain and offset alone it is 1 - NCC² of the
weighted normalised correlation NCC.

The derivative by the pose takes the best gains as functions of the pose (variable projection in
Kaufman's form, Golub and Pereyra 2003), which leaves a linear least-squares problem for six
numbers: a rotation vector and a shift about the region's centre.

Any number of images can be carried together, each a channel with columns of its own (`_columns`);
all that follows from them, gains, cost and derivative, is written for C of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ankle_lib.registration.pyramid import Level
from ankle_lib.registration.regions import SHADING_LENGTH_MM, SUPPORT

RIDGE = 1e-5
"""Keeps the normal equations solvable where a column is constant, relative to their diagonal."""


class Options(NamedTuple):
    """What the similarity allows for."""

    shading: bool = True
    """Gain that varies linearly in space."""
    weighted: bool = True
    """Soft weights that move with the pose; otherwise every selected point counts alike."""
    least_seen: float = 0.3
    """Part of the region that must lie in the field of view."""


class Points(NamedTuple):
    """The voxels of the frames that take part, for N fits of P points each."""

    voxels: Tensor
    """(N, P, 3) float32, voxel of the frame."""
    values: Tensor
    """(N, P) intensities of the frame."""
    valid: Tensor
    """(N, P) float32, 1 for points and 0 for padding."""

    def take(self, fits: Tensor) -> Points:
        """Return the points of some fits."""
        return Points(*(part[fits] for part in self))


class Fit(NamedTuple):
    """The similarity at a pose, and its quadratic model, for N fits."""

    cost: Tensor
    """(N,) 1 - R²; 1 where too little of the region is seen."""
    correlation: Tensor
    """(N,) weighted correlation of the frame and the first carried channel."""
    seen: Tensor
    """(N,) part of the region's weight that lies inside the frame's field of view."""
    hessian: Tensor
    """(N, 6, 6) of half the weighted squares, by rotation (radians) and shift (mm)."""
    descent: Tensor
    """(N, 6) minus their gradient."""

    def take(self, fits: Tensor) -> Fit:
        """Return some of the fits."""
        return Fit(*(part[fits] for part in self))

    def replaced(self, places: Tensor, some: Fit) -> Fit:
        """Return all fits, with ``some`` in their ``places`` (indices or bools)."""
        parts = [part.clone() for part in self]
        for part, new in zip(parts, some, strict=True):
            part[places] = new
        return Fit(*parts)


def select_points(level: Level, frame: Tensor, inverse: Tensor) -> Points:
    """Return the voxels of each frame that a region covers at a pose.

    Parameters
    ----------
    frame : (N,) int tensor
    inverse : (N, 4, 4) tensor
        Frame world to static world.
    """
    fixed = level.fixed
    to_grid = _to_grid(level, inverse)
    first, lengths = _boxes(level, to_grid)
    axes = [torch.arange(n, device=frame.device) for n in lengths]
    steps = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    steps = steps[(steps[:, 0] + 2 * steps[:, 1]) % level.stride == 0]
    voxels = first[:, None] + steps
    inside = _sample(level.moving.grown, _map(to_grid, voxels.float())) > SUPPORT
    inside &= fixed.measured[frame[:, None], voxels[..., 2]]
    slots = inside.cumsum(1) - 1
    width = max(1, int(slots[:, -1].max()) + 1)
    fit, place = torch.nonzero(inside, as_tuple=True)
    chosen = torch.zeros(len(frame), width, dtype=torch.long, device=frame.device)
    valid = torch.zeros(len(frame), width, device=frame.device)
    chosen[fit, slots[fit, place]] = place
    valid[fit, slots[fit, place]] = 1.0
    kept = torch.gather(voxels, 1, chosen[..., None].expand(-1, -1, 3))
    i, j, k = kept.unbind(-1)
    return Points(kept.float(), fixed.frames[frame[:, None], i, j, k], valid)


def evaluate(level: Level, points: Points, inverse: Tensor, options: Options) -> Fit:
    """Compare the frames with the static scan at the poses ``inverse``, (N, 4, 4)."""
    moving = level.moving
    to_grid = _to_grid(level, inverse)
    grid = _map(to_grid, points.voxels)  # (N, P, 3), the middle of the slice
    across = to_grid[:, :3, 2]  # one voxel of the frame along its slice axis
    weights = points.valid
    if options.weighted:
        weights = weights * _sample(moving.weights, grid)

    n_parts = level.slice_samples
    parts = (torch.arange(n_parts, device=grid.device) + 0.5) / n_parts - 0.5
    coordinates = (grid[:, :, None] + parts[:, None] * across[:, None, None])[:, :, :, None]
    images = moving.channels[None].expand(len(grid), -1, -1, -1, -1)
    samples = functional.grid_sample(images, coordinates, padding_mode="border", align_corners=True)
    carried = samples[..., 0].mean(-1)  # (N, C, P)

    position = _positions(level, points) if options.shading else None
    design = _columns(carried, position)  # (N, Q, P)
    weighted = design * weights[:, None]
    normal = weighted @ design.mT
    gains = _solve(normal, (weighted @ points.values[..., None])[..., 0])  # (N, Q)
    slopes = [
        _slopes(level, points, to_grid, images[:, channel : channel + 1], coordinates, parts)
        for channel in range(carried.shape[1])
    ]
    there = _gains_there(gains, carried, position)[..., None]  # (N, C, P, 1)
    jacobian = (torch.stack(slopes, 1) * there).sum(1)  # (N, P, 6)

    residual = points.values - (gains[:, None] @ design)[:, 0]
    weighted_jacobian = jacobian * weights[..., None]
    mixed = design @ weighted_jacobian  # (N, Q, 6)
    hessian = jacobian.mT @ weighted_jacobian - mixed.mT @ _solve(normal, mixed)
    descent = (residual[:, None] @ weighted_jacobian)[:, 0]

    mass = weights.sum(1).clamp_min(1e-6)
    spread, own_spread, together = _moments(weights, mass, points.values, carried[:, 0])
    left = (weights * residual**2).sum(1)
    seen = mass * level.stride * _volume_ratio(level) / moving.weights.sum()
    cost = torch.where(seen > options.least_seen, left / spread, torch.ones_like(left))
    correlation = together / (own_spread * spread).sqrt()
    return Fit(cost, correlation, seen, hessian, descent)


def _columns(carried: Tensor, position: Tensor | None) -> Tensor:
    """Return what explains the frame, (N, Q, P): 1, each channel, and each times position.

    ``carried`` is (N, C, P) and ``position`` (N, 3, P), or None without shading.
    """
    columns = [torch.ones_like(carried[:, :1]), carried]
    if position is not None:
        columns.append((carried[:, :, None] * position[:, None]).flatten(1, 2))
    return torch.cat(columns, 1)


def _gains_there(gains: Tensor, carried: Tensor, position: Tensor | None) -> Tensor:
    """Return the gain of each channel at each point, (N, C, P), from those of `_columns`."""
    n_channels = carried.shape[1]
    there = gains[:, 1 : 1 + n_channels, None].expand_as(carried)
    if position is not None:
        there = there + gains[:, 1 + n_channels :].unflatten(1, (n_channels, 3)) @ position
    return there


def _slopes(
    level: Level,
    points: Points,
    to_grid: Tensor,
    image: Tensor,
    coordinates: Tensor,
    parts: Tensor,
) -> Tensor:
    """Change (N, P, 6) of a slice-averaged channel by a rotation vector and a shift."""
    even = torch.full_like(coordinates[..., 0], 1.0 / len(parts))[:, None]
    _, by_grid = torch.ops.aten.grid_sampler_3d_backward(
        even, image, coordinates, 0, 1, True, [False, True]
    )
    # the gradient, and its first moment across the slice, whose ends move more when it turns
    moments = torch.stack([torch.ones_like(parts), parts]) @ by_grid[:, :, :, 0]  # (N, P, 2, 3)
    from_grid = _from_grid(level)
    slope, tilt = (moments @ torch.linalg.inv(from_grid[:3, :3])).unbind(2)  # by mm in the world
    middle = torch.as_tensor(level.moving.centre, dtype=torch.float32, device=slope.device)
    to_world = from_grid @ to_grid
    arm = _map(to_world, points.voxels) - middle
    line = to_world[:, None, :3, 2].expand_as(tilt)
    turning = torch.linalg.cross(arm, slope) + torch.linalg.cross(line, tilt)
    return torch.cat([turning, slope], -1)


def _moments(
    weights: Tensor, mass: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted squares of two (N, P) images about their means, and their product."""
    one = first - ((weights * first).sum(1) / mass)[:, None]
    two = second - ((weights * second).sum(1) / mass)[:, None]
    weighted = weights * one
    products = (weighted * one).sum(1), (weights * two * two).sum(1), (weighted * two).sum(1)
    return products[0].clamp_min(1e-6), products[1].clamp_min(1e-6), products[2]


def _from_grid(level: Level) -> Tensor:
    """Return the matrix (4, 4) from grid_sample's coordinates of the static level to its world.

    grid_sample counts from -1 to 1 between the middles of the first and last voxel, and names the
    last axis first.
    """
    half = (np.array(level.moving.weights.shape) - 1).clip(1) / 2
    voxel = np.eye(4)
    voxel[:3, :3] = np.diag(half)[:, ::-1]
    voxel[:3, 3] = half
    device = level.moving.weights.device
    return torch.as_tensor(level.moving.affine @ voxel, dtype=torch.float32, device=device)


def _to_grid(level: Level, inverse: Tensor) -> Tensor:
    """Voxel of the frame to grid_sample's coordinates of the static level, (N, 4, 4) float32."""
    fixed = torch.as_tensor(level.fixed.affine, device=inverse.device)
    back = torch.linalg.inv(_from_grid(level).double())
    return (back @ inverse.double() @ fixed).float()


def _boxes(level: Level, to_grid: Tensor) -> tuple[Tensor, list[int]]:
    """First voxel (N, 3) and common lengths of boxes of the frames that hold the region."""
    ends = torch.tensor([-1.0, 1.0], device=to_grid.device)
    corners = torch.cartesian_prod(ends, ends, ends)[None].expand(len(to_grid), -1, -1)
    there = _map(torch.linalg.inv(to_grid), corners)
    shape = torch.tensor(level.fixed.frames.shape[1:], device=to_grid.device)
    first = there.amin(1).floor().long().clamp_min(0)
    last = (there.amax(1).ceil().long() + 1).minimum(shape)
    lengths = (last - first).amax(0).clamp_min(1).minimum(shape)
    return first.minimum(shape - lengths).clamp_min(0), lengths.tolist()


def _positions(level: Level, points: Points) -> Tensor:
    """Position (N, 3, P) in the frame's world, about the middle of the points, in 30 mm."""
    mass = points.valid.sum(1).clamp_min(1.0)
    middle = (points.valid[:, None] @ points.voxels / mass[:, None, None])[:, 0]
    steps = torch.as_tensor(level.fixed.affine[:3, :3], dtype=torch.float32, device=mass.device)
    return (steps / SHADING_LENGTH_MM) @ (points.voxels - middle[:, None]).mT


def _volume_ratio(level: Level) -> float:
    volumes = [abs(np.linalg.det(a[:3, :3])) for a in (level.fixed.affine, level.moving.affine)]
    return float(volumes[0] / volumes[1])


def _map(matrices: Tensor, points: Tensor) -> Tensor:
    """Apply (N, 4, 4) to (N, P, 3)."""
    return points @ matrices[:, :3, :3].mT + matrices[:, None, :3, 3]


def _sample(image: Tensor, grid: Tensor) -> Tensor:
    """Sample one image (I, J, K) at (N, P, 3) of grid_sample's coordinates; 0 outside."""
    images = image.expand(len(grid), 1, -1, -1, -1)
    sampled = functional.grid_sample(images, grid[:, :, None, None], align_corners=True)
    return sampled[:, 0, :, 0, 0]


def _solve(normal: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric systems (N, Q, Q) in double precision; right is (N, Q) or (N, Q, R)."""
    square = normal.double()
    diagonal = square.diagonal(dim1=-2, dim2=-1)
    square = square + torch.diag_embed(diagonal * RIDGE + 1e-9)
    columns = right.double() if right.ndim == 3 else right.double()[..., None]
    solved = torch.linalg.solve(square, columns).to(right.dtype)
    return solved if right.ndim == 3 else solved[..., 0]
