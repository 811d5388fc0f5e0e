"""The scans, the split and the sizes that all experiments of chapter 05 share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ankle_lib import inference, metrics
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.split import Part, Split, cross_validation, report_split
from ankle_lib.patches.tasks import STATIC_SEGMENTATION
from ankle_lib.presets import SegmentationSizes
from ankle_lib.resume import code_digest, remembered
from ankle_lib.segmentation import evaluation
from ankle_lib.segmentation.evaluation import patch_scores, volume_scores
from ankle_lib.segmentation.recipe import (
    Fitted,
    Recipe,
    Stage,
    Task,
    fit,
    fit_side_by_side,
)
from ankle_lib.segmentation.scans import (
    Scan,
    coarser,
    every,
    factor_for,
    read_scans,
    rotation_of,
    turned,
)


@dataclass(frozen=True)
class Study:
    """Everything but the recipe.

    Attributes
    ----------
    scans : tuple of Scan
        Of all subjects, with the pixels of the experiments.
    native : tuple of Scan
        The same on their own grids.
    split : Split
        Equinus tests, the last control validates.
    folds : tuple of Split
        One per control, which validates.
    sizes : SegmentationSizes
    folder : Path
        Where trainings are kept.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show bars.
    """

    scans: tuple[Scan, ...]
    native: tuple[Scan, ...]
    split: Split
    folds: tuple[Split, ...]
    sizes: SegmentationSizes
    folder: Path
    device: str = "cpu"
    progress: bool = False

    @property
    def pixels(self) -> int:
        """Rows and columns of the report's patches on this grid."""
        return STATIC_SEGMENTATION.pixels(self.scans[0].pixel_mm)

    def part(self, part: Part, split: Split | None = None) -> list[Scan]:
        """Return the scans of a part of the split."""
        codes = getattr(split or self.split, part)
        return [scan for code in codes for scan in self.scans if scan.code == code]

    def report_recipe(self, network: str, bone: str, **changes: Any) -> Recipe:
        """Return the report's recipe; ``changes`` are fields of a `Recipe`, or ``rate``."""
        rate = changes.pop("rate", 5e-4)
        steps = self.sizes.resnet_steps if "resnet" in network else self.sizes.steps
        stage = Stage(self.pixels, steps, learning_rate=rate)
        return Recipe(**{"stages": (stage,), "bones": (bone,), "network": network} | changes)

    def fit(self, recipe: Recipe, split: Split | None = None) -> Fitted:
        """Train on the training part, or read what was trained before."""
        return fit(
            recipe,
            self.part("train", split),
            self.folder,
            validation=self.part("validation", split),
            device=self.device,
            progress=self.progress,
        )

    def fit_all(self, recipes: Iterable[Recipe], splits: Sequence[Split] = ()) -> None:
        """Train several networks for `fit` to read, see `fit_side_by_side`.

        Parameters
        ----------
        recipes : iterable of Recipe
            A recipe that comes again is trained once.
        splits : sequence of Split, optional
            Each recipe is trained on each; the study's own by default.
        """
        wanted = dict.fromkeys(recipes)
        tasks = [
            Task(recipe, self.part("train", split), self.part("validation", split))
            for split in splits or [self.split]
            for recipe in wanted
        ]
        fit_side_by_side(tasks, self.folder, device=self.device, progress=self.progress)

    def patch_scores(
        self, fitted: Fitted, part: Part, split: Split | None = None, **options: Any
    ) -> pd.DataFrame:
        """Return `evaluation.patch_scores` of a part, on the report's patches."""
        options |= {"pixels": self.pixels, "n_patches": self.sizes.n_patches}

        def work() -> pd.DataFrame:
            return patch_scores(fitted, self.part(part, split), **options)

        return remembered_table(fitted, ["patches", part, options, self._stamp(part, split)], work)

    def volume_scores(
        self,
        fitted: Fitted,
        *,
        rotated: bool = False,
        step: int = 1,
        most: int | None = None,
        **options: Any,
    ) -> pd.DataFrame:
        """Return `evaluation.volume_scores` of the test part, on every so-many-th slice.

        Parameters
        ----------
        fitted : Fitted
        rotated : bool
            Score feet that are turned by 40 to 60 degrees instead.
        step : int
            Of the slices of ``sizes.slice_step``, take every so-many-th.
        most : int, optional
            Score the first so many subjects only.
        options
            Of `evaluation.volume_scores`.
        """

        def work() -> pd.DataFrame:
            scans = self.rotated_test if rotated else self.sparse_test
            return volume_scores(fitted, [every(scan, step) for scan in scans[:most]], **options)

        key = ["volumes", rotated, step, self.sizes.slice_step, most, options, self._stamp("test")]
        return remembered_table(fitted, key, work)

    @cached_property
    def sparse_test(self) -> list[Scan]:
        """The test part with every ``sizes.slice_step``-th slice."""
        return [every(scan, self.sizes.slice_step) for scan in self.part("test")]

    @cached_property
    def rotated_test(self) -> list[Scan]:
        """The same, each foot turned by another angle."""
        test = self.sparse_test
        return [turned(scan, rotation_of(i, len(test))) for i, scan in enumerate(test)]

    def _stamp(self, part: Part, split: Split | None = None) -> list[list[Any]]:
        return [[scan.code, scan.checksum] for scan in self.part(part, split)]


def read_study(
    subjects: Sequence[CleanSubject],
    masked: Path,
    sizes: SegmentationSizes,
    folder: Path,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> Study:
    """Read the scans of all subjects and split them as the report did.

    Parameters
    ----------
    subjects : sequence of CleanSubject
        From `manifest.read_clean_cohort`.
    masked : Path
        Results of chapter 02.
    sizes : SegmentationSizes
        Of a preset.
    folder : Path
        Where trainings are kept.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show bars.

    Raises
    ------
    AnkleError
        If the cohort has fewer than two controls, or nobody to test on.
    """
    split, folds = report_split(subjects, tested=True), tuple(cross_validation(subjects))
    native = read_scans(subjects, masked)
    scans = tuple(coarser(scan, factor_for(scan, sizes.pixel_mm)) for scan in native)
    return Study(scans, native, split, folds, sizes, folder, device, progress)


def remembered_table(
    fitted: Fitted, key: list[Any], work: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """Return a table of scores that is made once per network; ``key`` tells it from others.

    All columns but ``subject`` and ``bone`` are numbers.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    record = fitted.folder / f"{key[0]}-{digest}.json"

    def packed() -> dict[str, Any]:
        table = work()
        # JSON has no NaN
        return {"table": table.astype(object).where(table.notna(), None).to_dict("list")}

    inputs = [fitted.folder / "network.ckpt"]
    table = pd.DataFrame(remembered(record, inputs, [key, _code()], packed)["table"])
    numbers = [column for column in table if column not in ("subject", "bone")]
    return table.astype(dict.fromkeys(numbers, float))


@cache
def _code() -> str:
    return code_digest(inference, metrics, evaluation)
