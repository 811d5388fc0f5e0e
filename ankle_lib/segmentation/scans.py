"""Scans as the networks of chapter 05 see them: coarser, turned, or with some slices only."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.cohort import static_items
from ankle_lib.patches.items import Item
from ankle_lib.volume import canonical_voxel_size, read_header

ROTATIONS_DEG = (40.0, 60.0)
"""Feet are turned by angles from this range, in which the report's networks are lost."""


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
    def checksum(self) -> int:
        """Checksum of everything that a training sees of the scan."""
        number = 0
        for array in (self.item.image, self.item.region, *self.item.labels.values()):
            number = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, number)
        return number


def read_scans(subjects: Sequence[CleanSubject], masked: Path) -> tuple[Scan, ...]:
    """Read the static scan of each subject; see `patches.static_items`.

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

    item = scan.item
    smaller = replace(
        item,
        image=mean(item.image),
        region=mean(item.region) >= 0.5,
        labels={name: label(mask) for name, mask in item.labels.items()},
    )
    posterior, superior, right = scan.voxel_size_mm
    return Scan(smaller, scan.group, (posterior * factor, superior * factor, right))


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
    middle = _middle(item)
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

    changed = replace(
        item,
        name=f"{item.name} turned by {angle_deg:.0f} degrees",
        image=moved(item.image, 1, float(item.image.min())),
        region=mask(item.region),
        labels={label: mask(one) for label, one in item.labels.items()},
    )
    return Scan(changed, scan.group, scan.voxel_size_mm)


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
    item = scan.item
    ks = slice(min(step, item.image.shape[2]) // 2, None, step)
    fewer = replace(
        item,
        image=item.image[:, :, ks],
        region=item.region[:, :, ks],
        labels={label: mask[:, :, ks] for label, mask in item.labels.items()},
    )
    posterior, superior, right = scan.voxel_size_mm
    return Scan(fewer, scan.group, (posterior, superior, right * step))


def one_slice(scan: Scan, k: int, beside: int = 0) -> Scan:
    """Return the scan with its sagittal slice ``k`` alone, or in the middle of its neighbours.

    Parameters
    ----------
    scan : Scan
    k : int
    beside : int
        Neighbours on each side, for networks that see them; beyond the scan its last slice goes on.
    """
    item = scan.item
    ks = np.arange(k - beside, k + beside + 1).clip(0, item.image.shape[2] - 1)
    alone = replace(
        item,
        image=item.image[:, :, ks],
        region=item.region[:, :, ks],
        labels={label: mask[:, :, ks] for label, mask in item.labels.items()},
    )
    return Scan(alone, scan.group, scan.voxel_size_mm)


def _middle(item: Item) -> NDArray[np.float64]:
    """Return the middle of all bones in voxels, shape (2,)."""
    bones = np.logical_or.reduce([*item.labels.values()]).any(axis=2)
    return np.argwhere(bones).mean(axis=0)
