"""How the network that makes frames sharp is trained, and kept for other scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.learning.checkpoints import save_checkpoint
from ankle_lib.reconstruction.fitting import Trained, trained
from ankle_lib.reconstruction.pairs import CHANNELS, Channel, SceneSource
from ankle_lib.reconstruction.refiner import NORMALISATION, Refiner, refine
from ankle_lib.reconstruction.scenes import Scene


@dataclass(frozen=True)
class RefineRecipe:
    """Everything that decides a network that makes frames sharp, but the scenes."""

    channels: tuple[Channel, ...] = CHANNELS
    """What it sees."""
    residual: bool = True
    """It gives what is to be added to the interpolated frame, instead of the image."""
    loss: str = "l1+gradient"
    pixels: int | None = 64
    """Rows and columns of its patches; None: whole slices."""
    steps: int = 900
    batch_size: int = 8
    learning_rate: float = 1e-2
    optimizer: str = "muon"
    schedule: str = "one-cycle"
    network: str = "unet"
    depth: int | None = None
    width: int | None = None
    seed: int = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """What `networks.build` is called with, besides the head."""
        sizes = {"depth": self.depth, "width": self.width}
        chosen = {name: value for name, value in sizes.items() if value is not None}
        return {"in_channels": len(self.channels), **chosen}


def fit_refiner(
    recipe: RefineRecipe,
    scenes: Sequence[Scene],
    folder: Path,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> Trained:
    """Train a network on scenes with truth, or read it if that was done before.

    Parameters
    ----------
    recipe : RefineRecipe
    scenes : sequence of Scene
        Of the training subjects.
    folder : Path
        Of all trainings.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show a bar.
    """

    def draw() -> Any:
        source = SceneSource(
            scenes,
            recipe.pixels,
            channels=recipe.channels,
            residual=recipe.residual,
            device=device,
        )
        return source.draw

    return trained(
        folder,
        [asdict(recipe), [[str(scene), scene.checksum] for scene in scenes]],
        recipe.network,
        recipe.arguments,
        draw,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        loss=recipe.loss,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        seed=recipe.seed,
        device=device,
        progress=progress,
    )


def refine_scene(
    fitted: Trained, recipe: RefineRecipe, scene: Scene, slices: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Return a scene made sharp by a network that was trained by a recipe."""
    refiner = Refiner(fitted.network, recipe.channels, recipe.residual)
    return refine(refiner, scene.measured, scene.moved_static, scene.region, slices=slices)


def save_refiner(
    path: Path, fitted: Trained, recipe: RefineRecipe, scenes: Sequence[Scene]
) -> Path:
    """Write the checkpoint that `ankle reconstruct` takes, with all that is needed to use it."""
    training: dict[str, Any] = {
        "input": {
            "voxel_mm": [round(size, 6) for size in scenes[0].voxel_size_mm],
            "normalisation": NORMALISATION,
            "axes": "PSR",
            "channels": len(recipe.channels),
            "names": list(recipe.channels),
            "residual": recipe.residual,
        },
        "subjects": sorted({scene.subject for scene in scenes}),
    }
    return save_checkpoint(
        path,
        fitted.network,
        labels=("intensity",),
        training=training,
    )
