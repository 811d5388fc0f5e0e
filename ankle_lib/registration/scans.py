"""One's own scans: the static scan and its bones moved onto every frame, without a cohort.

First the foot as a whole, then each bone from there. Everything is written on the grid of the
frames as they are in their files; high-resolution images lie in the frames' world too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ankle_lib.geometry import Grid, bounding_box, part_of
from ankle_lib.masking.any_scan import find_foot
from ankle_lib.masking.weights import bone_weights, in_mm
from ankle_lib.pose_files import FramePose, write_flirt, write_itk, write_transforms
from ankle_lib.quality.gate import BONE_CORRELATION, REPORT_CORRELATION
from ankle_lib.registration.high_resolution import bone_grid
from ankle_lib.registration.moving import moved, moved_mask
from ankle_lib.registration.register import Registration, register
from ankle_lib.registration.scan_files import Scans
from ankle_lib.registration.settings import RADIUS_VOXELS, SIGMA_VOXELS, WHOLE, Settings
from ankle_lib.volume import Volume, save

SLICE_SAMPLES = 9
"""Samples across a slice of the moved static scan; 8 mm of slice are 10 voxels of 0.8 mm."""

MOST_LISTED = 10


@dataclass(frozen=True)
class ScanRegistration:
    """What `register_scans` found."""

    poses: list[FramePose]
    """Of the whole foot and every bone in every frame."""
    masks: dict[str, list[Volume]]
    """Bone to its moved mask in every frame (bool, on the frames' grid)."""

    @property
    def table(self) -> pd.DataFrame:
        """Columns frame, bone, correlation, verdict, as in a review sheet; bones only."""
        rows = [
            (p.frame, p.bone, p.correlation, "accepted" if p.accepted else "rejected")
            for p in self.poses
            if p.bone in self.masks
        ]
        return pd.DataFrame(rows, columns=["frame", "bone", "correlation", "verdict"])


def register_scans(
    scans: Scans,
    folder: Path,
    *,
    engine: str = "torch",
    device: str = "cpu",
    gate: float = BONE_CORRELATION,
    high_resolution: bool = True,
    settings: Settings | None = None,
    progress: bool = False,
) -> ScanRegistration:
    """Register the foot and its bones, and write everything into ``folder``.

    Files are ``transforms.json``; ``flirt/`` and ``itk/`` with a matrix for each frame and bone;
    ``masks/`` with the moved bones, filled where they fill half of a voxel; ``moved/`` with the
    static scan moved with each bone and averaged over the slices; ``high_resolution/`` with the
    same around each bone at the static scan's voxel size.

    Parameters
    ----------
    scans : Scans
        From `read_scans`.
    folder : Path
    engine, device, settings
        As in `register`.
    gate : float
        Correlation from which on the registration of a bone is accepted. That of the whole foot
        is only where the bones start; it is compared with the report's 0.64.
    high_resolution : bool
        Whether to write ``high_resolution/``.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    AnkleError
        If an engine is not available, or the foot has no contrast.
    """
    n_frames = scans.frames.n_frames
    regions = [WHOLE, *scans.masks]
    with tqdm(
        total=n_frames * (len(regions) + len(scans.masks)), disable=not progress, unit="fit"
    ) as bar:
        bar.set_description("the whole foot")
        whole = register(
            *(scans.frames, scans.static, {WHOLE: foot_weights(scans.static.data)}),
            engine=engine,
            device=device,
            settings=settings,
        )
        bar.update(n_frames)
        bar.set_description("its bones")
        bones = register(
            *(scans.frames, scans.static, _weights(scans)),
            start=whole.poses[:, 0],
            engine=engine,
            device=device,
            settings=settings,
        )
        bar.update(n_frames * len(scans.masks))
        poses = [*_frame_poses(whole, REPORT_CORRELATION), *_frame_poses(bones, gate)]
        write_transforms(folder / "transforms.json", poses)
        bar.set_description("writing")
        # Once for all frames and bones: at the report's grid each would take half a second.
        static = Volume(scans.static.data.astype(np.float32, order="K"), scans.static.affine)
        cut = {bone: _cut(mask, static.affine) for bone, mask in scans.masks.items()}
        masks: dict[str, list[Volume]] = {bone: [] for bone in scans.masks}
        for pose in poses:
            stem = _stem(pose, n_frames)
            _write_exports(folder, stem, pose, scans)
            if pose.bone in cut:
                mask = _write_mask(folder, stem, pose, cut[pose.bone], scans.frames)
                _write_moved(folder, stem, pose, static, scans.frames)
                if high_resolution:
                    _write_sharp(folder, stem, pose, static, cut[pose.bone], scans.frames)
                masks[pose.bone].append(mask)
                bar.update()
    return ScanRegistration(poses, masks)


def foot_weights(image: NDArray) -> NDArray[np.float32]:
    """Return 1 where the foot is and 0 elsewhere, for images of any intensity (`find_foot`)."""
    return find_foot(image).astype(np.float32)


def summary(result: ScanRegistration) -> list[str]:
    """Return one line for each bone: how many frames were accepted, and which were not."""
    lines = []
    for bone, rows in result.table.groupby("bone", sort=False):
        rejected = rows.loc[rows["verdict"] == "rejected", "frame"].tolist()
        low, high = rows["correlation"].min(), rows["correlation"].max()
        line = f"{bone}: {len(rows) - len(rejected)} of {len(rows)} frames accepted, "
        line += f"correlation {low:.2f} to {high:.2f}"
        lines.append(line + (f"; rejected: {_listed(rejected)}" if rejected else ""))
    return lines


def _weights(scans: Scans) -> Mapping[str, NDArray[np.float32]]:
    """Return soft weights of the bones."""
    voxel, sigma = scans.static.voxel_size_mm, in_mm(SIGMA_VOXELS)
    return {
        bone: bone_weights(mask, voxel, in_mm(RADIUS_VOXELS[bone]), sigma)
        for bone, mask in scans.masks.items()
    }


def _frame_poses(found: Registration, gate: float) -> list[FramePose]:
    return [
        FramePose(
            frame=frame,
            bone=region,
            matrix=found.poses[frame, index],
            correlation=float(found.correlations[frame, index]),
            accepted=bool(
                not found.failed[frame, index] and found.correlations[frame, index] >= gate
            ),
        )
        for index, region in enumerate(found.regions)
        for frame in range(len(found.poses))
    ]


def _stem(pose: FramePose, n_frames: int) -> str:
    digits = max(2, len(str(n_frames - 1)))
    return f"frame-{pose.frame:0{digits}d}_label-{pose.bone}"


def _write_exports(folder: Path, stem: str, pose: FramePose, scans: Scans) -> None:
    """Write the pose as FLIRT and ITK read it, for the files as they were given."""
    frame_grid: Grid = scans.frames.shape, scans.frames.affine
    write_flirt(folder / "flirt" / f"{stem}.mat", pose.matrix, scans.static_grid, frame_grid)
    write_itk(folder / "itk" / f"{stem}.tfm", pose.matrix)


def _cut(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> Volume:
    """Cut a mask to its bone."""
    box = bounding_box(mask, 1)
    assert box is not None  # read_scans refuses empty masks
    return Volume(mask[box], part_of(box, affine)[1])


def _write_mask(folder: Path, stem: str, pose: FramePose, bone: Volume, frames: Volume) -> Volume:
    mask = moved_mask(bone, pose.matrix, frames.shape, frames.affine)
    save(folder / "masks" / f"{stem}_mask.nii.gz", mask.data, mask.affine)
    return mask


def _write_moved(folder: Path, stem: str, pose: FramePose, static: Volume, frames: Volume) -> None:
    thick = moved(static, pose.matrix, frames.shape, frames.affine, slice_samples=SLICE_SAMPLES)
    path = folder / "moved" / f"{stem}_desc-moved_static.nii.gz"
    save(path, thick.data, thick.affine, scale="auto")


def _write_sharp(
    folder: Path, stem: str, pose: FramePose, static: Volume, bone: Volume, frames: Volume
) -> None:
    grid = bone_grid(bone.data, bone.affine, pose.matrix, frames.affine)
    sharp = moved(static, pose.matrix, *grid)
    path = folder / "high_resolution" / f"{stem}_desc-highres_static.nii.gz"
    save(path, sharp.data, sharp.affine, scale="auto")


def _listed(frames: list[int]) -> str:
    shown = ", ".join(str(frame) for frame in frames[:MOST_LISTED])
    more = len(frames) - MOST_LISTED
    return (
        ("frame " if len(frames) == 1 else "frames ")
        + shown
        + (f" and {more} more" if more > 0 else "")
    )
