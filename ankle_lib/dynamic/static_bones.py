"""The bones of a static scan, carried onto frames: where they are, or off by a known error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ankle_lib.dynamic.frames import Frame
from ankle_lib.files import AnkleError
from ankle_lib.geometry import Grid, rigid
from ankle_lib.learning.scans import Scan
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.truth import bone_points, read_true_poses, tre_mm
from ankle_lib.volume import Volume, load, to_orientation

Poses = Mapping[str, NDArray[np.float64]]
"""Of a sequence: bone to (F, 4, 4), static world to frame world, RAS mm; NaN where unknown."""

CohortPoses = Mapping[tuple[str, str], Poses]
"""(Subject, sequence) to poses."""


@dataclass(frozen=True, eq=False)
class StaticBones:
    """The bones of one subject's static scan.

    Attributes
    ----------
    masks : mapping of bone to Volume
        On the scan's whole grid.
    small : mapping of bone to Volume
        The same, cut to the bone.
    points : mapping of bone to (N, 3) array
        World positions in mm, spread over the bone.
    """

    masks: Mapping[str, Volume]
    small: Mapping[str, Volume]
    points: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, masks: Mapping[str, Volume]) -> StaticBones:
        """Prepare the masks of a static scan."""
        return cls(
            masks,
            {bone: cut_to_mask(mask) for bone, mask in masks.items()},
            {bone: bone_points(mask.data > 0, mask.affine) for bone, mask in masks.items()},
        )

    @classmethod
    def read(cls, subject: CleanSubject) -> StaticBones:
        """Read the masks of a clean subject."""
        return cls.of({bone: to_orientation(load(path)) for bone, path in subject.masks.items()})

    def centre(self, bone: str) -> NDArray[np.float64]:
        """Return the middle of a bone, world mm."""
        middle: NDArray[np.float64] = self.points[bone].mean(axis=0)
        return middle

    def carried(self, bone: str, pose: ArrayLike, grid: Grid) -> NDArray[np.bool_]:
        """Return the bone's mask (I, J, K) on a frame's grid, where it fills half of a voxel."""
        carried: NDArray[np.bool_] = moved_mask(self.small[bone], pose, *grid).data
        return carried

    def at(self, poses: Poses, number: int, grid: Grid) -> dict[str, NDArray[np.bool_]]:
        """Return the masks, on a frame's grid, of the bones whose pose in that frame is known."""
        return {
            bone: self.carried(bone, course[number], grid)
            for bone, course in poses.items()
            if np.isfinite(course[number]).all()
        }


def true_poses(subjects: Sequence[CleanSubject], truth: Path) -> CohortPoses:
    """Return the true poses of every sequence; empty for real scans."""
    found = {}
    for subject in subjects:
        for sequence in subject.sequences:
            frames = read_true_poses(truth, subject.code, sequence)
            if frames:
                key = subject.code, sequence
                found[key] = {bone: np.stack([one[bone] for one in frames]) for bone in frames[0]}
    return found


def registration_error(
    accepted: Sequence[RegisteredFrame], bones: Mapping[str, StaticBones], poses: CohortPoses
) -> float:
    """Return the mean target registration error, in mm, of the accepted registrations."""
    errors = []
    for one in accepted:
        if one.subject in bones:
            true = poses[one.subject, one.sequence][one.bone][one.frame]
            errors.append(tre_mm(one.pose, true, bones[one.subject].points[one.bone]))
    return float(np.mean(errors))


def misplaced_labels(
    frames: Sequence[Frame],
    bones: Mapping[str, StaticBones],
    poses: CohortPoses,
    error_mm: float,
    *,
    systematic: bool,
    seed: int = 0,
) -> list[Scan]:
    """Return the frames with the static bones at wrong places for labels.

    Parameters
    ----------
    frames : sequence of Frame
    bones : mapping of subject to StaticBones
    poses : mapping of (subject, sequence) to true poses
    error_mm : float
        Mean distance, over a bone, from where it is.
    systematic : bool
        The same shift and rotation for a bone in all frames, instead of another one in each.
    seed : int
    """
    draw = np.random.default_rng(seed)
    names = sorted({bone for one in bones.values() for bone in one.masks})
    always = {bone: draw.normal(size=(2, 3)) for bone in names}
    tasks = []
    for frame in frames:
        own, placed = bones[frame.code], {}
        for bone, course in poses[frame.code, frame.sequence].items():
            directions = always[bone] if systematic else draw.normal(size=(2, 3))
            error = misplacement(own.points[bone], error_mm, directions)
            placed[bone] = own.small[bone], course[frame.number] @ error
        tasks.append((frame.grid, placed))
    labels = run_all(_carried, tasks)
    return [frame.labelled(one) for frame, one in zip(frames, labels, strict=True)]


def _carried(
    task: tuple[Grid, dict[str, tuple[Volume, NDArray[np.float64]]]],
) -> dict[str, NDArray[np.bool_]]:
    grid, placed = task
    return {bone: moved_mask(mask, pose, *grid).data for bone, (mask, pose) in placed.items()}


def misplacement(
    points: NDArray[np.float64], error_mm: float, directions: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a rigid motion (4, 4) that moves a bone by so much on average, half of it by turning.

    Parameters
    ----------
    points : (N, 3) array
        Of the bone, world mm.
    error_mm : float
    directions : (2, 3) array
        Axis of the rotation and direction of the shift; their lengths do not count.
    """
    if not error_mm > 0:
        raise AnkleError(f"an error of {error_mm} mm was asked for: give a positive length")
    centre = points.mean(axis=0)
    lever = np.linalg.norm(points - centre, axis=1).mean()
    axis, shift = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    size = error_mm
    for _ in range(3):  # the mean distance is not quite linear in the size
        motion = rigid(axis * np.rad2deg(size / (2 * lever)), shift * size / 2, centre)
        size *= error_mm / tre_mm(motion, np.eye(4), points)
    return motion
