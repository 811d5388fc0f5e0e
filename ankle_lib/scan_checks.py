"""What every scan of one's own must be before any work begins on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume

FEWEST_SLICES = 2
LARGEST_SIDE_MM = (40.0, 1000.0)
"""Longest side of a field of view: a child's ankle fills 80 mm, a scanner's bore 600 mm."""
FEWEST_VALUES = 9
"""A scan has more distinct values than any map of labels that is meant here."""
SAMPLE = 100_000
"""Voxels that usually show whether there are many values."""


def check_scan(name: Path | str, volume: Volume) -> None:
    """Refuse what cannot be a scan of an ankle.

    Parameters
    ----------
    name : Path or str
        How messages call the scan.
    volume : Volume
        3D, in any orientation.

    Raises
    ------
    AnkleError
        If it is a single slice, smaller or larger than any scan of an ankle, not finite,
        constant, or a mask.
    """
    if min(volume.shape) < FEWEST_SLICES:
        raise AnkleError(
            f"{name}: shape {volume.shape} is a single slice: give the whole scan, at least "
            f"{FEWEST_SLICES} slices"
        )
    longest = max(n * size for n, size in zip(volume.shape, volume.voxel_size_mm, strict=True))
    if not LARGEST_SIDE_MM[0] <= longest <= LARGEST_SIDE_MM[1]:
        raise AnkleError(
            f"{name}: its longest side is {longest:.3g} mm, expected {LARGEST_SIDE_MM[0]:g} to "
            f"{LARGEST_SIDE_MM[1]:g}: is the header in another unit than mm?"
        )
    data = volume.data
    n_bad = 0 if data.dtype.kind in "iu" else int(data.size - np.isfinite(data).sum())
    if n_bad:
        raise AnkleError(f"{name}: {n_bad} voxels are NaN or infinite: replace them by 0")
    values = _few_values(data)
    if values is not None and len(values) == 1:
        raise AnkleError(f"{name}: every voxel is {values[0]:g}: there is no image in it")
    if values is not None:
        raise AnkleError(
            f"{name}: holds only the values {values_in_words(values)}: a mask was given for a scan"
        )


def size_in_words(volume: Volume) -> str:
    """Return the voxel size, e.g. ``0.28 x 0.28 x 0.8 mm``."""
    return " x ".join(f"{size:.3g}" for size in volume.voxel_size_mm) + " mm"


def values_in_words(values: NDArray[Any]) -> str:
    """Return the first values, e.g. ``0, 1, 2``."""
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return f"{shown}, …" if len(values) > 5 else shown


def _few_values(data: NDArray[Any]) -> NDArray[Any] | None:
    """Return the distinct values if there are few; a sample tells for most scans."""
    flat = data.ravel(order="K")
    if len(np.unique(flat[:: len(flat) // SAMPLE + 1])) >= FEWEST_VALUES:
        return None
    values = np.unique(flat)
    return values if len(values) < FEWEST_VALUES else None
