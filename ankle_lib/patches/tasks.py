"""The report's three data sets: sizes, tries and thresholds of their patches.

The report gives sizes in pixels. A patch must show the same anatomy on every grid, so here its
size in millimetres is what holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ankle_lib.files import AnkleError
from ankle_lib.patches.positions import PatchRule
from ankle_lib.presets import BONES

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
        if not pixel_mm > 0:
            raise AnkleError(f"pixels of {pixel_mm} mm: their size must be positive")
        return self.multiple * max(1, round(self.size_mm / pixel_mm / self.multiple))

    def rule(self, pixel_mm: float, bone: str = BONES[0]) -> PatchRule:
        """Return the rule of extraction on a grid with square pixels of ``pixel_mm``."""
        if bone not in self.tries:
            raise AnkleError(f"{self.name} has no patches of {bone!r}: choose {', '.join(BONES)}")
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

_REPORT_COUNTS = {
    (STATIC_SEGMENTATION.name, "control"): (44924, 44924, 44924),
    (STATIC_SEGMENTATION.name, "equinus"): (43398, 43398, 43398),
    (RECONSTRUCTION.name, "control"): (37704, 15497, 38201),
    (RECONSTRUCTION.name, "equinus"): (46043, 23633, 42189),
    (DYNAMIC_SEGMENTATION.name, "control"): (44802, 32617, 37624),
    (DYNAMIC_SEGMENTATION.name, "equinus"): (29195, 28791, 29224),
}

REPORT_PATCHES = {
    (task, group, bone): count
    for (task, group), counts in _REPORT_COUNTS.items()
    for bone, count in zip(BONES, counts, strict=True)
}
"""How many patches the report extracted, by task, group and bone: sections 6.2.1, 6.3.1, 6.4.1."""
