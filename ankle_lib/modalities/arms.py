"""The networks that are compared on MR and CT: how each is trained, used and scored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from ankle_lib import cache
from ankle_lib.learning.modality_networks import N_MODALITIES
from ankle_lib.learning.networks import SliceNetwork
from ankle_lib.learning.prediction import Prediction, Segmenter, predict
from ankle_lib.learning.random_scans import ScanRanges, random_scans
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import (
    FINAL_CONTEXT_MM,
    FINAL_FRACTION,
    Scan,
    coarser,
    factor_for,
    patch_source,
)
from ankle_lib.learning.scoring import bone_scores
from ankle_lib.learning.training import (
    DrawBatch,
    Penalty,
    Trained,
    train_once,
    train_side_by_side,
)
from ankle_lib.metrics import bootstrap_interval, dice
from ankle_lib.modalities.distillation import class_relations, contrast, distillation
from ankle_lib.modalities.unpaired_scans import MODALITIES, Child, Regime, stacked, to_learn
from ankle_lib.parallel import run_all
from ankle_lib.patches.source import Augmentation, Batch, PatchSource
from ankle_lib.presets import BONES, ModalitySizes

AUGMENTATION = Augmentation(
    rotation_deg=20.0, scale=1.15, gain=0.1, shading=0.1, gamma=0.1, noise=0.1
)

LOOKS = ScanRanges(
    alike=0.2, thick=0.0, thin_mm=(1.2, 2.4), ankle_deg=12.0, tilt_deg=8.0, cut=0.3
)  # fmt: skip
"""Thin slices, as both scanners take them, and feet that lie about as these do."""

ALONE, SHARED, OWN = "one network each", "joint, shared norms", "joint, own norms"
DISTILLED, CONTRASTED = "own norms, distilled", "own norms, contrastive"
X_SHAPED, RANDOM, BOTH = "X-shape", "random looks", "both at once"
BORROWED = "another child's bones"

NETWORKS = {
    ALONE: "unet",
    SHARED: "unet",
    OWN: "unet-by-modality",
    DISTILLED: "unet-by-modality",
    CONTRASTED: "unet-by-modality",
    X_SHAPED: "x-unet",
    RANDOM: "unet",
    BOTH: "unet",
}
"""Every arm and its network."""

MAIN_ARMS = (ALONE, SHARED, OWN)

PENALTIES: dict[str, tuple[Penalty, ...]] = {DISTILLED: (distillation,), CONTRASTED: (contrast,)}

MISSING = 1 / 3
"""Share of patches from which the network for both at once sees the MR scan only; as many show
the CT only."""

N_RELATION_PATCHES, N_MISFIT_PATCHES = 32, 16
"""Per test scan, for `relations_of` and `norm_misfit`."""

RULES = {
    "lower entropy": ("entropy", -1),
    "larger expected Dice": ("expected_dice", 1),
    "norms that fit": ("norm_misfit", -1),
}
"""How a branch can be chosen: by which of its columns in the scores, and whether the larger one."""

SCORES = ("dice", "assd_mm", "hd95_mm")


@dataclass(frozen=True)
class Run:
    """One training, or one of each modality."""

    arm: str
    regime: Regime
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ModalityStudy:
    """Everything but the arm.

    Attributes
    ----------
    children : mapping of code to Child
    train, test : tuples of codes
        Nobody is in both.
    sizes : ModalitySizes
    folder : Path
        Where trainings are kept.
    device : str
    """

    children: Mapping[str, Child]
    train: tuple[str, ...]
    test: tuple[str, ...]
    sizes: ModalitySizes
    folder: Path
    device: str = "cpu"

    def recipe(self, run: Run) -> Recipe:
        """Return the recipe of an arm's network."""
        # one network for both is shown what two networks together are
        sizes, n_seen = self.sizes, 1 if run.arm == ALONE else N_MODALITIES
        stage = Stage(sizes.pixels, sizes.steps, n_seen * sizes.batch, sizes.rate, "one-cycle")
        context = self.both_context_mm() if run.arm == BOTH else FINAL_CONTEXT_MM
        return Recipe(
            (stage,),
            network=NETWORKS[run.arm],
            depth=sizes.depth,
            width=sizes.width,
            context_mm=context,
            loss="dice+bce",
            optimizer="muon",
            min_fraction=FINAL_FRACTION,
            augmentation=AUGMENTATION,
            epochs=2,
            seed=run.seed,
        )

    def both_context_mm(self) -> tuple[float, ...]:
        """Return where the slices of `stacked` scans lie that show one place in MR and in CT."""
        behind = self.sizes.static_shape[2] * self.sizes.static_voxel_mm[2]
        return (*FINAL_CONTEXT_MM, *(behind + one for one in FINAL_CONTEXT_MM))

    def scans_to_learn(self, run: Run) -> dict[str, list[Scan]]:
        """Return the labelled scans that a run may see, by modality; for both, stacked ones."""
        seen = run.regime.children(self.train)
        pixel_mm = self.sizes.pixel_mm
        if run.arm == BOTH:
            codes = [code for of_one in seen.values() for code in of_one]
            return {BOTH: [to_learn(stacked(self.children[code]), pixel_mm) for code in codes]}
        return {
            one: [to_learn(self.children[code].scans[one], pixel_mm) for code in codes]
            for one, codes in seen.items()
        }

    def fit_all(self, runs: Sequence[Run]) -> dict[Run, dict[str, Trained]]:
        """Train the arms, or read what was trained before.

        Returns
        -------
        mapping of Run to mapping of modality to Trained
            The same network under each modality, but for `ALONE`; under `BOTH` for that arm.
        """
        names, trainings = [], []
        for run in runs:
            scans = self.scans_to_learn(run)
            recipe = self.recipe(run)
            penalties = PENALTIES.get(run.arm, ())
            train = partial(train_arm, recipe, penalties=penalties, device=self.device)
            parts: list[tuple[tuple[str, ...], dict[str, list[Scan]]]]
            if run.arm == ALONE:
                parts = [((one,), {one: own}) for one, own in scans.items()]
            elif run.arm == RANDOM:
                parts = [(MODALITIES, {RANDOM: paint_anew(self, run, scans)})]
            else:
                parts = [((BOTH,) if run.arm == BOTH else MODALITIES, scans)]
            for modalities, seen in parts:
                for scan in (scan for own in seen.values() for scan in own):
                    _ = scan.checksum  # here, not in every process
                names.append((run, modalities))
                trainings.append(partial(train, seen, self.folder))
        found: dict[Run, dict[str, Trained]] = {run: {} for run in runs}
        for (run, modalities), trained in zip(names, train_side_by_side(trainings), strict=True):
            found[run] |= dict.fromkeys(modalities, trained)
        return found


