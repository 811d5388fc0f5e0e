"""The contest: which networks compete, how each is trained, used and scored; all alike.

Slices, augmentation, loss, optimiser, schedule and number of steps are the same for all; only the
learning rate is each network's own, and each had as many tries to find it.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.learning.prediction import Segmenter, predict
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import FINAL_CONTEXT_MM, Scan, coarser, factor_for, train_on_scans
from ankle_lib.learning.scoring import THRESHOLD, bone_scores
from ankle_lib.learning.slices import whole_slices
from ankle_lib.learning.training import Trained, train_once, train_side_by_side
from ankle_lib.metrics import Mask
from ankle_lib.parallel import run_all
from ankle_lib.patches.source import Augmentation
from ankle_lib.presets import BONES, StrokeSizes
from ankle_lib.stroke.challenge import lesion_scores, lesions_found, without_specks
from ankle_lib.stroke.head_scans import BESIDE, LESION, draw_slices, seen_item, slice_sources

AUGMENTATION = Augmentation(
    rotation_deg=15.0, scale=1.1, gain=0.1, shading=0.1, gamma=0.1, noise=0.1
)

SPECK_ML = 0.1
"""Smaller pieces are dropped from every answer: no lesion is so small."""

UNET, MIRROR, OWN_UNET = "BasicUNet", "BasicUNet + mirror image", "U-Net"
OWN_TRANSFORMER, SWIN, UNETR, MEDNEXT = "U-Net transformer", "SwinUNETR", "UNETR", "MedNeXt"
SWIN_IDENTITY, UNETR_IDENTITY = "SwinUNETR, identity", "UNETR, identity"

NETWORKS = {
    UNET: "basic-unet",
    MIRROR: "basic-unet",
    OWN_UNET: "unet",
    OWN_TRANSFORMER: "unet-transformer",
    SWIN: "swin-unetr",
    UNETR: "unetr",
    MEDNEXT: "mednext",
    SWIN_IDENTITY: "swin-unetr-identity",
    UNETR_IDENTITY: "unetr-identity",
}
"""Every contestant and its network."""

IDENTITIES = {OWN_TRANSFORMER: OWN_UNET, SWIN: SWIN_IDENTITY, UNETR: UNETR_IDENTITY}
"""Networks with transformer blocks, and the same without."""

RATES = (2.5e-3, 5e-3, 1e-2, 2e-2)
"""Every network's tries of the largest learning rate."""

LESIONS, BONES_OF_ANKLES = "lesions", "bones of ankles"

LAPTOP_TRIALS: dict[str, dict[str, tuple[float, ...]]] = {
    LESIONS: {
        UNET: (0.132, 0.176, 0.141, 0.144),
        MIRROR: (0.098, 0.118, 0.132, 0.097),
        OWN_UNET: (0.094, 0.119, 0.073, 0.085),
        OWN_TRANSFORMER: (0.092, 0.132, 0.094, 0.115),
        SWIN: (0.099, 0.101, 0.107, 0.082),
        UNETR: (0.049, 0.059, 0.046, 0.051),
    },
    BONES_OF_ANKLES: {
        UNET: (0.809, 0.806, 0.808, 0.852),
        OWN_UNET: (0.876, 0.921, 0.937, 0.941),
        OWN_TRANSFORMER: (0.861, 0.906, 0.940, 0.923),
        SWIN: (0.757, 0.806, 0.851, 0.842),
    },
}
"""Mean Dice of the validation people with each of `RATES`, found by `tuning_trials` and
`ankle_trials` at `laptop`."""

COST_MS = {
    UNET: 9.2, MIRROR: 10.3, OWN_UNET: 12.1, OWN_TRANSFORMER: 17.3, SWIN: 20.2, UNETR: 11.0,
    MEDNEXT: 65.7,
}  # fmt: skip
"""Processor time to train on one slice at `laptop`, measured once on one thread: what counts is
how they compare. Steps follow from it that take equal time, the same ones on every machine."""


def width_of(arm: str, sizes: StrokeSizes) -> int:
    """Return the width of a network; the first level of the course's is then MONAI's U-Net's."""
    return sizes.width * (2 if arm in (OWN_UNET, OWN_TRANSFORMER) else 1)


def steps_in_equal_time(arm: str, steps: int) -> int:
    """Return how many steps of a network take as long as ``steps`` of the BasicUNet."""
    return max(1, round(steps * COST_MS[UNET] / COST_MS[arm]))


@dataclass(frozen=True)
class Run:
    """One training."""

    arm: str
    n_train: int
    steps: int
    seed: int = 0
    rate: float | None = None
    """None: the chosen one."""


