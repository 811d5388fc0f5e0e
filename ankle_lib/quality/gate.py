"""The correlation gate: from which correlation on a registration may be taken as valid.

Overlap (Dice) with a true segmentation is known for few frames, correlation for all. The report
drew one against the other and read off the correlation at Dice 0.85 by eye; `fit_gate` reads it
off a curve that can only rise.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

REPORT_DICE = 0.85
"""Overlap from which the report takes a global registration as acceptable (section 5.2.4)."""
REPORT_CORRELATION = 0.64
"""Correlation at that overlap (the report's Fig. 5.10); the code of 2020 really asks for 0.62."""
BONE_CORRELATION = 0.5
"""For the weights of a single bone: what `fit_gate` finds (0.49) on control subjects of the phantom
between fits from good and from bad starts. The report judged bones by eye."""

MIN_EACH_SIDE = 3
"""So many registrations must lie above the Dice threshold, and so many below."""
MIN_BALANCED_ACCURACY = 0.7
"""Below this, correlation says too little about overlap to derive a gate from it."""


@dataclass(frozen=True)
class Gate:
    """A threshold on correlation and how it was found."""

    dice_threshold: float
    correlation_threshold: float
    method: Literal["fit", "report"]
    """``fit``: from the data; ``report``: the data did not allow it, so the report's 0.64."""
    reason: str
    """Why the report's value was taken; empty for ``fit``."""
    n_good: int
    """Registrations with at least ``dice_threshold``."""
    n_bad: int
    """Registrations with less."""
    balanced_accuracy: float
    """Mean of the share of good ones that pass and of bad ones that do not; NaN if either
    kind is missing."""

    def passes(self, correlation: ArrayLike) -> NDArray[np.bool_]:
        """Tell for each correlation whether it reaches the threshold; NaN never does."""
        return np.asarray(correlation, dtype=np.float64) >= self.correlation_threshold


def fit_gate(correlation: ArrayLike, dice: ArrayLike) -> Gate:
    """Find the correlation that a registration with the report's Dice 0.85 has on average.

    Correlation is fitted as a rising step curve of Dice (isotonic least squares), as the report's
    Fig. 5.10 draws it, and read there, linearly between neighbouring points.
    On simulated data this reading is nearly unbiased however few bad ones there are. The
    threshold that separates good from bad best is drawn towards the rarer kind (by up to 0.07),
    and a straight line is off by as much wherever the relation is curved, as it is near Dice 1.

    Parameters
    ----------
    correlation, dice : array, shape (N,)
        One pair per registration. Pairs with NaN in either are left out.

    Returns
    -------
    Gate
        With the report's 0.64 if fewer than three lie on either side of that Dice, or if the
        threshold found tells good from bad with a balanced accuracy below 0.7.
    """
    x = np.asarray(dice, dtype=np.float64)
    y = np.asarray(correlation, dtype=np.float64)
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    good = x >= REPORT_DICE
    n_good, n_bad = int(good.sum()), int((~good).sum())

    if min(n_good, n_bad) < MIN_EACH_SIDE:
        threshold = REPORT_CORRELATION
        side = "reach" if n_good < n_bad else "lie below"
        reason = f"only {min(n_good, n_bad)} of {len(x)} registrations {side} Dice {REPORT_DICE:g}"
    else:
        threshold = _rising_curve_at(REPORT_DICE, x, y)
        accuracy = _balanced_accuracy(y, good, threshold)
        reason = ""
        if accuracy < MIN_BALANCED_ACCURACY:
            reason = f"correlation {threshold:.2f} tells good from bad in only {accuracy:.0%}"
            threshold = REPORT_CORRELATION
    return Gate(
        dice_threshold=REPORT_DICE,
        correlation_threshold=threshold,
        method="report" if reason else "fit",
        reason=reason,
        n_good=n_good,
        n_bad=n_bad,
        balanced_accuracy=_balanced_accuracy(y, good, threshold),
    )


def _rising_curve_at(place: float, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    knots, group = np.unique(x, return_inverse=True)
    counts = np.bincount(group)
    means = np.bincount(group, weights=y) / counts
    curve = isotonic_regression(means, weights=counts.astype(np.float64)).x
    return float(np.interp(place, knots, curve))


def _balanced_accuracy(
    correlation: NDArray[np.float64], good: NDArray[np.bool_], threshold: float
) -> float:
    if good.all() or not good.any():
        return float("nan")
    passed = correlation >= threshold
    return float((passed[good].mean() + (~passed[~good]).mean()) / 2)
