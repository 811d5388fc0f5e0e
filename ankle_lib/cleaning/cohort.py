"""The whole cohort: subject after subject, clean images in BIDS names, and the tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from tqdm.auto import tqdm

import ankle_lib.volume
from ankle_lib.cleaning import bones, laterality, placing, reading, reference, repairs, subject
from ankle_lib.cleaning.subject import Cleaned, CleanScan, clean_subject
from ankle_lib.files import write_csv, write_text
from ankle_lib.manifest.schema import Cohort, Geometry, Subject
from ankle_lib.masking import foot
from ankle_lib.resume import code_digest, remembered
from ankle_lib.volume import save

MAX_JOBS = 8
"""Subjects at a time; each takes about 0.6 GB at the report's grid."""

_MODULES = (
    ankle_lib.volume,
    foot,
    bones,
    laterality,
    placing,
    reading,
    reference,
    repairs,
    subject,
)


@dataclass(frozen=True)
class CleanCohort:
    """The tables of a cleaned cohort."""

    inclusion: pd.DataFrame
    """One row per subject: subject, group, side, included, reasons, kinds, n_active, n_passive,
    notes. ``reasons`` are all that were found, ``kinds`` the same in a few words."""
    corrections: pd.DataFrame
    """One row per file of an included subject that was changed: subject, file, correction, kind."""


def clean_cohort(
    cohort: Cohort, out: Path, *, n_jobs: int | None = None, progress: bool = True
) -> CleanCohort:
    """Clean every subject of a cohort and write those that are usable.

    Written are ``sub-<code>/…nii.gz`` of each included subject, ``participants.tsv``, and
    ``tables/inclusion.csv`` and ``tables/corrections.csv``. Subjects that an earlier, interrupted
    call has finished are not done again.

    Parameters
    ----------
    cohort : Cohort
        With absolute paths, as `manifest.Manifest.cohort` gives it.
    out : Path
        Folder of the results.
    n_jobs : int, optional
        Subjects at a time, in threads; the number of processor cores by default, at most 8.
    progress : bool
        Show a bar.
    """
    jobs = n_jobs or min(joblib.cpu_count(), MAX_JOBS)
    parallel = joblib.Parallel(n_jobs=jobs, backend="threading", return_as="generator")
    tasks = (joblib.delayed(_clean_one)(one, cohort.geometry, out) for one in cohort.subjects)
    bar = tqdm(
        parallel(tasks),
        total=len(cohort.subjects),
        desc="cleaning",
        unit="subject",
        disable=not progress,
    )
    return _write_tables(list(bar), out)


def _clean_one(one: Subject, geometry: Geometry, out: Path) -> dict[str, Any]:
    files = [path for _, path in one.files()]
    settings = [one.model_dump(mode="json"), geometry.model_dump(), code_digest(*_MODULES)]

    def work() -> dict[str, Any]:
        folder = out / f"sub-{one.code}"
        shutil.rmtree(folder, ignore_errors=True)
        cleaned = clean_subject(one, geometry)
        if cleaned.included:
            _write_images(cleaned, folder)
        return _summary(one, cleaned)

    return remembered(out / ".records" / f"{one.code}.json", files, settings, work)


def _summary(one: Subject, cleaned: Cleaned) -> dict[str, Any]:
    kinds = {sequence.name: sequence.kind for sequence in one.sequences}
    used = [kinds[name] for name in cleaned.sequences]
    return {
        "subject": one.code,
        "group": one.group,
        "side": cleaned.side,
        "included": cleaned.included,
        "reasons": "; ".join(reason.text for reason in cleaned.reasons),
        "kinds": "; ".join(dict.fromkeys(reason.kind for reason in cleaned.reasons)),
        "n_active": used.count("active"),
        "n_passive": used.count("passive"),
        "notes": "; ".join(cleaned.notes),
        "corrections": [asdict(correction) for correction in cleaned.corrections],
    }


def _write_images(cleaned: Cleaned, folder: Path) -> None:
    name = f"sub-{cleaned.code}"
    assert cleaned.static is not None
    _save(folder / f"{name}_static.nii.gz", cleaned.static)
    for bone, mask in cleaned.masks.items():
        save(folder / f"{name}_static_label-{bone}_mask.nii.gz", mask.data, mask.affine)
    for sequence, scan in cleaned.sequences.items():
        for index, frame in enumerate(_frames(scan)):
            _save(folder / f"{name}_task-{sequence}_frame-{index:02d}.nii.gz", frame)


def _frames(scan: CleanScan) -> Iterator[CleanScan]:
    for index in range(scan.volume.n_frames):
        yield CleanScan(scan.volume.frame(index), scan.scale)


def _save(path: Path, scan: CleanScan) -> None:
    save(path, scan.volume.data, scan.volume.affine, scale=scan.scale)


def _write_tables(rows: list[dict[str, Any]], out: Path) -> CleanCohort:
    corrections = pd.DataFrame(
        [
            {
                "subject": row["subject"],
                "file": correction["file"],
                "correction": correction["text"],
                "kind": correction["kind"],
            }
            for row in rows
            for correction in row["corrections"]
        ],
        columns=["subject", "file", "correction", "kind"],
    )
    inclusion = pd.DataFrame(rows).drop(columns="corrections", errors="ignore")
    write_csv(out / "tables" / "inclusion.csv", inclusion)
    write_csv(out / "tables" / "corrections.csv", corrections)
    people = inclusion[inclusion["included"]]
    table = pd.DataFrame(
        {
            "participant_id": "sub-" + people["subject"],
            "group": people["group"],
            "side": people["side"].fillna("n/a"),
        }
    )
    text = table.to_csv(sep="\t", index=False, lineterminator="\n")
    write_text(out / "participants.tsv", text)
    return CleanCohort(inclusion, corrections)
