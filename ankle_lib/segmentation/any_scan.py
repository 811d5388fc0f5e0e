"""Any static scan or dynamic series segmented by a trained network: `ankle segment`.

A series is segmented frame by frame. Frames in which nothing is found do not stop the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ankle_lib.cleaning.laterality import side_from_bones
from ankle_lib.files import AnkleError
from ankle_lib.masking.measures import bone_volumes_cm3
from ankle_lib.presets import BONES
from ankle_lib.scan_checks import size_in_words
from ankle_lib.segmentation.frame_table import EXPECTED_CM3, Frame, frame_notes, frame_table
from ankle_lib.segmentation.labelling import label_bones
from ankle_lib.segmentation.segmenter import Segmenter
from ankle_lib.volume import Volume, canonical_voxel_size, to_orientation

COARSE = 2.0
"""Pixels so many times larger than the network's make its outlines rough."""


@dataclass(frozen=True)
class Segmentation:
    """The bones of a scan, or of every frame of a series."""

    labels: Volume
    """uint8 on the scan's own grid, as many frames: 0, or 1 calcaneus, 2 talus, 3 tibia."""
    names: dict[int, str]
    """Label to bone, for the bones that the network knows."""
    volumes_cm3: dict[str, float]
    """Of a series the median over the frames in which a bone was found."""
    side: str | None
    """``"left"`` or ``"right"``, told by the shape of the bones, or ``None`` if they do not. Of a
    series what most of its frames tell."""
    table: pd.DataFrame
    """How far to trust each frame and bone, see `frame_table`."""
    notes: tuple[str, ...]
    """What a person should look at, one sentence each."""


def segment_scan(
    scan: Volume,
    segmenter: Segmenter,
    *,
    device: str = "cpu",
    side: str | None = None,
    progress: bool = False,
) -> Segmentation:
    """Segment the bones of a static scan, or of every frame of a series.

    Parameters
    ----------
    scan : Volume
        3D or 4D, in any orientation and of any voxel size and unit of intensity; see
        `any_scan_files.read_scan` for what is refused.
    segmenter : Segmenter
    device : str
        "cpu" or "cuda".
    side : {"left", "right"}, optional
        What the foot is documented to be; bones of the other side are noted.
    progress : bool
        Show a bar for a series, on a terminal.

    Raises
    ------
    AnkleError
        If there is no foot in the scan, or no bone is found in any frame.
    """
    labels = np.zeros((*scan.shape, scan.n_frames), dtype=np.uint8, order="F")
    codes = "".join(scan.axis_codes)
    frames: list[Frame] = []
    hidden = None if progress and scan.n_frames > 1 else True  # None: shown on a terminal alone
    for number in tqdm(range(scan.n_frames), desc="frames", unit="frame", disable=hidden):
        image = to_orientation(scan.frame(number))
        try:
            found = label_bones(image, segmenter, device)
        except AnkleError as error:
            frames.append(Frame({}, {}, problem=str(error)))
            continue
        there = to_orientation(Volume(found.labels, image.affine), codes).data
        labels[..., number] = there
        volumes = bone_volumes_cm3(_masks(there, segmenter.bones), scan.voxel_size_mm)
        frames.append(Frame(found.confidence, volumes))
    _check_found(frames, segmenter)
    return _described(Volume(labels.reshape(scan.data.shape), scan.affine), frames, segmenter, side)


def _check_found(frames: list[Frame], segmenter: Segmenter) -> None:
    """Refuse a scan without any bone."""
    if any(volume for frame in frames for volume in frame.volumes_cm3.values()):
        return
    if len(frames) == 1 and frames[0].problem:
        raise AnkleError(frames[0].problem)
    where = "" if len(frames) == 1 else f" in any of the {len(frames)} frames"
    raise AnkleError(
        f"none of {', '.join(segmenter.bones)} was found{where}: is this a scan of an ankle, with "
        "the contrast that the network was trained on?"
    )


def _described(
    labels: Volume, frames: list[Frame], segmenter: Segmenter, side: str | None
) -> Segmentation:
    table = frame_table(frames, segmenter.bones)
    seen = table[table["volume_cm3"] > 0].groupby("bone")["volume_cm3"].median()
    volumes = {bone: float(seen.get(bone, 0.0)) for bone in segmenter.bones}
    notes = [*_volume_notes(volumes), *frame_notes(table)]
    found = _side(labels)
    if side and found and side != found:
        notes.append(
            f"the bones are those of a {found} foot, not of a {side} one: is the image mirrored?"
        )
    coarse = max(
        size / pixel
        for size, pixel in zip(
            canonical_voxel_size(labels.affine)[:2], segmenter.pixel_mm, strict=True
        )
    )
    if coarse > COARSE:
        pixel = " x ".join(f"{size:.3g}" for size in segmenter.pixel_mm)
        notes.append(
            f"voxels of {size_in_words(labels)} where the network was trained on pixels of "
            f"{pixel} mm: the outlines are rough"
        )
    names = {number: bone for number, bone in enumerate(BONES, 1) if bone in segmenter.bones}
    return Segmentation(labels, names, volumes, found, table, tuple(notes))


def _masks(labels: NDArray[np.uint8], bones: Iterable[str]) -> dict[str, NDArray[np.bool_]]:
    return {bone: labels == BONES.index(bone) + 1 for bone in bones}


def _side(labels: Volume) -> str | None:
    """Return the side that more than half of the frames tell that tell one."""
    votes: Counter[str] = Counter()
    for number in range(labels.n_frames):
        masks = _masks(labels.frame(number).data, BONES)
        if all(mask.any() for mask in masks.values()):
            side = side_from_bones(masks, labels.affine).side
            votes.update([side] if side else [])
    return next((side for side, n in votes.items() if 2 * n > votes.total()), None)


def _volume_notes(volumes: dict[str, float]) -> list[str]:
    notes = []
    for bone, volume in volumes.items():
        low, high = EXPECTED_CM3[bone]
        if volume == 0:
            notes.append(f"no {bone} was found")
        elif not low <= volume <= high:
            notes.append(
                f"the {bone} has {volume:.3g} cm3, expected {low:g} to {high:g} in children and "
                "adults: look at the overlay"
            )
    return notes
