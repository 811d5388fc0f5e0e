"""What no weights can exceed: an image enlarged by 4 has few degrees of freedom.

The report's ResNet enlarges its features by 4, bilinearly, and mixes them by a 1×1 convolution.
Both are linear and act on different axes, so they commute: the output is one coarse image,
enlarged. Of a patch of 32 × 32 pixels it can choose 8 × 8 = 64 numbers, the others follow.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError

REPORT_FACTOR = 4
"""Of the report's ResNet with three stages; two stages enlarge by 2, one by 1."""


def degrees_of_freedom(pixels: int, factor: int = REPORT_FACTOR) -> int:
    """Return how many numbers decide a patch of ``pixels`` x ``pixels``: 64 of 1,024 for 32."""
    return (-(-pixels // factor)) ** 2


@cache
def reachable_basis(pixels: int, factor: int = REPORT_FACTOR) -> NDArray[np.float64]:
    """Return an orthonormal basis of all outputs that a network can give.

    Every coarse pixel alone is enlarged by the network's own operation, which gives the columns;
    they are made orthonormal. A constant is among the outputs: the weights of an enlargement sum
    to 1.

    Parameters
    ----------
    pixels : int
        Rows and columns of a patch.
    factor : int
        By which the network enlarges.

    Returns
    -------
    (pixels², degrees of freedom) float64 array
    """
    if pixels < 1 or factor < 1:
        raise AnkleError(f"patches of {pixels} pixels enlarged by {factor}: give 1 or more of both")
    side = -(-pixels // factor)
    units = torch.eye(side * side, dtype=torch.float64).reshape(-1, 1, side, side)
    enlarged = functional.interpolate(units, scale_factor=factor, mode="bilinear")
    columns = enlarged[:, 0, :pixels, :pixels].reshape(side * side, -1).T
    return np.linalg.qr(columns.numpy())[0]


def best_reachable(targets: Tensor, factor: int = REPORT_FACTOR) -> Tensor:
    """Return the output nearest to each target: no weights give a smaller squared error.

    Nor a larger correlation: the outputs hold every constant, so that what is nearest is also most
    alike.

    Parameters
    ----------
    targets : (n, 1, h, h) tensor
    factor : int
        By which the network enlarges; 1 reaches everything.

    Returns
    -------
    (n, 1, h, h) float32 tensor
    """
    n, channels, height, width = targets.shape
    if channels != 1 or height != width:
        raise AnkleError(f"targets of shape {tuple(targets.shape)}: give (n, 1, h, h)")
    basis = torch.from_numpy(reachable_basis(height, factor)).to(targets.device)
    flat = targets.reshape(n, -1).double()
    return ((flat @ basis) @ basis.T).reshape(targets.shape).float()


def outside_reach(outputs: Tensor, factor: int = REPORT_FACTOR) -> float:
    """Return the largest distance of outputs from what can be reached, as part of their size.

    0 but for rounding if the statement holds for the network that gave them.

    Parameters
    ----------
    outputs : (n, 1, h, h) tensor
    factor : int
    """
    rest = outputs.double() - best_reachable(outputs, factor).double()
    sizes = outputs.double().flatten(1).norm(dim=1).clamp_min(1e-12)
    return float((rest.flatten(1).norm(dim=1) / sizes).max())
