"""A trained network that says what it wants to see, and the checkpoints of `ankle segment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from ankle_lib.learning.training import Trained
from ankle_lib.presets import BONES
from ankle_lib.volume import CANONICAL_CODES

THIN_MM = 3.0
"""The talus, 50 x 37 x 28 mm, has nine such slices where it is thinnest: just enough."""

PIXEL_LIMITS_MM = (0.05, 5.0)
MOST_CONTEXT_MM = 50.0
THICKEST_LIMITS_MM = (0.1, 20.0)

_INPUT = {"voxel_mm", "normalisation", "axes", "side", "context_mm", "thickest_mm"}
_USE = "use the final network of chapter 05 or of chapter 07"


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
    def of(cls, *trained: Trained, pixel_mm: float) -> Segmenter:
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
    wanted = _wanted(path, checkpoint)
    wanted["thickest_mm"] = [wanted["thickest_mm"]]
    rows, columns = _numbers(path, wanted, "voxel_mm", 2, *PIXEL_LIMITS_MM)
    n_slices, most = checkpoint.network.in_channels, MOST_CONTEXT_MM
    context_mm = _numbers(path, wanted, "context_mm", n_slices, -most, most)
    (thickest_mm,) = _numbers(path, wanted, "thickest_mm", 1, *THICKEST_LIMITS_MM)
    return Segmenter(
        checkpoint.network, checkpoint.labels, (rows, columns), context_mm, thickest_mm
    )


def save_segmenter(
    path: Path,
    trained: Trained,
    pixel_mm: float,
    subjects: Sequence[str],
    *,
    thickest_mm: float = THIN_MM,
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
    """
    wanted = {
        "voxel_mm": [round(pixel_mm, 6)] * 2,
        "normalisation": "zscore-foot",
        "axes": CANONICAL_CODES,
        "side": "as is",
        "context_mm": list(trained.recipe.context_mm),
        "thickest_mm": thickest_mm,
    }
    training = {"input": wanted, "subjects": list(subjects)}
    return save_checkpoint(path, trained.network, labels=trained.recipe.labels, training=training)


def _wanted(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the description of the input; refuse another one than this library makes."""
    wanted = checkpoint.training.get("input")
    if not isinstance(wanted, dict) or set(wanted) != _INPUT:
        raise AnkleError(
            f"{path}: does not say how its input is made (training['input'] with "
            f"{', '.join(sorted(_INPUT))}): {_USE}"
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
                f"{' or '.join(map(repr, values))}: update it, or {_USE}"
            )
    return wanted


def _numbers(
    path: Path, wanted: dict[str, Any], entry: str, n: int, low: float, high: float
) -> tuple[float, ...]:
    """Return an entry of the input's description; refuse anything but so many plain numbers."""
    found = wanted[entry]
    if (
        not isinstance(found, list | tuple)
        or len(found) != n
        or not all(type(one) in (int, float) and low <= one <= high for one in found)
    ):
        raise AnkleError(
            f"{path}: wants an input with {entry} {found!r}, expected {n} number{'s' * (n > 1)} "
            f"from {low:g} to {high:g}: train the network again"
        )
    return tuple(map(float, found))
