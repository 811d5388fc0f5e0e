"""One smooth motion of everything from the rigid motions of a few bones.

Each bone i moves along its own one-parameter subgroup, T_i(s) = exp(s·L_i), s from 0 to 1. What
lies between moves with a mean of the bones' velocities, weighted by one over the squared distance
to each. The weights travel with the bones: bones stay rigid, and nothing folds, as it does where
the mean is taken point by point in the log domain (Arsigny et al., J. Math. Imaging Vis. 2009,
doi:10.1007/s10851-008-0135-9).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform
from torch import Tensor
from torch.nn import functional

Distances = Callable[[int, Tensor], Tensor]
"""Maps the number of a bone and points (..., 3) mm where the bones are at s = 0 to the distance
(...) in mm from that bone."""

WEIGHT_FLOOR_MM = 0.05
"""Distance at which a bone's weight saturates: inside, every other bone's vote is negligible."""

FLOW_STEPS = 4


def flow_back(
    points: Tensor,
    coordinates: NDArray[np.float64],
    distances: Distances,
    steps: int = FLOW_STEPS,
) -> Tensor:
    """Carry points at s = 1 back to s = 0 by the polyrigid flow.

    A point's velocity at time s is the mean of the bones' velocities, weighted by one over the
    squared distance to each bone *where that bone is at time s*: the weights travel with the
    bones, so that bones stay rigid and the map between them does not fold. The idea of fusing
    rigid motions in the log domain is Arsigny's, its use for ankles that of Makki et al.
    (J. Biomech. 2019, doi:10.1016/j.jbiomech.2019.02.007). Integrated backwards by the midpoint
    rule.

    Parameters
    ----------
    points : Tensor (..., 3)
        Millimetres.
    coordinates : (N, 6) array
        Exponential coordinates of each bone's motion from s = 0 to 1, see
        `scipy.spatial.transform.RigidTransform.as_exp_coords`.
    distances : function of a bone's number and points
        See `Distances`.
    steps : int
        Of the integration.

    Returns
    -------
    Tensor (..., 3)
        Millimetres.
    """
    twists = torch.stack([_twist(c) for c in coordinates]).to(points)
    step = 1 / steps
    for n in reversed(range(steps)):
        end, middle = (n + 1) * step, (n + 0.5) * step
        half = points - 0.5 * step * _velocity(points, end, coordinates, twists, distances)
        points = points - step * _velocity(half, middle, coordinates, twists, distances)
    return points


def finer(places: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate a lattice of places (A, B, C, 3) to a grid over the same box, (X, Y, Z, 3)."""
    full = functional.interpolate(
        places.permute(3, 0, 1, 2)[None], size=tuple(shape), mode="trilinear", align_corners=True
    )
    return full[0].permute(1, 2, 3, 0)


def jacobian_determinant(mapped: Tensor, spacing_mm: float) -> Tensor:
    """Determinant (X-1, Y-1, Z-1) of the Jacobian of a map given on a regular grid.

    Parameters
    ----------
    mapped : Tensor (X, Y, Z, 3)
        Where each grid point goes, in mm.
    spacing_mm : float
        Spacing of the grid.
    """
    corner = mapped[:-1, :-1, :-1]
    columns = (mapped[1:, :-1, :-1], mapped[:-1, 1:, :-1], mapped[:-1, :-1, 1:])
    return torch.linalg.det(torch.stack([(c - corner) / spacing_mm for c in columns], dim=-1))


def _twist(coordinates: NDArray[np.float64]) -> Tensor:
    """Matrix (3, 4) of the velocity field whose flow is exp(coordinates)."""
    (x, y, z), translation = coordinates[:3], coordinates[3:]
    matrix = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return torch.from_numpy(np.column_stack([matrix, translation]))


def _velocity(
    points: Tensor,
    time: float,
    coordinates: NDArray[np.float64],
    twists: Tensor,
    distances: Distances,
) -> Tensor:
    back = RigidTransform.from_exp_coords(-time * coordinates).as_matrix()
    matrices = torch.from_numpy(back).to(points)
    total = torch.zeros_like(points)
    weight_sum = torch.zeros_like(points[..., :1])
    for i, (matrix, twist) in enumerate(zip(matrices, twists, strict=True)):
        home = points @ matrix[:3, :3].T + matrix[:3, 3]
        weight = distances(i, home).clamp(min=WEIGHT_FLOOR_MM)[..., None] ** -2
        total += weight * (points @ twist[:, :3].T + twist[:, 3])
        weight_sum += weight
    return total / weight_sum
