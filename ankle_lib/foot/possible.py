"""What no foot has: bones in pieces, in another order, or of a size that nobody has.

A network may be sure of it all the same, so its confidence does not tell.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ankle_lib.cleaning.checks import PLAUSIBLE_CM3
from ankle_lib.geometry import weighted_centre
from ankle_lib.learning.prediction import THIN_MM
from ankle_lib.presets import BONES, LABELS
from ankle_lib.volume import Volume, canonical_voxel_size

Mask = NDArray[np.bool_]

IN_PIECES, PIECE_REMOVED = "in two pieces", "a piece apart removed"
MISPLACED, SWAPPED = "not between tibia and calcaneus", "taken for the calcaneus, and that for it"
IMPOSSIBLE = "impossible volume"
FORBIDDEN = (MISPLACED, SWAPPED, IMPOSSIBLE)
"""Mistakes for certain; bones in pieces may have one that is right."""

COMPARABLE, WORTH_A_WORD = 0.5, 0.1
"""What hangs apart, over the bone that was kept: it could be the bone, or is more than specks. Of
256 bones of the phantom and the public template with a Dice above 0.8 none had more apart than the
first, and 6 than the second."""


def against_anatomy(labels: Volume, apart: Mapping[str, float]) -> dict[str, list[str]]:
    """Say of each bone of one scan or frame what no foot has.

    Parameters
    ----------
    labels : Volume
        3D: 0, or 1 calcaneus, 2 talus, 3 tibia.
    apart : mapping of bone to float
        As in `Prediction.apart`.

    Returns
    -------
    dict of bone to list of str
        Empty lists where nothing is wrong. A bone that is cut off by the field of view, or is seen
        in slices beyond 3 mm, may be small.
    """
    masks = {bone: labels.data == label for bone, label in LABELS.items()}
    problems: dict[str, list[str]] = {bone: [] for bone in BONES}
    for bone, mask in masks.items():
        if (share := apart.get(bone, 0.0)) >= WORTH_A_WORD:
            problems[bone].append(IN_PIECES if share >= COMPARABLE else PIECE_REMOVED)
        if mask.any() and _is_impossible(bone, mask, labels.affine):
            problems[bone].append(IMPOSSIBLE)
    if all(mask.any() for mask in masks.values()):
        problems["talus"] += _place(masks, labels.affine)
    return problems


def _is_impossible(bone: str, mask: Mask, affine: NDArray[np.float64]) -> bool:
    low, high = PLAUSIBLE_CM3[bone]
    n_voxels = np.count_nonzero(mask)
    volume_cm3 = n_voxels * abs(np.linalg.det(affine[:3, :3])) / 1000
    whole = np.count_nonzero(mask[1:-1, 1:-1, 1:-1]) == n_voxels
    thin = canonical_voxel_size(affine)[2] <= THIN_MM
    return bool(volume_cm3 > high or (whole and thin and volume_cm3 < low))


def _place(masks: Mapping[str, Mask], affine: NDArray[np.float64]) -> list[str]:
    calcaneus, talus, tibia = (weighted_centre(masks[bone], affine) for bone in BONES)
    if _between(calcaneus, talus, tibia):
        return []
    larger = np.count_nonzero(masks["talus"]) > np.count_nonzero(masks["calcaneus"])
    return [SWAPPED if larger and _between(talus, calcaneus, tibia) else MISPLACED]


def _between(
    low: NDArray[np.float64], middle: NDArray[np.float64], high: NDArray[np.float64]
) -> bool:
    """Whether a centre lies between two others, and nearer to their line than they are apart.

    Along the limb the talus lies at 0.36 to 0.57 of the way from calcaneus to tibia, and up to
    0.61 of it beside, in random poses and fields of view of the phantom's feet.
    """
    limb, place = high - low, middle - low
    along = place @ limb / (limb @ limb)
    beside = np.linalg.norm(place - along * limb) / np.linalg.norm(limb)
    return bool(0 < along < 1 and beside < 1)
