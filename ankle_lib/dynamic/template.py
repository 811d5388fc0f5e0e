"""Renderings of a template of real bones, of which no scan was simulated: to be tested on.

The template is three masks, nothing else (`data_manifest.yaml`, cohort ``latim_bone_template``).
What a scan would show around them is modelled on top: skin as a smooth envelope, fat, muscles,
the larger tendons and, roughly, the neighbouring bones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.dynamic.frames import Frame
from ankle_lib.dynamic.random_scans import ScanRanges, take
from ankle_lib.dynamic.repainting import JOINT, Contrast, Tissues, bone_depths, joint_space
from ankle_lib.files import AnkleError
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, load, to_orientation

SPACING_MM = 1.0
"""Grid on which the soft tissue is modelled."""

FRAMES = ScanRanges(
    tilt_deg=11.0,
    scale=1.05,
    cut=0.25,
    thick=1.0,
    thick_mm=(8.0, 8.0),
    smooth_profile=0.0,
    sharpness=(0.8, 1.0),
    shading=(0.2, 0.4),
    noise=(0.04, 0.08),
    black_air=1.0,
)
"""Poses and scanner of a dynamic frame."""

DARK, SKIN, MUSCLE, MARROW, FAT = range(1, 6)
"""Classes of `Tissues`."""

ROOM_MM = ((70.0, 24.0), (34.0, -4.0), (24.0, 24.0))
"""Room before the first and after the last bone along each axis. Above, the tibia is cut where it
is still whole."""
SHANK_MM = 30.0
"""So far the tibia goes on above its cut end, as wide as there: frames show more of the shank."""
FLESH_MM = 9.0
"""Soft tissue around the bones."""
BLEND_MM = 4.0
"""Width over which the parts of the skin run into each other."""
SKIN_MM, FAT_MM = 1.3, 4.5
"""Depths below the surface at which skin and subcutaneous fat end."""
CALCANEAL_PITCH_DEG = 20.0
"""Between the calcaneus' long axis and the sole."""
PLATE_MM, PLATE_WIDTH_MM = 20.0, 2.0
"""The tibia's growth plate, above the tip of its malleolus."""
BRIGHT = -2.5
"""Texture of the growth plate: marrow's texture is turned over in `draw_frame_contrast`."""
GAP_MM = 2.0
"""Between the bones of the template and the modelled ones."""

Point = NDArray[np.float64]
Field = NDArray[np.floating]


def read_template(folder: Path) -> dict[str, Volume]:
    """Read the bones of the template from ``calcaneus.nii.gz`` etc.

    Raises
    ------
    AnkleError
        If a file is missing or damaged, or the bones lie on different grids.
    """
    bones = {bone: to_orientation(load(folder / f"{bone}.nii.gz")) for bone in BONES}
    shapes = {volume.shape for volume in bones.values()}
    if len(shapes) > 1:
        raise AnkleError(f"{folder}: bones of shapes {sorted(shapes)}: they must share one grid")
    return bones


def template_frames(
    bones: Mapping[str, Volume], n: int, pixel_mm: float, seed: int = 0
) -> list[Frame]:
    """Render the template in random poses, as the dynamic sequence would show it.

    Parameters
    ----------
    bones : mapping of bone to Volume
        Masks on one grid, axes P, S, R; see `read_template`.
    n : int
    pixel_mm : float
        Pixels of the results.
    seed : int

    Returns
    -------
    list of Frame
        With scans as those of `random_scans.random_scans`, of the subject ``template``.
    """
    rng = np.random.default_rng(seed)
    tissues = dress(bones, rng)
    found = []
    for number in range(n):
        contrast, name = draw_frame_contrast(rng), f"frame {number}"
        scan = take(tissues, contrast, FRAMES, rng, pixel_mm, ("template", "template", name))
        found.append(Frame(name, number, scan, np.eye(4), scan.item.labels))
    return found


