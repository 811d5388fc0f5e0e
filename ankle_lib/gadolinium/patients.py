"""Simulated patients with multiple sclerosis, before and after contrast agent, as files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib import cache
from ankle_lib.brain.acquisition import Scanner, acquire, bias_field
from ankle_lib.brain.heads import Head, Map, make_head
from ankle_lib.brain.lesions import Lesion, Shape, draw_lesions, parts_of, shape_of
from ankle_lib.brain.signals import SEQUENCES, mixed, signal, with_agent
from ankle_lib.files import write_json
from ankle_lib.gadolinium.oracle import HALOS, View, log_odds_of_images, looks
from ankle_lib.parallel import run_all
from ankle_lib.volume import save

POST = "T1w_post"
IMAGES = (*SEQUENCES, POST)
OUTLINES = "lesions"

GREY_LEVELS = 6.0
"""Images are stored in steps of a sixth of their noise."""

SHALLOW = 0.05
"""Voxels that hold less of a lesion and its largest halo tell nothing about it."""


@dataclass(frozen=True)
class World:
    """What the simulated patients have in common.

    Attributes
    ----------
    voxel_mm : float
    forms : bool
        Whether lesions may be rings, arcs and hollow; else all are even.
    seed : int
    z_mm : two floats
        Lowest and highest slice.
    """

    voxel_mm: float
    forms: bool = True
    seed: int = 2020
    z_mm: tuple[float, float] = (-12.0, 54.0)


@dataclass(frozen=True, eq=False)
class Patient:
    """A simulated patient with all that only a simulation knows.

    ``images`` are as scanned; ``plain`` are the signals of the head without lesions, ``shading``
    what the coils make of them, gain included.
    """

    code: str
    head: Head
    scanner: Scanner
    lesions: list[Lesion]
    shapes: list[Shape]
    images: dict[str, Map]
    plain: dict[str, Map]
    shading: dict[str, Map]

    def outlines(self) -> NDArray[np.int16]:
        """Return a map (X, Y, Z): the number of the lesion that fills half of a voxel, from 1."""
        numbers = np.zeros(self.head.brain.shape, dtype=np.int16)
        for number, shape in enumerate(self.shapes, 1):
            part = numbers[shape.box]
            part[shape.core > min(0.5, 0.8 * float(shape.core.max()))] = number
        return numbers

    def view(self, number: int) -> View:
        """Return what the ideal observer sees of lesion ``number``, counted from 0.

        Voxels into which another lesion reaches are left out.
        """
        shape = self.shapes[number]
        others = np.zeros(self.head.brain.shape, dtype=bool)
        for place, (lesion, other) in enumerate(zip(self.lesions, self.shapes, strict=True)):
            if place != number:
                others[other.box] |= other.core + other.halo(lesion.halo_mm) > 0
        halos = [shape.halo(float(halo)) for halo in HALOS]
        chosen = (shape.core + halos[-1] > SHALLOW) & ~others[shape.box]
        chosen &= self.head.brain[shape.box]
        every = {look: shape.activated(*look)[chosen].astype(float) for look in looks(True)}

        def of(maps: dict[str, Map]) -> dict[str, Any]:
            return {one: maps[one][shape.box][chosen].astype(float) for one in SEQUENCES}

        return View(
            of(self.images),
            of(self.plain),
            of(self.shading),
            {one: self.scanner.noise_level(one) for one in SEQUENCES},
            shape.core[chosen].astype(float),
            every,
            np.array([halo[chosen] for halo in halos], dtype=float),
        )


def simulate_patient(world: World, code: str) -> Patient:
    """Simulate one patient; seed and code decide everything."""
    rng = np.random.default_rng([world.seed, *code.encode()])
    head = make_head(rng, world.voxel_mm, world.z_mm)
    scanner = Scanner.draw(rng)
    lesions = draw_lesions(head, rng, forms=world.forms)
    shapes = [shape_of(head, lesion, rng) for lesion in lesions]
    plain = {one: mixed(head.fractions, scanner.normal, one) for one in SEQUENCES}
    clean = {one: plain[one.removesuffix("_post")].copy() for one in IMAGES}
    for lesion, shape in zip(lesions, shapes, strict=True):
        _put(clean, lesion, shape)
    shading, images = {}, {}
    for one in IMAGES:  # the second T1w is scanned in the same session
        kind = one.removesuffix("_post")
        if one != POST:
            bias = bias_field(head.brain.shape, world.voxel_mm, rng)
            shading[one] = (bias * scanner.gains[one]).astype(np.float32)
        noisy = acquire(clean[one] * shading[kind], scanner.noise_level(kind), rng)
        images[one] = noisy * head.brain
    return Patient(code, head, scanner, lesions, shapes, images, plain, shading)


def _put(images: dict[str, Map], lesion: Lesion, shape: Shape) -> None:
    """Put a lesion into images without noise."""
    parts = parts_of(shape, lesion)
    left = 1 - sum(amount for amount, _ in parts)
    for name, image in images.items():
        region = image[shape.box] * left
        for place, (amount, tissue) in enumerate(parts):
            if name == POST and place == 0:
                tissue = with_agent(tissue, lesion.agent)
            region += amount * np.float32(signal(tissue, name.removesuffix("_post")))
        image[shape.box] = region


def simulate_cohort(world: World, codes: Sequence[str], folder: Path, observed: bool) -> None:
    """Write patients: ``raw/<code>/<code>_<image>.nii.gz``, and ``truth/<code>.json``.

    Parameters
    ----------
    world : World
    codes : sequence of str
    folder : Path
    observed : bool
        Whether the ideal observer looks at each lesion: its log odds are then in the truth.
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
            odds = log_odds_of_images(patient.view(number), world.forms)
            row["log_odds"] = {"+".join(subset): value for subset, value in odds.items()}
        rows.append(row)
    return rows
