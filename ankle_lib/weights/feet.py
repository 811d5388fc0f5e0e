"""Children's feet to learn from, none of them of the cohort: bones of the phantom, any flesh.

A network that has seen the phantom's flesh alone takes it for the world, and finds no bone where
muscles, skin and fat lie otherwise. So half of the feet have flesh that is made of noise: blobs
and strands of tissue of all sizes, under a skin that follows the bones at some distance. What a
scanner sees of a foot is drawn afterwards, see `learning.random_scans`.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.geometry import apply
from ankle_lib.learning.random_scans import (
    AIR,
    JOINT,
    MOST_TEXTURE,
    N_SOFT,
    RIM_MM,
    Image,
    Tissues,
    between_bones,
    bone_depths,
    tissues_of,
)
from ankle_lib.learning.scans import Scan
from ankle_lib.patches.items import Item, zscore
from ankle_lib.phantom.anatomy import bone_distances, build
from ankle_lib.phantom.fields import Field
from ankle_lib.phantom.motion import Pose
from ankle_lib.phantom.scanner import mark, render
from ankle_lib.phantom.shapes import GROUP_OF_BONE
from ankle_lib.phantom.subjects import SUBJECTS, Recipe, draw_recipe, ideal_poses
from ankle_lib.presets import BONES

FIRST_SEED = 100_000
"""Children are drawn from this seed on, far from those of the cohorts."""
ROUGHNESS_MM, BONE_RADIUS, AGE_SIZE = (0.5, 2.0), 0.05, (0.8, 1.25)
"""How much bones differ: their warp, thickness and size, wider than in the cohort."""
MARGIN_MM = (8.0, 50.0)
"""Between the three bones and the borders of a foot."""
SHANK_MM = (35.0, 85.0)
"""Of the shank seen above the talus: a field of view cuts through the tibia."""
SKIN_MM, SKIN_GRAIN_MM, SKIN_THICKNESS_MM = (4.0, 35.0), 40.0, 1.5
"""The skin's distance from the bones."""
RIM_OF_FAT_MM = 8.0
"""Thickest fat under the skin."""
BLOBS_MM = (2.0, 30.0)
"""Size of blobs of tissue, along each axis."""
STRANDS = 0.05
"""Tissue where noise is nearly 0: sheets and strands of tendon."""
TEXTURE, GRAIN_MM = (0.2, 1.0), (1.5, 8.0)
"""Of the texture."""
OTHER_CORTEX_MM = 1.2

DARK, SKIN, FAT = 1, 2, N_SOFT
"""Classes of `random_scans.Tissues`."""


def random_foot(number: int, seed: int, spacing_mm: float, *, flesh: str) -> Tissues:
    """Return a child's foot, in a random pose of its range.

    Parameters
    ----------
    number, seed : int
        Which of the feet of a seed.
    spacing_mm : float
        Of the voxels, along all axes (posterior, superior, right).
    flesh : {"phantom", "noise"}
    """
    rng = np.random.default_rng([seed, number])
    recipe = draw_recipe(str(rng.choice(SUBJECTS)), FIRST_SEED + 1000 * seed + number)
    child = replace(
        recipe.child,
        roughness_mm=rng.uniform(*ROUGHNESS_MM),
        bone_radius=BONE_RADIUS,
        size=recipe.child.size * rng.uniform(*AGE_SIZE),
    )
    recipe = replace(recipe, child=child)
    pose = recipe.pose(rng.uniform(recipe.lowest_deg, recipe.highest_deg))
    make = _of_noise if flesh == "noise" else _of_phantom
    return make(recipe, pose, rng, spacing_mm)


def _of_phantom(recipe: Recipe, pose: Pose, rng: np.random.Generator, spacing_mm: float) -> Tissues:
    anatomy = build(recipe.child, ideal_poses(recipe), soft_voxel_mm=spacing_mm)
    distances = {name: bone.distance for name, bone in anatomy.bones.items()}
    grid = _grid(distances, pose, rng, spacing_mm)
    seen = render(anatomy, pose, np.eye(4), grid, "static")
    image, foot = seen.signal.numpy(), seen.inside.numpy() >= 0.5
    labels = {bone: mask.numpy() > 0 for bone, mask in zip(BONES, seen.bones, strict=True)}
    item = Item(recipe.code, "phantom", zscore(image, foot), foot, labels)
    return tissues_of(Scan(item, recipe.group, (spacing_mm,) * 3))


