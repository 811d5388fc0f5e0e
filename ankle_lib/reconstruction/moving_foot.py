"""The static scan moved with its bones: rigid inside them, one smooth flow between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import RigidTransform
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, block_affine, invert
from ankle_lib.motion_fields import FLOW_STEPS, flow_back
from ankle_lib.parallel import enough_memory
from ankle_lib.registration.truth import bone_points
from ankle_lib.volume import Volume

Poses = Mapping[str, ArrayLike]
"""Bone to its pose (4, 4) in one frame: static world to frame world, RAS mm."""

BASE = "tibia"
"""The bone that the others are seen from: their motion is then that of the joints."""

DISTANCE_MM = 1.0
"""Spacing, about, at which distances from the bones are stored."""
LATTICE_MM = 2.0
"""Spacing at which the flow is integrated far from the bones; between, it is interpolated."""
SHELL_MM = (-1.0, 2.0)
"""So close to a bone's surface, the flow is integrated for every voxel."""
JACOBIAN_MM = 10.0
"""So far around the bones the flow's Jacobian is taken, on the lattice,"""
STEP_MM = 0.02
"""by differences over this length."""
SLAB_VOXELS = 4_000_000
"""Voxels that are moved at a time, which bounds the memory."""
HALF_WAY = np.array([1, 23, 23, 1]) / 48
"""A cubic spline half-way between two of its knots, from the coefficients around."""


