"""The network that makes frames sharp: trained on sharp scenes, applied to whole volumes."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import nn

from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import NetworkInput, load_with_input, save_checkpoint
from ankle_lib.learning.networks import fast_autocast, ready_to_predict
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.slices import plane_box
from ankle_lib.learning.training import Trained, train_once
from ankle_lib.parallel import in_batches
from ankle_lib.presets import ReconstructionSizes
from ankle_lib.reconstruction.moving_foot import MovedScan
from ankle_lib.reconstruction.scene_scores import Answer
from ankle_lib.reconstruction.sharp_scenes import (
    AROUND_BONE_MM,
    CHANNELS,
    SIDE_MULTIPLE,
    Scene,
    SceneSource,
    channels_of,
    on_grid,
    scales_in,
)
from ankle_lib.volume import Volume

FADING_MM = 3.0
"""Beyond what it was trained on, a network's answer fades into the guided reconstruction."""

MARGIN = 16
"""Pixels around the region that the network sees too."""

IMAGE, RESIDUAL = ("intensity",), ("residual",)
"""What a network gives: the sharp image, or what is to be added to the interpolated frame."""


class _Input(NetworkInput):
    """What a checkpoint says about the input of its network."""

    model_config = ConfigDict(extra="ignore")

    voxel_mm: Annotated[
        list[Annotated[float, Field(ge=0.1, le=5)]], Field(min_length=3, max_length=3)
    ]
    normalisation: Literal["zscore-bones"] = "zscore-bones"
    """Each channel by its own mean and standard deviation within 5 mm of the bones."""
    axes: Literal["PSR"] = "PSR"
    names: list[Literal["measured", "static"]]
    residual: bool = True

    @property
    def images(self) -> Sequence[str]:
        """Of `CHANNELS`."""
        return self.names


@dataclass(frozen=True)
class Refiner:
    """A network and how it wants to be used: what it sees, and whether it gives a residual."""

    network: nn.Module
    channels: tuple[str, ...] = CHANNELS
    residual: bool = True
    voxel_mm: tuple[float, ...] = ()
    """On which it was trained, if that is known."""

    def __call__(self, frame: Volume, moved: MovedScan, sharp: Volume) -> NDArray[np.float32]:
        """Make a guided reconstruction better about the bones; see `guided.Refine`.

        The network was trained around the bones: farther than 5 mm from them its answer fades
        into what was there.
        """
        image = moved.volume
        measured, reached = on_grid(frame, image.grid)
        nearest = np.min(list(moved.distances_mm.values()), axis=0)
        found = refine(self, measured, image.data, (nearest <= AROUND_BONE_MM) & reached)
        share = ((AROUND_BONE_MM + FADING_MM - nearest) / FADING_MM).clip(0, 1) * reached
        mixed: NDArray[np.float32] = sharp.data + share * (found - sharp.data)
        return mixed


def refine(
    refiner: Refiner,
    measured_on_grid: NDArray,
    moved_static: NDArray,
    region: NDArray[np.bool_],
    *,
    step: int = 1,
) -> NDArray[np.float32]:
    """Make a frame sharp: whole sagittal slices, one after the other.

    Parameters
    ----------
    refiner : Refiner
    measured_on_grid : (I, J, K) array
        The frame, interpolated linearly on the sharp grid, see `on_grid`.
    moved_static : (I, J, K) array
        The static scan moved into the frame, on the same grid.
    region : (I, J, K) bool array
        Where the frame has data about the bones (see `Scene.region`): intensities are normalised
        there, and slices without it stay as they were measured.
    step : int
        Only every so-many-th slice of the volume.

    Returns
    -------
    (I, J, K) float32 array
        In the frame's units. The frame itself where nothing was computed.

    Raises
    ------
    AnkleError
        If the region is empty or a value is not finite.

    Examples
    --------
    >>> refine(refiner, scene.measured, scene.moved_static, scene.region)
    """
    scales = scales_in(region, measured_on_grid, moved_static)
    mean, sd = scales["measured"]
    result = measured_on_grid.astype(np.float32)
    plane = plane_box(region, MARGIN, SIDE_MULTIPLE)
    network = copy.deepcopy(refiner.network).eval()  # the given one stays as it was
    device = next(network.parameters()).device
    for k in np.flatnonzero(region.any(axis=(0, 1))):
        if k % step:
            continue
        part = (*plane, slice(k, k + 1))
        measured = measured_on_grid[part]
        images = channels_of(measured, moved_static[part], scales, refiner.channels)[..., 0]
        if not np.isfinite(images).all():
            raise AnkleError(f"slice {k} holds values that are not finite: clean the scans")
        given = torch.from_numpy(images[None]).to(device)
        given = given.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), fast_autocast(device):
            output = in_batches(network, given, at_once=1)[0][0, 0, ..., None].float().cpu().numpy()
        result[part] = sd * output + (measured if refiner.residual else mean)
    return result


