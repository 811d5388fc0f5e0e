"""One subject: whether it is usable, why not, and every correction."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ankle_lib.cleaning.bones import check_bones, fix_left_right
from ankle_lib.cleaning.findings import Correction, Log, Reason, Scan
from ankle_lib.cleaning.placing import choose_static_affine, masks_on_static, sequences_in_frame
from ankle_lib.cleaning.reading import read_masks, read_sequences, read_static
from ankle_lib.manifest.schema import Geometry, Subject
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, to_orientation


@dataclass(frozen=True)
class CleanScan:
    """An image in the common frame of reference, axes posterior, superior, right."""

    volume: Volume
    scale: float | None
    """Slope with which it can be stored as int16 without loss; None to store it as it is."""


@dataclass(frozen=True)
class Cleaned:
    """Everything that was found out about one subject, and its clean images."""

    code: str
    group: str
    side: str | None
    reasons: tuple[Reason, ...]
    corrections: tuple[Correction, ...]
    notes: tuple[str, ...]
    static: CleanScan | None = None
    """Images are None or empty if the subject is not included."""
    masks: dict[str, Volume] = field(default_factory=dict)
    sequences: dict[str, CleanScan] = field(default_factory=dict)
    """4D scans by name, e.g. ``"active_run-01"``."""

    @property
    def included(self) -> bool:
        """Whether nothing speaks against the subject."""
        return not self.reasons


def clean_subject(subject: Subject, geometry: Geometry) -> Cleaned:
    """Check and correct the files of one subject.

    All checks are made, also after one has failed, so that every reason is known at once:
    exactly one readable static scan of the expected resolution, without too many missing voxels;
    a mask of each bone, on the static grid, not empty, of a plausible volume and inside the field
    of view; at least one sequence with the expected frames and resolution and no empty frame.

    Corrected are: masks that are not binary; a qform and an sform that disagree; masks and
    sequences in another frame of reference than the static scan; images, masks or both mirrored
    left to right; a few missing voxels. Unusable sequences are dropped.

    Parameters
    ----------
    subject : Subject
        Code, group, documented side, and paths of the files.
    geometry : Geometry
        Voxel sizes and number of frames to expect.
    """
    log = Log()
    static = read_static(subject, geometry, log)
    masks = read_masks(subject, log)
    sequences = read_sequences(subject, geometry, log)
    side: str | None = subject.side
    if static is not None:
        static = choose_static_affine(static, masks, sequences, log)
        on_grid, carries = masks_on_static(static, masks, log)
        if len(on_grid) == len(BONES):
            static, on_grid, side = fix_left_right(static, on_grid, subject, log)
        check_bones(static, on_grid, log)
        sequences = sequences_in_frame(static, sequences, carries, log)
    if not sequences:
        dropped = [f"{c.file} {c.text}" for c in log.corrections if c.kind == "sequence dropped"]
        detail = "; ".join(dropped) if dropped else "there is none"
        log.reasons.append(Reason("no usable sequence", f"no usable sequence: {detail}"))
    if log.reasons or static is None:
        return Cleaned(subject.code, subject.group, side, tuple(log.reasons), (), tuple(log.notes))
    return Cleaned(
        subject.code,
        subject.group,
        side,
        (),
        tuple(log.corrections),
        tuple(log.notes),
        _canonical(static),
        {bone: to_orientation(mask) for bone, mask in on_grid.items()},
        {sequence.name: _canonical(sequence) for sequence in sequences},
    )


def _canonical(scan: Scan) -> CleanScan:
    header, data = scan.header, scan.volume.data
    # Where a scanner's integers were scaled, the same slope stores them again without loss.
    fits = header.dtype == np.int16 and header.intercept == 0 and header.slope > 0
    scale = header.slope if fits and data.dtype.kind == "f" else None
    return CleanScan(to_orientation(scan.volume), scale)
