"""Soft weights around the bones, and the feet of a whole clean cohort in BIDS names."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.cache import remembered
from ankle_lib.files import AnkleError, write_csv
from ankle_lib.geometry import bounding_box
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.masking.foot import REPORT_THRESHOLD, foot_mask
from ankle_lib.metrics import dice
from ankle_lib.parallel import run_all
from ankle_lib.volume import load, save, to_orientation

REPORT_VOXEL_MM = (0.28, 0.28, 0.8)
"""The report's static grid (posterior, superior, right)."""

BONE_RADIUS_VOXELS = {"calcaneus": 1, "talus": 2, "tibia": 2}
"""Radius of dilation that the report chose for each bone (section 5.2.4), in voxels."""

REPORT_SIGMA_VOXELS = 2.0
"""Standard deviation of the blur of the dilated masks (report, section 5.2.3), in voxels."""

GAUSS_REACH = 4.0
"""Standard deviations after which the Gaussian is cut off."""


MAX_JOBS = 8
"""Subjects at a time; each takes about 0.6 GB at the report's grid."""

Thresholds = Mapping[str, tuple[float, float | None]]
"""For ``static`` and ``dynamic``: above what is foot, and another threshold to compare with."""


def bone_weights(
    mask: NDArray[np.bool_],
    voxel_size_mm: Sequence[float],
    radius_mm: float | Sequence[float],
    sigma_mm: float | Sequence[float],
) -> NDArray[np.float32]:
    """Dilate a bone by a ball and blur it: weights for a registration of this bone.

    The report counts in voxels of 0.28 x 0.28 x 0.8 mm, so its ball is an ellipsoid, almost three
    times as long across the slices. Radius and sigma may therefore differ per axis; `in_mm`
    gives the report's values. A ball smaller than a voxel changes nothing. A negative radius
    erodes instead.

    Parameters
    ----------
    mask : (I, J, K) bool array
    voxel_size_mm : 3 floats
    radius_mm : float or 3 floats
        Semi-axes of the ball, all of one sign; 0 for no dilation.
    sigma_mm : float or 3 floats
        Standard deviations of the Gaussian; 0 for no blur.

    Returns
    -------
    (I, J, K) float32 array
        In [0, 1], largest inside the bone; all 0 for an empty mask.
    """
    voxel = np.asarray(voxel_size_mm, dtype=float)
    radius = np.broadcast_to(np.asarray(radius_mm, dtype=float), 3)
    sigma = np.broadcast_to(np.asarray(sigma_mm, dtype=float), 3)
    if (sigma < 0).any() or (radius.min() < 0 < radius.max()):
        raise AnkleError(
            f"radius {radius_mm} mm must not grow and shrink at once, sigma {sigma_mm} mm must not "
            "be negative"
        )
    weights = np.zeros(mask.shape, dtype=np.float32)
    margin = np.ceil((radius.clip(0) + GAUSS_REACH * sigma) / voxel).astype(int) + 1
    box = bounding_box(mask, margin)
    if box is None:
        return weights
    inside = mask[box]
    grown = (
        _dilated(inside, voxel, radius) if radius.max() > 0 else ~_dilated(~inside, voxel, -radius)
    )
    soft = grown.astype(np.float32)
    ndimage.gaussian_filter(soft, sigma / voxel, output=soft, mode="constant", truncate=GAUSS_REACH)
    weights[box] = np.clip(soft, 0.0, 1.0)
    return weights


def in_mm(voxels: float) -> tuple[float, float, float]:
    """Return a length that the report gives in voxels, in mm along each axis of its static grid."""
    i, j, k = (voxels * size for size in REPORT_VOXEL_MM)
    return i, j, k


def _dilated(
    mask: NDArray[np.bool_], voxel: NDArray[np.float64], radius: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Dilate by an ellipsoid: where the distance, in units of its semi-axes, is at most 1."""
    if not radius.any():
        return mask
    # A semi-axis of 0 makes any step along it too long.
    steps = voxel / np.maximum(radius, 1e-3 * voxel)
    return ndimage.distance_transform_edt(~mask, sampling=steps) <= 1.0 + 1e-9


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
    """Write the foot masks of every image, and tables of them and of the bones' volumes.

    Files are ``sub-T01/sub-T01_static_desc-foot_mask.nii.gz``,
    ``sub-T01/sub-T01_task-active_run-01_frame-07_desc-foot_mask.nii.gz``,
    ``tables/foot_masks.csv`` and ``tables/bone_volumes.csv``. Weights of bones are made where they
    are used (`bone_weights`). Subjects that an earlier, interrupted call has finished are not done
    again. Several subjects are done at a time, on this machine or on a cluster
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
    """Write the foot masks of a subject; return the rows of both tables."""
    code, runs = subject.code, {"static": [subject.static], **subject.sequences}
    labels = {name: truth / code / f"{name}_dseg.nii.gz" for name in runs} if truth else {}

    def work() -> dict[str, Any]:
        rows = []
        for name, run in runs.items():
            pair = thresholds["static" if name == "static" else "dynamic"]
            true = _true_feet(labels[name]) if name in labels and labels[name].exists() else None
            for index, path in enumerate(run):
                image = name if name == "static" else f"task-{name}_frame-{index:02d}"
                volume = load(path)
                mask, other = foot_mask(volume.data, pair[0], fill_holes=fill_holes), None
                if true is not None and pair[1] is not None:
                    other = foot_mask(volume.data, pair[1], fill_holes=fill_holes)
                file = f"sub-{code}_{image}_desc-foot_mask.nii.gz"
                save(out / f"sub-{code}" / file, mask, volume.affine)
                overlap, other_overlap = (
                    None if one is None or true is None else dice(one, true[..., index])
                    for one in (mask, other)
                )
                rows.append(
                    {
                        "subject": code,
                        "image": image,
                        "threshold": pair[0],
                        "foot_fraction": float(mask.mean()),
                        "dice_truth": overlap,
                        "other_threshold": pair[1],
                        "other_dice_truth": other_overlap,
                    }
                )
        bones = [_bone_row(subject, bone, path) for bone, path in subject.masks.items()]
        return {"foot_masks": rows, "bone_volumes": bones}

    images = [path for run in runs.values() for path in run]
    return remembered(
        out / ".records" / f"{code}.json",
        work,
        inputs=[*images, *subject.masks.values(), *labels.values()],
        settings=[code, subject.group, thresholds, fill_holes],
    )


def _true_feet(path: Path) -> NDArray:
    """Return the true foot, shape (I, J, K, frames)."""
    labels = to_orientation(load(path)).data
    return (labels > 0).reshape(*labels.shape[:3], -1)


def _bone_row(subject: CleanSubject, bone: str, path: Path) -> dict[str, Any]:
    """Return the row of one bone in the table of volumes."""
    volume = load(path)
    n_voxels = np.count_nonzero(volume.data > 0)
    return {
        "subject": subject.code,
        "bone": bone,
        "volume_cm3": float(n_voxels * np.prod(volume.voxel_size_mm)) / 1000.0,
        "group": subject.group,
    }
