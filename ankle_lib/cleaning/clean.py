"""Clean a subject: whether it is usable, why not, and every correction; and a whole cohort."""

import shutil
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ankle_lib.cache import remembered
from ankle_lib.cleaning.checks import (
    Findings,
    Scan,
    check_bones,
    read_masks,
    read_sequences,
    read_static,
)
from ankle_lib.cleaning.laterality import fix_left_right
from ankle_lib.cleaning.placing import choose_static_affine, masks_on_static, sequences_in_frame
from ankle_lib.files import write_csv, write_text
from ankle_lib.manifest.schema import Cohort, Geometry, Subject
from ankle_lib.parallel import run_all
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, save, to_orientation

MAX_JOBS = 8
"""Subjects at a time; each takes about 0.6 GB at the report's grid."""


@dataclass
class Cleaned(Findings):
    """Everything that was found out about one subject, and its clean images.

    Images are in the common frame of reference, axes posterior, superior, right; None or empty if
    the subject is not included.
    """

    side: str | None = None
    static: Scan | None = None
    masks: dict[str, Volume] = field(default_factory=dict)
    sequences: dict[str, Scan] = field(default_factory=dict)
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

    Examples
    --------
    >>> cleaned = clean_subject(cohort.subject("T01"), cohort.geometry)
    >>> cleaned.included, [correction.text for correction in cleaned.corrections]
    """
    cleaned = Cleaned(side=subject.side)
    static = read_static(subject, geometry, cleaned)
    masks = read_masks(subject, cleaned)
    sequences = read_sequences(subject, geometry, cleaned)
    if static is not None:
        static = choose_static_affine(static, masks, sequences, cleaned)
        on_grid, carries = masks_on_static(static, masks, cleaned)
        if len(on_grid) == len(BONES):
            static, on_grid, cleaned.side = fix_left_right(static, on_grid, subject, cleaned)
        check_bones(static, on_grid, cleaned)
        sequences = sequences_in_frame(static, sequences, carries, cleaned)
    if not sequences:
        dropped = [c for c in cleaned.corrections if c.kind == "sequence dropped"]
        detail = "; ".join(f"{c.file} {c.text}" for c in dropped) or "there is none"
        cleaned.exclude("no usable sequence", f"no usable sequence: {detail}")
    if cleaned.reasons or static is None:
        cleaned.corrections.clear()
        return cleaned
    cleaned.static = _canonical(static)
    cleaned.masks = {bone: to_orientation(mask) for bone, mask in on_grid.items()}
    cleaned.sequences = {sequence.name: _canonical(sequence) for sequence in sequences}
    return cleaned


def clean_cohort(cohort: Cohort, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clean every subject of a cohort and write those that are usable.

    Written are ``sub-<code>/…nii.gz`` of each included subject, ``participants.tsv``, and
    ``tables/inclusion.csv`` and ``tables/corrections.csv``. Subjects that an earlier, interrupted
    call has finished are not done again. Several subjects are done at a time, on this machine or
    on a cluster (see `parallel.run_all`).

    Parameters
    ----------
    cohort : Cohort
        With absolute paths, as `manifest.document.Manifest.cohort` gives it.
    out : Path
        Folder of the results.

    Returns
    -------
    inclusion : DataFrame
        One row per subject: subject, group, side, included, reasons, kinds, n_active, n_passive,
        notes. ``reasons`` are all that were found, ``kinds`` the same in a few words.
    corrections : DataFrame
        One row per file of an included subject that was changed: subject, file, correction, kind.
    """
    rows = run_all(
        partial(_remembered_row, cohort.geometry, out),
        cohort.subjects,
        n_jobs=MAX_JOBS,
        workers="threads",
        desc="cleaning subjects",
    )
    changed = [{"subject": row["subject"]} | one for row in rows for one in row["corrections"]]
    corrections = pd.DataFrame(changed, columns=["subject", "file", "text", "kind"])
    corrections = corrections.rename(columns={"text": "correction"})
    inclusion = pd.DataFrame(rows).drop(columns="corrections", errors="ignore")
    write_csv(out / "tables" / "inclusion.csv", inclusion)
    write_csv(out / "tables" / "corrections.csv", corrections)
    people = inclusion[inclusion["included"]]
    participants = people[["subject", "group", "side"]].fillna({"side": "n/a"})
    participants["subject"] = "sub-" + participants["subject"]
    participants = participants.rename(columns={"subject": "participant_id"})
    text = participants.to_csv(sep="\t", index=False, lineterminator="\n")
    write_text(out / "participants.tsv", text)
    return inclusion, corrections


def _remembered_row(geometry: Geometry, out: Path, subject: Subject) -> dict[str, Any]:
    return remembered(
        out / ".records" / f"{subject.code}.json",
        partial(_cleaned_row, subject, geometry, out / f"sub-{subject.code}"),
        inputs=[path for _, path in subject.files()],
        settings=[subject.model_dump(mode="json"), geometry.model_dump()],
    )


def _cleaned_row(subject: Subject, geometry: Geometry, folder: Path) -> dict[str, Any]:
    """Clean one subject and write its images; return its row of the table of inclusion."""
    shutil.rmtree(folder, ignore_errors=True)
    cleaned = clean_subject(subject, geometry)
    if cleaned.included:
        _write_images(cleaned, folder, f"sub-{subject.code}")
    kinds = {sequence.name: sequence.kind for sequence in subject.sequences}
    used = [kinds[name] for name in cleaned.sequences]
    return {
        "subject": subject.code,
        "group": subject.group,
        "side": cleaned.side,
        "included": cleaned.included,
        "reasons": "; ".join(reason.text for reason in cleaned.reasons),
        "kinds": "; ".join(dict.fromkeys(reason.kind for reason in cleaned.reasons)),
        "n_active": used.count("active"),
        "n_passive": used.count("passive"),
        "notes": "; ".join(cleaned.notes),
        "corrections": [asdict(correction) for correction in cleaned.corrections],
    }


def _write_images(cleaned: Cleaned, folder: Path, name: str) -> None:
    assert cleaned.static is not None
    static = cleaned.static
    images = {"static": (static.volume, static.scale)}
    images |= {f"static_label-{bone}_mask": (mask, None) for bone, mask in cleaned.masks.items()}
    for sequence, scan in cleaned.sequences.items():
        for index in range(scan.volume.n_frames):
            frame = scan.volume.frame(index)
            images[f"task-{sequence}_frame-{index:02d}"] = (frame, scan.scale)
    for image, (volume, scale) in images.items():
        save(folder / f"{name}_{image}.nii.gz", volume.data, volume.affine, scale=scale)


def _canonical(scan: Scan) -> Scan:
    volume = to_orientation(scan.volume)
    return scan.with_image(volume.data, volume.affine)
