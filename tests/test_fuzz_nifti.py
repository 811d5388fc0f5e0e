"""Damaged NIfTI files give a clear error or the right voxels, never anything else.

Each case damages one small file in one way, always the same (seeded). Where the header stays
consistent with the file's content, nibabel is the oracle.
"""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume, load, read_header

SHAPE = (7, 6, 5)
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", [7, -4, 11], degrees=True).as_matrix() @ np.array(
    [[0, 0, 1.9], [-0.6, 0, 0], [0, 0.7, 0]]
)
AFFINE[:3, 3] = [4, 9, -8]
DATA = np.random.default_rng(7).integers(-900, 2400, SHAPE).astype(np.int16)
MEMORY_LIMIT_BYTES = 64 * 1024**2
NAN, INF = float("nan"), float("inf")

# name: (byte offset, struct format, values), from the definition of the format (nifti1.h)
FIELDS: dict[str, tuple[int, str, list[Any]]] = {
    "sizeof_hdr": (0, "i", [0, -1, 347, 349, 540, 2**31 - 1, 0x5C010000]),
    "dim_info": (39, "B", [0, 255]),
    "dim0": (40, "h", [-1, 0, 1, 2, 4, 5, 6, 7, 8, 255, 32767, -32768]),
    "dim1": (42, "h", [-7, -1, 0, 1, 6, 8, 70, 32767]),
    "dim2": (44, "h", [-6, -1, 0, 1, 5, 7, 60, 32767]),
    "dim3": (46, "h", [-5, -1, 0, 1, 4, 6, 50, 32767]),
    "dim4": (48, "h", [-1, 0, 2, 15, 32767]),
    "dim5": (50, "h", [-1, 0, 2, 32767]),
    "dim7": (54, "h", [-1, 0, 2, 32767]),
    "intent_code": (68, "h", [-1, 1002, 32767]),
    "datatype": (70, "h", [
        -1, 0, 1, 2, 3, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304,
        32767,
    ]),
    "bitpix": (72, "h", [-16, 0, 1, 8, 15, 17, 32, 64, 32767]),
    "slice_start": (74, "h", [-1, 9]),
    "qfac": (76, "f", [0.0, -1.0, 2.0, NAN, INF]),
    "pixdim1": (80, "f", [0.0, -1.0, 1e-30, 1e30, NAN, INF, -INF]),
    "pixdim2": (84, "f", [0.0, -1.0, 1e-30, 1e30, NAN, INF, -INF]),
    "pixdim3": (88, "f", [0.0, -1.0, 1e-30, 1e30, NAN, INF, -INF]),
    "pixdim4": (92, "f", [0.0, -1.0, NAN]),
    "vox_offset": (108, "f", [
        0.0, -352.0, 1.0, 348.0, 351.0, 352.5, 353.0, 354.0, 368.0, 1e9, 1e30, NAN, INF, -INF,
    ]),
    "scl_slope": (112, "f", [0.0, -1.0, 2.5, 1e-40, 1e30, 3e38, NAN, INF, -INF]),
    "scl_inter": (116, "f", [-4.0, 1e30, 3e38, NAN, INF, -INF]),
    "xyzt_units": (123, "B", [0, 1, 2, 3, 8, 10, 255]),
    "cal_max": (124, "f", [NAN, 1e30]),
    "qform_code": (252, "h", [-1, 0, 1, 5, 6, 32767, -32768]),
    "sform_code": (254, "h", [-1, 0, 1, 5, 6, 32767, -32768]),
    "quatern_b": (256, "f", [0.0, 2.0, NAN, INF]),
    "qoffset_x": (268, "f", [NAN, INF, 1e30]),
    "srow_x0": (280, "f", [NAN, INF, 1e30, -1e30]),
    "srow_x2": (288, "f", [0.0, NAN, -INF, 1e30]),
    "srow_x3": (292, "f", [NAN, INF]),
    "srow_y0": (296, "f", [0.0, NAN, INF]),
    "srow_z1": (316, "f", [0.0, -0.0, NAN, 1e-20]),
    "magic": (344, "4s", [b"ni1\0", b"n+2\0", b"n+1\n", b"\0\0\0\0", b"abcd", b"n+1\0"]),
}  # fmt: skip


def plain(order: str = "<", *, qcode: int = 1, scode: int = 1, dtype: str = "i2") -> bytes:
    """Return an undamaged file."""
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(order + dtype)
    header.set_data_shape(SHAPE)
    header.set_qform(AFFINE, qcode)
    header.set_sform(AFFINE, scode)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock + bytes(4) + DATA.astype(order + dtype).tobytes(order="F")


