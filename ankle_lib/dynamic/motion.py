"""From poses of a cohort to angles and helical axes of its joints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ankle_lib.dynamic.bones import StaticBones
from ankle_lib.dynamic.contest import SequencePoses
from ankle_lib.dynamic.kinematics import AnatomicalFrame, anatomical_frame
from ankle_lib.dynamic.motion_tables import angle_table, helical_table
from ankle_lib.dynamic.over_time import smooth_together
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.pose_files import read_transforms
from ankle_lib.registration.every_sequence import transforms_path
from ankle_lib.registration.truth import TruePoses


def registered_courses(
    subjects: Iterable[CleanSubject], registered: Path, bones: Mapping[str, StaticBones]
) -> dict[tuple[str, str], SequencePoses]:
    """Return the accepted poses of chapter 03, put on a smooth motion, by subject and sequence.

    A sequence in which a bone was never accepted is left out.

    Parameters
    ----------
    subjects : iterable of CleanSubject
    registered : Path
        Results of chapter 03.
    bones : mapping of subject to StaticBones
    """
    courses: dict[tuple[str, str], SequencePoses] = {}
    for subject in subjects:
        own = bones[subject.code]
        for sequence, paths in subject.sequences.items():
            poses = {bone: np.full((len(paths), 4, 4), np.nan) for bone in own.masks}
            trust = {bone: np.zeros(len(paths)) for bone in own.masks}
            for one in read_transforms(transforms_path(registered, subject.code, sequence)):
                if one.bone in poses and one.accepted:
                    poses[one.bone][one.frame], trust[one.bone][one.frame] = one.matrix, 1.0
            if all(known.any() for known in trust.values()):
                centres = {bone: own.centre(bone) for bone in own.masks}
                courses[subject.code, sequence] = smooth_together(poses, trust, centres)
    return courses


def true_courses(
    poses: Mapping[tuple[str, str], TruePoses],
) -> dict[tuple[str, str], SequencePoses]:
    """Return true poses in the shape of found ones: bone to (F, 4, 4)."""
    return {
        key: {bone: np.stack([frame[bone] for frame in frames]) for bone in frames[0]}
        for key, frames in poses.items()
    }


def is_complete(course: SequencePoses) -> bool:
    """Tell whether every bone's pose is known in every frame."""
    return all(bool(np.isfinite(poses).all()) for poses in course.values())


def foot_of(subject: CleanSubject, bones: StaticBones) -> AnatomicalFrame:
    """Return the anatomical axes of a subject's foot."""
    masks = {bone: mask.data > 0 for bone, mask in bones.masks.items()}
    affine = next(iter(bones.masks.values())).affine
    return anatomical_frame(masks, affine, subject.side)


def joint_tables(
    subjects: Sequence[CleanSubject],
    bones: Mapping[str, StaticBones],
    courses: Mapping[tuple[str, str], SequencePoses],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `angle_table` and `helical_table` of all sequences.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    bones : mapping of subject to StaticBones
    courses : mapping of (subject, sequence) to SequencePoses
    """
    by_code = {subject.code: subject for subject in subjects}
    feet = {code: foot_of(by_code[code], bones[code]) for code in {code for code, _ in courses}}
    angles, axes = [], []
    for (code, sequence), poses in courses.items():
        given = (poses, feet[code], code, sequence, by_code[code].group)
        angles.append(angle_table(*given))
        axes.append(helical_table(*given))
    return pd.concat(angles, ignore_index=True), pd.concat(axes, ignore_index=True)
