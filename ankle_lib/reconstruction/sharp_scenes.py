"""A frame, the static scan moved into it and the truth, on one sharp grid around the bones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ankle_lib.cache import digest
from ankle_lib.files import AnkleError
from ankle_lib.geometry import Box, Grid, bounding_box, voxel_size
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all, turn_on
from ankle_lib.patches.source import Batch, pair_correlation
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.reconstruction.guided import guided
from ankle_lib.reconstruction.moving_foot import MovingFoot, Poses, moved_static
from ankle_lib.reconstruction.thick_slices import Scanning, scanning
from ankle_lib.registration.every_sequence import sequence_images
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.truth import read_sharp
from ankle_lib.volume import Volume, load, to_orientation

AROUND_BONE_MM = 5.0
"""A bone is judged with what lies this close: cortex, cartilage, the joint."""

CHANNELS = ("measured", "static")
"""The frame, and the static scan moved into it."""

SIDE_MULTIPLE = 8
"""Sides of what a network sees; a U-Net of four levels halves them three times."""

GPU_SUBJECTS = 4
"""Subjects at a time on a GPU, which holds the static scan of each: 1.5 GB on the report's grid."""

Scales = dict[str, tuple[float, float]]
"""Mean and standard deviation of the images ``measured`` and ``static``."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One frame on a sharp grid; equal to nothing but itself.

    Attributes
    ----------
    subject, name : str
        Code, and which frame: ``active_run-01 frame 7``.
    affine : (4, 4) array
        Of the grid, frame's world, RAS mm; axes posterior, superior, right.
    measured : (I, J, K) float32 array
        The frame, interpolated linearly.
    moved_static : (I, J, K) float32 array
        The static scan in the frame's position, in its own contrast.
    reached : (I, J, K) bool array
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
    affine: NDArray[np.float64]
    measured: NDArray[np.float32]
    moved_static: NDArray[np.float32]
    reached: NDArray[np.bool_]
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
        return voxel_size(self.affine)

    @cached_property
    def regions(self) -> dict[str, NDArray[np.bool_]]:
        """Each bone and what lies within 5 mm of it, where the frame has data."""
        sizes = self.voxel_size_mm
        return {bone: around(mask, sizes) & self.reached for bone, mask in self.bones.items()}

    @cached_property
    def region(self) -> NDArray[np.bool_]:
        """All regions together."""
        together: NDArray[np.bool_] = np.logical_or.reduce([*self.regions.values()])
        return together

    @cached_property
    def scales(self) -> Scales:
        """Mean and standard deviation in the region, of the frame and of the moved static scan."""
        return scales_in(self.region, self.measured, self.moved_static)

    @cached_property
    def checksum(self) -> str:
        """Digest of everything that a training sees of the scene."""
        return digest([self.measured, self.moved_static, self.region, self.truth])


def read_scenes(
    subjects: Sequence[CleanSubject],
    accepted: Sequence[RegisteredFrame],
    truth: Path,
    *,
    most: int | None = None,
    with_guided: bool = False,
    device: str = "cpu",
) -> list[Scene]:
    """Read every frame whose sharp truth is known and whose bones were registered.

    The static scan is moved by the accepted poses, never by the true ones.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    accepted : sequence of RegisteredFrame
        From `quality.review_sheet.read_registered`.
    truth : Path
        Of the simulated cohort; see `registration.truth.read_sharp`.
    most : int, optional
        Scenes per subject; of every sequence in turn, the largest excursion first.
    with_guided : bool
        Reconstruct each frame without training too, see `guided`.
    device : str
        On which the static scan is moved.

    Returns
    -------
    list of Scene
        Empty for real scans.

    Examples
    --------
    >>> scenes = read_scenes(subjects, read_registered(registered), cohort / "truth", most=2)
    """
    read = partial(_scenes_of, accepted, truth, most, with_guided, device)
    jobs = None if device == "cpu" else GPU_SUBJECTS
    found = run_all(read, subjects, n_jobs=jobs, device=device)
    return [scene for scenes in found for scene in scenes]


def _scenes_of(
    accepted: Sequence[RegisteredFrame],
    truth: Path,
    most: int | None,
    with_guided: bool,
    device: str,
    subject: CleanSubject,
) -> list[Scene]:
    chosen = list(_sharp_frames(subject, accepted, truth))[:most]
    if not chosen:
        return []
    static = to_orientation(load(subject.static))
    masks = {bone: to_orientation(load(path)) for bone, path in subject.masks.items()}
    foot = MovingFoot.prepare(static, {b: m.data > 0 for b, m in masks.items()}, device)
    scenes = []
    for sequence, number, sharp, poses in chosen:
        frame = to_orientation(load(subject.sequences[sequence][number]))
        with turn_on(device):
            moved = moved_static(foot, poses, sharp.shape, sharp.affine)
        name = f"{sequence} frame {number}"
        scene = make_scene(subject.code, name, frame, moved.volume, masks, poses, sharp.data)
        if with_guided:
            shared = scanning(sequence_images(subject, sequence)[0])
            with turn_on(device):
                found = guided(moved, frame, shared, device=device).volume.data
            scene = replace(scene, guided=found, covered=moved.covered, scanning=shared)
        scenes.append(scene)
    return scenes


def _sharp_frames(
    subject: CleanSubject, accepted: Sequence[RegisteredFrame], truth: Path
) -> Iterator[tuple[str, int, Volume, Poses]]:
    """Yield sequence, frame, sharp truth and poses: each sequence's last frame, then the others.

    The last one is the frame of the largest excursion.
    """
    known = {name: read_sharp(truth, subject.code, name) for name in subject.sequences}
    ordered = sorted(
        (-place, name, frame)
        for name, frames in known.items()
        for place, frame in enumerate(sorted(frames))
    )
    for _, name, frame in ordered:
        poses = {
            one.bone: one.pose
            for one in accepted
            if (one.subject, one.sequence, one.frame) == (subject.code, name, frame)
        }
        if poses:
            yield name, frame, known[name][frame], poses


def make_scene(
    subject: str,
    name: str,
    frame: Volume,
    moved_static: Volume,
    masks: Mapping[str, Volume],
    poses: Poses,
    truth: NDArray | None = None,
) -> Scene:
    """Bring a frame and its bones onto the sharp grid of the moved static scan.

    Parameters
    ----------
    subject, name : str
    frame : Volume
        3D, thick slices.
    moved_static : Volume
        3D, in the frame's world, on the sharp grid: the truth's, if there is one.
    masks : mapping of bone to Volume
        On the static scan, in its world.
    poses : mapping of bone to (4, 4) array
        Static world to frame world, RAS mm; of bones that were registered.
    truth : (I, J, K) array, optional

    Raises
    ------
    AnkleError
        If no bone has a pose, or none of them lies in the grid and in the frame.
    """
    shape, affine = moved_static.shape, moved_static.affine
    bones = {
        bone: moved_mask(cut_to_mask(mask), poses[bone], shape, affine, slice_samples=1).data
        for bone, mask in masks.items()
        if bone in poses
    }
    measured, reached = on_grid(frame, moved_static.grid)
    present = {bone: mask for bone, mask in bones.items() if (mask & reached).any()}
    if not present:
        raise AnkleError(f"{subject} {name}: no bone lies in the grid: is it of another frame?")
    sharp = None if truth is None else np.asarray(truth, dtype=np.float32)
    carried = moved_static.data.astype(np.float32)
    return Scene(subject, name, affine, measured, carried, reached, present, frame, sharp)


def on_grid(
    frame: Volume, grid: Grid, order: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Interpolate a frame on a sharp grid, out to the outer faces of its voxels.

    Parameters
    ----------
    frame : Volume
        3D.
    grid : shape and affine
        In the frame's world.
    order : int
        0 nearest, 1 linear, 3 cubic B-spline.

    Returns
    -------
    values : float32 array
        Beyond the frame, its outermost voxels go on.
    reached : bool array
        Where the frame has data.
    """
    shape, affine = grid
    to_frame = np.linalg.inv(frame.affine) @ np.asarray(affine, dtype=np.float64)
    values: NDArray[np.float32] = ndimage.affine_transform(
        frame.data.astype(np.float32, copy=False),
        to_frame[:3, :3],
        to_frame[:3, 3],
        output_shape=shape,
        order=order,
        mode="nearest",
    )
    reached = np.ones(shape, dtype=bool)
    index = [np.arange(n, dtype=np.float32) for n in shape]
    for axis, length in enumerate(frame.shape):
        i, j, k = (to_frame[axis, n] * along for n, along in enumerate(index))
        place = i[:, None, None] + j[None, :, None] + (k + to_frame[axis, 3])[None, None]
        reached &= (place >= -0.5) & (place <= length - 0.5)
    return values, reached


