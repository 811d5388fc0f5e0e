"""`ankle reconstruct`: a thick-sliced sequence made as sharp as the static scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ankle_lib.figures.reconstruction import Still, reconstruction_filmstrip
from ankle_lib.files import FIGURE_DPI, AnkleError
from ankle_lib.foot.reading import Scans, read_scans
from ankle_lib.foot.results import Outcome, beside, frames_in_words
from ankle_lib.geometry import Grid
from ankle_lib.learning.checkpoints import Checkpoint, load_checkpoint
from ankle_lib.pose_files import read_transforms
from ankle_lib.reconstruction.guided import (
    Refine,
    SharpFrame,
    grid_of_bones,
    reconstruct_frames,
)
from ankle_lib.reconstruction.moving_foot import MovedScan, Poses
from ankle_lib.reconstruction.refiner import read_refiner, refine
from ankle_lib.reconstruction.sharp_scenes import AROUND_BONE_MM, on_grid
from ankle_lib.reconstruction.thick_slices import scanning
from ankle_lib.registration.regions import WHOLE
from ankle_lib.volume import Volume, resample, save, save_series, to_orientation

COLUMNS = ("frame", "consistency", "noise_sd", "smallest_jacobian", "rigidity_mm", "bones")
"""Of the table of a reconstruction, one row for each frame."""

HEADROOM = 3.0
"""Sharp volumes may be so many times brighter than the brightest voxel of the frames."""
INT16_MAX = 32767
FINEST_STEP = 0.03
"""Series are stored in steps of at least this part of the noise: finer ones make files larger."""
MOST_STILLS = 4
FADING_MM = 3.0
SAME_VOXELS = 0.05
"""Voxel sizes that differ by a smaller part are the same to a network."""


@dataclass
class ScanReconstruction:
    """What `reconstruct` found, beside the files that it wrote."""

    rows: list[dict[str, object]] = field(default_factory=list)
    stills: list[Still] = field(default_factory=list)
    residual: Volume | None = None
    """Measured minus averaged, in units of the noise, of the frame with the worst consistency."""
    notes: list[str] = field(default_factory=list)

    @property
    def table(self) -> pd.DataFrame:
        """One row for each frame; see `COLUMNS`."""
        return pd.DataFrame(self.rows, columns=COLUMNS)

    @property
    def left_out(self) -> list[int]:
        """Frames without any accepted pose: they are 0 in the series."""
        return [int(n) for n in self.table.loc[self.table["consistency"].isna(), "frame"]]


def reconstruct_file(
    dynamic: Path,
    static: Path,
    masks: Mapping[str, Path],
    transforms: Path,
    out: Path,
    *,
    checkpoint: Path | None = None,
    whole: bool = False,
    device: str = "cpu",
    progress: bool = False,
) -> Outcome:
    """Make a file of frames as sharp as the static scan.

    Parameters
    ----------
    dynamic, static, masks
        As in `foot.reading.read_scans`; one 4D file.
    transforms : Path
        ``transforms.json``, as `ankle register` writes it.
    out : Path
        The series to write; beside it ``_consistency.csv`` (of each frame consistency, smallest
        Jacobian and rigidity), ``_residual.nii.gz`` (what the worst frame and its reconstruction,
        averaged again, differ by, in units of the noise) and ``_filmstrip.png``.
    checkpoint : Path, optional
        A network of chapter 06 that refines every frame.
    whole, device, progress
        As in `reconstruct`.

    Raises
    ------
    AnkleError
        If a file cannot be used, or ``out`` cannot be written.
    """
    names = ("_consistency.csv", "_residual.nii.gz", "_filmstrip.png")
    inputs = [dynamic, static, transforms, *masks.values()]
    inputs += [] if checkpoint is None else [checkpoint]
    sign = ",".join(COLUMNS)
    result = beside(out, names, inputs, sign=sign, thing="frames", command="ankle reconstruct")
    refine_with = None if checkpoint is None else read_refine(checkpoint, device)
    scans = read_scans(static, [dynamic], masks)
    poses = read_poses(transforms, scans)
    with result.written() as (series, table, residual, filmstrip):
        found = reconstruct(
            scans,
            poses,
            series,
            whole=whole,
            refine_with=refine_with,
            device=device,
            progress=progress,
        )
        found.table.to_csv(table, index=False, float_format="%.6g")
        assert found.residual is not None  # at least one frame has a pose
        save(residual, found.residual.data, found.residual.affine)
        figure = reconstruction_filmstrip(found.stills)
        figure.savefig(filmstrip, dpi=FIGURE_DPI, bbox_inches="tight")
    ratios = found.table["consistency"].dropna()
    lines = [f"consistency {ratios.mean():.2f}, at worst {ratios.max():.2f} times the noise"]
    missing = frames_in_words(found.left_out) if found.left_out else ""
    problem = f"{out}: no accepted pose in {missing}: these frames are 0" if missing else ""
    return Outcome(result.files, lines, [*scans.notes, *found.notes], problem)


def read_poses(path: Path, scans: Scans) -> list[Poses]:
    """Read the accepted poses of a sequence, as `ankle register` writes them.

    Parameters
    ----------
    path : Path
        ``transforms.json``.
    scans : Scans
        The scans that they were found for.

    Returns
    -------
    list of mappings
        For each frame bone to pose; a frame may have none.

    Raises
    ------
    AnkleError
        If the file cannot be used, tells of other frames than the dynamic scan has, of no bone
        with a mask, or not of every bone with a mask, or no pose in it is accepted.
    """
    found = [pose for pose in read_transforms(path) if pose.bone != WHOLE]
    numbers = {pose.frame for pose in found}
    if numbers != set(range(scans.frames.n_frames)):
        listed = f"{min(numbers)} to {max(numbers)}" if numbers else "none"
        raise AnkleError(
            f"{path}: tells of {len(numbers)} frames ({listed}), the dynamic scan has "
            f"{scans.frames.n_frames}: give the transforms of this sequence"
        )
    for bone in scans.masks:
        if not any(pose.bone == bone for pose in found):
            raise AnkleError(
                f"{path}: no pose of the {bone}: leave its mask out, or register it with "
                "`ankle register`"
            )
    missing = sorted({pose.bone for pose in found} - set(scans.masks))
    if missing:
        raise AnkleError(
            f"{path}: has poses of {', '.join(missing)}, but no mask is given: add "
            f"--mask {missing[0]}=FILE"
        )
    poses: list[Poses] = [
        {pose.bone: pose.matrix for pose in found if pose.frame == number and pose.accepted}
        for number in range(scans.frames.n_frames)
    ]
    if not any(poses):
        raise AnkleError(f"{path}: no pose is accepted: look at the registration first")
    return poses


def read_refine(path: Path, device: str = "cpu") -> tuple[Refine, tuple[float, float, float]]:
    """Read a network for reconstruction, and the voxel size in mm that it was trained on.

    It was trained around the bones: farther than 5 mm from them its answer fades into the guided
    reconstruction.

    Raises
    ------
    AnkleError
        If the checkpoint holds another network, or does not say how its input is made.
    """
    checkpoint = load_checkpoint(path)
    try:
        refiner = read_refiner(checkpoint)
    except AnkleError as error:
        raise AnkleError(f"{path}: {error}") from None
    refiner.network.to(device)

    def better(frame: Volume, moved: MovedScan, sharp: Volume) -> NDArray[np.float32]:
        image = moved.volume
        measured, reached = on_grid(frame, image.grid)
        nearest = np.min(list(moved.distances_mm.values()), axis=0)
        found = refine(refiner, measured, image.data, (nearest <= AROUND_BONE_MM) & reached)
        share = ((AROUND_BONE_MM + FADING_MM - nearest) / FADING_MM).clip(0, 1) * reached
        mixed: NDArray[np.float32] = sharp.data + share * (found - sharp.data)
        return mixed

    return better, _voxel_mm(path, checkpoint)


def reconstruct(
    scans: Scans,
    poses: Sequence[Poses],
    out: Path,
    *,
    whole: bool = False,
    refine_with: tuple[Refine, tuple[float, float, float]] | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> ScanReconstruction:
    """Write a sharp 4D series, one frame in memory at a time.

    Parameters
    ----------
    scans : Scans
        From `foot.reading.read_scans`.
    poses : sequence of mappings
        From `read_poses`.
    out : Path
        The series, int16, in the order of axes of the static scan's file.
    whole : bool
        On the whole grid of the static scan; otherwise on its part around the bones.
    refine_with : function and voxel size, optional
        From `read_refine`. If its voxels are not those of the static scan, the series has the
        network's.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show a bar.
    """
    static, frames = scans.static, scans.frames
    box = grid_of_bones(static, scans.masks, poses)
    grid: Grid = (static.shape, static.affine) if whole else box
    refiner = None
    if refine_with is not None:
        refiner, wanted = refine_with
        grid, box = _with_voxels(grid, wanted), _with_voxels(box, wanted)
    result = ScanReconstruction(notes=_notes(poses, list(scans.masks)))
    shared = scanning(frames)
    sharp = reconstruct_frames(
        *(static, scans.masks, frames, poses, grid), refine=refiner, shared=shared, device=device
    )
    codes = "".join(Volume(np.zeros((1, 1, 1)), np.asarray(scans.static_grid[1])).axis_codes)
    shape, affine = grid
    turned = to_orientation(
        Volume(np.broadcast_to(np.int8(0), shape), np.asarray(affine, dtype=np.float64)), codes
    )
    save_series(
        out,
        _series(sharp, poses, codes, turned.shape, box, frames, result, progress),
        turned.shape,
        frames.n_frames,
        turned.affine,
        scale=max(HEADROOM * float(np.max(frames.data)) / INT16_MAX, FINEST_STEP * shared.noise_sd),
        time_step_s=frames.time_step_s,
    )
    return result


def _series(
    sharp: Iterator[SharpFrame],
    poses: Sequence[Poses],
    codes: str,
    shape: tuple[int, int, int],
    box: Grid,
    frames: Volume,
    result: ScanReconstruction,
    progress: bool,
) -> Iterator[NDArray[np.float32]]:
    """Yield what is to be written of each frame, and keep what is to be told of it."""
    shown = _shown([number for number, pose in enumerate(poses) if pose])
    worst = -np.inf
    for number, pose in enumerate(tqdm(poses, disable=not progress, desc="frames", unit="frame")):
        if not pose:
            result.rows.append({"frame": number, "bones": 0})
            yield np.zeros(shape, dtype=np.float32)
            continue
        one = next(sharp)
        judged = one.result.consistency
        result.rows.append(
            {
                "frame": number,
                "consistency": judged.ratio,
                "noise_sd": judged.noise_sd,
                "smallest_jacobian": one.moved.smallest_jacobian,
                "rigidity_mm": one.moved.rigidity_mm,
                "bones": len(pose),
            }
        )
        if judged.ratio > worst:
            worst = judged.ratio
            result.residual = Volume(
                judged.residual.data / np.float32(judged.noise_sd), judged.residual.affine
            )
        if number in shown:
            result.stills.append(_still(number, one.result.volume, frames.frame(number), box))
        volume = one.result.volume
        del one, judged  # before the next frame takes their memory
        yield to_orientation(volume, codes).data


def _still(number: int, sharp: Volume, frame: Volume, box: Grid) -> Still:
    shape, affine = box
    part = resample(sharp, shape, affine, order=1)
    return Still(number, resample(frame, shape, affine, order=0), part)


def _shown(numbers: Sequence[int]) -> set[int]:
    """Choose some frames, evenly."""
    n = min(MOST_STILLS, len(numbers))
    return {numbers[round(k)] for k in np.linspace(0, len(numbers) - 1, n)}


def _notes(poses: Sequence[Poses], bones: Sequence[str]) -> list[str]:
    notes = []
    for bone in bones:
        without = [n for n, pose in enumerate(poses) if pose and bone not in pose]
        if without:
            notes.append(
                f"the {bone} has no accepted pose in {frames_in_words(without)}: there it follows "
                "the others"
            )
    return notes


def _with_voxels(grid: Grid, voxel_mm: tuple[float, float, float]) -> Grid:
    """Return a grid over the same box with other voxels, or itself where they are the same."""
    shape, affine = grid
    place = np.array(affine, dtype=np.float64)
    sizes = np.linalg.norm(place[:3, :3], axis=0)
    scale = np.array(voxel_mm) / sizes
    if np.all(np.abs(scale - 1) <= SAME_VOXELS):
        return grid
    i, j, k = (max(2, int(n // s)) for n, s in zip(shape, scale, strict=True))
    place[:3, 3] += place[:3, :3] @ ((scale - 1) / 2)
    place[:3, :3] *= scale
    return (i, j, k), place


def _voxel_mm(path: Path, checkpoint: Checkpoint) -> tuple[float, float, float]:
    wanted = checkpoint.training.get("input")
    sizes = wanted.get("voxel_mm") if isinstance(wanted, dict) else None
    if (
        not isinstance(sizes, list | tuple)
        or len(sizes) != 3
        or not all(type(size) in (int, float) and 0.1 <= size <= 5 for size in sizes)
    ):
        raise AnkleError(
            f"{path}: wants voxels of {sizes!r} mm, expected three numbers from 0.1 to 5: train "
            "the network again"
        )
    return float(sizes[0]), float(sizes[1]), float(sizes[2])
