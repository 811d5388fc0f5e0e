"""NIfTI in and out, orientation, grids, and the frames of a 4D series.

Every array is paired with its affine, which maps voxel indices to world coordinates in mm; world
axes point to the right, anterior and superior (RAS). Reading is strict on purpose: a file whose
header and content do not agree gives an :class:`~ankle_lib.files.AnkleError`, never a guess.
"""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import nibabel as nib
import numpy as np
from nibabel import orientations
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError, atomic_path
from ankle_lib.geometry import (
    Matrix,
    checked_affine,
    compose,
    corner_distance_mm,
    in_words,
    invert,
    same_grid,
    slice_direction,
    slice_parts,
    voxel_size,
)

CANONICAL_CODES = "PSR"
"""Orientation used by the whole course: axis 0 runs to posterior, 1 to superior, 2 to right."""

MAX_BYTES = 2 * 1024**3
"""Largest image that is read; the report's largest static scan has 0.08 GB."""
PIXDIM_TOLERANCE = 0.05
"""Largest relative difference between the voxel sizes of the affine and of pixdim."""
_MAX_DEFLATE_RATIO = 1032
"""Deflate cannot compress better than 1032 : 1 (zlib's technical details)."""
_GZIP_LEVEL = 1
INT16_MAX = 32767
_FEWEST_FOR_OUTLIERS = 10_000
"""With fewer voxels, a thousandth is less than ten."""
_LONGEST_AXIS = 32767
"""Largest number that fits into the header's dim, an int16."""
_FARTHEST_DATA = 64 * 1024**2
_OTHERS = {
    b"ni1": "the header of a NIfTI pair (.hdr and .img)",
    b"ni2": "the header of a NIfTI-2 pair (.hdr and .img)",
    b"": "an Analyze 7.5 header, which does not say where left and right are",
}
"""Files of the same size of header, by their magic."""
_SIGNATURES = {
    (128, b"DICM"): "DICOM: convert the series with dcm2niix",
    (0, b"NRRD"): "NRRD",
    (0, b"ObjectType"): "MetaImage",
    (0, b"\0\0\0\1"): "FreeSurfer MGH",
    (0, b"\x89HDF"): "HDF5 (MINC)",
    (0, b"PK\3\4"): "a zip archive: unpack it",
    (0, b"\x89PNG"): "a PNG picture",
}
"""What begins so, by offset and bytes."""
_TEXT_FIELDS = ("db_name", "descrip", "aux_file", "intent_name")
_LONGEST_TEXT = 4096
"""Bytes of extensions that are looked at."""
_CODES = range(6)
"""Of qform and sform; 0 says that the affine is not set."""
_FORMATS = {kind.sizeof_hdr: kind for kind in (nib.Nifti1Header, nib.Nifti2Header)}
_SECONDS = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}
"""Of the unit of time, by its code; where there is none, it is the second."""


@dataclass(frozen=True, eq=False)  # == of arrays is no single truth
class Volume:
    """An image with its place in the world.

    Attributes
    ----------
    data : ndarray, shape (I, J, K) or (I, J, K, frames)
        Voxel values, spatial axes first.
    affine : ndarray, shape (4, 4), float64
        Voxel indices to world coordinates, RAS, mm.
    time_step_s : float, optional
        Seconds from frame to frame; None if it is not known, or there is one frame.
    """

    data: NDArray[Any]
    affine: Matrix
    time_step_s: float | None = None

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
    def grid(self) -> tuple[tuple[int, int, int], Matrix]:
        """Shape of the three spatial axes, and the affine."""
        return self.shape, self.affine

    @property
    def axis_codes(self) -> tuple[str, str, str]:
        """Where each axis of the array points to, e.g. ``("P", "S", "R")``."""
        return cast(tuple[str, str, str], tuple(orientations.aff2axcodes(self.affine)))

    def frame(self, index: int) -> "Volume":
        """Return frame ``index`` (from 0) as a 3D volume on the same grid; a view, not a copy."""
        if not 0 <= index < self.n_frames:
            raise AnkleError(f"there is no frame {index}: the image has {self.n_frames}")
        return Volume(self.data[..., index] if self.data.ndim == 4 else self.data, self.affine)


