"""From bone poses to what a clinician reads: joint angles over the cycle and helical axes.

Anatomical axes are x anterior, y superior (along the tibia's shaft), z lateral, as the
International Society of Biomechanics has them for a right ankle (Wu et al., J. Biomech. 2002). A
left foot is measured as the mirror image of a right one, so every angle means the same on both
sides. Angles are those of Grood and Suntay (J. Biomech. Eng. 1983): dorsiflexion about the
lateral axis of the proximal bone, internal rotation about the superior axis of the distal one,
inversion about the floating axis between them. All bones carry the same axes in the static scan,
so angles are *changes from the static pose*: there they are 0, wherever the foot lay. Only the
tibiocalcaneal angle is one of anatomy, and comparable between children.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply
from ankle_lib.presets import BONES

Array = NDArray[np.float64]

JOINTS = {
    "talocrural": ("tibia", "talus"),
    "subtalar": ("talus", "calcaneus"),
    "hindfoot": ("tibia", "calcaneus"),
}
"""Proximal and distal bone; the hindfoot is both joints together."""

ANGLES = ("dorsiflexion_deg", "inversion_deg", "rotation_deg")
"""Positive: dorsiflexion, inversion, internal rotation."""

LEAST_ROTATION_DEG = 2.0
"""The helical axis of a smaller turn is not told. Registered and smoothed poses of the phantom's
controls give axes that are off by 3 to 12 degrees for turns of 2.5 to 3, by up to 7 beyond."""

LEAST_ELONGATION = 1.2
"""Spread of the tibia's voxels along its axis over that across it; a shorter piece has no axis."""

CONTACT_MM = 3.0
"""Parts of two bones that are at most so much farther apart than the nearest form a joint."""

MAX_POINTS = 20_000
"""Voxels of a bone that are enough for its axis and its joints."""


@dataclass(frozen=True, eq=False)  # == of arrays is no single truth
class AnatomicalFrame:
    """Anatomical axes of one static scan, with what was measured on its bones."""

    side: str
    matrix: Array
    """(4, 4) world RAS mm → anatomical mm (anterior, superior, lateral), from the middle of the
    talus. Mirrors a left foot."""
    centres_mm: dict[str, Array]
    """Joint to (3,), its middle in anatomical mm."""
    calcaneus_axis: Array
    """(3,) the calcaneus's long axis towards the toes, anatomical, unit length."""


class HelicalAxis(NamedTuple):
    """A movement as one turn about, and one shift along, a line; NaN for turns too small."""

    rotation_deg: float
    shift_mm: float
    """Along the direction."""
    direction: Array
    """(3,) anterior, superior, lateral, unit length; the right-hand rule on a right foot."""
    point_mm: Array
    """(3,) point of the line nearest to the joint's centre, anatomical mm."""


def anatomical_frame(
    masks: Mapping[str, NDArray[np.bool_]], affine: ArrayLike, side: str | None
) -> AnatomicalFrame:
    """Find the anatomical axes of a foot.

    Superior is the tibia's long axis, away from the calcaneus. Lateral is the world's right (for
    a left foot, left) as far as it is square to that: the child lies straight in the scanner.

    Parameters
    ----------
    masks : mapping of bone to (I, J, K) bool array
        Calcaneus, talus and tibia of the static scan on one grid.
    affine : (4, 4) array
        Voxel to world, RAS mm.
    side : "left" or "right"

    Raises
    ------
    AnkleError
        If the side is not given, a bone is missing or empty, or the tibia is too short a piece,
        or lies across the scanner, so that it has no axis.
    """
    if side not in ("left", "right"):
        raise AnkleError(f"side {side!r}: angles need to know 'left' or 'right'")
    empty = [bone for bone in BONES if bone not in masks or not np.any(masks[bone])]
    if empty:
        raise AnkleError(f"no voxel of {', '.join(empty)}: joints need all of {', '.join(BONES)}")
    world = {bone: _points(masks[bone], affine) for bone in BONES}
    superior, elongation = _long_axis(world["tibia"])
    if elongation < LEAST_ELONGATION:
        raise AnkleError(
            f"the tibia is {elongation:.2f} times as long as wide, below {LEAST_ELONGATION}: "
            "its axis cannot be told; use a scan that shows more of the shaft"
        )
    superior *= np.sign(superior @ (world["tibia"].mean(axis=0) - world["calcaneus"].mean(axis=0)))
    if abs(superior[0]) > np.sin(np.pi / 4):
        raise AnkleError(
            f"the tibia runs along {superior.round(2).tolist()} (right, anterior, superior): more "
            "across than along the body; check the orientation in the header"
        )
    right = np.array([1.0, 0.0, 0.0]) - superior[0] * superior
    right /= np.linalg.norm(right)
    anterior = np.cross(superior, right)
    matrix = np.eye(4)
    matrix[:3, :3] = [anterior, superior, right if side == "right" else -right]
    matrix[:3, 3] = -matrix[:3, :3] @ world["talus"].mean(axis=0)

    placed = {bone: apply(matrix, points) for bone, points in world.items()}
    centres = {
        joint: _contact(placed[proximal], placed[distal])
        for joint, (proximal, distal) in JOINTS.items()
        if joint != "hindfoot"
    }
    forward, _ = _long_axis(placed["calcaneus"])
    forward *= np.sign(forward @ (placed["talus"].mean(axis=0) - placed["calcaneus"].mean(axis=0)))
    return AnatomicalFrame(side, matrix, centres | {"hindfoot": np.zeros(3)}, forward)