def refined_by(refiner: Refiner, step: int = 1) -> Answer:
    """Return what a network makes of a scene, of every ``step``-th slice."""
    return lambda scene: refine(
        refiner, scene.measured, scene.moved_static, scene.region, step=step
    )


# --- how it is trained ---


def refine_recipe(sizes: ReconstructionSizes, steps: int, seed: int = 0) -> Recipe:
    """Return how the network to use is trained: both channels, residual, L1 with gradients."""
    return Recipe(
        (Stage(sizes.pixels, steps, 8, 1e-2, "one-cycle"),),
        labels=RESIDUAL,
        network="unet",
        width=sizes.width,
        channels=CHANNELS,
        loss="l1+gradient",
        optimizer="muon",
        seed=seed,
    )


def train_refiner(
    recipe: Recipe, scenes: Sequence[Scene], folder: Path, device: str = "cpu"
) -> Trained:
    """Train a network on scenes with truth, or read it if that was done before.

    Parameters
    ----------
    recipe : Recipe
        From `refine_recipe`, perhaps changed.
    scenes : sequence of Scene
        Of the training subjects.
    folder : Path
        Of all trainings.
    device : str
        "cpu" or "cuda".
    """
    return train_once(
        recipe,
        lambda stage: (
            SceneSource(
                scenes,
                stage.pixels,
                channels=recipe.channels,
                residual=recipe.labels == RESIDUAL,
                device=device,
            ).draw
        ),
        folder,
        decides=[[str(scene), scene.checksum] for scene in scenes],
        device=device,
    )


def refiner_of(trained: Trained) -> Refiner:
    """Return a trained network and how it wants to be used."""
    recipe = trained.recipe
    return Refiner(trained.network, recipe.channels, recipe.labels == RESIDUAL)


def save_refiner(path: Path, trained: Trained, scenes: Sequence[Scene]) -> Path:
    """Write the checkpoint that `ankle reconstruct` takes, with all that is needed to use it.

    ``scenes`` are those that the network was trained on.
    """
    refiner = refiner_of(trained)
    wanted = _Input(
        voxel_mm=[round(size, 6) for size in scenes[0].voxel_size_mm],
        names=list(refiner.channels),  # type: ignore[arg-type]  # pydantic sees to it
        residual=refiner.residual,
    )
    subjects = sorted({scene.subject for scene in scenes})
    training = {"input": wanted.model_dump(), "subjects": subjects}
    return save_checkpoint(path, trained.network, labels=IMAGE, training=training)


def read_refiner(path: Path, device: str = "cpu") -> Refiner:
    """Read a checkpoint that `save_refiner` wrote.

    Raises
    ------
    AnkleError
        If the network was trained for something else, or it does not say how its input is made.
    """
    checkpoint, wanted = load_with_input(path, _Input, "the network of chapter 06")
    network = ready_to_predict(checkpoint.network, device)
    return Refiner(network, tuple(wanted.names), wanted.residual, tuple(wanted.voxel_mm))
