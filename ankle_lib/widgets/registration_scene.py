"""What `RegistrationTuner` shows: a static scan, its bones, and frames to carry them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, slice_of
from ankle_lib.files import AnkleError
from ankle_lib.geometry import (
    Matrix,
    apply,
    compose,
    is_rigid,
    part_of,
    rigid,
    slice_direction,
)
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.regions import Agreement, agreement, cut_region
from ankle_lib.registration.register import register
from ankle_lib.registration.truth import bone_points, tre_mm
from ankle_lib.volume import Volume, resample, to_orientation
from ankle_lib.widgets.inputs import check_values, image_3d, masks_on, not_finite

SLICE_SAMPLES = 5
"""Across a slice of the frame, for pictures."""

NEEDED = "a registration needs numbers"


@dataclass(frozen=True)
class Run:
    """One registration that was tried."""

    bone: str
    frame: int
    before: float
    """Correlation at the start."""
    after: float
    """Correlation at the end."""
    reason: str
    """Why it failed; empty if it did not."""
    error_mm: float
    """From the truth; NaN if that is unknown."""
    pose: Matrix
    """(4, 4) where it ended."""


class Scene:
    """Frames, static scan and bones; the parameters are those of `RegistrationTuner`.

    Raises
    ------
    AnkleError
        If something is missing, empty, not finite, or on another grid, or a pose is not rigid.
    """

    def __init__(
        self,
        sequence: Volume,
        static: Volume,
        masks: Mapping[str, Volume],
        weights: Mapping[str, NDArray[Any]],
        start: NDArray[np.float64] | None,
        options: Mapping[str, Any],
        truth: Mapping[str, NDArray[np.float64]],
    ) -> None:
        if not weights or set(weights) - set(masks):
            raise AnkleError(
                f"Weights of {list(weights)} and masks of {list(masks)} were given: each bone "
                "needs both."
            )
        given = {"sequence": sequence, "static scan": static}
        given |= {f"mask of {bone}": mask for bone, mask in masks.items()}
        for name, volume in given.items():
            check_values(volume, name)
        turned = image_3d(static, "static scan")
        given |= {f"weights of {bone}": Volume(np.asarray(soft), static.affine)
                  for bone, soft in weights.items()}  # fmt: skip
        sentences = [not_finite(volume, name, NEEDED) for name, volume in given.items()]
        for sentence in (*sentences, *masks_on(turned, masks)[1]):
            if sentence:
                raise AnkleError(sentence)
        self.sequence = to_orientation(sequence)
        self.static = Volume(static.data.astype(np.float32), static.affine)
        self.weights = dict(weights)
        self._options = dict(options)
        self._truth = {bone: _per_frame(known, sequence.n_frames, f"True poses of {bone}")
                       for bone, known in truth.items()}  # fmt: skip
        thickness = slice_direction(sequence.affine).thickness_mm
        self._regions = {bone: cut_region(self.static, soft, bone, thickness)
                         for bone, soft in weights.items()}  # fmt: skip
        self._bones = {bone: cut_to_mask(masks[bone]) for bone in weights}
        self._start = _start(start, sequence.n_frames)

    def pose(
        self, bone: str, frame: int, turn_deg: Sequence[float], shift_mm: Sequence[float]
    ) -> Matrix:
        """Return the start pose of a frame, then turned about the bone's centre and shifted."""
        begin = self._start[frame]
        centre = apply(begin, self._regions[bone].centre)
        return compose(rigid(turn_deg, shift_mm, centre), begin)

    def agreement(self, bone: str, frame: int, pose: Matrix) -> Agreement:
        """Compare a frame with the carried static scan around a bone."""
        return agreement(self.sequence.frame(frame), self._regions[bone], pose)

    def run(self, bone: str, frame: int, pose: Matrix) -> Run:
        """Register one bone to one frame from a pose; raises what `registration.register` does."""
        image = self.sequence.frame(frame)
        found = register(
            image, self.static, {bone: self.weights[bone]}, start=pose, **self._options
        )
        end, error_mm = found.poses[0, 0], float("nan")
        if bone in self._truth:
            points = bone_points(self._bones[bone].data, self._bones[bone].affine)
            error_mm = tre_mm(end, self._truth[bone][frame], points)
        before = self.agreement(bone, frame, pose).correlation
        after, reason = float(found.correlations[0, 0]), str(found.reasons[0, 0])
        return Run(bone, frame, before, after, reason, error_mm, end)

    def carried(self, bone: str, frame: int, pose: Matrix) -> Volume:
        """Return a bone's mask carried onto the whole grid of a frame; it may be empty there."""
        image = self.sequence.frame(frame)
        return moved_mask(self._bones[bone], pose, image.shape, image.affine)

    def cut(
        self, bone: str, frame: int, index: int, box: tuple[slice, slice], pose: Matrix
    ) -> tuple[Slice, Slice]:
        """Return rows and columns of a sagittal slice of a frame, and of what a pose carries there.

        Both come with the outline of the carried bone; the static scan is as thick as the slice.
        """
        image = self.sequence.frame(frame)
        rows, columns = box
        part = columns, rows, slice(index, index + 1)
        shape, affine = part_of(part, image.affine)
        carried = resample(self.static, shape, affine, pose=pose, slice_samples=SLICE_SAMPLES)
        mask = {bone: moved_mask(self._bones[bone], pose, shape, affine)}
        there = Volume(image.data[part], affine)
        return slice_of(there, "sagittal", 0, mask), slice_of(carried, "sagittal", 0, mask)


def _start(start: NDArray[np.float64] | None, n_frames: int) -> NDArray[np.float64]:
    given = np.eye(4) if start is None else np.asarray(start, dtype=np.float64)
    if given.shape == (4, 4):
        given = np.broadcast_to(given, (n_frames, 4, 4))
    poses = _per_frame(given, n_frames, "Start poses")
    for frame, pose in enumerate(poses):
        if not is_rigid(pose):
            raise AnkleError(
                f"The start pose of frame {frame} is no rotation and shift: {pose.tolist()}."
            )
    return poses


def _per_frame(poses: NDArray[Any], n_frames: int, name: str) -> NDArray[np.float64]:
    given = np.asarray(poses, dtype=np.float64)
    if given.shape != (n_frames, 4, 4):
        raise AnkleError(
            f"{name} have shape {given.shape}: one (4, 4) matrix for each of {n_frames} frames is "
            "wanted."
        )
    return given
