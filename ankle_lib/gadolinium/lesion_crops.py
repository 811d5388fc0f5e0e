"""Three planes through each lesion, cut from patients' images: what networks see; and measures.

Simulated and real patients go the same way. In a cube about each lesion the images are divided by
the median of the white matter, and the logarithm is taken: gains and slow shading vanish. Of the
cube, networks see the sagittal, coronal and axial plane in which the lesion is largest: nearly all
of its form, for a sixth of the work.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.brain.ms_patients import POST
from ankle_lib.brain.signals import SEQUENCES
from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume, load, resample, to_orientation

OUTLINES, BRAIN = "lesions", "brain"

LARGEST_LOG = 1.5
"""Logarithms of intensity ratios beyond this (fluid, mostly) are cut off."""

WHITE = 0.93
"""White matter is the brightest of T1w: what reaches this part of the 90th percentile of the brain
outside of lesions."""

LEAST_BACKGROUND = 0.15
"""Part of an image that is 0 if the skull was taken off."""

SMALLEST_MM3 = 15.0

ENHANCING = 0.08
"""A lesion counts as enhancing if its T1w grew by so much more than the brain about it (ln)."""

SHELL_MM = 2.5
"""So far around a lesion its halo is looked for."""

FEATURES = ("t1w", "t2w", "flair", "t2w_halo", "flair_halo", "ln_volume")
RAW = ("raw_t1w", "raw_t2w", "raw_flair")


@dataclass(frozen=True, eq=False)
class LesionSet:
    """Lesions of some patients.

    Attributes
    ----------
    table : DataFrame
        A row per lesion: patient, lesion, active, volume_mm3, `FEATURES`, `RAW` (the median of the
        white matter about it, before normalisation); for simulated ones what the simulation knows.
    images : (N, 3, 3, S, S) float32 array
        Logarithms of T1w, T2w and FLAIR over the white matter about the lesion, in the sagittal,
        coronal and axial plane; 0 outside the brain.
    outlines : (N, 3, S, S) bool array
        Of the lesion in the middle.
    all_lesions : (N, 3, S, S) bool array
    enhancement : (N, 3, S, S) float32 array
        Logarithm of T1w after over before contrast agent, likewise.
    """

    table: pd.DataFrame
    images: NDArray[np.float32]
    outlines: NDArray[np.bool_]
    all_lesions: NDArray[np.bool_]
    enhancement: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of lesions."""
        return len(self.table)

    def chosen(self, mask: Any) -> Self:
        """Return some of the lesions, by a mask or by numbers (N,)."""
        return replace(
            self,
            table=self.table.loc[mask].reset_index(drop=True)
            if np.asarray(mask).dtype == bool
            else self.table.iloc[mask].reset_index(drop=True),
            images=self.images[mask],
            outlines=self.outlines[mask],
            all_lesions=self.all_lesions[mask],
            enhancement=self.enhancement[mask],
        )

    def of(self, patients: Sequence[str]) -> Self:
        """Return the lesions of some patients."""
        return self.chosen(self.table["patient"].isin(list(patients)).to_numpy())

    @property
    def active(self) -> NDArray[np.bool_]:
        """Whether each lesion takes up contrast agent."""
        return self.table["active"].to_numpy(bool)


def joined(sets: Sequence[LesionSet]) -> LesionSet:
    """Return the lesions of all sets."""
    arrays = {
        name: np.concatenate([getattr(one, name) for one in sets])
        for name in ("images", "outlines", "all_lesions", "enhancement")
    }
    return LesionSet(pd.concat([one.table for one in sets], ignore_index=True), **arrays)


def read_simulated(folder: Path, codes: Sequence[str], side: int) -> LesionSet:
    """Cut all lesions of simulated patients; see `patients.simulate_cohort`."""
    sets = []
    for code in codes:
        paths = {
            name: folder / "raw" / code / f"{code}_{name}.nii.gz"
            for name in (*SEQUENCES, POST, OUTLINES)
        }
        found = cut_lesions(code, {name: load(path) for name, path in paths.items()}, side)
        text = (folder / "truth" / f"{code}.json").read_text(encoding="utf-8")
        truth = pd.DataFrame(json.loads(text))
        truth = truth.drop(columns=["volume_mm3"]) if len(truth) else truth
        if len(truth):
            table = found.table.rename(columns={"active": "enhances"}).merge(
                truth, "left", on="lesion"
            )
            sets.append(replace(found, table=table))
    return joined(sets)


def read_real(images: Mapping[str, Mapping[str, Path]], voxel_mm: float, side: int) -> LesionSet:
    """Cut all lesions of real patients, resampled to cubic voxels.

    Parameters
    ----------
    images : mapping of patient to a mapping of role to file
        Roles T1w, T2w, FLAIR, T1w_post and lesions (a mask, or numbers), all in one space; without
        skull, or with a mask ``brain``.
    voxel_mm : float
    side : int
        Of the planes, in voxels.

    Raises
    ------
    AnkleError
        If an image is missing or has a skull.
    """
    sets = []
    for code, paths in images.items():
        missing = [name for name in (*SEQUENCES, POST, OUTLINES) if name not in paths]
        if missing:
            raise AnkleError(
                f"{code} has no {', '.join(missing)}: this chapter needs images before and after "
                "contrast agent, and outlines of the lesions"
            )
        volumes = {name: to_orientation(load(path), "RAS") for name, path in paths.items()}
        first = volumes["T1w"]
        ratio = np.array(first.voxel_size_mm) / voxel_mm
        x, y, z = (max(1, round(float(n))) for n in first.shape * ratio)
        affine = first.affine @ np.diag([*(1 / ratio), 1.0])
        on_grid = {
            name: resample(one, (x, y, z), affine, 0 if name in (OUTLINES, BRAIN) else 1)
            for name, one in volumes.items()
        }
        if BRAIN in on_grid:
            brain = on_grid.pop(BRAIN).data > 0
            for name in (*SEQUENCES, POST):
                on_grid[name] = replace(on_grid[name], data=on_grid[name].data * brain)
        numbers = on_grid[OUTLINES]
        if numbers.data.max() <= 1:
            labelled, _ = ndimage.label(numbers.data > 0, np.ones((3, 3, 3)))
            on_grid[OUTLINES] = replace(numbers, data=labelled.astype(np.int16))
        sets.append(cut_lesions(code, on_grid, side))
    return joined(sets)


