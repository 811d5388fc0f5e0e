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
from torch import Tensor
from torch.nn import functional

from ankle_lib.geometry import Matrix, apply, slice_parts, weighted_centre
from ankle_lib.presets import BONES
from ankle_lib.small_data.constraints import JOINTS, NEAREST

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
    turn = rotations(pose[:, :3])
    apart = points - centre - pose[:, None, None, 3:]
    home = apart @ turn[:, None] + centre  # the rows of a rotation are its inverse's columns
    matrix = torch.from_numpy(np.linalg.inv(affine)[:3]).to(home)
    scale = 2 / (torch.tensor(probability.shape).to(home) - 1)
    where = ((home @ matrix[:, :3].T + matrix[:, 3]) * scale - 1).flip(-1)
    found = functional.grid_sample(
        probability[None, None], where.reshape(1, 1, 1, -1, 3), padding_mode="border",
        align_corners=True,
    )  # fmt: skip
    return found.reshape(where.shape[:-1]).mean(dim=-1)


@dataclass(frozen=True, eq=False)
class RigidFit:
    """Poses of one sequence.

    Attributes
    ----------
    poses : mapping of bone to (F, 4, 4) array
        Static world to frame world, RAS mm.
    error : (F, B) array
        Root mean square of carried minus seen probabilities.
    """

    poses: dict[str, NDArray[np.float64]]
    error: NDArray[np.float64]


def fit_poses(
    static: NDArray[np.floating],
    static_affine: Matrix,
    frames: NDArray[np.floating],
    frame_affine: Matrix,
    steps: int,
    *,
    keep_joints: bool = False,
    seed: int = 0,
) -> RigidFit:
    """Find the poses that carry the static bones to where a network sees them in the frames.

    Parameters
    ----------
    static : (B, I, J, K) array
        Probability of each of `presets.BONES` in the static scan.
    static_affine, frame_affine : (4, 4) arrays
    frames : (F, B, i, j, k) array
        The same in each frame; slices along the last axis.
    steps : int
        Of the descent.
    keep_joints : bool
        Cartilage neither opens nor gives way: the nearest points of two bones keep their distance.
    seed : int
        Of the places that are looked at.
    """
    rng = np.random.default_rng(seed)
    shapes = [torch.from_numpy(np.asarray(one, np.float32)) for one in static]
    middles = [weighted_centre(one.numpy() ** 2 + 1e-9, static_affine) for one in shapes]
    centres = [torch.from_numpy(middle).float() for middle in middles]
    looks = [_places(frames[:, b], frame_affine, rng) for b in range(len(shapes))]
    starts = []
    for b, shape in enumerate(shapes):
        points, seen = looks[b]
        middle = torch.stack([_middle(points, one) for one in seen])
        tried = []
        for angle in STARTS_DEG:
            pose = torch.zeros(len(seen), 6)
            pose[:, 0], pose[:, 3:] = math.radians(angle), middle - centres[b]
            error = (
                (carried(shape, static_affine, pose, centres[b], points) - seen).square().mean(1)
            )
            tried.append((error, pose))
        best = torch.stack([error for error, _ in tried]).argmin(dim=0)
        starts.append(torch.stack([pose for _, pose in tried])[best, torch.arange(len(best))])
    poses = torch.stack(starts, dim=1)  # (F, B, 6)
    turns, shifts = (part.clone().requires_grad_() for part in (poses[..., :3], poses[..., 3:]))
    optimizer = torch.optim.Adam([{"params": [turns], "lr": math.radians(RATE_DEG)},
                                  {"params": [shifts], "lr": RATE_MM}])  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    joints = _joints(static, static_affine) if keep_joints else []
    for _ in range(steps):
        now = torch.cat([turns, shifts], dim=-1)
        loss = now.new_zeros(())
        for b, (points, seen) in enumerate(looks):
            there = carried(shapes[b], static_affine, now[:, b], centres[b], points)
            loss = loss + (there - seen).square().mean()
        for a, b, field, near, width in joints:
            moved = _moved(near, now[:, a], centres[a])[:, None]
            away = carried(field, static_affine, now[:, b], centres[b], moved.movedim(1, 2))
            n_near = max(1, int(NEAREST * away.shape[1]))
            gap = away.topk(n_near, largest=False).values.mean(dim=1)
            loss = loss + JOINT_WEIGHT * (gap - width).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        now = torch.cat([turns, shifts], dim=-1)
        errors = [
            (carried(shapes[b], static_affine, now[:, b], centres[b], points) - seen)
            .square()
            .mean(1)
            for b, (points, seen) in enumerate(looks)
        ]
    found = {
        bone: np.stack([_matrix(one, centres[b]) for one in now[:, b]])
        for b, bone in enumerate(BONES)
    }
    return RigidFit(found, torch.stack(errors, dim=1).sqrt().double().numpy())


