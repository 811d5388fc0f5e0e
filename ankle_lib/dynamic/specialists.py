"""One network for static and dynamic scans, not told what it sees, beside specialists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ankle_lib.dynamic.prediction import frame_dice
from ankle_lib.dynamic.randomised import random_scans
from ankle_lib.dynamic.study import DynamicStudy
from ankle_lib.learning.prediction import predict
from ankle_lib.learning.scans import Scan, coarser, factor_for
from ankle_lib.learning.scoring import summary
from ankle_lib.learning.segmenter import Segmenter, save_segmenter
from ankle_lib.learning.training import Trained
from ankle_lib.metrics import dice
from ankle_lib.parallel import run_all

STILL_TIMES = 3
"""So often static scans count: there is one of a subject, and dozens of frames and random looks."""

THICKEST_MM = 10.0
"""Slices that `ankle segment` lets the network see: those of the frames, and some more."""


def random_looks(study: DynamicStudy, seed: int = 0) -> list[Scan]:
    """Return scans of random looks, made from the static scans of the training subjects."""
    make = partial(_random_looks, study.sizes.n_random, study.sizes.pixel_mm, seed)
    found = run_all(
        make,
        list(enumerate(study.static_train)),
        desc="random looks",
        unit="subject",
        progress=study.progress,
    )
    return [scan for scans in found for scan in scans]


def _random_looks(n: int, pixel_mm: float, seed: int, numbered: tuple[int, Scan]) -> list[Scan]:
    number, scan = numbered
    return random_scans(scan, n, np.random.default_rng([seed, number]), pixel_mm=pixel_mm)


def train_last(study: DynamicStudy, random: Sequence[Scan]) -> tuple[Trained, Trained]:
    """Train the network for everything, and the specialist for frames.

    Both start from the static scans' network. The one sees frames, static scans and scans with
    random looks; the static scans, of which there are few, count three times. The specialist sees
    frames only, in a third of the steps: no fewer frames than the other is shown.

    Parameters
    ----------
    study : DynamicStudy
    random : sequence of Scan
        From `random_scans`.

    Returns
    -------
    one, specialist : Trained
    """
    pixel_mm = study.sizes.pixel_mm
    still = [
        coarser(scan, factor_for(scan, pixel_mm), to_learn=True) for scan in study.static_train
    ]
    long = study.long_recipe
    shorter = replace(
        long, stages=tuple(replace(one, steps=max(1, one.steps // 3)) for one in long.stages)
    )
    tasks = [
        study.task(long, [*study.labelled, *still * STILL_TIMES, *random]),
        study.task(shorter, study.labelled),
    ]
    one, specialist = study.fit_all(tasks, side_by_side=False)
    return one, specialist


def compare_specialists(study: DynamicStudy, one: Trained, specialist: Trained) -> pd.DataFrame:
    """Score one network for both kinds of scans beside the specialist of each.

    Returns
    -------
    DataFrame
        Columns scans, network, bone, dice_mean, dice_low, dice_high over test subjects.
    """
    pixel_mm = study.sizes.pixel_mm
    few = study.few(study.test)
    rows = []
    for name, fitted in (("specialist", specialist), ("one network", one)):
        scores = summary(frame_dice([fitted], few, pixel_mm))
        rows.append(scores.assign(scans="dynamic", network=name))
    for name, fitted in (("specialist", study.static), ("one network", one)):
        key = [pixel_mm, [scan.checksum for scan in study.static_test]]
        work = partial(_static_dice, fitted, study.static_test, pixel_mm)
        scores = summary(fitted.remembered("static", work, key))
        rows.append(scores.assign(scans="static", network=name))
    table = pd.concat(rows, ignore_index=True)
    return table[["scans", "network", "bone", "dice_mean", "dice_low", "dice_high"]]


def _static_dice(fitted: Trained, scans: Sequence[Scan], pixel_mm: float) -> pd.DataFrame:
    rows = []
    for scan in scans:
        segmenter = Segmenter.of(fitted, pixel_mm=pixel_mm)
        found = predict(scan.item.image, scan.voxel_size_mm, segmenter)
        for bone, mask in found.masks().items():
            rows.append((scan.code, bone, dice(mask, scan.item.labels[bone])))
    return pd.DataFrame(rows, columns=["subject", "bone", "dice"])


def save_one(path: Path, fitted: Trained, study: DynamicStudy) -> Path:
    """Write the checkpoint that `ankle segment` takes, for static scans and for series."""
    return save_segmenter(
        path,
        fitted,
        study.sizes.pixel_mm,
        study.split.train,
        thickest_mm=THICKEST_MM,
    )
