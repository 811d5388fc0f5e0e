"""A foot that bends and stretches once, as poses of its bones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ankle_lib.geometry import compose, rigid
from ankle_lib.phantom.motion import cycle
from ankle_lib.presets import BONES

Array = NDArray[np.float64]

FRAMES = 15
CENTRES = {
    "tibia": np.array([0.0, 0.0, 30.0]),
    "talus": np.array([2.0, 15.0, -10.0]),
    "calcaneus": np.array([-5.0, -10.0, -30.0]),
}
HINGE_MM = np.array([0.0, 8.0, -18.0])


def flexion_deg(seed: int = 0, active: bool = False) -> Array:
    return cycle(
        np.arange(FRAMES) / (FRAMES - 1),
        lowest_deg=-22,
        highest_deg=5,
        active=active,
        generator=np.random.default_rng(seed),
    )


def foot_cycle(seed: int = 0, tremble: float = 0.0) -> dict[str, Array]:
    """Poses of a right foot: a hinge about the right-left axis; the calcaneus follows the talus."""
    random = np.random.default_rng(seed)
    poses: dict[str, list[Array]] = {bone: [] for bone in BONES}
    for angle in flexion_deg(seed):
        leg = rigid(random.normal(0, tremble, 3), random.normal(0, tremble, 3), CENTRES["tibia"])
        talus = compose(leg, rigid([angle, 0, 0], [0, 0, 0], HINGE_MM))
        turned = rigid([0.0, 0.15 * angle, 0.0], [0, 0, 0], HINGE_MM)
        for bone, pose in (("tibia", leg), ("talus", talus), ("calcaneus", talus @ turned)):
            poses[bone].append(pose)
    return {bone: np.stack(found) for bone, found in poses.items()}
