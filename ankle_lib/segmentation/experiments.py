"""The report's experiments on static segmentation (section 6.2), its values beside ours.

Every network here is the report's: one bone, patches of which 75 % are foot, binary cross-entropy,
no augmentation, the last epoch. It is applied in evaluation mode; what else happens is the subject
of `postmortem`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ankle_lib.learning.networks import NETWORKS, REPORT_PARAMETERS
from ankle_lib.learning.training import Trained
from ankle_lib.metrics import over_subjects
from ankle_lib.patches.split import Part
from ankle_lib.presets import BONES
from ankle_lib.segmentation.study import Study

REPORT_VALIDATION = {
    "fcn": (0.29, 0.32, 0.35),
    "unet": (0.80, 0.81, 0.92),
    "resnet-basic": (0.81, 0.82, 0.81),
    "resnet-bottleneck": (0.62, 0.60, 0.64),
}
"""Table 6.1: mean Dice on validation patches, bones in the order of `BONES`."""

REPORT_PATCHES = {
    ("unet", "train"): (0.89, 0.92, 0.92),
    ("unet", "validation"): (0.80, 0.81, 0.92),
    ("unet", "test"): (0.74, 0.78, 0.87),
    ("resnet-basic", "train"): (0.94, 0.94, 0.94),
    ("resnet-basic", "validation"): (0.83, 0.82, 0.82),
    ("resnet-basic", "test"): (0.80, 0.81, 0.80),
}
"""Tables 6.2 and 6.3: patches of those it trained on, of another one, of those with equinus."""

REPORT_VOLUMES = {
    "unet": ((0.42, 0.26, 0.53), (0.70, 0.52, 0.79), (0.50, 0.27, 0.63)),
    "resnet-basic": ((0.41, 0.21, 0.53), (0.42, 0.13, 0.58), (0.60, 0.34, 0.74)),
}
"""Table 6.4: mean, smallest and largest Dice of the volumes of the subjects with equinus."""

CHOSEN = {"unet": 5e-4, "resnet-basic": 1e-4}
"""The two networks that the report went on with, and their learning rates (Fig. 6.9)."""

RESNET_SLICES = 2
"""The ResNet takes ten times as long, so it is scored on every so-many-th slice of the U-Net's."""

LEARNT_FROM: tuple[Part, ...] = ("train", "validation")
"""The parts whose subjects the report knew when it chose."""

FIRST_BONE = BONES[0]
"""The report chose depth and learning rate by the calcaneus."""


