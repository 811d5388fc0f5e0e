"""What works: trainings on sharp scenes that differ in one thing, and the network to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ankle_lib.files import AnkleError
from ankle_lib.patches.split import Split
from ankle_lib.presets import ReconstructionSizes
from ankle_lib.reconstruction.evaluation import BASELINES, Answer, score_scenes
from ankle_lib.reconstruction.fitting import Trained
from ankle_lib.reconstruction.pairs import SceneSource
from ankle_lib.reconstruction.refiner_training import RefineRecipe, fit_refiner, refine_scene
from ankle_lib.reconstruction.scenes import Scene

FRAME_ALONE = "frame alone"

TITLES = {
    FRAME_ALONE: {"channels": ("measured",)},
    "static scan alone": {"channels": ("static",)},
    "both": {},
    "both, not residual": {"residual": False},
    "both, L1 without gradients": {"loss": "l1"},
    "both, whole slices": {"pixels": None},
}
"""Each differs from ``both`` in one thing."""


@dataclass(frozen=True)
class Trials:
    """Sharp scenes, the split and the sizes.

    Attributes
    ----------
    scenes : tuple of Scene
        Of all subjects.
    split : Split
    sizes : ReconstructionSizes
    folder : Path
        Where trainings are kept.
    device : str
    progress : bool
        Show bars.
    """

    scenes: tuple[Scene, ...]
    split: Split
    sizes: ReconstructionSizes
    folder: Path
    device: str = "cpu"
    progress: bool = False

    def part(self, part: str) -> list[Scene]:
        """Return the scenes of a part of the split.

        Raises
        ------
        AnkleError
            If there is none.
        """
        codes = getattr(self.split, part)
        found = [scene for code in codes for scene in self.scenes if scene.subject == code]
        if not found:
            raise AnkleError(
                f"no sharp scene of the {part} part: simulate the cohort again, or accept more "
                "registrations"
            )
        return found

    def fit(self, recipe: RefineRecipe) -> Trained:
        """Train on the training part, or read what was trained before."""
        return fit_refiner(
            recipe, self.part("train"), self.folder, device=self.device, progress=self.progress
        )


def trial_recipes(trials: Trials) -> dict[str, RefineRecipe]:
    """Return the recipes of all trials, equally long; whole slices show as many pixels."""
    sizes = trials.sizes
    usual = RefineRecipe(pixels=sizes.pixels, steps=sizes.trial_steps, width=sizes.width)
    recipes = {name: replace(usual, **changes) for name, changes in TITLES.items()}  # type: ignore[arg-type]
    for name, recipe in recipes.items():
        if recipe.pixels is None:
            whole = SceneSource(trials.part("train")[:1], None).size
            batch = round(usual.batch_size * sizes.pixels**2 / (whole[0] * whole[1]))
            recipes[name] = replace(recipe, batch_size=max(1, batch))
    return recipes


def compare_trials(trials: Trials) -> tuple[pd.DataFrame, Mapping[str, Answer]]:
    """Train all trials and score them, beside what is simpler, on the validation subject.

    Returns
    -------
    table : DataFrame
        Columns of `score_scenes`, and steps, samples_per_s (empty for what is not trained).
    answers : mapping
        The trained networks by name.
    """
    answers: dict[str, Answer] = {}
    speeds: dict[str, tuple[int, float]] = {}
    for name, recipe in trial_recipes(trials).items():
        fitted = trials.fit(recipe)
        answers[name] = answer_of(fitted, recipe, trials.sizes.slice_step)
        speeds[name] = (recipe.steps, fitted.samples_per_s)
    scenes = trials.part("validation")[:1]
    table = score_scenes(scenes, BASELINES | answers, step=trials.sizes.slice_step)
    steps, rates = zip(
        *(speeds.get(name, (np.nan, np.nan)) for name in table["method"]), strict=True
    )
    return table.assign(steps=steps, samples_per_s=rates), answers


def answer_of(fitted: Trained, recipe: RefineRecipe, step: int = 1) -> Answer:
    """Return what the network makes of a scene, of every ``step``-th slice."""

    def answer(scene: Scene) -> np.ndarray:
        return refine_scene(fitted, recipe, scene, range(0, scene.measured.shape[2], step))

    return answer


def final_recipe(sizes: ReconstructionSizes, seed: int = 0) -> RefineRecipe:
    """Return how the network to use is trained."""
    return RefineRecipe(pixels=sizes.pixels, steps=sizes.final_steps, width=sizes.width, seed=seed)
