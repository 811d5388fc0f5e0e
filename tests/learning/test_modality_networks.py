from __future__ import annotations

import pytest
import torch

from ankle_lib.files import AnkleError
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.modality_networks import NormByModality
from ankle_lib.learning.networks import build, parameter_count

NAMES = ("unet-by-modality", "x-unet")


def images() -> torch.Tensor:
    image = torch.randn(4, 4, 20, 24, generator=torch.Generator().manual_seed(1))
    image[:, -1] = torch.tensor([1.0, 0, 0, 1])[:, None, None]
    return image


def small(name: str, depth: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(name, in_channels=3, out_channels=2, depth=depth, width=4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_each_image_goes_its_own_way_whatever_its_place(name: str, depth: int) -> None:
    network = small(name, depth).train()
    for _ in range(3):
        network.logits(images())  # statistics of the two modalities differ
    network.eval()
    together = network.logits(images())
    one_by_one = torch.cat([network.logits(image[None]) for image in images()])
    torch.testing.assert_close(together, one_by_one)
    other = images()
    other[:, -1] = 1 - other[:, -1]
    assert (network.logits(other) - together).abs().amax((1, 2, 3)).min() > 1e-4


def test_norms_keep_the_modalities_apart() -> None:
    norm = NormByModality(1).train()
    norm.counts = [2, 2]
    features = torch.cat([5 + torch.randn(2, 1, 8, 8), -3 + 7 * torch.randn(2, 1, 8, 8)])
    for part in norm(features).split(2):
        assert float(part.detach().mean().abs()) < 1e-5
        assert float(part.detach().std()) == pytest.approx(1, abs=0.01)


def test_sharing_costs_little_and_is_sharing() -> None:
    sizes = {"in_channels": 3, "out_channels": 3}
    one = parameter_count(build("unet", **sizes))
    assert one < parameter_count(build("unet-by-modality", **sizes)) <= 1.02 * one
    assert 1.02 * one < parameter_count(build("x-unet", **sizes)) < 1.2 * one
    network = small("x-unet").train()
    of_mr = images()[1:3]
    network.logits(of_mr).sum().backward()
    assert network.bottom[0][0].weight.grad is not None  # shared
    assert network.ways_in[0][0][0][0].weight.grad is not None
    assert network.ways_in[1][0][0][0].weight.grad is None  # of CT


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_hold_them(name: str, tmp_path) -> None:
    network = small(name).eval()
    save_checkpoint(tmp_path / "a.ckpt", network, labels=("talus", "tibia"))
    again = load_checkpoint(tmp_path / "a.ckpt").network
    torch.testing.assert_close(again.logits(images()), network.logits(images()))
    assert parameter_count(again) == parameter_count(network)


def test_an_x_needs_something_to_share() -> None:
    with pytest.raises(AnkleError, match="depth of 1"):
        build("x-unet", depth=1)
