"""Simulated patients with multiple sclerosis as files; what the ideal observer sees of them."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ankle_lib import cache
from ankle_lib.brain.heads import Map
from ankle_lib.brain.ms_patients import Patient, World, simulate_patient
from ankle_lib.brain.signals import SEQUENCES
from ankle_lib.files import write_json
from ankle_lib.gadolinium.oracle import HALOS, View, log_odds_of_images, looks
from ankle_lib.parallel import run_all
from ankle_lib.volume import save

OUTLINES = "lesions"

GREY_LEVELS = 6.0
"""Images are stored in steps of a sixth of their noise."""

SHALLOW = 0.05
"""Voxels that hold less of a lesion and its largest halo tell nothing about it."""


def view_of(patient: Patient, number: int) -> View:
    """Return what the ideal observer sees of lesion ``number``, counted from 0.

    Voxels into which another lesion reaches are left out.
    """
    shape = patient.shapes[number]
    others = np.zeros(patient.head.brain.shape, dtype=bool)
    for place, (lesion, other) in enumerate(zip(patient.lesions, patient.shapes, strict=True)):
        if place != number:
            others[other.box] |= other.core + other.halo(lesion.halo_mm) > 0
    halos = [shape.halo(float(halo)) for halo in HALOS]
    known = patient.head.brain & ~others
    chosen = (shape.core + halos[-1] > SHALLOW) & known[shape.box]

    def of(maps: dict[str, Map]) -> dict[str, Any]:
        return {one: maps[one][shape.box][chosen].astype(float) for one in SEQUENCES}

    return View(
        of(patient.images),
        of(patient.plain),
        of(patient.shading),
        {one: patient.scanner.noise_level(one) for one in SEQUENCES},
        shape.core[chosen].astype(float),
        {look: shape.activated(*look)[chosen].astype(float) for look in looks(True)},
        np.array([halo[chosen] for halo in halos], dtype=float),
    )


def simulate_cohort(world: World, codes: Sequence[str], folder: Path, observed: bool) -> None:
    """Write patients: ``raw/<code>/<code>_<image>.nii.gz``, and ``truth/<code>.json``.

    Parameters
    ----------
    world : World
    codes : sequence of str
    folder : Path
    observed : bool
        Whether the ideal observer looks at each lesion: its log odds are then in the truth.

    Notes
    -----
    Who is there already, by the same code and settings, is kept.
    """
    run_all(partial(_write, world, folder, observed), codes, workers="threads", desc="patients")


def _write(world: World, folder: Path, observed: bool, code: str) -> None:
    record = folder / "made" / f"{code}.json"
    settings = [asdict(world), code, observed]

    def work() -> bool:
        patient = simulate_patient(world, code)
        stem = folder / "raw" / code
        affine = patient.head.affine
        for name, image in patient.images.items():
            noise = patient.scanner.noise_level(name.removesuffix("_post"))
            save(stem / f"{code}_{name}.nii.gz", image, affine, scale=noise / GREY_LEVELS)
        save(stem / f"{code}_{OUTLINES}.nii.gz", patient.outlines(), affine)
        write_json(folder / "truth" / f"{code}.json", truth_of(patient, world, observed))
        return True

    cache.remembered(record, work, settings=settings)


def truth_of(patient: Patient, world: World, observed: bool) -> list[dict[str, Any]]:
    """Return what is known of each lesion: as drawn, and the ideal observer's log odds."""
    rows = []
    for number, lesion in enumerate(patient.lesions):
        row: dict[str, Any] = {"lesion": number + 1, **asdict(lesion)}
        if observed:
            odds = log_odds_of_images(view_of(patient, number), world.forms)
            row["log_odds"] = {"+".join(subset): value for subset, value in odds.items()}
        rows.append(row)
    return rows
