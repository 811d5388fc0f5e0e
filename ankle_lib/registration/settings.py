"""What can be chosen about a registration."""

from __future__ import annotations

from dataclasses import dataclass

WHOLE = "whole"
"""The region of the foot as a whole, in tables and file names."""

RADIUS_VOXELS = {"calcaneus": -3, "talus": -2, "tibia": -3}
"""Radius by which each bone is dilated before it is blurred, in voxels of the report's static grid
(`masking.in_mm`); negative values erode. Chosen by the target registration error on the control
subjects of the phantom, where still more erosion would be better: beyond the cortex lies tissue
that moves otherwise. But on real scans the cortex is what one sees of a bone, so most of it stays.
The report chose 1, 2 and 2 by eye (section 5.2.4)."""

SIGMA_VOXELS = 1.0
"""Standard deviation of the blur, in the same voxels; the report's is 2."""


@dataclass(frozen=True)
class Resolution:
    """One level of the search, from coarse to fine."""

    fixed_mm: float
    """Spacing within the slices of the frames."""
    moving_mm: tuple[float, float]
    """Spacing of the static scan: along its thin axes, along its thickest."""
    slice_samples: int
    """Samples across a slice of the frames."""
    iterations: int


@dataclass(frozen=True)
class Settings:
    """How the engines search. The defaults serve children's ankles in slices of about 8 mm."""

    resolutions: tuple[Resolution, ...] = (
        Resolution(3.0, (3.0, 3.0), 3, 6),
        Resolution(1.2, (1.2, 1.6), 5, 5),
        Resolution(1.2, (0.6, 0.8), 7, 10),
    )
    start_angles_deg: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    """Starts about the left-right axis, relative to ``start``."""
    retry: bool = True
    """Try again, from more starts, where too little is explained."""
    retry_angles_deg: tuple[float, ...] = (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0)
    retry_shifts_mm: tuple[float, ...] = (-8.0, 8.0)
    """Shifts along A-P and S-I of the wider starts."""
    slice_model: bool = True
    """Average the static scan across the thick slice; otherwise sample its middle."""
    soft_weights: bool = True
    """Weights that fade out and move with the pose; otherwise a plain mask."""
    shading: bool = True
    """Allow for gain that varies linearly in space (coil shading)."""
    largest_cost: float = 0.75
    """A fit that leaves more of the variance unexplained has failed."""
    least_correlation: float = 0.4
    """A fit with a lower correlation has failed, whatever gain and shading explain."""
    least_seen: float = 0.5
    """A region of which less lies in the field of view has failed."""
    search_points: int = 1_500
    """Voxels of a frame, about, that take part before the last level."""
    most_points: int = 20_000
    """Levels at which a region covers more voxels of a frame are left out."""
    n_jobs: int = 1
    """Fits at a time, for engines that do one by one."""
