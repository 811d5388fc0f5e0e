"""Foot masks and bone weights of a whole clean cohort, written in BIDS names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

import ankle_lib.metrics
import ankle_lib.volume
from ankle_lib.files import write_csv
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.masking import foot, measures, weights
from ankle_lib.masking.foot import REPORT_THRESHOLD, Histogram, foot_mask, pooled_histogram
from ankle_lib.masking.measures import bone_volumes_cm3
from ankle_lib.masking.weights import BONE_RADIUS_VOXELS, REPORT_SIGMA_VOXELS, bone_weights, in_mm
from ankle_lib.metrics import dice
from ankle_lib.resume import code_digest, remembered
from ankle_lib.volume import load, save, to_orientation

MAX_JOBS = 8
"""Subjects at a time; each takes about 0.6 GB at the report's grid."""

WEIGHT_STEP = 1e-4
"""Weights are stored as int16 in steps of this size."""


@dataclass(frozen=True)
class MaskedCohort:
    """The tables of a masked cohort."""

    foot_masks: pd.DataFrame
    """One row per image: subject, image, threshold, foot_fraction, dice_truth, other_threshold,
    other_dice_truth. ``image`` is ``static`` or as in ``task-active_run-01_frame-07``. The last
    three are empty without truth."""
    bone_volumes: pd.DataFrame
    """One row per subject and bone: subject, bone, volume_cm3, group."""


@dataclass(frozen=True)
class _Options:
    static_threshold: float
    dynamic_threshold: float
    other_static: float | None
    other_dynamic: float | None
    fill_holes: bool
    radius_voxels: dict[str, float]
    sigma_voxels: float
    truth: str | None


def cohort_histograms(
    subjects: Sequence[CleanSubject], *, progress: bool = True
) -> tuple[Histogram, Histogram]:
    """Return the histograms of all static scans and of all dynamic frames, one row per image."""
    static = [subject.static for subject in subjects]
    frames = [path for subject in subjects for run in subject.sequences.values() for path in run]
    return _histogram(static, "static scans", progress), _histogram(frames, "frames", progress)


