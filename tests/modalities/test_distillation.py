from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ankle_lib.learning.networks import build
from ankle_lib.modalities.distillation import (
    CLASSES,
    CONTRAST_WEIGHT,
    class_relations,
    contrast,
    distillation,
    relations_apart,
    supervised_contrast,
)
from ankle_lib.patches.source import Batch


def two_images() -> tuple[Tensor, Tensor]:
    """Logits and targets of one image each of MR and CT: half calcaneus, half no bone."""
    target = torch.zeros(2, 3, 2, 2)
    target[:, 0, 0] = 1
    logits = torch.zeros(2, 3, 2, 2)
    logits[0, 0, 0] = 2 * math.log(3)  # e^(z/2) is 3: 3 of 6
    logits[1, 0, 0] = 2 * math.log(2)  # 2 of 5
    return logits, target


def test_class_relations_by_hand() -> None:
    logits, target = two_images()
    relations, present = class_relations(logits[:1], target[:1])
    assert present.tolist() == [True, True, False, False]
    expected = [[1 / 4] * 4, [1 / 6, 3 / 6, 1 / 6, 1 / 6]]
    torch.testing.assert_close(relations[:2], torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_penalty_by_hand() -> None:
    logits, target = two_images()
    rows = [1 / 6, 3 / 6, 1 / 6, 1 / 6], [1 / 5, 2 / 5, 1 / 5, 1 / 5]
    both_ways = sum((p - q) * math.log(p / q) for p, q in zip(*rows, strict=True))
    # halved, as both ways are averaged; two classes are shown, and "no bone" is alike
    found = relations_apart(logits, target, torch.tensor([0, 1]))
    assert float(found) == pytest.approx(both_ways / 2 / 2, rel=1e-4)


def test_a_class_that_one_modality_lacks_does_not_count() -> None:
    logits, target = two_images()
    before = relations_apart(logits, target, torch.tensor([0, 1]))
    target[0, 1, 1, 0] = 1  # a talus in MR alone, with the logits of "no bone"
    logits[0, 1, 1, 0] = 0.0
    after = relations_apart(logits, target, torch.tensor([0, 1]))
    assert float(after) == pytest.approx(float(before), rel=1e-4)
    nothing = torch.zeros_like(target)
    nothing[1, 0] = 1
    everything = torch.zeros_like(target)
    everything[0, 1] = 1
    shares_no_class = relations_apart(logits, everything + nothing, torch.tensor([0, 1]))
    assert float(shares_no_class) == 0.0


def test_the_distillation_reads_the_modality_of_each_image() -> None:
    logits, target = two_images()
    image = torch.zeros(2, 4, 2, 2)
    image[1, -1] = 1
    valid = torch.ones(2, 3, dtype=torch.bool)
    where = torch.zeros(2, 4, dtype=torch.int64)
    batch = Batch(image, target, valid, torch.ones(2), where, str)
    expected = 0.5 * relations_apart(logits, target, torch.tensor([0, 1]))
    torch.testing.assert_close(distillation(build("unet"), logits, batch), expected)
    assert len(CLASSES) == logits.shape[1] + 1


def test_the_contrast_is_low_where_modalities_lie_apart() -> None:
    directions = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    together = torch.tensor([0, 0, 1, 1])
    # the nearest others: one of its own at likeness 10, two at 0
    expected = math.log(math.e**10 + 2) - 10
    assert float(supervised_contrast(directions, together)) == pytest.approx(expected, abs=1e-4)
    mixed = torch.tensor([0, 1, 0, 1])
    assert float(supervised_contrast(directions, mixed)) > 9


def test_the_contrast_moves_the_deepest_filters() -> None:
    torch.manual_seed(0)
    network = build("unet-by-modality", out_channels=3, depth=2, width=4).train()
    image = torch.randn(4, 2, 8, 8)
    image[:, -1] = torch.tensor([1.0, 0, 1, 0])[:, None, None]
    valid, where = torch.ones(4, 3, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.int64)
    batch = Batch(image, torch.zeros(4, 3, 8, 8), valid, torch.ones(4), where, str)
    penalty = contrast(network, network.logits(image), batch)
    penalty.backward()
    assert 0 < float(penalty.detach()) < 10 * CONTRAST_WEIGHT
    assert network.bottom[0][0].weight.grad.abs().sum() > 0  # type: ignore[union-attr,index]