@dataclass(frozen=True, eq=False)
class Header:
    """What a NIfTI header says about geometry and values.

    Attributes
    ----------
    shape : tuple of 3 int
    n_frames : int
    time_step_s : float, optional
        None if there is one frame, or the header has no positive number.
    dtype : numpy.dtype
        Type of the values as stored, native byte order.
    qform, sform : ndarray, shape (4, 4)
        Both affines of the format, all NaN where the header holds no usable one.
    qform_code, sform_code : int
        0 says that the affine is not set.
    affine : ndarray, shape (4, 4)
        The one that :func:`load` uses: sform if set, else qform, else the voxel sizes alone.
    affine_source : {"sform", "qform", "none"}
        Where ``affine`` comes from. With "none" the file does not say how the subject lies in it
        and :func:`load` refuses it.
    slope, intercept : float
        Value = slope * stored + intercept; 1 and 0 if there is no scaling.
    byte_order : {"<", ">"}
    offset : int
        Where the values begin in the (uncompressed) file.
    texts : dict of str to str
        Free text, by the name of its field; that of extensions as ``extension``. Only to warn of
        it: no file written here has any.
    """

    shape: tuple[int, int, int]
    n_frames: int
    time_step_s: float | None
    dtype: np.dtype[Any]
    qform: Matrix
    qform_code: int
    sform: Matrix
    sform_code: int
    affine: Matrix
    affine_source: Literal["sform", "qform", "none"]
    slope: float
    intercept: float
    byte_order: Literal["<", ">"]
    offset: int
    texts: dict[str, str]

    @property
    def affines(self) -> dict[str, Matrix]:
        """The affines that are set and usable, by name, sform first; two of them may differ."""
        forms = {"sform": (self.sform_code, self.sform), "qform": (self.qform_code, self.qform)}
        return {
            name: form
            for name, (code, form) in forms.items()
            if code > 0 and np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 1e-9
        }


