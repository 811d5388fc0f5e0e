"""Bone poses from segmented frames: the static mask laid onto what the network saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.dynamic.bones import StaticBones
from ankle_lib.dynamic.prediction import Prediction
from ankle_lib.geometry import apply, bounding_box, part_of
from ankle_lib.presets import BONES
from ankle_lib.registration.register import Resolution, Settings, register
from ankle_lib.volume import Volume

MARGIN_MM = 12.0
"""Around the static mask: what a network labels beyond it counts against a pose."""

LEAST_CM3 = 1.0
"""Of a bone that a network must see to say where it is."""

SETTINGS = Settings(
    resolutions=(
        Resolution(3.6, (2.4, 2.4), 3, 8),
        Resolution(1.8, (1.2, 1.6), 5, 10),
    ),
    start_angles_deg=(-20.0, 0.0, 20.0),
    retry=False,
    shading=False,
)
"""Masks have no shading and one way to fit, so few starts and no finest level will do."""


def poses_from_masks(seen: Sequence[Prediction], bones: StaticBones) -> NDArray[np.float64]:
    """Return the poses that lay the static masks onto the network's probabilities.

    The same search as for images, on probabilities: the static mask, averaged over the slice, is
    compared with the map of the bone.

    Parameters
    ----------
    seen : sequence of Prediction
        Of the F frames of a sequence.
    bones : StaticBones

    Returns
    -------
    (F, R, 4, 4) array
        Static world to frame world, RAS mm, bones in the order of ``bones.masks``; NaN where the
        network saw next to nothing of a bone.
    """
    poses = np.full((len(seen), len(bones.masks), 4, 4), np.nan)
    for number, bone in enumerate(bones.masks):
        maps = [_map(one, bone) for one in seen]
        enough = [n for n, (_, volume_cm3) in enumerate(maps) if volume_cm3 >= LEAST_CM3]
        if not enough:
            continue
        affine = seen[0].affine
        fixed = Volume(np.stack([maps[n][0] for n in enough], axis=-1), affine)
        moving = _surroundings(bones.masks[bone])
        start = np.tile(np.eye(4), (len(enough), 1, 1))
        for row, n in enumerate(enough):
            start[row, :3, 3] = _centre(maps[n][0], affine) - bones.centre(bone)
        everywhere = np.ones(moving.shape, dtype=np.float32)
        found = register(fixed, moving, {bone: everywhere}, start=start[:, None], settings=SETTINGS)
        poses[enough, number] = found.poses[:, 0]
    return poses


def _map(seen: Prediction, bone: str) -> tuple[NDArray[np.float32], float]:
    """Return the bone's probability without far-off pieces, and its volume in cm3."""
    raw = seen.maps[BONES.index(bone)].astype(np.float32)
    pieces, n_pieces = ndimage.label(raw > 0.5)
    if n_pieces == 0:
        return np.zeros_like(raw), 0.0
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    own = ndimage.binary_dilation(pieces == sizes.argmax(), iterations=2)
    kept = np.where(own, raw, np.float32(0))
    voxel_cm3 = abs(float(np.linalg.det(seen.affine[:3, :3]))) / 1000
    return kept, float(kept.sum()) * voxel_cm3


def _centre(weights: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return apply(affine, np.array(ndimage.center_of_mass(weights)))


def _surroundings(mask: Volume) -> Volume:
    """Cut the mask to its bone and a margin that still lies in the static scan."""
    margin = np.ceil(MARGIN_MM / np.array(mask.voxel_size_mm)).astype(int)
    box = bounding_box(mask.data > 0, margin)
    assert box is not None  # `StaticBones` has no empty masks
    return Volume((mask.data[box] > 0).astype(np.float32), part_of(box, mask.affine)[1])
