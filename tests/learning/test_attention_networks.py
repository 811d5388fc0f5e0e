from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ankle_lib.files import AnkleError
from ankle_lib.learning import attention_networks as attention
from ankle_lib.learning.checkpoints import load_checkpoint, save_checkpoint
from ankle_lib.learning.networks import build, parameter_count

MONAI = ("basic-unet", "swin-unetr", "unetr", "mednext")
IDENTITIES = ("swin-unetr-identity", "unetr-identity")
NAMES = ("unet-transformer", *MONAI, *IDENTITIES)


def small(name: str, **size: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(name, in_channels=3, out_channels=2, width=4, **size)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def by_loop(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heads: int):
    """Attention as its formula says, one query of one head at a time."""
    deep, wide = queries.shape[2] // heads, values.shape[2] // heads
    found = torch.zeros(*queries.shape[:2], values.shape[2])
    for image in range(len(queries)):
        for head in range(heads):
            inside, given = slice(head * deep, (head + 1) * deep), slice(head * wide, None)
            for n, query in enumerate(queries[image]):
                fits = [
                    (query[inside] @ key[inside]).item() / math.sqrt(deep) for key in keys[image]
                ]
                total = sum(math.exp(fit) for fit in fits)
                for fit, value in zip(fits, values[image], strict=True):
                    part = value[given][:wide] * math.exp(fit) / total
                    found[image, n, head * wide : (head + 1) * wide] += part
    return found


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_that_of_a_naive_loop(heads: int) -> None:
    queries, keys, values = random(2, 5, 8), random(2, 7, 8) * 2, random(2, 7, 12)
    found = attention.attend(queries, keys, values, heads)
    torch.testing.assert_close(found, by_loop(queries, keys, values, heads))


def test_self_attention_adds_what_the_loop_finds() -> None:
    torch.manual_seed(0)
    block, features = attention.SelfAttention(8), random(2, 8, 3, 4)
    placed = features + attention.positions(8, 3, 4)
    tokens = block.norm(placed.flatten(2).transpose(1, 2))
    found = by_loop(block.ask(tokens), block.offer(tokens), block.give(tokens), attention.HEADS)
    expected = features + block.out(found).transpose(1, 2).reshape(2, 8, 3, 4)
    torch.testing.assert_close(block(features), expected)


def test_a_gate_asks_below_and_multiplies_the_skip() -> None:
    torch.manual_seed(0)
    gate, skip, below = attention.CrossAttention(16, 8), random(1, 8, 4, 6), random(1, 16, 2, 3)
    deep = gate.norm_below((below + attention.positions(16, 2, 3)).flatten(2).transpose(1, 2))
    own = torch.nn.functional.max_pool2d(skip, 2).flatten(2).transpose(1, 2)
    found = by_loop(
        gate.ask(deep), gate.offer(deep), gate.give(gate.norm_skip(own)), attention.HEADS
    )
    open_ = torch.sigmoid(gate.out(found)).transpose(1, 2).reshape(1, 8, 2, 3)
    enlarged = torch.nn.functional.interpolate(open_, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(gate(skip, below), skip * enlarged)
    assert (gate(skip, below).abs() <= skip.abs()).all()


def test_every_place_has_a_code_of_its_own() -> None:
    code = attention.positions(32, 5, 7)
    assert code.shape == (1, 32, 5, 7)
    places = code.flatten(2)[0].T
    apart = torch.cdist(places, places) + torch.eye(35)
    assert float(apart.min()) > 0.05
    assert attention.positions(6, 2, 2).shape == (1, 6, 2, 2)


def test_attention_reaches_where_convolutions_do_not() -> None:
    def reach(name: str) -> float:
        network = build(name, depth=2, width=4).eval()
        image = random(1, 1, 128, 128).requires_grad_()
        network.logits(image)[0, 0, 2, 2].backward()
        return float(image.grad[0, 0, 100:, 100:].abs().max())

    assert reach("unet") == 0
    assert reach("unet-transformer") > 0


def test_without_attention_the_u_net_is_left() -> None:
    network, plain = small("unet-transformer"), small("unet")
    plain.load_state_dict(network.state_dict(), strict=False)
    for gate in network.gates:
        gate.forward = lambda skip, below: skip
    network.self_attention = torch.nn.Identity()
    image = random(2, 3, 32, 48)
    torch.testing.assert_close(network.eval()(image), plain.eval()(image))


@pytest.mark.parametrize("name", NAMES)
def test_in_and_out_are_those_of_the_courses_networks(name: str, tmp_path: Path) -> None:
    network = small(name).eval()
    image = random(2, 3, 64, 96)
    with torch.inference_mode():
        found = network(image)
        assert found.shape == (2, 2, 64, 96)
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        # of any size, and read back to the last bit
        assert network(image[..., :50, :70]).shape == (2, 2, 50, 70)
        file = save_checkpoint(tmp_path / "network.ckpt", network, labels=("a", "b"))
        torch.testing.assert_close(load_checkpoint(file).network(image), found)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns(name: str) -> None:
    network = small(name).train()
    network.logits(random(2, 3, 64, 64)).square().mean().backward()
    still = [key for key, one in network.named_parameters() if one.grad is None]
    # MONAI's blocks have a norm for an attention to other tokens, which UNETR does not ask for
    assert all("norm_cross_attn" in key for key in still), still


@pytest.mark.parametrize("name", ["swin-unetr", "unetr"])
def test_the_identity_lacks_the_transformer_and_nothing_else(name: str) -> None:
    whole, rest = small(name), small(f"{name}-identity")
    names = set(whole.state_dict()) - set(rest.state_dict())
    assert names
    assert all(".blocks." in one for one in names)
    assert not set(rest.state_dict()) - set(whole.state_dict())
    assert parameter_count(rest) < parameter_count(whole)


def test_unetr_on_its_own_grid_is_monais() -> None:
    network = small("unetr").eval()
    image = random(1, 3, 96, 96)
    torch.testing.assert_close(network.logits(image), network.network(image))


def test_a_depth_that_monai_has_not_is_refused() -> None:
    with pytest.raises(AnkleError, match="basic-unet: depth"):
        build("basic-unet", depth=3)