def draw_frame_contrast(rng: np.random.Generator) -> Contrast:
    """Draw a contrast like that of the dynamic sequence.

    Marrow is about as bright as muscle; bones are drawn by dark cortex and bright cartilage.
    """
    skin, muscle, marrow, fat, joint = np.array([0.4, 0.64, 0.62, 0.66, 0.95]) * np.exp(
        rng.normal(0, 0.08, 5)
    )
    return Contrast(
        soft=(0.08, skin, muscle, marrow, fat),
        joint=joint,
        bones=tuple(marrow * np.exp(rng.normal(0, 0.03, len(BONES)))),
        cortex=0.05,
        cortex_mm=rng.uniform(1.0, 1.6),
        soft_texture=0.04,
        bone_texture=-0.12,
    )


def dress(bones: Mapping[str, Volume], rng: np.random.Generator) -> Tissues:
    """Model the soft tissue around the bones.

    Parameters
    ----------
    bones : mapping of bone to Volume
        Masks on one grid, axes P, S, R, of either side.
    rng : numpy Generator
        Of the texture.
    """
    cut = _regridded(bones)
    points_of = {bone: SPACING_MM * np.argwhere(mask).astype(float) for bone, mask in cut.items()}
    rods = _rods(**points_of)
    longer = (0, round(SHANK_MM / SPACING_MM))
    masks = {bone: np.pad(mask, ((0, 0), longer, (0, 0)), "edge") for bone, mask in cut.items()}
    spacing = (SPACING_MM, SPACING_MM, SPACING_MM)
    anything = np.logical_or.reduce([*masks.values()])
    points = SPACING_MM * np.moveaxis(np.indices(anything.shape, np.float32), 0, -1)
    flesh, fat, tendons, others = ([_outside(points, rod) for rod in kind] for kind in rods)
    distance = ndimage.distance_transform_edt(~anything, sampling=spacing)
    skin = _blended([distance - FLESH_MM, *flesh])
    classes = np.full(anything.shape, MUSCLE, np.uint8)
    classes[np.minimum.reduce(fat) < 0] = FAT
    classes[np.minimum.reduce(tendons) < 0] = DARK
    classes[(skin > -FAT_MM) & (classes == MUSCLE)] = FAT
    other = np.maximum(np.minimum.reduce(others), GAP_MM - distance)
    classes[other < 0] = DARK
    classes[other < -1.2] = MARROW
    depths = bone_depths(masks, spacing)
    classes[joint_space(depths)] = JOINT
    classes[skin > -SKIN_MM] = SKIN
    foot = (skin <= 0) | anything
    classes[~foot] = 0
    texture = np.zeros(anything.shape, np.float32)
    for sigma in (0.8, 3.0):  # fine and coarse grain, together with a deviation of about one half
        grain = ndimage.gaussian_filter(rng.standard_normal(texture.shape, np.float32), sigma)
        texture += 0.35 * grain / grain.std()
    height = points[..., 1] - _end(points_of["tibia"], 1, -1)[1]
    texture[masks["tibia"] & (np.abs(height - PLATE_MM) < PLATE_WIDTH_MM / 2)] = BRIGHT
    return Tissues(
        spacing, classes, texture, np.max([*depths.values()], axis=0), masks, foot, MARROW - 1
    )


class _Rod(NamedTuple):
    """A tube along a path, wider or narrower along the third axis."""

    path: tuple[Point, ...]
    radius_mm: float
    width: float = 1.0


