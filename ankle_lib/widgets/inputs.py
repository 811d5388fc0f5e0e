"""What views are given: brought to one orientation, or turned down with a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply
from ankle_lib.volume import Volume, to_orientation

Frames = Volume | Sequence[Volume | None]
"""A 4D image, or one 3D image per frame; None where there is none."""

SAME_GRID_MM = 1e-3
"""Affines of files that lie on one grid differ by less: they are stored in float32."""

SHOWN_BLACK = "shown black"
OUTSIDE = "taken as outside"
"""What a view makes of values that are not finite, in an image and in a mask."""


def image_3d(volume: Volume, name: str = "image") -> Volume:
    """Return a 3D image with axes P, S, R.

    Raises
    ------
    AnkleError
        If it has frames, or as in `check_values`.
    """
    check_values(volume, name)
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
        If there is no series, it does not belong to ``like``, or as in `check_values`.
    """
    images: list[Volume | None]
    if isinstance(frames, list | tuple):
        images = list(frames)
    else:
        check_values(frames, name)
        assert isinstance(frames, Volume)
        if frames.data.ndim != 4:
            raise AnkleError(
                f"The {name} has shape {frames.data.shape}: a 4D series of frames is wanted; look "
                "at one image in a VolumeViewer."
            )
        images = [frames.frame(n) for n in range(frames.n_frames)]
    if like is not None and len(images) != like.n_frames:
        raise AnkleError(f"The {name} has {len(images)} frames, the sequence {like.n_frames}.")
    for number, image in enumerate(images):
        if image is None:
            continue
        check_values(image, f"{name} in frame {number}")
        if image.data.ndim != 3:
            raise AnkleError(
                f"Frame {number} of the {name} has shape {image.data.shape}: a 3D image is wanted."
            )
        if like is not None:
            check_grid(image, like, f"Frame {number} of the {name}", "the sequence")
    return [None if image is None else to_orientation(image) for image in images]


def masks_on(
    image: Volume, masks: Mapping[str, Volume]
) -> tuple[dict[str, NDArray[np.bool_]], list[str]]:
    """Return the masks that can be drawn on an image, axes P, S, R, and a sentence for the others.

    An empty mask can be drawn, but gets a sentence; so does one with values that are not finite.
    """
    drawn: dict[str, NDArray[np.bool_]] = {}
    sentences = []
    for name, mask in masks.items():
        try:
            turned = image_3d(mask, f"mask of {name}")
            check_grid(turned, image, f"The mask of {name}")
        except AnkleError as error:
            sentences.append(f"{name} is not shown: {error}")
            continue
        drawn[name] = inside(turned.data)
        sentences += [if_empty(drawn[name], name), not_finite(turned, f"mask of {name}", OUTSIDE)]
    return drawn, [sentence for sentence in sentences if sentence]


def inside(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a mask is above 0; values that are not finite are outside."""
    return (mask > 0) & np.isfinite(mask) if mask.dtype.kind == "f" else mask > 0


def if_empty(mask: NDArray[np.bool_], name: str) -> str:
    """Return a sentence if a mask is empty, else an empty one."""
    return "" if mask.any() else f"The mask of {name} is empty: no voxel is above 0."


def check_grid(volume: Volume, like: Volume, what: str, other: str = "the image") -> None:
    """Refuse a volume that is on another grid; ``what`` and ``other`` name both in the sentence.

    Raises
    ------
    AnkleError
        If shapes differ, or affines by more than a micrometre.
    """
    same = volume.shape == like.shape
    if same and np.allclose(volume.affine, like.affine, atol=SAME_GRID_MM):
        return
    apart = ""
    if same:
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in like.shape]), axis=-1).reshape(-1, 3)
        one, two = (apply(grid.affine, corners) for grid in (volume, like))
        apart = f", up to {np.linalg.norm(one - two, axis=1).max():.3g} mm away"
    raise AnkleError(
        f"{what} {volume.shape} is on another grid than {other} {like.shape}{apart}: resample it."
    )


def check_values(volume: Any, name: str) -> None:
    """Refuse what is no `Volume`, has no voxels, or values that are no real numbers.

    Raises
    ------
    AnkleError
        In these cases.
    """
    if not isinstance(volume, Volume):
        raise AnkleError(
            f"The {name} is of type {type(volume).__name__}: a Volume is wanted, such as "
            "ankle_lib.volume.load reads from a file."
        )
    if not volume.data.size:
        raise AnkleError(f"The {name} has shape {volume.data.shape}: it has no voxels.")
    if volume.data.dtype.kind not in "biuf":
        raise AnkleError(f"The {name} has values of type {volume.data.dtype}: real numbers are "
                         "wanted.")  # fmt: skip


def not_finite(
    images: Volume | Iterable[Volume | None], name: str = "image", what: str = SHOWN_BLACK
) -> str:
    """Return a sentence if an image or a series holds NaN or infinite values, else an empty one.

    Parameters
    ----------
    images : Volume or iterable of Volume
        None where a series has no image.
    name, what : str
        What it is, and what becomes of these voxels, for the sentence.
    """
    of_all = [images] if isinstance(images, Volume) else images
    missing = sum(
        image.data.size - int(np.count_nonzero(np.isfinite(image.data)))
        for image in of_all
        if image is not None and image.data.dtype.kind == "f"
    )
    if not missing:
        return ""
    return f"In the {name}, voxels are not numbers but NaN or infinite: {what} ({missing})."
