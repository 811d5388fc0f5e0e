"""Why the networks of 2020 failed on whole slices: their errors, taken away one at a time.

In order, each remedy on top of those before it (*additive*), and each missing from the whole
(*leave one out*). A remedy that only helps together with others shows in one of the two.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ankle_lib.files import AnkleError
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import patch_source
from ankle_lib.learning.training import Trained
from ankle_lib.metrics import Interval, bootstrap_interval, over_subjects
from ankle_lib.patches.source import Augmentation
from ankle_lib.presets import BONES
from ankle_lib.segmentation.study import Study

AUGMENTATION = Augmentation(rotation_deg=90.0, scale=1.2)
"""Turned by more than the test feet, and in both directions."""

AIR_FRACTION = 0.05
"""Part of a patch that is foot at least, where air is to be seen: without any, most show none."""

GROWTH = (1, 2)
"""Sizes of patches, in report's patches, before they become whole slices."""

WHOLE_BATCH = 4
"""Whole slices per step."""

FEW = 3
"""Subjects on which the question outside both orders is asked."""

MULTIPLE = 16
"""Sides of whole slices are cut to multiples of this, as the U-Net likes them."""

SMALLEST_EFFECT = 0.01
"""Of Dice. Less is no cause of a failure, even if it is no accident."""


TITLES = {
    # batch normalisation with learnt statistics, not with those of the slice at hand
    "evaluation_mode": "evaluation mode",
    # patches of which 5 % is foot, and the rest may be air, not only those with 75 %
    "air": "patches with air",
    # Dice and binary cross-entropy, not the latter alone
    "dice_loss": "Dice + BCE",
    # weights of the best epoch on the validation subject, not the last
    "best_epoch": "best epoch",
    # patches turned and scaled
    "augmentation": "turned and scaled",
    # overlapping tiles of the training's size, not whole slices
    "tiles": "overlapping tiles",
    # patches that grow up to the whole slice while the learning rate falls
    "growing": "growing patches",
    # one network for the three bones, not one for each
    "one_network": "one network",
}
"""The remedies, each against one error of 2020, in the order in which they are added."""

Remedies = frozenset[str]
"""Those of `TITLES` that are applied."""

AS_CODED = "as coded in 2020"


@dataclass(frozen=True)
class Step:
    """One bar of the post-mortem."""

    name: str
    order: str
    """``additive``, ``leave_one_out``, or ``extra`` for a question outside both."""
    remedies: Remedies


def steps() -> tuple[Step, ...]:
    """Return all steps; the last additive one has every remedy."""
    found = [Step(AS_CODED, "additive", Remedies())]
    for name, title in TITLES.items():
        found.append(Step(f"+ {title}", "additive", found[-1].remedies | {name}))
    for name, title in TITLES.items():
        found.append(Step(f"without {title}", "leave_one_out", Remedies(TITLES) - {name}))
    found.append(Step(f"{AS_CODED}, in tiles", "extra", Remedies({"tiles"})))
    return tuple(found)


def recipes(study: Study, remedies: Remedies, seed: int = 0) -> list[Recipe]:
    """Return how to train with these remedies: one recipe, or one for each bone."""
    fraction = AIR_FRACTION if "air" in remedies else 0.75
    stages = _stages(study, fraction)
    recipe = Recipe(
        stages=stages if "growing" in remedies else stages[:1],
        loss="dice+bce" if "dice_loss" in remedies else "bce",
        min_fraction=fraction,
        augmentation=AUGMENTATION if "augmentation" in remedies else Augmentation(),
        keep_best="best_epoch" in remedies,
        n_validation=study.sizes.n_patches,
        seed=seed,
    )
    if "one_network" in remedies:
        return [recipe]
    return [recipe.of_bone(bone) for bone in study.sizes.followed_bones]


