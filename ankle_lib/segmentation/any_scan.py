"""Any static scan segmented by a trained network: `ankle segment`.

The network sees the scan as those that it was trained on: axes posterior, superior, right, pixels
of the same size within the sagittal slices, intensities normalised inside the foot. Slices stay
where they are. Its probabilities go back to the pixels of the scan, and become labels there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ankle_lib.cleaning import side_from_bones
from ankle_lib.files import AnkleError
from ankle_lib.inference import MARGIN, labels_from, tidy_labels, whole_slices
from ankle_lib.masking import bone_volumes_cm3
from ankle_lib.masking.any_scan import find_foot
from ankle_lib.masking.boxes import box_with_margin
from ankle_lib.networks import Checkpoint, SliceNetwork, load_checkpoint
from ankle_lib.patches import slices_at, zscore
from ankle_lib.presets import BONES
from ankle_lib.scan_checks import size_in_words
from ankle_lib.volume import CANONICAL_CODES, Volume, to_orientation

__all__ = ["EXPECTED_CM3", "Segmentation", "Segmenter", "read_segmenter", "segment_scan"]

EXPECTED_CM3 = {"calcaneus": (22.0, 85.0), "talus": (12.0, 45.0), "tibia": (15.0, 150.0)}
"""From half of the children's mean volume (44.8, 24.0, 30.3 cm3: LaTIM's mean shape) to 1.3 times
the largest adult's (65, 34); of the tibia as much is seen as the field of view holds."""

PIXEL_LIMITS_MM = (0.05, 5.0)
MOST_CONTEXT_MM = 50.0
COARSE = 2.0
"""Pixels so many times larger than the network's make its outlines rough."""
SPIKE = 2.0
"""Intensities beyond the foot's by more than its range are faults, and would spoil the z-score."""

_INPUT = {"voxel_mm", "normalisation", "axes", "side", "context_mm"}


@dataclass(frozen=True)
class Segmenter:
    """A trained network and what it wants to see."""

    network: SliceNetwork
    bones: tuple[str, ...]
    """One for each output channel."""
    pixel_mm: tuple[float, float]
    """Size of its pixels along posterior and superior."""
    context_mm: tuple[float, ...] = (0.0,)
    """Where the slices lie that it sees at a time, from the one that it labels."""


@dataclass(frozen=True)
class Segmentation:
    """The bones of a scan."""

    labels: Volume
    """uint8 on the scan's own grid: 0, or 1 calcaneus, 2 talus, 3 tibia."""
    names: dict[int, str]
    """Label to bone, for the bones that the network knows."""
    volumes_cm3: dict[str, float]
    side: str | None
    """``"left"`` or ``"right"``, told by the shape of the bones, or ``None`` if they do not."""
    notes: tuple[str, ...]
    """What a person should look at, one sentence each."""


