"""How well the carried static scan explains the frames, and which small motion would help.

In a region with weights w, a frame D is compared with what a pose carries to it, averaged across
the thick slice. There are two ways to explain the frame. As a **gain**: D is the static scan m
times a gain, with an offset and slow coil shading, columns 1, m and m times position; this needs
frames in which bright stays bright. As **layers**: D is one free curve of the grey value of m plus
one of the depth below or above the region's surface, and a slow change of brightness; this holds
in any contrast. Gains and the heights of the curves are no fault of the pose, so the best ones are
found along with it. What stays unexplained is the cost, 1 - R²; with gain and offset alone it is
1 - NCC² of the weighted normalised correlation NCC.

The derivative by the pose takes the best gains as functions of the pose (variable projection in
Kaufman's form, Golub and Pereyra 2003), which leaves a linear least-squares problem for six
numbers: a rotation vector and a shift about the region's centre.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.geometry import voxel_mm3
from ankle_lib.registration.pyramid import Level, MovingRegion
from ankle_lib.registration.regions import SHADING_LENGTH_MM, SUPPORT

DEPTHS_MM = (-6.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
"""Between these the curve of depth is straight: fine at the surface, where the cortex is."""
GREY_STEPS = 2
"""Straight pieces of the curve of grey values of one fit: with three and more it follows textures
that are no fault of the pose, with one it cannot be the curve of another contrast."""

LOOK_STEPS = 6
SMOOTHNESS = 0.02
"""Of the curves that hold for all frames (`learn_look`): pieces that few voxels reach stay in line
with their neighbours."""

HIDDEN_COST = 2.0
"""Cost of a pose at which too little of a region is seen: that of the worst fit."""

RIDGE = 1e-5
"""Keeps the normal equations solvable where a column is constant, relative to their diagonal."""


class Options(NamedTuple):
    """What the similarity allows for."""

    shading: bool = True
    """Gain that varies linearly in space."""
    weighted: bool = True
    """Soft weights that move with the pose; otherwise every selected point counts alike."""
    positive: bool = False
    """The static scan has the frames' contrast, so that a negative gain is wrong."""
    least_seen: float = 0.3
    """Part of the region that must lie in the field of view."""


class Points(NamedTuple):
    """The voxels of the frames that take part, for N fits of P points each."""

    voxels: Tensor
    """(N, P, 3) float32, voxel of the frame."""
    values: Tensor
    """(N, P) intensities of the frame."""
    weights: Tensor
    """(N, P) float32, 0 for padding; 1 for points, or their weight where there are layers."""

    def take(self, fits: Tensor) -> "Points":
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

    def take(self, fits: Tensor) -> "Fit":
        """Return some of the fits."""
        return Fit(*(part[fits] for part in self))

    def replaced(self, places: Tensor, some: "Fit") -> "Fit":
        """Return all fits, with ``some`` in their ``places`` (indices or bools)."""
        parts = [part.clone() for part in self]
        for part, new in zip(parts, some, strict=True):
            part[places] = new
        return Fit(*parts)


def select_points(level: Level, frame: Tensor, inverse: Tensor, options: Options) -> Points:
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
    weights = torch.zeros(len(frame), width, device=frame.device)
    chosen[fit, slots[fit, place]] = place
    weights[fit, slots[fit, place]] = 1.0
    kept = torch.gather(voxels, 1, chosen[..., None].expand(-1, -1, 3))
    if options.weighted and level.moving.depth is not None:
        weights *= _sample(level.moving.weights, _map(to_grid, kept.float()))
    i, j, k = kept.unbind(-1)
    return Points(kept.float(), fixed.frames[frame[:, None], i, j, k], weights)


