"""The frames of a clean cohort, and the bones of its static scans, carried onto them.

Frames have an image, accepted labels and, of a phantom, true ones; bones are carried to where they
are, or off by a known error.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ankle_lib.geometry import Grid, apply, block_affine, rigid, world_to_voxel
from ankle_lib.learning.scans import Scan, coarser, factor_for, with_arrays
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import dynamic_item, zscore
from ankle_lib.presets import LABELS
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.truth import bone_points, read_true_labels, read_true_poses, tre_mm
from ankle_lib.volume import Volume, canonical_voxel_size, load, to_orientation

Masks = Mapping[str, NDArray[np.bool_]]

Poses = Mapping[str, NDArray[np.float64]]
"""Of a sequence: bone to (F, 4, 4), static world to frame world, RAS mm; NaN where unknown."""

CohortPoses = Mapping[tuple[str, str], Poses]
"""(Subject, sequence) to poses."""

CUT_MM = 2.0
"""A bone that ends so close to the static scan's upper border does not end there: it is cut."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a sequence; equal to nothing but itself.

    Attributes
    ----------
    sequence : str
        As in ``active_run-01``.
    number : int
        From 0.
    scan : Scan
        Normalised inside the foot, axes posterior, superior, right. Its labels are the bones
        whose registration was accepted; others are unknown.
    affine : (4, 4)
        Of the scan's grid, to world RAS, mm.
    truth : mapping of bone to (I, J, K) bool array
        Empty for real scans.
    """

    sequence: str
    number: int
    scan: Scan
    affine: NDArray[np.float64]
    truth: Masks

    @property
    def code(self) -> str:
        """Code of the subject."""
        return self.scan.code

    @property
    def grid(self) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
        """Shape and affine of the scan."""
        i, j, k = self.scan.item.image.shape
        return (i, j, k), self.affine

    @cached_property
    def reference(self) -> Scan:
        """The scan with what a segmentation is compared with.

        That is the truth, or what was accepted where there is none.
        """
        return self.labelled(self.truth or self.scan.item.labels)

    def labelled(self, labels: Masks) -> Scan:
        """Return the scan with other labels."""
        return replace(self.scan, item=replace(self.scan.item, labels=labels))

    def with_image(self, image: Volume) -> "Frame":
        """Return the frame with another image of it, normalised inside the same foot."""
        item = self.scan.item
        item = replace(item, image=zscore(to_orientation(image).data, item.region))
        return replace(self, scan=replace(self.scan, item=item))

    def below(self, row: int) -> "Frame":
        """Return the first so many rows of the frame, which are its lowest."""
        lower = with_arrays(self.scan, lambda image: image[:, :row], lambda mask: mask[:, :row])
        truth = {bone: mask[:, :row] for bone, mask in self.truth.items()}
        return replace(self, scan=lower, truth=truth)

    def with_pixels(self, pixel_mm: float) -> "Frame":
        """Return the frame with pixels of about this size to learn from; see `coarser`."""
        factor = factor_for(self.scan, pixel_mm)
        if factor == 1:
            return self
        scan, truth = (
            coarser(self.labelled(labels), factor, to_learn=True)
            for labels in (self.scan.item.labels, self.truth)
        )
        affine = block_affine(self.affine, (factor, factor, 1))
        return Frame(self.sequence, self.number, scan, affine, truth.item.labels)


def read_frames(
    subjects: Iterable[CleanSubject],
    masked: Path,
    accepted: Sequence[RegisteredFrame],
    truth: Path | None = None,
    *,
    to_learn: bool = False,
) -> Iterator[Frame]:
    """Yield every frame of the subjects, labelled or not.

    Parameters
    ----------
    subjects : iterable of CleanSubject
    masked : Path
        Results of chapter 02.
    accepted : sequence of RegisteredFrame
        From `review_sheet.read_registered`.
    truth : Path, optional
        Of a simulated cohort.
    to_learn : bool
        Without the rows above the static scan. There the tibia goes on, but its label, which is
        the static mask moved, does not: a network would learn that legs end.
    """
    for subject in subjects:
        ends = _cut_ends(subject) if to_learn else {}
        own = [one for one in accepted if one.subject == subject.code]
        for sequence, paths in subject.sequences.items():
            labels = read_true_labels(truth, subject.code, sequence) if truth else None
            for number, path in enumerate(paths):
                bones = [one for one in own if (one.sequence, one.frame) == (sequence, number)]
                item = dynamic_item(subject, sequence, number, masked, bones)
                affine = to_orientation(load(path)).affine
                scan = Scan(item, subject.group, canonical_voxel_size(affine))
                true = {}
                if labels is not None:
                    true = {bone: labels[..., number] == n for bone, n in LABELS.items()}
                frame = Frame(sequence, number, scan, affine, true)
                rows = [
                    world_to_voxel(affine, apply(one.pose, ends[one.bone]))[:, 1].min()
                    for one in bones
                    if one.bone in ends
                ]
                yield frame.below(max(1, int(np.floor(min(rows) + 0.5)))) if rows else frame


def _cut_ends(subject: CleanSubject) -> dict[str, NDArray[np.float64]]:
    """Return points (N, 3) in world mm of each bone that the static scan cuts off above."""
    ends = {}
    for bone, path in subject.masks.items():
        mask = to_orientation(load(path))
        filled = np.argwhere(mask.data > 0)
        top = filled[:, 1].max()
        if (mask.shape[1] - 1 - top) * mask.voxel_size_mm[1] <= CUT_MM:
            ends[bone] = apply(mask.affine, filled[filled[:, 1] == top])
    return ends


# --- the bones of the static scan ---


@dataclass(frozen=True, eq=False)
class StaticBones:
    """The bones of one subject's static scan.

    Attributes
    ----------
    masks : mapping of bone to Volume
        On the scan's whole grid.
    """

    masks: Mapping[str, Volume]

    @cached_property
    def small(self) -> dict[str, Volume]:
        """The masks, cut to each bone."""
        return {bone: cut_to_mask(mask) for bone, mask in self.masks.items()}

    @cached_property
    def points(self) -> dict[str, NDArray[np.float64]]:
        """World positions (N, 3) in mm, spread over each bone."""
        return {bone: bone_points(m.data, m.affine) for bone, m in self.small.items()}

    @classmethod
    def read(cls, subject: CleanSubject) -> "StaticBones":
        """Read the masks of a clean subject."""
        return cls({bone: to_orientation(load(path)) for bone, path in subject.masks.items()})

    @property
    def centres(self) -> dict[str, NDArray[np.float64]]:
        """The middle (3,) of each bone, world mm."""
        return {bone: points.mean(axis=0) for bone, points in self.points.items()}

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
    centre = points.mean(axis=0)
    lever = np.linalg.norm(points - centre, axis=1).mean()
    axis, shift = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    size = error_mm
    for _ in range(3):  # the mean distance is not quite linear in the size
        motion = rigid(axis * np.rad2deg(size / (2 * lever)), shift * size / 2, centre)
        size *= error_mm / tre_mm(motion, np.eye(4), points)
    return motion
