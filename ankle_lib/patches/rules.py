"""Where a patch may be taken, and the report's three data sets of patches.

The report tries random positions and keeps a patch if enough of it is foot. Sums over boxes tell
for *all* positions whether they would be kept, so nothing has to be tried, and the number of
patches that its extraction keeps can be expected exactly. The report gives sizes in pixels; a
patch must show the same anatomy on every grid, so here its size in millimetres is what holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.presets import BONES

SMALLEST_VARIANCE = 1e-9
"""Of the mean square: below it a patch counts as constant; sums in float64 err far less."""


@dataclass(frozen=True)
class PatchRule:
    """What the report's extraction does in every slice of an image."""

    size: tuple[int, int]
    """Rows and columns of a patch in pixels."""
    tries: int
    """Random positions tried in each slice."""
    min_fraction: float
    """Part of the patch that must lie in the region (foot or bone), 0 to 1."""
    min_correlation: float | None = None
    """A patch and its target must correlate more than this."""

    def __post_init__(self) -> None:
        """Refuse what no patch could obey."""
        if min(self.size) < 1 or self.tries < 1 or not 0 <= self.min_fraction <= 1:
            raise AnkleError(
                f"no patch can obey {self}: its size and tries must be 1 or more, its fraction "
                "0 to 1"
            )


