"""What views are given: brought to one orientation, or turned down with a sentence.

A view never raises for bad input, since people look at it, not at a traceback: it shows what it
can, and says in one sentence what it cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures import BONE_COLOURS
from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume, to_orientation

__all__ = [
    "SAME_GRID_MM",
    "Frames",
    "check_grid",
    "colours_of",
    "image_3d",
    "masks_on",
    "not_finite",
    "series",
]

Frames = Volume | Sequence[Volume | None]
"""A 4D image, or one 3D image per frame; None where there is none."""

SAME_GRID_MM = 1e-3
"""Affines of files that lie on one grid differ by less: they are stored in float32."""

FURTHER_COLOURS = ("#F0E442", "#CC79A7", "#E69F00", "#0072B2")
"""Okabe-Ito, for what is no bone."""


def image_3d(volume: Volume, name: str = "image") -> Volume:
    """Return a 3D image with axes P, S, R.

    Raises
    ------
    AnkleError
        If it has frames.
    """
    if volume.data.ndim != 3:
        raise AnkleError(
            f"The {name} has shape {volume.data.shape}: one 3D image is wanted; give one frame, "
            "or look at all of them in a SequencePlayer."
        )
    return to_orientation(volume)


def series(frames: Frames, name: str, like: Volume | None = None) -> list[Volume | None]:
    """Return one 3D image with axes P, S, R for each frame.

    Parameters
    ----------
    frames : Frames
    name : str
        For the sentence.
    like : Volume, optional
        4D; the frames must be as many, and lie on its grid.

    Raises
    ------
    AnkleError
        If there is no series, or it does not belong to ``like``.
    """
    if isinstance(frames, Volume):
        if frames.data.ndim != 4:
            raise AnkleError(
                f"The {name} has shape {frames.data.shape}: a 4D series of frames is wanted; look "
                "at one image in a VolumeViewer."
            )
        images: list[Volume | None] = [frames.frame(n) for n in range(frames.n_frames)]
    else:
        images = list(frames)
    if like is not None and len(images) != like.n_frames:
        raise AnkleError(f"The {name} has {len(images)} frames, the sequence {like.n_frames}.")
    for number, image in enumerate(images):
        if image is None:
            continue
        if image.data.ndim != 3:
            raise AnkleError(
                f"Frame {number} of the {name} has shape {image.data.shape}: a 3D image is wanted."
            )
        if like is not None:
            check_grid(image, like, f"Frame {number} of the {name}")
    return [None if image is None else to_orientation(image) for image in images]


def masks_on(
    image: Volume, masks: Mapping[str, Volume]
) -> tuple[dict[str, NDArray[np.bool_]], list[str]]:
    """Return the masks that can be drawn on an image, axes P, S, R, and a sentence for the others.

    An empty mask can be drawn, but gets a sentence.
    """
    drawn: dict[str, NDArray[np.bool_]] = {}
    sentences = []
    for name, mask in masks.items():
        try:
            turned = image_3d(mask, name)
            check_grid(turned, image, f"The mask of {name}")
        except AnkleError as error:
            sentences.append(f"{name} is not shown: {error}")
            continue
        drawn[name] = turned.data if turned.data.dtype == bool else turned.data > 0
        if not drawn[name].any():
            sentences.append(f"The mask of {name} is empty: no voxel is above 0.")
    return drawn, sentences


def check_grid(volume: Volume, like: Volume, what: str, other: str = "the image") -> None:
    """Refuse a volume that is on another grid; ``what`` and ``other`` name both in the sentence.

    Raises
    ------
    AnkleError
        If shapes differ, or affines by more than a micrometre.
    """
    same = volume.shape == like.shape
    if not (same and np.allclose(volume.affine, like.affine, atol=SAME_GRID_MM)):
        raise AnkleError(
            f"{what} {volume.shape} is on another grid than {other} {like.shape}: resample it."
        )


def not_finite(image: Volume, name: str = "image") -> str:
    """Return a sentence if an image holds NaN or infinite values, else an empty one."""
    if image.data.dtype.kind != "f":
        return ""
    missing = image.data.size - int(np.count_nonzero(np.isfinite(image.data)))
    if not missing:
        return ""
    return f"In the {name}, voxels are not numbers but NaN or infinite: shown black ({missing})."


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name: the bones' own, then others."""
    others = [name for name in names if name not in BONE_COLOURS]
    further = {name: FURTHER_COLOURS[n % len(FURTHER_COLOURS)] for n, name in enumerate(others)}
    return {name: (BONE_COLOURS | further)[name] for name in names}
