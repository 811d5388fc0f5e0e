"""What a network must beat: asymmetry at a threshold, and logistic regression voxel by voxel."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from ankle_lib.brain.heads import sample
from ankle_lib.learning.scans import Scan
from ankle_lib.metrics import Mask, dice
from ankle_lib.presets import StrokeSizes
from ankle_lib.stroke.fair_trials import as_mask
from ankle_lib.stroke.head_scans import LESION, head_grid, mirrored

SMOOTH_MM = 2.5
"""Standard deviation of the blur before sides are compared: no two sides are quite alike."""

N_VOXELS = 4000
"""Of each training person that the regression sees, half of them lesion if there are so many."""

CUTS = 40
"""Thresholds that are tried on the training people."""

Rival = Callable[[Scan], Mask]


def asymmetry(scan: Scan) -> NDArray[np.float32]:
    """Return by how much each voxel is darker than its mirror image, (X, Y, Z)."""
    sigma = SMOOTH_MM / np.array(scan.voxel_size_mm)
    smooth = ndimage.gaussian_filter(scan.item.image, sigma)
    darker: NDArray[np.float32] = mirrored(smooth) - smooth
    return darker


def features(scan: Scan, prior: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the regression sees of each voxel of the brain, (N, 6).

    Its brightness, that of its surroundings, the asymmetry, and how much white matter, grey matter
    and fluid the mean brain has there.
    """
    inside = scan.item.region
    sigma = SMOOTH_MM / np.array(scan.voxel_size_mm)
    maps = [scan.item.image, ndimage.gaussian_filter(scan.item.image, sigma), asymmetry(scan)]
    return np.stack([*(one[inside] for one in maps), *prior[:, inside]], axis=1)


def tissue_prior(sizes: StrokeSizes) -> NDArray[np.float32]:
    """Return the mean brain's fractions (3, X, Y, Z) on the grid of the sizes."""
    grid = head_grid(sizes)
    index = np.indices(grid.shape).astype(np.float32)
    points = sizes.voxel_mm * index + grid.affine[:3, 3, None, None, None].astype(np.float32)
    return sample(points, sizes.voxel_mm)[:3]


def best_cut(maps: Sequence[NDArray[np.floating]], scans: Sequence[Scan]) -> float:
    """Return the threshold with the largest mean Dice on scans whose lesions are known."""
    values = np.concatenate([one[scan.item.region] for one, scan in zip(maps, scans, strict=True)])
    cuts = np.unique(np.quantile(values, 1 - np.geomspace(0.0005, 0.2, CUTS)))

    def mean_dice(cut: float) -> float:
        pairs = zip(maps, scans, strict=True)
        scores = [dice((m > cut) & s.item.region, s.item.labels[LESION]) for m, s in pairs]
        return float(np.nanmean(scores))

    return float(max(cuts, key=mean_dice))


def asymmetry_threshold(train: Sequence[Scan]) -> Rival:
    """Return the rival that takes for lesion what is darker than the other side by so much."""
    cut = best_cut([asymmetry(scan) for scan in train], train)
    return lambda scan: as_mask(asymmetry(scan) > cut, scan)


def logistic_regression(train: Sequence[Scan], sizes: StrokeSizes) -> Rival:
    """Return the rival that looks at each voxel for itself; see `features`."""
    prior, rng = tissue_prior(sizes), np.random.default_rng(0)
    seen, labels = [], []
    for scan in train:
        all_of, truth = features(scan, prior), scan.item.labels[LESION][scan.item.region]
        for part in (np.flatnonzero(truth), np.flatnonzero(~truth)):
            chosen = rng.choice(part, min(len(part), N_VOXELS // 2), replace=False)
            seen.append(all_of[chosen])
            labels.append(truth[chosen])
    x = np.concatenate(seen)
    mean, sd = x.mean(axis=0), x.std(axis=0) + 1e-6
    model = LogisticRegression(max_iter=200).fit((x - mean) / sd, np.concatenate(labels))

    def odds(scan: Scan) -> NDArray[np.float32]:
        found = np.full(scan.item.image.shape, -np.inf, dtype=np.float32)
        found[scan.item.region] = model.decision_function((features(scan, prior) - mean) / sd)
        return found

    cut = best_cut([odds(scan) for scan in train], train)
    return lambda scan: as_mask(odds(scan) > cut, scan)
