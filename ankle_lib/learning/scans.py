"""Scans as networks see them: coarser, turned, or with some slices only; and learning from them."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib import cache
from ankle_lib.learning.networks import SliceNetwork
from ankle_lib.learning.recipes import Recipe, Schedule, Stage
from ankle_lib.learning.scoring import patch_validation
from ankle_lib.learning.training import DrawBatch, Penalty, Trained, Validate, train_once
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.items import Item, slices_at, static_items
from ankle_lib.patches.rules import PatchRule
from ankle_lib.patches.source import Augmentation, Batch, PatchSource
from ankle_lib.volume import canonical_voxel_size, read_header

ROTATIONS_DEG = (40.0, 60.0)
"""Feet are turned by angles from this range, in which the report's networks are lost."""

TRIES = 300
"""Positions that the report tries in every slice."""

REPORT_FRACTION = 0.75
"""Part of a patch that must be foot for the report to look at it."""

FINAL_AUGMENTATION = Augmentation(
    rotation_deg=180.0, scale=1.2, gain=0.15, shading=0.2, gamma=0.2, noise=0.15
)
"""Any angle; coils, gains and noise beyond those of one scanner."""

FRAME_NOISE = 0.35
"""For frames of other scanners."""

FINAL_FRACTION = 0.2
"""Part of a patch that must be foot: air is seen, slices without a foot are not."""

FINAL_CONTEXT_MM = (-1.6, 0.0, 1.6)
"""The slice and one on each side: where a bone begins and ends, a single slice does not tell."""

ChangeMask = Callable[[NDArray[np.bool_]], NDArray[np.bool_]]

FINAL_SCHEDULES: tuple[Schedule, ...] = ("one-cycle", "cosine")


@dataclass(frozen=True, eq=False)
class Scan:
    """A static scan, normalised inside the foot, with its bones; equal to nothing but itself.

    Attributes
    ----------
    item : Item
        Image, foot and labels, axes posterior, superior, right.
    group : str
        ``control`` or ``equinus``.
    voxel_size_mm : three floats
    """

    item: Item
    group: str
    voxel_size_mm: tuple[float, float, float]

    @property
    def code(self) -> str:
        """Code of the subject."""
        return self.item.subject

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel within a sagittal slice, in mm."""
        return float(np.mean(self.voxel_size_mm[:2]))

    @cached_property
    def checksum(self) -> str:
        """Digest of everything that a training, or a score, sees of the scan."""
        item = self.item
        return cache.digest([item.image, item.region, dict(item.labels), self.voxel_size_mm])


def read_scans(subjects: Sequence[CleanSubject], masked: Path) -> tuple[Scan, ...]:
    """Read the static scan of each subject; see `items.static_items`.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    masked : Path
        Results of chapter 02.
    """
    scans = []
    for subject, item in zip(subjects, static_items(subjects, masked), strict=True):
        voxel_size_mm = canonical_voxel_size(read_header(subject.static).affine)
        scans.append(Scan(item, subject.group, voxel_size_mm))
    return tuple(scans)


def factor_for(scan: Scan, pixel_mm: float) -> int:
    """Return how many of the scan's pixels make one of about ``pixel_mm``."""
    return max(1, round(pixel_mm / scan.pixel_mm))


