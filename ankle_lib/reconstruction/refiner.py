"""The network that makes a frame sharp, applied to whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import Checkpoint
from ankle_lib.learning.networks import fast_autocast, ready_to_predict
from ankle_lib.reconstruction.pairs import CHANNELS, Channel, channels_of, restored
from ankle_lib.reconstruction.scenes import Scene

NORMALISATION = "zscore-bones"
"""Each channel by its own mean and standard deviation within 5 mm of the bones."""

MARGIN = 16
"""Pixels around the region that the network sees too."""

SIDE_MULTIPLE = 8
"""Sides of what the network sees; a U-Net of four levels halves them three times."""


@dataclass(frozen=True)
class Refiner:
    """A network and how it wants to be used.

    Attributes
    ----------
    network : nn.Module
    channels : tuple of str
    residual : bool
    """

    network: nn.Module
    channels: tuple[Channel, ...] = CHANNELS
    residual: bool = True


def refine(
    network: nn.Module | Refiner,
    measured_on_grid: NDArray,
    moved_static: NDArray,
    region: NDArray[np.bool_],
    *,
    slices: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Make a frame sharp: whole sagittal slices, one after the other.

    Parameters
    ----------
    network : nn.Module or Refiner
        Alone, it sees both channels and gives what is to be added to the frame.
    measured_on_grid : (I, J, K) array
        The frame, interpolated linearly on the sharp grid, see `on_grid`.
    moved_static : (I, J, K) array
        The static scan moved into the frame, on the same grid.
    region : (I, J, K) bool array
        Where the frame has data about the bones (see `Scene.region`): intensities are normalised
        there, and slices without it stay as they were measured.
    slices : sequence of int, optional
        Of the slices, these alone.

    Returns
    -------
    (I, J, K) float32 array
        In the frame's units. The frame itself where nothing was computed.

    Raises
    ------
    AnkleError
        If shapes differ, the region is empty or a value is not finite.
    """
    refiner = network if isinstance(network, Refiner) else Refiner(network)
    if not measured_on_grid.shape == moved_static.shape == region.shape:
        raise AnkleError(
            f"frame, static scan and region have shapes {measured_on_grid.shape}, "
            f"{moved_static.shape} and {region.shape}: bring them to one grid"
        )
    if not region.any():
        raise AnkleError("there is nothing to reconstruct: no bone lies where the frame has data")
    scales = {
        "measured": _scale("frame", measured_on_grid, region),
        "static": _scale("moved static scan", moved_static, region),
    }
    result = measured_on_grid.astype(np.float32)
    shown = np.flatnonzero(region.any(axis=(0, 1)))
    wanted = shown if slices is None else np.intersect1d(shown, slices)
    rows, columns = _reach(region, 0), _reach(region, 1)
    device = next(refiner.network.parameters()).device
    was_training = refiner.network.training
    refiner.network.eval()
    try:
        for k in wanted:
            part = (rows, columns, slice(k, k + 1))
            seen = channels_of(measured_on_grid[part], moved_static[part], scales, refiner.channels)
            if not np.isfinite(seen).all():
                raise AnkleError(f"slice {k} holds values that are not finite: clean the scans")
            images = torch.from_numpy(seen[None, ..., 0]).to(device)
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode(), fast_autocast(device):
                output = refiner.network(images)[0, 0].float().cpu().numpy()[:, :, None]
            result[part] = restored(
                output, measured_on_grid[part], scales, residual=refiner.residual
            )
    finally:
        refiner.network.train(was_training)
    return result


def refined_by(refiner: Refiner) -> Callable[[Scene], NDArray[np.float32]]:
    """Return what a network makes of a scene."""
    return lambda scene: refine(refiner, scene.measured, scene.moved_static, scene.region)


def refiner_of(checkpoint: Checkpoint) -> Refiner:
    """Return the network of a checkpoint that `save_refiner` wrote.

    Raises
    ------
    AnkleError
        If it was trained for something else.
    """
    wanted = checkpoint.training.get("input")
    known: Mapping[str, Any] = wanted if isinstance(wanted, dict) else {}
    names = known.get("names")
    if known.get("normalisation") != NORMALISATION or not isinstance(names, list):
        raise AnkleError("the checkpoint holds no network for reconstruction: use chapter 06's")
    channels = tuple(names)
    if not set(channels) <= set(CHANNELS) or len(channels) != checkpoint.network.in_channels:
        raise AnkleError(f"the checkpoint's network sees {names}: known are {', '.join(CHANNELS)}")
    network = ready_to_predict(checkpoint.network)
    return Refiner(network, channels, bool(known.get("residual", True)))


def _scale(name: str, image: NDArray, region: NDArray[np.bool_]) -> tuple[float, float]:
    inside = image[region]
    mean, sd = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
    if not (np.isfinite([mean, sd]).all() and sd > 1e-6 * abs(mean)):
        raise AnkleError(f"the {name} is constant or not finite about the bones ({mean:g})")
    return mean, sd


def _reach(region: NDArray[np.bool_], axis: int) -> slice:
    """Return the filled part of an axis, a margin, and what makes it a multiple."""
    length = region.shape[axis]
    places = np.flatnonzero(np.moveaxis(region, axis, 0).reshape(length, -1).any(axis=1))
    first = max(int(places[0]) - MARGIN, 0)
    last = min(int(places[-1]) + 1 + MARGIN, length)
    last = min(last + (-(last - first)) % SIDE_MULTIPLE, length)
    return slice(max(first - (-(last - first)) % SIDE_MULTIPLE, 0), last)
