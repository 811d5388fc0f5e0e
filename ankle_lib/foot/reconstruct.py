"""`ankle reconstruct`: a thick-sliced sequence made as sharp as the static scan."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel.orientations import aff2axcodes
from tqdm.auto import tqdm

from ankle_lib.figures.scan_pictures import filmstrip
from ankle_lib.files import FIGURE_DPI, AnkleError
from ankle_lib.foot.reading import Scans, file_and_label, read_scans
from ankle_lib.foot.results import Outcome, beside, frames_in_words, written
from ankle_lib.geometry import Grid, block_affine, voxel_size
from ankle_lib.pose_files import read_transforms
from ankle_lib.reconstruction.guided import grid_of_bones, reconstruct_frames
from ankle_lib.reconstruction.moving_foot import Poses
from ankle_lib.reconstruction.refiner import Refiner, read_refiner
from ankle_lib.reconstruction.thick_slices import scanning
from ankle_lib.registration.regions import WHOLE
from ankle_lib.volume import INT16_MAX, Volume, resample, save, to_orientation

COLUMNS = ("frame", "consistency", "noise_sd", "smallest_jacobian", "rigidity_mm", "bones")
"""Of the table of a reconstruction, one row for each frame."""

HEADROOM = 3.0
"""Sharp volumes may be so many times brighter than the frames,"""
BRIGHT_PERCENTILE = 99.9
"""whose brightest voxels may be bad ones."""
FINEST_STEP = 0.03
"""Series are stored in steps of at least this part of the noise: finer ones make files larger."""
MOST_STILLS = 4
SAME_VOXELS = 0.05
"""Voxel sizes that differ by a smaller part are the same to a network."""


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
    whole, device
        As in `reconstruct`.

    Raises
    ------
    AnkleError
        If a file cannot be used, or ``out`` cannot be written.
    """
    names = ("_consistency.csv", "_residual.nii.gz", "_filmstrip.png")
    inputs = [dynamic, static, transforms, *([checkpoint] if checkpoint else [])]
    inputs += [file_and_label(mask)[0] for mask in masks.values()]
    sign = ",".join(COLUMNS)
    files = beside(out, names, inputs, sign=sign, thing="frames", command="ankle reconstruct")
    refiner = read_refiner(checkpoint, device) if checkpoint else None
    scans = read_scans(static, [dynamic], masks)
    poses = read_poses(transforms, scans)
    with written(files) as paths:
        table = reconstruct(scans, poses, paths, whole=whole, refiner=refiner, device=device)
    notes = [*scans.notes]
    for bone in masks:
        without = [n for n, pose in enumerate(poses) if pose and bone not in pose]
        if without:
            notes.append(
                f"the {bone} has no accepted pose in {frames_in_words(without)}: there it follows "
                "the others"
            )
    ratios = table["consistency"]
    lines = [f"consistency {ratios.mean():.2f}, at worst {ratios.max():.2f} times the noise"]
    left_out = table.loc[ratios.isna(), "frame"].tolist()
    problem = ""
    if left_out:
        problem = f"{out}: no accepted pose in {frames_in_words(left_out)}: these frames are 0"
    return Outcome(files, lines, notes, problem)


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
    usable = set(range(scans.frames.n_frames)) - set(scans.bad_frames)
    poses: list[Poses] = [
        {p.bone: p.matrix for p in found if p.frame == number and p.accepted and number in usable}
        for number in range(scans.frames.n_frames)
    ]
    if not any(poses):
        raise AnkleError(f"{path}: no pose is accepted: look at the registration first")
    return poses


def reconstruct(
    scans: Scans,
    poses: Sequence[Poses],
    files: Sequence[Path],
    *,
    whole: bool = False,
    refiner: Refiner | None = None,
    device: str = "cpu",
) -> pd.DataFrame:
    """Write a sharp 4D series and what belongs to it; of the frames one float volume is in memory.

    A terminal shows a bar.

    Parameters
    ----------
    scans : Scans
        From `foot.reading.read_scans`.
    poses : sequence of mappings
        From `read_poses`. Frames without any are 0.
    files : sequence of 4 Path
        The series, int16, in the order of axes of the static scan's file; the table; the residual
        of the frame with the worst consistency (measured minus averaged, in units of the noise);
        the filmstrip.
    whole : bool
        On the whole grid of the static scan; otherwise on its part around the bones.
    refiner : Refiner, optional
        If its voxels are not those of the static scan, the series has the network's.
    device : str
        "cpu" or "cuda".

    Returns
    -------
    DataFrame
        One row for each frame; see `COLUMNS`.
    """
    static, frames = scans.static, scans.frames
    box = grid_of_bones(static, scans.masks, poses)
    grid = static.grid if whole else box
    if refiner is not None:
        grid, box = (_with_voxels(one, refiner.voxel_mm) for one in (grid, box))
    shared = scanning(frames)
    bright = HEADROOM * float(np.percentile(frames.data, BRIGHT_PERCENTILE))
    scale = float(np.float32(max(bright / INT16_MAX, FINEST_STEP * shared.noise_sd)))
    shared = replace(shared, step=scale)
    sharp = reconstruct_frames(
        *(static, scans.masks, frames, poses, grid), refine=refiner, shared=shared, device=device
    )
    codes = "".join(aff2axcodes(scans.static_grid[1]))
    blank = Volume(np.broadcast_to(np.int8(0), grid[0]), np.asarray(grid[1]))
    turned = to_orientation(blank, codes)
    film = np.zeros((*turned.shape, frames.n_frames), dtype=np.int16)
    moved = [number for number, pose in enumerate(poses) if pose]
    shown = {moved[round(k)] for k in np.linspace(0, len(moved) - 1, MOST_STILLS)}
    rows = [{"frame": number, "bones": len(pose)} for number, pose in enumerate(poses)]
    stills: dict[int, tuple[Volume, Volume]] = {}
    worst, residual = -np.inf, turned
    for one in tqdm(sharp, total=len(moved), disable=None, desc="frames", unit="frame"):
        volume, judged = one.result.volume, one.result.consistency
        rows[one.number] |= one.row
        if judged.ratio > worst:
            worst, residual = judged.ratio, judged.residual
        if one.number in shown:
            thick = resample(frames.frame(one.number), *box, order=0)
            stills[one.number] = thick, resample(volume, *box)
        film[..., one.number] = np.rint(to_orientation(volume, codes).data / scale)
        del one, volume, judged  # before the next frame takes their memory
    save(files[0], film, turned.affine, slope=scale, time_step_s=frames.time_step_s)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(files[1], index=False, float_format="%.6g")
    save(files[2], residual.data / np.float32(shared.noise_sd), residual.affine)
    filmstrip(stills).savefig(files[3], dpi=FIGURE_DPI, bbox_inches="tight")
    return table


def _with_voxels(grid: Grid, voxel_mm: tuple[float, ...]) -> Grid:
    """Return a grid over the same box with other voxels, or itself where they are the same."""
    shape, affine = grid
    scale = np.array(voxel_mm) / voxel_size(affine)
    if np.all(np.abs(scale - 1) <= SAME_VOXELS):
        return grid
    i, j, k = (max(2, int(n // s)) for n, s in zip(shape, scale, strict=True))
    return (i, j, k), block_affine(affine, scale)
