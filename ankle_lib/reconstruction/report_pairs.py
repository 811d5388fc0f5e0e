"""The report's pairs of patches (its section 6.3.1).

Low resolution: a frame. High resolution: the static scan moved with one bone and sampled on the
frame's grid, in 2020 in the middle of each slice (target ``sampled``), in chapter 03 averaged
through it (target ``averaged``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import Item, pixel_mm, reconstruction_items, zscore
from ankle_lib.patches.rules import RECONSTRUCTION
from ankle_lib.patches.source import Batch, PatchSource
from ankle_lib.patches.split import Split, report_split
from ankle_lib.presets import BONES, ReconstructionSizes
from ankle_lib.quality.registered import RegisteredFrame
from ankle_lib.registration.moving import moved
from ankle_lib.volume import load, to_orientation

Target = Literal["sampled", "averaged"]

PARTS: tuple[Literal["train", "validation"], ...] = ("train", "validation")


@dataclass(frozen=True)
class Pairs:
    """The report's pairs of patches.

    Attributes
    ----------
    sources : dict
        Target to the training part's patches of all bones.
    scored : dict
        Part (train, validation), target and bone to the patches on which networks are scored.
        Validation shows one subject.
    pixel_mm : float
        Side of a pixel.
    split : Split
    sizes : ReconstructionSizes
    stamp : JSON value
        Tells these pairs from others.
    folder : Path
        Where trainings are kept.
    device : str
    """

    sources: dict[Target, PatchSource]
    scored: dict[tuple[str, Target, str], Batch]
    pixel_mm: float
    split: Split
    sizes: ReconstructionSizes
    stamp: Any
    folder: Path
    device: str = "cpu"

    @property
    def pixels(self) -> int:
        """Rows and columns of a patch."""
        return self.sources["sampled"].size[0]


def read_pairs(
    subjects: Sequence[CleanSubject],
    accepted: Sequence[RegisteredFrame],
    sizes: ReconstructionSizes,
    folder: Path,
    *,
    device: str = "cpu",
) -> Pairs:
    """Read the pairs of the controls: all but the last train, the last one validates.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    accepted : sequence of RegisteredFrame
        From `quality.read_registered`; of each sequence every ``sizes.pair_frame_step``-th frame.
    sizes : ReconstructionSizes
    folder : Path
        Where trainings are kept.
    device : str
        "cpu" or "cuda".
    """
    split = report_split(subjects)
    chosen = [one for one in accepted if one.frame % sizes.pair_frame_step == 0]
    used = {part: split.pick(subjects, part) for part in ("train", "validation")}
    images = [path for one in used["train"] for paths in one.sequences.values() for path in paths]
    side_mm = pixel_mm(images)
    rules = RECONSTRUCTION.rules(side_mm)
    sources: dict[Target, PatchSource] = {}
    scored: dict[tuple[str, Target, str], Batch] = {}
    people = [one for part in PARTS for one in used[part]]
    for target in get_args(Target):
        read = partial(_items_of, accepted=chosen, target=target)
        listed = zip(people, run_all(read, people, progress=False), strict=True)
        found = {one.code: items for one, items in listed}
        items = {part: [item for one in used[part] for item in found[one.code]] for part in PARTS}
        sources[target] = PatchSource(items["train"], rules, device=device)
        for part in PARTS:
            for bone in BONES:
                own = [item for item in items[part] if item.bone == bone]
                source = PatchSource(own, rules, device=device)
                generator = torch.Generator(source.device).manual_seed(0)
                scored[part, target, bone] = source.draw(sizes.n_patches, generator)
    stamp = [
        [one.subject, one.sequence, one.frame, one.bone, one.pose.tolist()]
        for one in chosen
        if one.subject in (*split.train, *split.validation)
    ]
    return Pairs(sources, scored, side_mm, split, sizes, stamp, folder, device)


def _items_of(
    subject: CleanSubject, *, accepted: Sequence[RegisteredFrame], target: Target
) -> list[Item]:
    return list(patch_items([subject], accepted, target))


def patch_items(
    subjects: Sequence[CleanSubject],
    accepted: Sequence[RegisteredFrame],
    target: Target = "averaged",
    shift_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Iterator[Item]:
    """Yield frame and moved static scan of each accepted bone, normalised inside the bone.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    accepted : sequence of RegisteredFrame
    target : {"averaged", "sampled"}
        Chapter 03's files, averaged through the slice; or the static scan in the slices' middle.
    shift_mm : three floats
        Move the static scan wrongly by this much, world RAS, to see what a correlation notices.
    """
    for subject in subjects:
        own = [one for one in accepted if one.subject == subject.code]
        static = to_orientation(load(subject.static)) if own else None
        for one in sorted(own, key=lambda one: (one.sequence, one.frame, one.bone)):
            (item,) = reconstruction_items([subject], [one])
            if target == "averaged" and not any(shift_mm):
                yield item
                continue
            assert static is not None
            grid = to_orientation(load(one.mask))
            pose = one.pose.copy()
            pose[:3, 3] += shift_mm
            samples = 1 if target == "sampled" else 5
            there = moved(static, pose, grid.shape, grid.affine, slice_samples=samples).data
            yield replace(item, target=zscore(there, item.region))


def places_of(batch: Batch) -> pd.DataFrame:
    """Return which registration each pair comes from, and its correlation.

    Returns
    -------
    DataFrame
        Columns subject, sequence, frame, bone, correlation.
    """
    rows = []
    for where, r in zip(batch.where.tolist(), batch.correlation.tolist(), strict=True):
        subject, sequence, _, frame, bone = batch.describe(where).split(",")[0].split()
        rows.append((subject, sequence, int(frame), bone, r))
    return pd.DataFrame(rows, columns=["subject", "sequence", "frame", "bone", "correlation"])
