"""A whole sequence made sharp, frame by frame, with one frame in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Grid, apply, part_of, world_to_voxel
from ankle_lib.reconstruction.guided import Guided, Reconstruction, guided, with_the_measured
from ankle_lib.reconstruction.polyrigid import MovedScan, MovingFoot, moved_static
from ankle_lib.reconstruction.thick import Scanning, scanning
from ankle_lib.volume import Volume

MARGIN_MM = 12.0
"""Around the bones: tendons, and enough for a whole slice on either side."""

Poses = Mapping[str, ArrayLike]
"""Bone to the pose (4, 4) in one frame, static world to frame world, RAS mm."""

Refine = Callable[[Volume, MovedScan, Volume], NDArray]
"""Maps a frame, the static scan moved into it and the guided reconstruction to a better one, on
the grid of the moved scan."""


@dataclass(frozen=True)
class SharpFrame:
    """One frame of a sequence, reconstructed."""

    number: int
    moved: MovedScan
    result: Reconstruction


def grid_of_bones(
    static: Volume,
    masks: Mapping[str, NDArray[np.bool_]],
    poses: Sequence[Poses],
    margin_mm: float = MARGIN_MM,
) -> Grid:
    """Return the part of the static scan's grid that holds the bones in all frames.

    Parameters
    ----------
    static : Volume
        3D.
    masks : mapping of bone to (I, J, K) bool array
        On the grid of ``static``.
    poses : sequence of mappings
        One for each frame; bones without pose, or without mask, do not count.
    margin_mm : float

    Returns
    -------
    shape, affine
        The box ends at the static scan's border.

    Raises
    ------
    AnkleError
        If there is no pose of a masked bone, or bones have left the scan's field of view.
    """
    ends = []
    for bone, mask in masks.items():
        filled = np.argwhere(mask)
        corners = filled[np.concatenate([filled.argmin(axis=0), filled.argmax(axis=0)])]
        hull = np.concatenate([corners, filled[:: max(1, len(filled) // 2000)]])
        world = apply(static.affine, hull)
        ends += [
            world_to_voxel(static.affine, apply(pose[bone], world))
            for pose in poses
            if bone in pose
        ]
    if not ends:
        raise AnkleError("no bone has both a mask and a pose: there is nothing to reconstruct")
    margin = margin_mm / np.asarray(static.voxel_size_mm)
    places = np.concatenate(ends)
    low = np.clip(np.floor(places.min(axis=0) - margin), 0, static.shape).astype(int)
    high = np.clip(np.ceil(places.max(axis=0) + margin) + 1, low, static.shape).astype(int)
    if (high - low < 2).any():
        raise AnkleError(
            "the poses carry the bones out of the static scan's field of view: are they of "
            "this scan?"
        )
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return part_of((i, j, k), static.affine)


def reconstruct_frames(
    static: Volume,
    masks: Mapping[str, NDArray[np.bool_]],
    frames: Volume,
    poses: Sequence[Poses],
    grid: Grid | None = None,
    *,
    refine: Refine | None = None,
    seen: Scanning | None = None,
    settings: Guided | None = None,
    device: str = "cpu",
) -> Iterator[SharpFrame]:
    """Yield every frame of a sequence at the resolution of the static scan.

    Parameters
    ----------
    static : Volume
        3D.
    masks : mapping of bone to (I, J, K) bool array
        On the grid of ``static``.
    frames : Volume
        4D (or one frame, 3D), in any orientation.
    poses : sequence of mappings
        One for each frame. A frame without any pose is passed over.
    grid : shape and affine, optional
        Of the result, in the frames' world; `grid_of_bones` by default.
    refine : function, optional
        Improves each frame; the result is then brought into agreement with the frame again.
    seen : Scanning, optional
        From `scanning`, of all frames; measured here by default.
    settings : Guided, optional
    device : str
        ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    AnkleError
        If there are not as many poses as frames, or as `moved_static` and `guided` say.
    """
    if len(poses) != frames.n_frames:
        raise AnkleError(
            f"poses of {len(poses)} frames for a sequence of {frames.n_frames}: they are of "
            "another sequence"
        )
    shape, place = grid or grid_of_bones(static, masks, poses)
    affine = np.asarray(place, dtype=np.float64)
    foot = MovingFoot.prepare(static, masks, device)
    seen = seen or scanning(frames)
    for number, pose in enumerate(poses):
        if not pose:
            continue
        frame = frames.frame(number)
        moved = moved_static(foot, pose, shape, affine)
        result = guided(moved, frame, seen=seen, settings=settings, device=device)
        if refine is not None:
            better = Volume(refine(frame, moved, result.volume), affine)
            result = with_the_measured(
                *(better, frame),
                seen=seen,
                settings=settings,
                covered=moved.covered,
                device=device,
            )
        yield SharpFrame(number, moved, result)
        del moved, result  # before the next frame takes its memory