@dataclass(frozen=True, eq=False)
class StrokeStudy:
    """Everything but the network.

    Attributes
    ----------
    train, validation, test : tuples of Scan
        Nobody is in two of them. The first people of ``train`` are those of a smaller training.
    sizes : StrokeSizes
    rates : mapping of arm to float
        The largest learning rate of each; an identity has that of its whole.
    folder : Path
        Where trainings are kept.
    device : str
    """

    train: tuple[Scan, ...]
    validation: tuple[Scan, ...]
    test: tuple[Scan, ...]
    sizes: StrokeSizes
    rates: Mapping[str, float]
    folder: Path
    device: str = "cpu"

    def recipe(self, run: Run) -> Recipe:
        """Return how the network of a run is made and trained."""
        rate = self.rates[run.arm] if run.rate is None else run.rate
        beside = range(-BESIDE, BESIDE + 1)
        return Recipe(
            (Stage(None, run.steps, self.sizes.batch, rate, "cosine"),),
            labels=(LESION,),
            network=NETWORKS[run.arm],
            width=width_of(run.arm, self.sizes),
            channels=("image", "mirror image") if run.arm == MIRROR else ("image",),
            context_mm=tuple(self.sizes.voxel_mm * one for one in beside),
            loss="dice+lesion-bce",
            optimizer="muon",
            augmentation=AUGMENTATION,
            epochs=2,
            seed=run.seed,
        )

    def fit_all(self, runs: Sequence[Run]) -> dict[Run, Trained]:
        """Train the networks of all runs side by side, or read what was trained before."""
        for scan in self.train:
            _ = scan.checksum  # here, not in every process
        trainings = [
            partial(train_run, self.recipe(run), self.train[: run.n_train], self.folder,
                    mirror=run.arm == MIRROR, device=self.device)
            for run in runs
        ]  # fmt: skip
        return dict(zip(runs, train_side_by_side(trainings), strict=True))


def train_run(
    recipe: Recipe, scans: Sequence[Scan], folder: Path, *, mirror: bool, device: str
) -> Trained:
    """Train a network on whole axial slices of heads, or read it; see `training.train_once`."""

    def draws(stage: Stage) -> Any:
        return partial(draw_slices, slice_sources(scans, mirror, device), recipe.augmentation)

    decides = [mirror, *([scan.code, scan.checksum] for scan in scans)]
    return train_once(recipe, draws, folder, decides=decides, device=device)


# --- use ---


def lesion_map(trained: Trained, scan: Scan) -> NDArray[np.floating]:
    """Return the probability of a lesion in each voxel, (X, Y, Z)."""
    item = seen_item(scan, mirror="mirror image" in trained.recipe.channels)
    maps = whole_slices(trained.network, item.image, context=item.context)
    return maps[0, :, :, : scan.item.image.shape[2]]


def found_lesions(trained: Trained, scan: Scan) -> Mask:
    """Return where a network finds lesions, without specks and within the brain."""
    return as_mask(lesion_map(trained, scan) > THRESHOLD, scan)


def as_mask(found: Mask, scan: Scan) -> Mask:
    """Return an answer as all are scored: within the brain, without specks."""
    return without_specks(found & scan.item.region, SPECK_ML, scan.voxel_size_mm)