def postmortem_trials(study: Study) -> pd.DataFrame:
    """Train and score every step with every seed.

    Returns
    -------
    DataFrame
        One row per step, seed, test subject and bone: columns step, order, seed, subject, bone,
        dice, hd95_mm, assd_mm (whole volumes), rotated_dice (the same feet turned by 40 to 60
        degrees), patch_dice (the report's score, of the same network).
    """
    seeds = range(study.sizes.n_seeds)
    trained = study.fit_all(
        recipe for step in steps() for n in seeds for recipe in recipes(study, step.remedies, n)
    )
    tables = []
    for step in steps():
        for seed in seeds:
            networks = [trained[recipe] for recipe in recipes(study, step.remedies, seed)]
            scores = pd.concat([_scores(study, one, step) for one in networks])
            tables.append(scores.assign(step=step.name, order=step.order, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    table = table[table["bone"].isin(study.sizes.followed_bones)].reset_index(drop=True)
    first = ["step", "order", "seed", "subject", "bone"]
    return table[first + [column for column in table if column not in first]]


def summarised(table: pd.DataFrame) -> pd.DataFrame:
    """Return postmortem.csv: a row per step and bone.

    Returns
    -------
    DataFrame
        Columns step, bone, dice_mean, dice_low, dice_high (95 % interval over subjects), hd95_mm,
        order, patch_dice, rotated_dice, seed_sd (of the mean over subjects; empty with one seed),
        subject_sd (of the mean over seeds).
    """
    by = ["order", "step", "bone"]
    result = over_subjects(table, by, ["dice"])
    groups = table.groupby(by, sort=False)
    spreads = pd.DataFrame(
        {
            **groups[["hd95_mm", "patch_dice", "rotated_dice"]].mean(),
            "seed_sd": groups.apply(lambda part: part.groupby("seed")["dice"].mean().std()),
            "subject_sd": groups.apply(lambda part: part.groupby("subject")["dice"].mean().std()),
        }
    ).reset_index()
    result = result.merge(spreads, on=by)
    first = ["step", "bone", "dice_mean", "dice_low", "dice_high", "hd95_mm", "order"]
    return result[first + [column for column in result if column not in first]]


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Judge every hypothesis by the difference it makes to the same subjects.

    Parameters
    ----------
    table : DataFrame
        From `postmortem_trials`.

    Returns
    -------
    DataFrame
        Columns hypothesis, compared, effect, low, high, verdict. The effect is a difference of
        Dice, averaged over bones and seeds, with its 95 % interval over subjects. A hypothesis
        *holds* if the interval lies above 0 and the effect is at least 0.01, is *contradicted* if
        the interval lies below 0 by as much, and is *not shown* otherwise.
    """
    additive = list(dict.fromkeys(table.loc[table["order"] == "additive", "step"]))
    rows = []
    for before, after in itertools.pairwise(additive):
        title = after.removeprefix("+ ")
        effect = _difference(table, (after, "dice"), (before, "dice"))
        rows.append((f"{title} helps", f"{after} against {before}", *effect))
    for title in TITLES.values():
        effect = _difference(table, (additive[-1], "dice"), (f"without {title}", "dice"))
        rows.append((f"{title} is needed in the end", f"all against all but {title}", *effect))
    evaluated, turned = (f"+ {TITLES[name]}" for name in ("evaluation_mode", "augmentation"))
    before, in_tiles = additive[additive.index(turned) - 1], f"{AS_CODED}, in tiles"
    pairs = (
        ("patch Dice is higher than volume Dice", (AS_CODED, "patch_dice"), (AS_CODED, "dice")),
        ("in tiles it is worse without evaluation mode", (AS_CODED, "dice"), (in_tiles, "dice")),
        ("turning the foot breaks the network", (evaluated, "dice"), (evaluated, "rotated_dice")),
        (
            "turned patches in training repair that",
            (turned, "rotated_dice"),
            (before, "rotated_dice"),
        ),
    )
    for hypothesis, high, low in pairs:
        compared = " against ".join(f"{step} ({column})" for step, column in (high, low))
        rows.append((hypothesis, compared, *_difference(table, high, low)))
    columns = ["hypothesis", "compared", "effect", "low", "high"]
    result = pd.DataFrame(rows, columns=columns)
    return result.assign(verdict=[_verdict(row) for row in result.itertuples()])


def _scores(study: Study, trained: Trained, step: Step) -> pd.DataFrame:
    as_2020 = "evaluation_mode" not in step.remedies
    tile = trained.recipe.stages[-1].pixels if "tiles" in step.remedies else None
    options: dict[str, Any] = {"batchnorm_training": as_2020, "tile": tile}
    patches = study.patch_scores(trained, "test", batchnorm_training=as_2020)
    same = ["subject", "bone"]
    if step.order == "extra":  # tiles one by one take long
        upright = study.volume_scores(trained, step=2, most=FEW, **options)
        return upright.assign(rotated_dice=math.nan).merge(patches, on=same)
    upright = study.volume_scores(trained, **options)
    rotated = study.volume_scores(trained, rotated=True, **options)
    rotated = rotated.rename(columns={"dice": "rotated_dice"})
    return upright.merge(rotated[[*same, "rotated_dice"]], on=same).merge(patches, on=same)


def _stages(study: Study, fraction: float) -> tuple[Stage, ...]:
    """Return stages of equal cost, with patches up to the whole slice and a falling rate."""
    whole = min(min(scan.item.image.shape[:2]) for scan in study.scans)
    whole -= whole % MULTIPLE
    sizes = [study.pixels * factor for factor in GROWTH if study.pixels * factor < whole]
    first = Stage(study.pixels, study.sizes.steps)
    cost = first.steps * first.batch_size * study.pixels**2
    stages: list[Stage] = []
    for number, pixels in enumerate([*sizes, whole]):
        try:
            if stages:
                patch_source(study.part("train"), BONES, pixels, fraction, study.device)
        except AnkleError:
            break  # patches of which 75 % is foot do not grow much
        batch = WHOLE_BATCH if pixels == whole else first.batch_size
        n_steps = max(2, round(cost / (batch * pixels**2)))
        stages.append(Stage(pixels, n_steps, batch, first.learning_rate / 2**number))
    return tuple(stages)


def _difference(table: pd.DataFrame, first: tuple[str, str], second: tuple[str, str]) -> Interval:
    """Return the mean difference of two columns of two steps, subject by subject."""
    means = [
        table[table["step"] == step].groupby("subject")[column].mean()
        for step, column in (first, second)
    ]
    difference = (means[0] - means[1]).dropna()
    return bootstrap_interval(difference, [str(code) for code in difference.index])


def _verdict(row: tuple) -> str:
    effect, low, high = row.effect, row.low, row.high  # type: ignore[attr-defined]
    if low > 0 and effect >= SMALLEST_EFFECT:
        return "holds"
    if high < 0 and effect <= -SMALLEST_EFFECT:
        return "contradicted"
    return "not shown"
