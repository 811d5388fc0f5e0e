"""The header of a NIfTI-1 file, read strictly.

The fields are those of the format's definition, https://nifti.nimh.nih.gov/nifti-1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import checked_affine, in_words, voxel_size

MAX_BYTES = 2 * 1024**3
"""Largest image that is read; the report's largest static scan has 0.08 GB."""
PIXDIM_TOLERANCE = 0.05
"""Largest relative difference between the voxel sizes of the affine and of pixdim."""

HEADER_BYTES = 348
FIRST_DATA_BYTE = 352
_MAX_DATA_OFFSET = 64 * 1024**2
_LARGEST_CODE = 5
_SPATIAL_UNITS_MM = (0, 2)
"""NIfTI codes of the spatial unit that are read: unknown (taken as mm) and mm."""
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
"""NIfTI datatype codes of real numbers and their NumPy types."""

AffineSource = Literal["sform", "qform", "none"]


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says about geometry and values.

    Attributes
    ----------
    shape : tuple of 3 int
    n_frames : int
    voxel_size_mm : tuple of 3 float
        From ``affine``, along the axes of the array.
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
    """

    shape: tuple[int, int, int]
    n_frames: int
    voxel_size_mm: tuple[float, float, float]
    dtype: np.dtype[Any]
    qform: NDArray[np.float64]
    qform_code: int
    sform: NDArray[np.float64]
    sform_code: int
    affine: NDArray[np.float64]
    affine_source: AffineSource
    slope: float
    intercept: float


@dataclass(frozen=True)
class Layout:
    """Where the values lie in the (uncompressed) file."""

    offset: int
    count: int
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        """Size of the values."""
        return self.count * self.dtype.itemsize


def parse_header(path: Path, block: bytes) -> tuple[Header, Layout]:
    """Read the first 348 bytes of a file; ``path`` is only named in errors (AnkleError)."""
    order = _byte_order(path, block)
    fields = nib.Nifti1Header(block, endianness=order, check=False)
    magic = bytes(fields["magic"]).rstrip(b"\0")
    if magic != b"n+1":
        raise AnkleError(f"{path}: magic {magic!r} is not that of a single-file NIfTI-1 (b'n+1')")
    shape = _shape(path, fields["dim"])
    dtype = _dtype(path, int(fields["datatype"]), int(fields["bitpix"]))
    unit = int(fields["xyzt_units"]) & 7
    if unit not in _SPATIAL_UNITS_MM:
        raise AnkleError(f"{path}: spatial unit code {unit} is not mm (2): convert the file to mm")
    layout = Layout(
        offset=_data_offset(path, float(fields["vox_offset"])),
        count=math.prod(shape),
        dtype=dtype.newbyteorder(order),
    )
    if layout.n_bytes > MAX_BYTES:
        raise AnkleError(
            f"{path}: dimensions {shape} of {dtype} need {layout.n_bytes / 1e9:.1f} GB, more than "
            f"the limit of {MAX_BYTES / 1e9:.1f} GB: check the header's dim"
        )
    slope, intercept = _scaling(path, fields)
    affine, source, qform, sform = _affines(path, fields)
    header = Header(
        shape=shape[:3],
        n_frames=shape[3],
        voxel_size_mm=voxel_size(affine),
        dtype=dtype,
        qform=qform,
        qform_code=int(fields["qform_code"]),
        sform=sform,
        sform_code=int(fields["sform_code"]),
        affine=affine,
        affine_source=source,
        slope=slope,
        intercept=intercept,
    )
    return header, layout


def _byte_order(path: Path, block: bytes) -> Literal["<", ">"]:
    if len(block) < HEADER_BYTES:
        raise AnkleError(
            f"{path}: {len(block)} bytes are too few for a NIfTI-1 header ({HEADER_BYTES}): "
            "the file is empty or truncated"
        )
    if int.from_bytes(block[:4], "little") == HEADER_BYTES:
        return "<"
    if int.from_bytes(block[:4], "big") == HEADER_BYTES:
        return ">"
    raise AnkleError(
        f"{path}: not a NIfTI-1 file (sizeof_hdr is {int.from_bytes(block[:4], 'little')}, "
        f"expected {HEADER_BYTES}): convert the scan to .nii.gz"
    )


def _shape(path: Path, dim: NDArray[np.int16]) -> tuple[int, int, int, int]:
    n_axes = int(dim[0])
    lengths = [int(length) for length in dim[1 : n_axes + 1]] if 1 <= n_axes <= 7 else []
    if n_axes < 3 or not lengths or min(lengths) < 1 or any(n != 1 for n in lengths[4:]):
        raise AnkleError(
            f"{path}: dim {dim.tolist()} is not that of a 3D image or a 4D series: "
            "expected 3 or 4 axes of positive length"
        )
    i, j, k, frames = (*lengths[:4], 1)[:4]
    return i, j, k, frames


def _dtype(path: Path, code: int, bits: int) -> np.dtype[Any]:
    if code not in _DTYPES:
        raise AnkleError(f"{path}: datatype code {code} is not one of real numbers {list(_DTYPES)}")
    dtype = np.dtype(_DTYPES[code])
    if bits != 8 * dtype.itemsize:
        raise AnkleError(
            f"{path}: bitpix {bits} contradicts datatype {code} ({dtype}, {8 * dtype.itemsize} "
            "bits): the header is damaged"
        )
    return dtype


def _data_offset(path: Path, offset: float) -> int:
    if not (FIRST_DATA_BYTE <= offset <= _MAX_DATA_OFFSET and offset == int(offset)):
        raise AnkleError(
            f"{path}: vox_offset {offset:g} is not a place for the data "
            f"({FIRST_DATA_BYTE} to {_MAX_DATA_OFFSET}): the header is damaged"
        )
    return int(offset)


def _scaling(path: Path, fields: nib.Nifti1Header) -> tuple[float, float]:
    """Return slope and intercept; 0 (NIfTI) and NaN (nibabel) both say that there is no scaling."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise AnkleError(
            f"{path}: scl_slope {slope:g} and scl_inter {intercept:g} must be finite: "
            "the header is damaged"
        )
    return slope, intercept