def train_arm(
    recipe: Recipe,
    scans: Mapping[str, Sequence[Scan]],
    folder: Path,
    *,
    penalties: Sequence[Penalty] = (),
    device: str = "cpu",
) -> Trained:
    """Train a network on scans of one kind, or on as many patches of each of several kinds.

    Parameters
    ----------
    recipe : Recipe
        A network by modality is told which of the kinds a patch is of.
    scans : mapping of kind to sequence of Scan
        In the order of `MODALITIES`; or those of one kind, e.g. stacked ones.
    folder : Path
    penalties : sequence of Penalty
    device : str
    """
    told, both = recipe.network in ("unet-by-modality", "x-unet"), BOTH in scans

    def draws(stage: Stage) -> DrawBatch:
        assert stage.pixels is not None
        sources = [
            patch_source(own, BONES, stage.pixels, recipe.min_fraction, device, recipe.context_mm)
            for own in scans.values()
        ]
        return partial(draw_patches_of_all, sources, recipe.augmentation, told, both)

    decides = {kind: [[one.code, one.checksum] for one in own] for kind, own in scans.items()}
    return train_once(recipe, draws, folder, decides=decides, penalties=penalties, device=device)


def draw_patches_of_all(
    sources: Sequence[PatchSource],
    augmentation: Augmentation,
    told: bool,
    both: bool,
    n: int,
    generator: torch.Generator,
) -> Batch:
    """Draw as many patches of each source, one after the other.

    Parameters
    ----------
    sources : sequence of PatchSource
    augmentation : Augmentation
    told : bool
        Whether a further channel holds the number of the source.
    both : bool
        Whether the channels are slices of MR, then as many of CT, of which one is set to 0, its
        mean, in some patches.
    n : int
        Of all sources together.
    generator : torch.Generator
    """
    parts = []
    for number, source in enumerate(sources):
        part = source.draw(n // len(sources), generator, augmentation)
        image = part.image
        if told:
            image = torch.cat([image, torch.full_like(image[:, :1], number)], dim=1)
        if both:
            luck = torch.rand(len(image), generator=generator, device=image.device)
            half = image.shape[1] // 2
            image[luck < MISSING, half:] = 0
            image[luck > 1 - MISSING, :half] = 0
        where = torch.cat([part.where, torch.full_like(part.where[:, :1], number)], dim=1)
        parts.append(replace(part, image=image, where=where))

    def describe(place: Sequence[int]) -> str:
        return sources[place[3]].describe(place[:3])

    names = ("image", "target", "valid", "correlation", "where")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Batch(**joined, describe=describe)


def paint_anew(study: ModalityStudy, run: Run, scans: Mapping[str, Sequence[Scan]]) -> list[Scan]:
    """Return random scans made from all labelled scans, MR and CT; see `random_scans`."""
    numbered = list(enumerate(scan for own in scans.values() for scan in own))
    work = partial(_painted, study.sizes, run.seed)
    return [scan for made in run_all(work, numbered) for scan in made]


def _painted(sizes: ModalitySizes, seed: int, numbered: tuple[int, Scan]) -> list[Scan]:
    number, scan = numbered
    rng = np.random.default_rng([seed, number])
    return random_scans(scan, sizes.n_random, rng, pixel_mm=sizes.pixel_mm, ranges=LOOKS)


# --- use ---


class Told(nn.Module):
    """A network by modality that is told the same modality for every image.

    Parameters
    ----------
    network : SliceNetwork
    modality : {"mr", "ct"}
    """

    def __init__(self, network: SliceNetwork, modality: str) -> None:
        super().__init__()
        self.network, self.number = network, MODALITIES.index(modality)

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities of images without the channel that tells the modality."""
        told = torch.full_like(images[:, :1], self.number)
        probabilities: Tensor = self.network(torch.cat([images, told], dim=1))
        return probabilities


class Without(nn.Module):
    """A network for both at once that misses one of them.

    Parameters
    ----------
    network : SliceNetwork
    modality : {"mr", "ct"}
        Which is missing.
    """

    def __init__(self, network: SliceNetwork, modality: str) -> None:
        super().__init__()
        self.network, self.number = network, MODALITIES.index(modality)

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities, after the missing modality's channels were set to 0."""
        half = images.shape[1] // N_MODALITIES
        seen = images.clone()
        seen[:, self.number * half : (self.number + 1) * half] = 0
        probabilities: Tensor = self.network(seen)
        return probabilities


def segment(
    network: nn.Module, scan: Scan, pixel_mm: float, context_mm: Sequence[float]
) -> Prediction:
    """Segment one scan on its own grid; see `prediction.predict`."""
    segmenter = Segmenter(network, BONES, (pixel_mm, pixel_mm), tuple(context_mm))
    return predict(scan.item.image, scan.voxel_size_mm, segmenter, foot=scan.item.region)


def entropy(prediction: Prediction) -> float:
    """Return the mean entropy of a prediction's probabilities, in bits per bone and pixel."""
    p = prediction.maps.astype(np.float32).clip(1e-3, 1 - 1e-3)
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean())


