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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.spatial.transform import RigidTransform, Rotation

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, bounding_box, part_of
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.metrics import bootstrap_interval
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume

Array = NDArray[np.float64]

JOINTS = {
    "talocrural": ("tibia", "talus"),
    "subtalar": ("talus", "calcaneus"),
    "hindfoot": ("tibia", "calcaneus"),
}
"""Proximal and distal bone; the hindfoot is both joints together."""

ANGLES = ("dorsiflexion_deg", "inversion_deg", "rotation_deg")
"""Positive: dorsiflexion, inversion, internal rotation."""

AXES = ("anterior", "superior", "lateral")

LEAST_ROTATION_DEG = 2.0
"""The helical axis of a smaller turn is not told. Registered and smoothed poses of the phantom's
controls give axes that are off by 3 to 12 degrees for turns of 2.5 to 3, by up to 7 beyond."""

LEAST_ELONGATION = 1.2
"""Spread of the tibia's voxels along its axis over that across it; a shorter piece has no axis."""

CONTACT_MM = 3.0
"""Parts of two bones that are at most so much farther apart than the nearest form a joint."""

GAP_REACH_MM = 10.0
"""Gaps between bones are measured up to here."""
GAP_COLUMNS = ("frame", "joint", "gap_mm")

MAX_POINTS = 20_000
"""Voxels of a bone that are enough for its axis and its joints."""


@dataclass(frozen=True, eq=False)  # == of arrays is no single truth
class AnatomicalFrame:
    """Anatomical axes of one static scan, with what was measured on its bones."""

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


