"""A textured ellipsoid in noise and the thick-slice frames of it, made without the engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.geometry import apply, compose, invert, rigid
from ankle_lib.volume import Volume

STATIC_MM = (1.0, 1.2, 1.5)
SHAPE = (72, 60, 44)
CENTRE = np.array([4.0, -12.0, 8.0])
"""World position of the bone in the static scan."""

FRAME_MM = (1.5, 1.5, 6.0)
FRAME_SHAPE = (52, 50, 9)


@dataclass(frozen=True)
class Scene:
    """A static scan, a bone on it, and frames in which the bone is at known poses."""

    static: Volume
    bone: NDArray[np.bool_]
    weights: NDArray[np.float32]
    frames: Volume
    truth: NDArray[np.float64]
    """(F, 4, 4)."""


def scene(
    poses: list[NDArray[np.float64]],
    *,
    static_sign: int = 1,
    frame_sign: int = 1,
    look: Callable[[NDArray], NDArray] = lambda grey: grey,
) -> Scene:
    """Return a scene; a sign of -1 reverses the first axis of the array and its determinant.

    ``look`` gives the frames another contrast.
    """
    affine = oblique(SHAPE, (static_sign * STATIC_MM[0], *STATIC_MM[1:]), (7, -5, 12), CENTRE)
    points = apply(affine, np.moveaxis(np.indices(SHAPE), 0, -1)) - CENTRE
    bone = ((points / [19.0, 15.0, 12.0]) ** 2).sum(-1) <= 1
    # Texture by position in the world, so that both signs show the same bone.
    grain = np.random.default_rng(5).normal(0, 1, (64, 64, 64))
    grain = ndimage.gaussian_filter(grain, 2.2, mode="wrap")
    values = ndimage.map_coordinates(
        grain / grain.std(), points.reshape(-1, 3).T + 32, order=1, mode="grid-wrap"
    )
    image = 600 + 150 * values.reshape(SHAPE) + 250 * bone
    static = Volume(image.astype(np.float32), affine)
    weights = ndimage.gaussian_filter(bone.astype(np.float32), 1.0)
    frame_affine = oblique(
        FRAME_SHAPE, (frame_sign * FRAME_MM[0], *FRAME_MM[1:]), (-4, 9, 6), CENTRE
    )
    shown = Volume(look(static.data), affine)
    frames = [_frame(shown, pose, frame_affine) for pose in poses]
    return Scene(
        static,
        bone,
        weights.astype(np.float32),
        Volume(np.stack(frames, axis=3), frame_affine),
        np.array(poses),
    )


def turned(angle_deg: float, shift_mm: tuple[float, float, float] = (1.0, -2.0, 1.5)) -> NDArray:
    """A pose that turns about an axis near left-right through the bone."""
    return rigid(np.array([0.95, 0.2, -0.24]) * angle_deg, shift_mm, CENTRE)


def oblique(
    shape: tuple[int, int, int], sizes: tuple[float, ...], turn_deg: tuple[float, ...], centre
) -> NDArray[np.float64]:
    """An affine whose first axes run to posterior and superior, the grid centred in the world."""
    axes = np.zeros((4, 4))
    axes[1, 0], axes[2, 1], axes[0, 2], axes[3, 3] = -sizes[0], sizes[1], sizes[2], 1
    affine = rigid(turn_deg, (0, 0, 0)) @ axes
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _frame(static: Volume, pose: NDArray, affine: NDArray, n_parts: int = 12) -> NDArray:
    """Sum thin planes across each slice; gain, offset, shading and noise of its own."""
    total = np.zeros(FRAME_SHAPE)
    voxels = np.moveaxis(np.indices(FRAME_SHAPE).astype(float), 0, -1)
    to_static = compose(np.linalg.inv(static.affine), invert(pose), affine)
    for part in (np.arange(n_parts) + 0.5) / n_parts - 0.5:
        where = apply(to_static, voxels + np.array([0, 0, part])).reshape(-1, 3).T
        total += ndimage.map_coordinates(static.data, where, order=1).reshape(FRAME_SHAPE)
    shading = 1 + 0.004 * (voxels[..., 0] - 26)
    noise = np.random.default_rng(9).normal(0, 12, FRAME_SHAPE)
    return (0.8 * shading * total / n_parts + 90 + noise).astype(np.float32)
