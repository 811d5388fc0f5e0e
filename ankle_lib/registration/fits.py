"""What every engine returns, and what all of them take for granted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUPPORT = 0.02
"""Weights below this do not count."""

SHADING_LENGTH_MM = 30.0
"""Unit of position in the terms of gain that vary in space: only their scaling depends on it."""


class Fits(NamedTuple):
    """What every engine returns, for F frames and R regions."""

    poses: NDArray[np.float64]
    """(F, R, 4, 4) static world to frame world, RAS mm."""
    correlations: NDArray[np.float64]
    """(F, R) weighted correlation; NaN where the region is not in the frame's field of view."""
    costs: NDArray[np.float64]
    """(F, R) part of the weighted variance left after gain, offset and linear shading; or 1."""
    seen: NDArray[np.float64]
    """(F, R) part of the region's weight inside the frame's field of view."""
    seconds: NDArray[np.float64]
    """(F, R) CPU time of the fit, preparation shared out; the score does not count."""
