"""What only a simulation knows of a frame: how it looks without noise, in small voxels."""

from __future__ import annotations

import re
from pathlib import Path

from ankle_lib.volume import Volume, load, to_orientation

__all__ = ["read_sharp"]


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
