"""The foot on a scan of unknown intensities: another scanner, other units, an offset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.masking.foot import foot_mask, pooled_histogram, valley_threshold

DARK_PERCENTILE = 0.1
"""Background of a scan: not the minimum, which may be a single bad voxel."""
BRIGHT_PERCENTILE = 99.5
BRIGHT_INTENSITY = 2000.0
"""The scanner that the course knows shows this percentile at about this intensity."""
DARKEST_FOOT = 0.2
"""Part of the bright intensity above which is foot, where noise and tissue have no valley."""
SAMPLE = 4_000_000
"""Voxels that suffice for a histogram."""


def find_foot(image: NDArray) -> NDArray[np.bool_]:
    """Return where the foot is, for images of any unit of intensity and any offset.

    The foot is brighter than the valley between noise and tissue; where there is none (no noise
    in the background, for instance), brighter than a fifth of the bright tissue.

    Parameters
    ----------
    image : (I, J, K) array
        Finite; tissue brighter than air.

    Raises
    ------
    AnkleError
        If nothing is brighter than the background.
    """
    flat = image.ravel(order="K")
    sample = flat[:: flat.size // SAMPLE + 1].astype(np.float32)
    dark = float(np.percentile(sample, DARK_PERCENTILE))
    brighter = sample[sample > dark]
    if brighter.size == 0:
        raise AnkleError("nothing in the scan is brighter than its background: no foot in it")
    unit = (float(np.percentile(brighter, BRIGHT_PERCENTILE)) - dark) / BRIGHT_INTENSITY
    try:
        threshold = valley_threshold(pooled_histogram([((sample - dark) / unit).clip(0)]))
    except AnkleError:
        threshold = DARKEST_FOOT * BRIGHT_INTENSITY
    return foot_mask(image, dark + threshold * unit)
