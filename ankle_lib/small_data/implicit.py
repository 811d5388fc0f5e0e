"""A whole sequence as one function of place and time, without a static scan.

The function is a small network behind features that are looked up in tables at several resolutions
(Müller et al., arXiv 2201.05989), here in four dimensions and in plain PyTorch, so that it runs
everywhere. What the scanner measured is not the function at a place but its mean across a thick
slice, and that is what is fitted (as NeSVoR does for fetal brains, Xu et al., IEEE TMI 2023,
doi:10.1109/TMI.2023.3236216).
"""

import operator
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ankle_lib.geometry import Grid, Matrix, apply, slice_parts, voxel_size
from ankle_lib.masking.foot import find_foot
from ankle_lib.volume import Volume

LEVELS = 6
COARSEST, FINEST = (24.0, 24.0, 24.0, 8.0), (1.6, 1.6, 4.0, 1.0)
"""Cells along the two axes within a slice and across it, in mm, and in time, in frames."""
TABLE = 2**14
FEATURES, HIDDEN = 2, 32
PRIMES = (1, 2_654_435_761, 805_459_861, 3_674_653_429)
"""Of the hash (Müller et al.)."""
BATCH, PARTS = 4096, 3
"""Voxels of a step, and places across a slice that are averaged."""
TABLE_RATE, NETWORK_RATE = 2e-2, 3e-3
AT_ONCE = 20_000


class SpaceTime(nn.Module):
    """Maps places and times (N, 4), in mm and frames, to brightness (N,) as a z-score.

    Parameters
    ----------
    affine : (4, 4) array
        Of the frames; places count from their first voxel, along their axes.
    mean, sd : float
        Of the brightness.
    seed : int
        Of the first weights.
    """

    cells: Tensor

    def __init__(self, affine: Matrix, mean: float, sd: float, seed: int = 0) -> None:
        super().__init__()
        self.affine, self.mean, self.sd = affine, mean, sd
        coarse, fine = (torch.tensor(cells) for cells in (COARSEST, FINEST))
        part = torch.linspace(0, 1, LEVELS)[:, None]
        self.register_buffer("cells", coarse * (fine / coarse) ** part)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = nn.Parameter(1e-2 * torch.randn(LEVELS * TABLE, FEATURES))
            self.network = nn.Sequential(
                nn.Linear(LEVELS * FEATURES, HIDDEN), nn.ReLU(),
                nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1),
            )  # fmt: skip

    def at(self, frame: float, grid: Grid) -> NDArray[np.float32]:
        """Return the brightness on a grid (shape and affine, frames' world) at a time in frames."""
        shape, affine = grid
        voxels = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3)
        home = apply(np.linalg.inv(self.affine) @ affine, voxels) * voxel_size(self.affine)
        places = np.column_stack([home, np.full(len(home), frame)]).astype(np.float32)
        with torch.inference_mode():
            parts = torch.from_numpy(places).to(self.table.device).split(AT_ONCE)
            found = torch.cat([self(part) for part in parts]).cpu().numpy()
        result: NDArray[np.float32] = (self.mean + self.sd * found).reshape(shape).clip(min=0)
        return result

    def forward(self, places: Tensor) -> Tensor:
        """Return the brightness at places (N, 4)."""
        scaled = places[:, None] / self.cells
        low = scaled.floor()
        shares = [(1 - part, part) for part in (scaled - low).unbind(-1)]
        cells = zip(low.long().unbind(-1), PRIMES, strict=True)
        hashes = [(cell * prime, (cell + 1) * prime) for cell, prime in cells]
        first = TABLE * torch.arange(LEVELS, device=places.device)[:, None]
        rows = (_corners(hashes, operator.xor) & (TABLE - 1)) + first
        found: Tensor = _Lookup.apply(
            self.table, rows.flatten(0, 1), _corners(shares, operator.mul).flatten(0, 1)
        )
        out: Tensor = self.network(found.view(len(places), -1))[:, 0]
        return out


def _corners(sides: Sequence[tuple[Tensor, Tensor]], join: Callable[..., Tensor]) -> Tensor:
    """Join what each of four axes has at both ends of a cell, (N, L), for all its corners.

    Returns
    -------
    (N, L, 16) tensor
        Halves are joined first: 24 operations instead of 48.
    """
    halves = [[join(a, b) for a, b in product(*half)] for half in (sides[:2], sides[2:])]
    return torch.stack([join(a, b) for a, b in product(*halves)], dim=-1)


class _Lookup(torch.autograd.Function):
    """Weighted sums of rows of a table; several times as fast as PyTorch's own on a CPU."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """Return (M, F) sums of rows (M, C) of a table (R, F) with weights (M, C)."""
        ctx.save_for_backward(rows, weights)
        ctx.n_rows = len(table)
        return nn.functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        """Return the slope of the table; rows and weights are no parameters."""
        rows, weights = ctx.saved_tensors
        shares = [(weights * part[:, None]).flatten() for part in slopes[0].unbind(1)]
        parts = [torch.bincount(rows.flatten(), share, ctx.n_rows) for share in shares]
        return torch.stack(parts, dim=1).to(weights.dtype), None, None


def fit_sequence(
    frames: Volume, steps: int, *, profile: bool = True, seed: int = 0, device: str = "cpu"
) -> SpaceTime:
    """Fit a function of place and time to a sequence.

    Parameters
    ----------
    frames : Volume
        4D, thick slices along the last axis.
    steps : int
        Of 4096 voxels, drawn from all frames, mostly of the foot.
    profile : bool
        Compare the measured voxel with the mean across its slice; else with the function in its
        middle, as interpolation does.
    seed : int
    device : str

    Examples
    --------
    >>> sharp = fit_sequence(frames, 300).at(7, (static.shape, static.affine))
    """
    data = np.asarray(frames.data, dtype=np.float32)
    foot = np.stack([find_foot(data[..., n]) for n in range(frames.n_frames)], axis=-1)
    mean, sd = float(data[foot].mean()), float(data[foot].std())
    inside = np.argwhere(foot)
    rng = np.random.default_rng(seed)
    outside = rng.permutation(np.argwhere(~foot))[: len(inside) // 4]
    places = torch.from_numpy(np.concatenate([inside, outside]).astype(np.float32)).to(device)
    values = torch.from_numpy((data[tuple(np.concatenate([inside, outside]).T)] - mean) / sd)
    values = values.to(device)
    scale = torch.tensor([*frames.voxel_size_mm, 1.0], device=device)
    offsets = torch.zeros(PARTS if profile else 1, 4, device=device)
    if profile:
        offsets[:, 2] = torch.from_numpy(slice_parts(PARTS)).float().to(device)
    network = SpaceTime(frames.affine, mean, sd, seed).to(device)
    rest = network.network.parameters()
    optimizer = torch.optim.Adam([{"params": [network.table], "lr": TABLE_RATE, "eps": 1e-12},
                                  {"params": rest, "lr": NETWORK_RATE}])  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator(device).manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(places), (BATCH,), generator=generator, device=device)
        shifted = offsets.clone()
        if profile:  # other places in every step, the same mean
            jitter = torch.rand(1, generator=generator, device=device) - 0.5
            shifted[:, 2] += jitter / PARTS
        where = (places[chosen, None] + shifted) * scale
        seen = network(where.reshape(-1, 4)).reshape(BATCH, -1).mean(dim=1)
        loss = (seen - values[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()
