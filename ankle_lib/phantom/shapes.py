"""Shapes of the mean child: every bone, skin, muscles, tendons and vessels.

Their numbers stand in ``shapes.yaml`` beside this module. Bones are smooth unions of ellipsoids;
those of calcaneus, talus and distal tibia were fitted by ``benchmarks/fit_bones.py`` to the
children's mean bone shapes of the LaTIM (GitHub ``rousseau/dynMRI``, folder
``deformity_analysis``, licence CeCILL-B); the masks themselves are not part of this package.
``benchmarks/anatomy.py`` measures how close they come.

Reference frame: a **left** foot, right-handed, in millimetres. x points right, which on a left
foot is medial; y points anterior; z points superior. The axes are those of the template's array,
not of its world affine. The origin is the top of the talar dome: the highest level of the
template's talus, above the centre of its uppermost 2 mm. The bones keep the template's relative
pose, with the foot plantarflexed by 20 to 25 degrees against the shank.

The template's tibia ends at z = 36 mm, some 32 mm above its plafond. The shaft above it is an
**extrapolation**: the last whole cross-section, carried on along z and tapering to a diaphysis
21.5 mm thick, up to z = 140 mm; higher up it thins out and ends near z = 210 mm.

What no public template gives is drawn by hand around these three, from textbook proportions for a
child of ten and a half years, in *foot coordinates*: x medial, a along the sole towards the toes,
d dorsal, in mm from the talar dome. The sole lies ``REFERENCE_DORSIFLEXION_DEG`` below the
horizontal in the reference frame.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import torch
import yaml

REFERENCE_DORSIFLEXION_DEG = -25.0
"""Dorsiflexion of the reference pose: the mean shapes lie in plantarflexion."""

BLEND_MM = 1.0
"""Softness of the union: where two equal distances meet, the surface moves out by 0.69 of this."""

CHUNK_POINTS = 1 << 16
"""Points that a processor evaluates at a time: few enough to stay in its cache."""

TINY = 1e-12

Millimetres = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """One ellipsoid in the reference frame."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    """Semi-axes, along the ellipsoid's own x, y and z."""
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotation vector (axis times angle) that turns the ellipsoid's own axes into the frame's."""

    def thicker(self, factor: float) -> "Ellipsoid":
        """Return the ellipsoid with other radii."""
        x, y, z = self.radii_mm
        return replace(self, radii_mm=(x * factor, y * factor, z * factor))


@dataclass(frozen=True)
class Cord:
    """A tube along a line of points in mm; ``flatness`` > 1 makes it a band, wide along x."""

    points: tuple[Millimetres, ...]
    radius_mm: float
    flatness: float = 1.0


def smooth_union(
    points: torch.Tensor, ellipsoids: Sequence[Ellipsoid], blend_mm: float = BLEND_MM
) -> torch.Tensor:
    """Return the approximate signed distance to a smooth union of ellipsoids.

    Near the surface the gradient's length is close to 1. Far from it the value keeps the right
    sign and order, no more: beyond some 10 mm, do not read it as a distance.

    Parameters
    ----------
    points
        ``(..., 3)`` floating-point tensor, mm, reference frame, on any device.
    ellipsoids
        At least one ellipsoid.
    blend_mm
        Softness of the union in mm: ``-blend * log(sum(exp(-distance / blend)))``.

    Returns
    -------
    torch.Tensor
        ``(...)`` signed distances in mm, negative inside, of the type and device of ``points``.
    """
    parameters = [
        [
            points.new_tensor(ellipsoid.centre_mm),
            points.new_tensor(ellipsoid.radii_mm),
            rotation_matrix(torch.tensor(ellipsoid.rotation_deg, dtype=torch.float64)).to(points),
        ]
        for ellipsoid in ellipsoids
    ]
    flat = points.reshape(-1, 3)
    distance = flat.new_empty(len(flat))
    size = CHUNK_POINTS if points.device.type == "cpu" else len(flat)
    for start in range(0, len(flat), max(size, 1)):
        chunk = flat[start : start + size].T.contiguous()
        exponent = chunk.new_full(chunk.shape[1:], -torch.inf)
        for ellipsoid in parameters:
            one = ellipsoid_distance(chunk, *ellipsoid)
            exponent = torch.logaddexp(exponent, one / -blend_mm)
        distance[start : start + size] = exponent * -blend_mm
    return distance.reshape(points.shape[:-1])


def ellipsoid_distance(
    points: torch.Tensor, centre: torch.Tensor, radii: torch.Tensor, rotation: torch.Tensor
) -> torch.Tensor:
    """Return the first-order signed distance to one ellipsoid.

    With ``p`` in the ellipsoid's own axes and ``r`` its radii this is
    ``|p/r| (|p/r| - 1) / |p/r²|``: the implicit function over the length of its gradient, exact
    at the surface to first order (I. Quilez, "Distance estimation"). At the very centre, where
    that is undefined, the value is minus the smallest radius.

    Parameters
    ----------
    points
        ``(3, N)``, mm: coordinates first, which is four times as fast on a processor.
    centre, radii
        ``(3,)``, mm.
    rotation
        ``(3, 3)`` matrix whose columns are the ellipsoid's axes.

    Returns
    -------
    torch.Tensor
        ``(N,)`` mm, negative inside.
    """
    squared = torch.mm((rotation / radii).T, points - centre[:, None]).square()
    # Sums of squares of p/r and of p/r²; the small terms keep 0/0 away from the centre.
    sums = torch.mm(torch.stack([torch.ones_like(radii), radii**-2]), squared)
    level = (sums[0] + TINY).sqrt()
    return level * (level - 1.0) * (sums[1] + TINY / radii.min() ** 2).rsqrt()


def rotation_matrix(rotation_deg: torch.Tensor) -> torch.Tensor:
    """Return the ``(3, 3)`` matrix of a ``(3,)`` rotation vector in degrees (differentiable)."""
    x, y, z = torch.deg2rad(rotation_deg)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return torch.linalg.matrix_exp(skew)


def foot_point(x: float, a: float, d: float) -> Millimetres:
    """Foot coordinates in mm → reference frame (x medial, y anterior, z superior) in mm."""
    pitch = math.radians(REFERENCE_DORSIFLEXION_DEG)
    cos, sin = math.cos(pitch), math.sin(pitch)
    return (x, a * cos - d * sin, a * sin + d * cos)


def foot_ellipsoid(centre: Millimetres, radii: Millimetres) -> Ellipsoid:
    """An ellipsoid with its axes along x, a and d."""
    return Ellipsoid(foot_point(*centre), radii, (REFERENCE_DORSIFLEXION_DEG, 0.0, 0.0))


def rod(start: Millimetres, end: Millimetres, radius_mm: float) -> Ellipsoid:
    """A long ellipsoid in the reference frame from ``start`` to ``end``."""
    axis = [b - a for a, b in zip(start, end, strict=True)]
    length = math.hypot(*axis)
    x, y, z = (a + 0.5 * (b - a) for a, b in zip(start, end, strict=True))
    # Rotation vector that turns z onto the axis: about z × axis.
    angle = math.degrees(math.acos(axis[2] / length))
    norm = math.hypot(axis[0], axis[1]) or 1.0
    rotation = (-axis[1] / norm * angle, axis[0] / norm * angle, 0.0)
    return Ellipsoid((x, y, z), (radius_mm, radius_mm, 0.55 * length), rotation)


def metatarsal(base: Millimetres, head: Millimetres, width_mm: float) -> tuple[Ellipsoid, ...]:
    """Return two ends and a shaft that is thickest at the base, given foot coordinates."""
    x, y, z = (a + 1 / 3 * (b - a) for a, b in zip(base, head, strict=True))
    return (
        foot_ellipsoid(base, (0.95 * width_mm, 1.3 * width_mm, 1.2 * width_mm)),
        rod(foot_point(*base), foot_point(*head), 0.75 * width_mm),
        rod(foot_point(x, y, z), foot_point(*head), 0.7 * width_mm),
        foot_ellipsoid(head, (width_mm, 1.15 * width_mm, 1.1 * width_mm)),
    )


def _foot_cord(points: Sequence[Millimetres], *shape: float) -> Cord:
    return Cord(tuple(foot_point(*point) for point in points), *shape)


def _shapes(rows: list[list[Any]]) -> tuple[Any, ...]:
    """Return the ellipsoids or cords of a table: each row names what is made of its numbers."""
    kinds: dict[str, Callable[..., Any]] = {
        "ellipsoid": Ellipsoid,
        "foot_ellipsoid": foot_ellipsoid,
        "rod": rod,
        "cord": Cord,
        "foot_cord": _foot_cord,
    }
    shapes: list[Any] = []
    for kind, *numbers in rows:
        shapes += metatarsal(*numbers) if kind == "metatarsal" else [kinds[kind](*numbers)]
    return tuple(shapes)


_TABLES = yaml.safe_load((resources.files("ankle_lib.phantom") / "shapes.yaml").read_text("utf-8"))

SKELETON: dict[str, tuple[Ellipsoid, ...]] = {
    bone: _shapes(rows) for bone, rows in _TABLES["bones"].items()
}
"""Every bone, each giving way to the ones before it where two come too close."""
SKIN, MUSCLES, TENDONS, VESSELS = (
    _shapes(_TABLES[tissue]) for tissue in ("skin", "muscles", "tendons", "vessels")
)
"""Ellipsoids of skin and muscles; cords of tendons, ligaments among them, and vessels."""

GROUP_OF_BONE = dict.fromkeys(SKELETON, "forefoot") | {
    "talus": "talus",
    "tibia": "tibia",
    "fibula": "tibia",
    "calcaneus": "calcaneus",
}
"""Which group of :data:`ankle_lib.phantom.motion.GROUPS` each bone moves with."""
