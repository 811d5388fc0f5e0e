"""The toy ankle in motion: frames in another contrast, whose sharp truth and poses are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.geometry import apply, compose, rigid
from ankle_lib.reconstruction.moving_foot import MovedScan, MovingFoot, moved_static
from ankle_lib.volume import Volume, resample
from tests.toy_ankle import DYNAMIC_MM, DYNAMIC_SHAPE, STATIC_MM, STATIC_SHAPE, oblique_affine

NOISE = 40.0
ANKLE = np.array([5.0, -25.0, 15.0])
"""World position of the hinge, in the middle of a round talus."""


@dataclass(frozen=True)
class Motion:
    """What `reconstruct_frames` takes, and what it should find."""

    static: Volume
    masks: dict[str, NDArray[np.bool_]]
    frames: Volume
    poses: list[dict[str, NDArray[np.float64]]]
    truth: list[Volume]


def hinge(angle_deg: float) -> dict[str, NDArray[np.float64]]:
    """Poses of a leg that has moved a little and a foot turned against it about left-right."""
    leg = rigid((2.0, -1.0, 1.0), (1.0, -2.0, 1.5))
    foot = compose(leg, rigid((angle_deg, 0, 0), (0, 0, 0), ANKLE))
    return {"calcaneus": foot, "talus": foot, "tibia": leg}


def dynamic(image: NDArray) -> NDArray[np.float32]:
    """Another contrast: marrow and muscle alike, what lies between them brighter."""
    return np.interp(image, [0, 200, 600, 1100], [0, 150, 1200, 700]).astype(np.float32)


def motion(angles: tuple[float, ...] = (0.0, 12.0), *, noise: float = NOISE) -> Motion:
    """Return a foot with textured bones, and one frame for each angle, in noise."""
    affine = oblique_affine(STATIC_SHAPE, STATIC_MM)
    image, masks = _anatomy(apply(affine, np.moveaxis(np.indices(STATIC_SHAPE), 0, -1)) - ANKLE)
    random = np.random.default_rng(3)
    grain = ndimage.gaussian_filter(random.normal(0, 1, STATIC_SHAPE), 1.2)
    clean = (image * (1 + grain)).astype(np.float32)
    static = Volume(clean, affine)
    foot = MovingFoot.prepare(Volume(dynamic(clean), static.affine), masks)
    place = oblique_affine(DYNAMIC_SHAPE, DYNAMIC_MM)
    poses = [hinge(angle) for angle in angles]
    truth = [moved_static(foot, p, static.shape, static.affine).volume for p in poses]
    frames = []
    for sharp in truth:
        thick = resample(sharp, DYNAMIC_SHAPE, place, slice_samples=12).data
        parts = random.normal(0, noise, (2, *thick.shape))
        frames.append(np.hypot(thick + parts[0], parts[1]))
    return Motion(
        static, masks, Volume(np.stack(frames, axis=3).astype(np.float32), place), poses, truth
    )


def _anatomy(
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    """Image and masks at points (..., 3) around the hinge: bones 3 mm apart, dark outside."""
    x, y, z = np.moveaxis(points, -1, 0)
    talus = np.linalg.norm(points, axis=-1) - 14
    shaft = np.maximum(
        np.hypot(x, y) - 15, np.maximum(z - 46, 17 - np.linalg.norm(points, axis=-1))
    )
    heel = np.maximum(
        np.linalg.norm((points - [0, -8, -26]) / [16, 32, 15], axis=-1) * 15 - 15,
        17 - np.linalg.norm(points, axis=-1),
    )
    depths = {"calcaneus": heel, "talus": talus, "tibia": np.where(z > 4, shaft, 20.0)}
    leg = np.hypot(x, y / 1.1) - 30
    sole = np.linalg.norm((points - [0, 5, -22]) / [30, 58, 26], axis=-1) * 26 - 26
    image = np.where((np.minimum(np.where(z > -20, leg, 99), sole) < 0) & (z < 62), 600.0, 0.0)
    for depth in depths.values():
        image = np.where(depth < 0, 200.0, image)
        image = np.where(depth < -3, 1100.0, image)
    return image, {bone: depth < 0 for bone, depth in depths.items()}


def moved_scan(scene: Motion, frame: int) -> MovedScan:
    """The static scan of a scene, moved into a frame on its own grid."""
    foot = MovingFoot.prepare(scene.static, scene.masks)
    return moved_static(foot, scene.poses[frame], scene.static.shape, scene.static.affine)