def field_cases() -> Iterator[tuple[str, bytes]]:
    for order in "<>":
        content = plain(order)
        for name, (offset, code, values) in FIELDS.items():
            for value in values:
                damaged = bytearray(content)
                struct.pack_into(order + code, damaged, offset, value)
                yield f"{name}={value}{order}", bytes(damaged)
    for name in ("quatern_b", "qoffset_x", "pixdim1", "pixdim3", "qfac"):
        offset, code, values = FIELDS[name]
        for value in values:  # with the qform in use
            damaged = bytearray(plain(scode=0))
            struct.pack_into("<" + code, damaged, offset, value)
            yield f"qform,{name}={value}", bytes(damaged)


def random_cases() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(2020)
    content = plain()
    for case in range(900):
        damaged = bytearray(content)
        for position in rng.integers(0, 352, rng.integers(1, 5)):
            damaged[position] = rng.integers(256)
        yield f"header bytes {case}", bytes(damaged)
    for length in [0, 1, 2, 3, 4, 40, 347, 348, 351, 352, 353, *rng.integers(0, len(content), 30)]:
        yield f"cut at {length}", content[:length]
    for extra in (1, 2, 100, 5000):
        yield f"{extra} bytes more", content + rng.bytes(extra)
    yield "only noise", rng.bytes(4000)
    yield "only zeros", bytes(4000)
    yield "text", b"subject,file\nT01,static\n" * 40
    yield "DICOM", bytes(128) + b"DICM" + rng.bytes(2000)
    yield "looks like gzip", b"\x1f\x8b" + rng.bytes(500)


def gzip_cases() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(2021)
    packed = gzip.compress(plain(), 6, mtime=0)
    ends = [0, 1, 2, 3, 9, 10, 17, len(packed) - 8, len(packed) - 1]
    for length in [*ends, *rng.integers(0, len(packed), 40)]:
        yield f"gzip cut at {length}", packed[:length]
    for case in range(250):
        damaged = bytearray(packed)
        for position in rng.integers(0, len(packed), rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        yield f"gzip bytes {case}", bytes(damaged)
    for extra in (1, 8, 300):
        yield f"gzip and {extra} bytes", packed + rng.bytes(extra)
    yield "gzip and zeros", packed + bytes(512)
    yield "gzip of gzip", gzip.compress(packed)
    yield "gzip of nothing", gzip.compress(b"")
    yield "gzip twice in a row", packed + packed


CASES = {
    **dict(field_cases()),
    **dict(random_cases()),
    **dict(gzip_cases()),
}


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 1500


def outcome(path: Path, reader: Callable[[Path], Any] = load) -> Any:
    """Return what the reader gives, or the text of its AnkleError; anything else fails."""
    try:
        return reader(path)
    except AnkleError as error:
        text = str(error)
        assert path.name in text
        assert "\n" not in text
        assert len(text) < 700
        return text


def nibabel_reads(content: bytes) -> Volume:
    """Read with nibabel, which knows the format but not whether the file keeps to it."""
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    image = nib.Nifti1Image.from_bytes(content)
    data = np.asanyarray(image.dataobj)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    return Volume(data, image.affine)


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_refused_or_read_right(tmp_path: Path, name: str) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(CASES[name])
    tracemalloc.start()
    try:
        result = outcome(path)
        outcome(path, read_header)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT_BYTES
    if isinstance(result, str):
        return
    oracle = nibabel_reads(CASES[name])
    np.testing.assert_allclose(result.affine, oracle.affine, rtol=1e-6)
    np.testing.assert_allclose(result.data, oracle.data.astype(np.float32), rtol=1e-6)
    assert result.data.dtype.isnative


HARMLESS = [
    f"{case}{order}"
    for order in "<>"
    for case in (
        "dim_info=255", "dim4=15", "dim4=0", "dim5=2", "dim0=4", "intent_code=1002",
        "slice_start=9", "qfac=nan",         "pixdim4=nan", "scl_slope=0.0",
        "scl_slope=nan", "xyzt_units=10", "cal_max=nan", "qform_code=0", "sform_code=0",
        "quatern_b=nan", "qoffset_x=nan", "sform_code=5",
    )
]  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_changes_do_not_change_the_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(CASES[name])
    volume = load(path)
    np.testing.assert_array_equal(volume.data, DATA)
    assert volume.data.dtype == np.int16
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


FATAL = {
    "sizeof_hdr=540<": "magic",
    "dim0=2<": "dim ",
    "dim1=-7>": "dim ",
    "dim2=0<": "dim ",
    "dim1=32767<": "truncated",
    "dim3=4<": "more data than the header promises",
    "datatype=128<": "datatype code 128",
    "datatype=1792<": "datatype code 1792",
    "datatype=16<": "bitpix 16 contradicts",
    "bitpix=32>": "bitpix 32 contradicts",
    "vox_offset=nan<": "vox_offset nan",
    "vox_offset=368.0<": "truncated",
    "scl_slope=inf<": "scl_slope inf",
    "scl_inter=nan>": "scl_inter nan",
    "xyzt_units=3<": "spatial unit",
    "sform_code=-1<": "sform_code -1",
    "srow_x0=nan<": "sform is not finite",
    "srow_x2=0.0<": "right angles",
    "srow_x3=inf<": "sform is not finite",
    "pixdim1=0.0<": "by pixdim",
    "pixdim2=nan>": "by pixdim",
    "pixdim3=-1.0<": "by pixdim",
    "qform,qoffset_x=1e+30": "mm away",
    "qform,quatern_b=nan": "qform is not finite",
    "magic=b'ni1\\x00'<": "single-file",
    "cut at 0": "too few",
    "cut at 353": "truncated",
    "100 bytes more": "more data",
    "gzip cut at 10": "gzip",
    "gzip and 8 bytes": "gzip",
    "gzip of nothing": "too few",
    "gzip twice in a row": "more data",
}


@pytest.mark.parametrize(("name", "message"), FATAL.items())
def test_the_error_names_what_is_wrong(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(CASES[name])
    with pytest.raises(AnkleError, match=message):
        load(path)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(tmp_path: Path, order: str, dtype: str) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(plain(order, dtype=dtype))
    volume = load(path)
    np.testing.assert_array_equal(volume.data, DATA.astype(order + dtype).astype(volume.data.dtype))
    assert volume.data.dtype.isnative
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)


@pytest.mark.parametrize("bits", [64, 128])
def test_types_that_are_no_real_numbers_are_refused(tmp_path: Path, bits: int) -> None:
    content = bytearray(plain(dtype="f8"))
    struct.pack_into("<hh", content, 70, 32 if bits == 64 else 1792, bits)
    path = tmp_path / "scan.nii"
    path.write_bytes(content)
    with pytest.raises(AnkleError, match="real numbers"):
        load(path)


def test_header_extensions_are_skipped(tmp_path: Path) -> None:
    content = bytearray(plain())
    struct.pack_into("<f", content, 108, 352 + 64)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(bytes(content[:348]) + b"\1\0\0\0" + bytes(64) + content[352:]))
    np.testing.assert_array_equal(load(path).data, DATA)


