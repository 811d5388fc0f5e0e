"""One image through a trained network: the bones in it, and how sure the network is of each.

There is one way, for the scores of the chapters and for `ankle segment`. The network sees the
image as those that it was trained on: pixels of the same size within the sagittal slices,
intensities normalised inside the foot. Slices stay where they are. Its probabilities go back to
the pixels of the image, and become labels there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage, sparse
from torch import Tensor, nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import NetworkInput, load_with_input, save_checkpoint
from ankle_lib.learning.scoring import THRESHOLD
from ankle_lib.learning.slices import whole_slices
from ankle_lib.learning.training import Trained
from ankle_lib.masking.foot import find_foot
from ankle_lib.patches.items import slices_at, zscore
from ankle_lib.presets import BONES, LABELS

SPIKE = 2.0
"""Intensities beyond the foot's by more than its range are faults, and would spoil the z-score."""

THIN_MM = 3.0
"""The talus, 50 x 37 x 28 mm, has nine such slices where it is thinnest: just enough."""

THICKEST_MM = 10.0
"""Slices that networks for frames are shown: those of the dynamic scans, and some more."""


class _Input(NetworkInput):
    """What a checkpoint says about the input of its network."""

    voxel_mm: Annotated[
        list[Annotated[float, Field(ge=0.05, le=5)]], Field(min_length=2, max_length=2)
    ]
    normalisation: Literal["zscore-foot"]
    side: Literal["as is", "right"]
    context_mm: list[Annotated[float, Field(ge=-50, le=50)]]
    thickest_mm: Annotated[float, Field(ge=0.1, le=20)]

    @property
    def images(self) -> list[float]:
        """The slices that the network sees at a time."""
        return self.context_mm


@dataclass(frozen=True)
class Segmenter:
    """A trained network and what it wants to see."""

    network: nn.Module
    bones: tuple[str, ...]
    """One for each output channel."""
    pixel_mm: tuple[float, float]
    """Size of its pixels along posterior and superior."""
    context_mm: tuple[float, ...] = (0.0,)
    """Where the slices lie that it sees at a time, from the one that it labels."""
    thickest_mm: float = THIN_MM
    """The thickest sagittal slices that it was trained for."""

    @classmethod
    def of(cls, *trained: Trained, pixel_mm: float) -> "Segmenter":
        """Return trained networks as one: a network for all bones, or one for each of them.

        Parameters
        ----------
        trained : Trained
            All see the same slices at a time.
        pixel_mm : float
            Side of the pixels that images are brought to; they were trained on whole multiples of
            each scan's own, about as large.
        """
        networks = [one.network for one in trained]
        bones = tuple(bone for one in trained for bone in one.recipe.labels)
        network = networks[0] if len(networks) == 1 else _Together(networks)
        return cls(network, bones, (pixel_mm, pixel_mm), trained[0].recipe.context_mm)


class _Together(nn.Module):
    """Networks of one input, whose outputs are the channels of one answer."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([network(images) for network in self.networks], dim=1)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The bones of one image."""

    labels: NDArray[np.uint8]
    """(I, J, K): 0, or 1 calcaneus, 2 talus, 3 tibia."""
    maps: NDArray[np.float16]
    """(channels, i, j, K): probability of each bone, with the pixels that the network sees; 0 far
    from the foot."""
    bones: tuple[str, ...]
    """What the channels show."""
    grid: NDArray[np.float64]
    """(4, 4): voxels of the maps to those of the image."""
    confidence: dict[str, float]
    """For each bone the Dice that its labels would have on average if the network's probabilities
    were right: 2 Σ p (inside the label) / (Σ p (everywhere) + voxels of the label). 0 without a
    label. It knows nothing of errors that the network makes with conviction."""
    apart: dict[str, float]
    """For each bone what was removed because it hangs apart, over what was kept (`tidy_labels`)."""

    def mask(self, bone: str) -> NDArray[np.bool_]:
        """Return where the bone is, (I, J, K)."""
        return self.labels == LABELS[bone]

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Return where each bone is that the network knows."""
        return {bone: self.mask(bone) for bone in self.bones}


def predict(
    image: NDArray,
    voxel_size_mm: Sequence[float],
    segmenter: Segmenter,
    *,
    foot: NDArray[np.bool_] | None = None,
    device: str | None = None,
) -> Prediction:
    """Segment the bones of one image.

    Parameters
    ----------
    image : (I, J, K) array
        Axes posterior, superior, right, any unit of intensity.
    voxel_size_mm : three floats
    segmenter : Segmenter
    foot : (I, J, K) bool array, optional
        Where the foot is, for images in which `find_foot` would not know.
    device : str, optional
        The network's own by default.

    Raises
    ------
    AnkleError
        If there is no foot in the image.

    Examples
    --------
    >>> image = to_orientation(load("scan.nii.gz"))
    >>> found = predict(image.data, image.voxel_size_mm, read_segmenter(checkpoint))
    >>> found.mask("talus").sum()
    """
    foot = find_foot(image) if foot is None else foot
    if not foot.any():
        raise AnkleError("nothing in the scan is as large as a foot: look at it in a viewer")
    sides = zip(image.shape[:2], voxel_size_mm[:2], segmenter.pixel_mm, strict=True)
    rows, columns = (max(1, round(length * size / pixel)) for length, size, pixel in sides)
    maps = whole_slices(
        segmenter.network,
        _resized(_normalised(image, foot), (rows, columns)),
        context=slices_at(segmenter.context_mm, voxel_size_mm[2]),
        foot=_resized(foot, (rows, columns)) >= 0.5,
        device=device,
    )
    raw, strongest, sums = _labels(maps, image.shape)
    tidy = tidy_labels(raw)
    confidence, apart = {}, {}
    for number, (bone, total) in enumerate(zip(segmenter.bones, sums, strict=True), start=1):
        n_voxels = np.count_nonzero(tidy == number)
        # a filled hole counts as improbable
        inside = strongest[(tidy == number) & (raw == number)].sum(dtype=np.float64)
        confidence[bone] = float(2 * inside / (total + n_voxels)) if n_voxels else 0.0
        n_removed = int(np.count_nonzero((raw == number) & (tidy != number)))
        apart[bone] = n_removed / max(int(n_voxels), 1)
    grid = np.eye(4)  # both cover the same extent
    for axis, n in enumerate((rows, columns)):
        size = image.shape[axis] / n
        grid[axis, axis], grid[axis, 3] = size, (size - 1) / 2
    numbers = np.array([0, *(LABELS[bone] for bone in segmenter.bones)], dtype=np.uint8)
    return Prediction(numbers[tidy], maps, segmenter.bones, grid, confidence, apart)


def labels_from(
    probabilities: NDArray[np.floating], threshold: float = THRESHOLD
) -> NDArray[np.uint8]:
    """Return 1 + the most probable channel where it exceeds the threshold, else 0.

    Parameters
    ----------
    probabilities : (channels, ...) array
    threshold : float
        The report's 0.5 by default.

    Returns
    -------
    uint8 array, without the first axis
    """
    strongest = probabilities.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    strongest[probabilities.max(axis=0) <= threshold] = 0
    return strongest


def tidy_labels(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Keep the largest piece of every label and fill what it encloses.

    A bone is one piece without holes. Pieces hang together over faces; a hole is background that
    no path over faces connects to the border of the image.

    Parameters
    ----------
    labels : (I, J, K) uint8 array
        0 is background.

    Returns
    -------
    (I, J, K) uint8 array
    """
    tidy = np.zeros_like(labels)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        pieces, n_pieces = ndimage.label(labels[box] == label)
        sizes = np.bincount(pieces.ravel(order="K"), minlength=n_pieces + 1)
        sizes[0] = 0
        filled = ndimage.binary_fill_holes(pieces == sizes.argmax())
        # a bone within another one's hole keeps its own label
        tidy[box][filled & np.isin(labels[box], (0, label))] = label
    return tidy


