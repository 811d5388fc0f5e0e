"""The second generator's children as files, and as networks get them.

``raw/C01/static.nii.gz`` and ``active.nii.gz`` are what a scanner leaves, ``static_dseg.nii.gz``
and ``active_dseg.nii.gz`` what a reader would outline; ``truth/C01/active.json`` holds the poses,
``active_frame-07_sharp.nii.gz`` one frame as no scanner measures it. Nothing else is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib import cache
from ankle_lib.files import AnkleError, write_json
from ankle_lib.geometry import Grid, Matrix, apply, rigid
from ankle_lib.learning.scans import Scan
from ankle_lib.masking.foot import find_foot
from ankle_lib.parallel import run_all
from ankle_lib.patches.items import Item, zscore
from ankle_lib.pose_files import CONVENTION
from ankle_lib.presets import BONES, LABELS, SmallDataSizes
from ankle_lib.registration.truth import TruePoses, read_sharp, read_true_poses
from ankle_lib.small_data import second_generator as generator
from ankle_lib.volume import Volume, load, save, to_orientation

SEQUENCE = "active"
N_SLICES = 7
MARGIN_MM = (24.0, 20.0)
"""Around the bones of the static pose, along posterior and superior."""
OFF_MM, TILT_DEG, PHASE = (12.0, 9.0, 4.0), 5.0, 0.05
"""How far, at most, a field of view lies off along posterior, superior and right; how far frames
are tilted, about each axis; by which part of a cycle its first frame is late."""
STATIC_SLICE_MM, STATIC_SIDE_MM = 1.6, 32.0
"""Thickness of the static scan's slices, and what they cover on either side of the middle."""


# --- writing ---


def read_template(paths: Mapping[str, Path], spacing_mm: float) -> generator.Masks:
    """Read masks of the three bones onto one grid of cubes, axes posterior, superior, right.

    Parameters
    ----------
    paths : mapping of bone to file
        All on one grid.
    spacing_mm : float
        Of the result.

    Raises
    ------
    AnkleError
        If a bone is empty.
    """
    masks = {}
    for bone in BONES:
        volume = to_orientation(load(paths[bone]))
        finer = np.array(volume.voxel_size_mm) / spacing_mm
        inside = (volume.data > 0).astype(np.float32)
        masks[bone] = ndimage.zoom(inside, finer, order=1, grid_mode=True, mode="nearest") >= 0.5
        if not masks[bone].any():
            raise AnkleError(f"{paths[bone]}: the mask is empty: look at it in a viewer")
    return masks


def write_target(
    folder: Path, template: Mapping[str, Path], codes: Sequence[str], sizes: SmallDataSizes,
    n_frames: int, seed: int = 0,
) -> None:  # fmt: skip
    """Simulate children and write their files; what is there already is kept.

    Parameters
    ----------
    folder : Path
    template : mapping of bone to mask file
        That all bones are like.
    codes : sequence of str
        Of the children; a child depends on its own code and the seed only.
    sizes : SmallDataSizes
    n_frames : int
    seed : int

    Examples
    --------
    >>> write_target(folder, template, ["C01", "C02"], get_preset("smoke").small_data, 5)
    """
    bones = read_template(template, sizes.anatomy_mm)
    write = partial(_written_once, folder, bones, sizes, n_frames, seed)
    run_all(write, list(codes), desc="simulating the target domain")


def _written_once(
    folder: Path, bones: generator.Masks, sizes: SmallDataSizes, n_frames: int, seed: int, code: str
) -> None:
    settings = [dict(bones), sizes.anatomy_mm, sizes.target_pixel_mm, n_frames, seed]
    work = partial(_written, folder, bones, sizes, n_frames, seed, code)
    cache.remembered(folder / "made" / f"{code}.json", work, settings=settings)