def compare_architectures(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train the four architectures for each bone (report, Table 6.1 and Fig. 6.6).

    Returns
    -------
    table : DataFrame
        Columns network, parameters, bone, dice_validation, report_parameters,
        report_dice_validation, steps.
    losses : DataFrame
        Columns network, bone, step, loss.
    """
    recipes = [study.report_recipe(network, bone) for network in NETWORKS for bone in BONES]
    rows, losses = [], []
    for recipe, trained in study.fit_all(recipes).items():
        network, (bone,) = recipe.network, recipe.labels
        rows.append(
            {
                "network": network,
                "parameters": trained.parameters,
                "bone": bone,
                "dice_validation": _patch_dice(study, trained, "validation"),
                "report_parameters": REPORT_PARAMETERS[network],
                "report_dice_validation": REPORT_VALIDATION[network][BONES.index(bone)],
                "steps": len(trained.losses),
            }
        )
        losses.append(trained.losses[["step", "loss"]].assign(network=network, bone=bone))
    return pd.DataFrame(rows), pd.concat(losses, ignore_index=True)


def depths(study: Study) -> pd.DataFrame:
    """Train both chosen networks with fewer and more levels, for the calcaneus (Fig. 6.7).

    Returns
    -------
    DataFrame
        Columns network, depth, parameters, part (train or validation), dice.
    """
    levels = {"unet": study.sizes.unet_depths, "resnet-basic": study.sizes.resnet_depths}
    return _varied(study, "depth", levels)


def learning_rates(study: Study) -> pd.DataFrame:
    """Train both chosen networks with several learning rates, for the calcaneus (Fig. 6.9).

    Returns
    -------
    DataFrame
        Columns network, rate, parameters, part (train or validation), dice.
    """
    rates = {"unet": study.sizes.unet_rates, "resnet-basic": study.sizes.resnet_rates}
    return _varied(study, "rate", rates)


def chosen_networks(study: Study) -> dict[str, list[Trained]]:
    """Return both chosen networks at their learning rates, one network for each bone."""
    recipes = [
        study.report_recipe(network, bone, rate=rate)
        for network, rate in CHOSEN.items()
        for bone in BONES
    ]
    trained = study.fit_all(recipes).values()
    return {
        network: [one for one in trained if one.recipe.network == network] for network in CHOSEN
    }


def on_patches(
    study: Study, networks: Mapping[str, Sequence[Trained]], *parts: Part
) -> pd.DataFrame:
    """Score the chosen networks on patches of parts of the split (Tables 6.2 and 6.3).

    Returns
    -------
    DataFrame
        Columns network, bone, dice_mean, dice_low, dice_high, report_dice, part. No interval
        where there is one subject.

    Examples
    --------
    >>> on_patches(study, chosen_networks(study), "train", "validation")
    """
    tables = []
    for part in parts:
        for name, of_bones in networks.items():
            scores = pd.concat(study.patch_scores(one, part) for one in of_bones)
            scores = scores.rename(columns={"patch_dice": "dice"}).assign(network=name)
            table = over_subjects(scores, ["network", "bone"], ["dice"])
            tables.append(table.assign(report_dice=REPORT_PATCHES[name, part], part=part))
    return pd.concat(tables, ignore_index=True)


def on_whole_slices(study: Study, networks: Mapping[str, Sequence[Trained]]) -> pd.DataFrame:
    """Score the chosen networks as in 2020 on whole slices, and in evaluation mode (Table 6.4).

    The ResNet on half as many slices.

    Returns
    -------
    DataFrame
        Columns network, bone, dice_mean, dice_low, dice_high, report_dice, report_min, report_max,
        dice_min, dice_max, eval_dice_mean. Only the last is in evaluation mode.
    """
    by, tables = ["network", "bone"], []
    for name, of_bones in networks.items():
        step = RESNET_SLICES if "resnet" in name else 1
        coded, plain = (
            pd.concat(
                study.volume_scores(one, step=step, batchnorm_training=as_2020) for one in of_bones
            )
            for as_2020 in (True, False)
        )
        table = over_subjects(coded.assign(network=name), by, ["dice"])
        table[["report_dice", "report_min", "report_max"]] = REPORT_VOLUMES[name]
        dice = coded.groupby("bone", sort=False)["dice"]
        table["dice_min"], table["dice_max"] = dice.min().to_numpy(), dice.max().to_numpy()
        means = plain.groupby("bone", sort=False)["dice"].mean()
        tables.append(table.assign(eval_dice_mean=means.to_numpy()))
    return pd.concat(tables, ignore_index=True)


def cross_validate(study: Study) -> pd.DataFrame:
    """Train without each control in turn and score on patches of that control (Fig. 6.10).

    Returns
    -------
    DataFrame
        Columns network, subject, bone, dice.
    """
    rows = []
    for network, rate in CHOSEN.items():
        if network != "unet" and not study.sizes.resnet_folds:
            continue
        bones = study.sizes.followed_bones
        recipes = [study.report_recipe(network, bone, rate=rate) for bone in bones]
        for split in study.folds:
            for recipe, trained in study.fit_all(recipes, split).items():
                scores = study.patch_scores(trained, "validation", split)
                dice = float(scores["patch_dice"].mean())
                rows.append((network, split.validation[0], recipe.labels[0], dice))
    return pd.DataFrame(rows, columns=["network", "subject", "bone", "dice"])


def _varied(study: Study, what: str, values: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """Train for the calcaneus with each value of one field of the recipe."""
    recipes = {
        (network, value): study.report_recipe(network, FIRST_BONE, **{what: value})
        for network, chosen in values.items()
        for value in chosen
    }
    trained = study.fit_all(recipes.values())
    rows = []
    for (network, value), recipe in recipes.items():
        for part in LEARNT_FROM:
            dice = _patch_dice(study, trained[recipe], part)
            rows.append((network, value, trained[recipe].parameters, part, dice))
    return pd.DataFrame(rows, columns=["network", what, "parameters", "part", "dice"])


def _patch_dice(study: Study, trained: Trained, part: Part) -> float:
    return float(study.patch_scores(trained, part)["patch_dice"].mean())
