from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from ankle_lib.learning.losses import LOSSES, report_weight
from ankle_lib.patches.source import Batch


def some_batch(valid: list[list[bool]] | None = None) -> tuple[torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 2, 6, 5), generator=generator)
    target = (torch.rand((3, 2, 6, 5), generator=generator) < 0.4).float()
    known = torch.tensor(valid or [[True, True]] * 3)
    where = torch.zeros((3, 3), dtype=torch.int64)
    return logits, Batch(logits[:, :1], target, known, torch.ones(3), where, str)


def test_bce_is_the_reports_on_probabilities() -> None:
    logits, batch = some_batch()
    expected = functional.binary_cross_entropy(torch.sigmoid(logits), batch.target)
    assert LOSSES["bce"](logits, batch) == pytest.approx(float(expected), rel=1e-5)


def test_dice_and_bce_agree_with_monai() -> None:
    losses = pytest.importorskip("monai.losses")
    logits, batch = some_batch()
    dice = losses.DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = dice(logits, batch.target) + functional.binary_cross_entropy_with_logits(
        logits, batch.target
    )
    assert LOSSES["dice+bce"](logits, batch) == pytest.approx(float(expected), rel=1e-5)


def test_a_lesion_weighs_more_and_nothing_else_changes() -> None:
    logits, batch = some_batch()
    pixels = functional.binary_cross_entropy_with_logits(logits, batch.target, reduction="none")
    weights = torch.where(batch.target > 0, 5.0, 1.0)
    more = float((pixels * weights - pixels).mean())
    difference = LOSSES["dice+lesion-bce"](logits, batch) - LOSSES["dice+bce"](logits, batch)
    assert float(difference) == pytest.approx(more, rel=1e-4)


@pytest.mark.parametrize("loss", ["bce", "dice+bce", "dice+lesion-bce"])
def test_unknown_labels_do_not_count(loss: str) -> None:
    logits, batch = some_batch([[True, False], [True, True], [False, True]])
    before = LOSSES[loss](logits, batch)
    batch.target[0, 1] = 1 - batch.target[0, 1]
    logits[2, 0] = 50.0
    assert LOSSES[loss](logits, batch) == before
    batch.target[1, 1] = 1 - batch.target[1, 1]
    assert LOSSES[loss](logits, batch) != before


def test_losses_of_reconstruction_weigh_patches_by_correlation() -> None:
    values, batch = some_batch()
    batch = dataclasses.replace(batch, correlation=torch.tensor([0.5, 0.7, 1.0]))
    weight = 1 / (1 + np.exp(-10 * (batch.correlation.numpy() - 0.5)))
    assert np.allclose(report_weight(batch.correlation).numpy(), weight, atol=1e-6)
    difference = (values - batch.target).numpy().reshape(3, -1)
    absolute, root = np.abs(difference).sum(1), np.sqrt((difference**2).sum(1))
    for name, distance in (("weighted-l1", absolute), ("weighted-l2", root)):
        expected = (weight * distance).mean()
        assert float(LOSSES[name](values, batch)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_with_gradients_is_the_obvious_one() -> None:
    output, target = torch.randn(2, 3, 1, 6, 7)
    ones, r = torch.ones((3, 1), dtype=torch.bool), torch.ones(3)
    batch = Batch(target, target, ones, r, torch.zeros((3, 4)), str)
    error = (output - target)[:, 0].numpy()
    plain = np.abs(error).mean()
    assert float(LOSSES["l1"](output, batch)) == pytest.approx(plain, rel=1e-5)
    edges = np.abs(np.diff(error, axis=1)).mean() + np.abs(np.diff(error, axis=2)).mean()
    assert float(LOSSES["l1+gradient"](output, batch)) == pytest.approx(plain + edges, rel=1e-5)
