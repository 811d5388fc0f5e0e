"""`ankle register`: the static scan and its bones moved onto every frame.

First the foot as a whole, then each bone from there. Everything is written on the grid of the
frames as they are in their files; high-resolution images lie in the frames' world too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ankle_lib.figures.contact_sheet import contact_sheet
from ankle_lib.files import FIGURE_DPI
from ankle_lib.foot.reading import Scans, read_scans
from ankle_lib.foot.results import Outcome, check_result_folder, frames_in_words, result_folder
from ankle_lib.masking.foot import find_foot
from ankle_lib.masking.mask_images import BONE_RADIUS_VOXELS
from ankle_lib.parallel import run_all
from ankle_lib.pose_files import FramePose, write_flirt, write_itk, write_transforms
from ankle_lib.privacy import without_folders
from ankle_lib.quality.gate import BONE_CORRELATION, REPORT_CORRELATION
from ankle_lib.registration.engines import Registration, Settings, register
from ankle_lib.registration.moving import bone_grid, cut_to_mask, moved_mask
from ankle_lib.registration.regions import WHOLE, weights_of
from ankle_lib.volume import Volume, flip_left_right, left_right_axis, resample, save

FEW_FRAMES = 5
"""Enough to tell whether the static scan fits them mirrored."""

SLICE_SAMPLES = 9
"""Samples across a slice of the moved static scan; 8 mm of slice are 10 voxels of 0.8 mm."""


def register_files(
    static: Path,
    dynamic: Sequence[Path],
    masks: Mapping[str, Path],
    out: Path,
    *,
    engine: str = "torch",
    device: str = "cpu",
    gate: float | None = None,
    high_resolution: bool = True,
) -> Outcome:
    """Read scans, register them, and write everything into a folder: the earlier result or this.

    Parameters
    ----------
    static, dynamic, masks
        As in `read_scans`.
    out : Path
        New, empty, or with an earlier result of this command, which is replaced.
    engine, device, gate, high_resolution
        As in `register_scans`.

    Raises
    ------
    AnkleError
        If a file cannot be used, or ``out`` holds something else.
    """
    check_result_folder(out)
    scans = read_scans(static, dynamic, masks)
    folders = {path.parent: "." for path in (static, *dynamic, *masks.values())}
    record = {
        "static": static.name,
        "dynamic": [path.name for path in dynamic],
        "masks": {bone: path.name for bone, path in masks.items()},
        "engine": engine,
        "gate": gate,
        "notes": [without_folders(note, folders) for note in scans.notes],
    }
    with result_folder(out, record) as folder:
        poses, moved = register_scans(
            scans, folder, engine=engine, device=device, gate=gate, high_resolution=high_resolution
        )
        frames = [scans.frames.frame(number) for number in range(scans.frames.n_frames)]
        table = verdicts(poses)
        sheet = contact_sheet(frames, moved, table, title=engine)
        sheet.savefig(folder / "contact_sheet.png", dpi=FIGURE_DPI, bbox_inches="tight")
    problem = ""
    if not table["verdict"].eq("accepted").any():
        problem = f"no registration can be believed: see {out}/contact_sheet.png"
        problem += _if_mirrored(scans, engine, device)
    return Outcome([out], _in_words(table), list(scans.notes), problem)


def register_scans(
    scans: Scans,
    folder: Path,
    *,
    engine: str = "torch",
    device: str = "cpu",
    gate: float | None = None,
    high_resolution: bool = True,
) -> tuple[list[FramePose], dict[str, list[Volume | None]]]:
    """Register the foot and its bones, and write the results into ``folder``.

    A terminal shows a bar.

    Files are ``transforms.json``; ``flirt/`` and ``itk/`` with a matrix for each frame and bone;
    ``masks/`` with the moved bones, filled where they fill half of a voxel; ``moved/`` with the
    static scan moved with each bone and averaged over the slices; ``high_resolution/`` with the
    same around each bone at the static scan's voxel size.

    Parameters
    ----------
    scans : Scans
        From `read_scans`.
    folder : Path
    engine, device
        As in `register`.
    gate : float, optional
        Correlation that the registration of a bone must have, beside what the engine refuses. By
        default 0.5 for engines that count on bright staying bright; the course's own does not, and
        compares each fit with the bone elsewhere. The whole foot's is only where the bones start.
    high_resolution : bool
        Whether to write ``high_resolution/``.

    Returns
    -------
    poses : list of FramePose
        Of the whole foot and every bone in every frame.
    masks : mapping of bone to list of Volume or None
        The bone's moved mask in every frame (bool, on the frames' grid); None in a bad one.

    Raises
    ------
    AnkleError
        If an engine is not available, or the foot has no contrast.
    """
    static, frames = scans.static, scans.frames
    good = _good_frames(scans)
    bones_on_grid = {bone: Volume(mask, static.affine) for bone, mask in scans.masks.items()}
    least_of_bones = gate
    if gate is None:
        least_of_bones = -1.0 if engine == "torch" else BONE_CORRELATION
    with tqdm(total=len(good) * (1 + 2 * len(scans.masks)), disable=None, unit="fit") as bar:
        whole, bones = _foot_and_bones(scans, good, engine, device, bar)
        poses = [
            FramePose(good[i], region, found.poses[i, n], float(r), bool(accepted))
            for found, least in ((whole, REPORT_CORRELATION), (bones, least_of_bones))
            for n, region in enumerate(found.regions)
            for i, r in enumerate(found.correlations[:, n])
            for accepted in [not found.failed[i, n] and r >= least]
        ]
        regions = [WHOLE, *scans.masks]
        poses += [
            FramePose(n, r, np.eye(4), None, False) for n in scans.bad_frames for r in regions
        ]
        poses.sort(key=lambda pose: (regions.index(pose.bone), pose.frame))
        write_transforms(folder / "transforms.json", poses)
        bar.set_description("writing")
        # once for all frames and bones: at the report's grid each would take half a second
        still = Volume(static.data.astype(np.float32, order="K"), static.affine)
        cut = {bone: cut_to_mask(mask) for bone, mask in bones_on_grid.items()}
        masks: dict[str, list[Volume | None]] = {bone: [None] * frames.n_frames for bone in cut}
        digits = max(2, len(str(frames.n_frames - 1)))
        grid = frames.grid

        def write(pose: FramePose) -> None:
            stem = f"frame-{pose.frame:0{digits}d}_label-{pose.bone}"
            # as FLIRT and ITK read poses, for the files as they were given
            matrix = folder / "flirt" / f"{stem}.mat"
            write_flirt(matrix, pose.matrix, scans.static_grid, grid)
            write_itk(folder / "itk" / f"{stem}.tfm", pose.matrix)
            if pose.bone in cut:
                bone = cut[pose.bone]
                mask = moved_mask(bone, pose.matrix, *grid)
                save(folder / "masks" / f"{stem}_mask.nii.gz", mask.data, mask.affine)
                masks[pose.bone][pose.frame] = mask
                thick = resample(still, *grid, pose=pose.matrix, slice_samples=SLICE_SAMPLES)
                path = folder / "moved" / f"{stem}_desc-moved_static.nii.gz"
                save(path, thick.data, thick.affine, scale="auto")
                if high_resolution:
                    fine = bone_grid(bone.data, bone.affine, pose.matrix, frames.affine)
                    sharp = resample(still, *fine, pose=pose.matrix)
                    path = folder / "high_resolution" / f"{stem}_desc-highres_static.nii.gz"
                    save(path, sharp.data, sharp.affine, scale="auto")
                bar.update()

        run_all(write, [pose for pose in poses if pose.frame in good], workers="threads")
    return poses, masks


def _good_frames(scans: Scans) -> list[int]:
    return [n for n in range(scans.frames.n_frames) if n not in scans.bad_frames]


def _foot_and_bones(
    scans: Scans, chosen: Sequence[int], engine: str, device: str, bar: Any
) -> tuple[Registration, Registration]:
    """Register the foot as a whole, and from there its bones, to some frames."""
    static, frames = scans.static, Volume(scans.frames.data[..., chosen], scans.frames.affine)
    # what bones look like in one's own frames is not known, so their surfaces have to help
    own = engine == "torch"
    radius = dict.fromkeys(scans.masks, 0.0) if own else BONE_RADIUS_VOXELS
    masks = {bone: Volume(mask, static.affine) for bone, mask in scans.masks.items()}
    options: dict[str, Any] = {"engine": engine, "device": device}
    options["settings"] = Settings(any_contrast=own)
    bar.set_description("the whole foot")
    foot = {WHOLE: find_foot(static.data).astype(np.float32)}
    whole = register(frames, static, foot, **options)
    bar.update(len(chosen))
    bar.set_description("its bones")
    bones = register(frames, static, weights_of(masks, radius), start=whole.poses[:, 0], **options)
    bar.update(len(chosen) * len(masks))
    return whole, bones


def _if_mirrored(scans: Scans, engine: str, device: str) -> str:
    """Say if some frames show the mirror image of the static scan; empty if not."""
    good = _good_frames(scans)
    chosen = good[:: -(-len(good) // FEW_FRAMES)]
    axis = left_right_axis(scans.static.affine)
    masks = {bone: np.flip(mask, axis) for bone, mask in scans.masks.items()}
    other = replace(scans, static=flip_left_right(scans.static), masks=masks)
    with tqdm(total=len(chosen) * (1 + len(masks)), disable=None, unit="fit") as bar:
        _, bones = _foot_and_bones(other, chosen, engine, device, bar)
    fits = int((~bones.failed).sum())
    if fits <= bones.failed.size / 2:
        return ""
    return (
        f"; mirrored from left to right, the static scan fits ({fits} of {bones.failed.size} bones "
        f"in {len(chosen)} frames): was it, or were the frames, mirrored when they were converted?"
    )


def verdicts(poses: Sequence[FramePose]) -> pd.DataFrame:
    """Return columns frame, bone, correlation, verdict, as in a review sheet; bones only."""
    rows = [
        (p.frame, p.bone, p.correlation, "accepted" if p.accepted else "rejected")
        for p in poses
        if p.bone != WHOLE
    ]
    return pd.DataFrame(rows, columns=["frame", "bone", "correlation", "verdict"])


def _in_words(table: pd.DataFrame) -> list[str]:
    """Return one line for each bone: how many frames were accepted, and which were not."""
    lines = []
    for bone, rows in table.groupby("bone", sort=False):
        rejected = rows.loc[rows["verdict"] == "rejected", "frame"].tolist()
        low, high = rows["correlation"].min(), rows["correlation"].max()
        line = f"{bone}: {len(rows) - len(rejected)} of {len(rows)} frames accepted, "
        line += f"correlation {low:.2f} to {high:.2f}"
        lines.append(line + (f"; rejected: {frames_in_words(rejected)}" if rejected else ""))
    return lines