def joint_motion(proximal: ArrayLike, distal: ArrayLike) -> Array:
    """Return how the distal bone moves when the proximal one is held where the static scan has it.

    Parameters
    ----------
    proximal, distal : (F, 4, 4) arrays
        Poses, static world to frame world, RAS mm; NaN where a bone is not known.

    Returns
    -------
    (F, 4, 4) array
        From and to the static world, RAS mm; NaN where either bone is not known.

    Raises
    ------
    AnkleError
        If the shapes differ or are not (F, 4, 4).
    """
    first, second = np.asarray(proximal, dtype=float), np.asarray(distal, dtype=float)
    if first.shape != second.shape or first.ndim != 3 or first.shape[1:] != (4, 4):
        raise AnkleError(f"poses of shapes {first.shape} and {second.shape}: expected (F, 4, 4)")
    motion = np.full(first.shape, np.nan)
    known = np.isfinite(first).all(axis=(1, 2)) & np.isfinite(second).all(axis=(1, 2))
    motion[known] = np.linalg.inv(first[known]) @ second[known]
    return motion


def joint_angles_deg(motion: ArrayLike, frame: AnatomicalFrame) -> Array:
    """Return `ANGLES` (F, 3) in degrees, changes from the static pose, of a `joint_motion`."""
    turns = np.asarray(motion, dtype=float)[:, :3, :3]
    axes = frame.matrix[:3, :3]
    angles = np.full((len(turns), 3), np.nan)
    known = np.isfinite(turns).all(axis=(1, 2))
    if known.any():
        turned = Rotation.from_matrix(axes @ turns[known] @ axes.T)
        angles[known] = turned.as_euler("ZXY", degrees=True)
    return angles


def helical_axis(
    first: ArrayLike, second: ArrayLike, frame: AnatomicalFrame, joint: str
) -> HelicalAxis:
    """Return the finite helical (screw) axis that leads from one pose of a joint to another.

    Parameters
    ----------
    first, second : (4, 4) arrays
        Two frames of a `joint_motion`.
    frame : AnatomicalFrame
    joint : str
        One of `JOINTS`, whose centre the point is to be near.

    Returns
    -------
    HelicalAxis
        Below `LEAST_ROTATION_DEG` only the angle is given. All is NaN if a pose is.
    """
    move = np.asarray(second, dtype=float) @ np.linalg.inv(np.asarray(first, dtype=float))
    nowhere = np.full(3, np.nan)
    if not np.isfinite(move).all():
        return HelicalAxis(np.nan, np.nan, nowhere, nowhere)
    move = frame.matrix @ move @ np.linalg.inv(frame.matrix)
    turn = Rotation.from_matrix(move[:3, :3]).as_rotvec()
    angle = float(np.linalg.norm(turn))
    if np.rad2deg(angle) < LEAST_ROTATION_DEG:
        return HelicalAxis(float(np.rad2deg(angle)), np.nan, nowhere, nowhere)
    direction = turn / angle
    centre = frame.centres_mm[joint]
    moved = apply(move, centre) - centre
    shift = float(direction @ moved)
    across = moved - shift * direction
    point = centre + (across + np.cross(direction, across) / np.tan(angle / 2)) / 2
    return HelicalAxis(float(np.rad2deg(angle)), shift, direction, point)


def tibiocalcaneal_deg(motion: ArrayLike, frame: AnatomicalFrame) -> Array:
    """Return the angle (F,) in degrees between tibial shaft and calcaneus, seen from the side.

    Between the shaft, upwards, and the calcaneus's long axis, towards the toes: smaller with more
    dorsiflexion. An angle of anatomy, not a change from the static pose.

    Parameters
    ----------
    motion : (F, 4, 4) array
        `joint_motion` of tibia and calcaneus.
    """
    turns = np.asarray(motion, dtype=float)[:, :3, :3]
    axes = frame.matrix[:3, :3]
    forward = (axes @ turns @ axes.T) @ frame.calcaneus_axis
    angle: Array = 90.0 - np.rad2deg(np.arctan2(forward[:, 1], forward[:, 0]))
    return angle


def _points(mask: NDArray[np.bool_], affine: ArrayLike) -> Array:
    """Return voxel centres (N, 3) in world mm, every so-manieth of a large bone."""
    inside = np.argwhere(mask)
    return apply(affine, inside[:: max(1, len(inside) // MAX_POINTS)])


def _long_axis(points: Array) -> tuple[Array, float]:
    """Return the principal axis, and the spread along it over the spread across it."""
    _, spreads, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    return axes[0], float(spreads[0] / max(spreads[1], 1e-9))


def _contact(proximal: Array, distal: Array) -> Array:
    """Return the middle (3,) of the gap where two bones are near each other."""
    distance, nearest = KDTree(proximal).query(distal, workers=-1)
    near = distance <= distance.min() + CONTACT_MM
    middle: Array = ((distal[near] + proximal[nearest[near]]) / 2).mean(axis=0)
    return middle
