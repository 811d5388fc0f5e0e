"""How many patches the report's extraction keeps, of which image, and where the others are lost.

Nothing is drawn: a try hits each position of a slice equally often, so the expected number is the
number of tries times the part of the positions that is admissible.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import (
    Item,
    Rules,
    as_slices,
    dynamic_items,
    pixel_mm,
    reconstruction_items,
    rule_of,
    static_items,
)
from ankle_lib.patches.rules import (
    DYNAMIC_SEGMENTATION,
    RECONSTRUCTION,
    STATIC_SEGMENTATION,
    local_correlation,
)
from ankle_lib.quality.review_sheet import RegisteredFrame

CORRELATION_BINS = 40
"""Of the histogram from -1 to 1: 0.05 wide, so that the report's threshold 0.6 is an edge."""

MAX_JOBS = 4
"""Subjects at a time; each takes about 1.5 GB at the report's grid."""

COLUMNS = (
    "task", "subject", "image", "bone", "n_slices", "n_tries", "n_in_region", "n_patches",
    "variance",
)  # fmt: skip
"""Of `Extraction.images`."""


@dataclass(frozen=True)
class Extraction:
    """What the report's extraction finds in some images, on average over its random tries."""

    images: pd.DataFrame
    """One row per image and bone: task, subject, image, bone, n_slices, n_tries; n_in_region, the
    patches with enough foot or bone; n_patches, those that also correlate with their target
    enough; variance of n_patches."""
    correlations: pd.DataFrame
    """Histogram of the patches with enough bone and a target, whatever their correlation: subject,
    bone, correlation (middle of the bin), n_patches."""


def count_cohort(
    subjects: Sequence[CleanSubject],
    masked: Path,
    accepted: Sequence[RegisteredFrame],
    *,
    device: torch.device | str = "cpu",
) -> Extraction:
    """Count the patches of the report's three data sets.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    masked : Path
        Results of chapter 02, which hold the foot masks.
    accepted : sequence of RegisteredFrame
        From `review_sheet.read_registered`; without any there are patches of static scans only.
    device : torch device
    """
    static_mm = pixel_mm(subject.static for subject in subjects)
    frames = [path for subject in subjects for run in subject.sequences.values() for path in run]
    dynamic_mm = pixel_mm(frames) if frames else None
    work = partial(_count_subject, masked, accepted, static_mm, dynamic_mm, device)
    of_subjects = run_all(
        work, subjects, n_jobs=MAX_JOBS, workers="threads", desc="counting patches"
    )
    parts = [part for of_subject in of_subjects for part in of_subject]
    images = pd.concat([part.images for part in parts if len(part.images)], ignore_index=True)
    correlations = pd.concat(
        [p.correlations for p in parts if len(p.correlations)] or [parts[0].correlations]
    )
    # a few rows per subject instead of thousands
    sums = correlations.groupby(["subject", "bone", "correlation"], sort=False)
    return Extraction(images, sums["n_patches"].sum().reset_index())


def count_patches(
    task: str, items: Iterable[Item], rules: Rules, device: torch.device | str = "cpu"
) -> Extraction:
    """Count the patches of each item.

    Parameters
    ----------
    task : str
        Name for the table.
    items : iterable of Item
        One at a time in memory.
    rules : PatchRule or mapping from bone to PatchRule
    device : torch device

    Returns
    -------
    Extraction
        An item counts for each bone whose label is known there, or for the bone that its patches
        show.
    """
    images, correlations = [], []
    middles = (np.arange(CORRELATION_BINS) + 0.5) * 2 / CORRELATION_BINS - 1
    for item in items:
        rule = rule_of(item, rules)
        slices = as_slices(item, replace(rule, min_correlation=None), tuple(item.labels), device)
        kept, share = slices.kept, rule.tries / slices.n_positions
        if rule.min_correlation is not None:
            values = local_correlation(slices.image, slices.target, rule.size)
            counts = torch.histc(values[kept].clamp(-1, 1), CORRELATION_BINS, -1, 1) * share
            rows = zip(middles.round(6), counts.tolist(), strict=True)
            correlations += [(item.subject, item.bone, middle, n) for middle, n in rows]
            kept = kept & (values > rule.min_correlation)
        in_region, expected = (
            positions.flatten(1).sum(1, dtype=torch.float64) * share
            for positions in (slices.kept, kept)
        )
        n_slices = item.image.shape[2]
        numbers = (n_slices, n_slices * rule.tries, float(in_region.sum()), float(expected.sum()))
        variance = float((expected * (1 - expected / rule.tries)).sum())
        for bone in [item.bone] if item.bone else item.labels:
            images.append((task, item.subject, item.name, bone, *numbers, variance))
    columns = ["subject", "bone", "correlation", "n_patches"]
    return Extraction(
        pd.DataFrame(images, columns=COLUMNS), pd.DataFrame(correlations, columns=columns)
    )


def _count_subject(
    masked: Path,
    accepted: Sequence[RegisteredFrame],
    static_mm: float,
    dynamic_mm: float | None,
    device: torch.device | str,
    subject: CleanSubject,
) -> list[Extraction]:
    one = [subject]
    task = STATIC_SEGMENTATION
    parts = [count_patches(task.name, static_items(one, masked), task.rule(static_mm), device)]
    if dynamic_mm is not None:
        task = RECONSTRUCTION
        pairs = reconstruction_items(one, accepted)
        parts.append(count_patches(task.name, pairs, task.rules(dynamic_mm), device))
        task = DYNAMIC_SEGMENTATION
        frames = dynamic_items(one, masked, accepted)
        parts.append(count_patches(task.name, frames, task.rule(dynamic_mm), device))
    return parts