def evaluate(
    level: Level, points: Points, inverse: Tensor, options: Options, *, slopes: bool = True
) -> Fit:
    """Compare the frames with the static scan at the poses ``inverse``, (N, 4, 4).

    Without ``slopes`` the quadratic model is left out (all 0), in half the time.
    """
    moving, weights = level.moving, points.weights
    to_grid, coordinates, samples = _carried(level, points, inverse)
    if options.weighted and moving.depth is None:
        weights = weights * _sample(moving.weights, _map(to_grid, points.voxels))
    position = _positions(level, points) if options.shading else None
    model = (_Gain if moving.depth is None else _Layers)(moving, samples, position)
    design = model.columns  # (N, Q, P)
    weighted = design * weights[:, None]
    normal = weighted @ design.mT
    gains = _solve(normal, (weighted @ points.values[..., None])[..., 0])  # (N, Q)
    residual = points.values - (gains[:, None] @ design)[:, 0]
    hessian, descent = weights.new_zeros(len(weights), 6, 6), weights.new_zeros(len(weights), 6)
    if slopes:
        jacobian = _slopes(level, points, to_grid, coordinates, model.by_sample(gains))
        weighted_jacobian = jacobian * weights[..., None]
        mixed = design @ weighted_jacobian  # (N, Q, 6)
        hessian = jacobian.mT @ weighted_jacobian - mixed.mT @ _solve(normal, mixed)
        descent = (residual[:, None] @ weighted_jacobian)[:, 0]

    mass = weights.sum(1).clamp_min(1e-6)
    spread, own_spread, together = _moments(weights, mass, points.values, samples[:, 0].mean(-1))
    left = (weights * residual**2).sum(1)
    voxels = voxel_mm3(level.fixed.affine) / voxel_mm3(moving.affine)
    seen = mass * level.stride * voxels / moving.weights.sum()
    cost = left / spread
    if options.positive:  # beyond no likeness at all: the more alike the negative, the worse
        opposed = gains[:, 1] < 0
        cost = torch.where(opposed, 2 - cost, cost)
        descent = torch.where(opposed[:, None], -descent, descent)
    hidden = HIDDEN_COST if options.positive else 1.0
    cost = torch.where(seen > options.least_seen, cost, torch.full_like(cost, hidden))
    correlation = together / (own_spread * spread).sqrt()
    return Fit(cost, correlation, seen, hessian, descent)


class Look(NamedTuple):
    """How the frames show bones: a curve of the static scan's grey value plus one of depth."""

    grey: NDArray[np.float64]
    """Ends of the straight pieces of the curve of grey values."""
    grey_heights: NDArray[np.float64]
    depth_heights: NDArray[np.float64]
    """Of the curve of depth, at `DEPTHS_MM`."""

    def of(self, moving: MovingRegion) -> MovingRegion:
        """Return a region with layers as the frames show it, without layers of its own."""
        assert moving.depth is not None
        values = np.interp(moving.image.cpu().numpy(), self.grey, self.grey_heights)
        values += np.interp(moving.depth.cpu().numpy(), DEPTHS_MM, self.depth_heights)
        image = torch.as_tensor(values, dtype=torch.float32, device=moving.weights.device)
        return replace(moving, image=image, depth=None).standardised()


def learn_look(places: Sequence[tuple[Level, Points, Tensor]]) -> Look:
    """Return the look that explains all fits best, together with slow changes of brightness.

    Parameters
    ----------
    places : sequence of (level with layers, points, inverse poses)
        Of each region.
    """
    lows, highs = zip(*(level.moving.grey_ends for level, _, _ in places), strict=True)
    grey = np.linspace(min(lows), max(highs), LOOK_STEPS + 1)
    parts = []
    for level, points, inverse in places:
        _, _, samples = _carried(level, points, inverse)
        _, design = _curves(samples, grey, _positions(level, points))
        weighted = design * points.weights[:, None]
        normal = (weighted @ design.mT).sum(0).double()
        right = (weighted @ points.values[..., None]).sum(0)[:, 0].double()
        parts.append((normal.cpu().numpy(), right.cpu().numpy()))
    normal, right = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    first = 1
    for count in (LOOK_STEPS, len(DEPTHS_MM) - 1):
        pieces, kinks = slice(first, first + count), np.diff(np.eye(count), axis=0)
        normal[pieces, pieces] += SMOOTHNESS * np.diagonal(normal)[pieces].mean() * kinks.T @ kinks
        first += count
    normal[np.diag_indices_from(normal)] *= 1 + RIDGE
    rises = np.split(np.linalg.solve(normal, right), [1, 1 + LOOK_STEPS, first])[1:3]
    return Look(grey, *(np.concatenate([[0.0], one.cumsum()]) for one in rises))


class _Gain:
    """A frame as the static scan times a gain that may vary in space, and an offset."""

    def __init__(self, _: MovingRegion, samples: Tensor, position: Tensor | None) -> None:
        self._samples, self._position = samples, position
        carried = samples.mean(-1)  # (N, 1, P)
        varying = [] if position is None else [carried * position]
        self.columns = torch.cat([torch.ones_like(carried), carried, *varying], 1)

    def by_sample(self, gains: Tensor) -> Tensor:
        """Return the derivative (N, C, P, S) of the explained frame by each sample."""
        gain = gains[:, 1:2]
        if self._position is not None:
            gain = gain + (gains[:, None, 2:] @ self._position)[:, 0]
        return (gain[:, None, :, None] / self._samples.shape[-1]).expand_as(self._samples)


