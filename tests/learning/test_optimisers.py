from __future__ import annotations

import pytest
import torch
from torch import nn

from ankle_lib.learning import networks
from ankle_lib.learning.optimisers import FilterMuon, adam, orthogonal


def noise_like(weights: nn.Parameter) -> torch.Tensor:
    random = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    return torch.empty_like(weights).copy_(random)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def filters(request: pytest.FixtureRequest) -> nn.Parameter:
    random = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    return nn.Parameter(random.contiguous(memory_format=request.param))


def test_muon_moves_filters_in_all_directions_alike(filters: nn.Parameter) -> None:
    before, optimizer = filters.detach().clone(), FilterMuon([filters], 0.01)
    one_direction = torch.ones_like(filters) + 0.2 * noise_like(filters)
    filters.grad = one_direction
    optimizer.step()
    moved = (before - filters.detach()).flatten(1)
    flat = torch.linalg.svdvals(one_direction.flatten(1))
    found = torch.linalg.svdvals(moved)
    assert flat[0] > 20 * flat[-1]
    assert found[0] < 5 * found[-1]
    assert 0.1 < float(moved.square().mean().sqrt()) / 0.01 < 0.3  # as large as Adam's
    assert (moved * one_direction.flatten(1)).sum() > 0


def test_muon_moves_a_linear_layer_as_the_filter_of_one_pixel() -> None:
    random = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    linear, filters = nn.Parameter(random.clone()), nn.Parameter(random[:, :, None, None].clone())
    for one in (linear, filters):
        one.grad = noise_like(linear).view(one.shape)
        FilterMuon([one], 0.01).step()
    torch.testing.assert_close(linear.detach(), filters.detach()[:, :, 0, 0])
    assert not torch.equal(linear.detach(), random)


def test_muon_leaves_what_is_no_wide_filter_to_adam() -> None:
    random = torch.Generator().manual_seed(0)
    shapes = [(16,), (3, 16, 1, 1), (16, 1, 3, 3)]
    ours = [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    theirs = [nn.Parameter(one.detach().clone()) for one in ours]
    optimizers = FilterMuon(ours, 0.01), adam(theirs, 0.01)
    for parameters in (ours, theirs):
        for one in parameters:
            one.grad = torch.ones_like(one)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert one.grad is None


def test_muon_follows_filters_that_were_moved(filters: nn.Parameter) -> None:
    optimizer = FilterMuon([filters], 0.01)
    filters.data = filters.data.clone()  # as to a GPU
    before = filters.detach().clone()
    filters.grad = noise_like(filters)
    optimizer.step()
    assert not torch.equal(before, filters)


def test_muon_takes_the_rate_that_the_schedule_sets(filters: nn.Parameter) -> None:
    optimizer = FilterMuon([filters], 0.01)
    optimizer.param_groups[0]["lr"] = 0.0
    before = filters.detach().clone()
    filters.grad = noise_like(filters)
    optimizer.step()
    assert torch.equal(before, filters)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has it from 2.9 on")
@pytest.mark.parametrize("shape", [(16, 72), (72, 16)])
def test_float32_steps_are_those_of_pytorchs_muon(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = nn.Parameter(torch.randn(shape, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    options = {"lr": 0.02, "weight_decay": 0.0, "ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}
    filters = nn.Parameter(ours.detach()[:, :, None, None].clone())
    mine, reference = FilterMuon([filters], 0.02), torch.optim.Muon([theirs], **options)
    before = ours.detach()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "is_fast_in_bfloat16", lambda kind: False)
        for _ in range(3):
            gradient = torch.randn(shape, generator=generator)
            filters.grad, theirs.grad = gradient[:, :, None, None].clone(), gradient.clone()
            mine.step()
            reference.step()
    step = (theirs - before).detach()
    # bfloat16 has three digits
    assert torch.dist(filters[:, :, 0, 0], theirs) < 0.02 * step.norm()


@pytest.mark.parametrize("fast", [True, False])
def test_float32_where_bfloat16_is_slow(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "is_fast_in_bfloat16", lambda kind: fast)
    kinds: list[torch.dtype] = []
    multiply = torch.addmm

    def noted(*arguments: torch.Tensor, **options: float) -> torch.Tensor:
        kinds.append(arguments[0].dtype)
        return multiply(*arguments, **options)

    monkeypatch.setattr(torch, "addmm", noted)
    weights = nn.Parameter(torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(0)))
    weights.grad = torch.ones_like(weights)
    optimizer = FilterMuon([weights], 0.01)
    optimizer.step()
    assert set(kinds) == {torch.bfloat16 if fast else torch.float32}
    assert optimizer.state_dict()["momenta"][0].dtype == torch.float32


def test_orthogonal_has_singular_values_of_about_one() -> None:
    matrix = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    found = torch.linalg.svdvals(orthogonal(matrix, 5).float())
    assert 0.6 < float(found.min()) < float(found.max()) < 1.3
    assert not orthogonal(torch.zeros(4, 5)).any()
