"""What changes the weights: Adam, as in 2020, or Muon, which needs far fewer steps."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ankle_lib.learning import networks

SMALLEST_SIDE = 16
"""Filters of fewer rows or columns (an image's first ones, the head) are left to Adam."""

MOMENTUM = 0.95

NEWTON_SCHULZ_STEPS = 3
"""Of the orthogonalisation; with the usual 5 a step takes longer and teaches no more."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of its polynomial (Jordan et al. 2024)."""


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Return Adam, which changes all weights together.

    PyTorch's ``fused`` Adam, a little faster still, mixes up weights on a CPU where a gradient or
    a state from a checkpoint has another memory layout than they have.
    """
    return torch.optim.Adam(parameters, lr=learning_rate, foreach=True)


def orthogonal(matrix: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Return a matrix (rows, columns) with singular values of about 1, by Newton-Schulz iterations.

    In bfloat16 where the device is fast in it, as PyTorch's own Muon computes everywhere: most
    laptops' processors emulate it, and trainings would take three to four times as long.
    """
    a, b, c = NEWTON_SCHULZ
    found = matrix.bfloat16() if networks.is_fast_in_bfloat16(matrix.device.type) else matrix
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = found.T if is_tall else found
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if is_tall else found


class FilterMuon(torch.optim.Optimizer):
    """Muon for filters of convolutions and matrices of linear layers, Adam for everything else.

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
        self._adam = adam(others, learning_rate) if others else None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change the weights by their gradients, at the learning rate of the first group."""
        rate = self.param_groups[0]["lr"]
        for one in self._filters:
            if one.grad is None:
                continue
            matrix, gradient = _as_matrix(one.detach()), _as_matrix(one.grad)
            if "momentum" not in self.state[one]:
                self.state[one]["momentum"] = torch.zeros_like(gradient)
            momentum = self.state[one]["momentum"].lerp_(gradient, 1 - MOMENTUM)
            step = orthogonal(gradient.lerp(momentum, MOMENTUM))
            # as large as a step of Adam
            matrix.sub_(step, alpha=0.2 * max(matrix.shape) ** 0.5 * rate)
        if self._adam:
            for group in self._adam.param_groups:
                group["lr"] = rate
            self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the momentum of each filter, and Adam's state."""
        momenta = [self.state[one].get("momentum") for one in self._filters]
        return {"momenta": momenta, "adam": self._adam.state_dict() if self._adam else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of both."""
        for one, momentum in zip(self._filters, state_dict["momenta"], strict=True):
            if momentum is not None:
                self.state[one]["momentum"] = momentum.to(one.device)
        if self._adam:
            self._adam.load_state_dict(state_dict["adam"])


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adam": adam,
    "muon": FilterMuon,
}


def _is_wide(weights: Tensor) -> bool:
    return weights.ndim in (2, 4) and min(len(weights), weights[0].numel()) >= SMALLEST_SIDE


def _as_matrix(filters: Tensor) -> Tensor:
    """Return filters, or a linear layer, as a matrix with one row per output, in the same memory.

    The order of its columns is that of the memory, and means nothing to Muon.
    """
    if not filters.is_contiguous():  # channels last
        filters = filters.permute(0, 2, 3, 1)
    return filters.view(len(filters), -1)