def load(path: str | os.PathLike[str], *, form: Literal["sform", "qform"] | None = None) -> Volume:
    """Read a NIfTI file (``.nii`` or ``.nii.gz``, version 1 or 2), in either byte order.

    Parameters
    ----------
    path : path
        Whether the file is compressed is read from its first bytes, not from its name.
    form : {"sform", "qform"}, optional
        Which affine places the image if both are set and disagree. By default such a file is
        refused: programs choose differently, so that the same file lies in two places.

    Returns
    -------
    Volume
        Integers without scaling keep their type; everything else is float32. NaN voxels are kept.
        Axes of length 1 after the third are dropped.

    Raises
    ------
    AnkleError
        If the file is missing, no NIfTI file, damaged, longer or shorter than its header says,
        larger than 2 GiB, not of real numbers, without a usable affine, or with two that disagree.

    Examples
    --------
    >>> film = load("sub-T01_task-active.nii.gz")  # doctest: +SKIP
    >>> film.shape, film.n_frames, film.voxel_size_mm, film.time_step_s  # doctest: +SKIP
    """
    path = Path(path)
    with _opened(path) as stream:
        header = _header_of(path, stream)
        if header.affine_source == "none":
            raise AnkleError(
                f"{path}: neither qform nor sform is set (codes 0 and 0), so the file does not say "
                "where left and right are: save it again with the affine of the scan that it was "
                "made from (nibabel: Nifti1Image(data, scan.affine)), or convert that scan again"
            )
        found = header.affines
        if form is None and len(found) == 2:
            places = [(header.shape, one) for one in found.values()]
            if not same_grid(*places):
                apart = corner_distance_mm(header.shape, *found.values())
                raise AnkleError(
                    f"{path}: lies in two places, which are {apart:.3g} mm apart: the qform (code "
                    f"{header.qform_code}) and the sform (code {header.sform_code}) disagree: find "
                    "out which is right and copy it over the other (FSL: fslorient "
                    "-copyqform2sform FILE, or -copysform2qform FILE)"
                )
        stored = _values(path, stream, header)
    shape = header.shape if header.n_frames == 1 else (*header.shape, header.n_frames)
    data = _scaled(path, stored.reshape(shape, order="F"), header)
    return Volume(data, found.get(form or "sform", header.affine), header.time_step_s)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read only the header of a NIfTI file; raises :class:`AnkleError` as :func:`load` does.

    A header without any affine is returned with ``affine_source == "none"``.
    """
    path = Path(path)
    with _opened(path) as stream:
        return _header_of(path, stream)


def save(
    path: str | os.PathLike[str],
    data: ArrayLike,
    affine: ArrayLike,
    *,
    scale: float | Literal["auto"] | None = None,
    slope: float = 1.0,
    time_step_s: float | None = None,
) -> Path:
    """Write a NIfTI-1 file atomically; equal arrays give equal bytes.

    Parameters
    ----------
    path : path
        Compressed (gzip, level 1) if it ends in ``.gz``.
    data : array, shape (I, J, K) or (I, J, K, frames)
        bool is stored as uint8, floats as float32, integers as they are.
    affine : array, shape (4, 4)
        Voxel to world RAS mm; written as sform and, unless it is sheared, as qform, with code 1
        (scanner).
    scale : float or "auto", optional
        Store as int16 with this ``scl_slope``: values are rounded to its multiples. "auto" takes
        the smallest slope that holds the largest absolute value; an image in which a few voxels
        are so large that the others would get less than a tenth of all steps stays float32.
    slope : float
        ``scl_slope`` of values that are multiples of it already, without ``scale``.
    time_step_s : float, optional
        Seconds from frame to frame, as `Volume.time_step_s`.

    Raises
    ------
    AnkleError
        If shape, type, affine or scale cannot be stored, or a value does not fit into int16.
    """
    path = Path(path)
    volume = Volume(np.asarray(data), np.asarray(affine, dtype=np.float64), time_step_s)
    stored, own_slope = _storable(path, volume.data, scale)
    content = _header_block(volume, stored, slope * own_slope) + stored.tobytes(order="F")
    with atomic_path(path) as temporary, open(temporary, "wb") as plain:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, plain, mtime=0) as file:
                file.write(content)
        else:
            plain.write(content)
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
    change = _change(volume.affine, codes)
    affine = volume.affine @ orientations.inv_ornt_aff(change, volume.shape)
    data = orientations.apply_orientation(volume.data, change)
    return replace(volume, data=data, affine=affine)


def slices_last(volume: Volume) -> Volume:
    """Return the image with its third axis across the slices, that of the largest voxel."""
    across = slice_direction(volume.affine).axis
    order = [*(axis for axis in range(3) if axis != across), across]
    data = volume.data.transpose([*order, *range(3, volume.data.ndim)])
    return replace(volume, data=data, affine=volume.affine[:, [*order, 3]])


def left_right_axis(affine: ArrayLike) -> int:
    """Return the axis of the array that is closest to world left-right."""
    orientation = orientations.io_orientation(np.asarray(affine, dtype=np.float64))
    return int(np.flatnonzero(orientation[:, 0] == 0)[0])


def flip_left_right(volume: Volume) -> Volume:
    """Mirror the anatomy: reverse the array left-right and keep the affine.

    This undoes a file whose array was reversed without its affine.
    """
    return replace(volume, data=np.flip(volume.data, left_right_axis(volume.affine)))


def canonical_voxel_size(affine: ArrayLike) -> tuple[float, float, float]:
    """Return the voxel size in mm along posterior, superior and right, whatever the axes' order."""
    matrix = np.asarray(affine, dtype=np.float64)
    change = _change(matrix, CANONICAL_CODES)
    sizes = np.empty(3)
    sizes[change[:, 0].astype(int)] = voxel_size(matrix)
    return cast(tuple[float, float, float], tuple(float(size) for size in sizes))


def _change(affine: Matrix, codes: str) -> NDArray[Any]:
    """Return nibabel's change of orientation from a grid's own to ``codes``."""
    wanted = orientations.axcodes2ornt(tuple(codes))
    return np.asarray(orientations.ornt_transform(orientations.io_orientation(affine), wanted))


def resample(
    volume: Volume,
    shape: tuple[int, int, int],
    affine: ArrayLike,
    order: int = 1,
    fill: float = 0.0,
    *,
    pose: ArrayLike | None = None,
    slice_samples: int = 1,
) -> Volume:
    """Interpolate ``volume`` on another grid, after a pose has carried it.

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
        Value outside of ``volume``, whose outermost voxels reach half a voxel beyond their
        centres (order 0), or fade to ``fill`` over one (order 1 and more).
    pose : array, shape (4, 4), optional
        World of ``volume`` to world of the result, RAS mm; the same world by default.
    slice_samples : int
        Samples that are averaged across the thickest axis of the new grid, as a thick slice does;
        1 samples the middle of the slice only.
    """
    target = checked_affine(affine, "affine of the new grid")
    source = volume.data.astype(np.uint8) if volume.data.dtype == bool else volume.data
    labels = order == 0 and slice_samples == 1
    dtype = source.dtype if labels else np.dtype(np.float32)
    back = np.eye(4) if pose is None else invert(pose)
    thick = target[:3, slice_direction(target).axis]
    result = np.zeros((*shape, *source.shape[3:]), dtype=dtype)
    parts = slice_parts(slice_samples)
    for part in parts:
        grid = target.copy()
        grid[:3, 3] += part * thick
        new_to_old = compose(np.linalg.inv(volume.affine), back, grid)
        for frame in range(volume.n_frames):
            where = (..., frame) if source.ndim == 4 else (...,)
            result[where] += ndimage.affine_transform(
                source[where],
                new_to_old[:3, :3],
                new_to_old[:3, 3],
                output_shape=shape,
                output=dtype,
                order=order,
                # not "constant", which loses the border to the last digit of a coordinate
                mode="grid-constant",
                cval=fill,
            )
    if slice_samples > 1:
        result /= slice_samples
    data = result.astype(volume.data.dtype, copy=False) if labels else result
    return replace(volume, data=data, affine=target)


