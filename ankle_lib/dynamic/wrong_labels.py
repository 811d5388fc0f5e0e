"""Labels with errors of a known size, as registrations of a known error would make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ankle_lib.dynamic.bones import StaticBones
from ankle_lib.dynamic.frames import Frame
from ankle_lib.files import AnkleError
from ankle_lib.geometry import rigid
from ankle_lib.learning.scans import Scan
from ankle_lib.parallel import run_all
from ankle_lib.quality.registered import RegisteredFrame
from ankle_lib.registration.truth import TruePoses, tre_mm

_Task = tuple[tuple[int, int, int], NDArray[np.float64], dict[str, NDArray[np.float64]]]
"""Shape and affine of a frame, and the pose of each bone in it."""


def with_errors(
    frames: Sequence[Frame],
    bones: Mapping[str, StaticBones],
    poses: Mapping[tuple[str, str], TruePoses],
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
    tasks: dict[str, list[_Task]] = {}
    for frame in frames:
        own, placed = bones[frame.code], {}
        for bone, pose in poses[frame.code, frame.sequence][frame.number].items():
            directions = always[bone] if systematic else draw.normal(size=(2, 3))
            placed[bone] = pose @ misplacement(own.points[bone], error_mm, directions)
        shape = frame.scan.item.image.shape
        tasks.setdefault(frame.code, []).append((shape, frame.affine, placed))
    carried = run_all(_carried, [(bones[code], own) for code, own in tasks.items()], progress=False)
    labels = dict(zip(tasks, map(iter, carried), strict=True))
    return [frame.labelled(next(labels[frame.code])) for frame in frames]


def _carried(
    subject: tuple[StaticBones, Sequence[_Task]],
) -> list[dict[str, NDArray[np.bool_]]]:
    """Return the bones of one subject in each of its frames."""
    bones, tasks = subject
    return [
        {bone: bones.carried(bone, pose, shape, affine) for bone, pose in placed.items()}
        for shape, affine, placed in tasks
    ]


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


def registration_error(
    accepted: Sequence[RegisteredFrame],
    bones: Mapping[str, StaticBones],
    poses: Mapping[tuple[str, str], TruePoses],
) -> float:
    """Return the mean target registration error, in mm, of the accepted registrations."""
    errors = [
        tre_mm(
            one.pose,
            poses[one.subject, one.sequence][one.frame][one.bone],
            bones[one.subject].points[one.bone],
        )
        for one in accepted
        if one.subject in bones
    ]
    return float(np.mean(errors))
