"""Items of a cohort from the folders that earlier chapters wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.items import Item
from ankle_lib.patches.normalise import zscore
from ankle_lib.volume import Volume, canonical_voxel_size, load, read_header, to_orientation

SAME_GRID_MM = 1e-3
"""Affines of files that lie on one grid differ by less: they are stored in float32."""

PIXEL_TOLERANCE = 0.05
"""Relative; a cohort's voxel sizes may scatter as much (see `manifest.Geometry`)."""


class RegisteredBone(Protocol):
    """An accepted registration of one bone on one frame (see `ankle_lib.quality`)."""

    @property
    def subject(self) -> str:
        """Code of the subject."""

    @property
    def sequence(self) -> str:
        """Name of the sequence, e.g. ``active_run-01``."""

    @property
    def frame(self) -> int:
        """Frame, from 0."""

    @property
    def bone(self) -> str:
        """The bone that the registration follows."""

    @property
    def mask(self) -> Path:
        """The bone's mask on the frame's grid."""

    @property
    def moved_static(self) -> Path:
        """The static scan moved with the bone, on the frame's grid."""


def pixel_mm(images: Iterable[Path]) -> float:
    """Return the size of the pixels in sagittal slices: their median over all images.

    Raises
    ------
    AnkleError
        If there is no image, or an image's pixels are not square or not of this size, by more
        than 5 %.
    """
    paths = list(images)
    if not paths:
        raise AnkleError("no image to read a pixel's size from: is the cohort empty?")
    sizes = np.array([canonical_voxel_size(read_header(path).affine)[:2] for path in paths])
    usual = float(np.median(sizes))
    far = np.abs(sizes / usual - 1).max(axis=1) > PIXEL_TOLERANCE
    if far.any():
        first = int(np.argmax(far))
        found = " x ".join(f"{size:.3f}" for size in sizes[first])
        raise AnkleError(
            f"{paths[first]}: pixels of {found} mm, but {usual:.3f} mm in most images: resample it"
        )
    return usual


def static_items(subjects: Iterable[CleanSubject], masked: Path) -> Iterator[Item]:
    """Yield the static scan of each subject, normalised inside the foot, with its bones.

    Parameters
    ----------
    subjects : iterable of CleanSubject
        From `manifest.read_clean_cohort`; pick those of one part of a `Split`.
    masked : Path
        Results of chapter 02, which hold the foot masks.
    """
    for subject in subjects:
        image = _read(subject.static)
        foot = _read_mask(_foot_path(masked, subject.code, "static"), image)
        labels = {bone: _read_mask(path, image) for bone, path in subject.masks.items()}
        yield Item(subject.code, "static", _normalised(subject.static, image, foot), foot, labels)


def dynamic_items(
    subjects: Iterable[CleanSubject], masked: Path, accepted: Sequence[RegisteredBone]
) -> Iterator[Item]:
    """Yield each frame with at least one accepted bone, normalised inside the foot.

    A bone whose registration was not accepted is unknown in that frame: the other bones' patches
    are still used. Parameters as for `static_items`, and the accepted registrations.
    """
    for subject in subjects:
        for (sequence, frame), bones in _by_frame(subject, accepted).items():
            yield dynamic_item(subject, sequence, frame, masked, bones)


def dynamic_item(
    subject: CleanSubject,
    sequence: str,
    frame: int,
    masked: Path,
    accepted: Sequence[RegisteredBone] = (),
) -> Item:
    """Return one frame, normalised inside the foot, with the bones accepted in it, if any."""
    path = _frame_path(subject, sequence, frame)
    image = _read(path)
    name = f"task-{sequence}_frame-{frame:02d}"
    foot = _read_mask(_foot_path(masked, subject.code, name), image)
    labels = {one.bone: _read_mask(one.mask, image) for one in accepted}
    normalised = _normalised(path, image, foot)
    return Item(subject.code, f"{sequence} frame {frame}", normalised, foot, labels)


def reconstruction_items(
    subjects: Iterable[CleanSubject], accepted: Sequence[RegisteredBone]
) -> Iterator[Item]:
    """Yield, per frame and accepted bone, the frame and the static scan moved with the bone.

    Both are normalised inside the bone, each by itself (report, section 6.3.1).
    """
    for subject in subjects:
        for (sequence, frame), bones in _by_frame(subject, accepted).items():
            path = _frame_path(subject, sequence, frame)
            image = _read(path)
            for one in bones:
                mask, moved = _read_mask(one.mask, image), _read(one.moved_static)
                _check_grid(one.moved_static, moved, image)
                yield Item(
                    subject.code,
                    f"{sequence} frame {frame}",
                    _normalised(path, image, mask),
                    mask,
                    target=_normalised(one.moved_static, moved, mask),
                    bone=one.bone,
                )


def _by_frame(
    subject: CleanSubject, accepted: Sequence[RegisteredBone]
) -> dict[tuple[str, int], list[RegisteredBone]]:
    """Return the subject's registrations, frame by frame in order."""
    own = [one for one in accepted if one.subject == subject.code]
    frames: dict[tuple[str, int], list[RegisteredBone]] = {}
    for one in sorted(own, key=lambda one: (one.sequence, one.frame, one.bone)):
        frames.setdefault((one.sequence, one.frame), []).append(one)
    return frames


def _frame_path(subject: CleanSubject, sequence: str, frame: int) -> Path:
    frames = subject.sequences.get(sequence, [])
    if not 0 <= frame < len(frames):
        raise AnkleError(
            f"{subject.code} has no frame {frame} of {sequence!r}, but a registration of it: "
            "run chapter 03 again"
        )
    return frames[frame]


def _foot_path(masked: Path, code: str, image: str) -> Path:
    return masked / f"sub-{code}" / f"sub-{code}_{image}_desc-foot_mask.nii.gz"


def _read(path: Path) -> Volume:
    volume = to_orientation(load(path))
    if volume.data.ndim != 3:
        raise AnkleError(f"{path}: a series of {volume.n_frames} frames where one image is needed")
    return volume


def _read_mask(path: Path, image: Volume) -> NDArray[np.bool_]:
    mask = _read(path)
    _check_grid(path, mask, image)
    return mask.data > 0


def _check_grid(path: Path, volume: Volume, image: Volume) -> None:
    same = volume.shape == image.shape
    if not (same and np.allclose(volume.affine, image.affine, atol=SAME_GRID_MM)):
        raise AnkleError(
            f"{path}: not on the grid of its image (shapes {volume.shape} and {image.shape}): run "
            "the chapter that wrote it again"
        )


def _normalised(path: Path, image: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    try:
        return zscore(image.data, mask)
    except AnkleError as error:
        raise AnkleError(f"{path}: {error}") from None