def scales_in(region: NDArray[np.bool_], measured: NDArray, static: NDArray) -> Scales:
    """Return mean and standard deviation in a region, of a frame and of the moved static scan.

    Raises
    ------
    AnkleError
        If the region is empty, or an image constant or not finite there.
    """
    if not region.any():
        raise AnkleError("there is nothing to reconstruct: no bone lies where the frame has data")
    found = {}
    for name, image in (("measured", measured), ("static", static)):
        inside = image[region]
        mean, sd = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
        if not (np.isfinite([mean, sd]).all() and sd > 1e-6 * abs(mean)):
            words = {"measured": "frame", "static": "moved static scan"}[name]
            raise AnkleError(f"the {words} is constant or not finite about the bones ({mean:g})")
        found[name] = (mean, sd)
    return found


def around(
    mask: NDArray[np.bool_], voxel_size_mm: tuple[float, float, float], mm: float = AROUND_BONE_MM
) -> NDArray[np.bool_]:
    """Return the mask and all voxels whose centre lies within ``mm`` of one of its voxels."""
    result = np.zeros_like(mask)
    box = bounding_box(mask, np.ceil(mm / np.asarray(voxel_size_mm)) + 1)
    if box is not None:
        distance = ndimage.distance_transform_edt(~mask[box], sampling=voxel_size_mm)
        result[box] = distance <= mm
    return result


