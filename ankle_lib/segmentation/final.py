"""The answer: one network for the three bones, for whole slices and feet turned by any angle."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from ankle_lib.learning.prediction import predict
from ankle_lib.learning.scans import (
    Scan,
    coarser,
    factor_for,
    final_recipe,
    rotation_of,
    turned,
)
from ankle_lib.learning.scoring import bone_scores
from ankle_lib.learning.segmenter import Segmenter, save_segmenter
from ankle_lib.learning.training import Trained
from ankle_lib.segmentation.study import Study


def train_final(study: Study, seed: int = 0) -> Trained:
    """Train the final network on the training part of the study."""
    factor = factor_for(study.native[0], study.sizes.final_pixel_mm)
    scans = [coarser(scan, factor, to_learn=True) for scan in study.native]
    return replace(study, scans=tuple(scans)).fit(final_recipe(study.sizes.final_stages, seed))


def score_final(trained: Trained, study: Study) -> pd.DataFrame:
    """Score the final network on the whole scans of all test subjects, as `ankle segment` runs it.

    Returns
    -------
    DataFrame
        Columns subject, bone, angle_deg (0 as scanned, and turned by 40 to 60 degrees), dice,
        hd95_mm, assd_mm.
    """
    segmenter = Segmenter.of(trained, pixel_mm=final_pixel_mm(study))
    tables = []
    for number, scan in enumerate(study.native_test):
        for angle in (0.0, rotation_of(number, len(study.split.test))):
            work = partial(score_scan, segmenter, scan, angle)
            settings = [scan.code, scan.checksum, angle, segmenter.pixel_mm]
            table = trained.remembered("final", work, settings)
            tables.append(table.assign(angle_deg=angle))
    columns = ["subject", "bone", "angle_deg", "dice", "hd95_mm", "assd_mm"]
    return pd.concat(tables, ignore_index=True)[columns]


def score_scan(segmenter: Segmenter, scan: Scan, angle_deg: float = 0.0) -> pd.DataFrame:
    """Score a network on one whole scan, on its own grid.

    Parameters
    ----------
    segmenter : Segmenter
    scan : Scan
        On its own grid.
    angle_deg : float
        By which the foot is turned before.

    Returns
    -------
    DataFrame
        Columns subject, bone, dice, hd95_mm, assd_mm.
    """
    shown = turned(scan, angle_deg) if angle_deg else scan
    found = predict(shown.item.image, shown.voxel_size_mm, segmenter)
    rows = bone_scores(scan.code, found.masks(), shown.item.labels, shown.voxel_size_mm)
    return pd.DataFrame(rows)


def final_pixel_mm(study: Study) -> float:
    """Return the side of the pixels that the final network sees."""
    scan = study.native[0]
    return factor_for(scan, study.sizes.final_pixel_mm) * scan.pixel_mm


def save_final(path: Path, trained: Trained, study: Study) -> Path:
    """Write the checkpoint of the final network, which `ankle segment` takes."""
    return save_segmenter(path, trained, final_pixel_mm(study), study.split.train)
