"""One person's brain: the mean brain, bent smoothly and differently on both sides."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn.functional import grid_sample, interpolate

from ankle_lib.brain.template import read_template
from ankle_lib.files import AnkleError
from ankle_lib.geometry import Matrix

Map = NDArray[np.float32]

EXTENT_MM = ((-80.0, 80.0), (-114.0, 84.0))
"""From left to right and from back to front: the template's brain and a margin for the warp."""

WHOLE_MM = (-70.0, 88.0)
"""From bottom to top."""

BENDS = ((70.0, 3.0), (30.0, 1.2))
"""Grain and standard deviation in mm of the random displacements, coarse and fine.

Shapes of brains that were aligned as a whole still differ by some millimetres (our estimate).
"""

VENTRICLE_REACH_MM = 14.0
"""So far from its axis the growth of a ventricle fades (standard deviation of a Gaussian)."""

LATTICE_MM = 4.0

SHARP_MM = 1.5
"""Larger voxels are sampled from a blurred template."""


@dataclass(frozen=True, eq=False)
class Head:
    """One person's brain on a grid of cubic voxels, axes right, anterior, superior.

    Attributes
    ----------
    fractions : (3, X, Y, Z) float32 array
        Of white matter, grey matter and fluid; sum 1 in the brain, 0 outside.
    brain : (X, Y, Z) bool array
    to_ventricles_mm : (X, Y, Z) float32 array
        Distance to the nearest ventricle, 0 inside.
    template_mm : (3, X, Y, Z) float32 array
        Where in MNI152 space each voxel comes from, RAS, mm: arteries' territories are told there.
    affine : (4, 4) array
        Voxel to world, RAS, mm.
    voxel_mm : float
    """

    fractions: Map
    brain: NDArray[np.bool_]
    to_ventricles_mm: Map
    template_mm: Map
    affine: Matrix
    voxel_mm: float