def expected_dice(prediction: Prediction) -> float:
    """Return the mean over bones of the Dice that a prediction expects of itself."""
    return float(np.mean([*prediction.confidence.values()]))


def norm_misfit(network: nn.Module, images: Tensor) -> float:
    """Return how far the images are from what the norms of a network have seen in training.

    Each norm remembers mean and variance of each of its channels. The misfit is the
    Kullback-Leibler divergence of a normal distribution with those of the images from it, averaged
    over channels and norms. Nothing that the network answers is looked at.

    Parameters
    ----------
    network : nn.Module
        Such as `Told`; only norms that the images pass count. Left in evaluation mode.
    images : (n, channels, h, w) tensor
    """
    found = []

    def look(norm: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0].float(), (0, 2, 3), correction=0)
        kept = norm.running_var + norm.eps
        ratio = (variance + norm.eps) / kept
        gap = (mean - norm.running_mean).square() / kept
        found.append(((ratio - 1 - ratio.log() + gap) / 2).mean())

    norms = [one for one in network.eval().modules() if isinstance(one, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(look) for norm in norms]
    try:
        with torch.inference_mode():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.stack(found).mean())


def scores_of(study: ModalityStudy, fitted: Mapping[Run, Mapping[str, Trained]]) -> pd.DataFrame:
    """Score every run on both scans of every test child; each is done once.

    Returns
    -------
    DataFrame
        Columns arm, regime, seed, modality, subject, bone, dice, hd95_mm, assd_mm, and, of
        networks by modality, what may tell which branch is right: entropy_mr, entropy_ct,
        expected_dice_mr, …, norm_misfit_ct; and dice_mr, dice_ct: what each scores. Scored is the
        branch of the right modality. ``modality`` is "both", "mr" or "ct" for `BOTH`: what it was
        given, on the grid of the MR scan.
    """
    tasks = [
        (run, modality, trained) for run, of in fitted.items() for modality, trained in of.items()
    ]
    children = {code: study.children[code] for code in study.test}
    work = partial(_scored, children, study.sizes.pixel_mm)
    tables = run_all(work, tasks, device=study.device)
    columns = [{"arm": run.arm, "regime": run.regime.name, "seed": run.seed} for run, _, _ in tasks]
    parts = zip(tables, columns, strict=True)
    return pd.concat([table.assign(**one) for table, one in parts], ignore_index=True)