class _Layers:
    """A frame as a curve of grey value plus a curve of depth, of straight pieces, and shading."""

    def __init__(self, moving: MovingRegion, samples: Tensor, position: Tensor | None) -> None:
        self._samples = samples
        grey = np.linspace(*moving.grey_ends, GREY_STEPS + 1)
        self._ends, self.columns = _curves(samples, grey, position)

    def by_sample(self, gains: Tensor) -> Tensor:
        """Return the derivative (N, C, P, S) of the explained frame by each sample."""
        result, first = torch.empty_like(self._samples), 1
        for channel, ends in enumerate(self._ends):
            slopes = gains[:, first : first + len(ends) - 1] / ends.diff()
            first += len(ends) - 1
            piece = torch.bucketize(self._samples[:, channel].contiguous(), ends, right=True)
            slopes = functional.pad(slopes, (1, 1))  # flat beyond both ends
            result[:, channel] = slopes.gather(1, piece.flatten(1)).view_as(piece)
        return result / self._samples.shape[-1]


def _curves(
    samples: Tensor, grey: NDArray[np.float64], shading: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    """Return ends of the pieces of both curves, and columns (N, Q, P): 1, their rises, shading."""
    both = [torch.as_tensor(ends).to(samples) for ends in (grey, DEPTHS_MM)]
    ramps = [_ramps(samples[:, channel], ends) for channel, ends in enumerate(both)]
    further = [] if shading is None else [shading]
    return both, torch.cat([torch.ones_like(ramps[0][:, :1]), *ramps, *further], 1)


def _ramps(values: Tensor, ends: Tensor) -> Tensor:
    """Rise from 0 to 1 within each piece, averaged across the slice: (N, Q, P)."""
    pieces = zip(ends.tolist(), ends.diff().tolist(), strict=False)
    rises = [((values - start) / width).clamp_(0, 1).mean(-1) for start, width in pieces]
    return torch.stack(rises, 1)


def _carried(level: Level, points: Points, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sample what is carried to the points.

    Returns the matrices from voxels of the frames to grid_sample's coordinates (N, 4, 4), the
    coordinates (N, P, S, 1, 3) of S samples across the slice, and the samples (N, C, P, S).
    """
    to_grid = _to_grid(level, inverse)
    grid = _map(to_grid, points.voxels)  # the middle of the slice
    across = to_grid[:, :3, 2]  # one voxel of the frame along its slice axis
    parts = _parts(level)
    coordinates = (grid[:, :, None] + parts[:, None] * across[:, None, None])[:, :, :, None]
    images = level.moving.channels[None].expand(len(grid), -1, -1, -1, -1)
    samples = functional.grid_sample(images, coordinates, padding_mode="border", align_corners=True)
    return to_grid, coordinates, samples[..., 0]


def _parts(level: Level) -> Tensor:
    """Return where samples lie across a slice (S,), in slices from its middle."""
    count = level.slice_samples
    return (torch.arange(count, device=level.moving.weights.device) + 0.5) / count - 0.5


def _slopes(
    level: Level, points: Points, to_grid: Tensor, coordinates: Tensor, by_sample: Tensor
) -> Tensor:
    """Change (N, P, 6) of the explained frame by a rotation vector and a shift.

    ``by_sample`` (N, C, P, S) is its derivative by each sample.
    """
    images = level.moving.channels[None].expand(len(coordinates), -1, -1, -1, -1)
    _, by_grid = torch.ops.aten.grid_sampler_3d_backward(
        by_sample[..., None].contiguous(), images, coordinates, 0, 1, True, [False, True]
    )
    parts = _parts(level)
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
    mass = points.weights.sum(1).clamp_min(1.0)
    middle = (points.weights[:, None] @ points.voxels / mass[:, None, None])[:, 0]
    steps = torch.as_tensor(level.fixed.affine[:3, :3], dtype=torch.float32, device=mass.device)
    return (steps / SHADING_LENGTH_MM) @ (points.voxels - middle[:, None]).mT


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
    solved = torch.linalg.solve_ex(square, columns)[0].to(right.dtype)
    return solved if right.ndim == 3 else solved[..., 0]
