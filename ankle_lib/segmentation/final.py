"""The answer: one network for the three bones, for whole slices and feet turned by any angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ankle_lib.metrics import mask_scores
from ankle_lib.networks.checkpoint import save_checkpoint
from ankle_lib.patches.augmentation import Augmentation
from ankle_lib.patches.items import slices_at
from ankle_lib.segmentation.evaluation import segment
from ankle_lib.segmentation.examples import Shown, middle_slice_of
from ankle_lib.segmentation.recipe import Fitted, Recipe, Stage
from ankle_lib.segmentation.scans import Scan, coarser, factor_for, one_slice, rotation_of, turned
from ankle_lib.segmentation.segmenter import THIN_MM
from ankle_lib.segmentation.study import Study, remembered_table

FINAL_AUGMENTATION = Augmentation(
    rotation_deg=180.0, scale=1.2, gain=0.15, shading=0.2, gamma=0.2, noise=0.15
)
"""Any angle; coils, gains and noise beyond those of one scanner."""

MIN_FRACTION = 0.2
"""Part of a patch that must be foot: air is seen, slices without a foot are not."""

CONTEXT_MM = (-1.6, 0.0, 1.6)
"""The slice and one on each side: where a bone begins and ends, a single slice does not tell."""

SCHEDULES = ("one-cycle", "cosine")


def final_recipe(stages: Sequence[tuple[int, int, int, float]], seed: int = 0) -> Recipe:
    """Return how the final network is trained; stages as in `presets.SegmentationSizes`."""
    return Recipe(
        tuple(
            Stage(pixels, n_steps, batch, rate, SCHEDULES[min(number, 1)])
            for number, (pixels, n_steps, batch, rate) in enumerate(stages)
        ),
        loss="dice+bce",
        optimizer="muon",
        context_mm=CONTEXT_MM,
        min_fraction=MIN_FRACTION,
        augmentation=FINAL_AUGMENTATION,
        seed=seed,
    )


def train_final(study: Study, seed: int = 0) -> Fitted:
    """Train the final network on the training part of the study."""
    factor = factor_for(study.native[0], study.sizes.final_pixel_mm)
    scans = [coarser(scan, factor, to_learn=True) for scan in study.native]
    return replace(study, scans=tuple(scans)).fit(final_recipe(study.sizes.final_stages, seed))


def score_final(fitted: Fitted, study: Study) -> pd.DataFrame:
    """Score the final network on the whole volumes of all test subjects, on their own grids.

    Returns
    -------
    DataFrame
        Columns subject, bone, angle_deg (0 as scanned, and turned by 40 to 60 degrees), dice,
        hd95_mm, assd_mm.
    """
    test = _native_test(study)
    tables = []
    for number, scan in enumerate(test):
        factor = factor_for(scan, study.sizes.final_pixel_mm)
        for angle in (0.0, rotation_of(number, len(test))):
            tables.append(score_scan(fitted, scan, factor, angle).assign(angle_deg=angle))
    columns = ["subject", "bone", "angle_deg", "dice", "hd95_mm", "assd_mm"]
    return pd.concat(tables, ignore_index=True)[columns]


def final_slices(fitted: Fitted, study: Study, n: int = 4) -> dict[str, list[Shown]]:
    """Return a slice of the first test subjects with the bones that the final network sees.

    Returns
    -------
    dict
        ``as scanned`` and ``turned`` to a list of (image, masks), on the scans' own grids.
    """
    test = _native_test(study)
    rows: dict[str, list[Shown]] = {"as scanned": [], "turned": []}
    for number, scan in enumerate(test[:n]):
        context = slices_at(fitted.recipe.context_mm, scan.voxel_size_mm[2])
        beside = max(abs(one) for one in context)
        alone = one_slice(scan, middle_slice_of(scan), beside)
        for title, angle in (("as scanned", 0.0), ("turned", rotation_of(number, len(test)))):
            shown = turned(alone, angle) if angle else alone
            factor = factor_for(scan, study.sizes.final_pixel_mm)
            labels = segment(fitted, shown, factor)[:, :, beside]
            masks = {bone: labels == 1 + n for n, bone in enumerate(fitted.recipe.bones)}
            rows[title].append((shown.item.image[:, :, beside], masks))
    return rows


def score_scan(fitted: Fitted, scan: Scan, factor: int, angle_deg: float = 0.0) -> pd.DataFrame:
    """Score a network on one whole scan, on its own grid; done once per network.

    Parameters
    ----------
    fitted : Fitted
    scan : Scan
        On its own grid.
    factor : int
        Pixels of the network per pixel of the scan.
    angle_deg : float
        By which the foot is turned before.

    Returns
    -------
    DataFrame
        Columns subject, bone, dice, hd95_mm, assd_mm.
    """
    key = ["final", scan.code, scan.checksum, angle_deg]
    return remembered_table(fitted, key, partial(_score_scan, fitted, scan, factor, angle_deg))


def _score_scan(fitted: Fitted, scan: Scan, factor: int, angle_deg: float) -> pd.DataFrame:
    shown = turned(scan, angle_deg) if angle_deg else scan
    labels = segment(fitted, shown, factor)
    rows = []
    for number, bone in enumerate(fitted.recipe.bones, start=1):
        scores = mask_scores(labels == number, shown.item.labels[bone], shown.voxel_size_mm)
        rows.append((scan.code, bone, *scores))
    return pd.DataFrame(rows, columns=["subject", "bone", "dice", "hd95_mm", "assd_mm"])


def _native_test(study: Study) -> list[Scan]:
    return [scan for code in study.split.test for scan in study.native if scan.code == code]


def save_final(path: Path, fitted: Fitted, study: Study) -> Path:
    """Write the checkpoint of the final network, see `save_segmenter`."""
    scan = study.native[0]
    factor = factor_for(scan, study.sizes.final_pixel_mm)
    posterior, superior = (round(factor * size, 6) for size in scan.voxel_size_mm[:2])
    return save_segmenter(
        path, fitted, (posterior, superior), study.split.train, thickest_mm=THIN_MM
    )


def save_segmenter(
    path: Path,
    fitted: Fitted,
    voxel_mm: tuple[float, float],
    subjects: Sequence[str],
    *,
    thickest_mm: float,
) -> Path:
    """Write the checkpoint that `ankle segment` takes, with all that is needed to use it.

    Its ``training`` holds ``input``: the voxel size within a slice that it wants (``voxel_mm``),
    how intensities are normalised, the axes, whether left feet are mirrored (they are not: the
    network was shown both), the slices that it sees at a time (``context_mm``), and the thickest
    slices that it is for (``thickest_mm``).

    Parameters
    ----------
    path : Path
    fitted : Fitted
    voxel_mm : two floats
        Along axes posterior and superior.
    subjects : sequence of str
        On whom it was trained.
    thickest_mm : float
    """
    training: dict[str, Any] = {
        "input": {
            "voxel_mm": list(voxel_mm),
            "normalisation": "zscore-foot",
            "axes": "PSR",
            "side": "as is",
            "context_mm": list(fitted.recipe.context_mm),
            "thickest_mm": thickest_mm,
        },
        "subjects": list(subjects),
    }
    return save_checkpoint(
        path,
        fitted.network,
        name=fitted.recipe.network,
        arguments=fitted.recipe.arguments,
        labels=fitted.recipe.bones,
        training=training,
    )
