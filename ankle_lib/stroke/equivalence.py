"""Whether two networks differ by as much as matters: verdicts over paired subjects."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ankle_lib.files import AnkleError
from ankle_lib.metrics import bootstrap_interval

MARGIN = 0.02
"""Of Dice: a smaller difference does not matter, it was said before anything was trained."""

BETTER, EQUIVALENT, WORSE, UNDECIDED = "better", "equivalent", "worse", "undecided"


class Verdict(NamedTuple):
    """A paired difference, its 95 % interval over subjects, and what it says."""

    difference: float
    low: float
    high: float
    verdict: str


def verdict(
    values: Sequence[float],
    others: Sequence[float],
    subjects: Sequence[str],
    margin: float = MARGIN,
) -> Verdict:
    """Compare two networks on the same subjects.

    The interval is the bootstrap's over subjects, of the mean difference; rows of one subject
    (seeds) are averaged first. *Equivalent*: all of it lies within ±margin. *Better* or *worse*: it
    does not, and all of it lies on one side of 0. *Undecided*: neither; more subjects are needed.
    A difference that is not 0 and too small to matter is equivalent.

    Parameters
    ----------
    values, others : N floats
        Scores of the same scans, by both networks.
    subjects : N codes
    margin : float

    Raises
    ------
    AnkleError
        If the lengths differ, or the margin is not positive.

    Examples
    --------
    >>> verdict([0.80, 0.70], [0.80, 0.71], ["a", "b"]).verdict
    'equivalent'
    """
    if not len(values) == len(others) == len(subjects):
        raise AnkleError(
            f"{len(values)} and {len(others)} scores of {len(subjects)} scans: pair them first"
        )
    if not margin > 0:
        raise AnkleError(f"a margin of {margin}: give the smallest difference that matters")
    differences = [one - other for one, other in zip(values, others, strict=True)]
    mean, low, high = bootstrap_interval(differences, subjects)
    said = UNDECIDED
    if -margin < low and high < margin:
        said = EQUIVALENT
    elif low > 0 or high < 0:
        said = BETTER if low > 0 else WORSE
    return Verdict(mean, low, high, said)


def verdicts(
    scores: pd.DataFrame, against: Mapping[str, str], score: str = "dice", margin: float = MARGIN
) -> pd.DataFrame:
    """Compare some arms of a table of scores, each with another one.

    Parameters
    ----------
    scores : DataFrame
        Columns arm, subject, seed and the score.
    against : mapping of arm to arm

    Returns
    -------
    DataFrame
        Columns arm, against, difference, low, high, verdict.
    """
    table = scores.pivot_table(index=["subject", "seed"], columns="arm", values=score)
    subjects = list(table.index.get_level_values("subject"))
    rows = []
    for arm, other in against.items():
        found = verdict(list(table[arm]), list(table[other]), subjects, margin)
        rows.append({"arm": arm, "against": other, **found._asdict()})
    return pd.DataFrame(rows)
