from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.learning import networks
from ankle_lib.learning.networks import (
    NETWORKS,
    REPORT_PARAMETERS,
    SliceNetwork,
    build,
    fast_autocast,
    parameter_count,
    ready_to_predict,
)

SMALL = {"fcn": (3, 4), "unet": (4, 4), "resnet-basic": (3, 4), "resnet-bottleneck": (3, 2)}


def small(name: str, **arguments: object) -> SliceNetwork:
    torch.manual_seed(0)
    depth, width = SMALL[name]
    return build(name, **{"depth": depth, "width": width, **arguments}).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fcn", 390_609),
        ("unet", 1_179_569),
        ("resnet-basic", 8_161_729),
        ("resnet-bottleneck", 8_535_489),
    ],
)
def test_parameters_are_the_reports(name: str, count: int) -> None:
    assert parameter_count(build(name)) == count == REPORT_PARAMETERS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_depth_and_width_change_the_size(name: str) -> None:
    depth, width = SMALL[name]
    count = parameter_count(small(name))
    assert count < parameter_count(small(name, depth=depth + 1))
    assert parameter_count(small(name, depth=depth - 1)) < count
    assert parameter_count(small(name, width=width - 1)) < count
    shallow = small(name, depth=1, width=1)
    assert shallow(images(1, 1, 5, 7)).shape == (1, 1, 5, 7)


def test_basic_blocks_are_those_of_residual_networks() -> None:
    # torchvision's resnet34 has 21,797,672 parameters, of which 64 * 7 * 7 * 3 in its stem for
    # three colours and 1000 * 513 in its classes
    layers = parameter_count(build("resnet-basic", depth=4)) - 64 * 9 - 513
    assert layers == 21_797_672 - 64 * 7 * 7 * 3 - 1000 * 513


# --- any input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(1, 1), (575, 431), (33, 64), (40, 48)])
def test_any_size_comes_back(name: str, size: tuple[int, int]) -> None:
    network = small(name, in_channels=2, out_channels=3)
    with torch.inference_mode():
        result = network(images(1, 2, *size))
    assert result.shape == (1, 3, *size)
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_leaves_fitting_sizes_alone(name: str) -> None:
    network = small(name)
    fitting = images(2, 1, 24, 32)
    with torch.inference_mode():
        assert torch.equal(network.logits(fitting), network.body(fitting))
        odd = fitting[..., :21, :30]
        continued = odd  # the FCN halves nothing
        if name != "fcn":
            continued = functional.pad(odd, (0, 2, 0, 3), mode="replicate")
        expected = network.body(continued)[..., :21, :30]
        assert torch.allclose(network.logits(odd), expected, atol=1e-5)


def test_other_shapes_are_refused() -> None:
    network = small("unet")
    with pytest.raises(AnkleError, match=r"\(batch, 1, height, width\), these have .*\(2, 3, 8, 8"):
        network(images(2, 3, 8, 8))
    with pytest.raises(AnkleError, match="these have shape"):
        network.logits(images(8, 8))


# --- heads and gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_heads(name: str) -> None:
    inputs = images(2, 1, 16, 16)
    segmenting = small(name, out_channels=2)
    restoring = small(name, out_channels=2, head="intensity")
    restoring.load_state_dict(segmenting.state_dict())
    with torch.inference_mode():
        logits = segmenting.logits(inputs)
        assert torch.equal(segmenting(inputs), torch.sigmoid(logits))
        assert torch.equal(restoring(inputs), logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name: str) -> None:
    network = small(name).train()
    probabilities = network(images(2, 1, 24, 24))
    functional.binary_cross_entropy(probabilities, torch.ones_like(probabilities)).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        # batch normalisation takes away the mean, and with it the effect of the bias before it
        if not key.endswith("0.bias"):
            assert parameter.grad.abs().max() > 0, key


def test_half_precision_ends_in_float32() -> None:
    network = small("unet")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        result = network(images(1, 1, 16, 16))
    assert result.dtype == torch.float32
    assert small("unet").double()(images(1, 1, 16, 16).double()).dtype == torch.float64


# --- what the architectures are ------------------------------------------------------------------


def receptive_width(network: SliceNetwork) -> int:
    """Width of the stretch of inputs on which one output depends."""
    inputs = images(1, 1, 96, 96).requires_grad_()
    network.double()(inputs.double())[0, 0, 48, 48].backward()
    assert inputs.grad is not None
    return int((inputs.grad[0, 0].abs().sum(dim=0) > 0).sum())


def test_the_plain_network_sees_23_pixels() -> None:
    assert receptive_width(small("fcn", depth=4)) == 23
    assert receptive_width(small("unet", depth=3)) > 40


@pytest.mark.parametrize("bottleneck", [False, True])
def test_enlarging_and_the_head_commute(bottleneck: bool) -> None:
    torch.manual_seed(0)
    name = "resnet-bottleneck" if bottleneck else "resnet-basic"
    network = build(name, out_channels=2, width=4).eval()
    inputs = images(1, 1, 24, 20)
    with torch.inference_mode():
        features = network.stages(network.stem(inputs))
        as_reported = network.last(nn.Upsample(scale_factor=4, mode="bilinear")(features))
        assert torch.allclose(network.logits(inputs), as_reported, atol=1e-5)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg"}, "choose one of fcn, unet, resnet-basic, resnet-bottleneck"),
        ({"head": "softmax"}, "'probability' or 'intensity'"),
        ({"depth": 0}, "depth: .*found 0"),
        ({"depth": 7}, "depth: Input should be less than or equal to 6"),
        ({"name": "resnet-basic", "depth": 5}, "less than or equal to 4"),
        ({"width": 1.5}, "width: .*found 1.5"),
        ({"width": True}, "width: .*found True"),
        ({"out_channels": 0}, "out_channels: .*found 0"),
        ({"in_channels": 1000}, "equal to 64"),
    ],
)
def test_what_cannot_be_built(arguments: dict, message: str) -> None:
    with pytest.raises(AnkleError, match=message):
        build(**{"name": "unet", **arguments})


# --- how they compute fastest ---


def test_a_network_is_made_ready_in_place() -> None:
    network = build("unet", depth=2, width=4)
    images = torch.randn(2, 1, 16, 16)
    wanted = network.eval()(images)
    network.train()
    assert ready_to_predict(network, "cpu") is network
    assert not any(module.training for module in network.modules())
    filters = [one for one in network.parameters() if one.ndim == 4]
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in filters)
    torch.testing.assert_close(network(images), wanted)


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_where_it_is_fast(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "is_fast_in_bfloat16", lambda kind: fast)
    with fast_autocast(torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if fast else torch.float32)


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT", "AVX512"])
def test_a_processor_that_pytorch_uses_as_an_older_one_is_slow_in_bfloat16(
    capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert networks.is_fast_in_bfloat16("cpu") == (capability == "AVX512")


def test_an_old_pytorch_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not networks.is_fast_in_bfloat16("cpu")


@pytest.mark.parametrize(("major", "fast"), [(7, False), (8, True), (9, True)])
def test_gpus_are_fast_in_bfloat16_from_capability_8_on(
    major: int, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, answer in {
        "is_available": True,
        "current_device": 0,
        "get_device_properties": SimpleNamespace(major=major),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    assert networks.is_fast_in_bfloat16("cuda") == fast
