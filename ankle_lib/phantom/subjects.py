"""Who the simulated children are: ages, sizes, joint axes, ranges of motion, sequences."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform

from ankle_lib.phantom.anatomy import Child
from ankle_lib.phantom.faults import FAULTS
from ankle_lib.phantom.motion import Joints, Pose
from ankle_lib.phantom.shapes import foot_point

SUBJECTS = (*(f"T{n:02}" for n in range(1, 11)), *(f"E{n:02}" for n in range(1, 14)))
"""Ten controls and thirteen children with equinus, coded as in the report."""

PAIR = ("active_run-01", "passive_run-01")
TRIPLE = (*PAIR, "passive_run-02")
SEQUENCES = {
    **dict.fromkeys(("T01", "T02", "T05", "T07", "T09", "E03"), TRIPLE),
    **dict.fromkeys(("T03", "T04", "E01", "E02", "E04", "E05", "E07", "E08"), PAIR),
}
"""Sequences by subject; the others have :data:`ONE_SEQUENCE`. 18 of controls and 14 of children
with equinus are free of faults, as in the report."""

ONE_SEQUENCE = ("passive_run-01",)

SHORT_RANGE_SUBJECT = "T03"
"""The control that plantar-flexes much less than the others."""

EVERSION_PER_DORSIFLEXION = (0.08, 0.22)
"""Range between subjects of the subtalar turn per degree of dorsiflexion."""


@dataclass(frozen=True)
class Recipe:
    """All that is random about a subject, drawn from the cohort's seed and the subject's code."""

    code: str
    group: str
    side: str
    child: Child
    joints: Joints
    eversion_offset_deg: float
    eversion_per_dorsiflexion: float
    static_dorsiflexion_deg: float
    lowest_deg: float
    highest_deg: float
    seed: int

    def pose(self, dorsiflexion_deg: float, tibia: RigidTransform | None = None) -> Pose:
        """The subject's ankle at one angle; the subtalar joint follows the talocrural one."""
        eversion = self.eversion_offset_deg + self.eversion_per_dorsiflexion * dorsiflexion_deg
        return self.joints.pose(dorsiflexion_deg, eversion, tibia)


def draw_recipe(code: str, seed: int) -> Recipe:
    """Draw who the subject is: age, size, shape, side, joint axes and range of motion."""
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{code}".encode()).digest()[:4], "little")
    draw = np.random.default_rng(own_seed)
    control = code.startswith("T")
    age = draw.uniform(7, 14)
    size = 1 + 0.028 * (age - 10.5) + np.clip(draw.normal(0, 0.02), -0.04, 0.04)
    stretch = 1 + np.clip(draw.normal(0, 0.02, 3), -0.04, 0.04)
    child = Child(
        age_years=age,
        size=float(size),
        stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        roughness_mm=0.7,
        bone_radius=0.02,
        fat_mm=float(draw.uniform(2.5, 4.5)),
        seed=own_seed % 1_000_003,
    )
    if code == SHORT_RANGE_SUBJECT:
        lowest, highest, static = -4.0, 12.0, 0.0
    elif control:
        lowest = draw.uniform(-25, -17)
        highest = lowest + draw.uniform(24, 30)
        static = lowest + draw.uniform(2, 7)
    else:
        lowest, highest = draw.uniform(-35, -30), draw.uniform(-10, -3)
        static = lowest + draw.uniform(1, 6)
    return Recipe(
        code=code,
        group="control" if control else "equinus",
        side=str(draw.choice(["left", "right"])),
        child=child,
        joints=_draw_joints(size * stretch, draw),
        eversion_offset_deg=float(draw.normal(0 if control else -1.0, 1.0)) + 2.0,
        eversion_per_dorsiflexion=float(draw.uniform(*EVERSION_PER_DORSIFLEXION)),
        static_dorsiflexion_deg=float(static),
        lowest_deg=float(lowest),
        highest_deg=float(highest),
        seed=own_seed,
    )


def ideal_poses(recipe: Recipe, count: int = 9) -> list[Pose]:
    """Poses that cover the subject's range with a margin, static pose included."""
    angles = np.linspace(recipe.lowest_deg - 3, recipe.highest_deg + 1, count)
    return [recipe.pose(float(a)) for a in (*angles, recipe.static_dorsiflexion_deg)]


def sequences_of(code: str) -> tuple[str, ...]:
    """Return the names of a subject's sequences, spoilt ones included."""
    return SEQUENCES.get(code, ONE_SEQUENCE)


def usable_sequences(code: str) -> tuple[str, ...]:
    """Return the sequences without faults of the subjects that a study would keep."""
    names = SEQUENCES.get(code, ())
    spoilt = code in FAULTS and FAULTS[code].spoils_last_sequence
    return names[:-1] if spoilt else names


def _draw_joints(scale: NDArray[np.float64], draw: np.random.Generator) -> Joints:
    """Hinges of one child.

    Talocrural: through the middle of the talar dome's circle, its lateral end lower and further
    back. Subtalar: rising towards the toes by 42° (sd 9°) and running medially by 23° (sd 11°),
    after Inman (The Joints of the Ankle, 1976), the spread halved for children of one clinic.
    """
    talocrural = np.array([1.0, draw.normal(0.12, 0.03), draw.normal(0.12, 0.03)])
    rise = np.deg2rad(np.clip(draw.normal(42, 4.5), 33, 51))
    medial = np.deg2rad(np.clip(draw.normal(23, 5.5), 12, 34))
    subtalar = np.array(
        foot_point(
            float(np.cos(rise) * np.sin(medial)),
            float(np.cos(rise) * np.cos(medial)),
            float(np.sin(rise)),
        )
    )
    return Joints(
        talocrural_point=scale * np.array([3.0, 0.0, -19.7]),
        talocrural_axis=talocrural / np.linalg.norm(talocrural),
        subtalar_point=scale * np.array([2.0, -5.0, -22.5]),
        subtalar_axis=subtalar / np.linalg.norm(subtalar),
    )
