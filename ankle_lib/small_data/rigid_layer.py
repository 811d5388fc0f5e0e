"""Rigid motion as a layer: one shape per bone, one pose per frame, seen through thick slices.

A network labels every frame anew, and so makes bones that swell and shrink. Here the bone of the
static scan is carried into each frame by a pose and averaged over the frame's slices; all poses of
a sequence are found at once, by descent, so that what is carried there is what the network saw.
Everything is differentiable, in the poses and in the static probabilities.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from ankle_lib.geometry import Grid, Matrix, apply, rigid, slice_parts, voxel_size, weighted_centre
from ankle_lib.metrics import NEAREST
from ankle_lib.presets import BONES
from ankle_lib.small_data.constraints import JOINTS

N_PARTS = 4
"""Samples across a slice."""
N_POINTS = 1200
"""Voxels of each bone's neighbourhood that its poses are fitted to."""
STARTS_DEG = (-30.0, -15.0, 0.0, 15.0, 30.0)
"""Turns about the right-left axis that the fit may begin with."""
RATE_DEG, RATE_MM = 2.0, 0.8
"""Of Adam; both fall to zero along a cosine."""
SURFACE_POINTS = 300
JOINT_WEIGHT = 0.02
"""Of squared mm by which a joint's width changes, beside the squared error of probabilities."""


def rotations(vectors: Tensor) -> Tensor:
    """Return rotation matrices (..., 3, 3) of rotation vectors (..., 3) in radians."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return torch.linalg.matrix_exp(torch.stack([torch.stack(row, -1) for row in rows], -2))


def carried(
    probability: Tensor, affine: Matrix, pose: Tensor, centre: Tensor, points: Tensor
) -> Tensor:
    """Carry a bone's probabilities into frames and average them over the slices.

    Parameters
    ----------
    probability : (I, J, K) tensor
        In the static scan.
    affine : (4, 4) array
        Of the static scan.
    pose : (F, 6) tensor
        Rotation vector (radians) about ``centre`` and shift (mm), static world to frame world.
    centre : (3,) tensor
        World, mm.
    points : (V, S, 3) or (F, V, S, 3) tensor
        World of the frames: S points across the slice at each of V places.

    Returns
    -------
    (F, V) tensor
        Beyond the static scan, its border goes on.

    Examples
    --------
    >>> seen = carried(static, affine, torch.zeros(15, 6), centre, points)
    """
    # home, voxels and the sampler's own coordinates are one linear map of the frame's points
    matrix = torch.from_numpy(np.linalg.inv(affine)[:3]).to(pose)
    scale = 2 / (torch.tensor(probability.shape).to(pose) - 1)
    turn = rotations(pose[:, :3]) @ (matrix[:, :3].T * scale).flip(-1)  # of rows: the inverse
    middle = ((matrix[:, :3] @ centre + matrix[:, 3]) * scale - 1).flip(-1)
    places = (points - centre).expand(len(pose), *points.shape[-3:]).flatten(1, 2)
    where = torch.baddbmm(middle - pose[:, None, 3:] @ turn, places, turn)
    found = functional.grid_sample(
        probability[None, None], where.view(1, 1, 1, -1, 3), padding_mode="border",
        align_corners=True,
    )  # fmt: skip
    return found.view(len(pose), *points.shape[-3:-1]).mean(dim=-1)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network sees of a child: probabilities of `presets.BONES`, with its own pixels."""

    static: NDArray[np.floating]
    """(B, I, J, K), in the static scan; B is 0 where nothing is carried from it."""
    static_affine: Matrix
    frames: NDArray[np.floating]
    """(F, B, i, j, k); thick slices along the last axis."""
    frame_affine: Matrix
    masks: Sequence[Mapping[str, NDArray[np.bool_]]] = ()
    """Its labels of each frame, on the frame's grid."""

    def carried_shares(
        self, poses: Mapping[str, Matrix], grid: Grid
    ) -> dict[str, NDArray[np.float32]]:
        """Return which part of each voxel of a frame the static bones fill; see `carried`."""
        points, zero = across(np.argwhere(np.ones(grid[0], bool)), grid[1]), torch.zeros(3)
        shares = {}
        for bone, values in zip(BONES, self.static, strict=True):
            turn = Rotation.from_matrix(poses[bone][:3, :3]).as_rotvec()
            six = torch.from_numpy(np.concatenate([turn, poses[bone][:3, 3]])).float()[None]
            shape = torch.from_numpy(np.asarray(values, np.float32))
            found = carried(shape, self.static_affine, six, zero, points)
            shares[bone] = found.view(grid[0]).numpy()
        return shares

    def carried_masks(
        self, poses: Mapping[str, Matrix], grid: Grid
    ) -> dict[str, NDArray[np.bool_]]:
        """Return where the static bones, carried, fill at least half of a frame's voxels."""
        return {bone: share >= 0.5 for bone, share in self.carried_shares(poses, grid).items()}