def read_segmenter(path: Path) -> Segmenter:
    """Read a checkpoint that says how its input is made.

    Its ``training["input"]`` holds ``voxel_mm`` (along posterior and superior), ``normalisation``
    ("zscore-foot"), ``axes`` ("PSR"), ``side`` ("as is" or "right") and ``context_mm``: where the
    slices lie that the network sees at a time, [0] for single ones. Single slices are the same of
    a foot and its mirror image, and networks that see several were shown both.

    Raises
    ------
    AnkleError
        If it is no checkpoint, does not segment bones, or wants another input.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.network.head != "probability":
        raise AnkleError(
            f"{path}: its network gives intensities, not labels: give one trained to segment"
        )
    unknown = [label for label in checkpoint.labels if label not in BONES]
    if unknown or len(set(checkpoint.labels)) < len(checkpoint.labels):
        raise AnkleError(
            f"{path}: segments {', '.join(checkpoint.labels)}: give a network of "
            f"{', '.join(BONES)}, each once"
        )
    return Segmenter(checkpoint.network, checkpoint.labels, *_input(path, checkpoint))


def segment_scan(
    scan: Volume, segmenter: Segmenter, *, device: str = "cpu", side: str | None = None
) -> Segmentation:
    """Segment the bones of a static scan.

    Parameters
    ----------
    scan : Volume
        3D, in any orientation and of any voxel size and unit of intensity; see
        `any_scan_files.read_scan` for what is refused.
    segmenter : Segmenter
    device : str
        "cpu" or "cuda".
    side : {"left", "right"}, optional
        What the foot is documented to be; bones of the other side are noted.

    Raises
    ------
    AnkleError
        If there is no foot in the scan, or no bone is found in it.
    """
    canonical = to_orientation(scan)
    labels = np.zeros(canonical.shape, dtype=np.uint8)
    foot = find_foot(canonical.data)
    context = slices_at(segmenter.context_mm, canonical.voxel_size_mm[2])
    box = _surroundings(foot, canonical, segmenter, max(map(abs, context)))
    image = _normalised(canonical.data, foot)[box]
    shape = _working_shape(image.shape, canonical, segmenter)
    probabilities = whole_slices(
        segmenter.network,
        _resized(image, shape),
        context=context,
        foot=_resized(foot[box], shape) >= 0.5,
        device=device,
    )
    numbers = np.array([0, *(BONES.index(bone) + 1 for bone in segmenter.bones)], dtype=np.uint8)
    labels[box] = tidy_labels(numbers[_labels(probabilities, image.shape)])
    if not labels.any():
        raise AnkleError(
            f"none of {', '.join(segmenter.bones)} was found: is this a static scan of an ankle, "
            "with the contrast that the network was trained on?"
        )
    back = to_orientation(Volume(labels, canonical.affine), "".join(scan.axis_codes))
    return _described(Volume(back.data, scan.affine), segmenter, side)


def _input(path: Path, checkpoint: Checkpoint) -> tuple[tuple[float, float], tuple[float, ...]]:
    """Read pixel size and context of the input, and refuse what would have to be guessed."""
    wanted = checkpoint.training.get("input")
    if not isinstance(wanted, dict) or set(wanted) != _INPUT:
        raise AnkleError(
            f"{path}: does not say how its input is made (training['input'] with "
            f"{', '.join(sorted(_INPUT))}): use the final network of chapter 05"
        )
    known: dict[str, Sequence[Any]] = {
        "normalisation": ("zscore-foot",),
        "axes": (CANONICAL_CODES,),
        "side": ("as is", "right"),
    }
    for entry, values in known.items():
        if not any(type(wanted[entry]) is type(one) and wanted[entry] == one for one in values):
            raise AnkleError(
                f"{path}: wants an input with {entry} {wanted[entry]!r}, this ankle_lib makes "
                f"{' or '.join(map(repr, values))}: update it, or use the final network of "
                "chapter 05"
            )
    context = wanted["context_mm"]
    if (
        not isinstance(context, list | tuple)
        or len(context) != checkpoint.network.in_channels
        or not all(type(mm) in (int, float) and abs(mm) <= MOST_CONTEXT_MM for mm in context)
    ):
        raise AnkleError(
            f"{path}: its network takes {checkpoint.network.in_channels} slices at a time, its "
            f"input has them at {context!r} mm: train the network again"
        )
    sizes = wanted["voxel_mm"]
    low, high = PIXEL_LIMITS_MM
    if (
        not isinstance(sizes, list | tuple)
        or len(sizes) != 2
        or not all(type(size) in (int, float) and low <= size <= high for size in sizes)
    ):
        raise AnkleError(
            f"{path}: wants pixels of {sizes!r} mm, expected two numbers from {low:g} to "
            f"{high:g}: train the network again"
        )
    return (float(sizes[0]), float(sizes[1])), tuple(map(float, context))


def _surroundings(
    foot: NDArray[np.bool_], canonical: Volume, segmenter: Segmenter, n_beside: int
) -> tuple[slice, slice, slice]:
    """Return the foot's box with what the network looks at beside it."""
    pixels = [MARGIN * size for size in segmenter.pixel_mm]
    margin = [
        math.ceil(mm / size) for mm, size in zip(pixels, canonical.voxel_size_mm[:2], strict=True)
    ]
    box = box_with_margin(foot, np.array([*margin, n_beside]))
    if box is None:
        raise AnkleError("nothing in the scan is as large as a foot: look at it in a viewer")
    return box


