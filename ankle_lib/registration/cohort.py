"""Chapter 03 over a clean cohort: every sequence registered, measured, judged and written.

A sequence is one task: it runs in a process of its own, or on a cluster (see `parallel.run_all`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ankle_lib.files import write_csv
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all
from ankle_lib.pose_files import FramePose, read_transforms, write_transforms
from ankle_lib.quality.gate import Gate
from ankle_lib.quality.review_sheet import SHEET_NAME, ReviewSheet
from ankle_lib.registration.measures import AXES
from ankle_lib.registration.sequence import (
    COLUMNS,
    SequenceTask,
    Variant,
    register_sequence,
    transforms_path,
)
from ankle_lib.registration.settings import WHOLE


def register_cohort(
    subjects: Sequence[CleanSubject],
    out: Path,
    *,
    masked: Path,
    truth: Path | None = None,
    variant: Variant | None = None,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Register every sequence, first the whole foot and from there its bones, and write it.

    Files are, in ``out``, ``sub-T01/sub-T01_task-active_run-01_transforms.json`` and for every
    frame and bone ``sub-T01/sub-T01_task-active_run-01_frame-07_label-talus_mask.nii.gz`` (the
    moved mask, true where it fills half of a voxel) and the same with
    ``_desc-moved_static.nii.gz`` (the static scan moved with the bone, averaged over the slice).
    Which registrations to believe is for `judge` to say.

    Parameters
    ----------
    subjects : sequence of CleanSubject
        From `manifest.read_clean_cohort`.
    masked : Path
        Folder of chapter 02, for the foot masks of the static scans.
    truth : Path, optional
        Folder with ``T01/active_run-01.json`` and ``T01/active_run-01_dseg.nii.gz``; read to
        evaluate only.
    variant : Variant, optional
        Engine, settings and weights.
    device : str
        ``"cpu"`` or ``"cuda"``; on a GPU one sequence at a time.
    n_jobs : int, optional
        Sequences at a time; one per processor core by default.

    Returns
    -------
    DataFrame
        Columns as in `COLUMNS`, ``accepted`` where no fit failed.
    """
    tasks = [
        SequenceTask(
            *(subject, sequence, variant or Variant()),
            None if truth is None else str(truth),
            device,
            masked=str(masked),
            out=str(out),
        )
        for subject in subjects
        for sequence in subject.sequences
    ]
    return _run(tasks, "registering", device, n_jobs, progress)


def experiment(
    subjects: Sequence[CleanSubject],
    variants: Mapping[str, Variant],
    *,
    masked: Path,
    truth: Path | None = None,
    n_sequences: int = 1,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Register the first sequences of some subjects in several ways; nothing is written.

    Returns
    -------
    DataFrame
        Columns ``variant`` and those of `COLUMNS`.
    """
    folder = None if truth is None else str(truth)
    keyed = [
        (name, SequenceTask(subject, sequence, variant, folder, device, masked=str(masked)))
        for subject in subjects
        for sequence in list(subject.sequences)[:n_sequences]
        for name, variant in variants.items()
    ]
    names, tasks = [name for name, _ in keyed], [task for _, task in keyed]
    return _run(tasks, "comparing", device, n_jobs, progress, names)


def judge(table: pd.DataFrame, gates: Mapping[str, Gate], out: Path) -> pd.DataFrame:
    """Say which registrations to believe, and write all tables and the review sheet.

    Accepted is what did not fail and passes the gate of its step. Written are
    ``tables/registration.csv``, ``tables/gate.csv``, ``qc_sheet.csv`` (people's verdicts in it
    stay) and the verdict in every ``transforms.json``.

    Parameters
    ----------
    table : DataFrame
        From `register_cohort`.
    gates : mapping
        ``"whole"`` and ``"bone"`` to the gate of this step.
    out : Path
        Folder of the chapter.

    Returns
    -------
    DataFrame
        ``table`` with ``accepted`` set.
    """
    table = table.copy()
    step = np.where(table["bone"] == WHOLE, "whole", "bone")
    passed = np.zeros(len(table), dtype=bool)
    for name, gate in gates.items():
        chosen = step == name
        passed[chosen] = gate.passes(table.loc[chosen, "correlation"].to_numpy())
    table["accepted"] = passed & (table["reason"] == "")
    low = ~passed & (table["reason"] == "")
    table.loc[low, "reason"] = "correlation below the gate"
    for (subject, sequence), rows in table.groupby(["subject", "sequence"]):
        path = transforms_path(out, subject, sequence)
        verdicts = rows.set_index(["frame", "bone"])["accepted"]
        poses = [
            FramePose(p.frame, p.bone, p.matrix, p.correlation, bool(verdicts[p.frame, p.bone]))
            for p in read_transforms(path)
        ]
        write_transforms(path, poses)
    write_csv(out / "tables" / "registration.csv", table)
    write_csv(out / "tables" / "gate.csv", _gate_table(gates))
    bones = table[table["bone"] != WHOLE]
    sheet = bones[["subject", "sequence", "frame", "bone", "correlation"]].copy()
    sheet["verdict"] = np.where(bones["accepted"], "accepted", "rejected")
    sheet["note"] = bones["reason"]
    ReviewSheet(out / SHEET_NAME).update(sheet)
    return table


def _run(
    tasks: Sequence[SequenceTask],
    desc: str,
    device: str,
    n_jobs: int | None,
    progress: bool,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    answers = run_all(
        register_sequence,
        tasks,
        n_jobs=1 if device == "cuda" else n_jobs,
        desc=desc,
        unit="sequence",
        progress=progress,
    )
    tables = [pd.DataFrame(rows, columns=COLUMNS) for rows in answers]
    if names is not None:
        tables = [t.assign(variant=name) for t, name in zip(tables, names, strict=True)]
    table = pd.concat(tables, ignore_index=True)
    numbers = ["correlation", "dice", "tre_mm", "rotation_error_deg", "speed_mm"]
    numbers += [f"rotation_{axis}_deg" for axis in AXES]
    return table.astype(dict.fromkeys(numbers, float))


def _gate_table(gates: Mapping[str, Gate]) -> pd.DataFrame:
    def row(step: str, gate: Gate) -> dict[str, Any]:
        columns = asdict(gate)
        first = {key: columns.pop(key) for key in ("dice_threshold", "correlation_threshold")}
        return {**first, "step": step, **columns}

    return pd.DataFrame([row(step, gate) for step, gate in gates.items()])