def make_head(
    rng: np.random.Generator,
    voxel_mm: float = 1.25,
    z_mm: tuple[float, float] | None = (-20.0, 60.0),
    ventricles: tuple[float, float] = (1.0, 1.0),
) -> Head:
    """Bend the mean brain into that of another person.

    Parameters
    ----------
    rng : numpy Generator
    voxel_mm : float
        Side of the cubic voxels.
    z_mm : two floats, optional
        Only the slices between these heights in mm; the whole brain if None.
    ventricles : two floats
        How much larger (as a length) the left and the right lateral ventricle are.

    Raises
    ------
    AnkleError
        If a size is not positive, the slab is upside down, or holds no ventricle.
    """
    low, high = z_mm or WHOLE_MM
    if voxel_mm <= 0 or min(ventricles) <= 0 or high <= low:
        raise AnkleError(
            f"voxels of {voxel_mm} mm, ventricles {ventricles} times as large, slices from {low} "
            f"to {high} mm: sizes must be positive, and the first height below the second"
        )
    extent = (*EXTENT_MM, (low, high))
    shape = tuple(max(1, int((b - a) / voxel_mm)) for a, b in extent)
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = [a for a, _ in extent]
    axes = [affine[i, 3] + voxel_mm * np.arange(n, dtype=np.float32) for i, n in enumerate(shape)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    came_from = points + displacement(points, shape, voxel_mm, rng, ventricles)
    maps = sample(came_from, voxel_mm)
    brain = maps[:3].sum(0) > 0.5
    # what the brain's edge shares with the outside counts as fluid: fractions stay fractions
    fractions = np.where(brain, maps[:3], 0)
    fractions[2] += brain * (1 - fractions.sum(0))
    if not (inside := maps[3] > 0.5).any():
        raise AnkleError(f"no ventricle between {low} and {high} mm: take slices about 15 mm")
    distance = ndimage.distance_transform_edt(~inside, sampling=voxel_mm).astype(np.float32)
    return Head(fractions.astype(np.float32), brain, distance, came_from, affine, voxel_mm)


def displacement(
    points: Map,
    shape: tuple[int, ...],
    voxel_mm: float,
    rng: np.random.Generator,
    ventricles: tuple[float, float] = (1.0, 1.0),
) -> Map:
    """Return how far (3, X, Y, Z) in mm each point lies from the place that it comes from."""
    moved = np.zeros_like(points)
    for grain_mm, spread_mm in BENDS:
        for axis in range(3):
            moved[axis] += spread_mm * smooth_noise(shape, voxel_mm, grain_mm, rng)
    for side, growth in zip((-1, 1), ventricles, strict=True):
        if growth != 1:
            moved += _grown(points, side, growth)
    return moved


def _grown(points: Map, side: int, growth: float) -> Map:
    """Return displacements (3, X, Y, Z) that widen one lateral ventricle about its axis."""
    template = read_template()
    index = np.argwhere(template.ventricles)
    own = (index + template.affine[:3, 3])[np.sign(index[:, 0] + template.affine[0, 3]) == side]
    levels = np.unique(own[:, 1])  # from back to front, the axis's other coordinates are means
    middle = np.array([own[own[:, 1] == y].mean(0) for y in levels])
    y = points[1, 0, :, 0]
    axis = np.stack([np.interp(y, levels, middle[:, i]) for i in range(3)]).astype(np.float32)
    away = points - axis[:, None, :, None]
    near = np.exp(-(away**2).sum(0) / (2 * VENTRICLE_REACH_MM**2))
    away[1] = 0  # wider, not longer
    return away * (1 / (1 + (growth - 1) * near) - 1)


def smooth_noise(
    shape: tuple[int, ...], voxel_mm: float, grain_mm: float, rng: np.random.Generator
) -> Map:
    """Return smooth noise (X, Y, Z) of about unit variance, with bumps of about ``grain_mm``."""
    extent_mm = [n * voxel_mm for n in shape]
    knots = rng.standard_normal([int(e / grain_mm) + 4 for e in extent_mm])
    spacing_mm = max(voxel_mm, min(LATTICE_MM, grain_mm / 2))
    fine = [max(2, int(np.ceil(e / spacing_mm)) + 1) for e in extent_mm]
    start = rng.uniform(1, 1.5, 3)  # so that no knot has the same place in every head
    axes = [
        start[i] + np.linspace(0, extent_mm[i] / grain_mm, n, dtype=np.float32)
        for i, n in enumerate(fine)
    ]
    smooth = ndimage.map_coordinates(knots, np.meshgrid(*axes, indexing="ij"), order=3)
    lattice = torch.from_numpy(smooth.astype(np.float32))[None, None]
    full = interpolate(lattice, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]
    return full.numpy() * np.float32(CUBIC_GAIN)


CUBIC_GAIN = 1.29
"""Restores the variance that cubic interpolation between random knots takes."""


def sample(points: Map, voxel_mm: float) -> Map:
    """Return the template's fractions and ventricles (4, X, Y, Z) at points (3, X, Y, Z) in mm.

    For voxels much larger than the template's the maps are blurred first, as a scanner would.
    """
    template = read_template()
    inverse = np.linalg.inv(template.affine)
    index = np.tensordot(inverse[:3, :3], points, 1) + inverse[:3, 3, None, None, None]
    size = np.array(template.ventricles.shape)[:, None, None, None]
    scaled = (2 * index / (size - 1) - 1).astype(np.float32)
    where = torch.from_numpy(np.ascontiguousarray(scaled[::-1].transpose(1, 2, 3, 0)))
    return grid_sample(_maps(voxel_mm), where[None], align_corners=True)[0].numpy()


@functools.lru_cache(maxsize=2)
def _maps(voxel_mm: float) -> torch.Tensor:
    """Return the template's maps (1, 4, X, Y, Z), as sharp as voxels of this size need them."""
    template = read_template()
    maps = np.concatenate([template.fractions, template.ventricles[None]]).astype(np.float32)
    if voxel_mm > SHARP_MM:
        maps = np.stack([ndimage.gaussian_filter(one, 0.4 * voxel_mm) for one in maps])
    return torch.from_numpy(maps)[None]