def _written(
    folder: Path, bones: generator.Masks, sizes: SmallDataSizes, n_frames: int, seed: int, code: str
) -> str:
    """Make a child, let it move, scan it, write its files."""
    rng, spacing = np.random.default_rng([seed, *code.encode()]), sizes.anatomy_mm
    child = generator.make_child(bones, spacing, rng)
    motion = generator.draw_motion(child, rng)
    raw, truth = folder / "raw" / code, folder / "truth" / code
    pixel, n_static = sizes.target_pixel_mm, round(2 * STATIC_SIDE_MM / STATIC_SLICE_MM)
    static = _grid(child, (pixel, pixel, STATIC_SLICE_MM), n_static, np.eye(4), rng)
    image, labels = generator.scan(child, [dict.fromkeys(BONES, np.eye(4))], static, "static", rng)
    save(raw / "static.nii.gz", image, static[1], scale="auto")
    save(raw / "static_dseg.nii.gz", labels, static[1])
    tilt = rigid(rng.uniform(-TILT_DEG, TILT_DEG, 3), (0, 0, 0))
    grid = _grid(child, (pixel, pixel, generator.SLICE_MM), N_SLICES, tilt, rng)
    late = rng.uniform(-PHASE, PHASE)
    images, outlines, written = [], [], []
    for frame in range(n_frames):
        moments = frame + generator.EXPOSURE * (
            np.arange(generator.EXPOSURES) / (generator.EXPOSURES - 1) - 0.5
        )
        moving = [motion.poses(late + moment / n_frames) for moment in moments]
        gain = 1 + generator.DRIFT * np.sin(2 * np.pi * frame / n_frames)
        image, labels = generator.scan(child, moving, grid, "frame", rng, gain)
        images.append(image)
        outlines.append(labels)
        poses = moving[generator.EXPOSURES // 2]
        angle = motion.dorsiflexion_deg(late + frame / n_frames)
        matrices = {bone: pose.tolist() for bone, pose in poses.items()}
        written.append({"frame": frame, "dorsiflexion_deg": angle, "poses": matrices})
        if frame == n_frames // 2:
            sharp, _ = generator.scan(child, [poses], static, "frame", None, gain)
            save(truth / f"{SEQUENCE}_frame-{frame:02d}_sharp.nii.gz", sharp, static[1])
    save(raw / f"{SEQUENCE}.nii.gz", np.stack(images, axis=-1), grid[1], scale="auto")
    save(raw / f"{SEQUENCE}_dseg.nii.gz", np.stack(outlines, axis=-1), grid[1])
    write_json(truth / f"{SEQUENCE}.json", {"convention": CONVENTION, "frames": written})
    return code


def _grid(
    child: generator.Child, voxel_mm: Sequence[float], n_slices: int, tilt: Matrix,
    rng: np.random.Generator,
) -> Grid:  # fmt: skip
    """Return a grid about the child's bones, as somebody placed it, axes P, S, R."""
    inside = np.argwhere((child.depth.numpy() < 0).any(axis=0))
    world = apply(child.affine, inside)
    off = rng.uniform(-1, 1, 3) * OFF_MM
    low, high = world.min(axis=0), world.max(axis=0)
    back, front = off[0] + low[1] - MARGIN_MM[0], off[0] + high[1] + MARGIN_MM[0]
    bottom, top = off[1] + low[2] - MARGIN_MM[1], off[1] + high[2] + 6  # the shank goes on
    rows, columns = (int((front - back) / voxel_mm[0]), int((top - bottom) / voxel_mm[1]))
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = *(-1, 1, 1) * np.array(voxel_mm), 1
    middle = (low[0] + high[0]) / 2 + off[2]
    affine[:3, 3] = middle - (n_slices - 1) / 2 * voxel_mm[2], front, bottom
    return (rows, columns, n_slices), tilt @ affine


# --- reading ---


@dataclass(frozen=True, eq=False)
class TargetChild:
    """One child of the target domain.

    Attributes
    ----------
    code : str
    static, frames : Volume
        3D and 4D, axes posterior, superior, right.
    static_labels, frame_labels : (I, J, K) and (I, J, K, F) uint8 arrays
    poses : list of bone to (4, 4) array
        True ones, static world to frame world.
    sharp : dict of frame to Volume
    """

    code: str
    static: Volume
    frames: Volume
    static_labels: NDArray[np.uint8]
    frame_labels: NDArray[np.uint8]
    poses: TruePoses
    sharp: dict[int, Volume]

    @cached_property
    def checksum(self) -> str:
        """Digest of everything that a score sees of the child."""
        images = [[one.data, one.affine] for one in (self.static, self.frames)]
        return cache.digest([self.code, images, self.static_labels, self.frame_labels, self.poses])

    def masks(self, frame: int | None = None) -> dict[str, NDArray[np.bool_]]:
        """Return where each bone is, in a frame or, without one, in the static scan."""
        labels = self.static_labels if frame is None else self.frame_labels[..., frame]
        return {bone: labels == LABELS[bone] for bone in BONES}

    def scan(self, frame: int | None = None, *, labelled: bool = True) -> Scan:
        """Return a frame, or the static scan, normalised inside the foot."""
        volume = self.static if frame is None else self.frames.frame(frame)
        foot = find_foot(volume.data)
        name = "static" if frame is None else f"{SEQUENCE} frame {frame}"
        labels = self.masks(frame) if labelled else {}
        item = Item(self.code, name, zscore(volume.data, foot), foot, labels)
        return Scan(item, "equinus", volume.voxel_size_mm)


def read_target(folder: Path, codes: Sequence[str]) -> list[TargetChild]:
    """Read children that `write_target` has written."""
    children = []
    for code in codes:
        raw = folder / "raw" / code
        static, static_labels, frames, labels = (
            to_orientation(load(raw / f"{name}.nii.gz"))
            for name in ("static", "static_dseg", SEQUENCE, f"{SEQUENCE}_dseg")
        )
        outlines = [one.data.astype(np.uint8) for one in (static_labels, labels)]
        poses = read_true_poses(folder / "truth", code, SEQUENCE)
        sharp = read_sharp(folder / "truth", code, SEQUENCE)
        children.append(TargetChild(code, static, frames, outlines[0], outlines[1], poses, sharp))
    return children
