"""Train a network for scans of any contrast: `ankle networks train`."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ankle_lib.learning.prediction import THICKEST_MM, save_segmenter
from ankle_lib.learning.random_scans import ScanRanges, draw_contrast, take
from ankle_lib.learning.recipes import Recipe
from ankle_lib.learning.scans import FRAME_NOISE, Scan, final_recipe, train_on_scans
from ankle_lib.parallel import run_all
from ankle_lib.weights.feet import random_foot
from ankle_lib.weights.shipped import write_checksum

FINER = 0.8
"""Voxels of the feet, over the pixels of the scans that are made of them."""
RANGES = ScanRanges(thick=0.5, tilt_deg=20.0, cut=0.9)
"""As many thin slices as thick ones, wherever the foot lies in the field of view."""
EPOCHS = 40
"""So often a training is saved."""


@dataclass(frozen=True)
class NetworkSizes:
    """How much a network learns from."""

    pixel_mm: float
    n_feet: int
    """Half of them with the phantom's flesh, half with flesh of noise."""
    n_scans: int
    """Of each foot."""
    stages: tuple[tuple[int, int, int, float], ...]
    """As in `presets.SegmentationSizes`."""


SMALL = NetworkSizes(2.8, 2, 2, ((32, 20, 4, 1e-2),))
"""To try whether everything runs."""
FULL = NetworkSizes(1.4, 120, 6, ((64, 24_000, 8, 1e-2), (96, 10_000, 8, 3e-3)))
"""For use."""


def make_network(out: Path, folder: Path, sizes: NetworkSizes = FULL, *, seed: int = 0,
                 device: str = "cpu") -> Path:  # fmt: skip
    """Train the network and write its checkpoint; a run that was killed goes on.

    Parameters
    ----------
    out : Path
        The checkpoint to write, with weights of half precision; its checksum goes beside it.
    folder : Path
        Where the training is kept.
    sizes : NetworkSizes
    seed : int
    device : str
        "cpu" or "cuda".
    """
    scans = scans_to_learn(sizes, seed)
    trained = train_on_scans(recipe_of(sizes, seed), scans, folder, device=device)
    who = [f"feet of seed {seed}"]
    save_segmenter(out, trained, sizes.pixel_mm, who, thickest_mm=THICKEST_MM, half=True)
    write_checksum(out)
    return out


def recipe_of(sizes: NetworkSizes, seed: int = 0) -> Recipe:
    """Return how the network is trained."""
    return replace(final_recipe(sizes.stages, seed, FRAME_NOISE), epochs=EPOCHS)


def scans_to_learn(sizes: NetworkSizes, seed: int = 0) -> list[Scan]:
    """Return random scans of random feet."""
    made = run_all(partial(_scans, sizes, seed), range(sizes.n_feet), desc="making feet")
    return [scan for scans in made for scan in scans]


def _scans(sizes: NetworkSizes, seed: int, number: int) -> list[Scan]:
    flesh = "noise" if number % 2 else "phantom"
    foot = random_foot(number, seed, FINER * sizes.pixel_mm, flesh=flesh)
    rng = np.random.default_rng([seed, number, 1])
    scans = []
    for scan in range(sizes.n_scans):
        contrast = draw_contrast(RANGES, foot.marrow_class, rng)
        names = (f"foot {number}", flesh, f"random {scan}")
        scans.append(take(foot, contrast, RANGES, rng, sizes.pixel_mm, names))
    return scans