@dataclass(frozen=True)
class MovingFoot:
    """A static scan and its bones, ready to be moved many times.

    Attributes
    ----------
    image : Tensor (1, I, J, K)
        The scan on a grid twice as fine, so that linear interpolation blurs little.
    image_affine : (4, 4) array
    distances : mapping of bone to Tensor (1, I, J, K)
        Signed distance from each bone in mm, negative inside.
    distance_affine : (4, 4) array
    points : mapping of bone to (P, 3) array
        World positions spread over each bone.
    """

    image: Tensor
    image_affine: NDArray[np.float64]
    distances: Mapping[str, Tensor]
    distance_affine: NDArray[np.float64]
    points: Mapping[str, NDArray[np.float64]]

    @classmethod
    def prepare(
        cls,
        static: Volume,
        masks: Mapping[str, NDArray[np.bool_]],
        device: str | torch.device = "cpu",
    ) -> Self:
        """Compute the distances, and the scan between its voxels by cubic splines.

        Parameters
        ----------
        static : Volume
            3D.
        masks : mapping of bone to (I, J, K) bool array
            On the grid of ``static``.

        Raises
        ------
        AnkleError
            If a mask is empty.
        """
        sizes = np.array(static.voxel_size_mm)
        blocks = np.maximum(np.rint(DISTANCE_MM / sizes), 1).astype(int)
        distances = {
            bone: torch.from_numpy(_signed_distance(mask, blocks, sizes))[None].to(device)
            for bone, mask in masks.items()
        }
        return cls(
            _doubled(static.data, device)[None],
            static.affine @ np.diag([0.5, 0.5, 0.5, 1.0]),
            distances,
            block_affine(static.affine, blocks),
            {bone: bone_points(mask, static.affine) for bone, mask in masks.items()},
        )

    def distance(self, bone: str, points: Tensor) -> Tensor:
        """Signed distance (...) in mm from a bone at points (..., 3) of the static world."""
        return _values(self.distances[bone], self.distance_affine, points, "border")[0]

    def sample(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Intensity (...) at points (..., 3) of the static world, and which lie in the scan.

        Outside it is 0.
        """
        where = _normalised(points, self.image_affine, self.image.shape[1:])
        found = _values(self.image, self.image_affine, points, "zeros")[0]
        return found, (where.abs() <= 1).all(dim=-1)

    def to_static(self, points: Tensor, poses: Poses, steps: int = FLOW_STEPS) -> Tensor:
        """Carry points (..., 3) of a frame's world back to the static world by the flow.

        Bones without a pose, and all else, follow the others.

        Parameters
        ----------
        points : Tensor (..., 3)
            RAS mm.
        poses : mapping of bone to (4, 4) array
            Static world to frame world, RAS mm.
        """
        names = [bone for bone in self.distances if bone in poses]
        base = np.asarray(poses[BASE if BASE in names else names[0]], dtype=np.float64)
        # The motion that all share is taken off first: what is left are turns of the joints.
        relative = [invert(base) @ np.asarray(poses[bone]) for bone in names]
        coordinates = np.stack([RigidTransform.from_matrix(m).as_exp_coords() for m in relative])
        return flow_back(
            _carried(points, invert(base)),
            coordinates,
            lambda index, where: self.distance(names[index], where),
            steps,
        )


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


@enough_memory()
def moved_static(
    foot: MovingFoot, poses: Poses, shape: tuple[int, int, int], affine: ArrayLike
) -> MovedScan:
    """Move a static scan, soft tissue and all, into the position of a frame.

    Inside a bone every voxel is moved by the bone's pose; around it by the polyrigid flow.

    Parameters
    ----------
    foot : MovingFoot
    poses : mapping of bone to (4, 4) array
        Static world to frame world, RAS mm, rigid; of one bone with a mask at least.
    shape, affine
        Grid of the result, in the frame's world.

    Raises
    ------
    AnkleError
        If a GPU's memory does not hold it.

    Examples
    --------
    >>> foot = MovingFoot.prepare(static, {"talus": talus, "tibia": tibia})
    >>> moved_static(foot, {"talus": pose, "tibia": np.eye(4)}, static.shape, static.affine)
    """
    grid = np.asarray(affine, dtype=np.float64)
    device = foot.image.device
    sizes = np.linalg.norm(grid[:3, :3], axis=0)
    lengths = np.array(shape) - 1
    counts = np.maximum(2, np.ceil(lengths * sizes / LATTICE_MM).astype(int) + 1)
    lattice_affine = grid @ np.diag([*(lengths / (counts - 1)), 1.0])
    lattice, smallest = _lattice(foot, poses, _grid_points(lattice_affine, counts, device))
    volume = np.empty(shape, dtype=np.float32)
    covered = np.empty(shape, dtype=bool)
    distances = {bone: np.empty(shape, dtype=np.float32) for bone in foot.distances}
    thickness = max(2, SLAB_VOXELS // (shape[0] * shape[1]))
    for first in range(0, shape[2], thickness):
        slab = np.s_[:, :, first : first + thickness]
        points = _grid_points(grid, volume[slab].shape, device, first)
        home = _home(foot, poses, points, _values(lattice, lattice_affine, points, "border"))
        values, inside = foot.sample(home)
        volume[slab], covered[slab] = values.cpu().numpy(), inside.cpu().numpy()
        for bone, distance in distances.items():
            distance[slab] = foot.distance(bone, home).cpu().numpy()
    return MovedScan(Volume(volume, grid), covered, distances, smallest, _rigidity(foot, poses))


def _lattice(foot: MovingFoot, poses: Poses, points: Tensor) -> tuple[Tensor, float]:
    """Return, at points (A, B, C, 3), where the flow comes from and the distance from the bones.

    Channels (4, A, B, C), and the smallest Jacobian of the flow around the bones.
    """
    away = torch.full(points.shape[:-1], torch.inf, device=points.device)
    for bone, pose in poses.items():
        away = torch.minimum(away, foot.distance(bone, _carried(points, invert(pose))))
    home = foot.to_static(points, poses)
    around = points[(away > 0) & (away < JACOBIAN_MM)].double()
    smallest = float("inf")
    if len(around):
        ends = STEP_MM * torch.cat([torch.zeros(1, 3), torch.eye(3)]).to(around)
        there = foot.to_static(around[:, None] + ends, poses)
        smallest = float(torch.linalg.det((there[:, 1:] - there[:, :1]) / STEP_MM).min())
    return torch.cat([home, away[..., None]], dim=-1).movedim(-1, 0).contiguous(), smallest


def _home(foot: MovingFoot, poses: Poses, points: Tensor, lattice: Tensor) -> Tensor:
    """Where in the static world points (X, Y, Z, 3) come from, given the lattice's values there."""
    home, away = lattice[:3].movedim(0, -1).contiguous(), lattice[3]
    # no point of a bone is farther from it on the lattice: cells of 2 mm are wrong by less
    near = away < SHELL_MM[1]
    shell = near & (away > SHELL_MM[0])
    home[shell] = foot.to_static(points[shell], poses)
    for bone, pose in poses.items():
        rigid = _carried(points[near], invert(pose))
        inside = foot.distance(bone, rigid) <= 0
        home[near] = torch.where(inside[:, None], rigid, home[near])
    return home


def _rigidity(foot: MovingFoot, poses: Poses) -> float:
    worst = 0.0
    for bone, pose in poses.items():
        there = torch.from_numpy(apply(pose, foot.points[bone])).float().to(foot.image.device)
        home = foot.to_static(there, poses).double().cpu().numpy()
        worst = max(worst, float(np.linalg.norm(home - foot.points[bone], axis=1).max()))
    return worst


def _values(image: Tensor, affine: NDArray[np.float64], points: Tensor, beyond: str) -> Tensor:
    """Interpolate an image (C, I, J, K) at world points (..., 3): values (C, ...)."""
    where = _normalised(points, affine, image.shape[1:])
    found = functional.grid_sample(
        image[None].to(where.dtype),
        where.reshape(1, -1, 1, 1, 3),
        padding_mode=beyond,
        align_corners=True,
    )
    return found.reshape(len(image), *points.shape[:-1])


def _normalised(points: Tensor, affine: NDArray[np.float64], shape: Sequence[int]) -> Tensor:
    """``grid_sample`` coordinates (..., 3) of world points on a grid: last axis first, -1 to 1."""
    scale = 2 / (np.array(shape) - 1)
    matrix = scale[:, None] * np.linalg.inv(affine)[:3]
    matrix[:, 3] -= 1
    return _carried(points, matrix[::-1].copy())


def _carried(points: Tensor, matrix: NDArray[np.float64]) -> Tensor:
    """Points (..., 3) carried by a matrix of three or four rows."""
    rows = torch.from_numpy(matrix).to(points)
    return points @ rows[:3, :3].T + rows[:3, 3]


def _grid_points(
    affine: NDArray[np.float64], shape: Sequence[int], device: torch.device, first: int = 0
) -> Tensor:
    """World points (X, Y, Z, 3) of a grid, from slice ``first`` of its third axis on."""
    matrix = torch.from_numpy(affine).to(device)
    i, j, k = (torch.arange(int(n), device=device, dtype=torch.float64) for n in shape)
    x = (i[:, None] * matrix[:3, 0]).float()[:, None, None]
    y = (j[:, None] * matrix[:3, 1]).float()[None, :, None]
    z = ((k + first)[:, None] * matrix[:3, 2] + matrix[:3, 3]).float()[None, None]
    return x + y + z


def _signed_distance(
    mask: NDArray[np.bool_], blocks: NDArray[np.int_], sizes_mm: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Distance in mm of blocks of voxels from those that are at least half bone."""
    padded = np.pad(mask > 0, [(0, int(-n % b)) for n, b in zip(mask.shape, blocks, strict=True)])
    i, j, k = (n // b for n, b in zip(padded.shape, blocks, strict=True))
    share = padded.reshape(i, blocks[0], j, blocks[1], k, blocks[2]).mean(axis=(1, 3, 5))
    inside = share >= 0.5
    if not inside.any():
        raise AnkleError("a bone's mask is empty, or thinner than a millimetre: look at the masks")
    outward, inward = (
        ndimage.distance_transform_edt(one, sampling=blocks * sizes_mm) for one in (~inside, inside)
    )
    return (outward - inward).astype(np.float32)


def _doubled(image: NDArray, device: str | torch.device = "cpu") -> Tensor:
    """Values at the voxels and half-way between, along every axis, by cubic splines.

    On a GPU by products with matrices, since a spline is linear in the values: many times the
    arithmetic, and still seconds less.
    """
    if torch.device(device).type == "cpu":
        fine = image.astype(np.float32)
        for axis in range(image.ndim):
            fine = _doubled_along(fine, axis)
        return torch.from_numpy(fine)
    values = torch.from_numpy(image.astype(np.float32)).to(device)
    for axis, n in enumerate(image.shape):
        matrix = torch.from_numpy(_doubled_along(np.eye(n, dtype=np.float32), 0)).to(device)
        values = torch.tensordot(matrix, values, dims=([1], [axis])).movedim(0, axis)
    return values.contiguous()


def _doubled_along(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    n, before, after = values.shape[axis], values.shape[:axis], values.shape[axis + 1 :]
    spline = ndimage.spline_filter1d(values, 3, axis, output=np.float32, mode="mirror")
    between = ndimage.correlate1d(spline, HALF_WAY, axis, mode="mirror", origin=-1)
    both = np.stack([values, between], axis=axis + 1).reshape(*before, 2 * n, *after)
    return both.take(range(2 * n - 1), axis)
