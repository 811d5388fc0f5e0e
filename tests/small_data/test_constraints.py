from __future__ import annotations

import numpy as np
import pytest
import torch

from ankle_lib.metrics import joint_gap_mm, overlap_mm3
from ankle_lib.patches.source import Augmentation, Batch
from ankle_lib.presets import BONES
from ankle_lib.small_data import constraints
from tests.small_data.toy_target import blocks


def batch_of(target: torch.Tensor) -> Batch:
    n = len(target)
    known = torch.ones(target.shape[:2], dtype=torch.bool)
    return Batch(target, target, known, torch.ones(n), torch.zeros(n, 3, dtype=torch.long), str)


def squares(apart: int) -> torch.Tensor:
    """Logits of two bones that are ``apart`` pixels from each other."""
    logits = torch.full((1, 3, 32, 32), -20.0)
    logits[0, 0, 8:16, 4:12] = 20
    logits[0, 1, 8:16, 12 + apart : 20 + apart] = 20
    return logits


def test_the_gap_penalty_begins_where_bones_are_closer_than_its_reach() -> None:
    penalty = constraints.GapPenalty(2)
    found = [float(penalty(None, squares(apart), None)) for apart in (0, 1, 2, 3)]
    assert found[0] > found[1] > 0.01
    assert max(found[2:]) < 1e-4


def test_the_gap_penalty_pulls_overlapping_bones_apart() -> None:
    logits = torch.zeros(1, 3, 8, 8, requires_grad=True)
    constraints.GapPenalty(0)(None, logits, None).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


@pytest.mark.parametrize(("gap", "pixels"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_the_reach_is_below_the_smallest_gap(gap: int, pixels: int) -> None:
    assert constraints.smallest_gap_pixels([blocks(9), blocks(gap)]) == pixels


def test_codes_tell_shapes_apart_and_are_learnt_once(tmp_path) -> None:
    record = tmp_path / "shapes.json"
    penalty, kept = constraints.learn_shapes([blocks(2)], 32, 120, Augmentation(), record)
    written = record.stat().st_mtime_ns
    again, _ = constraints.learn_shapes([blocks(2)], 32, 120, Augmentation(), record)
    assert record.stat().st_mtime_ns == written
    assert 0.5 < kept <= 1
    target = torch.zeros(2, 3, 32, 32)
    target[:, 0, 8:20, 4:14] = 1
    batch = batch_of(target)
    right, wrong = 40 * target - 20, 40 * torch.roll(target, 9, 3) - 20
    assert float(penalty(None, right, batch)) < 1e-3 < float(penalty(None, wrong, batch))
    assert float(again(None, wrong, batch)) == float(penalty(None, wrong, batch))
    unknown = Batch(target, target, ~batch.valid, batch.correlation, batch.where, str)
    assert float(penalty(None, wrong, unknown)) == 0
    moving = wrong.clone().requires_grad_()
    penalty(None, moving, batch).backward()
    assert moving.grad is not None
    assert moving.grad.abs().max() > 0


def test_measures_of_two_blocks() -> None:
    masks = {bone: np.zeros((20, 20, 6), bool) for bone in BONES}
    masks["calcaneus"][2:8, 2:10] = True
    masks["talus"][10:14, 2:10] = True
    masks["tibia"][17:20, 2:10] = True
    sizes = (1.0, 2.0, 8.0)
    gap = joint_gap_mm(masks["talus"], masks["calcaneus"], sizes)
    assert gap == 3  # rows 8 and 9 are between: centres are 3 mm apart
    nearer = dict(masks) | {"talus": np.roll(masks["talus"], -3, axis=0)}
    assert overlap_mm3(nearer, sizes) == 1 * 8 * 6 * 16
    row = constraints.gap_scores(nearer, masks, sizes)
    assert row["subtalar_gap_mm"] == 0
    assert row["subtalar_true_gap_mm"] == 3
    assert row["gap_error_mm"] == (3 + 3) / 2
    none = joint_gap_mm(masks["talus"], np.zeros((20, 20, 6), bool), sizes)
    assert none == np.linalg.norm([20, 40, 48])  # a missed bone costs the diagonal
