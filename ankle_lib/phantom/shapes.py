"""Shapes of the mean child: every bone, skin, muscles, tendons and vessels.

Bones are smooth unions of ellipsoids. The tables of calcaneus, talus and distal tibia were fitted
by ``benchmarks/fit_bones.py`` to the children's mean bone shapes of the LaTIM (GitHub
``rousseau/dynMRI``, folder ``deformity_analysis``, licence CeCILL-B); the masks themselves are not
part of this package. ``benchmarks/anatomy.py`` measures how close they come.

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

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

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

    def thicker(self, factor: float) -> Ellipsoid:
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


def _metatarsal(base: Millimetres, head: Millimetres, width_mm: float) -> tuple[Ellipsoid, ...]:
    x, y, z = (a + 1 / 3 * (b - a) for a, b in zip(base, head, strict=True))
    return (
        foot_ellipsoid(base, (0.95 * width_mm, 1.3 * width_mm, 1.2 * width_mm)),
        rod(foot_point(*base), foot_point(*head), 0.75 * width_mm),
        rod(foot_point(x, y, z), foot_point(*head), 0.7 * width_mm),
        foot_ellipsoid(head, (width_mm, 1.15 * width_mm, 1.1 * width_mm)),
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

SKELETON: dict[str, tuple[Ellipsoid, ...]] = {
    "talus": TALUS,
    "tibia": TIBIA,
    "calcaneus": CALCANEUS,
    "fibula": (
        Ellipsoid((-25.5, -5.0, -12.0), (5.5, 8.0, 15.0), (0.0, -4.0, 0.0)),
        Ellipsoid((-24.0, -7.0, 4.0), (6.0, 7.5, 15.0), (0.0, 8.0, 0.0)),
        rod((-22.5, -8.5, 5.0), (-17.0, -10.0, 62.0), 5.4),
        rod((-18.5, -10.0, 40.0), (-14.0, -11.0, 135.0), 5.2),
    ),
    "navicular": (
        foot_ellipsoid((7.0, 43.0, -17.0), (15.0, 6.5, 11.0)),
        foot_ellipsoid((17.0, 42.0, -20.0), (6.5, 6.0, 7.5)),
    ),
    "cuboid": (
        foot_ellipsoid((-14.0, 37.0, -32.5), (11.0, 12.0, 10.0)),
        foot_ellipsoid((-12.0, 43.0, -30.0), (9.5, 9.0, 9.5)),
    ),
    "medial_cuneiform": (foot_ellipsoid((17.5, 59.0, -22.0), (7.0, 11.0, 12.5)),),
    "intermediate_cuneiform": (foot_ellipsoid((6.0, 56.5, -14.5), (6.5, 8.0, 9.5)),),
    "lateral_cuneiform": (foot_ellipsoid((-4.5, 58.0, -18.0), (6.3, 10.0, 9.5)),),
    "metatarsal_1": _metatarsal((19.5, 77.0, -25.0), (24.0, 120.0, -43.0), 7.6),
    "metatarsal_2": _metatarsal((8.0, 73.0, -17.0), (13.0, 126.0, -41.0), 5.4),
    "metatarsal_3": _metatarsal((-3.5, 75.0, -21.0), (2.0, 121.0, -42.0), 5.2),
    "metatarsal_4": _metatarsal((-13.5, 62.0, -28.0), (-9.0, 114.0, -44.0), 5.2),
    "metatarsal_5": _metatarsal((-25.0, 58.0, -36.0), (-20.0, 106.0, -47.0), 5.6),
}
"""Every bone, each giving way to the ones before it where two come too close."""

GROUP_OF_BONE = dict.fromkeys(SKELETON, "forefoot") | {
    "talus": "talus",
    "tibia": "tibia",
    "fibula": "tibia",
    "calcaneus": "calcaneus",
}
"""Which group of :data:`ankle_lib.phantom.motion.GROUPS` each bone moves with."""

SKIN = (
    Ellipsoid((1.0, -10.0, 125.0), (29.5, 35.0, 75.0)),
    Ellipsoid((1.0, -11.5, 66.0), (25.0, 31.0, 60.0)),
    Ellipsoid((1.0, -6.0, 22.0), (26.5, 26.5, 43.5)),
    Ellipsoid((0.0, -3.0, -12.0), (31.5, 27.5, 32.5)),
    Ellipsoid((-1.0, -37.0, -31.0), (22.5, 31.0, 26.0)),
    Ellipsoid((-1.0, -42.5, 8.0), (10.5, 14.5, 48.5)),
    foot_ellipsoid((-3.0, 25.0, -39.0), (28.5, 50.5, 24.0)),
    foot_ellipsoid((0.0, 62.0, -32.0), (32.5, 40.5, 20.5)),
    foot_ellipsoid((2.0, 100.0, -41.0), (34.5, 32.5, 13.5)),
    foot_ellipsoid((4.0, 128.0, -46.0), (29.5, 20.5, 8.0)),
)
MUSCLES = (
    # Soleus and gastrocnemius, deep flexors, extensors, peroneals.
    Ellipsoid((2.0, -27.0, 108.0), (26.0, 15.5, 78.0)),
    Ellipsoid((-1.0, -18.5, 66.0), (16.0, 9.5, 70.0)),
    Ellipsoid((6.0, -20.5, 22.0), (10.0, 6.5, 34.0)),
    Ellipsoid((-7.0, 14.0, 86.0), (14.0, 9.5, 72.0)),
    Ellipsoid((-21.0, -19.0, 66.0), (8.0, 9.0, 72.0)),
    # The sole: short flexors, abductors of the great and the little toe; between the metatarsals.
    foot_ellipsoid((1.0, 34.0, -56.0), (15.0, 46.0, 8.5)),
    foot_ellipsoid((4.0, 32.0, -46.0), (12.0, 34.0, 6.0)),
    foot_ellipsoid((22.0, 22.0, -47.0), (7.0, 44.0, 10.0)),
    foot_ellipsoid((-25.0, 18.0, -50.0), (7.0, 48.0, 8.5)),
    foot_ellipsoid((3.0, 94.0, -42.0), (24.0, 26.0, 9.0)),
    # Short extensors on the back of the foot.
    foot_ellipsoid((-14.0, 42.0, -16.0), (10.0, 20.0, 5.5)),
)
TENDONS = (
    Cord(((4.0, -33.0, 125.0), (2.0, -37.0, 62.0), (0.0, -46.0, 18.0), (-2.0, -58.0, -18.0),
          (-2.0, -61.0, -32.0)), 3.2, 2.2),
    Cord(((0.0, 20.0, 120.0), (6.0, 22.0, 40.0), (14.0, 25.0, -2.0), (19.0, 40.0, -30.0),
          (23.0, 45.0, -45.0)), 2.6),
    Cord(((-2.0, 21.0, 110.0), (4.0, 23.0, 30.0), (8.0, 29.0, -8.0), (16.0, 60.0, -42.0),
          (22.0, 92.0, -72.0)), 2.0),
    Cord(((-8.0, 21.0, 110.0), (-4.0, 23.0, 25.0), (-5.0, 31.0, -12.0), (-4.0, 58.0, -44.0),
          (0.0, 92.0, -76.0)), 2.0, 2.0),
    Cord(((-25.0, -16.0, 90.0), (-27.0, -17.0, 10.0), (-27.0, -16.0, -18.0), (-26.0, -6.0, -34.0),
          (-25.0, 12.0, -46.0), (-24.0, 30.0, -58.0)), 2.6),
    Cord(((14.0, -16.0, 70.0), (23.0, -15.0, 8.0), (27.0, -8.0, -12.0), (25.0, 10.0, -27.0),
          (20.0, 30.0, -38.0)), 2.5),
    Cord(((10.0, -20.0, 60.0), (18.0, -20.0, 6.0), (22.0, -10.0, -20.0), (20.0, 10.0, -42.0)), 2.0),
    Cord(((0.0, -20.0, 50.0), (4.0, -21.0, 0.0), (9.0, -17.0, -20.0), (14.0, 2.0, -35.0),
          (15.0, 32.0, -58.0)), 2.4),
    # Deltoid, anterior talofibular, calcaneofibular, spring, interosseous talocalcaneal and long
    # plantar ligament; the plantar fascia.
    Cord(((22.0, 3.0, -8.0), (17.0, -8.0, -19.0)), 1.8, 1.5),
    Cord(((-24.0, 2.0, -18.0), (-15.0, 14.0, -24.0)), 1.4),
    Cord(((-25.0, -7.0, -24.0), (-20.0, -15.0, -36.0)), 1.4),
    Cord(((14.0, 0.0, -28.0), (16.0, 28.0, -40.0)), 2.0),
    Cord(((0.0, 3.0, -27.0), (-3.0, 6.0, -36.0)), 2.2),
    Cord(((-5.0, -22.0, -50.0), (-12.0, 24.0, -56.0)), 1.8, 3.0),
    Cord(tuple(foot_point(*p) for p in ((0.0, -18.0, -63.0), (1.0, 35.0, -66.0),
         (3.0, 108.0, -55.0))), 1.3, 7.0),
)  # fmt: skip
"""Achilles, tibialis anterior, long extensors of the great toe and of the toes, peroneals,
tibialis posterior, long flexor of the toes, long flexor of the great toe; then ligaments and the
plantar fascia, which look the same."""

VESSELS = (
    Cord(((10.0, -24.0, 120.0), (15.0, -23.0, 50.0), (20.0, -22.0, 4.0), (20.0, -12.0, -26.0),
          (13.0, 12.0, -50.0)), 1.8),
    Cord(((-2.0, 8.0, 120.0), (1.0, 20.0, 20.0), (2.0, 31.0, -14.0), (8.0, 60.0, -44.0)), 1.2),
    Cord(((26.0, 2.0, 120.0), (29.0, 8.0, 20.0), (28.0, 18.0, -8.0)), 1.5),
    Cord(((-20.0, -38.0, 120.0), (-20.0, -36.0, 40.0), (-25.0, -22.0, -10.0)), 1.4),
)  # fmt: skip
"""Posterior tibial, anterior tibial, great saphenous and small saphenous."""