def _affines(
    path: Path, fields: nib.Nifti1Header
) -> tuple[NDArray[np.float64], AffineSource, NDArray[np.float64], NDArray[np.float64]]:
    """Return the affine to use, where it comes from, and the header's qform and sform."""
    codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")}
    for name, code in codes.items():
        if not 0 <= code <= _LARGEST_CODE:
            raise AnkleError(f"{path}: {name}_code {code} is not one of 0 to {_LARGEST_CODE}")
    pixdim = tuple(float(size) for size in fields["pixdim"][1:4])
    affine: NDArray[np.float64]
    source: AffineSource
    qform = _qform(fields)
    sform = np.eye(4)
    sform[:3] = [fields["srow_x"], fields["srow_y"], fields["srow_z"]]
    if codes["sform"] > 0:
        affine, source = checked_affine(sform, f"{path}: sform"), "sform"
    elif codes["qform"] > 0:
        affine, source = checked_affine(qform, f"{path}: qform"), "qform"
    else:
        affine, source = checked_affine(np.diag([*pixdim, 1.0]), f"{path}: pixdim"), "none"
    if not np.allclose(pixdim, voxel_size(affine), rtol=PIXDIM_TOLERANCE, atol=0):
        raise AnkleError(
            f"{path}: voxels are {in_words(voxel_size(affine))} by the {source} but "
            f"{in_words(pixdim)} by pixdim: correct the header or convert the scan again from DICOM"
        )
    return affine, source, qform, sform


def _qform(fields: nib.Nifti1Header) -> NDArray[np.float64]:
    if fields["pixdim"][0] == 0:  # NIfTI: a handedness of 0 is to be read as 1
        fields["pixdim"][0] = 1
    try:
        with np.errstate(all="ignore"):
            return np.asarray(fields.get_qform(), dtype=np.float64)
    except (nib.spatialimages.HeaderDataError, ValueError):
        return np.full((4, 4), np.nan)