def _rods(
    calcaneus: Point, talus: Point, tibia: Point
) -> tuple[list[_Rod], list[_Rod], list[_Rod], list[_Rod]]:
    """Model what surrounds the bones, given their points (N, 3) mm: posterior, superior, right.

    Returns
    -------
    flesh, fat, tendons, bones : lists of _Rod
        ``flesh`` is all that the skin encloses.
    """
    heel, front = _end(calcaneus, 0, 1), _end(calcaneus, 0, -1)
    below, head = _end(calcaneus, 1, -1), _end(talus, 0, -1)
    tip, shaft = _end(tibia, 1, -1), _end(tibia, 1, 1)
    lateral = -np.sign(tip[2] - shaft[2]) or 1.0
    pitch = np.arctan2(front[1] - heel[1], heel[0] - front[0]) - np.deg2rad(CALCANEAL_PITCH_DEG)
    ahead = np.array([-np.cos(pitch), np.sin(pitch), 0.0])
    down = np.array([-np.sin(pitch), -np.cos(pitch), 0.0])
    back, up, side = np.diag([1.0, 1.0, lateral])
    middle = (head + front) / 2
    calf = shaft + 12 * back
    achilles = (heel + 2 * back, shaft + 36 * back - 14 * up, shaft + 34 * back + 30 * up)
    toes = middle + 130 * ahead + 14 * down
    ankle_lateral = np.array([calf[0] - 2, tip[1] - 4, shaft[2] + 27 * lateral])
    fibula = (ankle_lateral, shaft + 6 * back + 20 * side + 40 * up)
    flesh = [
        _Rod((calf + 40 * up, calf - 26 * up), 30.0, 0.9),
        _Rod(achilles, 8.0),
        _Rod((calcaneus.mean(axis=0), calf), 20.0),
        _Rod((middle, toes), 19.0, 1.6),
        _Rod((below, below + 40 * ahead), 13.0, 1.4),
        _Rod(fibula, 10.0),
    ]
    fat = [_Rod((heel - 14 * back + 14 * up, shaft + 24 * back - 6 * up), 9.0)]
    tendons = [
        _Rod(achilles, 3.2, 1.8),
        _Rod((head - 12 * back + 10 * up, shaft - 18 * back + 6 * up), 2.5, 2.0),
        _Rod((below + 4 * down, below + 4 * down + 120 * ahead), 1.5, 5.0),
    ]
    bones = [
        _Rod(fibula, 6.0),
        _Rod((head + 9 * ahead, head + 12 * ahead), 9.0, 1.4),
        _Rod((front + 10 * ahead, front + 14 * ahead), 10.0),
    ]
    for start, offset in ((front + 4 * side, 14), (middle, 0), (head, -14)):
        bones.append(_Rod((start + 16 * ahead, toes + offset * side), 5.0))
    return flesh, fat, tendons, bones


def _end(points: Point, axis: int, sign: int, depth_mm: float = 5.0) -> Point:
    """Return the middle of that end of a bone's points that lies farthest along an axis."""
    along = sign * points[:, axis]
    middle: Point = points[along > along.max() - depth_mm].mean(axis=0)
    return middle


def _outside(points: Field, rod: _Rod) -> Field:
    """Return the distance (I, J, K) in mm from a rod's surface, negative inside."""
    scale = np.array([1.0, 1.0, 1 / rod.width], np.float32)
    nearest = np.full(points.shape[:-1], np.inf, np.float32)
    for start, end in pairwise(rod.path):
        first, along = (start * scale).astype(np.float32), ((end - start) * scale)
        offset = points * scale - first
        share = np.clip(offset @ along.astype(np.float32) / float(along @ along), 0, 1)
        offset -= share[..., None] * along.astype(np.float32)
        nearest = np.minimum(nearest, np.sqrt(np.einsum("...i,...i", offset, offset)))
    return nearest - np.float32(rod.radius_mm)


def _blended(parts: Sequence[Field]) -> Field:
    """Return the distance from a smooth union, given the distances from its parts."""
    nearest = np.minimum.reduce([*parts])
    total = sum(np.exp((nearest - part) / BLEND_MM) for part in parts)
    blended: Field = nearest - BLEND_MM * np.log(total)
    return blended


def _regridded(bones: Mapping[str, Volume]) -> dict[str, NDArray[np.bool_]]:
    """Put the bones on a grid of `SPACING_MM` with room around them."""
    masks = {bone: bones[bone].data > 0.5 for bone in BONES}
    empty = [bone for bone, mask in masks.items() if not mask.any()]
    if empty:
        raise AnkleError(f"the template's {empty[0]} is empty: fetch it again")
    step = SPACING_MM / np.array(bones[BONES[0]].voxel_size_mm)
    found = ndimage.find_objects(np.logical_or.reduce([*masks.values()]).view(np.uint8))[0]
    room = np.array(ROOM_MM) / SPACING_MM
    first = np.array([one.start for one in found]) / step - room[:, 0]
    last = np.array([one.stop for one in found]) / step + room[:, 1]
    shape = tuple(int(n) for n in np.ceil(last - first))
    regridded = {}
    for bone, mask in masks.items():
        solid = mask.astype(np.float32)
        moved = ndimage.affine_transform(solid, step, first * step, output_shape=shape, order=1)
        regridded[bone] = moved >= 0.5
    return regridded
