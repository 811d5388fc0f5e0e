"""NIfTI in and out, orientation, grids, and the frames of a 4D series.

Every array is paired with its affine, which maps voxel indices to world coordinates in mm; world
axes point to the right, anterior and superior (RAS). Reading is strict on purpose: a file whose
header and content do not agree gives an :class:`~ankle_lib.files.AnkleError`, never a guess.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError, atomic_path
from ankle_lib.geometry import checked_affine, voxel_size
from ankle_lib.nifti_header import FIRST_DATA_BYTE, HEADER_BYTES, Header, Layout, parse_header

CANONICAL_CODES = "PSR"
"""Orientation used by the whole course: axis 0 runs to posterior, 1 to superior, 2 to right."""

_MAX_DEFLATE_RATIO = 1032
"""Deflate cannot compress better than 1032 : 1 (zlib's technical details)."""
_GZIP_LEVEL = 1
_CHUNK_BYTES = 1 << 20
_INT16_MAX = 32767
_LONGEST_AXIS = 32767
"""Largest number that fits into the header's dim, an int16."""
_SCANNER_CODE = 1


@dataclass(frozen=True, eq=False)  # == of arrays is no single truth
class Volume:
    """An image with its place in the world.

    Attributes
    ----------
    data : ndarray, shape (I, J, K) or (I, J, K, frames)
        Voxel values, spatial axes first.
    affine : ndarray, shape (4, 4), float64
        Voxel indices to world coordinates, RAS, mm.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse arrays and affines that no function here could use."""
        if self.data.ndim not in (3, 4):
            raise AnkleError(f"an image has 3 or 4 axes, this array has shape {self.data.shape}")
        object.__setattr__(self, "affine", checked_affine(self.affine, "affine"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along the three spatial axes."""
        return cast(tuple[int, int, int], self.data.shape[:3])

    @property
    def n_frames(self) -> int:
        """Number of frames; 1 for a 3D image."""
        return int(self.data.shape[3]) if self.data.ndim == 4 else 1

    @property
    def voxel_size_mm(self) -> tuple[float, float, float]:
        """Distance in mm between voxel centres along each axis of the array."""
        return voxel_size(self.affine)

    @property
    def grid(self) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
        """Shape of the three spatial axes, and the affine."""
        return self.shape, self.affine

    @property
    def axis_codes(self) -> tuple[str, str, str]:
        """Where each axis of the array points to, e.g. ``("P", "S", "R")``."""
        return cast(tuple[str, str, str], tuple(aff2axcodes(self.affine)))

    def frame(self, index: int) -> Volume:
        """Return frame ``index`` (from 0) as a 3D volume on the same grid; a view, not a copy."""
        if not 0 <= index < self.n_frames:
            raise AnkleError(f"there is no frame {index}: the image has {self.n_frames}")
        return Volume(self.data[..., index] if self.data.ndim == 4 else self.data, self.affine)


def load(path: str | os.PathLike[str]) -> Volume:
    """Read a NIfTI-1 file (``.nii`` or ``.nii.gz``), in either byte order.

    Parameters
    ----------
    path : path
        Whether the file is compressed is read from its first bytes, not from its name.

    Returns
    -------
    Volume
        Integers without scaling keep their type; everything else is float32. NaN voxels are kept.
        Axes of length 1 after the third are dropped.

    Raises
    ------
    AnkleError
        If the file is missing, no NIfTI-1 file, damaged, longer or shorter than its header says,
        larger than 2 GiB, not of real numbers, or without a usable affine.
    """
    path = Path(path)
    with _opened(path) as stream:
        block = stream.read(HEADER_BYTES)
        header, layout = parse_header(path, block)
        if header.affine_source == "none":
            raise AnkleError(
                f"{path}: neither qform nor sform is set (codes 0 and 0), so the file does not say "
                "where left and right are: convert the scan again from DICOM"
            )
        stored = _read_values(path, stream, layout)
    shape = header.shape if header.n_frames == 1 else (*header.shape, header.n_frames)
    data = stored.reshape(shape, order="F")
    return Volume(_scaled(path, data, header), header.affine)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read only the header of a NIfTI-1 file; raises :class:`AnkleError` as :func:`load` does.

    A header without any affine is returned with ``affine_source == "none"``.
    """
    path = Path(path)
    with _opened(path) as stream:
        return parse_header(path, stream.read(HEADER_BYTES))[0]


def save(
    path: str | os.PathLike[str],
    data: ArrayLike,
    affine: ArrayLike,
    *,
    scale: float | Literal["auto"] | None = None,
) -> Path:
    """Write a NIfTI-1 file atomically; equal arrays give equal bytes.

    Parameters
    ----------
    path : path
        Compressed (gzip, level 1) if it ends in ``.gz``.
    data : array, shape (I, J, K) or (I, J, K, frames)
        bool is stored as uint8, floats as float32, integers as they are.
    affine : array, shape (4, 4)
        Voxel to world RAS mm; written as both qform and sform with code 1 (scanner).
    scale : float or "auto", optional
        Store as int16 with this ``scl_slope``; "auto" takes the smallest slope that holds the
        largest absolute value. Values are rounded to multiples of the slope.

    Raises
    ------
    AnkleError
        If shape, type, affine or scale cannot be stored, or a value does not fit into int16.
    """
    path = Path(path)
    volume = Volume(np.asarray(data), np.asarray(affine, dtype=np.float64))
    if not all(1 <= length <= _LONGEST_AXIS for length in volume.data.shape):
        raise AnkleError(
            f"{path}: NIfTI-1 cannot hold shape {volume.data.shape}: expected 1 to {_LONGEST_AXIS} "
            "voxels along each axis"
        )
    stored, slope = _storable(path, volume.data, scale)
    content = _header(stored.dtype, stored.shape, volume.affine, slope)
    with _writing(path) as stream:
        _write(stream, content, stored)
    return path


def save_series(
    path: str | os.PathLike[str],
    frames: Iterable[ArrayLike],
    shape: tuple[int, int, int],
    n_frames: int,
    affine: ArrayLike,
    *,
    scale: float,
) -> Path:
    """Write a 4D NIfTI-1 file atomically, one frame after the other in memory.

    Parameters
    ----------
    path : path
        Compressed (gzip, level 1) if it ends in ``.gz``.
    frames : iterable of arrays, shape (I, J, K)
        As many as ``n_frames``.
    shape, n_frames
        Of the series.
    affine : array, shape (4, 4)
        Voxel to world RAS mm.
    scale : float
        ``scl_slope``: values are rounded to its multiples, and cut to the range of int16.

    Raises
    ------
    AnkleError
        If a frame has another shape or holds NaN, or their number is another one.
    """
    path, target = Path(path), checked_affine(np.asarray(affine, dtype=np.float64), "affine")
    slope, count = float(np.float32(scale)), 0
    if not (math.isfinite(slope) and slope > 0):
        raise AnkleError(f"{path}: scale {scale}: give a positive number")
    with _writing(path) as stream:
        stream.write(_header(np.dtype("<i2"), (*shape, n_frames), target, slope))
        for count, frame in enumerate(frames, start=1):
            data = np.asarray(frame)
            if data.shape != tuple(shape) or not np.isfinite(data).all():
                raise AnkleError(
                    f"{path}: frame {count - 1} has shape {data.shape} or values that are no "
                    f"numbers: expected {tuple(shape)}"
                )
            stored = np.rint(data / slope).clip(-_INT16_MAX, _INT16_MAX).astype("<i2")
            stream.write(stored.tobytes(order="F"))
        if count != n_frames:
            raise AnkleError(f"{path}: {count} frames were given, {n_frames} announced")
    return path


def to_orientation(volume: Volume, codes: str = CANONICAL_CODES) -> Volume:
    """Permute and reverse axes so that they point (most nearly) along ``codes``.

    No value is interpolated; the new affine maps each voxel to the world position that it had.
    An oblique grid stays oblique.

    Raises
    ------
    AnkleError
        If ``codes`` is not three letters, one each of L/R, P/A and I/S.
    """
    if len(codes) != 3 or any(len(set(codes) & set(pair)) != 1 for pair in ("LR", "PA", "IS")):
        raise AnkleError(f"orientation {codes!r}: give one each of L/R, P/A and I/S, as in 'PSR'")
    change = ornt_transform(io_orientation(volume.affine), axcodes2ornt(tuple(codes)))
    data = apply_orientation(volume.data, change)
    return Volume(data, volume.affine @ inv_ornt_aff(change, volume.shape))


def left_right_axis(affine: ArrayLike) -> int:
    """Return the axis of the array that is closest to world left-right."""
    orientation = io_orientation(np.asarray(affine, dtype=np.float64))
    return int(np.flatnonzero(orientation[:, 0] == 0)[0])


def flip_left_right(volume: Volume) -> Volume:
    """Mirror the anatomy: reverse the array left-right and keep the affine.

    This undoes a file whose array was reversed without its affine.
    """
    return Volume(np.flip(volume.data, left_right_axis(volume.affine)), volume.affine)


def canonical_voxel_size(affine: ArrayLike) -> tuple[float, float, float]:
    """Return the voxel size in mm along posterior, superior and right, whatever the axes' order."""
    matrix = np.asarray(affine, dtype=np.float64)
    change = ornt_transform(io_orientation(matrix), axcodes2ornt(tuple(CANONICAL_CODES)))
    sizes = np.empty(3)
    sizes[change[:, 0].astype(int)] = voxel_size(matrix)
    return cast(tuple[float, float, float], tuple(float(size) for size in sizes))


def resample(
    volume: Volume,
    shape: tuple[int, int, int],
    affine: ArrayLike,
    order: int = 1,
    fill: float = 0.0,
) -> Volume:
    """Interpolate ``volume`` on another grid of the same world.

    Parameters
    ----------
    volume : Volume
        3D or 4D (each frame is resampled).
    shape : tuple of 3 int
    affine : array, shape (4, 4)
        Grid of the result.
    order : int
        Degree of the spline: 0 nearest (for labels; keeps the type), 1 linear, up to 5. With 1
        and more the result is float32.
    fill : float
        Value outside of ``volume``.
    """
    target = checked_affine(affine, "affine of the new grid")
    source = volume.data.astype(np.uint8) if volume.data.dtype == bool else volume.data
    dtype = source.dtype if order == 0 else np.dtype(np.float32)
    new_to_old = np.linalg.inv(volume.affine) @ target
    result = np.empty((*shape, *source.shape[3:]), dtype=dtype)
    for frame in range(volume.n_frames):
        where = (..., frame) if source.ndim == 4 else (...,)
        ndimage.affine_transform(
            source[where],
            new_to_old[:3, :3],
            new_to_old[:3, 3],
            output_shape=shape,
            output=result[where],
            order=order,
            mode="constant",
            cval=fill,
        )
    return Volume(result.astype(volume.data.dtype) if order == 0 else result, target)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a plain or gzip file; every error of reading it becomes an AnkleError."""
    if os.path.isdir(path):
        raise AnkleError(f"{path}: is a folder, expected a NIfTI file (.nii or .nii.gz)")
    if not os.path.exists(path):  # also for names that no file can have
        raise AnkleError(f"{path}: no such file")
    if not os.path.isfile(path):  # a pipe would block
        raise AnkleError(f"{path}: is not a regular file")
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                file.seek(0)
                with gzip.GzipFile(fileobj=file, mode="rb") as decompressed:
                    yield cast(BinaryIO, decompressed)
            else:
                file.seek(0)
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise AnkleError(
            f"{path}: damaged or truncated gzip file ({error}): copy or export it again"
        ) from None
    except AnkleError:
        raise
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_values(path: Path, stream: BinaryIO, layout: Layout) -> NDArray[Any]:
    """Read the values as a flat array: at most the bytes that the header promises, and one more."""
    expected = layout.offset + layout.n_bytes
    size = path.stat().st_size
    compressed = isinstance(stream, gzip.GzipFile)
    largest = size * _MAX_DEFLATE_RATIO if compressed else size
    if largest < expected:
        raise AnkleError(
            f"{path}: truncated: {size} bytes{' of gzip' if compressed else ''} cannot hold the "
            f"{expected} that the header promises: copy or export it again"
        )
    stream.read(layout.offset - HEADER_BYTES)
    values = np.empty(layout.n_bytes, dtype=np.uint8)  # pages count only once they are written
    done = 0
    while done < layout.n_bytes:
        chunk = stream.read(min(_CHUNK_BYTES, layout.n_bytes - done))
        if not chunk:
            raise AnkleError(
                f"{path}: truncated: holds {done} of the {layout.n_bytes} bytes of image data "
                "that the header promises: copy or export it again"
            )
        values[done : done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        done += len(chunk)
    if stream.read(1):  # at the end of a gzip stream this also verifies its checksum
        raise AnkleError(
            f"{path}: holds more data than the header promises ({expected} bytes): "
            "its dim or datatype is wrong"
        )
    return values.view(layout.dtype).astype(layout.dtype.newbyteorder("="), copy=False)


def _scaled(path: Path, data: NDArray[Any], header: Header) -> NDArray[Any]:
    plain = (header.slope, header.intercept) == (1.0, 0.0)
    if (data.dtype == np.float32 and plain) or (data.dtype.kind in "iu" and plain):
        return data
    # float32 holds every integer of 16 bits exactly; larger types are scaled in double precision
    working = np.dtype(np.float32 if data.dtype.itemsize <= 2 else np.float64)
    try:
        with np.errstate(over="raise", invalid="ignore"):
            if plain:
                return data.astype(np.float32)
            scaled = data.astype(working)
            scaled *= header.slope
            scaled += header.intercept
            return scaled.astype(np.float32, copy=False)
    except FloatingPointError:
        raise AnkleError(
            f"{path}: values scaled by scl_slope {header.slope:g} and scl_inter "
            f"{header.intercept:g} do not fit into float32: the header is damaged"
        ) from None


def _storable(
    path: Path, data: NDArray[Any], scale: float | Literal["auto"] | None
) -> tuple[NDArray[Any], float]:
    """Return the array as it goes to disk (little endian) and its slope."""
    if data.dtype.kind not in "biuf":
        raise AnkleError(f"{path}: values of type {data.dtype} cannot be saved as an image")
    if scale is not None:
        return _as_int16(path, data, scale)
    if data.dtype == bool:
        return data.astype("u1"), 1.0
    if data.dtype.kind == "f":
        try:
            with np.errstate(over="raise"):
                return data.astype("<f4", copy=False), 1.0
        except FloatingPointError:
            raise AnkleError(
                f"{path}: values beyond the range of float32 cannot be saved"
            ) from None
    return data.astype(data.dtype.newbyteorder("<"), copy=False), 1.0


def _as_int16(
    path: Path, data: NDArray[Any], scale: float | Literal["auto"]
) -> tuple[NDArray[Any], float]:
    largest = float(np.abs(data).max())
    if scale == "auto":
        slope = float(np.nextafter(np.float32(largest / _INT16_MAX), np.float32(np.inf)))
        slope = slope if largest > 0 else 1.0
    else:
        slope = float(np.float32(scale))
    if not (math.isfinite(largest) and math.isfinite(slope) and slope > 0):
        raise AnkleError(
            f"{path}: values up to {largest} cannot be stored as int16 with scale {scale}: "
            "replace NaN, or save without scale"
        )
    if round(largest / slope) > _INT16_MAX:
        raise AnkleError(f"{path}: {largest:g} / scale {slope:g} does not fit into int16")
    return np.rint(data / slope).astype("<i2"), slope


def _header(
    dtype: np.dtype[Any], shape: tuple[int, ...], affine: NDArray[np.float64], slope: float
) -> bytes:
    """Return everything that comes before the values."""
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_qform(affine, code=_SCANNER_CODE)
    header.set_sform(affine, code=_SCANNER_CODE)
    header.set_xyzt_units("mm", "sec")
    header["scl_slope"], header["scl_inter"] = slope, 0.0
    header["vox_offset"] = FIRST_DATA_BYTE
    header["magic"] = b"n+1"
    block: bytes = header.binaryblock
    return block + bytes(FIRST_DATA_BYTE - HEADER_BYTES)


@contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """Open a file to be written whole or not at all, compressed if its name says so."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as compressed:
                yield compressed
        else:
            yield file


def _write(file: Any, header: bytes, data: NDArray[Any]) -> None:
    file.write(header)
    file.write(data.tobytes(order="F"))