def box_sums(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the sum over the box of ``size`` at each position where the box fits.

    Parameters
    ----------
    images : (K, H, W) tensor
        Slices; bool is counted in int32, everything else added in float64.
    size : (int, int)
        Height h and width w of the box, at most H and W.

    Returns
    -------
    (K, H - h + 1, W - w + 1) tensor
        Element (k, i, j) is the sum over rows i to i + h - 1, columns j to j + w - 1.
    """
    dtype = torch.int32 if images.dtype == torch.bool else torch.float64
    columns = _running_differences(images.cumsum(2, dtype=dtype), size[1])
    rows = columns.cumsum(1, dtype=dtype).transpose(1, 2)
    return _running_differences(rows, size[0]).transpose(1, 2)


def admissible_positions(region: Tensor, rule: PatchRule) -> Tensor:
    """Return at which positions enough of a patch lies in the region; correlation is not asked.

    Parameters
    ----------
    region : (K, H, W) bool tensor
        Slices of the foot or of a bone.
    rule : PatchRule

    Returns
    -------
    (K, H - h + 1, W - w + 1) bool tensor
        Position (i, j) is the patch's first row and column.
    """
    # half a pixel less, so that a fraction like 0.7 is no question of rounding
    needed = int(np.ceil(rule.min_fraction * rule.size[0] * rule.size[1] - 1e-6))
    return box_sums(region, rule.size) >= needed


def local_correlation(first: Tensor, second: Tensor, size: tuple[int, int]) -> Tensor:
    """Return Pearson's correlation of the two patches at each position.

    Parameters
    ----------
    first, second : (K, H, W) float tensors
    size : (int, int)
        Height h and width w of the patches.

    Returns
    -------
    (K, H - h + 1, W - w + 1) float64 tensor
        0 where one of the patches is constant.
    """
    n = size[0] * size[1]
    one, two = first.double(), second.double()
    sum_one, sum_two = box_sums(one, size), box_sums(two, size)
    square_one, square_two = box_sums(one * one, size), box_sums(two * two, size)
    variance_one = square_one - sum_one**2 / n
    variance_two = square_two - sum_two**2 / n
    covariance = box_sums(one * two, size) - sum_one * sum_two / n
    varied = variance_one > SMALLEST_VARIANCE * square_one
    varied &= variance_two > SMALLEST_VARIANCE * square_two
    correlation = covariance / torch.sqrt((variance_one * variance_two).clamp_min(1e-300))
    return torch.where(varied, correlation, 0.0)


def rejection_sampling(
    region: NDArray[np.bool_], rule: PatchRule, random: np.random.Generator
) -> NDArray[np.int_]:
    """Return the positions that the report's extraction keeps in one slice, try after try.

    The extraction of 2020, kept as the reference for tests and timings. Correlations are not
    looked at.

    Parameters
    ----------
    region : (H, W) bool array
        One slice of the foot or of a bone.
    rule : PatchRule
    random : numpy.random.Generator

    Returns
    -------
    (N, 2) int array
        First row and column of the kept patches; N is at most ``rule.tries``.
    """
    height, width = rule.size
    kept = []
    for _ in range(rule.tries):
        row = int(random.integers(region.shape[0] - height + 1))
        column = int(random.integers(region.shape[1] - width + 1))
        patch = region[row : row + height, column : column + width]
        if np.count_nonzero(patch) >= rule.min_fraction * patch.size - 1e-6:
            kept.append((row, column))
    return np.array(kept, dtype=int).reshape(-1, 2)


def _running_differences(sums: Tensor, length: int) -> Tensor:
    """Turn running sums along the last axis into sums over ``length`` neighbours."""
    before = functional.pad(sums[..., :-length], (1, 0))
    return sums[..., length - 1 :] - before


# --- the report's data sets ---


REPORT_PIXEL_MM = {"static": 0.28, "dynamic": 0.568}
"""Pixels of the report's grids within a sagittal slice."""


@dataclass(frozen=True)
class Task:
    """One of the report's data sets of patches."""

    name: str
    grid: Literal["static", "dynamic"]
    """Grid on which the patches lie."""
    report_pixels: int
    """Height and width of a patch on the report's grid."""
    multiple: int
    """Sizes on other grids are rounded to a multiple of this, to suit the network."""
    tries: Mapping[str, int]
    """Positions tried in each slice, per bone."""
    min_fraction: Mapping[str, float]
    """Part of the patch that must be foot or, for reconstruction, the bone."""
    min_correlation: float | None = None

    @property
    def size_mm(self) -> float:
        """Height and width of a patch in mm, on the report's grid."""
        return self.report_pixels * REPORT_PIXEL_MM[self.grid]

    def pixels(self, pixel_mm: float) -> int:
        """Return the patch's size on a grid with square pixels of ``pixel_mm``.

        The multiple of `multiple` nearest to `size_mm`; at least one multiple.
        """
        return self.multiple * max(1, round(self.size_mm / pixel_mm / self.multiple))

    def rule(self, pixel_mm: float, bone: str = BONES[0]) -> PatchRule:
        """Return the rule of extraction on a grid with square pixels of ``pixel_mm``."""
        size = self.pixels(pixel_mm)
        return PatchRule(
            (size, size), self.tries[bone], self.min_fraction[bone], self.min_correlation
        )

    def rules(self, pixel_mm: float) -> dict[str, PatchRule]:
        """Return the rule of every bone."""
        return {bone: self.rule(pixel_mm, bone) for bone in self.tries}


STATIC_SEGMENTATION = Task(
    "static_segmentation",
    grid="static",
    report_pixels=128,
    multiple=16,
    tries=dict.fromkeys(BONES, 300),
    min_fraction=dict.fromkeys(BONES, 0.75),
)
"""Report, section 6.2.1: 35.8 mm on the static grid; 64 pixels of 0.56 mm."""

RECONSTRUCTION = Task(
    "reconstruction",
    grid="dynamic",
    report_pixels=32,
    multiple=4,
    tries={"calcaneus": 8000, "talus": 14000, "tibia": 8000},
    min_fraction={"calcaneus": 0.7, "talus": 0.5, "tibia": 0.6},
    min_correlation=0.6,
)
"""Report, section 6.3.1, tries from its code: 18.2 mm on the dynamic grid, to which the static
scan is moved; 20 pixels of 0.91 mm. The fractions are of the bone."""

DYNAMIC_SEGMENTATION = Task(
    "dynamic_segmentation",
    grid="dynamic",
    report_pixels=128,
    multiple=16,
    tries=dict.fromkeys(BONES, 300),
    min_fraction=dict.fromkeys(BONES, 0.75),
)
"""Report, section 6.4.1: 72.7 mm on the dynamic grid, twice the static patches' 35.8 mm; 80
pixels of 0.91 mm."""

TASKS = {task.name: task for task in (STATIC_SEGMENTATION, RECONSTRUCTION, DYNAMIC_SEGMENTATION)}
