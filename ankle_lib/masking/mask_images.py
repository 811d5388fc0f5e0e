"""Foot masks and bone weights of a whole clean cohort, written in BIDS names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ankle_lib.cache import remembered
from ankle_lib.files import write_csv
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.masking.bone_weights import (
    BONE_RADIUS_VOXELS,
    REPORT_SIGMA_VOXELS,
    bone_volumes_cm3,
    bone_weights,
    in_mm,
)
from ankle_lib.masking.foot import REPORT_THRESHOLD, Histogram, foot_mask, pooled_histogram
from ankle_lib.metrics import dice
from ankle_lib.parallel import run_all
from ankle_lib.volume import load, save, to_orientation

MAX_JOBS = 8
"""Subjects at a time; each takes about 0.6 GB at the report's grid."""

WEIGHT_STEP = 1e-4
"""Weights are stored as int16 in steps of this size."""

Thresholds = Mapping[str, tuple[float, float | None]]
"""For ``static`` and ``dynamic``: above what is foot, and another threshold to compare with."""


def cohort_histograms(
    subjects: Sequence[CleanSubject],
) -> tuple[Histogram, Histogram]:
    """Return the histograms of all static scans and of all dynamic frames, one row per image."""
    static = [subject.static for subject in subjects]
    frames = [path for subject in subjects for run in subject.sequences.values() for path in run]
    bars = (
        tqdm(paths, desc=f"counting {what}", unit="image")
        for paths, what in ((static, "static scans"), (frames, "frames"))
    )
    first, second = (pooled_histogram(load(path).data for path in bar) for bar in bars)
    return first, second


def mask_cohort(
    subjects: Sequence[CleanSubject],
    out: Path,
    *,
    static_threshold: float = REPORT_THRESHOLD,
    dynamic_threshold: float = REPORT_THRESHOLD,
    compare_with: tuple[float | None, float | None] = (None, None),
    fill_holes: bool = False,
    truth: Path | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write foot masks of every image and weights of every bone, and their tables.

    Files are ``sub-T01/sub-T01_static_desc-foot_mask.nii.gz``,
    ``sub-T01/sub-T01_task-active_run-01_frame-07_desc-foot_mask.nii.gz``,
    ``sub-T01/sub-T01_static_label-talus_desc-weights.nii.gz``, ``tables/foot_masks.csv`` and
    ``tables/bone_volumes.csv``. Subjects that an earlier, interrupted call has finished are not
    done again. Several subjects are done at a time, on this machine or on a cluster
    (see `parallel.run_all`).

    Parameters
    ----------
    subjects : sequence of CleanSubject
        From `manifest.layouts.read_clean_cohort`.
    out : Path
        Folder of the results.
    static_threshold, dynamic_threshold : float
        Foot is what is brighter.
    compare_with : two floats, optional
        Static and dynamic thresholds whose masks are compared with the truth too, but not written.
    fill_holes : bool
        See `foot_mask`.
    truth : Path, optional
        Folder of true labels, ``T01/static_dseg.nii.gz`` and ``T01/active_run-01_dseg.nii.gz``
        (4D), 0 outside the foot; read to evaluate only.

    Returns
    -------
    foot_masks : DataFrame
        One row per image: subject, image, threshold, foot_fraction, dice_truth, other_threshold,
        other_dice_truth. ``image`` is ``static`` or as in ``task-active_run-01_frame-07``. The
        last three are empty without truth.
    bone_volumes : DataFrame
        One row per subject and bone: subject, bone, volume_cm3, group.

    Examples
    --------
    >>> foot_masks, bone_volumes = mask_cohort(read_clean_cohort(folder), out)
    """
    thresholds = {
        "static": (static_threshold, compare_with[0]),
        "dynamic": (dynamic_threshold, compare_with[1]),
    }
    answers = run_all(
        partial(_mask_subject, out, thresholds, fill_holes, truth),
        subjects,
        n_jobs=MAX_JOBS,
        workers="threads",
        desc="masking subjects",
    )
    tables = []
    for name in ("foot_masks", "bone_volumes"):
        tables.append(pd.DataFrame([row for answer in answers for row in answer[name]]))
        write_csv(out / "tables" / f"{name}.csv", tables[-1])
    return tables[0], tables[1]


def _mask_subject(
    out: Path, thresholds: Thresholds, fill_holes: bool, truth: Path | None, subject: CleanSubject
) -> dict[str, Any]:
    runs = {"static": [subject.static], **subject.sequences}
    labels = {
        name: truth / subject.code / f"{name}_dseg.nii.gz" for name in runs if truth is not None
    }
    images = [path for run in runs.values() for path in run]

    def work() -> dict[str, Any]:
        return {
            "foot_masks": [
                row
                for name, run in runs.items()
                for row in _foot_rows(subject.code, name, run, out, thresholds, fill_holes, labels)
            ],
            "bone_volumes": [
                _bone_row(subject, bone, path, out) for bone, path in subject.masks.items()
            ],
        }

    return remembered(
        out / ".records" / f"{subject.code}.json",
        work,
        inputs=[*images, *subject.masks.values(), *labels.values()],
        settings=[subject.code, subject.group, thresholds, fill_holes],
    )


def _foot_rows(
    code: str,
    name: str,
    run: Sequence[Path],
    out: Path,
    thresholds: Thresholds,
    fill_holes: bool,
    labels: Mapping[str, Path],
) -> list[dict[str, Any]]:
    """Write the foot masks of one scan or sequence; return a row of the table for each image."""
    threshold, other = thresholds["static" if name == "static" else "dynamic"]
    truth = _true_feet(labels[name]) if name in labels and labels[name].exists() else None
    rows = []
    for index, path in enumerate(run):
        image = name if name == "static" else f"task-{name}_frame-{index:02d}"
        volume = load(path)
        mask = foot_mask(volume.data, threshold, fill_holes=fill_holes)
        file = f"sub-{code}_{image}_desc-foot_mask.nii.gz"
        save(out / f"sub-{code}" / file, mask, volume.affine)
        overlap, other_overlap = None, None
        if truth is not None:
            overlap = dice(mask, truth[..., index])
        if truth is not None and other is not None:
            other_mask = foot_mask(volume.data, other, fill_holes=fill_holes)
            other_overlap = dice(other_mask, truth[..., index])
        rows.append(
            {
                "subject": code,
                "image": image,
                "threshold": threshold,
                "foot_fraction": float(mask.mean()),
                "dice_truth": overlap,
                "other_threshold": other,
                "other_dice_truth": other_overlap,
            }
        )
    return rows


def _true_feet(path: Path) -> NDArray:
    """Return the true foot, shape (I, J, K, frames)."""
    labels = to_orientation(load(path)).data
    return (labels > 0).reshape(*labels.shape[:3], -1)


def _bone_row(subject: CleanSubject, bone: str, path: Path, out: Path) -> dict[str, Any]:
    """Write the weights of one bone; return its row of the table."""
    volume, name = load(path), f"sub-{subject.code}"
    mask = volume.data > 0
    soft = bone_weights(
        mask, volume.voxel_size_mm, in_mm(BONE_RADIUS_VOXELS[bone]), in_mm(REPORT_SIGMA_VOXELS)
    )
    target = out / name / f"{name}_static_label-{bone}_desc-weights.nii.gz"
    save(target, soft, volume.affine, scale=WEIGHT_STEP)
    return {
        "subject": subject.code,
        "bone": bone,
        "volume_cm3": bone_volumes_cm3({bone: mask}, volume.voxel_size_mm)[bone],
        "group": subject.group,
    }
