"""Where skin, muscles, tendons and vessels lie around the bones, in the reference frame.

Proportions from anatomy textbooks for a child of ten and a half years; see
:mod:`ankle_lib.phantom.skeleton` for the coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

from ankle_lib.phantom.shapes import Ellipsoid
from ankle_lib.phantom.skeleton import Millimetres, foot_ellipsoid, foot_point


@dataclass(frozen=True)
class Cord:
    """A tube along a line of points in mm; ``flatness`` > 1 makes it a band, wide along x."""

    points: tuple[Millimetres, ...]
    radius_mm: float
    flatness: float = 1.0


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
)  # fmt: skip
"""Achilles, tibialis anterior, long extensors of the great toe and of the toes, peroneals,
tibialis posterior, long flexor of the toes, long flexor of the great toe."""

LIGAMENTS = (
    Cord(((22.0, 3.0, -8.0), (17.0, -8.0, -19.0)), 1.8, 1.5),
    Cord(((-24.0, 2.0, -18.0), (-15.0, 14.0, -24.0)), 1.4),
    Cord(((-25.0, -7.0, -24.0), (-20.0, -15.0, -36.0)), 1.4),
    Cord(((14.0, 0.0, -28.0), (16.0, 28.0, -40.0)), 2.0),
    Cord(((0.0, 3.0, -27.0), (-3.0, 6.0, -36.0)), 2.2),
    Cord(((-5.0, -22.0, -50.0), (-12.0, 24.0, -56.0)), 1.8, 3.0),
)
"""Deltoid, anterior talofibular, calcaneofibular, spring, interosseous talocalcaneal and long
plantar."""

FASCIA = Cord(
    tuple(foot_point(*p) for p in ((0.0, -18.0, -63.0), (1.0, 35.0, -66.0), (3.0, 108.0, -55.0))),
    1.3,
    7.0,
)
VESSELS = (
    Cord(((10.0, -24.0, 120.0), (15.0, -23.0, 50.0), (20.0, -22.0, 4.0), (20.0, -12.0, -26.0),
          (13.0, 12.0, -50.0)), 1.8),
    Cord(((-2.0, 8.0, 120.0), (1.0, 20.0, 20.0), (2.0, 31.0, -14.0), (8.0, 60.0, -44.0)), 1.2),
    Cord(((26.0, 2.0, 120.0), (29.0, 8.0, 20.0), (28.0, 18.0, -8.0)), 1.5),
    Cord(((-20.0, -38.0, 120.0), (-20.0, -36.0, 40.0), (-25.0, -22.0, -10.0)), 1.4),
)  # fmt: skip
"""Posterior tibial, anterior tibial, great saphenous and small saphenous."""