def anatomical_frame(bones: Mapping[str, Volume], side: str | None) -> AnatomicalFrame:
    """Find the anatomical axes of a foot.

    Superior is the tibia's long axis, away from the calcaneus. Lateral is the world's right (for
    a left foot, left) as far as it is square to that: the child lies straight in the scanner.

    Parameters
    ----------
    bones : mapping of bone to Volume
        Masks of calcaneus, talus and tibia in the static scan.
    side : "left" or "right"

    Raises
    ------
    AnkleError
        If the side is not given, a bone is missing or empty, or the tibia is too short a piece,
        or lies across the scanner, so that it has no axis.
    """
    if side not in ("left", "right"):
        raise AnkleError(f"side {side!r}: angles need to know 'left' or 'right'")
    empty = [bone for bone in BONES if bone not in bones or not np.any(bones[bone].data)]
    if empty:
        raise AnkleError(f"no voxel of {', '.join(empty)}: joints need all of {', '.join(BONES)}")
    world = {}
    for bone in BONES:
        inside = np.argwhere(bones[bone].data > 0)
        world[bone] = apply(bones[bone].affine, inside[:: max(1, len(inside) // MAX_POINTS)])
    middles = {bone: points.mean(axis=0) for bone, points in world.items()}
    superior, elongation = _long_axis(world["tibia"], away_from=middles["calcaneus"])
    if elongation < LEAST_ELONGATION:
        raise AnkleError(
            f"the tibia is {elongation:.2f} times as long as wide, below {LEAST_ELONGATION}: "
            "its axis cannot be told; use a scan that shows more of the shaft"
        )
    if abs(superior[0]) > np.sin(np.pi / 4):
        raise AnkleError(
            f"the tibia runs along {superior.round(2).tolist()} (right, anterior, superior): more "
            "across than along the body; check the orientation in the header"
        )
    right = np.array([1.0, 0.0, 0.0]) - superior[0] * superior
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = [np.cross(superior, right), superior, right if side == "right" else -right]
    matrix[:3, 3] = -matrix[:3, :3] @ middles["talus"]

    placed = {bone: apply(matrix, points) for bone, points in world.items()}
    centres = {
        joint: _contact(placed[proximal], placed[distal])
        for joint, (proximal, distal) in JOINTS.items()
        if joint != "hindfoot"
    }
    forward, _ = _long_axis(placed["calcaneus"], away_from=placed["talus"].mean(axis=0))
    return AnatomicalFrame(matrix, centres | {"hindfoot": np.zeros(3)}, -forward)


def joint_motion(poses: Mapping[str, ArrayLike], joint: str) -> Array:
    """Return how the distal bone moves when the proximal one is held where the static scan has it.

    Parameters
    ----------
    poses : mapping of bone to (F, 4, 4) array
        Static world to frame world, RAS mm.
    joint : str
        One of `JOINTS`.

    Returns
    -------
    (F, 4, 4) array
        From and to the static world, RAS mm.
    """
    proximal, distal = (np.asarray(poses[bone], dtype=float) for bone in JOINTS[joint])
    motion: Array = np.linalg.inv(proximal) @ distal
    return motion


def joint_angles_deg(motion: ArrayLike, frame: AnatomicalFrame) -> Array:
    """Return `ANGLES` (F, 3) in degrees, changes from the static pose, of a `joint_motion`."""
    axes = frame.matrix[:3, :3]
    turn = axes @ np.asarray(motion, dtype=float)[:, :3, :3] @ axes.T
    angles: Array = Rotation.from_matrix(turn).as_euler("ZXY", degrees=True)
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
        Below `LEAST_ROTATION_DEG` only the angle is given.
    """
    move = np.asarray(second, dtype=float) @ np.linalg.inv(np.asarray(first, dtype=float))
    centre = frame.centres_mm[joint]
    from_centre = frame.matrix.copy()
    from_centre[:3, 3] -= centre
    moved = RigidTransform.from_matrix(from_centre @ move @ np.linalg.inv(from_centre))
    turn, along = np.split(moved.as_exp_coords(), 2)
    angle = np.linalg.norm(turn)
    degrees = float(np.rad2deg(angle))
    if degrees < LEAST_ROTATION_DEG:
        return HelicalAxis(degrees, np.nan, np.full(3, np.nan), np.full(3, np.nan))
    point = centre + np.cross(turn, along) / angle**2
    return HelicalAxis(degrees, float(turn @ along / angle), turn / angle, point)


def joint_tables(
    subjects: Sequence[CleanSubject],
    frames: Mapping[str, AnatomicalFrame],
    poses: Mapping[tuple[str, str], Mapping[str, ArrayLike]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `angle_table` and `helical_table` of all sequences of which every pose is known.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    frames : mapping of subject to AnatomicalFrame
    poses : mapping of (subject, sequence) to mapping of bone to (F, 4, 4) array
        Static world to frame world, RAS mm.

    Returns
    -------
    angles, axes : DataFrame
        Columns subject, sequence, group, kind (``active_run-01`` is ``active``), then those of
        the two tables.

    Examples
    --------
    >>> frames = {one.code: anatomical_frame(bones[one.code], one.side) for one in subjects}
    >>> angles, axes = joint_tables(subjects, frames, best_poses(contest))
    """
    groups = {subject.code: subject.group for subject in subjects}
    known = {
        (code, sequence, groups[code], sequence.split("_")[0]): (own, frames[code])
        for (code, sequence), own in poses.items()
        if all(np.isfinite(one).all() for one in own.values())
    }
    names = ["subject", "sequence", "group", "kind"]
    angles, axes = (
        pd.concat({key: table(*given) for key, given in known.items()}, names=names)
        .droplevel(-1)
        .reset_index()
        for table in (angle_table, helical_table)
    )
    return angles, axes


def angle_table(poses: Mapping[str, ArrayLike], frame: AnatomicalFrame) -> pd.DataFrame:
    """Return the angles of all `JOINTS` in every frame of a sequence.

    Parameters
    ----------
    poses : mapping of bone to (F, 4, 4) array
        Static world to frame world, RAS mm, all known.
    frame : AnatomicalFrame

    Returns
    -------
    DataFrame
        Columns frame, joint, `ANGLES`, tibiocalcaneal_deg. The last is the angle between the
        tibia's shaft and the calcaneus's long axis, both seen from the side (smaller: more
        dorsiflexion), in the rows of the hindfoot and NaN in others: an angle of anatomy, not a
        change from the static pose.
    """
    parts = []
    for joint in JOINTS:
        motion = joint_motion(poses, joint)
        part = pd.DataFrame({"frame": np.arange(len(motion)), "joint": joint})
        part[list(ANGLES)] = joint_angles_deg(motion, frame)
        part["tibiocalcaneal_deg"] = np.nan
        if joint == "hindfoot":
            axes = frame.matrix[:3, :3]
            toes = axes @ motion[:, :3, :3] @ axes.T @ frame.calcaneus_axis
            part["tibiocalcaneal_deg"] = 90.0 - np.rad2deg(np.arctan2(toes[:, 1], toes[:, 0]))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def gap_table(poses: Mapping[str, ArrayLike], bones: Mapping[str, Volume]) -> pd.DataFrame:
    """Return how near the bones of each joint come to each other in every frame of a sequence.

    Parameters
    ----------
    poses : mapping of bone to (F, 4, 4) array
        Static world to frame world, RAS mm; NaN where unknown.
    bones : mapping of bone to Volume
        Masks in the static scan.

    Returns
    -------
    DataFrame
        Columns frame, joint, gap_mm: the least distance of the two surfaces, exact to about half
        a voxel of the static scan, 0 where the masks touch or overlap.
    """
    parts = []
    for joint, (proximal, distal) in JOINTS.items():
        if joint == "hindfoot" or proximal not in bones or distal not in bones:
            continue
        fixed, moving = bones[proximal], bones[distal]
        sizes = np.asarray(fixed.voxel_size_mm)
        box = bounding_box(fixed.data > 0, np.ceil(GAP_REACH_MM / sizes))
        if box is None:
            continue
        distance = ndimage.distance_transform_edt(~(fixed.data[box] > 0), sampling=sizes)
        solid = moving.data > 0
        edge = np.argwhere(solid & ~ndimage.binary_erosion(solid))
        surface = apply(moving.affine, edge[:: max(1, len(edge) // MAX_POINTS)])
        back = np.linalg.inv(part_of(box, fixed.affine)[1])
        half = float(np.mean([*sizes, *moving.voxel_size_mm])) / 2  # from a voxel's middle
        gaps = []
        for motion in joint_motion(poses, joint):
            places = apply(back @ motion, surface).T
            near = ndimage.map_coordinates(distance, places, order=1, cval=GAP_REACH_MM)
            gaps.append(max(0.0, float(near.min()) - half) if np.isfinite(motion).all() else np.nan)
        parts.append(pd.DataFrame({"frame": np.arange(len(gaps)), "joint": joint, "gap_mm": gaps}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=GAP_COLUMNS)


def helical_table(poses: Mapping[str, ArrayLike], frame: AnatomicalFrame) -> pd.DataFrame:
    """Return the helical axis of every joint from one end of the cycle to the other.

    Parameters are those of `angle_table`; the ends, the same for all joints, are the frames of
    least and greatest dorsiflexion of the hindfoot.

    Returns
    -------
    DataFrame
        One row a joint: joint, first_frame, last_frame, rotation_deg, shift_mm; anterior,
        superior, lateral (`HelicalAxis.direction`) and point_anterior_mm and so on; offset_… the
        same from the joint's centre; inclination_deg, how far the line rises from the transverse
        plane, and deviation_deg, how far it runs medially of straight ahead. These two take the
        line towards the toes (subtalar) or medially (others), as Inman does (The Joints of the
        Ankle, 1976). Undefined is NaN.
    """
    flexion = joint_angles_deg(joint_motion(poses, "hindfoot"), frame)[:, 0]
    low, high = int(np.argmin(flexion)), int(np.argmax(flexion))
    rows = []
    for joint in JOINTS:
        motion = joint_motion(poses, joint)
        axis = helical_axis(motion[low], motion[high], frame, joint)
        line = axis.direction
        line = line if (line[0] > 0 if joint == "subtalar" else line[2] < 0) else -line
        row = {"joint": joint, "first_frame": low, "last_frame": high}
        row |= {"rotation_deg": axis.rotation_deg, "shift_mm": axis.shift_mm}
        row |= dict(zip(AXES, axis.direction, strict=True))
        offset = axis.point_mm - frame.centres_mm[joint]
        for name, place in (("point", axis.point_mm), ("offset", offset)):
            row |= {f"{name}_{one}_mm": x for one, x in zip(AXES, place, strict=True)}
        row["inclination_deg"] = float(np.rad2deg(np.arcsin(line[1])))
        row["deviation_deg"] = float(np.rad2deg(np.arctan2(-line[2], line[0])))
        rows.append(row)
    return pd.DataFrame(rows)


def ranges_of_motion(angles: pd.DataFrame) -> pd.DataFrame:
    """Return mean ranges of motion with 95 % intervals over subjects.

    A range is the greatest minus the least angle of a sequence, averaged over a subject's
    sequences. Errors of single frames widen it: smooth the poses first.

    Parameters
    ----------
    angles : DataFrame
        From `joint_tables`.

    Returns
    -------
    DataFrame
        Columns joint, angle (of `ANGLES`), group, kind, subjects, mean_deg, low_deg, high_deg (see
        `metrics.bootstrap_interval`). The kind ``active - passive`` is the mean difference within
        subjects that have both.
    """
    keys = ["joint", "angle", "group"]
    names = [*keys, "kind", "subject"]
    who = ["subject", "sequence", "group", "kind", "joint"]
    long = angles.melt(who, list(ANGLES), "angle", "degrees")
    courses = long.groupby([*names, "sequence"], sort=False)["degrees"]
    kinds = (courses.max() - courses.min()).groupby(names, sort=False).mean().unstack("kind")
    if {"active", "passive"} <= set(kinds):
        kinds["active - passive"] = kinds["active"] - kinds["passive"]
    rows = []
    for key, part in kinds.groupby(level=keys, sort=False):
        for kind, values in part.items():
            known = values.dropna()
            owners = known.index.get_level_values("subject").tolist()
            interval = bootstrap_interval(known.to_numpy(), owners)
            row = dict(zip(keys, key, strict=True)) | {"kind": kind, "subjects": len(known)}
            rows.append(row | {f"{name}_deg": x for name, x in interval._asdict().items()})
    return pd.DataFrame(rows)


def _long_axis(points: Array, away_from: Array) -> tuple[Array, float]:
    """Return the principal axis, and the spread along it over the spread across it."""
    middle = points.mean(axis=0)
    _, spreads, axes = np.linalg.svd(points - middle, full_matrices=False)
    axis = axes[0] * np.sign(axes[0] @ (middle - away_from))
    return axis, float(spreads[0] / max(spreads[1], 1e-9))


def _contact(proximal: Array, distal: Array) -> Array:
    """Return the middle (3,) of the gap where two bones are near each other."""
    distance, nearest = KDTree(proximal).query(distal, workers=-1)
    near = distance <= distance.min() + CONTACT_MM
    middle: Array = ((distal[near] + proximal[nearest[near]]) / 2).mean(axis=0)
    return middle
