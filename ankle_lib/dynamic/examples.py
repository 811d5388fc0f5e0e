"""Slices of frames to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ankle_lib.dynamic.bones import StaticBones
from ankle_lib.dynamic.contest import METHODS, NETWORK, Contest
from ankle_lib.dynamic.frames import Frame
from ankle_lib.dynamic.prediction import predict
from ankle_lib.learning.scans import Scan
from ankle_lib.learning.training import Trained
from ankle_lib.volume import Volume

Shown = tuple[NDArray, Mapping[str, NDArray[np.bool_]]]


def telling_frames(frames: Sequence[Frame], n: int) -> list[Frame]:
    """Return the middle frame of the first sequence of the first ``n`` subjects."""
    chosen: dict[str, list[Frame]] = {}
    for frame in frames:
        own = chosen.setdefault(frame.code, [])
        if not own or own[0].sequence == frame.sequence:
            own.append(frame)
    return [own[len(own) // 2] for own in list(chosen.values())[:n]]


def compared_slices(
    contest: Contest,
    fitted: Trained,
    frames: Sequence[Frame],
    bones: Mapping[str, StaticBones],
    pixel_mm: float,
) -> dict[str, list[Shown]]:
    """Return a slice of each frame with the bones as every method sees them.

    Parameters
    ----------
    contest : Contest
    fitted : Trained
    frames : sequence of Frame
        One per column.
    bones : mapping of subject to StaticBones
    pixel_mm : float

    Returns
    -------
    dict
        Method, and ``reference``, to a list of (image, masks).
    """
    rows: dict[str, list[Shown]] = {"reference": [], **{method: [] for method in METHODS}}
    for frame in frames:
        k = _fullest(frame.reference, frame.scan)
        image = frame.scan.item.image[:, :, k]
        rows["reference"].append((image, {b: m[:, :, k] for b, m in frame.reference.items()}))
        seen = predict([fitted], frame, pixel_mm)
        own = bones[frame.code]
        for method in METHODS:
            poses = contest.poses[method, frame.code, frame.sequence]
            masks = {}
            for bone, course in poses.items():
                if method == NETWORK:
                    masks[bone] = seen.mask(bone)[:, :, k]
                elif np.isfinite(course[frame.number]).all():
                    shape = frame.scan.item.image.shape
                    mask = own.carried(bone, course[frame.number], shape, frame.affine)
                    masks[bone] = mask[:, :, k]
            rows[method].append((image, masks))
    return rows


def predicted_slices(
    fitted: Trained, images: Mapping[str, Sequence[Frame]], pixel_mm: float, n: int
) -> dict[str, list[Shown]]:
    """Return a slice of ``n`` frames of each kind, with the bones that a network sees."""
    rows: dict[str, list[Shown]] = {}
    for name, frames in images.items():
        for frame in [frames[i] for i in np.linspace(0, len(frames) - 1, n).astype(int)]:
            k = _fullest(frame.reference, frame.scan)
            seen = predict([fitted], frame, pixel_mm)
            masks = {bone: seen.mask(bone)[:, :, k] for bone in fitted.recipe.labels}
            rows.setdefault(name, []).append((frame.scan.item.image[:, :, k], masks))
    return rows


def segmented_film(
    fitted: Trained, frames: Sequence[Frame], pixel_mm: float
) -> tuple[Volume, None, dict[str, list[Volume]]]:
    """Return the arguments of a `SequencePlayer`: the frames, no static scan, what is seen."""
    affine = frames[0].affine
    images = np.stack([frame.scan.item.image for frame in frames], axis=-1)
    seen = [predict([fitted], frame, pixel_mm) for frame in frames]
    masks = {
        bone: [Volume(one.mask(bone), affine) for one in seen] for bone in fitted.recipe.labels
    }
    return Volume(images, affine), None, masks


def fullest_slice(scan: Scan) -> Shown:
    """Return the sagittal slice that shows most bones, and of these most, with its labels."""
    k = _fullest(scan.item.labels, scan)
    labels = {bone: mask[:, :, k] for bone, mask in scan.item.labels.items()}
    return scan.item.image[:, :, k], labels


def _fullest(masks: Mapping[str, NDArray[np.bool_]], scan: Scan) -> int:
    areas = np.array([mask.sum(axis=(0, 1)) for mask in masks.values()])
    if not len(areas):
        return int(scan.item.region.sum(axis=(0, 1)).argmax())
    return int(((areas > 0).sum(axis=0) * areas.sum() + areas.sum(axis=0)).argmax())