def coarser(scan: Scan, factor: int, *, to_learn: bool = False) -> Scan:
    """Return the scan with ``factor`` x ``factor`` pixels of each slice averaged to one.

    Labels and foot by majority. Rows and columns that fill no whole pixel any more are continued
    with the image's border.

    Parameters
    ----------
    scan : Scan
    factor : int
    to_learn : bool
        Of the pixels of which exactly half is bone, take every other one, as on a chessboard.
        Otherwise all of them are bone, and a network that learns from such labels, brought back to
        small pixels, makes bones larger by a quarter of a large one.
    """
    if factor == 1:
        return scan

    def mean(array: NDArray) -> NDArray[np.float32]:
        missing = [(0, -length % factor) for length in array.shape[:2]]
        whole = np.pad(array, [*missing, (0, 0)], mode="edge")
        # several times as fast as the mean over the axes of blocks
        total = np.zeros([n // factor for n in whole.shape[:2]] + [whole.shape[2]], np.float32)
        for row, column in itertools.product(range(factor), repeat=2):
            total += whole[row::factor, column::factor]
        return total / np.float32(factor**2)

    def label(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        part = mean(mask)
        if not to_learn:
            return part >= 0.5
        chosen = np.indices(part.shape, sparse=True)
        return (part > 0.5) | ((part == 0.5) & (sum(chosen) % 2 == 0))

    smaller = with_arrays(scan, mean, lambda mask: mean(mask) >= 0.5, of_label=label)
    posterior, superior, right = scan.voxel_size_mm
    return replace(smaller, voxel_size_mm=(posterior * factor, superior * factor, right))


def turned(scan: Scan, angle_deg: float) -> Scan:
    """Return the scan turned about the middle of its bones, within its sagittal slices.

    As if the child had been placed otherwise: the field of view stays, what leaves it is lost, and
    what the scanner had not seen is air. Intensities are interpolated linearly, labels and foot
    taken from the nearest voxel.

    Parameters
    ----------
    scan : Scan
    angle_deg : float
        Positive turns axis 0 (posterior) towards axis 1 (superior): the heel is lifted.
    """
    item = scan.item
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    size = np.diag(scan.voxel_size_mm[:2])
    # voxels of the result are looked up where they come from
    inverse = np.linalg.inv(size) @ [[cosine, sine], [-sine, cosine]] @ size
    bones = np.logical_or.reduce([*item.labels.values()]).any(axis=2)
    middle = np.argwhere(bones).mean(axis=0)
    offset = middle - inverse @ middle
    matrix = np.eye(3)
    matrix[:2, :2] = inverse

    def moved(array: NDArray, order: int, fill: float) -> NDArray:
        result: NDArray = ndimage.affine_transform(
            array, matrix, offset=[*offset, 0.0], order=order, cval=fill, prefilter=False
        )
        return result

    def mask(array: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return moved(array.view(np.uint8), 0, 0) > 0

    air = float(item.image.min())
    name = f"{item.name} turned by {angle_deg:.0f} degrees"
    return with_arrays(scan, lambda image: moved(image, 1, air), mask, name=name)


def rotation_of(index: int, n: int) -> float:
    """Return by how much to turn the ``index``-th of ``n`` scans: evenly spread, to both sides."""
    low, high = ROTATIONS_DEG
    size = low + (high - low) * (index + 0.5) / n
    return size if index % 2 == 0 else -size


def every(scan: Scan, step: int) -> Scan:
    """Return every ``step``-th sagittal slice: enough to compare networks in a part of the time.

    At least one is left, from the middle if there are no more.
    """
    if step == 1:
        return scan
    n_slices = scan.item.image.shape[2]
    fewer = _slices(scan, np.arange(min(step, n_slices) // 2, n_slices, step))
    posterior, superior, right = scan.voxel_size_mm
    return replace(fewer, voxel_size_mm=(posterior, superior, right * step))


def one_slice(scan: Scan, k: int, beside: int = 0) -> Scan:
    """Return the scan with its sagittal slice ``k`` alone, or in the middle of its neighbours.

    Parameters
    ----------
    scan : Scan
    k : int
    beside : int
        Neighbours on each side, for networks that see them; beyond the scan its last slice goes on.
    """
    ks = np.arange(k - beside, k + beside + 1)
    return _slices(scan, ks.clip(0, scan.item.image.shape[2] - 1))


def _slices(scan: Scan, ks: NDArray[np.int_]) -> Scan:
    return with_arrays(scan, lambda array: array[:, :, ks], lambda mask: mask[:, :, ks])


def with_arrays(
    scan: Scan,
    of_image: Callable[[NDArray], NDArray],
    of_mask: ChangeMask,
    *,
    of_label: ChangeMask | None = None,
    name: str | None = None,
) -> Scan:
    """Return the scan with changed arrays; its labels change as the foot does by default."""
    item = scan.item
    changed = replace(
        item,
        name=name or item.name,
        image=of_image(item.image),
        region=of_mask(item.region),
        labels={label: (of_label or of_mask)(mask) for label, mask in item.labels.items()},
    )
    return replace(scan, item=changed)


def patch_source(
    scans: Sequence[Scan],
    bones: Sequence[str],
    pixels: int,
    min_fraction: float = REPORT_FRACTION,
    device: str = "cpu",
    context_mm: Sequence[float] = (0.0,),
) -> PatchSource:
    """Return patches of ``pixels`` x ``pixels`` of the scans, labelled with some of the bones.

    A bone that a scan has no label of is unknown there, not absent.
    """
    items = (
        replace(
            scan.item,
            labels={bone: mask for bone, mask in scan.item.labels.items() if bone in bones},
            context=slices_at(context_mm, scan.voxel_size_mm[2]),
        )
        for scan in scans
    )
    rule = PatchRule((pixels, pixels), TRIES, min_fraction)
    return PatchSource(items, rule, labels=bones, device=device)


_drawn: WeakKeyDictionary[Scan, dict[tuple[Any, ...], Batch]] = WeakKeyDictionary()
"""Patches for networks that are scored one after the other; gone with their scan."""


def draw_patches(
    scan: Scan, bones: tuple[str, ...], pixels: int, n: int, seed: int = 0, device: str = "cpu"
) -> Batch:
    """Return patches of a scan as the report scored networks on: the same ones for every network.

    At least 75 % of each is foot. They are drawn once for as long as the scan is in use.
    """
    drawn, wanted = _drawn.setdefault(scan, {}), (bones, pixels, n, seed, device)
    if wanted not in drawn:
        source = patch_source([scan], bones, pixels, REPORT_FRACTION, device)
        batch = source.draw(n, torch.Generator(source.device).manual_seed(seed))
        # its own description would keep the source, all slices of the scan, too
        words = {tuple(where): batch.describe(where) for where in batch.where.tolist()}
        drawn[wanted] = replace(batch, describe=lambda where: words[tuple(where)])
    return drawn[wanted]


def train_on_scans(
    recipe: Recipe,
    scans: Sequence[Scan],
    folder: Path,
    *,
    validation: Sequence[Scan] = (),
    start: SliceNetwork | None = None,
    penalties: Sequence[Penalty] = (),
    device: str = "cpu",
) -> Trained:
    """Train a network on patches of scans, or read it if that was done before; see `train_once`.

    Parameters
    ----------
    recipe : Recipe
    scans : sequence of Scan
        All with pixels of one size.
    folder : Path
        Of all trainings.
    validation : sequence of Scan
        Scored after each epoch.
    start : SliceNetwork, optional
        Whose weights are the first ones.
    penalties : sequence of callables
        Added to the recipe's loss, see `train_once`.
    device : str
        "cpu" or "cuda".
    """

    def source(stage: Stage, of: Sequence[Scan]) -> PatchSource:
        assert stage.pixels is not None  # whole slices are learnt from scenes alone
        return patch_source(
            of, recipe.labels, stage.pixels, recipe.min_fraction, device, recipe.context_mm
        )

    def draws(stage: Stage) -> DrawBatch:
        patches = source(stage, scans)
        return lambda n, generator: patches.draw(n, generator, recipe.augmentation)

    def validates(stage: Stage) -> Validate:
        return patch_validation(source(stage, validation), recipe.n_validation)

    return train_once(
        recipe,
        draws,
        folder,
        decides=[[scan.code, scan.checksum] for scan in (*scans, *validation)],
        validates=validates if validation else None,
        start=start,
        penalties=penalties,
        device=device,
    )


def final_recipe(
    stages: Sequence[tuple[int, int, int, float]],
    seed: int = 0,
    noise: float = FINAL_AUGMENTATION.noise,
) -> Recipe:
    """Return how a network that is to be used is trained.

    Parameters
    ----------
    stages : sequence of (pixels, steps, batch size, learning rate)
        As in `presets.SegmentationSizes`.
    seed : int
    noise : float
        See `Augmentation`.
    """
    return Recipe(
        tuple(
            Stage(*stage, FINAL_SCHEDULES[min(number, 1)]) for number, stage in enumerate(stages)
        ),
        loss="dice+bce",
        optimizer="muon",
        context_mm=FINAL_CONTEXT_MM,
        min_fraction=FINAL_FRACTION,
        augmentation=replace(FINAL_AUGMENTATION, noise=noise),
        seed=seed,
    )
