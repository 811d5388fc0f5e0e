"""What a foot is made of, voxel by voxel, and how bright a random scanner makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.learning.scans import Scan
from ankle_lib.presets import BONES

N_SOFT = 5
"""Classes of the soft tissue and the other bones, from the darkest of a T1 scan to the brightest:
cortex and tendons, skin, muscle, cartilage and marrow, fat."""
AIR, JOINT = 0, N_SOFT + 1
"""Classes before and after those: air, and what lies between two bones, mostly cartilage."""

JOINT_REACH_MM = (3.0, 5.0)
"""Between two bones is what is nearer than the first to one and than the second to another."""
RIM_MM = 2.0
"""The texture of a bone fades towards its surface, where the scan has a cortex of its own."""
MARGIN_MM = 8.0
CLOSING_MM = 2.5
"""Gaps in the mask of the foot twice as wide are closed."""
SMOOTH_MM = 0.6
"""Of the scan before it is told apart into classes: its noise would speckle them."""
MOST_TEXTURE = 2.5
EVERY = 7
"""Classes are found on every so-many-th voxel."""
ROUNDS = 15

Masks = Mapping[str, NDArray[np.bool_]]
Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tissues:
    """A foot without any brightness; axes posterior, superior, right.

    Attributes
    ----------
    spacing_mm : three floats
    classes : (I, J, K) uint8 array
        `AIR`, 1 to `N_SOFT`, or `JOINT`; under the bones too.
    texture : (I, J, K) float32 array
        How much brighter a voxel is than its class or bone, in standard deviations of the foot.
    depth_mm : (I, J, K) float32 array
        Below the surface of the bone that a voxel belongs to; negative outside.
    bones : mapping of bone to (I, J, K) bool array
    foot : (I, J, K) bool array
        Without holes.
    marrow_class : int
        Which soft class the marrow is most like, from 0.
    """

    spacing_mm: tuple[float, float, float]
    classes: NDArray[np.uint8]
    texture: Image
    depth_mm: Image
    bones: Masks
    foot: NDArray[np.bool_]
    marrow_class: int


@dataclass(frozen=True)
class Contrast:
    """How bright one scan shows the tissues; 1 is about the brightest, 0 is air.

    Attributes
    ----------
    soft : N_SOFT floats
    joint : float
    bones : three floats
        Marrow, in the order of `presets.BONES`.
    cortex : float
    cortex_mm : float
        Its thickness; 0 is none.
    soft_texture, bone_texture : float
        Brightness per unit of the texture; negative ones turn it over.
    """

    soft: tuple[float, ...]
    joint: float
    bones: tuple[float, ...]
    cortex: float
    cortex_mm: float
    soft_texture: float
    bone_texture: float


def tissues_of(scan: Scan) -> Tissues:
    """Tell the tissues of a static scan apart, knowing no more than foot and bones.

    Parameters
    ----------
    scan : Scan
        With all three bones.

    Raises
    ------
    AnkleError
        If a bone is missing or empty.
    """
    spacing, item = scan.voxel_size_mm, scan.item
    missing = [bone for bone in BONES if not item.labels.get(bone, np.zeros(1, bool)).any()]
    if missing:
        raise AnkleError(
            f"{item}: no mask of the {missing[0]}: to be painted anew it takes the masks of "
            f"{', '.join(BONES)}"
        )
    anything = np.logical_or.reduce([item.labels[bone] for bone in BONES])
    foot = _solid(item.region | anything, spacing)
    soft = foot & ~anything
    sigma = [SMOOTH_MM / one for one in spacing]
    smooth = ndimage.gaussian_filter(item.image.astype(np.float32), sigma)
    levels = _levels(smooth[soft][::EVERY])
    classes = np.zeros(smooth.shape, np.uint8)
    classes[foot] = 1 + np.digitize(smooth[foot], (levels[1:] + levels[:-1]) / 2)
    depths = bone_depths(item.labels, spacing)
    classes[joint_space(depths) & soft] = JOINT
    depth = np.max([*depths.values()], axis=0)
    expected = np.concatenate([[0.0], levels, [float(np.mean(levels))]]).astype(np.float32)
    texture = smooth - expected[classes]
    marrow = {}
    for bone in BONES:
        mask = item.labels[bone]
        inside = mask & (depth > RIM_MM)
        marrow[bone] = float(np.median(smooth[inside if inside.any() else mask]))
        texture[mask] = (smooth[mask] - marrow[bone]) * np.clip(depth[mask] / RIM_MM, 0, 1)
    texture[~foot] = 0
    texture = np.clip(texture / smooth[foot].std(), -MOST_TEXTURE, MOST_TEXTURE)
    nearest = int(np.abs(levels - np.median([*marrow.values()])).argmin())
    bones = {bone: item.labels[bone] for bone in BONES}
    return Tissues(spacing, classes, texture, depth, bones, foot, nearest)


def painted(tissues: Tissues, contrast: Contrast) -> Image:
    """Return the signal (I, J, K) of every voxel under a contrast."""
    table = np.array([0.0, *contrast.soft, contrast.joint], np.float32)
    signal = table[tissues.classes]
    signal += contrast.soft_texture * tissues.texture
    signal[tissues.classes == AIR] = 0
    softness = float(np.mean(tissues.spacing_mm[:2]))
    for bone, level in zip(BONES, contrast.bones, strict=True):
        mask = tissues.bones[bone]
        inner = level + contrast.bone_texture * tissues.texture[mask]
        # a rim thinner than a voxel fills a part of it
        rim = np.clip((contrast.cortex_mm - tissues.depth_mm[mask]) / softness + 0.5, 0, 1)
        rim *= min(1.0, contrast.cortex_mm / softness)
        signal[mask] = inner + rim * (contrast.cortex - inner)
    return np.maximum(signal, 0)


def bone_depths(bones: Masks, spacing_mm: Sequence[float]) -> dict[str, Image]:
    """Return depth (I, J, K) in mm below the surface of each bone.

    Negative outside; further out than `MARGIN_MM` around all bones it is just some depth below
    -`MARGIN_MM`.
    """
    anything = np.logical_or.reduce([*bones.values()])
    margin = [int(np.ceil(MARGIN_MM / one)) for one in spacing_mm]
    found = ndimage.find_objects(anything.view(np.uint8))[0]
    box = tuple(
        slice(max(one.start - m, 0), one.stop + m) for one, m in zip(found, margin, strict=True)
    )
    half = float(np.mean(spacing_mm)) / 2
    depths = {}
    for bone, mask in bones.items():
        depth = np.full(mask.shape, -2 * MARGIN_MM, np.float32)
        inside = ndimage.distance_transform_edt(mask[box], sampling=spacing_mm)
        outside = ndimage.distance_transform_edt(~mask[box], sampling=spacing_mm)
        depth[box] = np.where(mask[box], inside - half, half - outside)
        depths[bone] = depth
    return depths


def joint_space(depths: Mapping[str, Image]) -> NDArray[np.bool_]:
    """Return what lies between two bones, given the depths below their surfaces."""
    two, one = np.sort(np.stack([*depths.values()]), axis=0)[-2:]
    space: NDArray[np.bool_] = (one <= 0) & (one > -JOINT_REACH_MM[0]) & (two > -JOINT_REACH_MM[1])
    return space


def _solid(foot: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Return the foot with cortex and tendons, which a mask by a threshold leaves out."""
    reach = [max(1, round(CLOSING_MM / one)) for one in spacing_mm]
    size = [2 * one + 1 for one in reach]
    wide = np.pad(foot, [(one, one) for one in reach], "edge")
    closed = ndimage.minimum_filter(ndimage.maximum_filter(wide.view(np.uint8), size), size)
    inner = tuple(slice(one, -one) for one in reach)
    solid: NDArray[np.bool_] = closed[inner] > 0
    for k in range(solid.shape[2]):
        solid[:, :, k] = ndimage.binary_fill_holes(solid[:, :, k])
    return solid


def _levels(values: Image) -> NDArray[np.float64]:
    """Return the middles of `N_SOFT` classes of brightness, ascending: k-means from quantiles."""
    middles: NDArray[np.float64] = np.quantile(
        values.astype(np.float64), (np.arange(N_SOFT) + 0.5) / N_SOFT
    )
    for _ in range(ROUNDS):
        nearest = np.digitize(values, (middles[1:] + middles[:-1]) / 2)
        count = np.bincount(nearest, minlength=N_SOFT)
        total = np.bincount(nearest, values, minlength=N_SOFT)
        middles = np.where(count > 0, total / np.maximum(count, 1), middles)
    return middles
