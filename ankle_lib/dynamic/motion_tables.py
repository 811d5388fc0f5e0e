"""Tables of joint angles, helical axes and ranges of motion, a row each frame, joint or group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ankle_lib.dynamic.kinematics import (
    ANGLES,
    JOINTS,
    AnatomicalFrame,
    helical_axis,
    joint_angles_deg,
    joint_motion,
    tibiocalcaneal_deg,
)
from ankle_lib.files import AnkleError
from ankle_lib.metrics import bootstrap_interval


def cycle_ends(poses: Mapping[str, ArrayLike], frame: AnatomicalFrame) -> tuple[int, int]:
    """Return the frames of least and greatest dorsiflexion of the hindfoot.

    Raises
    ------
    AnkleError
        If tibia and calcaneus are both known in fewer than two frames.
    """
    motion = joint_motion(*(poses[bone] for bone in JOINTS["hindfoot"]))
    flexion = joint_angles_deg(motion, frame)[:, 0]
    known = np.count_nonzero(np.isfinite(flexion))
    if known < 2:
        raise AnkleError(f"{known} frames with tibia and calcaneus: a range takes two")
    return int(np.nanargmin(flexion)), int(np.nanargmax(flexion))


def angle_table(
    poses: Mapping[str, ArrayLike], frame: AnatomicalFrame, subject: str, sequence: str, group: str
) -> pd.DataFrame:
    """Return the angles of all `JOINTS` in every frame of a sequence.

    Parameters
    ----------
    poses : mapping of bone to (F, 4, 4) array
        Static world to frame world, RAS mm; NaN where a bone is not known.
    frame : AnatomicalFrame
    subject, sequence, group : str
        ``active_run-01`` is of the kind ``active``.

    Returns
    -------
    DataFrame
        Columns subject, sequence, group, kind, frame, joint, `ANGLES`, tibiocalcaneal_deg. The
        last is the angle between the tibia's shaft and the calcaneus's long axis, both seen from
        the side (smaller: more dorsiflexion), in the rows of the hindfoot and NaN in others.
    """
    parts = []
    for joint, (proximal, distal) in JOINTS.items():
        motion = joint_motion(poses[proximal], poses[distal])
        angles = joint_angles_deg(motion, frame)
        part = _named(subject, sequence, group) | {"frame": np.arange(len(motion)), "joint": joint}
        part |= dict(zip(ANGLES, angles.T, strict=True))
        part["tibiocalcaneal_deg"] = (
            tibiocalcaneal_deg(motion, frame) if joint == "hindfoot" else np.nan
        )
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def helical_table(
    poses: Mapping[str, ArrayLike], frame: AnatomicalFrame, subject: str, sequence: str, group: str
) -> pd.DataFrame:
    """Return the helical axis of every joint from one end of the cycle to the other.

    Parameters are those of `angle_table`; the ends are `cycle_ends`, the same for all joints.

    Returns
    -------
    DataFrame
        One row a joint: subject, sequence, group, kind, joint, first_frame, last_frame,
        rotation_deg, shift_mm; anterior, superior, lateral (`HelicalAxis.direction`) and
        point_anterior_mm and so on; offset_… the same from the joint's centre; inclination_deg,
        how far the line rises from the transverse plane, and deviation_deg, how far it runs
        medially of straight ahead. These two take the line towards the toes (subtalar) or
        medially (others), as Inman does (The Joints of the Ankle, 1976). Undefined is NaN.
    """
    low, high = cycle_ends(poses, frame)
    rows = []
    for joint, (proximal, distal) in JOINTS.items():
        motion = joint_motion(poses[proximal], poses[distal])
        axis = helical_axis(motion[low], motion[high], frame, joint)
        line = axis.direction
        line = line if (line[0] > 0 if joint == "subtalar" else line[2] < 0) else -line
        rows.append(
            _named(subject, sequence, group)
            | {"joint": joint, "first_frame": low, "last_frame": high}
            | {"rotation_deg": axis.rotation_deg, "shift_mm": axis.shift_mm}
            | dict(zip(_AXES, axis.direction, strict=True))
            | {f"point_{n}_mm": x for n, x in zip(_AXES, axis.point_mm, strict=True)}
            | {
                f"offset_{n}_mm": x
                for n, x in zip(_AXES, axis.point_mm - frame.centres_mm[joint], strict=True)
            }
            | {"inclination_deg": float(np.rad2deg(np.arcsin(line[1])))}
            | {"deviation_deg": float(np.rad2deg(np.arctan2(-line[2], line[0])))}
        )
    return pd.DataFrame(rows)


def range_of_motion(angles: pd.DataFrame) -> pd.DataFrame:
    """Return greatest minus least angle of every sequence, joint and angle.

    Parameters
    ----------
    angles : DataFrame
        From `angle_table`, of any number of sequences.

    Returns
    -------
    DataFrame
        Columns subject, sequence, group, kind, joint, angle (of `ANGLES`), range_deg. Errors of
        single frames widen a range: smooth the poses first.
    """
    keys = ["subject", "sequence", "group", "kind", "joint"]
    long = angles.melt(keys, list(ANGLES), var_name="angle", value_name="degrees")
    courses = long.groupby([*keys, "angle"], sort=False)["degrees"]
    return (courses.max() - courses.min()).rename("range_deg").reset_index()


def range_summary(ranges: pd.DataFrame) -> pd.DataFrame:
    """Return mean ranges with 95 % intervals over subjects (`metrics.bootstrap_interval`).

    Parameters
    ----------
    ranges : DataFrame
        From `range_of_motion`.

    Returns
    -------
    DataFrame
        Columns joint, angle, group, kind, subjects, mean_deg, low_deg, high_deg. The kind
        ``active - passive`` is the mean difference within subjects that have both.
    """
    keys = ["joint", "angle", "group"]
    each = ranges.groupby([*keys, "kind", "subject"], sort=False)["range_deg"].mean()
    kinds = each.unstack("kind")
    if {"active", "passive"} <= set(kinds):
        kinds["active - passive"] = kinds["active"] - kinds["passive"]
    rows = []
    for names, part in kinds.groupby(level=keys, sort=False):
        for kind, values in part.items():
            known = values.dropna()
            owners: Sequence[str] = known.index.get_level_values("subject").tolist()
            interval = bootstrap_interval(known.to_numpy(), owners)
            row = dict(zip(keys, names, strict=True)) | {"kind": kind, "subjects": len(known)}
            rows.append(row | {f"{name}_deg": x for name, x in interval._asdict().items()})
    return pd.DataFrame(rows)


_AXES = ("anterior", "superior", "lateral")


def _named(subject: str, sequence: str, group: str) -> dict[str, object]:
    kind = sequence.split("_")[0]
    return {"subject": subject, "sequence": sequence, "group": group, "kind": kind}
