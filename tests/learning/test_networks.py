from __future__ import annotations

import pytest
import torch

from ankle_lib.learning import networks
from ankle_lib.learning.networks import build, fast_autocast, ready_to_predict


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
    assert networks.is_fast_in_bfloat16("cuda")
