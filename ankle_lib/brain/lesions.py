"""Lesions of multiple sclerosis: how many, how large, where, of which form; and put into a head.

Numbers, volumes and distances are those measured in 30 consensus masks of real patients
(3D-MR-MS, Lesjak et al., Neuroinformatics 2018, doi:10.1007/s12021-017-9348-7). A lesion is
*active* if contrast agent would leak into it. Its tissue is drawn by class, so that what anybody
can know about it from other images is known (`gadolinium.oracle`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.brain.heads import Head, Map, smooth_noise
from ankle_lib.brain.signals import TISSUES, Tissue
from ankle_lib.brain.template import CSF, WM
from ankle_lib.geometry import Box

COUNTS = ((0.0, 6), (0.25, 28), (0.5, 77), (0.75, 108), (1.0, 190))
"""Quantiles of lesions per patient; the outer two are our estimate."""

LN_VOLUME = (3.27, 1.37)
"""Mean and standard deviation of ln(volume / mm3)."""

LARGEST_MM3 = 4000.0
"""Larger ones are confluent: several lesions, counted as one."""

LOAD_WITHIN = ((0.0, 0.0), (3.0, 0.17), (5.0, 0.29), (10.0, 0.56), (20.0, 0.92), (34.0, 1.0))
"""Distance from the ventricles in mm, and the part of all lesions' volume nearer than that."""

ACTIVE_RATE = (0.45, 2.55)
"""Beta distribution of the part of a patient's lesions that is active; its mean is 15 %."""

PREVALENCE = ACTIVE_RATE[0] / sum(ACTIVE_RATE)

FORMS = ("even", "ring", "arc", "hollow")
FORM_GIVEN = {
    True: {"even": 0.68, "ring": 0.23, "arc": 0.09, "hollow": 0.0},
    False: {"even": 0.80, "ring": 0.06, "arc": 0.02, "hollow": 0.12},
}
"""Of active lesions as their enhancement is described (nodular, ring, arc); the forms of chronic
ones are our estimate. An even lesion is of one tissue; of a ring, an arc and a hollow lesion only
the rim, a part of the rim and the centre look like an active lesion's tissue."""

SIDES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], "f4")
"""An arc lies on one of six sides."""

RIM = 0.25
"""Thickness of a rim as a part of the lesion's radius."""

LN_SPREAD = (0.15, 0.17)
CORRELATION = 0.5
"""Of ln T1 and ln T2 of lesions of one class."""

HALO_MM = {False: 0.4, True: 1.3}
HALO_SPREAD_MM = 0.9
HALO_STEP_MM = 0.25
HALO_LONGEST_MM = 4.5
"""Oedema around a lesion: mean by class and spread of a normal distribution, rounded to steps; what
would be negative is none."""

LN_AGENT = (np.log(0.15), 0.4)
"""Mean and standard deviation of ln(concentration in mmol/l) in the active part."""

GAP_MM = 3.0
"""At least so much between two lesions, so that each has its own halo."""


Places = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Lesion:
    """One lesion, as drawn.

    Attributes
    ----------
    centre : three ints
        Voxel in its head.
    volume_mm3 : float
    active : bool
        Whether contrast agent would leak into it.
    form : str
        One of `FORMS`.
    side : int
        Number of the side in `SIDES` on which an arc lies; 0 for other forms.
    scatter : two floats
        How far ln T1 and ln T2 lie from the mean of the class.
    halo_mm : float
    agent : float
        Concentration in mmol/l in the active part; 0 in chronic lesions.
    """

    centre: tuple[int, int, int]
    volume_mm3: float
    active: bool
    form: str
    side: int
    scatter: tuple[float, float]
    halo_mm: float
    agent: float

    @property
    def radius_mm(self) -> float:
        """Of a ball of its volume."""
        return float((3 * self.volume_mm3 / (4 * np.pi)) ** (1 / 3))

    def tissue(self, activated: bool) -> Tissue:
        """Return the lesion's tissue where it looks active, or elsewhere."""
        kind = TISSUES["active lesion" if activated else "chronic lesion"]
        t1, t2 = np.exp(self.scatter)
        return Tissue(kind.proton_density, kind.t1_s * t1, kind.t2_ms * t2)

    @property
    def ln_times(self) -> tuple[float, float]:
        """Return ln(T1 / s) and ln(T2 / ms) of an even lesion."""
        tissue = self.tissue(self.active)
        return float(np.log(tissue.t1_s)), float(np.log(tissue.t2_ms))