def _normalised(data: NDArray, foot: NDArray[np.bool_]) -> NDArray[np.float32]:
    inside = data[foot].astype(np.float32)
    low, high = np.percentile(inside[:: inside.size // 1_000_000 + 1], (0.1, 99.9))
    return zscore(np.minimum(data, high + SPIKE * (high - low), dtype=np.float32), foot)


def _working_shape(
    shape: Sequence[int], canonical: Volume, segmenter: Segmenter
) -> tuple[int, int]:
    rows, columns = (
        max(1, round(length * size / pixel))
        for length, size, pixel in zip(
            shape[:2], canonical.voxel_size_mm[:2], segmenter.pixel_mm, strict=True
        )
    )
    return rows, columns


def _resized(image: NDArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bring the slices ``[:, :, k]`` of an image to another number of pixels."""
    rows, columns, n_slices = image.shape
    if (rows, columns) == shape:
        return image.astype(np.float32, copy=False)
    across_rows, across_columns = _cells(rows, shape[0]), _cells(columns, shape[1])
    result = np.empty((*shape, n_slices), dtype=np.float32, order="F")
    for k in range(n_slices):
        part = across_rows @ image[:, :, k].astype(np.float32)
        result[:, :, k] = (across_columns @ part.T).T
    return result


def _labels(probabilities: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bring probabilities (channels, I, J, K) to the scan's pixels, slice by slice, as labels."""
    labels = np.empty(shape, dtype=np.uint8, order="F")
    for k in range(shape[2]):
        maps = np.moveaxis(probabilities[..., k], 0, 2)
        finer = np.moveaxis(_resized(maps, (shape[0], shape[1])), 2, 0)
        labels[:, :, k] = labels_from(finer)
    return labels


def _cells(n_from: int, n_to: int) -> sparse.csr_array:
    """Return the matrix that brings ``n_from`` cells of an axis to ``n_to`` of the same length.

    Fewer cells are averages over their whole extent, as a scanner with larger voxels would give;
    more cells are interpolated linearly between the centres, constant beyond the outermost.
    """
    if n_to < n_from:
        edges = np.arange(n_to + 1) * (n_from / n_to)
        cells = np.arange(n_from)
        ends = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        weights = ends.clip(0) * (n_to / n_from)
    else:
        centres = (np.arange(n_to) + 0.5) * (n_from / n_to) - 0.5
        apart = centres.clip(0, n_from - 1)[:, None] - np.arange(n_from)
        weights = (1 - np.abs(apart)).clip(0)
    return sparse.csr_array(weights.astype(np.float32))


def _described(labels: Volume, segmenter: Segmenter, side: str | None) -> Segmentation:
    masks = {bone: labels.data == BONES.index(bone) + 1 for bone in segmenter.bones}
    volumes = bone_volumes_cm3(masks, labels.voxel_size_mm)
    notes = _volume_notes(volumes)
    missing = [bone for bone in BONES if not volumes.get(bone)]
    found = None if missing else side_from_bones(masks, labels.affine).side
    if side and found and side != found:
        notes.append(
            f"the bones are those of a {found} foot, not of a {side} one: is the image mirrored?"
        )
    coarse = max(
        size / pixel
        for size, pixel in zip(
            to_orientation(labels).voxel_size_mm[:2], segmenter.pixel_mm, strict=True
        )
    )
    if coarse > COARSE:
        pixel = " x ".join(f"{size:.3g}" for size in segmenter.pixel_mm)
        notes.append(
            f"voxels of {size_in_words(labels)} where the network was trained on pixels of "
            f"{pixel} mm: the outlines are rough"
        )
    names = {number: bone for number, bone in enumerate(BONES, start=1) if bone in masks}
    return Segmentation(labels, names, volumes, found, tuple(notes))


def _volume_notes(volumes: dict[str, float]) -> list[str]:
    notes = []
    for bone, volume in volumes.items():
        low, high = EXPECTED_CM3[bone]
        if volume == 0:
            notes.append(f"no {bone} was found")
        elif not low <= volume <= high:
            notes.append(
                f"the {bone} has {volume:.3g} cm3, expected {low:g} to {high:g} in children and "
                "adults: look at the overlay"
            )
    return notes