def fit_poses(seen: Seen, steps: int, *, keep_joints: bool = False) -> list[dict[str, Matrix]]:
    """Find the poses that carry the static bones to where a network sees them in the frames.

    Parameters
    ----------
    seen : Seen
    steps : int
        Of the descent.
    keep_joints : bool
        Cartilage neither opens nor gives way: the nearest points of two bones keep their distance.

    Returns
    -------
    list of bone to (4, 4) array
        For each frame, static world to frame world, RAS mm.

    Examples
    --------
    >>> poses = fit_poses(seen, 50, keep_joints=True)
    """
    affine, looks, starts = seen.static_affine, [], []
    rng = np.random.default_rng(0)
    for number, static in enumerate(seen.static):
        shape = torch.from_numpy(np.asarray(static, np.float32))
        centre = torch.from_numpy(weighted_centre(shape.numpy() ** 2 + 1e-9, affine)).float()
        points, wanted = _places(seen.frames[:, number], seen.frame_affine, rng)
        looks.append((shape, centre, points, wanted))
        starts.append(_start(shape, affine, centre, points, wanted))
    turns, shifts = (part.clone().requires_grad_() for part in torch.stack(starts, 1).split(3, -1))
    optimizer = torch.optim.Adam([{"params": [turns], "lr": math.radians(RATE_DEG)},
                                  {"params": [shifts], "lr": RATE_MM}])  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    joints = _joints(seen) if keep_joints else []
    for _ in range(steps):
        now = torch.cat([turns, shifts], dim=-1)  # (F, B, 6)
        loss = now.new_zeros(())
        for number, (shape, centre, points, wanted) in enumerate(looks):
            there = carried(shape, affine, now[:, number], centre, points)
            loss = loss + (there - wanted).square().mean()
        for a, b, field, near, width in joints:
            gap = joint_widths(field, affine, near, now[:, a], looks[a][1], now[:, b], looks[b][1])
            loss = loss + JOINT_WEIGHT * (gap - width).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    angles, mm = (part.detach().double().numpy() for part in (turns.rad2deg(), shifts))
    return [
        {bone: rigid(angles[f, b], mm[f, b], looks[b][1]) for b, bone in enumerate(BONES)}
        for f in range(len(angles))
    ]


def _places(
    seen: NDArray[np.floating], affine: Matrix, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return points (V, S, 3) about a bone and the probabilities (F, V) there."""
    wide = ndimage.binary_dilation(seen.max(axis=0) > 0.1, iterations=2)
    places = rng.permutation(np.argwhere(wide if wide.any() else ~wide))[:N_POINTS]
    values = seen[(slice(None), *places.T)].astype(np.float32)
    return across(places, affine), torch.from_numpy(values)


def across(places: NDArray[np.int_], affine: Matrix) -> Tensor:
    """Return the points (V, S, 3) over which voxels are averaged; slices along the last axis."""
    parts = np.zeros((N_PARTS, 3))
    parts[:, 2] = slice_parts(N_PARTS)
    return torch.from_numpy(apply(affine, places[:, None] + parts).astype(np.float32))


def _start(shape: Tensor, affine: Matrix, centre: Tensor, points: Tensor, wanted: Tensor) -> Tensor:
    """Return poses (F, 6) that bring a bone to where it is seen, turned by the best angle."""
    weights = wanted + 1e-6
    middles = weights @ points.mean(dim=1) / weights.sum(dim=1, keepdim=True)
    tried = torch.zeros(len(STARTS_DEG), len(wanted), 6)
    tried[..., 0] = torch.tensor(STARTS_DEG).deg2rad()[:, None]
    tried[..., 3:] = middles - centre
    errors = [(carried(shape, affine, p, centre, points) - wanted).square().mean(1) for p in tried]
    return tried[torch.stack(errors).argmin(dim=0), torch.arange(len(wanted))]


def joint_widths(
    field: Tensor, affine: Matrix, near: Tensor, pose: Tensor, centre: Tensor, others: Tensor,
    others_centre: Tensor,
) -> Tensor:  # fmt: skip
    """Return the width (F,) of a joint: distance of the nearest tenth of a bone's points.

    Parameters
    ----------
    field : (I, J, K) tensor
        Signed distance from the other bone in the static scan.
    affine : (4, 4) array
        Of the static scan.
    near : (N, 3) tensor
        Points of the bone, static world.
    pose, others : (F, 6) tensors
        Of the two bones, about their centres; see `carried`.
    centre, others_centre : (3,) tensors
    """
    turned = (near - centre) @ rotations(pose[:, :3]).transpose(1, 2)
    points = (turned + centre + pose[:, None, 3:])[:, :, None]
    away = carried(field, affine, others, others_centre, points)
    return away.topk(max(1, int(NEAREST * len(near))), largest=False).values.mean(dim=1)


def _joints(seen: Seen) -> list[tuple[int, int, Tensor, Tensor, Tensor]]:
    """Return, for each joint, its two bones, the second's distance, points of the first, width."""
    found, affine, still = [], seen.static_affine, torch.zeros(1, 6)
    for a, b in ((BONES.index(first), BONES.index(second)) for first, second in JOINTS.values()):
        one, other = (np.asarray(seen.static[number]) >= 0.5 for number in (a, b))
        if not (one.any() and other.any()):
            continue
        outward, inward = (ndimage.distance_transform_edt(mask, sampling=voxel_size(affine))
                           for mask in (~other, other))  # fmt: skip
        away = (outward - inward).astype(np.float32)
        surface = np.argwhere(one & ~ndimage.binary_erosion(one))
        nearest = surface[away[tuple(surface.T)].argsort()[: len(surface) // 2]]
        chosen = nearest[:: max(1, len(nearest) // SURFACE_POINTS)]
        near = torch.from_numpy(apply(affine, chosen).astype(np.float32))
        field, zero = torch.from_numpy(away), torch.zeros(3)
        width = joint_widths(field, affine, near, still, zero, still, zero)
        found.append((a, b, field, near, width))
    return found
