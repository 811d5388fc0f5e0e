"""A frame, the static scan moved into it and the truth, on one sharp grid around the bones."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.reconstruction.nearest_bone import Move, carried_by_nearest_bone
from ankle_lib.reconstruction.thick import Scanning
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.volume import Volume

AROUND_BONE_MM = 5.0
"""A bone is judged with what lies this close: cortex, cartilage, the joint."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One frame on a sharp grid; equal to nothing but itself.

    Attributes
    ----------
    subject, name : str
        Code, and which frame: ``active_run-01 frame 7``.
    group : str
        ``control`` or ``equinus``.
    affine : (4, 4) array
        Of the grid, frame's world, RAS mm; axes posterior, superior, right.
    measured : (I, J, K) float32 array
        The frame, interpolated linearly.
    moved_static : (I, J, K) float32 array
        The static scan in the frame's position, in its own contrast.
    seen : (I, J, K) bool array
        Where the frame has data.
    bones : mapping of name to (I, J, K) bool array
    frame : Volume
        As measured.
    truth : (I, J, K) float32 array, optional
        The frame without noise and with thin slices, which only a simulation knows.
    guided : (I, J, K) float32 array, optional
        Reconstruction without training, see `guided`.
    covered : (I, J, K) bool array, optional
        Where the moved static scan has data; everywhere by default.
    scanning : Scanning, optional
        Noise and k-space of the sequence.
    """

    subject: str
    name: str
    group: str
    affine: NDArray[np.float64]
    measured: NDArray[np.float32]
    moved_static: NDArray[np.float32]
    seen: NDArray[np.bool_]
    bones: Mapping[str, NDArray[np.bool_]]
    frame: Volume
    truth: NDArray[np.float32] | None = None
    guided: NDArray[np.float32] | None = None
    covered: NDArray[np.bool_] | None = None
    scanning: Scanning | None = None

    def __str__(self) -> str:
        return f"{self.subject} {self.name}"

    @property
    def voxel_size_mm(self) -> tuple[float, float, float]:
        """Distance of voxels along each axis."""
        return Volume(self.measured, self.affine).voxel_size_mm

    @cached_property
    def regions(self) -> dict[str, NDArray[np.bool_]]:
        """Each bone and what lies within 5 mm of it, where the frame has data."""
        sizes = self.voxel_size_mm
        return {bone: around(mask, sizes) & self.seen for bone, mask in self.bones.items()}

    @cached_property
    def region(self) -> NDArray[np.bool_]:
        """All regions together."""
        together: NDArray[np.bool_] = np.logical_or.reduce([*self.regions.values()])
        return together

    @cached_property
    def scales(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation in the region, of the frame and of the moved static scan."""
        found = {}
        for name, image in (("measured", self.measured), ("static", self.moved_static)):
            inside = image[self.region]
            mean, sd = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
            if not (np.isfinite([mean, sd]).all() and sd > 1e-6 * abs(mean)):
                raise AnkleError(f"{self}: {name} is constant or not finite about the bones")
            found[name] = (mean, sd)
        return found

    @cached_property
    def checksum(self) -> int:
        """Checksum of everything that a training sees of the scene."""
        number = 0
        for array in (self.measured, self.moved_static, self.region, self.truth):
            if array is not None:
                number = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, number)
        return number

    def with_static(self, moved_static: NDArray) -> Scene:
        """Return the scene with the static scan moved in another way."""
        if moved_static.shape != self.measured.shape:
            raise AnkleError(f"{self}: shape {moved_static.shape} instead of {self.measured.shape}")
        return replace(self, moved_static=moved_static.astype(np.float32))


def make_scene(
    subject: str,
    name: str,
    group: str,
    frame: Volume,
    static: Volume,
    masks: Mapping[str, Volume],
    poses: Mapping[str, ArrayLike],
    shape: tuple[int, int, int],
    affine: ArrayLike,
    *,
    truth: NDArray | None = None,
    move: Move | None = None,
) -> Scene:
    """Bring a frame, the static scan and its bones onto one sharp grid.

    Parameters
    ----------
    subject, name, group : str
    frame : Volume
        3D, thick slices.
    static : Volume
        3D, in its own world.
    masks : mapping of bone to Volume
        On the static scan.
    poses : mapping of bone to (4, 4) array
        Static world to frame world, RAS mm; of bones that were registered.
    shape, affine
        Sharp grid in the frame's world; the truth's, if there is one.
    truth : (I, J, K) array, optional
    move : callable, optional
        How the static scan is moved; `carried_by_nearest_bone` by default.

    Raises
    ------
    AnkleError
        If no bone has a pose, or none of them lies in the grid and in the frame.
    """
    grid = np.asarray(affine, dtype=np.float64)
    known = {bone: np.asarray(pose, dtype=np.float64) for bone, pose in poses.items()}
    known = {bone: known[bone] for bone in masks if bone in known}
    if not known:
        raise AnkleError(f"{subject} {name}: no bone was registered, so nothing can be moved")
    bones = {
        bone: moved_mask(cut_to_mask(masks[bone]), pose, shape, grid, slice_samples=1).data
        for bone, pose in known.items()
    }
    measured, seen = on_grid(frame, shape, grid)
    present = {bone: mask for bone, mask in bones.items() if (mask & seen).any()}
    if not present:
        raise AnkleError(f"{subject} {name}: no bone lies in the grid: is it of another frame?")
    carried = (move or carried_by_nearest_bone)(static, masks, known, shape, grid)
    sharp = None if truth is None else np.asarray(truth, dtype=np.float32)
    return Scene(
        *(subject, name, group, grid, measured, carried.astype(np.float32), seen, present, frame),
        sharp,
    )


def on_grid(
    frame: Volume, shape: tuple[int, int, int], affine: ArrayLike, order: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Interpolate a frame on a sharp grid, out to the outer faces of its voxels.

    Parameters
    ----------
    frame : Volume
        3D.
    shape, affine
        Grid in the frame's world.
    order : int
        0 nearest, 1 linear, 3 cubic B-spline.

    Returns
    -------
    values : float32 array
        Beyond the frame, its outermost voxels go on.
    seen : bool array
        Where the frame has data.
    """
    to_frame = np.linalg.inv(frame.affine) @ np.asarray(affine, dtype=np.float64)
    values: NDArray[Any] = ndimage.affine_transform(
        frame.data.astype(np.float32, copy=False),
        to_frame[:3, :3],
        to_frame[:3, 3],
        output_shape=shape,
        order=order,
        mode="nearest",
    )
    seen = np.ones(shape, dtype=bool)
    index = [np.arange(n, dtype=np.float32) for n in shape]
    for axis, length in enumerate(frame.shape):
        i, j, k = (to_frame[axis, n] * along for n, along in enumerate(index))
        place = i[:, None, None] + j[None, :, None] + (k + to_frame[axis, 3])[None, None]
        seen &= (place >= -0.5) & (place <= length - 0.5)
    return values, seen


def around(
    mask: NDArray[np.bool_], voxel_size_mm: tuple[float, float, float], mm: float = AROUND_BONE_MM
) -> NDArray[np.bool_]:
    """Return the mask and all voxels whose centre lies within ``mm`` of one of its voxels."""
    result = np.zeros_like(mask)
    if not mask.any():
        return result
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    margin = np.ceil(mm / np.asarray(voxel_size_mm)).astype(int) + 1
    wide = tuple(
        slice(max(side.start - m, 0), side.stop + m) for side, m in zip(box, margin, strict=True)
    )
    distance = ndimage.distance_transform_edt(~mask[wide], sampling=voxel_size_mm)
    result[wide] = distance <= mm
    return result
