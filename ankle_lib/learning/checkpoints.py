"""Trained networks in files that hold numbers and text, and never code."""

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ankle_lib.files import AnkleError, atomic_path, first_problem
from ankle_lib.learning.networks import SliceNetwork, build

FORMAT = "ankle_lib checkpoint"
VERSION = 1
"""Rises when a reader of the version before could not read the file."""


class _Content(BaseModel):
    """What a file holds, but for the weights themselves."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: str
    version: int
    name: str
    arguments: dict[str, Any]
    labels: list[str]
    weights: dict[str, Any]
    training: dict[Any, Any]


class NetworkInput(BaseModel):
    """What a checkpoint says about the input of its network, for `load_with_input`."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    axes: Literal["PSR"]

    @property
    def images(self) -> Sequence[Any]:
        """What each channel of the input is."""
        raise NotImplementedError


Input = TypeVar("Input", bound=NetworkInput)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes
    ----------
    network : SliceNetwork
        With its weights, on the CPU, in evaluation mode.
    labels : tuple of str
        What each output channel shows, e.g. the bones.
    training : dict
        Whatever the training needs to go on, or wants to remember.
    """

    network: SliceNetwork
    labels: tuple[str, ...]
    training: dict[str, Any]


def save_checkpoint(
    path: str | os.PathLike[str],
    network: SliceNetwork,
    *,
    labels: Sequence[str],
    training: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a checkpoint atomically; equal content gives equal bytes.

    Parameters
    ----------
    path : path
    network : SliceNetwork
        Made by `networks.build`, on any device.
    labels : sequence of str
        One per output channel.
    training : dict, optional
        Nested dicts, lists and tuples of tensors, numbers, text and None: the state of an
        optimiser or of a random generator, the number of the epoch, how images were normalised.
    half : bool
        Store weights in half precision, in half the space; they are read back as float32.

    Raises
    ------
    AnkleError
        If `load_checkpoint` could not read the file back: other objects in ``training``, or
        weights that do not fit or are not finite.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": network.name,
        "arguments": network.arguments,
        "labels": list(labels),
        "weights": {
            name: one.half() if half and one.dtype == torch.float32 else one
            for name, one in network.state_dict().items()
        },
        "training": dict(training or {}),
    }
    # copies, because a view would be saved with all that it looks at
    plain = tree_map_only(Tensor, lambda one: one.detach().cpu().contiguous().clone(), content)
    file = io.BytesIO()  # torch would hide that a disk is full
    torch.save(plain, file)
    with atomic_path(path) as temporary:
        temporary.write_bytes(file.getbuffer())
        _read(temporary, Path(path))
    return Path(path)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint; nothing in the file is ever executed.

    Raises
    ------
    AnkleError
        If the file is missing, damaged, holds anything but tensors, numbers and text, was not
        written by `save_checkpoint`, or holds weights that do not fit the network that it names.
    """
    path = Path(path)
    if not path.is_file():
        raise AnkleError(f"{path}: there is no such checkpoint: train the network first")
    return _read(path, path)


def load_with_input(path: Path, kind: type[Input], use: str) -> tuple[Checkpoint, Input]:
    """Read a checkpoint that says in ``training["input"]`` how the input of its network is made.

    Parameters
    ----------
    path : Path
    kind : type of NetworkInput
    use : str
        Whose checkpoint to use instead of one of another kind.

    Raises
    ------
    AnkleError
        As `load_checkpoint`; if it does not say so, or wants another input.
    """
    checkpoint = load_checkpoint(path)
    try:
        wanted = kind.model_validate(checkpoint.training.get("input"))
    except ValidationError as error:
        raise AnkleError(
            f"{path}: does not say how its input is made, or wants one that this ankle_lib does "
            f"not make here ({first_problem(error)}): use {use}"
        ) from None
    if len(wanted.images) != checkpoint.network.in_channels:
        raise AnkleError(
            f"{path}: its network sees {checkpoint.network.in_channels} images at a time, but its "
            f"input has {list(wanted.images)}: train it again"
        )
    return checkpoint, wanted


def _read(place: Path, path: Path) -> Checkpoint:
    """Read the checkpoint ``path``, whose file lies at ``place`` until it is whole."""
    _check_archive(place, path)
    try:
        content = torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:  # a reader that meets foreign content may raise anything
        raise AnkleError(
            f"{path}: holds more than tensors, numbers and text, or is damaged "
            f"({type(error).__name__}): use a checkpoint that ankle_lib wrote"
        ) from None
    network = _checked(path, content)
    return Checkpoint(network.eval(), tuple(content["labels"]), content["training"])


def _check_archive(place: Path, path: Path) -> None:
    """Refuse what is no zip archive as torch writes them, or fails its checksums."""
    try:
        with zipfile.ZipFile(place) as archive:
            # torch stores without compression: a compressed entry could unfold to any size
            foreign = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
            damaged = None if foreign else archive.testzip()
    # what zipfile raises of archives that are cut, encrypted or packed by a method it lacks
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        foreign, damaged = True, None
    if foreign:
        raise AnkleError(f"{path}: no checkpoint, or cut short: copy it again or train again")
    if damaged is not None:
        raise AnkleError(f"{path}: damaged (checksum of {damaged}): copy it again or train again")


def _checked(path: Path, content: Any) -> SliceNetwork:
    """Return the network with its weights, or refuse the content."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise AnkleError(f"{path}: not a checkpoint of ankle_lib: use one that `ankle run` wrote")
    if content.get("version") != VERSION:
        raise AnkleError(
            f"{path}: checkpoint of version {content.get('version')!r}, this ankle_lib reads "
            f"version {VERSION}: update ankle_lib or train again"
        )
    try:
        _Content.model_validate(content)
    except ValidationError as error:
        raise AnkleError(f"{path}: {first_problem(error)}: train again") from None
    try:
        # without memory for weights: those in the file take their place
        with torch.device("meta"):
            network = build(content["name"], **content["arguments"])
    except AnkleError as error:
        raise AnkleError(f"{path}: {error}") from None
    weights = {
        name: one.float() if isinstance(one, Tensor) and one.dtype == torch.float16 else one
        for name, one in content["weights"].items()
    }
    _check_weights(path, network, weights)
    n_channels = network.arguments["out_channels"]
    if len(content["labels"]) != n_channels:
        raise AnkleError(f"{path}: {len(content['labels'])} labels for {n_channels} channels")
    network.load_state_dict(weights, assign=True)
    return network


def _check_weights(path: Path, network: SliceNetwork, weights: dict[str, Any]) -> None:
    """Refuse weights of other names, shapes or types than the network's, or not finite."""
    expected = network.state_dict()
    if set(weights) != set(expected):
        raise AnkleError(f"{path}: the weights are those of another network: train again")
    for key, wanted in expected.items():
        found = weights[key]
        if not isinstance(found, Tensor) or found.is_sparse or found.device.type != "cpu":
            raise AnkleError(f"{path}: {key} is no plain tensor: train again")
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise AnkleError(
                f"{path}: {key} is {found.dtype} of shape {tuple(found.shape)}, the network needs "
                f"{wanted.dtype} of shape {tuple(wanted.shape)}: train again"
            )
        if not bool(torch.isfinite(found).all()):
            raise AnkleError(f"{path}: {key} holds values that are not finite: train again")
