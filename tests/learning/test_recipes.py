from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ankle_lib.learning.recipes import Recipe, Stage


def test_settings_out_of_range_are_refused() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"schedule": "falling"},
        {"batch_size": 0},
        {"steps": True},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
    )
    for one in wrong:
        with pytest.raises(ValidationError, match=f"for Stage\n{next(iter(one))}"):
            Stage(**{"pixels": 16, "steps": 3} | one)
    wrong = (
        *({"loss": "mse"}, {"optimizer": "sgd"}, {"epochs": 2.0}, {"seed": -1}),
        *({"labels": "talus"}, {"labels": ()}, {"labels": (1, 2)}),
    )
    for one in wrong:
        with pytest.raises(ValidationError, match=f"for Recipe\n{next(iter(one))}"):
            Recipe((Stage(16, 3),), **one)
    assert Stage(16, 3, learning_rate=1).learning_rate == 1


@given(steps=st.integers(1, 200), epochs=st.integers(1, 12))
def test_epochs_share_all_steps_evenly(steps: int, epochs: int) -> None:
    ends = Recipe((Stage(16, steps),), epochs=epochs).epoch_ends()
    lengths = np.diff([0, *ends])
    assert ends[-1] == steps
    assert len(ends) == min(steps, epochs)
    assert lengths.max() - lengths.min() <= 1


def test_schedules_begin_and_end_where_they_say() -> None:
    def rates(schedule: str) -> np.ndarray:
        stage = Stage(16, 100, schedule=schedule)
        return np.array([stage.learning_rate_at(step) for step in range(100)]) / 5e-4

    assert (rates("constant") == 1).all()
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 100)
    theirs = []
    for _ in range(100):
        theirs.append(adam.param_groups[0]["lr"])
        adam.step()
        cosine.step()
    assert np.allclose(rates("cosine"), theirs)
    cycle = rates("one-cycle")
    assert cycle[0] == pytest.approx(0.04)
    assert cycle.argmax() == 30
    assert cycle[-1] < 0.001


def test_what_decides_nothing_makes_no_other_recipe() -> None:
    def of(**changes: Any) -> Recipe:
        return Recipe((Stage(16, 3),), **changes).decisive

    assert of() == of(depth=4)
    assert of(network="resnet-basic", depth=3) == of(network="resnet-basic")
    others = (of(), of(depth=3), of(keep_best=True), of(n_validation=7), of(seed=1))
    assert len(set(others)) == len(others)


def test_trainings_as_long_as_the_reports_are_saved_every_thousand_steps() -> None:
    assert Recipe.epochs_for(2) == Recipe.epochs_for(5_999) == Recipe.epochs
    assert Recipe.epochs_for(24_500) == 24
