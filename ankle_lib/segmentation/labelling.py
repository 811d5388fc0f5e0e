"""One image through a trained network: the bones in it, and how sure the network is of each.

The network sees the image as those that it was trained on: pixels of the same size within the
sagittal slices, intensities normalised inside the foot. Slices stay where they are. Its
probabilities go back to the pixels of the image, and become labels there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ankle_lib.files import AnkleError
from ankle_lib.geometry import bounding_box
from ankle_lib.inference import MARGIN, labels_from, tidy_labels, whole_slices
from ankle_lib.masking.foot import find_foot
from ankle_lib.patches.items import slices_at
from ankle_lib.patches.normalise import zscore
from ankle_lib.presets import BONES
from ankle_lib.segmentation.segmenter import Segmenter
from ankle_lib.volume import Volume

SPIKE = 2.0
"""Intensities beyond the foot's by more than its range are faults, and would spoil the z-score."""


@dataclass(frozen=True)
class Labelled:
    """The bones of one image."""

    labels: NDArray[np.uint8]
    """(I, J, K): 0, or 1 calcaneus, 2 talus, 3 tibia."""
    confidence: dict[str, float]
    """For each bone the Dice that its labels would have on average if the network's probabilities
    were right: 2 Σ p (inside the label) / (Σ p (everywhere) + voxels of the label). 0 without a
    label. It knows nothing of errors that the network makes with conviction."""


def label_bones(image: Volume, segmenter: Segmenter, device: str = "cpu") -> Labelled:
    """Label the bones of one image.

    Parameters
    ----------
    image : Volume
        3D, axes posterior, superior, right, any voxel size and unit of intensity.
    segmenter : Segmenter
    device : str

    Raises
    ------
    AnkleError
        If there is no foot in the image.
    """
    foot = find_foot(image.data)
    context = slices_at(segmenter.context_mm, image.voxel_size_mm[2])
    box = _surroundings(foot, image, segmenter, max(map(abs, context)))
    seen = _normalised(image.data, foot)[box]
    shape = _working_shape(seen.shape, image, segmenter)
    probabilities = whole_slices(
        segmenter.network,
        _resized(seen, shape),
        context=context,
        foot=_resized(foot[box], shape) >= 0.5,
        device=device,
    )
    raw, strongest, sums = _labels(probabilities, seen.shape)
    tidy = tidy_labels(raw)
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[box] = np.array([0, *_numbers(segmenter)], dtype=np.uint8)[tidy]
    return Labelled(labels, _confidence(raw, tidy, strongest, sums, segmenter.bones))


def _numbers(segmenter: Segmenter) -> list[int]:
    return [BONES.index(bone) + 1 for bone in segmenter.bones]


def _confidence(
    raw: NDArray[np.uint8],
    tidy: NDArray[np.uint8],
    strongest: NDArray[np.float16],
    sums: NDArray[np.float64],
    bones: Sequence[str],
) -> dict[str, float]:
    """Return the expected Dice of the tidy labels; a filled hole counts as improbable."""
    confidence = {}
    for number, (bone, total) in enumerate(zip(bones, sums, strict=True), start=1):
        n_voxels = np.count_nonzero(tidy == number)
        inside = strongest[(tidy == number) & (raw == number)].sum(dtype=np.float64)
        confidence[bone] = float(2 * inside / (total + n_voxels)) if n_voxels else 0.0
    return confidence


def _surroundings(
    foot: NDArray[np.bool_], image: Volume, segmenter: Segmenter, n_beside: int
) -> tuple[slice, slice, slice]:
    """Return the foot's box with what the network looks at beside it."""
    pixels = [MARGIN * size for size in segmenter.pixel_mm]
    margin = [math.ceil(mm / size) for mm, size in zip(pixels, image.voxel_size_mm, strict=False)]
    box = bounding_box(foot, [*margin, n_beside])
    if box is None:
        raise AnkleError("nothing in the scan is as large as a foot: look at it in a viewer")
    return box


def _normalised(data: NDArray, foot: NDArray[np.bool_]) -> NDArray[np.float32]:
    inside = data[foot].astype(np.float32)
    low, high = np.percentile(inside[:: inside.size // 1_000_000 + 1], (0.1, 99.9))
    return zscore(np.minimum(data, high + SPIKE * (high - low), dtype=np.float32), foot)


def _working_shape(shape: Sequence[int], image: Volume, segmenter: Segmenter) -> tuple[int, int]:
    rows, columns = (
        max(1, round(length * size / pixel))
        for length, size, pixel in zip(
            shape[:2], image.voxel_size_mm[:2], segmenter.pixel_mm, strict=True
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


def _labels(
    probabilities: NDArray[np.floating], shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float64]]:
    """Bring probabilities (channels, I, J, K) to the scan's pixels, slice by slice, as labels.

    Returns
    -------
    labels : uint8 array
        0, or 1 + the channel.
    strongest : float16 array
        Of each voxel the largest probability.
    sums : (channels,) array
        Of each channel the sum of its probabilities over all voxels.
    """
    labels = np.empty(shape, dtype=np.uint8, order="F")
    strongest = np.empty(shape, dtype=np.float16, order="F")
    sums = np.zeros(len(probabilities))
    for k in range(shape[2]):
        maps = np.moveaxis(probabilities[..., k], 0, 2)
        finer = np.moveaxis(_resized(maps, (shape[0], shape[1])), 2, 0)
        labels[:, :, k] = labels_from(finer)
        strongest[:, :, k] = finer.max(axis=0)
        sums += finer.sum(axis=(1, 2), dtype=np.float64)
    return labels, strongest, sums


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
