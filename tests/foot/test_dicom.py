"""A DICOM series, written here byte by byte, and what dcm2niix makes of it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.foot.reading import converted
from ankle_lib.volume import load

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
UID = "1.2.826.0.1.3680043.9.9999"


def element(group: int, number: int, kind: str, value: bytes | str) -> bytes:
    content = value if isinstance(value, bytes) else value.encode()
    content += (b"\0" if kind in ("UI", "OW") else b" ") * (len(content) % 2)
    head = struct.pack("<HH", group, number) + kind.encode()
    if kind == "OW":
        return head + struct.pack("<HI", 0, len(content)) + content
    return head + struct.pack("<H", len(content)) + content


def short(value: int) -> bytes:
    return struct.pack("<H", value)


def slice_file(pixels: np.ndarray, number: int, series: int = 1) -> bytes:
    """One sagittal slice of 2 x 2 mm pixels, 5 mm from the next."""
    instance = f"{UID}.{series}.{number}"
    meta = element(2, 2, "UI", MR_STORAGE) + element(2, 3, "UI", instance)
    meta += element(2, 0x10, "UI", EXPLICIT_LITTLE)
    rows, columns = pixels.shape
    parts = [
        (8, 8, "CS", "ORIGINAL\\PRIMARY\\M"), (8, 0x16, "UI", MR_STORAGE),
        (8, 0x18, "UI", instance), (8, 0x20, "DA", "20200101"), (8, 0x30, "TM", "120000"),
        (8, 0x60, "CS", "MR"), (8, 0x70, "LO", "Philips"), (0x10, 0x10, "PN", "Nobody"),
        (0x18, 0x50, "DS", "5"), (0x18, 0x80, "DS", "20"), (0x18, 0x81, "DS", "4.6"),
        (0x18, 0x88, "DS", "5"), (0x20, 0xD, "UI", UID), (0x20, 0xE, "UI", f"{UID}.{series}"),
        (0x20, 0x11, "IS", str(series)), (0x20, 0x13, "IS", str(number)),
        (0x20, 0x32, "DS", f"{5 * number}\\0\\0"), (0x20, 0x37, "DS", "0\\1\\0\\0\\0\\-1"),
        (0x20, 0x52, "UI", f"{UID}.9"),
        (0x28, 2, "US", short(1)), (0x28, 4, "CS", "MONOCHROME2"), (0x28, 0x10, "US", short(rows)),
        (0x28, 0x11, "US", short(columns)), (0x28, 0x30, "DS", "2\\2"),
        (0x28, 0x100, "US", short(16)), (0x28, 0x101, "US", short(16)),
        (0x28, 0x102, "US", short(15)), (0x28, 0x103, "US", short(0)),
        (0x7FE0, 0x10, "OW", pixels.astype("<u2").tobytes()),
    ]  # fmt: skip
    length = element(2, 0, "UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta + b"".join(element(*part) for part in parts)


def write_series(folder: Path, series: int = 1) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    image = np.random.default_rng(series).integers(0, 1000, (12, 20, 24))
    for number, pixels in enumerate(image):
        (folder / f"{series}_{number:03}.dcm").write_bytes(slice_file(pixels, number + 1, series))
    return image


def test_a_folder_of_dicom_files_is_one_scan(tmp_path: Path) -> None:
    image = write_series(tmp_path / "static scan")
    path = converted(tmp_path / "static scan", tmp_path / "nifti")
    assert path.name == "static scan.nii.gz"
    scan = load(path)
    assert sorted(scan.shape) == sorted(image.shape)
    np.testing.assert_allclose(sorted(scan.voxel_size_mm), (2, 2, 5), rtol=1e-5)
    assert sorted(scan.data.ravel()) == sorted(image.ravel())
    assert set("".join(scan.axis_codes)) <= set("LRPAIS")
    stamp = path.stat().st_mtime_ns
    assert converted(tmp_path / "static scan", tmp_path / "nifti").stat().st_mtime_ns == stamp


def test_a_file_stays_what_it_is(tmp_path: Path) -> None:
    assert converted(tmp_path / "scan.nii.gz", tmp_path / "nifti") == tmp_path / "scan.nii.gz"
    assert not (tmp_path / "nifti").exists()


def test_no_series_and_two_series_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnkleError, match="no image in this folder"):
        converted(tmp_path / "empty", tmp_path / "nifti")
    for series in (1, 2):
        write_series(tmp_path / "both", series)
    with pytest.raises(AnkleError, match="2 series in this folder"):
        converted(tmp_path / "both", tmp_path / "nifti")
    assert not list((tmp_path / "nifti").iterdir())
