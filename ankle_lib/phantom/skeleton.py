"""Shapes of the bones that no public template gives: drawn by hand around the three that one does.

Drawn from textbook proportions in *foot coordinates*: x medial, a along the sole towards the toes,
d dorsal, in mm from the talar dome, for a child of ten and a half years. The sole lies
``REFERENCE_DORSIFLEXION_DEG`` below the horizontal in the reference frame.
"""

from __future__ import annotations

import math

from ankle_lib.phantom.motion import REFERENCE_DORSIFLEXION_DEG
from ankle_lib.phantom.shapes import CALCANEUS, TALUS, TIBIA, Ellipsoid

Millimetres = tuple[float, float, float]


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
    centre = _between(start, end, 0.5)
    # Rotation vector that turns z onto the axis: about z × axis.
    angle = math.degrees(math.acos(axis[2] / length))
    norm = math.hypot(axis[0], axis[1]) or 1.0
    rotation = (-axis[1] / norm * angle, axis[0] / norm * angle, 0.0)
    return Ellipsoid(centre, (radius_mm, radius_mm, 0.55 * length), rotation)


def _between(start: Millimetres, end: Millimetres, share: float) -> Millimetres:
    x, y, z = (a + share * (b - a) for a, b in zip(start, end, strict=True))
    return (x, y, z)


def _metatarsal(base: Millimetres, head: Millimetres, width_mm: float) -> tuple[Ellipsoid, ...]:
    third = _between(base, head, 1 / 3)
    return (
        foot_ellipsoid(base, (0.95 * width_mm, 1.3 * width_mm, 1.2 * width_mm)),
        rod(foot_point(*base), foot_point(*head), 0.75 * width_mm),
        rod(foot_point(*third), foot_point(*head), 0.7 * width_mm),
        foot_ellipsoid(head, (width_mm, 1.15 * width_mm, 1.1 * width_mm)),
    )


FIBULA = (
    Ellipsoid((-25.5, -5.0, -12.0), (5.5, 8.0, 15.0), (0.0, -4.0, 0.0)),
    Ellipsoid((-24.0, -7.0, 4.0), (6.0, 7.5, 15.0), (0.0, 8.0, 0.0)),
    rod((-22.5, -8.5, 5.0), (-17.0, -10.0, 62.0), 5.4),
    rod((-18.5, -10.0, 40.0), (-14.0, -11.0, 135.0), 5.2),
)
NAVICULAR = (
    foot_ellipsoid((7.0, 43.0, -17.0), (15.0, 6.5, 11.0)),
    foot_ellipsoid((17.0, 42.0, -20.0), (6.5, 6.0, 7.5)),
)
CUBOID = (
    foot_ellipsoid((-14.0, 37.0, -32.5), (11.0, 12.0, 10.0)),
    foot_ellipsoid((-12.0, 43.0, -30.0), (9.5, 9.0, 9.5)),
)
MEDIAL_CUNEIFORM = (foot_ellipsoid((17.5, 59.0, -22.0), (7.0, 11.0, 12.5)),)
INTERMEDIATE_CUNEIFORM = (foot_ellipsoid((6.0, 56.5, -14.5), (6.5, 8.0, 9.5)),)
LATERAL_CUNEIFORM = (foot_ellipsoid((-4.5, 58.0, -18.0), (6.3, 10.0, 9.5)),)

SKELETON: dict[str, tuple[Ellipsoid, ...]] = {
    "talus": TALUS,
    "tibia": TIBIA,
    "calcaneus": CALCANEUS,
    "fibula": FIBULA,
    "navicular": NAVICULAR,
    "cuboid": CUBOID,
    "medial_cuneiform": MEDIAL_CUNEIFORM,
    "intermediate_cuneiform": INTERMEDIATE_CUNEIFORM,
    "lateral_cuneiform": LATERAL_CUNEIFORM,
    "metatarsal_1": _metatarsal((19.5, 77.0, -25.0), (24.0, 120.0, -43.0), 7.6),
    "metatarsal_2": _metatarsal((8.0, 73.0, -17.0), (13.0, 126.0, -41.0), 5.4),
    "metatarsal_3": _metatarsal((-3.5, 75.0, -21.0), (2.0, 121.0, -42.0), 5.2),
    "metatarsal_4": _metatarsal((-13.5, 62.0, -28.0), (-9.0, 114.0, -44.0), 5.2),
    "metatarsal_5": _metatarsal((-25.0, 58.0, -36.0), (-20.0, 106.0, -47.0), 5.6),
}
"""Every bone, each giving way to the ones before it where two come too close."""

GROUP_OF_BONE = {
    bone: {"talus": "talus", "tibia": "tibia", "fibula": "tibia", "calcaneus": "calcaneus"}.get(
        bone, "forefoot"
    )
    for bone in SKELETON
}
"""Which group of :data:`ankle_lib.phantom.motion.GROUPS` each bone moves with."""