@dataclass(frozen=True, eq=False)
class Shape:
    """What place a lesion takes around its centre.

    Attributes
    ----------
    box : three slices
        Of the head's grid.
    core : (I, J, K) float32 array
        Part of each voxel that is lesion.
    depth_mm : (I, J, K) float32 array
        Signed distance from its surface, negative inside.
    room : (I, J, K) float32 array
        Part of each voxel that may be lesion or halo: fluid may not.
    offsets_mm : (3, I, J, K) float32 array
        From the centre.
    """

    box: Box
    core: Map
    depth_mm: Map
    room: Map
    offsets_mm: Map
    voxel_mm: float

    def halo(self, thickness_mm: float) -> Map:
        """Return the part of each voxel that a halo of this thickness takes."""
        return soft_ball(self.depth_mm - thickness_mm, self.voxel_mm) * self.room - self.core

    def activated(self, form: str, side: int = 0, active: bool = True) -> Map:
        """Return the part of each voxel that looks like an active lesion's tissue."""
        if form == "even":
            return self.core * np.float32(active)
        radius = -float(self.depth_mm.min())
        inner = soft_ball(self.depth_mm + RIM * radius, self.voxel_mm) * self.room
        inner = np.minimum(inner, self.core)
        if form == "hollow":
            return inner
        rim = self.core - inner
        if form == "ring":
            return rim
        towards = np.tensordot(SIDES[side], self.offsets_mm, 1)
        return rim * soft_ball(-towards, self.voxel_mm)


def draw_lesions(
    head: Head, rng: np.random.Generator, *, forms: bool = True, smallest_mm3: float = 15.0
) -> list[Lesion]:
    """Draw all lesions of a patient.

    Parameters
    ----------
    head : Head
    rng : numpy Generator
    forms : bool
        Whether there are rings, arcs and hollow lesions; else all are even.
    smallest_mm3 : float
        Smaller ones are left out: 15 mm3 is a ball of 3 mm, the least that readers count.
    """
    shares, counts = np.array(COUNTS).T
    count = int(np.interp(rng.uniform(), shares, counts))
    volumes = np.minimum(np.exp(rng.normal(*LN_VOLUME, count)), LARGEST_MM3)
    rate = rng.beta(*ACTIVE_RATE)
    lesions: list[Lesion] = []
    places = _white_by_distance(head)
    for volume in sorted(volumes[volumes >= smallest_mm3], reverse=True):
        centre = _place(places, head.voxel_mm, volume, lesions, rng)
        if centre is not None:
            lesions.append(draw_lesion(rng, centre, float(volume), rng.uniform() < rate, forms))
    return lesions


def draw_lesion(
    rng: np.random.Generator,
    centre: tuple[int, int, int],
    volume_mm3: float,
    active: bool,
    forms: bool = True,
) -> Lesion:
    """Draw the tissue and form of one lesion, given its class."""
    odds = FORM_GIVEN[active]
    form = str(rng.choice(FORMS, p=[odds[one] for one in FORMS])) if forms else "even"
    scatter = rng.multivariate_normal([0, 0], scatter_covariance())
    halo = HALO_STEP_MM * np.round(rng.normal(HALO_MM[active], HALO_SPREAD_MM) / HALO_STEP_MM)
    agent = float(np.exp(rng.normal(*LN_AGENT))) if active else 0.0
    side = int(rng.integers(len(SIDES))) if form == "arc" else 0
    halo = float(np.clip(halo, 0, HALO_LONGEST_MM))
    t1, t2 = (float(one) for one in scatter)
    return Lesion(centre, volume_mm3, bool(active), form, side, (t1, t2), halo, agent)