# --- as a network gets them: normalised channels, what to learn, and patches drawn of both ---


def channels_of(
    measured: NDArray,
    moved_static: NDArray,
    scales: Scales,
    channels: Sequence[str] = CHANNELS,
) -> NDArray[np.float32]:
    """Return what a network sees, shape (channels, I, J, K).

    Parameters
    ----------
    measured, moved_static : (I, J, K) arrays
    scales : dict
        Mean and standard deviation about the bones of ``measured`` and ``static``: each image is
        normalised by its own, see `Scene.scales`.
    channels : sequence of str
        Of `CHANNELS`.
    """
    images = {"measured": measured, "static": moved_static}
    return np.stack(
        [((images[one] - scales[one][0]) / scales[one][1]).astype(np.float32) for one in channels]
    )


class SceneSource:
    """Slices of many scenes on one device, and patches drawn from them about the bones.

    Parameters
    ----------
    scenes : sequence of Scene
        With truth; all with pixels of one size.
    pixels : int, optional
        Rows and columns of a patch, whose middle lies in the region. Without it whole slices are
        drawn, cut or continued to one size: that of the largest region.
    channels : sequence of str
        What the network sees, see `CHANNELS`.
    residual : bool
        Learn what the interpolated frame lacks instead of the image itself.
    device : torch device

    Attributes
    ----------
    size : (int, int)
        Rows and columns of what is drawn.

    Raises
    ------
    AnkleError
        If a scene has no truth, or there is none.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        pixels: int | None = None,
        *,
        channels: Sequence[str] = CHANNELS,
        residual: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if not scenes:
            raise AnkleError("no scene to learn from: were all registrations rejected?")
        self.device = torch.device(device)
        boxes = [_box(scene) for scene in scenes]
        self.size = (pixels, pixels) if pixels else whole_size(scenes)
        self._names = [(str(scene), box[2].start) for scene, box in zip(scenes, boxes, strict=True)]
        images: list[Tensor] = []
        targets: list[Tensor] = []
        places: list[NDArray[np.int16]] = []
        for number, (scene, box) in enumerate(zip(scenes, boxes, strict=True)):
            if scene.truth is None:
                raise AnkleError(f"{scene}: there is no truth to learn from")
            image = channels_of(scene.measured, scene.moved_static, scene.scales, channels)
            mean, sd = scene.scales["measured"]
            lacking = (scene.truth - (scene.measured if residual else mean)) / sd
            images.append(self._around(box, image))
            targets.append(self._around(box, lacking[None]))
            inside = np.moveaxis(scene.region[box], 2, 0)
            k, row, column = np.nonzero(inside)
            if not pixels:  # the slice's middle, as often as the slice shows bone
                row[:], column[:] = inside.shape[1] // 2, inside.shape[2] // 2
            places.append(np.stack([np.full_like(k, number), k, row, column]).astype(np.int16))
        self._places = torch.from_numpy(np.concatenate(places, axis=1)).to(self.device)
        # all scenes in one long tensor, so that a draw need not wait for the GPU to know which
        self._images, self._targets = (
            torch.cat([one.flatten() for one in parts]) for parts in (images, targets)
        )
        sizes = torch.tensor([one.shape for one in targets])
        voxels = sizes.prod(1)
        table = torch.stack([voxels.cumsum(0) - voxels, sizes[:, 2] * sizes[:, 3], sizes[:, 3]])
        self._table = table.to(self.device)  # where a scene begins, pixels of a slice, of a row
        self._channels = torch.arange(len(channels), device=self.device)
        self._rows, self._columns = (torch.arange(n, device=self.device) for n in self.size)

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        """Draw ``n`` patches at random, with replacement, every voxel of the regions alike."""
        n_places = self._places.shape[1]
        chosen = torch.randint(n_places, (n,), generator=generator, device=self.device)
        where = self._places[:, chosen].T.long()
        number, k, row, column = where.unbind(1)
        first, area, width = self._table[:, number]
        corner = first + k * area + row * width + column
        inside = (self._rows[:, None] * width[:, None, None]) + self._columns
        target = self._targets.take(corner[:, None, None] + inside)[:, None].float()
        # the channels of a slice follow each other
        before = (len(self._channels) - 1) * (first + k * area)
        channel = self._channels * area[:, None] + (corner + before)[:, None]
        image = self._images.take(channel[:, :, None, None] + inside[:, None]).float()
        valid = torch.ones((n, 1), dtype=torch.bool, device=self.device)
        alike = pair_correlation(image[:, :1], target)
        return Batch(image, target, valid, alike, where, self.describe)

    def describe(self, where: Sequence[int]) -> str:
        """Return scene, slice and middle in words."""
        name, first = self._names[int(where[0])]
        return f"{name}, slice {int(where[1]) + first}, about row {where[2]}, column {where[3]}"

    def _around(self, box: Box, images: NDArray) -> Tensor:
        """Return slices (K, channels, H, W) of a box with half a patch more on every side."""
        height, width = self.size
        wide = np.pad(
            images[..., box[2]], ((0, 0), (height, height), (width, width), (0, 0)), mode="edge"
        )
        rows, columns = (
            slice(side.start + size - size // 2, side.stop + 2 * size - size // 2)
            for side, size in zip(box, self.size, strict=False)
        )
        slices = torch.from_numpy(wide[:, rows, columns]).to(self.device).permute(3, 0, 1, 2)
        return slices.half().contiguous()


def whole_size(scenes: Sequence[Scene]) -> tuple[int, int]:
    """Return rows and columns that hold the region of every scene, in multiples of eight."""
    boxes = [_box(scene) for scene in scenes]
    rows, columns = (max(box[axis].stop - box[axis].start for box in boxes) for axis in (0, 1))
    return rows + -rows % SIDE_MULTIPLE, columns + -columns % SIDE_MULTIPLE


def _box(scene: Scene) -> Box:
    box = bounding_box(scene.region)
    if box is None:
        raise AnkleError(f"{scene}: its bones lie where the frame has no data")
    return box
