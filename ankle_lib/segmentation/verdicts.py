"""Whether each suspected cause of the failure was one: computed from the post-mortem."""

from __future__ import annotations

import itertools

import pandas as pd

from ankle_lib.metrics import Interval, bootstrap_interval
from ankle_lib.segmentation.postmortem import AS_CODED, TITLES

SMALLEST_EFFECT = 0.01
"""Of Dice. Less is no cause of a failure, even if it is no accident."""

_FIRST = f"+ {TITLES['evaluation_mode']}"


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
    turned = f"+ {TITLES['augmentation']}"
    pairs = (
        ("patch Dice is higher than volume Dice", (AS_CODED, "patch_dice"), (AS_CODED, "dice")),
        (
            "in tiles it is worse without evaluation mode",
            (AS_CODED, "dice"),
            (f"{AS_CODED}, in tiles", "dice"),
        ),
        ("turning the foot breaks the network", (_FIRST, "dice"), (_FIRST, "rotated_dice")),
        (
            "turned patches in training repair that",
            (turned, "rotated_dice"),
            (additive[additive.index(turned) - 1], "rotated_dice"),
        ),
    )
    for hypothesis, high, low in pairs:
        compared = " against ".join(f"{step} ({column})" for step, column in (high, low))
        rows.append((hypothesis, compared, *_difference(table, high, low)))
    columns = ["hypothesis", "compared", "effect", "low", "high"]
    result = pd.DataFrame(rows, columns=columns)
    return result.assign(verdict=[_verdict(row) for row in result.itertuples()])


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
