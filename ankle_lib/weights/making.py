"""Train the networks that come with the package: `ankle networks train`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ankle_lib.learning.prediction import THICKEST_MM, save_segmenter
from ankle_lib.learning.random_scans import ScanRanges, draw_contrast, take
from ankle_lib.learning.recipes import Recipe
from ankle_lib.learning.scans import FRAME_NOISE, Scan, final_recipe, train_on_scans
from ankle_lib.parallel import run_all
from ankle_lib.presets import BONES
from ankle_lib.weights.feet import random_foot
from ankle_lib.weights.shipped import FRAMES, STATIC, write_checksum

FINER = 0.8
"""Voxels of the feet, over the pixels of the scans that are made of them."""
RANGES = ScanRanges(thick=0.5, tilt_deg=20.0, cut=0.9)
"""Wherever the foot lies in the field of view."""
OF_FRAMES = replace(RANGES, thick=0.8)
"""Nearly as many thick slices as thin ones, of which a scan has more."""
EPOCHS = 40
"""So often a stage is saved."""


@dataclass(frozen=True)
class Lesson:
    """What a network learns from, for some stages of its training."""

    ranges: ScanRanges
    n_feet: int
    """Half of them with the phantom's flesh, half with flesh of noise."""
    n_scans: int
    """Of each foot."""
    stages: tuple[tuple[int, int, int, float], ...]
    """As in `presets.SegmentationSizes`."""


@dataclass(frozen=True)
class NetworkSizes:
    """How much each of the package's networks learns from, lesson by lesson."""

    pixel_mm: float
    lessons: dict[str, tuple[Lesson, ...]]
    """By the checkpoint's name."""


FULL = NetworkSizes(
    1.4,
    {
        STATIC: (
            Lesson(
                replace(RANGES, red=0.0),
                *(120, 6, ((64, 24_000, 8, 1e-2), (96, 10_000, 8, 3e-3))),
            ),
        ),
        # Marrow differs within every bone at first. A network that stays so takes a part of the
        # navicular for the talus, as if their joint were a growth plate.
        FRAMES: (
            Lesson(
                replace(OF_FRAMES, plated=BONES),
                *(120, 8, ((64, 24_000, 8, 1e-2), (96, 6_000, 8, 3e-3))),
            ),
            Lesson(OF_FRAMES, 60, 8, ((96, 2_000, 8, 3e-3),)),
        ),
    },
)
"""For use."""

_TRIED = Lesson(OF_FRAMES, 2, 2, ((32, 20, 4, 1e-2),))
SMALL = NetworkSizes(2.8, {STATIC: (_TRIED,), FRAMES: (_TRIED, replace(_TRIED, n_feet=1))})
"""To try whether everything runs."""


def make_networks(
    folder: Path, sizes: NetworkSizes = FULL, *, seed: int = 0, device: str = "cpu"
) -> list[Path]:
    """Train the package's networks side by side; a run that was killed goes on.

    Parameters
    ----------
    folder : Path
        Checkpoints go there, with weights of half precision and their checksums beside them; the
        trainings are kept in ``training``.
    sizes : NetworkSizes
    seed : int
    device : str
        "cpu" or "cuda".
    """
    work = partial(_made, folder, sizes, seed, device)
    return run_all(work, [*sizes.lessons], device=device, desc="making networks")


def _made(folder: Path, sizes: NetworkSizes, seed: int, device: str, name: str) -> Path:
    trained, training = None, folder / "training" / Path(name).stem
    for number in range(len(sizes.lessons[name])):
        scans = scans_to_learn(sizes, name, number, seed)
        recipe = recipe_of(sizes.lessons[name][number].stages, seed)
        start = trained and trained.network
        trained = train_on_scans(recipe, scans, training, start=start, device=device)
    assert trained is not None  # there is a lesson
    out, who = folder / name, [f"feet of seed {seed}"]
    save_segmenter(out, trained, sizes.pixel_mm, who, thickest_mm=THICKEST_MM, half=True)
    write_checksum(out)
    return out


def recipe_of(stages: Sequence[tuple[int, int, int, float]], seed: int = 0) -> Recipe:
    """Return how the network is trained."""
    return replace(final_recipe(stages, seed, FRAME_NOISE), epochs=EPOCHS)


def scans_to_learn(sizes: NetworkSizes, name: str, lesson: int = 0, seed: int = 0) -> list[Scan]:
    """Return the random scans of random feet that a network learns from in one of its lessons."""
    one = sizes.lessons[name][lesson]
    work = partial(_scans, one, sizes.pixel_mm, seed, 1 + lesson)
    made = run_all(work, range(one.n_feet), desc="making feet")
    return [scan for scans in made for scan in scans]


def _scans(lesson: Lesson, pixel_mm: float, seed: int, draws: int, number: int) -> list[Scan]:
    flesh = "noise" if number % 2 else "phantom"
    foot = random_foot(number, seed, FINER * pixel_mm, flesh=flesh)
    rng = np.random.default_rng([seed, number, draws])
    scans = []
    for scan in range(lesson.n_scans):
        contrast = draw_contrast(lesson.ranges, foot.marrow_class, rng)
        names = (f"foot {number}", flesh, f"random {scan}")
        scans.append(take(foot, contrast, lesson.ranges, rng, pixel_mm, names))
    return scans