def _of_noise(recipe: Recipe, pose: Pose, rng: np.random.Generator, spacing_mm: float) -> Tissues:
    distances = bone_distances(recipe.child, ideal_poses(recipe))
    grid = _grid(distances, pose, rng, spacing_mm)
    masks = {
        name: mark(field, GROUP_OF_BONE[name], pose, np.eye(4), grid).numpy() > 0
        for name, field in distances.items()
    }
    bones = {bone: masks.pop(bone) for bone in BONES}
    return noise_foot(bones, _union(masks), rng, spacing_mm)


def noise_foot(
    bones: Mapping[str, NDArray[np.bool_]],
    others: NDArray[np.bool_],
    rng: np.random.Generator,
    spacing_mm: float,
) -> Tissues:
    """Return bones in flesh of noise.

    Parameters
    ----------
    bones : mapping of bone to (I, J, K) bool array
    others : (I, J, K) bool array
        Bones besides these, which look like them.
    rng : numpy Generator
    spacing_mm : float
        Of the voxels, along all axes.
    """
    shape, spacing, inside = others.shape, (spacing_mm,) * 3, _union(bones)
    outside = ndimage.distance_transform_edt(~(others | inside), spacing)
    skin = rng.uniform(*SKIN_MM) * np.exp(0.3 * _noise(shape, SKIN_GRAIN_MM / spacing_mm, rng))
    below = (skin - outside).astype(np.float32)
    blobs = np.stack([_blobs(shape, spacing_mm, rng) for _ in range(N_SOFT)])
    classes = (1 + blobs.argmax(0)).astype(np.uint8)
    classes[np.abs(_blobs(shape, spacing_mm, rng)) < STRANDS] = DARK
    classes[below < rng.uniform(0, RIM_OF_FAT_MM)] = FAT
    classes[below < SKIN_THICKNESS_MM] = SKIN
    marrow = int(rng.integers(N_SOFT))
    classes[others] = 1 + marrow
    classes[others & (ndimage.distance_transform_edt(others, spacing) < OTHER_CORTEX_MM)] = DARK
    depths = bone_depths(bones, spacing)
    depth = np.max([*depths.values()], axis=0)
    classes[between_bones(depths) & ~others & ~inside] = JOINT
    classes[below <= 0] = AIR
    texture = rng.uniform(*TEXTURE) * _noise(shape, rng.uniform(*GRAIN_MM) / spacing_mm, rng)
    texture[inside] *= np.clip(depth[inside] / RIM_MM, 0, 1)
    texture = np.where(below > 0, texture.clip(-MOST_TEXTURE, MOST_TEXTURE), 0)
    return Tissues(spacing, classes, texture, depth, bones, below > 0, marrow)


def _union(bones: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    union: NDArray[np.bool_] = np.logical_or.reduce([*bones.values()])
    return union


def _grid(
    distances: Mapping[str, Field], pose: Pose, rng: np.random.Generator, spacing_mm: float
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Return a grid around three bones, axes posterior, superior, right of a left foot's frame."""
    points = {}
    for bone in BONES:
        field = distances[bone]
        inside = field.points()[field.values[0] < 0].numpy()
        points[bone] = apply(pose.matrix(GROUP_OF_BONE[bone]), inside)
    together = np.concatenate([*points.values()])
    low = together.min(axis=0) - rng.uniform(*MARGIN_MM, 3)
    high = together.max(axis=0) + rng.uniform(*MARGIN_MM, 3)
    high[2] = points["talus"][:, 2].max() + rng.uniform(*SHANK_MM)
    right, anterior, superior = np.ceil((high - low) / spacing_mm).astype(int) + 1
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2] = -spacing_mm, spacing_mm, spacing_mm
    affine[:, 3] = low[0], high[1], low[2], 1
    return (int(anterior), int(superior), int(right)), affine


def _blobs(shape: tuple[int, ...], spacing_mm: float, rng: np.random.Generator) -> Image:
    low, high = np.log(BLOBS_MM)
    return _noise(shape, np.exp(rng.uniform(low, high, 3)) / spacing_mm, rng)


def _noise(shape: tuple[int, ...], grain: object, rng: np.random.Generator) -> Image:
    """Return smooth noise of unit variance; its lattice has a point each ``grain`` voxels."""
    steps = np.broadcast_to(np.asarray(grain, dtype=float), 3)
    size = [max(2, round(n / step) + 1) for n, step in zip(shape, steps, strict=True)]
    lattice = torch.from_numpy(rng.standard_normal((1, 1, *size), dtype=np.float32))
    made = torch.nn.functional.interpolate(
        lattice, size=shape, mode="trilinear", align_corners=True
    )[0, 0].numpy()
    return np.asarray(made / made.std(), dtype=np.float32)
