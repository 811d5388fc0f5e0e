"""What only a simulation knows of a sequence, and how far a pose is from it.

The error of a pose is told on the bone in mm, and in degrees about the anatomical axes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, compose, invert, rigid
from ankle_lib.metrics import dice
from ankle_lib.presets import LABELS
from ankle_lib.volume import Volume, load, to_orientation

TruePoses = list[dict[str, NDArray[np.float64]]]
"""For each frame, bone to (4, 4), static world to frame world, RAS mm."""

AXES = ("lr", "ap", "si")
"""Anatomical axes left-right, anterior-posterior, superior-inferior: world x, y, z."""

ERRORS = ("dice", "tre_mm", "rotation_error_deg", *(f"rotation_{axis}_deg" for axis in AXES))
"""Of a pose, see `SequenceTruth.errors`."""

MAX_POINTS = 2000


def truth_files(truth: Path, subject: str, sequence: str) -> tuple[Path, Path]:
    """Return the files with the true poses and the true labels of a sequence, in ``truth``.

    ``truth`` is a folder with ``T01/active_run-01.json``, ``T01/active_run-01_dseg.nii.gz`` etc.,
    as a simulated cohort has it. For real scans there are no such files.
    """
    return truth / subject / f"{sequence}.json", truth / subject / f"{sequence}_dseg.nii.gz"


def read_true_poses(truth: Path, subject: str, sequence: str) -> TruePoses:
    """Read the true poses of a sequence (see `truth_files`); empty for real scans."""
    path, _ = truth_files(truth, subject, sequence)
    if not path.exists():
        return []
    frames = json.loads(path.read_text(encoding="utf-8"))["frames"]
    return [{bone: np.array(pose) for bone, pose in frame["poses"].items()} for frame in frames]


def read_true_labels(truth: Path, subject: str, sequence: str) -> NDArray[np.uint8] | None:
    """Read the true labels of a sequence (see `truth_files` and `presets.LABELS`).

    Returns
    -------
    (I, J, K, F) uint8 array, or None
        On the frames' grid, axes P, S, R. None for real scans.
    """
    _, path = truth_files(truth, subject, sequence)
    return to_orientation(load(path)).data.astype(np.uint8) if path.exists() else None


def read_sharp(truth: Path, subject: str, sequence: str) -> dict[int, Volume]:
    """Read the sharp truth of a sequence's frames (``active_run-01_frame-07_sharp.nii.gz``).

    Returns
    -------
    dict of frame to Volume
        Axes P, S, R, on a part of the static scan's grid, in the frame's world and its units.
        Empty for real scans, whose truth nobody knows.
    """
    found = _read_all(truth / subject, rf"{re.escape(sequence)}_frame-(\d+)_sharp\.nii\.gz")
    return {int(frame): volume for (frame,), volume in found.items()}


def read_looks(truth: Path, subject: str, sequence: str) -> dict[tuple[int, str], Volume]:
    """Read frames that were also taken in other ways (``active_run-01_frame-04_look-t1.nii.gz``).

    Their true labels are those of the same frame, see `read_true_labels`.

    Returns
    -------
    dict of (frame, look) to Volume
        Axes P, S, R, on the frames' grid, in the frame's world and its units. Empty for real
        scans, which were taken once.
    """
    found = _read_all(truth / subject, rf"{re.escape(sequence)}_frame-(\d+)_look-(.+)\.nii\.gz")
    return {(int(frame), look): volume for (frame, look), volume in found.items()}


def _read_all(folder: Path, pattern: str) -> dict[tuple[str, ...], Volume]:
    """Read the images of a folder, if there is one, by the groups of a pattern of their names."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    matches = [(path, re.fullmatch(pattern, path.name)) for path in paths]
    return {match.groups(): to_orientation(load(path)) for path, match in matches if match}


@dataclass(frozen=True, eq=False)
class SequenceTruth:
    """True poses and labels of one sequence."""

    poses: TruePoses
    labels: NDArray[np.uint8]
    """(I, J, K, F), see `read_true_labels`."""

    @classmethod
    def read(cls, truth: Path | None, subject: str, sequence: str) -> Self | None:
        """Read both (see `truth_files`); None for real scans."""
        if truth is None or (labels := read_true_labels(truth, subject, sequence)) is None:
            return None
        return cls(read_true_poses(truth, subject, sequence), labels)

    def errors(
        self,
        frame: int,
        pose: NDArray[np.float64],
        carried: Mapping[str, Volume],
        points: Mapping[str, NDArray[np.float64]],
    ) -> dict[str, float]:
        """Compare one pose and the masks that it carries with the truth; bones are averaged."""
        rows = []
        for bone, mask in carried.items():
            true_pose = self.poses[frame][bone]
            turned = rotation_errors_deg(pose, true_pose)
            overlap = dice(mask.data, self.labels[..., frame] == LABELS[bone])
            tre = tre_mm(pose, true_pose, points[bone])
            rows.append([overlap, tre, float(np.linalg.norm(turned)), *turned])
        return dict(zip(ERRORS, np.mean(rows, axis=0).tolist(), strict=True))

    def disturbed(
        self, points: Mapping[str, NDArray[np.float64]], angle_deg: float, shift_mm: float
    ) -> NDArray[np.float64]:
        """Return start poses (F, R, 4, 4) off the truth, the same at every call."""
        generator = np.random.default_rng(0)
        starts = np.empty((len(self.poses), len(points), 4, 4))
        for frame, true_poses in enumerate(self.poses):
            for index, (bone, places) in enumerate(points.items()):
                axis, shift = generator.normal(size=(2, 3))
                axis *= angle_deg / np.linalg.norm(axis)
                shift *= shift_mm / np.linalg.norm(shift)
                starts[frame, index] = true_poses[bone] @ rigid(axis, shift, places.mean(axis=0))
        return starts


def bone_points(mask: NDArray[np.bool_], affine: ArrayLike) -> NDArray[np.float64]:
    """Return world positions, shape (N, 3) mm, spread evenly over the voxels of a bone.

    At most about 2000: a rigid motion needs no more to be measured.

    Raises
    ------
    AnkleError
        If the mask is empty.
    """
    voxels = np.argwhere(mask)
    if len(voxels) == 0:
        raise AnkleError("the error of a pose was asked for on an empty mask")
    return apply(affine, voxels[:: max(1, len(voxels) // MAX_POINTS)])


def tre_mm(pose: ArrayLike, truth: ArrayLike, points: NDArray[np.float64]) -> float:
    """Return the target registration error: mean distance in mm between points moved by both.

    Parameters
    ----------
    pose, truth : array, shape (4, 4)
        Static world to frame world, RAS mm.
    points : array, shape (N, 3)
        Of the bone in the static world, see `bone_points`.
    """
    return float(np.linalg.norm(apply(pose, points) - apply(truth, points), axis=1).mean())


def rotation_errors_deg(pose: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Return the rotation from the true to the estimated pose about left-right, A-P and S-I.

    Returns
    -------
    array, shape (3,)
        Components of the rotation vector in degrees, in the frame's world (see `AXES`); its
        length is the angle of the whole error.
    """
    error = compose(pose, invert(truth))
    return np.asarray(Rotation.from_matrix(error[:3, :3]).as_rotvec(degrees=True))