# --- reading ---


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
            is_compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if is_compressed:
                with gzip.GzipFile(fileobj=file, mode="rb") as decompressed:
                    yield cast(BinaryIO, decompressed)
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise AnkleError(
            f"{path}: damaged or truncated gzip file ({error}): copy or export it again"
        ) from None
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None


def _header_of(path: Path, stream: BinaryIO) -> Header:
    """Read a header and check what a scan's must be, before any memory is taken for values."""

    def expect(condition: bool, otherwise: str) -> None:
        if not condition:
            raise AnkleError(f"{path}: {otherwise}")

    fields = _fields(path, stream)
    magic, first = bytes(fields["magic"]).split(b"\0")[0], fields.single_vox_offset
    other = _OTHERS.get(magic, "damaged, or of another program")
    expect(
        magic == fields.single_magic,
        f"magic {magic!r} is not that of a single-file NIfTI: it is {other}: convert the scan to "
        "one .nii.gz",
    )
    shape = _shape(path, fields["dim"])
    dtype = _dtype(path, int(fields["datatype"]), int(fields["bitpix"]))
    n_bytes = math.prod(shape) * dtype.itemsize
    expect(
        n_bytes <= MAX_BYTES,
        f"dimensions {shape} of {dtype} need {n_bytes / 1e9:.1f} GB, more than the limit of "
        f"{MAX_BYTES / 1e9:.1f} GB: check the header's dim",
    )
    units, offset = int(fields["xyzt_units"]), float(fields["vox_offset"])
    expect(
        units & 7 in (0, 2), f"spatial unit code {units & 7} is not mm (2): convert the file to mm"
    )
    expect(
        first <= offset <= _FARTHEST_DATA and offset == int(offset),
        f"vox_offset {offset:g} is not a place for the data ({first} to {_FARTHEST_DATA}): the "
        "header is damaged",
    )
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or math.isnan(slope):  # NIfTI's and nibabel's way to say: no scaling
        slope, intercept = 1.0, 0.0
    expect(
        math.isfinite(slope) and math.isfinite(intercept),
        f"scl_slope {slope:g} and scl_inter {intercept:g} must be finite: the header is damaged",
    )
    codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")}
    for name, code in codes.items():
        expect(code in _CODES, f"{name}_code {code} is not one of 0 to {_CODES[-1]}")
    pixdim = tuple(float(size) for size in fields["pixdim"][1:4])
    affines = {"sform": fields.get_sform(), "qform": _qform(fields)}
    source = next((name for name in affines if codes[name]), "none")
    found = affines.get(source, np.diag([*pixdim, 1.0]))
    affine = checked_affine(found, f"{path}: {source if source in affines else 'pixdim'}")
    sizes = voxel_size(affine)
    expect(
        np.allclose(pixdim, sizes, rtol=PIXDIM_TOLERANCE, atol=0),
        f"voxels are {in_words(sizes)} by the {source} but {in_words(pixdim)} by pixdim: correct "
        "the header or convert the scan again from DICOM",
    )
    step = float(fields["pixdim"][4]) * _SECONDS.get(units & 56, math.nan)
    return Header(
        shape=shape[:3],
        n_frames=shape[3],
        time_step_s=step if shape[3] > 1 and 0 < step < math.inf else None,
        dtype=dtype,
        qform=affines["qform"],
        qform_code=codes["qform"],
        sform=affines["sform"],
        sform_code=codes["sform"],
        affine=affine,
        affine_source=cast(Literal["sform", "qform", "none"], source),
        slope=slope,
        intercept=intercept,
        byte_order=fields.endianness,
        offset=int(offset),
        texts=_texts(fields, stream.read(min(int(offset) - fields.sizeof_hdr, _LONGEST_TEXT))),
    )


