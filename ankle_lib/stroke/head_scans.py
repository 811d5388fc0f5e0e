"""Heads after a stroke as networks see them: axial slices on one grid, with the mirror image.

Scans are in MNI space, as ATLAS R2.0 comes. The networks see what lies in the mean brain and a
little around it; inside, an image gets mean 0 and standard deviation 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.brain.template import read_template
from ankle_lib.files import AnkleError
from ankle_lib.geometry import Matrix
from ankle_lib.learning.scans import Scan
from ankle_lib.manifest.schema import Subject
from ankle_lib.metrics import Mask
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import Item, zscore
from ankle_lib.patches.rules import PatchRule
from ankle_lib.patches.source import Augmentation, Batch, PatchSource
from ankle_lib.presets import StrokeSizes
from ankle_lib.volume import Volume, load, resample, to_orientation

LESION = "lesion"
"""The label that networks learn."""

AROUND_MM = 4.0
"""So far beyond the mean brain a person's own brain may reach."""

WHOLE_MM = (-70.0, 80.0)
"""Lowest and highest slice of a whole brain."""

FIRST_SESSION, SECOND_SESSION = "ses1", "ses2"
"""How codes of subjects end, in the layout "atlas"."""

BESIDE = 1
"""Neighbouring slices that a network sees, on each side."""

LEAST_BRAIN = 0.02
"""Part of a slice that must be brain for the slice to be learnt from."""

CLIP = 4.0
"""Standard deviations beyond which intensities are cut."""


@dataclass(frozen=True)
class HeadGrid:
    """Shape, and voxel to world (RAS, mm) with axes right, anterior, superior."""

    shape: tuple[int, int, int]
    affine: Matrix


def head_grid(sizes: StrokeSizes) -> HeadGrid:
    """Return the grid of the sizes, whose middle lies in the plane between left and right."""
    low, high = sizes.z_mm or WHOLE_MM
    shape = (*sizes.plane, max(1, int((high - low) / sizes.voxel_mm)))
    affine = np.diag([sizes.voxel_mm] * 3 + [1.0])
    affine[:3, 3] = [-(n - 1) / 2 * sizes.voxel_mm for n in sizes.plane] + [low]
    affine[1, 3] += MIDDLE_Y_MM
    return HeadGrid(shape, affine)


MIDDLE_Y_MM = -16.0
"""Of the brain, from back to front."""


def split_people(
    subjects: Sequence[Subject], sizes: StrokeSizes, seed: int | None = None
) -> tuple[list[Subject], list[Subject], list[Subject]]:
    """Return who trains, who validates and who tests: first sessions with a mask of the lesion.

    Parameters
    ----------
    subjects : sequence of Subject
    sizes : StrokeSizes
        How many of each.
    seed : int, optional
        Of a random order, for a real cohort, which is sorted by hospital; else in their order.

    Raises
    ------
    AnkleError
        If there are too few.
    """
    counts = np.cumsum([max(sizes.n_train), sizes.n_validation, sizes.n_test])
    first = [one for one in subjects if one.code.endswith(FIRST_SESSION)]
    people = [one for one in first if "lesions" in one.images]
    if len(people) < counts[-1]:
        raise AnkleError(
            f"{len(people)} people with a mask of the lesion, {counts[-1]} are needed: is all of "
            "the cohort here? Else take a smaller preset"
        )
    if seed is not None:
        people = [people[n] for n in np.random.default_rng(seed).permutation(len(people))]
    return tuple(people[a:b] for a, b in zip((0, *counts), counts, strict=False))  # type: ignore


def read_heads(
    subjects: Sequence[Subject], sizes: StrokeSizes, *, masks: Path | None = None
) -> tuple[Scan, ...]:
    """Read heads on the grid of the sizes; see `read_head`.

    Parameters
    ----------
    subjects : sequence of Subject
        Of a cohort in the layout "atlas", with absolute paths.
    sizes : StrokeSizes
    masks : Path, optional
        Folder of other masks than those beside the scans, e.g. of a second rater; below it lies
        one for each subject, of the same name.
    """
    return tuple(run_all(partial(read_head, sizes, masks), subjects, workers="threads"))


def read_head(sizes: StrokeSizes, masks: Path | None, subject: Subject) -> Scan:
    """Read one head: its image, where the brain may be, and its lesion.

    Raises
    ------
    AnkleError
        If the subject has no mask, or the scan does not lie in MNI space.
    """
    if not {"T1w", "lesions"} <= set(subject.images):
        raise AnkleError(f"{subject.code}: no mask of the lesion: take a subject of the training")
    image_path, mask_path = subject.images["T1w"], subject.images["lesions"]
    if masks is not None:
        (mask_path,) = masks.rglob(mask_path.name)
    image, mask = (to_orientation(load(path), "RAS") for path in (image_path, mask_path))
    grid = _on_lattice(head_grid(sizes), image)
    region = brain_region(grid)
    seen = _resampled(image, grid)
    inside = seen[region]
    if not (inside > inside.min()).mean() > 0.5:
        raise AnkleError(
            f"{image_path}: nothing where the brain is in MNI space: register it first"
        )
    normal = np.clip(zscore(seen, region), -CLIP, CLIP)
    normal[~region] = normal[region].min()
    lesion = _resampled(replace(mask, data=(mask.data > 0).astype(np.float32)), grid) >= 0.5
    item = Item(subject.code, "T1w", normal, region, {LESION: lesion & region})
    return Scan(item, subject.group, (sizes.voxel_mm,) * 3)


