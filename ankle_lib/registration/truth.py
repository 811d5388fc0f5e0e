"""What only a simulation knows: true poses, true labels, and how frames look in small voxels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, load, to_orientation

TRUE_LABELS = {bone: number for number, bone in enumerate(BONES, 1)}
"""Numbers of the bones in the files of the truth."""


TruePoses = list[dict[str, NDArray[np.float64]]]
"""For each frame, bone to (4, 4), static world to frame world, RAS mm."""


def read_true_poses(truth: Path, subject: str, sequence: str) -> TruePoses:
    """Read the true poses of a sequence, where they are known.

    Parameters
    ----------
    truth : Path
        Folder with ``T01/active_run-01.json`` etc., as a simulated cohort has it.
    subject, sequence : str

    Returns
    -------
    TruePoses
        Empty for real scans.
    """
    path = truth / subject / f"{sequence}.json"
    if not path.exists():
        return []
    frames = json.loads(path.read_text(encoding="utf-8"))["frames"]
    return [{bone: np.array(pose) for bone, pose in frame["poses"].items()} for frame in frames]


def read_true_labels(truth: Path, subject: str, sequence: str) -> NDArray[np.uint8] | None:
    """Read the true labels of a sequence (see `TRUE_LABELS`), where they are known.

    Returns
    -------
    (I, J, K, F) uint8 array, or None
        On the frames' grid, axes P, S, R. None for real scans.
    """
    path = truth / subject / f"{sequence}_dseg.nii.gz"
    return to_orientation(load(path)).data.astype(np.uint8) if path.exists() else None


def read_sharp(truth: Path, subject: str, sequence: str) -> dict[int, Volume]:
    """Read the sharp truth of a sequence's frames, where there is one.

    Parameters
    ----------
    truth : Path
        Folder with ``T01/active_run-01_frame-07_sharp.nii.gz`` etc., as a simulated cohort has it.
    subject, sequence : str

    Returns
    -------
    dict of frame to Volume
        Axes P, S, R, on a part of the static scan's grid, in the frame's world and its units.
        Empty for real scans, whose truth nobody knows.
    """
    pattern = re.compile(rf"{re.escape(sequence)}_frame-(\d+)_sharp\.nii\.gz")
    folder = truth / subject
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match:
            found[int(match[1])] = to_orientation(load(path))
    return found


def read_looks(truth: Path, subject: str, sequence: str) -> dict[tuple[int, str], Volume]:
    """Read the frames of a sequence that were also taken in other ways, where there are any.

    Their true labels are those of the same frame, see `read_true_labels`.

    Parameters
    ----------
    truth : Path
        Folder with ``T01/active_run-01_frame-04_look-t1.nii.gz`` etc., as a simulated cohort has
        it.
    subject, sequence : str

    Returns
    -------
    dict of (frame, look) to Volume
        Axes P, S, R, on the frames' grid, in the frame's world and its units. Empty for real
        scans, which were taken once.
    """
    pattern = re.compile(rf"{re.escape(sequence)}_frame-(\d+)_look-(.+)\.nii\.gz")
    folder = truth / subject
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match:
            found[int(match[1]), match[2]] = to_orientation(load(path))
    return found
