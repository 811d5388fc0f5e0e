"""What changes the weights: Adam, as in 2020, or Muon, which needs far fewer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ankle_lib.learning import networks

SMALLEST_SIDE = 16
"""Filters of fewer rows or columns (an image's first ones, the head) are left to Adam."""

NEWTON_SCHULZ_STEPS = 3
"""Of the orthogonalisation; with the usual 5 a step takes longer and teaches no more."""


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Return Adam, which changes all weights together.

    PyTorch's ``fused`` Adam, a little faster still, mixes up weights on a CPU where a gradient or
    a state from a checkpoint has another memory layout than they have.
    """
    return torch.optim.Adam(parameters, lr=learning_rate, foreach=True)


class Muon(torch.optim.Muon):
    """PyTorch's Muon, in float32 where a device is slow in bfloat16, which PyTorch's insists on.

    Most laptops' processors emulate bfloat16: trainings would take three to four times as long.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change all matrices by their gradients."""
        first = self.param_groups[0]["params"][0]
        if networks.is_fast_in_bfloat16(first.device.type):
            return super().step(closure)
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = state["momentum_buffer"]
                momentum.lerp_(matrix.grad, 1 - group["momentum"])
                wanted = matrix.grad.lerp(momentum, group["momentum"])
                step = orthogonal(wanted, group["ns_steps"], group["ns_coefficients"])
                # as large as a step of Adam (Liu et al. 2025)
                matrix.sub_(step, alpha=0.2 * max(matrix.shape) ** 0.5 * group["lr"])
        return None


def orthogonal(
    matrix: Tensor, steps: int, coefficients: tuple[float, float, float], tiny: float = 1e-7
) -> Tensor:
    """Return a matrix with singular values of about 1, by Newton-Schulz iterations in float32.

    Parameters
    ----------
    matrix : (rows, columns) float32 tensor
    steps : int
    coefficients : three floats
        Of the polynomial (Jordan et al. 2024).
    tiny : float
        Smallest norm that is divided by.
    """
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if is_tall else matrix
    found = found / found.norm().clamp(min=tiny)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if is_tall else found


class FilterMuon(torch.optim.Optimizer):
    """Muon for the filters of convolutions, Adam for everything else.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes each step of a
    weight matrix orthogonal, so that all directions are learnt at the same speed, also those that
    the gradient hardly shows. The filters of a convolution are a matrix: one row for each output.
    Steps are as large as Adam's at the same learning rate (Liu et al. 2025, arXiv:2502.16982).

    Parameters
    ----------
    parameters : iterable of Parameter
    learning_rate : float
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        parameters = list(parameters)
        filters = [one for one in parameters if _is_wide(one)]
        others = [one for one in parameters if not _is_wide(one)]
        groups = [{"params": group} for group in (filters, others) if group]
        super().__init__(groups, {"lr": learning_rate})
        self._filters = filters
        self._matrices = [nn.Parameter(_as_matrix(one.detach())) for one in filters]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if filters:
            self._parts["muon"] = Muon(
                self._matrices,
                lr=learning_rate,
                weight_decay=0.0,
                ns_steps=NEWTON_SCHULZ_STEPS,
                adjust_lr_fn="match_rms_adamw",
            )
        if others:
            self._parts["adam"] = adam(others, learning_rate)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the weights by their gradients, at the learning rate of the first group."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._follow()
        for matrix, one in zip(self._matrices, self._filters, strict=True):
            matrix.grad = None if one.grad is None else _as_matrix(one.grad)
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both, by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of both."""
        self._follow()
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])

    def _follow(self) -> None:
        """Let the matrices be the filters, wherever these were moved since."""
        for matrix, one in zip(self._matrices, self._filters, strict=True):
            matrix.data = _as_matrix(one.detach())


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adam": adam,
    "muon": FilterMuon,
}


def _is_wide(weights: Tensor) -> bool:
    return weights.ndim == 4 and min(len(weights), weights[0].numel()) >= SMALLEST_SIDE


def _as_matrix(filters: Tensor) -> Tensor:
    """Return filters as a matrix with one row per output, in the same memory.

    The order of its columns is that of the memory, and means nothing to Muon.
    """
    if not filters.is_contiguous():  # channels last
        filters = filters.permute(0, 2, 3, 1)
    return filters.view(len(filters), -1)
