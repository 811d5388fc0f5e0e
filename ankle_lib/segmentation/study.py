"""The scans, the split and the sizes that all experiments of chapter 05 share, and its answer.

The answer is one network for the three bones, for whole slices and feet turned by any angle.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.learning.prediction import Segmenter, predict
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import (
    Scan,
    coarser,
    draw_patches,
    every,
    factor_for,
    final_recipe,
    read_scans,
    rotation_of,
    train_on_scans,
    turned,
)
from ankle_lib.learning.scoring import THRESHOLD, bone_scores, patch_scores
from ankle_lib.learning.slices import whole_slices
from ankle_lib.learning.training import Trained, train_side_by_side
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.items import slices_at
from ankle_lib.patches.rules import STATIC_SEGMENTATION
from ankle_lib.patches.source import Batch
from ankle_lib.patches.split import Part, Split, cross_validation, report_split
from ankle_lib.presets import BONES, SegmentationSizes


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
    """

    scans: tuple[Scan, ...]
    native: tuple[Scan, ...]
    split: Split
    folds: tuple[Split, ...]
    sizes: SegmentationSizes
    folder: Path
    device: str = "cpu"

    @property
    def pixels(self) -> int:
        """Rows and columns of the report's patches on this grid."""
        return STATIC_SEGMENTATION.pixels(self.scans[0].pixel_mm)

    def part(self, part: Part, split: Split | None = None) -> list[Scan]:
        """Return the scans of a part of the split."""
        codes = getattr(split or self.split, part)
        return [scan for code in codes for scan in self.scans if scan.code == code]

    def report_recipe(self, network: str, bone: str, **changes: Any) -> Recipe:
        """Return the report's recipe; ``changes`` are fields of a `Recipe`, ``rate``, ``steps``."""
        rate, sizes = changes.pop("rate", 5e-4), self.sizes
        usual = sizes.resnet_steps if "resnet" in network else sizes.steps
        steps = changes.pop("steps", usual)
        recipe: dict[str, Any] = {
            "stages": (Stage(self.pixels, steps, learning_rate=rate),),
            "labels": (bone,),
            "network": network,
            "n_validation": sizes.n_patches,
            "epochs": Recipe.epochs_for(steps),
        }
        return Recipe(**recipe | changes)

    def table_recipe(self, network: str, bone: str, **changes: Any) -> Recipe:
        """Return the recipe for a network of the report's tables; see `report_recipe`."""
        sizes = self.sizes
        steps = sizes.table_resnet_steps if "resnet" in network else sizes.table_steps
        return self.report_recipe(network, bone, **{"steps": steps} | changes)

    def fit(self, recipe: Recipe, split: Split | None = None) -> Trained:
        """Train on the training part, or read what was trained before."""
        return self._training(recipe, split)()

    def fit_all(
        self, recipes: Iterable[Recipe], split: Split | None = None
    ) -> dict[Recipe, Trained]:
        """Train several networks, or read what was trained before; see `train_side_by_side`."""
        wanted = dict.fromkeys(recipes)
        trainings = [self._training(recipe, split) for recipe in wanted]
        trained = train_side_by_side(trainings)
        return dict(zip(wanted, trained, strict=True))

    def _training(self, recipe: Recipe, split: Split | None) -> Callable[[], Trained]:
        seen, validation = self.part("train", split), self.part("validation", split)
        for scan in (*seen, *validation):
            _ = scan.checksum  # here, not in every process
        return partial(
            train_on_scans, recipe, seen, self.folder, validation=validation, device=self.device
        )

    def patch_scores(
        self,
        trained: Trained,
        part: Part,
        split: Split | None = None,
        *,
        batchnorm_training: bool = False,
    ) -> pd.DataFrame:
        """Return `scoring.patch_scores` of a part, on the report's patches, made once."""
        bones, n = trained.recipe.labels, self.sizes.n_patches
        scans = self.part(part, split)

        def work() -> pd.DataFrame:
            batches = self._patches(bones, scans)
            return patch_scores(
                trained.network, batches, bones, batchnorm_training=batchnorm_training
            )

        settings = [part, self.pixels, n, batchnorm_training, _stamp(scans)]
        return trained.remembered("patches", work, settings)

    def empty_scores(self, part: Part, split: Split | None = None) -> pd.DataFrame:
        """Return what a network that never sees any bone would score on the same patches."""
        return patch_scores(None, self._patches(BONES, self.part(part, split)), BONES)

    def _patches(self, bones: tuple[str, ...], scans: Iterable[Scan]) -> dict[str, Batch]:
        n = self.sizes.n_patches
        return {
            scan.code: draw_patches(scan, bones, self.pixels, n, 0, self.device) for scan in scans
        }

    def volume_scores(
        self,
        trained: Trained,
        *,
        rotated: bool = False,
        step: int = 1,
        most: int | None = None,
        **how: Any,
    ) -> pd.DataFrame:
        """Return `volume_scores` of the test part, on every so-many-th slice, made once.

        Parameters
        ----------
        trained : Trained
        rotated : bool
            Score feet that are turned by 40 to 60 degrees instead.
        step : int
            Of the slices of ``sizes.slice_step``, take every so-many-th.
        most : int, optional
            Score the first so many subjects only.
        **how
            As for `volume_masks`.
        """

        def work() -> pd.DataFrame:
            scans = self.rotated_test if rotated else self.sparse_test
            return volume_scores(trained, [every(scan, step) for scan in scans[:most]], **how)

        settings = [rotated, step, self.sizes.slice_step, most, how, _stamp(self.part("test"))]
        return trained.remembered("volumes", work, settings)

    @cached_property
    def sparse_test(self) -> list[Scan]:
        """The test part with every ``sizes.slice_step``-th slice."""
        return [every(scan, self.sizes.slice_step) for scan in self.part("test")]

    @cached_property
    def rotated_test(self) -> list[Scan]:
        """The same, each foot turned by another angle."""
        test = self.sparse_test
        return [turned(scan, rotation_of(i, len(test))) for i, scan in enumerate(test)]

    @property
    def native_test(self) -> list[Scan]:
        """The test part on the scans' own grids."""
        return [scan for code in self.split.test for scan in self.native if scan.code == code]

    @property
    def final_pixel_mm(self) -> float:
        """Side of the pixels that the final network sees."""
        scan = self.native[0]
        return factor_for(scan, self.sizes.final_pixel_mm) * scan.pixel_mm