def _scored(
    children: Mapping[str, Child], pixel_mm: float, task: tuple[Run, str, Trained]
) -> pd.DataFrame:
    _, modality, trained = task
    parts = []
    for child in children.values():
        scans = [child.scans[one] for one in MODALITIES]
        settings = [modality, pixel_mm, child.code, [one.checksum for one in scans]]
        work = partial(_scores_of_child, child, modality, trained, pixel_mm)
        parts.append(trained.remembered("scores", work, settings))
    return pd.concat(parts, ignore_index=True)


def _scores_of_child(
    child: Child, modality: str, trained: Trained, pixel_mm: float
) -> pd.DataFrame:
    context = trained.recipe.context_mm
    networks: dict[str, nn.Module] = {modality: trained.network}
    scan: Scan | None = None
    columns: dict[str, float] = {}
    if modality == BOTH:
        scan = stacked(child)
        networks = {"both": trained.network, "mr": Without(trained.network, "ct")}
        networks["ct"] = Without(trained.network, "mr")
    elif trained.recipe.network in ("unet-by-modality", "x-unet"):
        networks = {one: Told(trained.network, one) for one in MODALITIES}
    scan = scan or child.scans[modality]
    rows, truth = {}, scan.item.labels
    for one, network in networks.items():
        found = segment(network, scan, pixel_mm, context)
        masks = found.masks()
        if modality in (one, BOTH):
            rows[one] = bone_scores(child.code, masks, truth, scan.voxel_size_mm)
        if isinstance(network, Told):
            seen = _some_patches(scan, pixel_mm, trained)
            columns |= {f"norm_misfit_{one}": norm_misfit(network, seen)}
            columns |= {f"entropy_{one}": entropy(found)}
            columns |= {f"expected_dice_{one}": expected_dice(found)}
            of_bones = [dice(masks[bone], own) for bone, own in truth.items()]
            columns |= {f"dice_{one}": float(np.mean(of_bones))}
    return pd.DataFrame(
        [{"modality": one} | row | columns for one, own in rows.items() for row in own]
    )


