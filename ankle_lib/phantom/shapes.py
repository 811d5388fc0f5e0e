"""Bones as smooth unions of ellipsoids: the mean child's calcaneus, talus and distal tibia.

The tables below were fitted by ``benchmarks/fit_bones.py`` to the children's mean bone shapes of
the LaTIM (GitHub ``rousseau/dynMRI``, folder ``deformity_analysis``, licence CeCILL-B); the masks
themselves are not part of this package. ``benchmarks/anatomy.py`` measures how close they come.

Reference frame: a **left** foot, right-handed, in millimetres. x points right, which on a left
foot is medial; y points anterior; z points superior. The axes are those of the template's array,
not of its world affine. The origin is the top of the talar dome: the highest level of the
template's talus, above the centre of its uppermost 2 mm. The bones keep the template's relative
pose, with the foot plantarflexed by 20 to 25 degrees against the shank.

The template's tibia ends at z = 36 mm, some 32 mm above its plafond. The shaft above it is an
**extrapolation**: the last whole cross-section, carried on along z and tapering to a diaphysis
21.5 mm thick, up to z = 140 mm; higher up it thins out and ends near z = 210 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

BLEND_MM = 1.0
"""Softness of the union: where two equal distances meet, the surface moves out by 0.69 of this."""

CHUNK_POINTS = 1 << 16
"""Points that a processor evaluates at a time: few enough to stay in its cache."""

TINY = 1e-12


@dataclass(frozen=True)
class Ellipsoid:
    """One ellipsoid in the reference frame."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    """Semi-axes, along the ellipsoid's own x, y and z."""
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotation vector (axis times angle) that turns the ellipsoid's own axes into the frame's."""


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
    parameters = [_tensors(ellipsoid, points) for ellipsoid in ellipsoids]
    flat = points.reshape(-1, 3)
    distance = flat.new_empty(len(flat))
    size = CHUNK_POINTS if points.device.type == "cpu" else len(flat)
    for start in range(0, len(flat), max(size, 1)):
        chunk = flat[start : start + size].T.contiguous()
        exponent = chunk.new_full(chunk.shape[1:], -torch.inf)
        for centre, radii, rotation in parameters:
            one = ellipsoid_distance(chunk, centre, radii, rotation)
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


def _tensors(
    ellipsoid: Ellipsoid, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return centre, radii and rotation matrix with the type and device of ``like``."""
    rotation = rotation_matrix(torch.tensor(ellipsoid.rotation_deg, dtype=torch.float64))
    return (
        like.new_tensor(ellipsoid.centre_mm),
        like.new_tensor(ellipsoid.radii_mm),
        rotation.to(like),
    )


# centre_mm, radii_mm, rotation_deg of each ellipsoid.
CALCANEUS: tuple[Ellipsoid, ...] = (
    Ellipsoid((-2.1, -11.8, -37.9), (15.8, 12.2, 7.1), (-21, -32, 31)),
    Ellipsoid((-6.3, -9.2, -43.0), (7.8, 10.0, 13.7), (71, -91, 95)),
    Ellipsoid((-7.1, -42.5, -32.6), (7.1, 14.6, 10.7), (-18, 58, -2)),
    Ellipsoid((-4.1, -17.8, -23.4), (6.3, 14.2, 13.3), (64, 34, 70)),
    Ellipsoid((0.4, -35.6, -27.3), (15.8, 8.1, 21.8), (47, 84, -49)),
    Ellipsoid((10.3, -5.8, -30.8), (4.8, 7.0, 10.2), (-2, 40, -52)),
    Ellipsoid((-5.3, -39.9, -22.5), (7.8, 16.8, 12.9), (-25, -176, 10)),
    Ellipsoid((0.8, -47.7, -22.4), (8.8, 12.8, 17.7), (-9, -26, -72)),
    Ellipsoid((-6.6, -29.1, -36.9), (7.5, 10.6, 28.9), (-83, 96, 67)),
    Ellipsoid((0.0, -45.3, -32.1), (9.3, 13.9, 14.1), (-97, -64, -14)),
    Ellipsoid((-3.3, -21.2, -20.1), (8.6, 12.9, 11.4), (44, -42, 94)),
    Ellipsoid((-13.3, -4.0, -44.9), (5.3, 7.2, 9.6), (-46, 10, 58)),
    Ellipsoid((-1.1, -16.8, -25.8), (7.6, 14.3, 9.6), (-91, -142, -22)),
    Ellipsoid((-8.9, -16.7, -38.8), (7.0, 11.2, 19.5), (-112, -53, -7)),
    Ellipsoid((-7.8, -0.4, -39.4), (4.2, 11.1, 11.7), (1, -85, 14)),
    Ellipsoid((-11.4, -31.0, -27.0), (5.1, 13.6, 18.1), (-120, -5, 18)),
    Ellipsoid((1.0, -28.7, -28.4), (6.7, 19.0, 14.0), (26, 23, 173)),
    Ellipsoid((-0.4, -48.7, -29.2), (10.4, 12.9, 15.2), (47, -29, -69)),
)
"""The calcaneus: tuberosity behind, sustentaculum tali medially, anterior process in front."""