def scores_of(
    study: StrokeStudy, fitted: Mapping[Run, Trained], scans: Sequence[Scan] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every run on every test scan; each is done once.

    Parameters
    ----------
    study : StrokeStudy
    fitted : mapping of Run to Trained
    scans : sequence of Scan, optional
        Others than those of the test.

    Returns
    -------
    scores : DataFrame
        Columns arm, n_train, steps, seed, rate, subject, and those of `challenge.LesionScores`.
    lesions : DataFrame
        The same first columns, and those of `challenge.lesions_found`; a row per true lesion.
    """
    chosen = tuple(scans or study.test)
    tables = run_all(partial(_scores_of_run, chosen), [*fitted.values()], device=study.device)
    rows, lesions = [], []
    for run, of_run in zip(fitted, tables, strict=True):
        for scan, (scores, found) in zip(chosen, of_run, strict=True):
            key = {**vars(run), "subject": scan.code}
            rows.append(key | scores)
            lesions.append(found.assign(**key))
    return pd.DataFrame(rows), pd.concat(lesions, ignore_index=True)


def _scores_of_run(scans: Sequence[Scan], trained: Trained) -> list[list[Any]]:
    found = []
    for scan in scans:
        work = partial(_score, trained, scan)
        found.append(trained.remembered("scores", work, [scan.code, scan.checksum]))
    return found


def _score(trained: Trained, scan: Scan) -> list[Any]:
    return [*scores_and_lesions(found_lesions(trained, scan), scan)]


def scores_and_lesions(found: Mask, scan: Scan) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score an answer to one scan: all measures, and lesion by lesion."""
    truth = scan.item.labels[LESION]
    scores = vars(lesion_scores(found, truth, scan.voxel_size_mm))
    return scores, lesions_found(found, truth, scan.voxel_size_mm)


def best_rates(trials: pd.DataFrame) -> dict[str, float]:
    """Return the rate of each network with the best Dice; an identity has that of its whole."""
    best = trials.loc[trials.groupby("arm")["dice"].idxmax()].set_index("arm")["rate"].to_dict()
    wholes = {without: arm for arm, without in IDENTITIES.items() if arm in best}
    return {without: best[arm] for without, arm in wholes.items()} | best


def tuning_trials(study: StrokeStudy, arms: Sequence[str], n_train: int) -> pd.DataFrame:
    """Train each network once with each of `RATES`, and score it on the validation people.

    Returns
    -------
    DataFrame
        Columns arm, rate, dice: the mean over validation people.
    """
    runs = [Run(arm, n_train, study.sizes.steps, rate=rate) for arm in arms for rate in RATES]
    scores, _ = scores_of(study, study.fit_all(runs), study.validation)
    return scores.groupby(["arm", "rate"], sort=False)["dice"].mean().reset_index()


def trials_at_laptop(task: str) -> pd.DataFrame:
    """Return `LAPTOP_TRIALS` of a task as its trials would; for smaller runs than those."""
    rows = [
        {"arm": arm, "rate": rate, "dice": dice}
        for arm, found in LAPTOP_TRIALS[task].items()
        for rate, dice in zip(RATES, found, strict=True)
    ]
    return pd.DataFrame(rows)


def seconds_of(fitted: Mapping[Run, Trained]) -> pd.DataFrame:
    """Return what each training took: columns arm, n_train, steps, seed, parameters, seconds."""
    rows = [
        {**vars(run), "parameters": one.parameters, "seconds": one.epochs["seconds"].sum()}
        for run, one in fitted.items()
    ]
    return pd.DataFrame(rows).drop(columns="rate")


# --- the ankle ---


def ankle_recipe(sizes: StrokeSizes, arm: str, pixels: int, rate: float, seed: int = 0) -> Recipe:
    """Return how a contestant is trained on the bones of ankles."""
    return Recipe(
        (Stage(pixels, sizes.ankle_steps, sizes.batch, rate, "cosine"),),
        network=NETWORKS[arm],
        width=width_of(arm, sizes),
        context_mm=FINAL_CONTEXT_MM,
        loss="dice+bce",
        optimizer="muon",
        min_fraction=0.2,
        augmentation=replace(AUGMENTATION, rotation_deg=20.0),
        epochs=2,
        seed=seed,
    )


def ankle_contest(
    study: StrokeStudy,
    rates: Iterable[tuple[str, float]],
    train: Sequence[Scan],
    test: Sequence[Scan],
) -> pd.DataFrame:
    """Train contestants on the bones of ankles and score them on other children's.

    Parameters
    ----------
    study : StrokeStudy
        Whose sizes and folder.
    rates : iterable of pairs
        Each a contestant and its largest learning rate.
    train, test : sequences of Scan
        Sagittal slices, labelled with the bones.

    Returns
    -------
    DataFrame
        Columns arm, rate, seed, subject, bone, dice, hd95_mm, assd_mm.
    """
    pixel_mm = study.sizes.ankle_pixel_mm
    seen = [coarser(one, factor_for(one, pixel_mm), to_learn=True) for one in train]
    pixels = max(32, min(min(one.item.image.shape[:2]) for one in seen) // 32 * 32)
    keys = [(arm, rate, seed) for arm, rate in rates for seed in range(study.sizes.n_seeds)]
    trainings = [
        partial(
            train_on_scans,
            ankle_recipe(study.sizes, arm, pixels, rate, seed),
            seen,
            study.folder,
            device=study.device,
        )
        for arm, rate, seed in keys
    ]
    rows = []
    for (arm, rate, seed), trained in zip(keys, train_side_by_side(trainings), strict=True):
        for scan in test:
            work = partial(_bones_of, trained, scan, pixel_mm)
            scores = trained.remembered("bones", work, [scan.code, scan.checksum, pixel_mm])
            rows += [{"arm": arm, "rate": rate, "seed": seed} | one for one in scores]
    return pd.DataFrame(rows)


def ankle_trials(
    study: StrokeStudy, arms: Sequence[str], train: Sequence[Scan], validation: Sequence[Scan]
) -> pd.DataFrame:
    """Do for the bones of ankles what `tuning_trials` does for lesions."""
    once = replace(study, sizes=replace(study.sizes, n_seeds=1))
    tries = itertools.product(arms, RATES)
    scores = ankle_contest(once, tries, train, validation)
    return scores.groupby(["arm", "rate"], sort=False)["dice"].mean().reset_index()


def _bones_of(trained: Trained, scan: Scan, pixel_mm: float) -> list[dict[str, Any]]:
    segmenter = Segmenter(trained.network, BONES, (pixel_mm,) * 2, trained.recipe.context_mm)
    item = scan.item
    found = predict(item.image, scan.voxel_size_mm, segmenter, foot=item.region)
    return bone_scores(scan.code, found.masks(), item.labels, scan.voxel_size_mm)