def scatter_covariance() -> NDArray[np.float64]:
    """Return the covariance (2, 2) of ln T1 and ln T2 within a class."""
    first, second = LN_SPREAD
    both = CORRELATION * first * second
    return np.array([[first**2, both], [both, second**2]])


def shape_of(head: Head, lesion: Lesion, rng: np.random.Generator) -> Shape:
    """Draw the outline of a lesion: a ball, stretched away from the ventricles and made uneven."""
    reach = int(np.ceil((1.6 * lesion.radius_mm + HALO_LONGEST_MM) / head.voxel_mm)) + 1
    i, j, k = (
        slice(max(0, c - reach), min(n, c + reach + 1))
        for c, n in zip(lesion.centre, head.brain.shape, strict=True)
    )
    box = i, j, k
    grids = np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij")
    centre = np.array(lesion.centre)[:, None, None, None] + rng.uniform(-0.5, 0.5, (3, 1, 1, 1))
    offsets = ((np.stack(grids) - centre) * head.voxel_mm).astype(np.float32)
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    along = np.tensordot(axis, offsets, 1)
    stretch = rng.uniform(1.0, 1.6)
    squared = (offsets**2).sum(0) - along**2
    distance = np.sqrt(squared * stretch ** (2 / 3) + (along / stretch ** (2 / 3)) ** 2)
    bumps = smooth_noise(along.shape, head.voxel_mm, max(2.0, 0.8 * lesion.radius_mm), rng)
    depth = (distance - lesion.radius_mm * (1 + 0.12 * bumps)).astype(np.float32)
    room = (1 - head.fractions[CSF][box]) * head.brain[box]
    core = soft_ball(depth, head.voxel_mm) * room
    return Shape(box, core.astype(np.float32), depth, room, offsets, head.voxel_mm)


def soft_ball(depth_mm: Map, voxel_mm: float) -> Map:
    """Return how much of each voxel is inside a surface, from the distance of its centre."""
    return np.clip(0.5 - depth_mm / voxel_mm, 0, 1).astype(np.float32)


def parts_of(shape: Shape, lesion: Lesion) -> list[tuple[Map, Tissue]]:
    """Return what a lesion is made of: parts of each voxel, and their tissues.

    In this order: where it looks active, where it does not, its halo.
    """
    activated = shape.activated(lesion.form, lesion.side, lesion.active)
    return [
        (activated, lesion.tissue(activated=True)),
        (shape.core - activated, lesion.tissue(activated=False)),
        (shape.halo(lesion.halo_mm), TISSUES["oedema"]),
    ]


def _place(
    places: Places,
    voxel_mm: float,
    volume_mm3: float,
    others: list[Lesion],
    rng: np.random.Generator,
) -> tuple[int, int, int] | None:
    """Return a voxel of white matter at a drawn distance from the ventricles; None if all taken."""
    white, distance = places
    parts, distances = np.array(LOAD_WITHIN).T[::-1]
    radius = (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3)
    for _ in range(20):
        # the centre of a large lesion keeps some distance from the wall
        wanted = max(float(np.interp(rng.uniform(), parts, distances)), 0.5 * radius)
        first, last = np.searchsorted(distance, [wanted - 0.7, wanted + 0.7])
        if last <= first:
            continue
        centre = white[rng.integers(first, last)]
        clear = all(
            np.linalg.norm((centre - other.centre) * voxel_mm)
            > 1.3 * (radius + other.radius_mm) + GAP_MM
            for other in others
        )
        if clear:
            i, j, k = (int(one) for one in centre)
            return i, j, k
    return None


def _white_by_distance(head: Head) -> Places:
    """Return voxels (N, 3) of white matter and their distances from the ventricles, sorted."""
    inner = ndimage.binary_erosion(head.brain, iterations=2)
    white = np.argwhere((head.fractions[WM] > 0.6) & inner)
    distance = head.to_ventricles_mm[tuple(white.T)]
    order = np.argsort(distance, kind="stable")
    return white[order], distance[order]
