"""Poses in files: ``transforms.json``, FLIRT's ``.mat`` and ITK's ``.tfm``."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ankle_lib.files import AnkleError, first_problem, write_json, write_text
from ankle_lib.geometry import Grid, Matrix, from_flirt, is_rigid, to_flirt, to_itk

CONVENTION = "world RAS mm, static to frame"

_SMALLEST_DETERMINANT = 1e-6


@dataclass(frozen=True, eq=False)  # == of arrays is no single truth
class FramePose:
    """Where a bone of the static scan is in one frame."""

    frame: int
    """From 0."""
    bone: str
    """``whole`` is the foot as one."""
    matrix: Matrix
    """(4, 4) static world to frame world, RAS mm."""
    correlation: float | None
    """Weighted correlation of frame and moved static scan; None if there is none."""
    accepted: bool


class _Strict(BaseModel):
    """Values must have the type asked for; keys that are not asked for are passed over."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


_Row = Annotated[list[float], Field(min_length=4, max_length=4)]


class _Entry(_Strict):
    frame: Annotated[int, Field(ge=0)]
    bone: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    matrix: Annotated[list[_Row], Field(min_length=4, max_length=4)]
    correlation: Annotated[float, Field(ge=-1.0001, le=1.0001)] | None
    accepted: bool


class _Document(_Strict):
    convention: Literal["world RAS mm, static to frame"]
    transforms: list[_Entry]


def write_transforms(path: str | os.PathLike[str], poses: Iterable[FramePose]) -> Path:
    """Write poses as ``transforms.json``, atomically, with all digits.

    Raises
    ------
    AnkleError
        If a matrix is not rigid, or a frame has a bone twice.
    """
    entries = [
        vars(pose) | {"matrix": pose.matrix.tolist(), "correlation": _number(pose.correlation)}
        for pose in poses
    ]
    # What could not be read back is not written.
    document = {"convention": CONVENTION, "transforms": entries}
    _checked(Path(path), json.dumps(document).encode())
    return write_json(path, document)


def read_transforms(path: str | os.PathLike[str]) -> list[FramePose]:
    """Read ``transforms.json``; a correlation of ``null`` becomes None.

    Returns
    -------
    list of FramePose
        In the order of the file.

    Raises
    ------
    AnkleError
        If the file is missing or no JSON, names another convention, lacks a
        key, holds NaN or a matrix that is not rigid, or has a bone of a frame twice.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None
    return _checked(path, text)


def poses_by_bone(
    poses: Iterable[FramePose], bones: Iterable[str], n_frames: int
) -> tuple[dict[str, Matrix], dict[str, Matrix]]:
    """Return the poses (F, 4, 4) of each bone, and 1 where one was accepted, 0 elsewhere (F,).

    A frame without a pose has NaN and 0.
    """
    found = {bone: np.full((n_frames, 4, 4), np.nan) for bone in bones}
    accepted = {bone: np.zeros(n_frames) for bone in found}
    for one in poses:
        if one.bone in found:
            found[one.bone][one.frame], accepted[one.bone][one.frame] = one.matrix, one.accepted
    return found, accepted


def write_flirt(path: str | os.PathLike[str], matrix: ArrayLike, moving: Grid, fixed: Grid) -> Path:
    """Write a pose as FLIRT's ``.mat`` text file."""
    rows = to_flirt(matrix, moving, fixed)
    return write_text(path, "".join("  ".join(f"{x:.12g}" for x in row) + "\n" for row in rows))


def read_flirt(path: str | os.PathLike[str], moving: Grid, fixed: Grid) -> Matrix:
    """Read FLIRT's ``.mat`` text file into a world matrix."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        matrix = np.array([line.split() for line in lines if line.strip()], dtype=np.float64)
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise AnkleError(f"{path}: not a FLIRT matrix: expected 4 lines of 4 numbers") from None
    usable = matrix.shape == (4, 4) and np.isfinite(matrix).all()
    if not usable or abs(np.linalg.det(matrix)) < _SMALLEST_DETERMINANT:
        raise AnkleError(f"{path}: not an invertible 4 x 4 FLIRT matrix: {matrix.tolist()}")
    return from_flirt(matrix, moving, fixed)


def write_itk(path: str | os.PathLike[str], matrix: ArrayLike) -> Path:
    """Write a pose as an ITK ``.tfm``, for resampling the moving image on the fixed grid."""
    lps = to_itk(matrix)
    parameters = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    return write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: AffineTransform_double_3_3\n"
        f"Parameters: {' '.join(repr(float(x)) for x in parameters)}\n"
        "FixedParameters: 0 0 0\n",
    )


def _checked(path: Path, content: bytes) -> list[FramePose]:
    """Turn JSON into poses."""
    try:
        document = _Document.model_validate_json(content)
    except ValidationError as error:
        raise AnkleError(f"{path}: {first_problem(error)}") from None
    poses: dict[tuple[int, str], FramePose] = {}
    for entry in document.transforms:
        what = f"{path}: frame {entry.frame}, {entry.bone}"
        if (entry.frame, entry.bone) in poses:
            raise AnkleError(f"{what}: found twice: keep one of the two")
        if not is_rigid(entry.matrix):
            raise AnkleError(f"{what}: not a rigid 4x4 matrix: {entry.matrix}")
        matrix = np.array(entry.matrix, dtype=np.float64)
        poses[entry.frame, entry.bone] = FramePose(**(vars(entry) | {"matrix": matrix}))
    return list(poses.values())


def _number(correlation: float | None) -> float | None:
    """JSON has no NaN."""
    return None if correlation is None or math.isnan(correlation) else float(correlation)