def _normalised(data: NDArray, foot: NDArray[np.bool_]) -> NDArray[np.float32]:
    inside = data[foot].astype(np.float32)
    low, high = np.percentile(inside[:: inside.size // 1_000_000 + 1], (0.1, 99.9))
    return zscore(np.minimum(data, high + SPIKE * (high - low), dtype=np.float32), foot)


def _resized(image: NDArray, shape: tuple[int, ...]) -> NDArray[np.float32]:
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
    maps: NDArray[np.floating], shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float64]]:
    """Bring probabilities (channels, i, j, K) to the image's pixels, slice by slice, as labels.

    Returns
    -------
    labels : uint8 array
        0, or 1 + the channel.
    strongest : float16 array
        Of each voxel the largest probability.
    sums : (channels,) array
        Of each channel the sum of its probabilities over all voxels.
    """
    labels = np.zeros(shape, dtype=np.uint8, order="F")
    strongest = np.zeros(shape, dtype=np.float16, order="F")
    sums = np.zeros(len(maps))
    for k in np.flatnonzero(maps.any(axis=(0, 1, 2))):
        finer = np.moveaxis(_resized(np.moveaxis(maps[..., k], 0, 2), shape[:2]), 2, 0)
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


# --- checkpoints ---


def read_segmenter(path: Path) -> Segmenter:
    """Read a checkpoint that says how its input is made.

    Its ``training["input"]`` holds ``voxel_mm`` (along posterior and superior), ``normalisation``
    ("zscore-foot"), ``axes`` ("PSR"), ``side`` ("as is" or "right"), ``context_mm``: where the
    slices lie that the network sees at a time, [0] for single ones, and ``thickest_mm``: the
    thickest slices that it was trained for. Single slices are the same of a foot and its mirror
    image, and networks that see several were shown both.

    Raises
    ------
    AnkleError
        If it is no checkpoint, does not segment bones, or wants another input.
    """
    use = "the package's network, or the final one of chapter 05 or 07"
    checkpoint, wanted = load_with_input(path, _Input, use)
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
    rows, columns = wanted.voxel_mm
    return Segmenter(
        checkpoint.network,
        checkpoint.labels,
        (rows, columns),
        tuple(wanted.context_mm),
        wanted.thickest_mm,
    )


def save_segmenter(
    path: Path,
    trained: Trained,
    pixel_mm: float,
    subjects: Sequence[str],
    *,
    thickest_mm: float = THIN_MM,
    half: bool = False,
) -> Path:
    """Write the checkpoint that `read_segmenter` reads and `ankle segment` takes.

    Parameters
    ----------
    path : Path
    trained : Trained
    pixel_mm : float
        Side of the pixels that images are brought to; the network was trained on about such ones.
    subjects : sequence of str
        On whom it was trained.
    thickest_mm : float
        The thickest slices that it is for.
    half : bool
        See `save_checkpoint`.
    """
    wanted = _Input(
        voxel_mm=[round(pixel_mm, 6)] * 2,
        normalisation="zscore-foot",
        axes="PSR",
        side="as is",
        context_mm=list(trained.recipe.context_mm),
        thickest_mm=thickest_mm,
    )
    training = {"input": wanted.model_dump(), "subjects": list(subjects)}
    labels = trained.recipe.labels
    return save_checkpoint(path, trained.network, labels=labels, training=training, half=half)