TALUS: tuple[Ellipsoid, ...] = (
    Ellipsoid((10.6, 6.3, -16.1), (6.2, 13.4, 8.7), (23, -38, -150)),
    Ellipsoid((-6.0, 3.3, -16.0), (6.7, 7.5, 15.2), (-57, -122, 70)),
    Ellipsoid((-6.1, -4.2, -11.7), (6.6, 4.3, 11.5), (-38, 45, -117)),
    Ellipsoid((-0.3, -0.2, -14.9), (6.6, 17.4, 7.8), (-4, -29, 64)),
    Ellipsoid((9.2, 14.9, -33.3), (7.7, 9.6, 11.9), (22, 68, -6)),
    Ellipsoid((9.7, 7.3, -29.9), (3.6, 10.2, 7.8), (84, -16, -85)),
    Ellipsoid((5.2, 14.9, -27.0), (7.0, 11.2, 13.7), (28, 65, -82)),
    Ellipsoid((7.3, -4.7, -10.8), (8.9, 3.3, 12.9), (-16, -82, 107)),
    Ellipsoid((2.3, 14.9, -32.4), (7.4, 4.7, 10.3), (-57, -68, -24)),
    Ellipsoid((11.6, 11.5, -22.1), (7.3, 17.6, 9.4), (-83, -8, 1)),
    Ellipsoid((5.7, 6.0, -12.2), (8.3, 11.5, 13.5), (-140, 50, 58)),
    Ellipsoid((-7.1, -4.8, -18.7), (8.1, 2.6, 10.8), (17, -102, 2)),
    Ellipsoid((11.9, -4.3, -9.4), (5.0, 6.1, 9.7), (125, -14, 6)),
    Ellipsoid((-5.6, 2.5, -11.2), (7.2, 11.0, 14.0), (-106, -33, 14)),
    Ellipsoid((2.5, -1.6, -7.9), (7.4, 13.1, 11.6), (77, 68, -89)),
    Ellipsoid((-0.9, 8.3, -14.9), (11.1, 7.8, 13.9), (6, -92, -22)),
)
"""The talus: body with the dome, neck, head."""

TIBIA: tuple[Ellipsoid, ...] = (
    Ellipsoid((18.0, 7.9, 8.8), (8.4, 6.1, 14.4), (-39, -10, 123)),
    Ellipsoid((1.8, -9.7, 11.6), (8.7, 8.2, 13.9), (-17, -57, -159)),
    Ellipsoid((4.5, 6.5, 16.8), (6.4, 13.5, 18.3), (-135, 113, 33)),
    Ellipsoid((0.1, -2.6, 23.1), (6.3, 20.9, 9.7), (-55, -24, 60)),
    Ellipsoid((11.0, -0.6, 57.6), (6.8, 50.1, 9.0), (86, -1, 1)),
    Ellipsoid((15.4, 0.4, 21.3), (6.7, 10.1, 27.9), (-5, -20, 3)),
    Ellipsoid((4.1, -3.4, 46.6), (9.1, 38.3, 6.7), (84, -30, -35)),
    Ellipsoid((8.1, 5.1, 23.4), (23.9, 7.3, 10.7), (-97, 2, -128)),
    Ellipsoid((8.6, -8.6, 14.9), (8.2, 14.0, 18.2), (-24, -13, -70)),
    Ellipsoid((23.0, 1.2, -0.6), (4.4, 5.7, 10.6), (55, 0, 10)),
    Ellipsoid((18.0, -6.9, 4.5), (7.8, 4.1, 15.7), (70, 16, -102)),
    Ellipsoid((-5.5, 5.6, 11.3), (9.8, 6.2, 11.7), (38, -45, 11)),
    Ellipsoid((7.2, -3.8, 26.4), (9.6, 25.3, 11.8), (57, 80, 59)),
    Ellipsoid((5.6, -1.0, 7.6), (5.6, 15.7, 16.4), (-45, -71, -51)),
    Ellipsoid((8.6, 3.3, 43.8), (6.1, 8.2, 35.0), (1, -3, -68)),
    Ellipsoid((7.0, -1.9, 79.0), (9.1, 70.1, 10.6), (65, -74, -76)),
    Ellipsoid((16.5, 1.5, 12.6), (11.3, 8.3, 13.8), (1, -45, -89)),
    Ellipsoid((5.3, 5.2, 11.7), (9.4, 11.8, 15.2), (98, -16, -84)),
    Ellipsoid((6.7, 1.3, 104.9), (7.3, 10.9, 92.2), (-1, 0, -65)),
    Ellipsoid((7.2, -1.9, 138.2), (9.1, 10.9, 71.6), (0, 1, 89)),
)
"""The distal tibia with plafond and medial malleolus; the last two rows are mostly shaft."""
