"""What the registration hands on: accepted registrations, and no other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.pose_files import FramePose, read_transforms
from ankle_lib.quality.review_sheet import AUTOMATIC, SHEET_NAME, accepted, same_correlation


@dataclass(frozen=True)
class RegisteredFrame:
    """One bone in one frame, whose registration was accepted."""

    subject: str
    sequence: str
    """As in ``active_run-01``."""
    frame: int
    bone: str
    pose: NDArray[np.float64]
    """(4, 4), world of the static scan to world of the frame, RAS mm."""
    correlation: float
    """Of the frame and the moved static scan; NaN if unknown."""
    mask: Path
    """The moved mask on the frame's grid."""
    moved_static: Path
    """The static scan moved with the bone, as thick as the frame's slices, on the frame's grid."""


def frame_path(
    folder: Path, subject: str, sequence: str, frame: int, bone: str, *, image: bool = False
) -> Path:
    """Return the file of a moved mask, or with ``image`` of the moved static scan."""
    what = "_desc-moved_static" if image else "_mask"
    name = f"sub-{subject}_task-{sequence}_frame-{frame:02d}_label-{bone}{what}.nii.gz"
    return folder / f"sub-{subject}" / name


def read_registered(folder: Path) -> list[RegisteredFrame]:
    """Return the accepted registrations of a finished registration chapter.

    What the review sheet calls rejected or unsure is not among them, whoever said so.

    Parameters
    ----------
    folder : Path
        With ``qc_sheet.csv`` and ``sub-T01/sub-T01_task-active_run-01_transforms.json`` etc.

    Raises
    ------
    AnkleError
        If a file is missing or damaged, or if a verdict speaks of another registration than the
        one in the folder.
    """
    sheet = folder / SHEET_NAME
    poses: dict[tuple[str, str], dict[tuple[int, str], FramePose]] = {}
    registered = []
    for row in accepted(sheet).to_dict("records"):
        subject, sequence = row["subject"], row["sequence"]
        frame, bone = int(row["frame"]), row["bone"]
        if (subject, sequence) not in poses:
            poses[subject, sequence] = _poses(folder, subject, sequence)
        found = poses[subject, sequence].get((frame, bone))
        if found is None and row["reviewer"] != AUTOMATIC:
            continue  # a person's verdict outlives its registration
        correlation = np.nan if found is None or found.correlation is None else found.correlation
        if found is None or not same_correlation(correlation, row["correlation"]):
            now = "is none" if found is None else f"has {correlation:.4f}"
            raise AnkleError(
                f"{sheet}: judges a registration of {subject} {sequence} frame {frame} {bone} with "
                f"correlation {row['correlation']:.4f}, but there {now}: run the registration again"
            )
        files = [frame_path(folder, subject, sequence, frame, bone, image=i) for i in (False, True)]
        for path in files:
            if not path.exists():
                raise AnkleError(f"{path}: no such file: run the registration again")
        registered.append(
            RegisteredFrame(
                subject, sequence, frame, bone, np.asarray(found.matrix), correlation, *files
            )
        )
    return registered


def _poses(folder: Path, subject: str, sequence: str) -> dict[tuple[int, str], FramePose]:
    path = folder / f"sub-{subject}" / f"sub-{subject}_task-{sequence}_transforms.json"
    if not path.exists():
        return {}
    return {(pose.frame, pose.bone): pose for pose in read_transforms(path)}
