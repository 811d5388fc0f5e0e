"""The report's pairs of patches (its section 6.3.1), and what their correlation notices.

Low resolution: a frame. High resolution: the static scan moved with one bone and sampled on the
frame's grid, in 2020 in the middle of each slice, in chapter 03 averaged through it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch

from ankle_lib.cache import file_digest
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import Item, pixel_mm, reconstruction_items, zscore
from ankle_lib.patches.rules import RECONSTRUCTION
from ankle_lib.patches.source import Batch, PatchSource
from ankle_lib.patches.split import Split, report_split
from ankle_lib.presets import BONES, ReconstructionSizes
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.volume import load, resample, to_orientation

Part = Literal["train", "validation"]
PARTS: tuple[Part, ...] = ("train", "validation")

LOWEST_R = 0.6
"""Pairs below are left out (report, section 6.3.1)."""

SLICE_SAMPLES = 5
EVERY = 4
"""Of the first control's registrations, so many-th show unselected pairs: all bones get a turn."""


class Target(NamedTuple):
    """What a frame's patch is paired with."""

    averaged: bool = False
    """The static scan averaged through each slice, as in chapter 03; otherwise its middle."""
    forward_mm: float = 0.0
    """By how much the static scan is moved wrongly, on purpose."""


IN_2020 = Target()


@dataclass(frozen=True)
class Pairs:
    """The report's pairs of patches, with the target of 2020.

    Attributes
    ----------
    source : PatchSource
        The training part's patches of all bones.
    scored : dict
        Part (train, validation) and bone to the patches on which networks are scored. Validation
        shows one subject.
    pixel_mm : float
        Side of a pixel.
    split : Split
    decides : value of `cache.digest`
        Tells these pairs from others.
    folder : Path
        Of all trainings.
    device : str
    """

    source: PatchSource
    scored: dict[tuple[Part, str], Batch]
    pixel_mm: float
    split: Split
    decides: Any
    folder: Path
    device: str = "cpu"

    @property
    def pixels(self) -> int:
        """Rows and columns of a patch."""
        return self.source.size[0]


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
        From `quality.review_sheet.read_registered`; of each sequence every
        ``sizes.pair_frame_step``-th frame.
    sizes : ReconstructionSizes
    folder : Path
        Of all trainings.
    device : str
        "cpu" or "cuda".

    Examples
    --------
    >>> pairs = read_pairs(subjects, accepted, preset.reconstruction, folder / "trainings")
    >>> pairs.source.draw(16, torch.Generator()).image.shape
    """
    split = report_split(subjects)
    people = {part: split.pick(subjects, part) for part in PARTS}
    used = [one for part in PARTS for one in people[part]]
    codes = {one.code for one in used}
    chosen = [
        one for one in accepted if one.frame % sizes.pair_frame_step == 0 and one.subject in codes
    ]
    images = [path for one in people["train"] for paths in one.sequences.values() for path in paths]
    side_mm = pixel_mm(images)
    rules = RECONSTRUCTION.rules(side_mm)
    listed = run_all(partial(patch_items, accepted=chosen), used)
    items = {
        part: [item for own in listed for item in own if item.subject in getattr(split, part)]
        for part in PARTS
    }
    scored = {}
    for part in PARTS:
        for bone in BONES:
            own = [item for item in items[part] if item.bone == bone]
            scored[part, bone] = _drawn(PatchSource(own, rules, device=device), sizes.n_patches)
    scans = [file_digest(path) for path in (*images, *(one.static for one in used))]
    poses = [[one.subject, one.sequence, one.frame, one.bone, one.pose] for one in chosen]
    decides = [split.train, side_mm, poses, scans]
    source = PatchSource(items["train"], rules, device=device)
    return Pairs(source, scored, side_mm, split, decides, folder, device)


def _drawn(source: PatchSource, n: int) -> Batch:
    return source.draw(n, torch.Generator(source.device).manual_seed(0))


def patch_items(
    subject: CleanSubject, accepted: Sequence[RegisteredFrame], target: Target = IN_2020
) -> list[Item]:
    """Return frame and moved static scan of each accepted bone, normalised inside the bone.

    Averaged and not shifted, the moved scans are chapter 03's own files.
    """
    own = [one for one in accepted if one.subject == subject.code]
    own.sort(key=lambda one: (one.sequence, one.frame, one.bone))
    items = [item for one in own for item in reconstruction_items([subject], [one])]
    if not own or target == Target(averaged=True):
        return items
    static = to_orientation(load(subject.static))
    samples = SLICE_SAMPLES if target.averaged else 1
    moved = []
    for one, item in zip(own, items, strict=True):
        pose = one.pose.copy()
        pose[1, 3] += target.forward_mm
        grid = to_orientation(load(one.mask)).grid
        there = resample(static, *grid, pose=pose, slice_samples=samples).data
        moved.append(replace(item, target=zscore(there, item.region)))
    return moved


def unselected_pairs(
    subjects: Sequence[CleanSubject],
    accepted: Sequence[RegisteredFrame],
    pairs: Pairs,
    targets: Mapping[Any, Target],
    n_patches: int = 200,
) -> pd.DataFrame:
    """Compare the correlation of pairs of one control, before any selection, for several targets.

    The same patches of frames for all targets.

    Parameters
    ----------
    subjects, accepted
        As for `read_pairs`.
    pairs : Pairs
    targets : mapping of a name, or number, to Target
    n_patches : int
        Of each bone.

    Returns
    -------
    DataFrame
        Columns target, bone, correlation (mean), kept (part of the pairs above 0.6).
    """
    person = pairs.split.pick(subjects, "train")[0]
    some = [one for one in accepted if one.subject == person.code][::EVERY]
    read = partial(patch_items, person, some)
    rows = []
    found = run_all(read, list(targets.values()))
    for name, items in zip(targets, found, strict=True):
        for bone in BONES:
            own = [item for item in items if item.bone == bone]
            if own:
                rule = replace(
                    RECONSTRUCTION.rule(1.0, bone),
                    size=(pairs.pixels, pairs.pixels),
                    min_correlation=None,
                )
                r = _drawn(PatchSource(own, rule, device=pairs.device), n_patches).correlation
                rows.append((name, bone, float(r.mean()), float((r > LOWEST_R).float().mean())))
    return pd.DataFrame(rows, columns=["target", "bone", "correlation", "kept"])


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
