"""How good the segmentation of stroke lesions is, by the definitions of the ATLAS R2.0 challenge.

The challenge has four measures (``isles/scoring.py`` of
https://github.com/npnl/atlas2_grand_challenge): Dice, lesion-wise F1, simple lesion count and
volume difference. It joins voxels over faces, edges and corners for the F1, and over faces alone
for the count, and so does this module. Two empty masks agree: Dice and F1 are 1, both differences
0. If one of two is empty, Dice and F1 are 0.

Beside them stand measures that the challenge does not rank by: distances of surfaces, and how many
lesions of which size are found. Distances have no meaning if both masks are empty (NaN, which
`metrics.bootstrap_interval` leaves out), and are the image's diagonal if one is.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import NIFTI_SUFFIXES, AnkleError
from ankle_lib.geometry import same_grid
from ankle_lib.metrics import Mask, dice, mask_scores
from ankle_lib.parallel import run_all
from ankle_lib.volume import Volume, load

TOLERANCE_MM = 3.0
"""Surfaces that are nearer than this agree, for the surface Dice."""

BINS_ML = (0.0, 1.0, 5.0, 20.0, math.inf)
"""Ends of the bins of lesions by their volume."""

ATLAS_SCORES = ("dice", "lesion_f1", "lesion_count_difference", "volume_difference_mm3")
"""The measures of the challenge, in its order."""

SCORES = (*ATLAS_SCORES, "hd95_mm", "assd_mm", "surface_dice", "volume_error")

_FACES, _CORNERS = ndimage.generate_binary_structure(3, 1), np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class LesionScores:
    """Agreement of a found mask with the true one."""

    dice: float
    lesion_f1: float
    """2 TP / (2 TP + FP + FN): true lesions that the found mask touches, found ones that touch no
    true lesion, and true ones that are not touched."""
    lesion_count_difference: int
    """How many lesions more or fewer are found than there are, wherever they lie."""
    volume_difference_mm3: float
    """Absolute. The challenge counts voxels, which are 1 mm³ there."""
    hd95_mm: float
    assd_mm: float
    surface_dice: float
    """Part of both surfaces that lies within `TOLERANCE_MM` of the other one."""
    volume_error: float
    """Found minus true volume, over the true one; NaN without a true lesion."""


def lesion_scores(found: Mask, truth: Mask, voxel_size_mm: Sequence[float]) -> LesionScores:
    """Return all measures of one scan.

    Parameters
    ----------
    found, truth : (X, Y, Z) bool arrays
    voxel_size_mm : three floats

    Raises
    ------
    AnkleError
        If the shapes differ.

    Examples
    --------
    >>> truth = np.zeros((9, 9, 9), dtype=bool)
    >>> truth[2:5, 2:5, 2:5] = True
    >>> lesion_scores(truth, truth, (1, 1, 1)).lesion_f1
    1.0
    """
    overlap = dice(found, truth)
    distances = mask_scores(found, truth, voxel_size_mm)
    n_found, n_true = np.count_nonzero(found), np.count_nonzero(truth)
    counts = [ndimage.label(mask, _FACES)[1] for mask in (found, truth)]
    return LesionScores(
        dice=1.0 if math.isnan(overlap) else overlap,
        lesion_f1=_lesion_f1(found, truth),
        lesion_count_difference=abs(counts[0] - counts[1]),
        volume_difference_mm3=float(abs(n_found - n_true) * np.prod(voxel_size_mm)),
        hd95_mm=distances.hd95_mm,
        assd_mm=distances.assd_mm,
        surface_dice=surface_dice(found, truth, voxel_size_mm),
        volume_error=n_found / n_true - 1 if n_true else math.nan,
    )


def _lesion_f1(found: Mask, truth: Mask) -> float:
    n_hit, n_true = _touched(truth, found)
    n_right, n_found = _touched(found, truth)
    wrong = (n_true - n_hit) + (n_found - n_right)
    return n_hit / (n_hit + wrong / 2) if n_hit + wrong else 1.0


def _touched(mask: Mask, other: Mask) -> tuple[int, int]:
    """Return how many lesions of a mask share a voxel with the other one, and how many it has."""
    lesions, n = ndimage.label(mask, _CORNERS)
    return int(np.count_nonzero(np.unique(lesions[other]))), n


def surface_dice(found: Mask, truth: Mask, voxel_size_mm: Sequence[float]) -> float:
    """Return which part of both surfaces is within `TOLERANCE_MM` of the other one.

    A surface voxel has a face neighbour outside the mask. 0 if one mask is empty, NaN if both are.
    """
    if not found.any() or not truth.any():
        return math.nan if found.any() == truth.any() else 0.0
    (box,) = ndimage.find_objects((found | truth).astype(np.uint8))
    # as `metrics.mask_scores` has it: what ends at the image's border ends there
    surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (found, truth)]
    away = [
        ndimage.distance_transform_edt(~other, sampling=voxel_size_mm)[own]
        for own, other in (surfaces, surfaces[::-1])
    ]
    return float(np.mean(np.concatenate(away) <= TOLERANCE_MM))


def lesions_found(found: Mask, truth: Mask, voxel_size_mm: Sequence[float]) -> pd.DataFrame:
    """Return a row for each true lesion: how large it is, and how much of it was found.

    Lesions hang together over corners, as for the F1.

    Returns
    -------
    DataFrame
        Columns volume_ml, size (its bin of `BINS_ML`, in words), found (0 or 1: whether a voxel
        was), found_part.
    """
    lesions, n = ndimage.label(truth, _CORNERS)
    sizes = np.bincount(lesions.ravel(), minlength=n + 1)[1:]
    seen = np.bincount(lesions[found], minlength=n + 1)[1:]
    volumes = sizes * np.prod(voxel_size_mm) / 1000
    return pd.DataFrame(
        {
            "volume_ml": volumes,
            "size": [size_bin(volume) for volume in volumes],
            "found": (seen > 0).astype(int),
            "found_part": seen / np.maximum(sizes, 1),
        }
    )


def size_bin(volume_ml: float) -> str:
    """Return the bin of `BINS_ML` of a lesion, as tables name it."""
    number = int(np.searchsorted(BINS_ML, volume_ml, side="right")) - 1
    low, high = BINS_ML[number], BINS_ML[number + 1]
    if low == 0:
        return f"below {high:g} ml"
    return f"{low:g} ml and more" if math.isinf(high) else f"{low:g} to {high:g} ml"


SIZE_BINS = tuple(size_bin(low) for low in BINS_ML[:-1])


def without_specks(mask: Mask, least_ml: float, voxel_size_mm: Sequence[float]) -> Mask:
    """Return a mask without the pieces, joined over corners, that are smaller than ``least_ml``."""
    pieces, n = ndimage.label(mask, _CORNERS)
    volumes = np.bincount(pieces.ravel(), minlength=n + 1) * np.prod(voxel_size_mm) / 1000
    volumes[0] = 0
    kept: Mask = (volumes >= least_ml)[pieces] & mask
    return kept


# --- a folder of masks ---


def score_submission(truth: Path, submission: Path) -> pd.DataFrame:
    """Score a folder of masks against the true ones, scan by scan, as the challenge does.

    Files are matched by the subject and session in their BIDS names
    (``sub-r001s001_ses-1_…_mask.nii.gz``), in whatever folder below they lie.

    Parameters
    ----------
    truth : Path
        Below it every file ``*_mask.nii.gz`` is the true mask of a scan.
    submission : Path
        One mask for each of these.

    Returns
    -------
    DataFrame
        Columns subject, session and those of `LesionScores`; a row per scan.

    Raises
    ------
    AnkleError
        If a scan has no mask, or two, or a mask does not lie on the grid of the true one or holds
        more than two values.

    Examples
    --------
    >>> scores = score_submission(Path("ATLAS_2/Testing"), Path("my_masks"))
    >>> over_subjects(scores.assign(network="mine"), ["network"], ATLAS_SCORES)
    """
    wanted, given = (_masks_below(folder) for folder in (truth, submission))
    missing = [" ".join(key) for key in wanted if key not in given]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise AnkleError(
            f"{submission}: no mask for {', '.join(missing[:3])}{more}: a scan in which nothing "
            "is found needs a mask of zeros"
        )
    tasks = [(key, wanted[key], given[key]) for key in wanted]
    return pd.DataFrame(run_all(_score_files, tasks, workers="threads"))


def _masks_below(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the masks below a folder by subject and session."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.rglob("*")):
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        if not (path.name.endswith(NIFTI_SUFFIXES) and stem.endswith("_mask")):
            continue
        named = re.match(r"sub-([A-Za-z0-9]+)_(?:ses-([A-Za-z0-9]+)_)?", path.name)
        if not named:
            raise AnkleError(f"{path}: names no subject: call it sub-<code>_ses-<n>_…_mask.nii.gz")
        key = (f"sub-{named[1]}", f"ses-{named[2] or '1'}")
        if key in found:
            raise AnkleError(f"{folder}: {found[key].name} and {path.name} are of one scan")
        found[key] = path
    if not found:
        raise AnkleError(f"{folder}: no file *_mask.nii.gz below it: is it the right folder?")
    return found


def _score_files(task: tuple[tuple[str, str], Path, Path]) -> dict[str, object]:
    (subject, session), true_path, path = task
    truth, found = _read_mask(true_path), _read_mask(path)
    if not same_grid(truth.grid, found.grid):
        raise AnkleError(
            f"{path}: shape {found.shape}, voxels of {found.voxel_size_mm} mm, is not on the grid "
            f"of {true_path.name}, shape {truth.shape}: resample it"
        )
    scores = lesion_scores(found.data, truth.data, truth.voxel_size_mm)
    return {"subject": subject, "session": session, **vars(scores)}


def _read_mask(path: Path) -> Volume:
    """Read a mask: 0, and one other value."""
    volume = load(path)
    values: NDArray = np.unique(volume.data)
    if volume.data.ndim != 3 or len(values) > 2 or (len(values) == 2 and values[0] != 0):
        shown = ", ".join(f"{value:g}" for value in values[:4])
        raise AnkleError(
            f"{path}: {len(values)} values ({shown}, …) on {volume.data.ndim} axes, where a mask "
            "has 0 and 1 on three: cut probabilities at a threshold first"
        )
    return Volume(volume.data > 0, volume.affine)