def _some_patches(scan: Scan, pixel_mm: float, trained: Trained) -> Tensor:
    """Return patches of a scan as they are drawn in training, for which no label is needed."""
    recipe, device = trained.recipe, str(next(trained.network.parameters()).device)
    pixels = recipe.stages[-1].pixels
    assert pixels is not None
    scans = [coarser(scan, factor_for(scan, pixel_mm))]
    source = patch_source(scans, BONES, pixels, recipe.min_fraction, device, recipe.context_mm)
    return source.draw(N_MISFIT_PATCHES, torch.Generator(source.device).manual_seed(0)).image


def scores_of_segmenter(study: ModalityStudy, segmenter: Segmenter, arm: str) -> pd.DataFrame:
    """Score a network from elsewhere on both scans of every test child; done once.

    Returns
    -------
    DataFrame
        Columns arm, modality, subject, bone, dice, hd95_mm, assd_mm.
    """
    weights = [one.detach().cpu().numpy() for one in segmenter.network.state_dict().values()]
    scans = {
        (one, code): study.children[code].scans[one] for one in MODALITIES for code in study.test
    }

    def work() -> pd.DataFrame:
        score = partial(_scored_by, segmenter, study.device)
        found = run_all(score, [*scans.values()], device=study.device)
        parts = zip(scans, found, strict=True)
        return pd.concat([table.assign(modality=one) for (one, _), table in parts])

    checksums = [one.checksum for one in scans.values()]
    settings = [weights, segmenter.pixel_mm, segmenter.context_mm, checksums]
    table = cache.remembered(study.folder / "elsewhere.json", work, settings=settings)
    return table.assign(arm=arm)


def _scored_by(segmenter: Segmenter, device: str, scan: Scan) -> pd.DataFrame:
    item, voxel = scan.item, scan.voxel_size_mm
    found = predict(item.image, voxel, segmenter, foot=item.region, device=device)
    return pd.DataFrame(bone_scores(scan.code, found.masks(), item.labels, voxel))


def scores_of_borrowed(study: ModalityStudy, regime: Regime) -> pd.DataFrame:
    """Score what needs no learning: another child's bones, laid where the middle of the foot is.

    Of each modality the first training child's, turned over for a foot of the other side if that
    fits better.

    Returns
    -------
    DataFrame
        Columns as of `scores_of_segmenter`.
    """
    lenders, rows = regime.children(study.train), []
    for modality in MODALITIES:
        lender = study.children[lenders[modality][0]].scans[modality]
        for code in study.test:
            scan = study.children[code].scans[modality]
            tries = [
                bone_scores(
                    code, _borrowed(lender, scan, side), scan.item.labels, scan.voxel_size_mm
                )
                for side in (1, -1)
            ]
            best = max(tries, key=lambda scores: sum(one["dice"] for one in scores))
            rows += [{"arm": BORROWED, "modality": modality} | one for one in best]
    return pd.DataFrame(rows)


def _borrowed(lender: Scan, scan: Scan, side: int) -> dict[str, NDArray[np.bool_]]:
    """Return the lender's labels on the grid of a scan, with the middles of the feet together."""
    middles = [np.argwhere(one.item.region).mean(axis=0) for one in (lender, scan)]
    step = np.array(scan.voxel_size_mm) / lender.voxel_size_mm * (1, 1, side)
    offset = middles[0] - step * middles[1]
    shape = scan.item.image.shape
    return {
        bone: ndimage.affine_transform(mask.view(np.uint8), step, offset, shape, order=0) > 0
        for bone, mask in lender.item.labels.items()
    }


