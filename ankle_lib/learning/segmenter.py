"""A trained network that says what it wants to see, and the checkpoints of `ankle segment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.training import Trained
from ankle_lib.presets import BONES

THIN_MM = 3.0
"""The talus, 50 x 37 x 28 mm, has nine such slices where it is thinnest: just enough."""


class _Input(BaseModel):
    """What a checkpoint says about the input of its network."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    voxel_mm: Annotated[
        list[Annotated[float, Field(ge=0.05, le=5)]], Field(min_length=2, max_length=2)
    ]
    normalisation: Literal["zscore-foot"]
    axes: Literal["PSR"]
    side: Literal["as is", "right"]
    context_mm: list[Annotated[float, Field(ge=-50, le=50)]]
    thickest_mm: Annotated[float, Field(ge=0.1, le=20)]


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
    try:
        wanted = _Input.model_validate(checkpoint.training.get("input"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        entry = " ".join(map(str, first["loc"]))
        raise AnkleError(
            f"{path}: does not say how its input is made, or wants one that this ankle_lib does "
            f"not make ({entry} {first['input']!r}: {first['msg']}): use the final network of "
            "chapter 05 or of chapter 07"
        ) from None
    if len(wanted.context_mm) != checkpoint.network.in_channels:
        raise AnkleError(
            f"{path}: its network sees {checkpoint.network.in_channels} slices at a time, but has "
            f"context_mm {wanted.context_mm}: train it again"
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
    wanted = _Input(
        voxel_mm=[round(pixel_mm, 6)] * 2,
        normalisation="zscore-foot",
        axes="PSR",
        side="as is",
        context_mm=list(trained.recipe.context_mm),
        thickest_mm=thickest_mm,
    )
    training = {"input": wanted.model_dump(), "subjects": list(subjects)}
    return save_checkpoint(path, trained.network, labels=trained.recipe.labels, training=training)