def read_study(
    subjects: Sequence[CleanSubject],
    masked: Path,
    sizes: SegmentationSizes,
    folder: Path,
    *,
    device: str = "cpu",
) -> Study:
    """Read the scans of all subjects and split them as the report did.

    Parameters
    ----------
    subjects : sequence of CleanSubject
        From `layouts.read_clean_cohort`.
    masked : Path
        Results of chapter 02.
    sizes : SegmentationSizes
        Of a preset.
    folder : Path
        Where trainings are kept.
    device : str
        "cpu" or "cuda".

    Raises
    ------
    AnkleError
        If the cohort has fewer than two controls, or nobody to test on.
    """
    split, folds = report_split(subjects, tested=True), tuple(cross_validation(subjects))
    native = read_scans(subjects, masked)
    scans = tuple(coarser(scan, factor_for(scan, sizes.pixel_mm)) for scan in native)
    return Study(scans, native, split, folds, sizes, folder, device)


def volume_masks(
    trained: Trained, scan: Scan, *, batchnorm_training: bool = False, tile: int | None = None
) -> dict[str, NDArray]:
    """Return each bone as the report's way sees it: whole slices, air included, nothing tidied.

    Parameters
    ----------
    trained : Trained
    scan : Scan
        With pixels of the training's size.
    batchnorm_training : bool
        Repeat the error of the 2020 scripts (see `slices.whole_slices`).
    tile : int, optional
        Side of overlapping tiles instead of whole slices.
    """
    image, recipe = scan.item.image, trained.recipe
    is_tile = tile is not None and tile < max(image.shape[:2])
    maps = whole_slices(
        trained.network,
        image,
        context=slices_at(recipe.context_mm, scan.voxel_size_mm[2]),
        batchnorm_training=batchnorm_training,
        tile=tile if is_tile else None,
    )
    return {bone: maps[channel] > THRESHOLD for channel, bone in enumerate(recipe.labels)}


def volume_scores(trained: Trained, scans: Iterable[Scan], **how: Any) -> pd.DataFrame:
    """Return Dice, HD95 and ASSD of what `volume_masks` gives, one number per volume and bone.

    Parameters
    ----------
    trained : Trained
    scans : iterable of Scan
    **how
        As for `volume_masks`.

    Returns
    -------
    DataFrame
        Columns subject, bone, dice, hd95_mm, assd_mm.
    """
    found = [(scan, volume_masks(trained, scan, **how)) for scan in scans]
    # here, on all cores: to another machine of a cluster they would be sent for longer
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        rows = pool.map(_scored, found)
        return pd.DataFrame([row for of_scan in rows for row in of_scan])


def _scored(found: tuple[Scan, dict[str, NDArray]]) -> list[dict[str, Any]]:
    scan, masks = found
    return bone_scores(scan.code, masks, scan.item.labels, scan.voxel_size_mm)


def train_final(study: Study, seed: int = 0) -> Trained:
    """Train the final network on the training part of the study."""
    factor = factor_for(study.native[0], study.sizes.final_pixel_mm)
    scans = [coarser(scan, factor, to_learn=True) for scan in study.native]
    return replace(study, scans=tuple(scans)).fit(final_recipe(study.sizes.final_stages, seed))


def score_final(trained: Trained, study: Study) -> pd.DataFrame:
    """Score the final network on the whole scans of all test subjects, as `ankle segment` runs it.

    Returns
    -------
    DataFrame
        Columns subject, bone, angle_deg (0 as scanned, and turned by 40 to 60 degrees), dice,
        hd95_mm, assd_mm.
    """
    segmenter = Segmenter.of(trained, pixel_mm=study.final_pixel_mm)

    def work(scan: Scan, angle: float) -> pd.DataFrame:
        shown = turned(scan, angle) if angle else scan
        masks = predict(shown.item.image, shown.voxel_size_mm, segmenter).masks()
        rows = bone_scores(scan.code, masks, shown.item.labels, shown.voxel_size_mm)
        return pd.DataFrame(rows)

    tables = []
    for number, scan in enumerate(study.native_test):
        for angle in (0.0, rotation_of(number, len(study.split.test))):
            settings = [scan.code, scan.checksum, angle, segmenter.pixel_mm]
            table = trained.remembered("final", partial(work, scan, angle), settings)
            table.insert(2, "angle_deg", angle)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _stamp(scans: Iterable[Scan]) -> list[tuple[str, str]]:
    return [(scan.code, scan.checksum) for scan in scans]
