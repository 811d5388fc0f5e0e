"""Chronic strokes in simulated heads, written to disk as ATLAS R2.0 comes.

Territories are simple bodies in MNI space, volumes log-normal (median 5 ml, spread of the logarithm
1.9), 70 % in the territory of the middle cerebral artery, 20 % small and subcortical, 10 %
posterior; 30 % of the people have more than one. Old tissue has become a fluid-filled cavity with a
rim of gliosis, the ventricle of that side has grown into what was lost. Beside them stands what is
none: wide sulci, and changes of the white matter around the ventricles and elsewhere.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from ankle_lib.brain.acquisition import Scanner, acquire, bias_field
from ankle_lib.brain.heads import Head, Map, make_head, sample, smooth_noise
from ankle_lib.brain.lesions import soft_ball
from ankle_lib.brain.signals import Tissue, mixed, put_in
from ankle_lib.brain.template import CSF, GM, WM
from ankle_lib.cache import remembered
from ankle_lib.metrics import Mask
from ankle_lib.parallel import run_all
from ankle_lib.volume import save

MEDIAN_ML, LN_SPREAD, LARGEST_ML = 5.0, 1.9, 400.0
"""Of the volume of all lesions of a person, about that of ATLAS R2.0."""

SMALLEST_ML = 0.1
SEVERAL_FROM_ML = 0.4
"""Less is one lesion."""

LACUNE_ML = 1.7
"""Volume of a ball of 15 mm: a larger subcortical infarct is no lacune (Wardlaw et al. 2013)."""

LACUNE_SHARE, POSTERIOR_SHARE, SEVERAL = 0.20, 0.10, 0.30
LACUNES_CAVITATE = 0.61

RIM_MM = (2.0, 5.0)
RIM_PART = 0.4
"""A rim takes at most this part of the depth of its lesion."""


@dataclass(frozen=True)
class Territory:
    """Where strokes of one kind lie, in MNI space, RAS, mm; left and right alike."""

    name: str
    centre_mm: tuple[float, float, float]
    """Of an ellipsoid on the right."""
    radii_mm: tuple[float, float, float]


MIDDLE = Territory("middle cerebral", (46.0, -8.0, 20.0), (32.0, 58.0, 48.0))
POSTERIOR = Territory("posterior", (20.0, -76.0, 6.0), (26.0, 32.0, 30.0))
SUBCORTICAL = Territory("subcortical", (22.0, -4.0, 12.0), (14.0, 26.0, 14.0))


@dataclass(frozen=True)
class Stroke:
    """One lesion, as drawn: where, how large, how old it looks."""

    territory: Territory
    side: int
    """-1 left, 1 right."""
    volume_ml: float
    cavitated: bool
    rim_mm: float


@dataclass(frozen=True, eq=False)
class StrokePatient:
    """A head with its lesions; arrays (X, Y, Z), axes right, anterior, superior.

    Attributes
    ----------
    head : Head
    strokes : tuple of Stroke
    lesion : bool array
        Cavities and rims.
    fractions : (N, X, Y, Z) array
    tissues : list of N Tissues, or names of those of a session
    """

    head: Head
    strokes: tuple[Stroke, ...]
    lesion: Mask
    fractions: Map
    tissues: list[str]


def draw_strokes(rng: np.random.Generator) -> tuple[Stroke, ...]:
    """Draw the lesions of a person: one, or two or three that share the volume."""
    drawn = MEDIAN_ML * math.exp(LN_SPREAD * rng.standard_normal())
    whole = float(np.clip(drawn, SMALLEST_ML, LARGEST_ML))
    n = int(rng.integers(2, 4)) if rng.random() < SEVERAL and whole > SEVERAL_FROM_ML else 1
    parts = whole * rng.dirichlet(np.full(n, 2.0))
    side = int(rng.choice((-1, 1)))
    strokes = []
    for part in sorted(parts, reverse=True):
        volume = max(float(part), SMALLEST_ML)
        territory = _territory(volume, rng)
        cavitated = territory is not SUBCORTICAL or rng.random() < LACUNES_CAVITATE
        own = side if rng.random() < 0.7 else -side
        strokes.append(Stroke(territory, own, volume, bool(cavitated), rng.uniform(*RIM_MM)))
        side = strokes[0].side
    return tuple(strokes)


def _territory(volume_ml: float, rng: np.random.Generator) -> Territory:
    """Draw where a lesion of this volume lies; all three have their share over all volumes."""
    below = 0.5 * (1 + math.erf(math.log(LACUNE_ML / MEDIAN_ML) / LN_SPREAD / math.sqrt(2)))
    if volume_ml < LACUNE_ML and rng.random() < LACUNE_SHARE / below:
        return SUBCORTICAL
    return POSTERIOR if rng.random() < POSTERIOR_SHARE / (1 - LACUNE_SHARE) else MIDDLE


def make_patient(
    rng: np.random.Generator, voxel_mm: float, z_mm: tuple[float, float] | None
) -> StrokePatient:
    """Return a head with chronic strokes and decoys.

    Parameters
    ----------
    rng : numpy Generator
    voxel_mm : float
    z_mm : two floats, optional
        Slices between these heights only, see `heads.make_head`.
    """
    strokes = draw_strokes(rng)
    lost = {side: sum(one.volume_ml for one in strokes if one.side == side) for side in (-1, 1)}
    grown = [1 + 0.35 * (1 - math.exp(-lost[side] / 40)) + rng.uniform(0, 0.15) for side in (-1, 1)]
    head = make_head(rng, voxel_mm, z_mm, (grown[0], grown[1]))
    fractions, tissues = wide_sulci(head, rng), ["white matter", "grey matter", "csf"]
    spots = white_matter_changes(head, rng)
    fractions, tissues = put_in(fractions, spots), [*tissues, "gliosis"]
    lesion = np.zeros_like(head.brain)
    for stroke in strokes:
        own = outline(head, stroke, lesion, rng)
        if not own.any():
            continue
        lesion |= own
        depth = _depth(own, voxel_mm)
        rim = min(stroke.rim_mm, RIM_PART * -float(depth.min()))
        fractions, tissues = put_in(fractions, soft_ball(depth, voxel_mm)), [*tissues, "gliosis"]
        if stroke.cavitated:
            cavity = soft_ball(depth + rim, voxel_mm)
            fractions, tissues = put_in(fractions, cavity), [*tissues, "cavity"]
    return StrokePatient(head, strokes, lesion, fractions, tissues)


def outline(head: Head, stroke: Stroke, taken: Mask, rng: np.random.Generator) -> Mask:
    """Return where a lesion is: it spreads from a seed over the tissue of its territory."""
    centre, radii = (np.array(v)[:, None, None, None] for v in
                     (stroke.territory.centre_mm, stroke.territory.radii_mm))  # fmt: skip
    place = head.template_mm * np.array([stroke.side, 1, 1])[:, None, None, None]
    inside = (((place - centre) / radii) ** 2).sum(axis=0) < 1
    tissue = head.brain & (head.fractions[CSF] < 0.5) & ~ndimage.binary_dilation(taken)
    free = inside & tissue & (place[0] > 2)
    wanted = max(1, round(stroke.volume_ml * 1000 / head.voxel_mm**3))
    if not free.any():
        return free
    # a seed far enough from the border for the lesion to be round
    radius = (0.75 * stroke.volume_ml * 1000 / math.pi) ** (1 / 3)
    room = ndimage.distance_transform_edt(free, sampling=head.voxel_mm)
    seeds = np.argwhere(room >= min(0.7 * radius, 0.9 * float(room.max())))
    seed = seeds[rng.integers(len(seeds))]
    grid = np.indices(free.shape, sparse=True)
    squared = sum(((axis - s) * head.voxel_mm) ** 2 for axis, s in zip(grid, seed, strict=True))
    uneven = smooth_noise(free.shape, head.voxel_mm, max(6.0, 0.8 * radius), rng)
    arrival = np.sqrt(squared) * np.exp(0.2 * uneven)
    arrival[~free] = np.inf
    last = np.partition(arrival.ravel(), wanted - 1)[wanted - 1] if wanted < free.sum() else np.inf
    grown = free & (arrival <= last)
    pieces, _ = ndimage.label(grown)
    biggest: Mask = pieces == np.bincount(pieces[grown]).argmax()
    return biggest


def _depth(mask: Mask, voxel_mm: float) -> Map:
    """Return the distance in mm from the surface of a mask, negative inside."""
    outside = ndimage.distance_transform_edt(~mask, sampling=voxel_mm)
    inside = ndimage.distance_transform_edt(mask, sampling=voxel_mm)
    half = voxel_mm / 2
    return np.where(mask, half - inside, outside - half).astype(np.float32)


def wide_sulci(head: Head, rng: np.random.Generator) -> Map:
    """Return the fractions with some grey matter made fluid, here and there, on either side."""
    amount = rng.uniform(0.0, 0.35) + 0.4 * smooth_noise(head.brain.shape, head.voxel_mm, 35.0, rng)
    lost = head.fractions[GM] * np.clip(amount, 0, 0.8).astype(np.float32)
    fractions = head.fractions.copy()
    fractions[GM] -= lost
    fractions[CSF] += lost
    return fractions


def white_matter_changes(head: Head, rng: np.random.Generator) -> Map:
    """Return the part of each voxel that is changed white matter: caps, and spots elsewhere."""
    uneven = smooth_noise(head.brain.shape, head.voxel_mm, 12.0, rng)
    caps = soft_ball(head.to_ventricles_mm - rng.uniform(0, 5) * (1 + 0.5 * uneven), head.voxel_mm)
    spotty = smooth_noise(head.brain.shape, head.voxel_mm, 7.0, rng)
    spots = soft_ball(3.0 * (rng.uniform(2.2, 3.2) - spotty), head.voxel_mm)
    changed: Map = np.maximum(caps, spots) * head.fractions[WM] * np.float32(rng.uniform(0.2, 0.8))
    return changed


def scan(
    patient: StrokePatient, rng: np.random.Generator, *, noise: float = 0.03, other: bool = False
) -> Map:
    """Return a T1-weighted image (X, Y, Z).

    Parameters
    ----------
    patient : StrokePatient
    rng : numpy Generator
    noise : float
        Standard deviation as a part of the white matter's signal.
    other : bool
        By another scanner: three times the noise, twice the shading, thicker slices, and tissues
        that lie nearer together.
    """
    session = Scanner.draw(rng, noise=3 * noise if other else noise)
    tissues = [_at_other_field(session.tissues[name], other) for name in patient.tissues]
    image = session.gains["T1w"] * mixed(patient.fractions, tissues, "T1w")
    if other:
        image = ndimage.gaussian_filter(image, (0, 0, 0.8))
    bias = bias_field(image.shape, patient.head.voxel_mm, rng) ** (2 if other else 1)
    return acquire(image * bias, session.noise_level("T1w"), rng)


def _at_other_field(tissue: Tissue, other: bool) -> Tissue:
    """Return a tissue as at 1.5 tesla, if asked for: T1 is shorter, and tissues lie nearer."""
    if not other:
        return tissue
    return Tissue(tissue.proton_density, tissue.t1_s**0.8 * 0.85, tissue.t2_ms)


def second_rater(patient: StrokePatient, rng: np.random.Generator) -> Mask:
    """Return the lesions as somebody else would outline them.

    The border lies elsewhere by a smooth error of 1.5 mm, and a bias of the person's own; of the
    lesions below 0.5 ml a third is overlooked. These are our estimates.
    """
    head = patient.head
    error = 1.5 * smooth_noise(head.brain.shape, head.voxel_mm, 12.0, rng) + rng.normal(0, 0.5)
    seen = (_depth(patient.lesion, head.voxel_mm) < error) & head.brain
    lesions, n = ndimage.label(patient.lesion, np.ones((3, 3, 3)))
    for number in range(1, n + 1):
        own = lesions == number
        if own.sum() * head.voxel_mm**3 < 500 and rng.random() < 1 / 3:
            seen &= ~ndimage.binary_dilation(own, iterations=3)
    return seen


# --- to disk ---

MASK = "label-L_desc-T1lesion_mask"
SPACE = "space-MNI152NLin2009aSym"
TRAINING, RATER = "Training", "derivatives/rater2"


def file_of(root: Path, code: str, session: int, what: str, below: str = TRAINING) -> Path:
    """Return the path of an image, named as in ATLAS R2.0."""
    folder = root / below / f"sub-{code}" / f"ses-{session}" / "anat"
    return folder / f"sub-{code}_ses-{session}_{SPACE}_{what}.nii.gz"


def simulate_strokes(
    codes: Sequence[str],
    out: Path,
    *,
    voxel_mm: float,
    z_mm: tuple[float, float] | None,
    seed: int = 2020,
) -> Path:
    """Write heads after a stroke below ``out``; those that are there are kept.

    Of each person: a T1-weighted scan and the true lesion mask (``ses-1``), the same from another
    scanner (``ses-2``), and a second rater's mask below ``derivatives/rater2``.

    Parameters
    ----------
    codes : sequence of str
        Who, e.g. ``s001``; a code decides with the seed who the person is.
    out : Path
    voxel_mm : float
    z_mm : two floats, optional
        See `heads.make_head`.
    seed : int

    Examples
    --------
    >>> simulate_strokes(["s001"], Path("heads"), voxel_mm=2.0, z_mm=(-20, 60))
    """
    work = partial(_remembered_person, Path(out), voxel_mm, z_mm, seed)
    sample(np.zeros((3, 1, 1, 1), np.float32), voxel_mm)  # once for all threads
    run_all(work, codes, workers="threads", desc="simulating heads")
    return Path(out)


def _remembered_person(
    out: Path, voxel_mm: float, z_mm: tuple[float, float] | None, seed: int, code: str
) -> None:
    record = out / TRAINING / f"sub-{code}" / "simulated.json"
    work = partial(_write_person, out, voxel_mm, z_mm, seed, code)
    files = remembered(record, work, settings=[voxel_mm, z_mm, seed])
    if not all((out / name).is_file() for name in files):
        record.unlink()
        remembered(record, work, settings=[voxel_mm, z_mm, seed])


def _write_person(
    out: Path, voxel_mm: float, z_mm: tuple[float, float] | None, seed: int, code: str
) -> list[str]:
    shutil.rmtree(out / TRAINING / f"sub-{code}", ignore_errors=True)
    rng = np.random.default_rng([seed, *code.encode()])
    patient = make_patient(rng, voxel_mm, z_mm)
    images = {
        file_of(out, code, 1, "T1w"): scan(patient, rng),
        file_of(out, code, 1, MASK): patient.lesion,
        file_of(out, code, 2, "T1w"): scan(patient, rng, other=True),
        file_of(out, code, 2, MASK): patient.lesion,
        file_of(out, code, 1, MASK, RATER): second_rater(patient, rng),
    }
    for path, image in images.items():
        save(path, image, patient.head.affine)
    return [path.relative_to(out).as_posix() for path in images]