def cut_lesions(code: str, volumes: Mapping[str, Volume], side: int) -> LesionSet:
    """Cut planes about each lesion of one patient.

    Whether a lesion is active is told from the image after contrast agent (see `ENHANCING`).

    Parameters
    ----------
    code : str
    volumes : mapping
        T1w, T2w, FLAIR, T1w_post, lesions (numbers) on one grid of cubic voxels, without skull.
    side : int
    """
    voxel_mm = volumes["T1w"].voxel_size_mm[0]
    images = {name: np.asarray(volumes[name].data, dtype=np.float32) for name in (*SEQUENCES, POST)}
    brain = images["T1w"] > 0
    if (~brain).mean() < LEAST_BACKGROUND:
        raise AnkleError(
            f"{code}: {(~brain).mean():.0%} of the T1w image is 0: take the skull off first"
        )
    numbers = np.asarray(volumes[OUTLINES].data).astype(np.int32)
    sizes = np.bincount(numbers.ravel()) * voxel_mm**3
    kept = [n for n in np.flatnonzero(sizes) if n > 0 and sizes[n] >= SMALLEST_MM3 / 2]
    boxes = ndimage.find_objects(numbers)
    padded = {name: np.pad(image, side) for name, image in images.items()}
    brain, numbers = np.pad(brain, side), np.pad(numbers, side)
    rows: list[dict[str, Any]] = []
    cubes: list[tuple[NDArray[Any], ...]] = []
    for number in kept:
        corner = [(s.start + s.stop) // 2 - side // 2 + side for s in boxes[number - 1]]
        box = tuple(slice(c, c + side) for c in corner)
        own, every = numbers[box] == number, numbers[box] > 0
        normal = brain[box] & ~every
        if not own.any() or not normal.any():
            continue
        t1w = padded["T1w"][box]
        reference = normal & (t1w >= WHITE * np.percentile(t1w[normal], 90))
        raw = {name: float(np.median(image[box][reference])) for name, image in padded.items()}
        logs = {
            name: _logs(padded[name][box], raw[name], brain[box]) for name in (*SEQUENCES, POST)
        }
        stack = np.stack([logs[name] for name in SEQUENCES])
        grown = logs[POST] - logs["T1w"]
        row = {"patient": code, "lesion": int(number), "volume_mm3": float(sizes[number])}
        row["active"] = bool(np.percentile(grown[own], 75) > ENHANCING)
        row |= dict(zip(RAW, (np.log(raw[name]) for name in SEQUENCES), strict=True))
        rows.append(row | measures(stack, own, every, voxel_mm))
        planes = [int(own.sum(other).argmax()) for other in ((1, 2), (0, 2), (0, 1))]
        cubes.append(tuple(_cut(one, planes) for one in (stack, own, every, grown)))
    empty = np.zeros((0, 3, side, side), dtype=np.float32)
    if not rows:
        columns = ["patient", "lesion", "volume_mm3", "active", *RAW, *FEATURES]
        nothing = empty.astype(bool)
        images_of_none = np.zeros((0, len(SEQUENCES), 3, side, side), dtype=np.float32)
        return LesionSet(pd.DataFrame(columns=columns), images_of_none, nothing, nothing, empty)
    arrays = [np.stack(part) for part in zip(*cubes, strict=True)]
    return LesionSet(pd.DataFrame(rows), *arrays)


def _cut(cube: NDArray[Any], planes: Sequence[int]) -> NDArray[Any]:
    """Return three planes (…, 3, S, S) of a cube (…, S, S, S), by their places along each axis."""
    parts = [np.take(cube, place, axis=axis - 3) for axis, place in enumerate(planes)]
    return np.stack(parts, axis=-3)


def _logs(image: NDArray[Any], median: float, brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    safe = np.maximum(image, 1e-3 * median) / median
    return np.where(brain, np.clip(np.log(safe), -LARGEST_LOG, LARGEST_LOG), 0).astype(np.float32)


def measures(
    images: NDArray[Any], own: NDArray[np.bool_], every: NDArray[np.bool_], voxel_mm: float
) -> dict[str, float]:
    """Return `FEATURES` of one lesion: mean logarithms in it and in a shell around it, its size.

    Parameters
    ----------
    images : (3, S, S, S) array
        As in `LesionSet`.
    own, every : (S, S, S) bool arrays
        The lesion, and all lesions.
    voxel_mm : float
    """
    away = ndimage.distance_transform_edt(~own, sampling=voxel_mm)
    shell = (away > 0) & (away <= SHELL_MM) & ~every
    inside = [float(image[own].mean()) for image in images]
    around = [float(image[shell].mean()) if shell.any() else 0.0 for image in images[1:]]
    volume = float(np.log(own.sum() * voxel_mm**3))
    return dict(zip(FEATURES, [*inside, *around, volume], strict=True))