def _on_lattice(grid: HeadGrid, image: Volume) -> HeadGrid:
    """Move a grid by less than half a voxel to that of the image, if their voxels are alike."""
    voxel = grid.affine[0, 0]
    if not np.allclose(image.affine[:3, :3], np.eye(3) * voxel, rtol=1e-3, atol=1e-3):
        return grid
    affine, origin = grid.affine.copy(), image.affine[:3, 3]
    affine[:3, 3] = origin + np.round((affine[:3, 3] - origin) / voxel) * voxel
    return HeadGrid(grid.shape, affine)


def _resampled(image: Volume, grid: HeadGrid) -> NDArray[np.float32]:
    """Bring an image to a grid; to larger voxels after a blur, as a scanner would."""
    ratio = grid.affine[0, 0] / np.array(image.voxel_size_mm)
    data = image.data.astype(np.float32)
    if (ratio > 1.01).any():
        data = ndimage.gaussian_filter(data, 0.4 * np.where(ratio > 1.01, ratio, 0))
    moved = resample(replace(image, data=data), grid.shape, grid.affine)
    return moved.data.astype(np.float32)


def brain_region(grid: HeadGrid) -> Mask:
    """Return where a brain may be on a grid: the mean brain and `AROUND_MM` around it."""
    return _brain_region(grid.shape, tuple(grid.affine[:3, 3]), float(grid.affine[0, 0]))


@lru_cache(maxsize=4)
def _brain_region(
    shape: tuple[int, int, int], origin: tuple[float, ...], voxel_mm: float
) -> NDArray[np.bool_]:
    template = read_template()
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = origin
    brain = template.fractions.sum(axis=0) > 0.5
    there = resample(Volume(brain, template.affine), shape, affine, order=0).data > 0
    away: NDArray = ndimage.distance_transform_edt(~there, sampling=voxel_mm)
    return away <= AROUND_MM


# --- what networks see ---


def mirrored(array: NDArray) -> NDArray:
    """Return an array (X, Y, Z) with left and right exchanged."""
    return array[::-1]


def seen_item(scan: Scan, mirror: bool) -> Item:
    """Return the image with the slices that a network sees at a time, as an Item's context.

    Parameters
    ----------
    scan : Scan
    mirror : bool
        Whether it also sees the same slices of the mirror image. They stand behind the last slice;
        no slice beside the first or the last one is of the other image.
    """
    item, n = scan.item, scan.item.image.shape[2]
    beside = tuple(range(-BESIDE, BESIDE + 1))
    if not mirror:
        return replace(item, context=beside)
    ends = (item.image[:, :, -1:],) * BESIDE, (item.image[:, :, :1],) * BESIDE
    other = mirrored(np.concatenate([*ends[1], item.image], axis=2))
    image = np.concatenate([item.image, *ends[0], other], axis=2)

    def with_none(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.pad(mask, [(0, 0), (0, 0), (0, image.shape[2] - n)])

    return replace(
        item,
        image=image,
        region=with_none(item.region),
        labels={name: with_none(mask) for name, mask in item.labels.items()},
        context=(*beside, *(n + 2 * BESIDE + one for one in beside)),
    )


def slice_sources(scans: Sequence[Scan], mirror: bool, device: str) -> list[PatchSource]:
    """Return whole slices to draw from: those with a lesion, and all.

    Raises
    ------
    AnkleError
        If no slice shows a lesion.
    """
    items = [seen_item(scan, mirror) for scan in scans]
    rule = PatchRule(items[0].image.shape[:2], 1, LEAST_BRAIN)
    ill = [replace(one, region=one.region & one.labels[LESION].any((0, 1))) for one in items]
    return [
        PatchSource(part, rule, labels=(LESION,), device=device)
        for part in ([one for one in ill if one.region.any()], items)
    ]


def draw_slices(
    sources: Sequence[PatchSource], augmentation: Augmentation, n: int, generator: torch.Generator
) -> Batch:
    """Draw slices, half of them with a lesion; each is turned over, left for right, or not.

    Parameters
    ----------
    sources : sequence of PatchSource
        See `slice_sources`; as many slices of each.
    augmentation : Augmentation
    n : int
    generator : torch.Generator
    """
    counts = [n // 2, n - n // 2]
    drawn = zip(sources, counts, strict=True)
    parts = [source.draw(count, generator, augmentation) for source, count in drawn]
    names = ("image", "target", "valid", "correlation", "where")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    luck = torch.rand(n, generator=generator, device=joined["image"].device) < 0.5
    for name in ("image", "target"):
        turned = joined[name].flip(2)
        joined[name] = torch.where(luck[:, None, None, None], turned, joined[name])
    source_of = [sources[0]] * counts[0] + [sources[1]] * counts[1]
    places = torch.arange(n, device=joined["where"].device)[:, None]
    joined["where"] = torch.cat([joined["where"], places], dim=1)
    return Batch(**joined, describe=lambda place: source_of[place[3]].describe(place[:3]))