def _texts(fields: nib.Nifti1Header, extensions: bytes) -> dict[str, str]:
    """Return the texts of a header and of the beginning of its extensions, where there are any."""
    parts = {name: bytes(fields[name]) for name in _TEXT_FIELDS if name in fields.keys()}
    parts = {name: part.split(b"\0")[0] for name, part in parts.items()}
    if extensions[:1] > b"\0":
        parts["extension"] = bytes(byte for byte in extensions[12:] if byte >= 32)
    texts = {name: part.decode("utf-8", "replace").strip() for name, part in parts.items()}
    return {name: text for name, text in texts.items() if text}


def _fields(path: Path, stream: BinaryIO) -> nib.Nifti1Header:
    """Read the fields of a header of either version and byte order."""
    block = stream.read(4)
    for order, name in (("<", "little"), (">", "big")):
        kind = _FORMATS.get(int.from_bytes(block[:4], cast(Literal["little", "big"], name)))
        if kind is not None:
            block += stream.read(kind.sizeof_hdr - 4)
            if len(block) == kind.sizeof_hdr:
                return kind(block, endianness=order, check=False)
    if len(block) != 4:
        raise AnkleError(
            f"{path}: {len(block)} bytes are too few for a NIfTI header: the file is empty or "
            "truncated"
        )
    start, size = block + stream.read(128), int.from_bytes(block, "little")
    named = (name for (at, sign), name in _SIGNATURES.items() if start[at:].startswith(sign))
    raise AnkleError(
        f"{path}: not a NIfTI file but {next(named, 'something else')} (sizeof_hdr is {size}, "
        f"expected {' or '.join(map(str, _FORMATS))}): convert the scan to .nii.gz"
    )


def _shape(path: Path, dim: NDArray[Any]) -> tuple[int, int, int, int]:
    n_axes = int(dim[0])
    lengths = [int(length) for length in dim[1 : n_axes + 1]] if 3 <= n_axes <= 7 else []
    if not lengths or min(lengths) < 1 or any(n != 1 for n in lengths[4:]):
        raise AnkleError(
            f"{path}: dim {dim.tolist()} is not that of a 3D image or a 4D series: "
            "expected 3 or 4 axes of positive length"
        )
    i, j, k, frames = (*lengths[:4], 1)[:4]
    return i, j, k, frames


def _dtype(path: Path, code: int, bits: int) -> np.dtype[Any]:
    types = nib.nifti1.data_type_codes
    dtype: np.dtype[Any] = np.dtype(cast(str, types.dtype[code]) if code in types.code else "V")
    if dtype.kind not in "iuf" or not 0 < dtype.itemsize <= 8:
        raise AnkleError(f"{path}: datatype code {code} is not one of real numbers of 8 to 64 bits")
    if bits != 8 * dtype.itemsize:
        raise AnkleError(
            f"{path}: bitpix {bits} contradicts datatype {code} ({dtype}, {8 * dtype.itemsize} "
            "bits): the header is damaged"
        )
    return dtype


def _qform(fields: nib.Nifti1Header) -> Matrix:
    if fields["pixdim"][0] == 0:  # NIfTI: a handedness of 0 is to be read as 1
        fields["pixdim"][0] = 1
    try:
        with np.errstate(all="ignore"):
            return np.asarray(fields.get_qform(), dtype=np.float64)
    except (nib.spatialimages.HeaderDataError, ValueError):
        return np.full((4, 4), np.nan)


def _values(path: Path, stream: BinaryIO, header: Header) -> NDArray[Any]:
    """Read the values as a flat array: at most the bytes that the header promises, and one more."""
    n_bytes = math.prod(header.shape) * header.n_frames * header.dtype.itemsize
    expected, size = header.offset + n_bytes, path.stat().st_size
    compressed = isinstance(stream, gzip.GzipFile)
    if size * (_MAX_DEFLATE_RATIO if compressed else 1) < expected:
        raise AnkleError(
            f"{path}: truncated: {size} bytes{' of gzip' if compressed else ''} cannot hold the "
            f"{expected} that the header promises: copy or export it again"
        )
    stream.read(header.offset - stream.tell())
    content = stream.read(n_bytes + 1)  # beyond the end, which verifies the checksum of a gzip file
    if len(content) < n_bytes:
        raise AnkleError(
            f"{path}: truncated: holds {len(content)} of the {n_bytes} bytes of image data "
            "that the header promises: copy or export it again"
        )
    if len(content) > n_bytes:
        raise AnkleError(
            f"{path}: holds more data than the header promises ({expected} bytes): "
            "its dim or datatype is wrong"
        )
    stored = np.frombuffer(content, header.dtype.newbyteorder(header.byte_order))
    return stored.astype(header.dtype)  # a copy: bytes cannot be written to


