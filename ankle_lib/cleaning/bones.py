"""The bones: whether they are visible, and whether the foot is the side that it should be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ankle_lib.cleaning.findings import Log, Scan
from ankle_lib.cleaning.laterality import decide_flip, masks_fit_image, side_from_bones
from ankle_lib.manifest.schema import Subject
from ankle_lib.volume import Volume, flip_left_right

PLAUSIBLE_CM3 = {"calcaneus": (12.0, 100.0), "talus": (6.0, 55.0), "tibia": (5.0, 400.0)}
"""Volumes from a small child's to a large adult's. The mean child has 44.8, 24.0 and 30.3 cm3
(mean shapes of the LaTIM, GitHub ``rousseau/dynMRI``), adults up to 65 and 34; how much of the
tibia is seen varies."""

MAX_CUT_FRACTION = 0.01
"""A calcaneus or talus with more of its voxels on the grid's border has been cut off."""

MAX_UNSEEN_FRACTION = 0.05
"""A bone with more of its voxels where the image is 0 lies outside the field of view."""


def fix_left_right(
    static: Scan, masks: dict[str, Volume], subject: Subject, log: Log
) -> tuple[Scan, dict[str, Volume], str | None]:
    """Mirror image and masks where needed; return them and the side of the foot."""
    if not all(mask.data.any() for mask in masks.values()):
        return static, masks, subject.side
    bones = side_from_bones({bone: mask.data for bone, mask in masks.items()}, static.volume.affine)
    fit = masks_fit_image(static.volume, masks)
    flip = decide_flip(fit, bones, subject.side)
    if flip.reason:
        log.exclude("left or right unclear", flip.reason)
    if flip.note:
        log.notes.append(flip.note)
    kind = " and ".join(
        part for part, wanted in (("image", flip.image), ("masks", flip.masks)) if wanted
    )
    if flip.image:
        log.correct(
            static.path, f"{kind} mirrored", f"mirrored left to right: a {subject.side} foot"
        )
        static = static.with_volume(flip_left_right(static.volume))
    if flip.masks:
        for bone in masks:
            log.correct(
                subject.masks[bone],
                f"{kind} mirrored",
                f"mirrored left to right: the bones were those of a {bones.side} foot",
            )
        masks = {bone: flip_left_right(mask) for bone, mask in masks.items()}
    return static, masks, subject.side or bones.side


def check_bones(static: Scan, masks: dict[str, Volume], log: Log) -> None:
    """See that each bone is there: of a plausible volume, not cut off, inside the image."""
    voxel_cm3 = float(np.prod(static.volume.voxel_size_mm)) / 1000.0
    for bone, mask in masks.items():
        n_voxels = int(np.count_nonzero(mask.data))
        if n_voxels == 0:
            log.exclude("bone not visible", f"{bone} mask is empty")
            continue
        low, high = PLAUSIBLE_CM3[bone]
        if not low <= n_voxels * voxel_cm3 <= high:
            log.exclude(
                "bone not visible",
                f"{bone} has {n_voxels * voxel_cm3:.1f} cm3, expected {low:g} to {high:g}",
            )
        cut = _n_on_border(mask.data) / n_voxels
        if bone != "tibia" and cut > MAX_CUT_FRACTION:
            log.exclude("bone not visible", f"{bone} is cut off by the image's border ({cut:.0%})")
        unseen = np.count_nonzero(static.volume.data[mask.data] == 0) / n_voxels
        if unseen > MAX_UNSEEN_FRACTION:
            log.exclude("bone not visible", f"{unseen:.0%} of the {bone} lies where the image is 0")


def _n_on_border(mask: NDArray[np.bool_]) -> int:
    inner = mask[1:-1, 1:-1, 1:-1]
    return int(np.count_nonzero(mask) - np.count_nonzero(inner))
