from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from ankle_lib.learning.scans import draw_patches, patch_source
from ankle_lib.learning.scoring import (
    bone_scores,
    outputs_of,
    patch_scores,
    patch_validation,
)
from ankle_lib.metrics import dice
from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import PatchRule
from ankle_lib.patches.source import PatchSource
from ankle_lib.presets import BONES
from tests.toy_scans import small_recipe, toy_scan, trained_reader


def test_a_perfect_network_scores_one_on_patches(tmp_path: Path) -> None:
    reader = trained_reader(tmp_path)
    batches = {code: draw_patches(toy_scan(code), BONES, 16, 20) for code in ("E01", "E02")}
    scores = patch_scores(reader.network, batches, BONES)
    assert list(scores.columns) == ["subject", "bone", "patch_dice"]
    assert list(scores["subject"]) == ["E01"] * 3 + ["E02"] * 3
    assert (scores["patch_dice"] == 1).all()


def test_without_a_network_the_mask_is_empty() -> None:
    batches = {"E01": draw_patches(toy_scan("E01"), BONES, 16, 20)}
    scores = patch_scores(None, batches, BONES)["patch_dice"].to_numpy()
    without = (batches["E01"].target.amax((2, 3)) == 0).double().mean(0).numpy()
    assert 0 < without.min() < without.max() < 1
    np.testing.assert_allclose(scores, without)


def test_patches_in_training_mode_go_one_by_one() -> None:
    network = small_recipe().fresh()
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = outputs_of(network, images, batchnorm_training=True)
    alone = [outputs_of(network, one[None], batchnorm_training=True) for one in images]
    assert torch.equal(found, torch.cat(alone))
    assert not torch.allclose(found, outputs_of(network, images))
    assert network.training


def test_validation_is_the_mean_patch_dice() -> None:
    source = patch_source([toy_scan("T01")], BONES[:2], 16)
    net = small_recipe(labels=BONES[:2]).fresh().eval()
    validate = patch_validation(source, 50, seed=4)
    with torch.inference_mode():
        scores = validate(net)
        assert validate(net) == scores
        batch = source.draw(50, torch.Generator().manual_seed(4))
        predicted = net(batch.image).numpy() > 0.5
    true = batch.target.numpy() > 0.5
    # both empty: perfect
    each = [
        np.mean([1.0 if np.isnan(d := dice(*pair)) else d for pair in zip(*bone, strict=True)])
        for bone in zip(predicted.swapaxes(0, 1), true.swapaxes(0, 1), strict=True)
    ]
    assert scores["dice_calcaneus"] == pytest.approx(each[0], abs=1e-5)
    assert scores["score"] == pytest.approx(np.mean(each), abs=1e-5)


def test_intensities_are_validated_by_their_correlation() -> None:
    random = np.random.default_rng(0)
    target = ndimage.gaussian_filter(random.normal(size=(40, 40, 4)), (1, 1, 0))
    image = target + 0.1 * random.normal(size=target.shape)
    region = np.ones(target.shape, dtype=bool)
    source = PatchSource(
        [Item("T01", "frame 0", image, region, target=target)], PatchRule((16, 16), 50, 0.75)
    )
    validate = patch_validation(source, 30)
    with torch.inference_mode():
        identity = validate(Identity())
    expected = source.draw(30, torch.Generator().manual_seed(0)).correlation.mean()
    assert identity == {"score": pytest.approx(float(expected), abs=1e-5)}


class Identity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.weight


def test_unknown_bones_are_not_scored() -> None:
    scan = toy_scan("T01")
    masks = scan.item.labels
    rows = bone_scores("T01", masks, {"talus": masks["talus"]}, scan.voxel_size_mm)
    assert rows == [
        {"subject": "T01", "bone": "talus", "dice": 1.0, "hd95_mm": 0.0, "assd_mm": 0.0}
    ]