def _scaled(path: Path, data: NDArray[Any], header: Header) -> NDArray[Any]:
    plain = (header.slope, header.intercept) == (1.0, 0.0)
    if plain and (data.dtype == np.float32 or data.dtype.kind in "iu"):
        return data
    # float32 holds every integer of 16 bits exactly; larger types are scaled in double precision
    scaled: NDArray[Any] = data.astype(np.float32 if data.dtype.itemsize <= 2 else np.float64)
    try:
        with np.errstate(over="raise", invalid="ignore"):
            if not plain:
                scaled *= header.slope
                scaled += header.intercept
            return scaled.astype(np.float32, copy=False)
    except FloatingPointError:
        raise AnkleError(
            f"{path}: values scaled by scl_slope {header.slope:g} and scl_inter "
            f"{header.intercept:g} do not fit into float32: the header is damaged"
        ) from None


# --- writing ---


def _storable(
    path: Path, data: NDArray[Any], scale: float | Literal["auto"] | None
) -> tuple[NDArray[Any], float]:
    """Return the array as it goes to disk (little endian) and its slope."""
    if data.dtype.kind not in "biuf":
        raise AnkleError(f"{path}: values of type {data.dtype} cannot be saved as an image")
    if not all(1 <= length <= _LONGEST_AXIS for length in data.shape):
        raise AnkleError(
            f"{path}: NIfTI-1 cannot hold shape {data.shape}: expected 1 to {_LONGEST_AXIS} "
            "voxels along each axis"
        )
    if scale is not None and not (scale == "auto" and _has_outliers(data)):
        return _as_int16(path, data, scale)
    wanted = {"b": "u1", "f": "<f4"}.get(data.dtype.kind, data.dtype.newbyteorder("<"))
    try:
        with np.errstate(over="raise"):
            return data.astype(wanted, copy=False), 1.0
    except FloatingPointError:
        raise AnkleError(f"{path}: values beyond the range of float32 cannot be saved") from None


def _has_outliers(data: NDArray[Any]) -> bool:
    """Tell whether the largest value is far above nearly all others that are not 0."""
    sizes = np.abs(data[data != 0], dtype=np.float64)
    if not np.isfinite(sizes).all() or sizes.size < _FEWEST_FOR_OUTLIERS:
        return False
    return bool(np.percentile(sizes, 99.9) < 0.1 * sizes.max())


def _as_int16(
    path: Path, data: NDArray[Any], scale: float | Literal["auto"]
) -> tuple[NDArray[Any], float]:
    # not of abs(data), which in int16 turns -32768 into itself
    largest = float(np.abs([float(data.min()), float(data.max())]).max())
    if scale == "auto":
        slope = float(np.nextafter(np.float32(largest / INT16_MAX), np.float32(np.inf)))
        slope = slope if largest > 0 else 1.0
    else:
        slope = float(np.float32(scale))
    if not (math.isfinite(largest) and math.isfinite(slope) and slope > 0):
        raise AnkleError(
            f"{path}: values up to {largest} cannot be stored as int16 with scale {scale}: "
            "replace NaN, or save without scale"
        )
    if round(largest / slope) > INT16_MAX:
        raise AnkleError(f"{path}: {largest:g} / scale {slope:g} does not fit into int16")
    return np.rint(data / slope).astype("<i2"), slope


def _header_block(volume: Volume, stored: NDArray[Any], slope: float) -> bytes:
    """Return all that precedes the values in a file."""
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_sform(volume.affine, code="scanner")
    header.set_qform(volume.affine, code="scanner")  # without shears, which it cannot express
    if not same_grid((volume.shape, header.get_qform()), volume.grid):
        header["qform_code"] = 0
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][4] = volume.time_step_s or 0.0
    header["scl_slope"], header["scl_inter"] = slope, 0.0
    header["vox_offset"], header["magic"] = header.single_vox_offset, header.single_magic
    return header.binaryblock + bytes(header.single_vox_offset - header.sizeof_hdr)
