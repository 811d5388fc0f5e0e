from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.stroke.equivalence import verdict, verdicts

PEOPLE = [f"s{n}" for n in range(20)]


def scores(shift: float, spread: float) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.9, len(PEOPLE))
    noise = rng.normal(0, spread, len(PEOPLE))
    return list(base + shift + noise - noise.mean()), list(base)


@pytest.mark.parametrize(
    ("shift", "spread", "said"),
    [
        (0.0, 0.01, "equivalent"),
        (0.01, 0.001, "equivalent"),  # not 0, and too small to matter
        (0.05, 0.02, "better"),
        (-0.05, 0.02, "worse"),
        (0.03, 0.02, "better"),
        (0.01, 0.1, "undecided"),
        (0.018, 0.08, "undecided"),
    ],
)
def test_a_verdict_follows_from_the_interval(shift: float, spread: float, said: str) -> None:
    found = verdict(*scores(shift, spread), PEOPLE)
    assert found.verdict == said
    assert found.difference == pytest.approx(shift)
    assert found.low < found.difference < found.high


def test_seeds_of_one_person_are_no_new_people() -> None:
    ours, others = scores(0.01, 0.03)
    once = verdict(ours, others, PEOPLE)
    thrice = verdict(ours * 3, others * 3, PEOPLE * 3)
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(AnkleError, match="pair them first"):
        verdict([0.5], [0.5, 0.6], ["a", "b"])
    with pytest.raises(AnkleError, match="smallest difference"):
        verdict([0.5], [0.5], ["a"], margin=0)


def test_arms_of_a_table_are_paired_by_person_and_seed() -> None:
    ours, others = scores(0.05, 0.01)
    rows = [
        {"arm": arm, "subject": code, "seed": 0, "dice": value}
        for arm, values in (("new", ours), ("old", others))
        for code, value in zip(PEOPLE, values, strict=True)
    ]
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)
    found = verdicts(table, {"new": "old", "old": "new"})
    assert found["verdict"].tolist() == ["better", "worse"]
    assert found["difference"].tolist() == pytest.approx([0.05, -0.05])
