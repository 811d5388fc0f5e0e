"""The foot on a scan: intensities of all images together, a threshold, and the mask above it.

`foot_mask` asks for a threshold in the scanner's units; `find_foot` finds one by itself on a scan
of unknown intensities: another scanner, other units, an offset.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.geometry import bounding_box

REPORT_THRESHOLD = 250.0
"""Foot above this intensity, on static and dynamic scans (report, section 5.2.2)."""

CODE_STATIC_THRESHOLD = 220.0
"""The value for static scans in the code of 2020, where the report says 250."""

SPECK = 0.001
"""A foot of 600 cm3 has specks below 0.6 cm3; the marrow of a metatarsal has more."""

DARK_PERCENTILE = 0.1
"""Background of a scan: not the minimum, which may be a single bad voxel."""
BRIGHT_PERCENTILE = 99.5
BRIGHT_INTENSITY = 2000.0
"""The scanner that the course knows shows this percentile at about this intensity."""
DARKEST_FOOT = 0.2
"""Part of the bright intensity above which is foot, where noise and tissue have no valley."""
SAMPLE = 4_000_000
"""Voxels that suffice for a histogram."""

LEAST_PADDING = 0.001
"""Part of a scan that padding fills at least; fewer voxels of one value are bad ones."""
ISOLATED = 0.5
"""Padding lies farther from all measured values than this part of their range."""
LEAST_OFFSET = 0.1
"""Part of the range by which the darkest values must differ from 0 to be an offset."""

_IN_PLANE = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))], axis=2).astype(bool)
_IN_PLANE[[0, 0, 2, 2], [0, 2, 0, 2], 1] = False


@dataclass(frozen=True)
class Histogram:
    """How often each intensity occurs, image by image; voxels that are exactly 0 are apart."""

    edges: NDArray[np.float64]
    """(B + 1,) edges of the bins."""
    counts: NDArray[np.int64]
    """(N, B) voxels of each of the N images in each bin."""
    n_zero: NDArray[np.int64]
    """(N,) voxels that are exactly 0: the scanner's own background."""

    @property
    def centres(self) -> NDArray[np.float64]:
        """(B,) middle of each bin."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    @property
    def pooled(self) -> NDArray[np.int64]:
        """(B,) counts of all images together."""
        return self.counts.sum(axis=0)


def pooled_histogram(
    images: Iterable[NDArray], *, bin_width: float = 10.0, maximum: float = 3000.0
) -> Histogram:
    """Count the intensities of many images with common bins, one image in memory at a time.

    Parameters
    ----------
    images : iterable of arrays of any shape
    bin_width, maximum : float
        In the images' own units; values above ``maximum`` are counted in the last bin.

    Raises
    ------
    AnkleError
        If there is no image.
    """
    edges = np.arange(0.0, maximum + bin_width, bin_width)
    counts, n_zero = [], []
    for image in images:
        zero = int(image.size - np.count_nonzero(image))
        bins = np.clip(image, 0, edges[-1] - bin_width / 2).ravel(order="K")
        bins = (bins * np.float32(1 / bin_width)).astype(np.int32)
        count = np.bincount(bins, minlength=len(edges) - 1)
        count[0] -= zero
        counts.append(count)
        n_zero.append(zero)
    if not counts:
        raise AnkleError("a pooled histogram needs at least one image: is the cohort empty?")
    return Histogram(edges, np.array(counts), np.array(n_zero))


def valley_threshold(histogram: Histogram) -> float:
    """Return the intensity of the valley between noise and tissue in the pooled histogram.

    The counts are smoothed on a logarithmic scale (noise outnumbers any tissue). Tissue is the
    peak of count x intensity, which is the count per relative step of intensity: it favours the
    broad hill of tissue over the narrow peak of noise. The valley is the lowest point between
    the two.

    Raises
    ------
    AnkleError
        If there is no valley: background without noise, or nothing but noise.
    """
    smooth = ndimage.gaussian_filter1d(np.log1p(smoothed(histogram.pooled)), 2.0, mode="nearest")
    # The last bin also holds everything above it.
    tissue = int(np.argmax(np.exp(smooth[:-1]) * histogram.centres[:-1]))
    noise = int(np.argmax(smooth[: max(tissue // 2, 1)]))
    valley = noise + int(np.argmin(smooth[noise : tissue + 1]))
    if not noise < valley < tissue:
        raise AnkleError(
            f"no valley between noise (peak at {histogram.centres[noise]:g}) and tissue (peak at "
            f"{histogram.centres[tissue]:g}): use the report's {REPORT_THRESHOLD:g}, or look at "
            "the histogram"
        )
    return float(histogram.centres[valley])


def smoothed(counts: NDArray) -> NDArray[np.float64]:
    """Blur counts along their last axis by three bins.

    Scanners store multiples of a slope, so fine bins hold a comb of full and empty ones.
    """
    return ndimage.gaussian_filter1d(counts.astype(float), 3.0, axis=-1, mode="nearest")


def foot_mask(
    image: NDArray,
    threshold: float = REPORT_THRESHOLD,
    *,
    smallest_piece: float = SPECK,
    fill_holes: bool = False,
) -> NDArray[np.bool_]:
    """Return the foot: what is brighter than the threshold.

    Parameters
    ----------
    image : (I, J, K) array
    threshold : float
        The report's 250 by default, in the image's own units.
    smallest_piece : float
        Pieces (voxels that hang together over their faces) smaller than this part of the largest
        piece are specks of noise and go. Not only the largest piece is kept, because marrow that
        its dark cortex encloses is a piece of its own. 0 keeps everything, 1 only the largest.
    fill_holes : bool
        Fill dark spots that tissue encloses within a sagittal slice ``[:, :, k]``, such as cortex
        and tendons. The report does not.

    Returns
    -------
    (I, J, K) bool array
        Empty if nothing is brighter than the threshold.
    """
    mask = image > threshold
    if smallest_piece > 0:
        mask = _without_specks(mask, smallest_piece)
    if fill_holes:
        mask = _fill_slices(mask)
    return mask


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


def without_padding(data: NDArray) -> tuple[NDArray, list[str]]:
    """Set what was not measured to 0, and take off an offset of all intensities.

    Scanners measure a circle or a warped box and programs fill the rest with a constant such as
    -3024; values that were meant for air at -1024, or below 0 for other reasons, have an offset.
    Everywhere else 0 means: no signal.

    Parameters
    ----------
    data : array of any shape
        Finite.

    Returns
    -------
    data : array
        Itself where there is nothing to do; float32 where an offset was taken off.
    found : list of str
        What was done, for a person.
    """
    sample = data.ravel(order="K")
    sample, found = sample[:: sample.size // SAMPLE + 1].astype(np.float32), []
    outside = np.zeros((1,) * data.ndim, dtype=bool)
    for extreme in (sample.min(), sample.max()):
        rest = sample[sample != extreme]
        if extreme != 0 and 0 < rest.size <= (1 - LEAST_PADDING) * sample.size:
            low, high = np.percentile(rest, (DARK_PERCENTILE, 100 - DARK_PERCENTILE))
            if max(low - extreme, extreme - high) > ISOLATED * (high - low) > 0:
                part = 1 - rest.size / sample.size
                found.append(f"{part:.0%} of the voxels, all {extreme:g}, were not measured: now 0")
                outside, sample = outside | (data == extreme), rest
    low, high = np.percentile(sample, (DARK_PERCENTILE, BRIGHT_PERCENTILE))
    if abs(low) > LEAST_OFFSET * (high - low) > 0:
        found.append(f"an offset of all intensities, {low:g}, was taken off")
        data = data.astype(np.float32) - np.float32(low)
    return np.where(outside, data.dtype.type(0), data) if outside.any() else data, found


def _without_specks(mask: NDArray[np.bool_], smallest_piece: float) -> NDArray[np.bool_]:
    box = bounding_box(mask)
    result = np.zeros_like(mask)
    if box is not None:
        labels, _ = ndimage.label(mask[box])
        sizes = np.bincount(labels.ravel(order="K"))
        sizes[0] = 0
        result[box] = (sizes >= smallest_piece * sizes.max())[labels] & mask[box]
    return result


def _fill_slices(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what no path within its slice connects to the slice's border."""
    open_air = np.pad(~mask, ((1, 1), (1, 1), (0, 0)), constant_values=True)
    labels, n_labels = ndimage.label(open_air, structure=_IN_PLANE)
    outside = np.zeros(n_labels + 1, dtype=bool)
    outside[labels[0, 0]] = True
    return ~outside[labels[1:-1, 1:-1]]
