"""What the pairs are worth: how flat their weights are, and what their correlation notices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import pandas as pd
import torch

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import RECONSTRUCTION
from ankle_lib.patches.source import PatchSource
from ankle_lib.presets import BONES
from ankle_lib.quality.registered import RegisteredFrame
from ankle_lib.reconstruction.report_pairs import Pairs, Target, patch_items, places_of
from ankle_lib.reconstruction.weighting import LOWEST_R, LearntWeight, flatness, report_g

SHIFTS_MM = (0.0, 0.5, 1.0, 2.0, 4.0)
_Shift = tuple[float, float, float]
_Kind = tuple[Target, _Shift]
"""A target and by how much the static scan is moved wrongly, mm."""

NOT_SHIFTED: _Shift = (0.0, 0.0, 0.0)
EVERY = 4
"""Of the first control's registrations, so many-th are looked at: all bones get their turn."""


def flat_weights(pairs: Pairs) -> pd.DataFrame:
    """Return how flat g is over the pairs that the selection leaves; see `weighting.flatness`."""
    rows = []
    for bone in BONES:
        r = pairs.scored["train", "sampled", bone].correlation.cpu().numpy()
        rows.append({"bone": bone, "r_least": float(r.min()), **flatness(r)})
    return pd.DataFrame(rows)


def price_of_no_profile(
    subjects: Sequence[CleanSubject],
    accepted: Sequence[RegisteredFrame],
    pairs: Pairs,
    n_patches: int = 200,
) -> pd.DataFrame:
    """Compare the correlation of unselected pairs, with a target with and without slice profile.

    The same patches of one control for both targets.

    Returns
    -------
    DataFrame
        Columns target, bone, correlation (mean), kept (part of the pairs above 0.6).
    """
    targets = get_args(Target)
    kinds = [(target, NOT_SHIFTED) for target in targets]
    scored = _unselected(subjects, accepted, pairs, kinds, n_patches)
    tables = [table.assign(target=target) for target, table in zip(targets, scored, strict=True)]
    columns = ["target", "bone", "correlation", "kept"]
    return pd.concat(tables, ignore_index=True)[columns]


def what_a_shift_costs(
    subjects: Sequence[CleanSubject],
    accepted: Sequence[RegisteredFrame],
    pairs: Pairs,
    shifts_mm: Sequence[float] = SHIFTS_MM,
    n_patches: int = 200,
) -> pd.DataFrame:
    """Move the static scan wrongly on purpose: how much does the correlation notice?

    The same patches of one control, the static scan (averaged through the slice) moved forward.

    Returns
    -------
    DataFrame
        Columns shift_mm, bone, correlation (mean), kept (part of the pairs above 0.6).
    """
    kinds: list[_Kind] = [("averaged", (0.0, shift, 0.0)) for shift in shifts_mm]
    scored = _unselected(subjects, accepted, pairs, kinds, n_patches)
    tables = [table.assign(shift_mm=shift) for shift, table in zip(shifts_mm, scored, strict=True)]
    columns = ["shift_mm", "bone", "correlation", "kept"]
    return pd.concat(tables, ignore_index=True)[columns]


def weights_and_truth(pairs: Pairs, weight: LearntWeight, registered: Path) -> pd.DataFrame:
    """Set both weights beside the true misregistration, which only a simulation knows.

    Parameters
    ----------
    pairs : Pairs
    weight : LearntWeight
    registered : Path
        Folder of chapter 03, whose ``registration.csv`` holds ``tre_mm``.

    Returns
    -------
    DataFrame
        Columns subject, sequence, frame, bone, correlation, report_g, learnt_g, tre_mm; one row
        per pair. ``tre_mm`` is empty for real scans.
    """
    parts = [places_of(pairs.scored["train", "sampled", bone]) for bone in BONES]
    table = pd.concat(parts, ignore_index=True)
    errors = pd.read_csv(registered / "tables" / "registration.csv")
    keys = ["subject", "sequence", "frame", "bone"]
    table = table.merge(errors[[*keys, "tre_mm"]], on=keys, how="left")
    r = table["correlation"].to_numpy()
    return table.assign(report_g=report_g(r), learnt_g=weight(r))


def _unselected(
    subjects: Sequence[CleanSubject],
    accepted: Sequence[RegisteredFrame],
    pairs: Pairs,
    kinds: Sequence[_Kind],
    n_patches: int,
) -> list[pd.DataFrame]:
    """Return correlations of pairs of the first control that no correlation has selected.

    One table, with columns bone, correlation and kept, for each kind of target.
    """
    people = pairs.split.pick(subjects, "train")[:1]
    some = [one for one in accepted if one.subject == people[0].code][::EVERY]
    found = run_all(partial(_items, people, some), kinds, progress=False)
    return [pd.DataFrame(_correlations(items, pairs, n_patches)) for items in found]


def _items(
    people: Sequence[CleanSubject], accepted: Sequence[RegisteredFrame], kind: _Kind
) -> list[Item]:
    return list(patch_items(people, accepted, *kind))


def _correlations(
    items: Sequence[Item], pairs: Pairs, n_patches: int
) -> Iterator[dict[str, object]]:
    for bone in BONES:
        own = [item for item in items if item.bone == bone]
        if own:
            rule = replace(
                RECONSTRUCTION.rule(1.0, bone),
                size=(pairs.pixels, pairs.pixels),
                min_correlation=None,
            )
            source = PatchSource(own, rule, device=pairs.device)
            generator = torch.Generator(source.device).manual_seed(0)
            r = source.draw(n_patches, generator).correlation
            kept = (r > LOWEST_R).float().mean()
            yield {"bone": bone, "correlation": float(r.mean()), "kept": float(kept)}