def carried_masks(
    static: NDArray[np.floating], static_affine: Matrix, poses: Mapping[str, Matrix],
    shape: tuple[int, int, int], frame_affine: Matrix,
) -> dict[str, NDArray[np.bool_]]:  # fmt: skip
    """Return where carried bones fill at least half of a frame's voxels; (I, J, K) each."""
    places = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3)
    points = _across(places, frame_affine)
    masks = {}
    for b, bone in enumerate(BONES):
        home = apply(np.linalg.inv(poses[bone]), points.numpy()).astype(np.float32)
        still = torch.zeros(1, 6)
        shown = torch.from_numpy(np.asarray(static[b], np.float32))
        found = carried(shown, static_affine, still, torch.zeros(3), torch.from_numpy(home))
        masks[bone] = found.reshape(shape).numpy() >= 0.5
    return masks


def _places(
    seen: NDArray[np.floating], affine: Matrix, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return points (V, S, 3) about a bone and the probabilities (F, V) there."""
    wide = ndimage.binary_dilation(seen.max(axis=0) > 0.1, iterations=2)
    if not wide.any():
        wide = np.ones(seen.shape[1:], bool)
    places = rng.permutation(np.argwhere(wide))[:N_POINTS]
    values = seen[(slice(None), *places.T)].astype(np.float32)
    return _across(places, affine), torch.from_numpy(values)


def _across(places: NDArray[np.int_], affine: Matrix) -> Tensor:
    """Return the points (V, S, 3) over which voxels are averaged; slices along the last axis."""
    parts = np.zeros((N_PARTS, 3))
    parts[:, 2] = slice_parts(N_PARTS)
    return torch.from_numpy(apply(affine, places[:, None] + parts).astype(np.float32))


def _middle(points: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum().clamp_min(1e-6)
    middle = (points.mean(dim=1) * weights[:, None]).sum(dim=0) / total
    return middle if weights.sum() > 1e-3 else points.mean(dim=(0, 1))


def _joints(
    static: NDArray[np.floating], affine: Matrix
) -> Sequence[tuple[int, int, Tensor, Tensor, Tensor]]:
    """Return, for each joint, its two bones, the second's distance, points of the first, width."""
    found = []
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    for first, second in JOINTS.values():
        a, b = BONES.index(first), BONES.index(second)
        solid = np.asarray(static[a]) >= 0.5, np.asarray(static[b]) >= 0.5
        if not (solid[0].any() and solid[1].any()):
            continue
        outward, inward = (
            ndimage.distance_transform_edt(m, sampling=sizes) for m in (~solid[1], solid[1])
        )
        field = torch.from_numpy((outward - inward).astype(np.float32))
        surface = np.argwhere(solid[0] & ~ndimage.binary_erosion(solid[0]))
        near = (outward - inward)[tuple(surface.T)]
        chosen = near.argsort()[:: max(1, len(near) // (2 * SURFACE_POINTS))][:SURFACE_POINTS]
        n_near = max(1, int(NEAREST * len(chosen)))
        points = torch.from_numpy(apply(affine, surface[chosen]).astype(np.float32))
        width = torch.tensor(float(np.sort(near[chosen])[:n_near].mean()))
        found.append((a, b, field, points, width))
    return found


def _moved(points: Tensor, pose: Tensor, centre: Tensor) -> Tensor:
    """Return points (N, 3) carried by poses (F, 6): (F, N, 3)."""
    return (points - centre) @ rotations(pose[:, :3]).transpose(1, 2) + centre + pose[:, None, 3:]


def _matrix(pose: Tensor, centre: Tensor) -> Matrix:
    matrix = np.eye(4)
    turn = rotations(pose[None, :3].double())[0].numpy()
    middle = centre.double().numpy()
    matrix[:3, :3] = turn
    matrix[:3, 3] = middle + pose[3:].double().numpy() - turn @ middle
    return matrix