def mask_cohort(
    subjects: Sequence[CleanSubject],
    out: Path,
    *,
    static_threshold: float = REPORT_THRESHOLD,
    dynamic_threshold: float = REPORT_THRESHOLD,
    compare_with: tuple[float, float] | None = None,
    fill_holes: bool = False,
    radius_voxels: Mapping[str, float] = BONE_RADIUS_VOXELS,
    sigma_voxels: float = REPORT_SIGMA_VOXELS,
    truth: Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> MaskedCohort:
    """Write foot masks of every image and weights of every bone, and their tables.

    Files are ``sub-T01/sub-T01_static_desc-foot_mask.nii.gz``,
    ``sub-T01/sub-T01_task-active_run-01_frame-07_desc-foot_mask.nii.gz``,
    ``sub-T01/sub-T01_static_label-talus_desc-weights.nii.gz``, ``tables/foot_masks.csv`` and
    ``tables/bone_volumes.csv``. Subjects that an earlier, interrupted call has finished are not
    done again.

    Parameters
    ----------
    subjects : sequence of CleanSubject
        From `manifest.read_clean_cohort`.
    out : Path
        Folder of the results.
    static_threshold, dynamic_threshold : float
        Foot is what is brighter.
    compare_with : two floats, optional
        Static and dynamic thresholds whose masks are compared with the truth too, but not written.
    fill_holes : bool
        See `foot_mask`.
    radius_voxels, sigma_voxels
        Dilation of each bone and blur, in voxels of the report's static grid.
    truth : Path, optional
        Folder of true labels, ``T01/static_dseg.nii.gz`` and ``T01/active_run-01_dseg.nii.gz``
        (4D), 0 outside the foot; read to evaluate only.
    n_jobs : int, optional
        Subjects at a time, in threads; the number of processor cores by default, at most 8.
    progress : bool
        Show a bar.
    """
    other_static, other_dynamic = compare_with or (None, None)
    options = _Options(
        static_threshold,
        dynamic_threshold,
        other_static,
        other_dynamic,
        fill_holes,
        dict(radius_voxels),
        sigma_voxels,
        None if truth is None else str(truth),
    )
    jobs = n_jobs or min(joblib.cpu_count(), MAX_JOBS)
    parallel = joblib.Parallel(n_jobs=jobs, backend="threading", return_as="generator")
    tasks = (joblib.delayed(_mask_one)(subject, out, options) for subject in subjects)
    bar = tqdm(
        parallel(tasks), total=len(subjects), desc="masking", unit="subject", disable=not progress
    )
    return _write_tables(list(bar), out)


def _histogram(paths: Sequence[Path], what: str, progress: bool) -> Histogram:
    bar = tqdm(paths, desc=f"counting {what}", unit="image", disable=not progress)
    return pooled_histogram(load(path).data for path in bar)


def _mask_one(subject: CleanSubject, out: Path, options: _Options) -> dict[str, Any]:
    frames = [path for run in subject.sequences.values() for path in run]
    inputs = [subject.static, *subject.masks.values(), *frames]
    code = code_digest(ankle_lib.volume, ankle_lib.metrics, foot, weights, measures)
    settings = [subject.code, subject.group, asdict(options), code]

    def work() -> dict[str, Any]:
        return {
            "foot_masks": list(_foot_rows(subject, out, options)),
            "bone_volumes": _bone_rows(subject, out, options),
        }

    return remembered(out / ".records" / f"{subject.code}.json", inputs, settings, work)


def _foot_rows(subject: CleanSubject, out: Path, options: _Options) -> Iterator[dict[str, Any]]:
    thresholds = (options.static_threshold, options.other_static)
    truth = _true_feet("static", subject, options)
    feet = None if truth is None else truth[..., 0]
    yield _foot_row(subject, out, "static", subject.static, thresholds, feet, options)
    thresholds = (options.dynamic_threshold, options.other_dynamic)
    for name, run in subject.sequences.items():
        truth = _true_feet(name, subject, options)
        for index, path in enumerate(run):
            image = f"task-{name}_frame-{index:02d}"
            foot_there = None if truth is None else truth[..., index]
            yield _foot_row(subject, out, image, path, thresholds, foot_there, options)


def _foot_row(
    subject: CleanSubject,
    out: Path,
    image: str,
    path: Path,
    thresholds: tuple[float, float | None],
    truth: NDArray[np.bool_] | None,
    options: _Options,
) -> dict[str, Any]:
    volume = load(path)
    threshold, other = thresholds
    mask = foot_mask(volume.data, threshold, fill_holes=options.fill_holes)
    name = f"sub-{subject.code}"
    save(out / name / f"{name}_{image}_desc-foot_mask.nii.gz", mask, volume.affine)
    row = {
        "subject": subject.code,
        "image": image,
        "threshold": threshold,
        "foot_fraction": float(mask.mean()),
        "dice_truth": None if truth is None else dice(mask, truth),
        "other_threshold": other,
        "other_dice_truth": None,
    }
    if truth is not None and other is not None:
        compared = foot_mask(volume.data, other, fill_holes=options.fill_holes)
        row["other_dice_truth"] = dice(compared, truth)
    return row


def _true_feet(name: str, subject: CleanSubject, options: _Options) -> NDArray[np.bool_] | None:
    """Return the true foot, shape (I, J, K, frames), or None where there is no truth."""
    if options.truth is None:
        return None
    path = Path(options.truth) / subject.code / f"{name}_dseg.nii.gz"
    if not path.exists():
        return None
    labels = to_orientation(load(path)).data
    return (labels > 0).reshape(*labels.shape[:3], -1)


def _bone_rows(subject: CleanSubject, out: Path, options: _Options) -> list[dict[str, Any]]:
    name, rows = f"sub-{subject.code}", []
    for bone, path in subject.masks.items():
        volume = load(path)
        mask = volume.data > 0
        soft = bone_weights(
            mask,
            volume.voxel_size_mm,
            in_mm(options.radius_voxels[bone]),
            in_mm(options.sigma_voxels),
        )
        target = out / name / f"{name}_static_label-{bone}_desc-weights.nii.gz"
        save(target, soft, volume.affine, scale=WEIGHT_STEP)
        volume_cm3 = bone_volumes_cm3({bone: mask}, volume.voxel_size_mm)[bone]
        rows.append(
            {
                "subject": subject.code,
                "bone": bone,
                "volume_cm3": volume_cm3,
                "group": subject.group,
            }
        )
    return rows


def _write_tables(answers: list[dict[str, Any]], out: Path) -> MaskedCohort:
    foot_masks = pd.DataFrame([row for answer in answers for row in answer["foot_masks"]])
    bone_volumes = pd.DataFrame([row for answer in answers for row in answer["bone_volumes"]])
    write_csv(out / "tables" / "foot_masks.csv", foot_masks)
    write_csv(out / "tables" / "bone_volumes.csv", bone_volumes)
    return MaskedCohort(foot_masks, bone_volumes)