def test_a_decompression_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A small honest header, then 512 MB of zeros: only one byte beyond the promise is read."""
    squeeze = zlib.compressobj(9, wbits=31)
    packed = squeeze.compress(plain())
    for _ in range(128):
        packed += squeeze.compress(bytes(4 * 1024**2))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(packed + squeeze.flush())
    tracemalloc.start()
    with pytest.raises(AnkleError, match="more data than the header promises"):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_LIMIT_BYTES


@pytest.mark.parametrize("lengths", [(32767, 32767, 32767), (2000, 2000, 1000), (1000, 1000, 500)])
def test_huge_promises_are_refused_before_memory_is_taken(tmp_path: Path, lengths: Any) -> None:
    content = bytearray(plain())
    struct.pack_into("<hhh", content, 42, *lengths)
    for name, packed in (("scan.nii", bytes(content)), ("scan.nii.gz", gzip.compress(content))):
        path = tmp_path / name
        path.write_bytes(packed)
        tracemalloc.start()
        with pytest.raises(AnkleError, match=r"limit|truncated"):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_LIMIT_BYTES


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    (tmp_path / "folder.nii.gz").mkdir()
    for name in ("folder.nii.gz", "pipe.nii", "loop.nii", "missing.nii", "x" * 300, "zero\0byte"):
        for reader in (load, read_header):
            assert isinstance(outcome(tmp_path / name, reader), str)


def test_infinite_and_huge_values_are_not_changed_in_silence(tmp_path: Path) -> None:
    content = plain(dtype="f8")
    values = DATA.astype(np.float64)
    values[0, 0, 0] = np.inf
    path = tmp_path / "scan.nii"
    path.write_bytes(content[:352] + values.tobytes(order="F"))
    assert load(path).data[0, 0, 0] == np.inf
    values[0, 0, 0] = 1e300
    path.write_bytes(content[:352] + values.tobytes(order="F"))
    with pytest.raises(AnkleError, match="float32"):
        load(path)