def gains_over(
    scores: pd.DataFrame, baseline: str = ALONE, measures: Sequence[str] = SCORES
) -> pd.DataFrame:
    """Return by how much each arm differs from one of them, child by child.

    Parameters
    ----------
    scores : DataFrame
        From `scores_of`.
    baseline : str
        An arm.
    measures : sequence of str

    Returns
    -------
    DataFrame
        Columns arm, regime, modality and, of each measure, its mean difference and the ends of
        its 95 % interval over children: ``dice_mean``, ``dice_low``, ``dice_high``, ….
    """
    by_child = scores.groupby(["arm", "regime", "modality", "subject"])[list(measures)].mean()
    rows = []
    for regime, modality in dict.fromkeys(zip(scores["regime"], scores["modality"], strict=True)):
        arms = scores.loc[
            (scores["regime"] == regime) & (scores["modality"] == modality), "arm"
        ].unique()
        if baseline not in arms:
            continue
        for arm in (one for one in arms if one != baseline):
            own, other = (by_child.loc[(name, regime, modality)] for name in (arm, baseline))
            difference, row = own - other, {"arm": arm, "regime": regime, "modality": modality}
            for measure in measures:
                interval = bootstrap_interval(difference[measure], list(difference.index))
                row |= {f"{measure}_{name}": x for name, x in interval._asdict().items()}
            rows.append(row)
    return pd.DataFrame(rows)


def branch_choices(scores: pd.DataFrame) -> pd.DataFrame:
    """Return how often a network by modality finds the right branch without being told.

    Returns
    -------
    DataFrame
        Columns arm, regime, modality, rule, right (share of scans), dice_told, dice_blind: with
        the right branch, and with the chosen one. The rules: see `RULES`.
    """
    told = scores.dropna(subset=["entropy_mr"]) if "entropy_mr" in scores else scores.iloc[:0]
    keys = ["arm", "regime", "seed", "modality", "subject"]
    scans = told.drop_duplicates(keys)
    rows = []
    for rule, (column, sign) in RULES.items():
        says_ct = sign * scans[f"{column}_ct"] > sign * scans[f"{column}_mr"]
        is_ct = scans["modality"] == "ct"
        chosen = scans.assign(
            rule=rule,
            right=(says_ct == is_ct).astype(float),
            dice_told=scans["dice_ct"].where(is_ct, scans["dice_mr"]),
            dice_blind=scans["dice_ct"].where(says_ct, scans["dice_mr"]),
        )
        means = chosen.groupby(["arm", "regime", "modality", "rule"], sort=False)
        rows.append(means[["right", "dice_told", "dice_blind"]].mean().reset_index())
    return pd.concat(rows, ignore_index=True)


def relations_of(study: ModalityStudy, trained: Trained) -> dict[str, Tensor]:
    """Return the `class_relations` of a network by modality on the test children, by modality."""
    recipe = trained.recipe
    pixels = recipe.stages[-1].pixels
    assert pixels is not None
    found = {}
    for modality in MODALITIES:
        scans = [to_learn(study.children[c].scans[modality], study.sizes.pixel_mm)
                 for c in study.test]  # fmt: skip
        source = patch_source(
            scans, BONES, pixels, recipe.min_fraction, study.device, recipe.context_mm
        )
        generator = torch.Generator(study.device).manual_seed(0)
        batch = source.draw(N_RELATION_PATCHES * len(scans), generator)
        told = torch.full_like(batch.image[:, :1], MODALITIES.index(modality))
        with torch.inference_mode():
            logits = trained.network.logits(torch.cat([batch.image, told], dim=1)).float()
        found[modality] = class_relations(logits, batch.target)[0].cpu()
    return found


def parameters_and_seconds(fitted: Mapping[Run, Mapping[str, Trained]]) -> pd.DataFrame:
    """Return what each run costs: columns arm, regime, seed, parameters, seconds of training.

    Of `ALONE` both networks together.
    """
    rows = []
    for run, of in fitted.items():
        networks: Iterable[Trained] = {id(one): one for one in of.values()}.values()
        row: dict[str, Any] = {"arm": run.arm, "regime": run.regime.name, "seed": run.seed}
        row["parameters"] = sum(one.parameters for one in networks)
        row["seconds"] = sum(float(one.epochs["seconds"].sum()) for one in networks)
        rows.append(row)
    return pd.DataFrame(rows)
