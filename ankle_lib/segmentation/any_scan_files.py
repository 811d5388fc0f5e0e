"""The files of `ankle segment`: scans that can be segmented, and a result beside its names."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
from matplotlib.figure import Figure

from ankle_lib.files import FIGURE_DPI, AnkleError, atomic_path, check_replaceable, nifti_stem
from ankle_lib.scan_checks import check_scan, size_in_words
from ankle_lib.segmentation.any_scan import Segmentation
from ankle_lib.segmentation.segmenter import THIN_MM
from ankle_lib.volume import Volume, canonical_voxel_size, load, save

TIME_UNIT = 0b111000
"""Bits of a NIfTI header's units that say in what it counts time."""

MARK = "# written by `ankle segment`"

DESCRIPTION = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""
"""The head that ITK-SNAP itself writes."""


@dataclass(frozen=True)
class Outputs:
    """Where the result of one scan goes."""

    labels: Path
    description: Path
    """Names and colours of the labels, for ITK-SNAP (Segmentation > Import Label Descriptions)."""
    table: Path
    """How far to trust each frame and bone."""
    overlay: Path
    """A picture to look at first: three planes of a scan, or all frames of a series."""


def read_scan(path: Path, thickest_mm: float = THIN_MM) -> Volume:
    """Read a static scan or a series of frames, in the orientation of its file.

    Parameters
    ----------
    path : Path
    thickest_mm : float
        The thickest sagittal slices that the network was trained for.

    Raises
    ------
    AnkleError
        If it cannot be read, is no scan of an ankle (see `check_scan`), or has slices too thick
        for the network, or pixels too large to show the bones' shape.
    """
    scan = load(path)
    check_scan(path, scan)
    *pixel_mm, slice_mm = canonical_voxel_size(scan.affine)
    if max(pixel_mm) > THIN_MM:
        raise AnkleError(
            f"{path}: voxels of {size_in_words(scan)}: beyond {THIN_MM:g} mm a voxel mixes bone "
            "with what lies beside it; only from left to right it may: give sagittal slices"
        )
    if slice_mm > thickest_mm:
        instead = "use a network of chapter 07" if thickest_mm <= THIN_MM else "give thinner ones"
        raise AnkleError(
            f"{path}: sagittal slices of {slice_mm:.3g} mm, the network was trained for at most "
            f"{thickest_mm:g} mm: {instead}"
        )
    return scan


def check_outputs(out: Path, *inputs: Path) -> Outputs:
    """Return the files to write, before any work is done for them.

    Parameters
    ----------
    out : Path
        The labels, ``.nii`` or ``.nii.gz``. An earlier result is replaced.
    inputs : Paths
        Files that must not be overwritten.

    Raises
    ------
    AnkleError
        If ``out`` is a folder, has another suffix, is one of the inputs, or exists and is no
        result of this command.
    """
    stem = nifti_stem(out, "labels", "seg.nii.gz")
    outputs = Outputs(
        out,
        out.with_name(f"{stem}_labels.txt"),
        out.with_name(f"{stem}_confidence.csv"),
        out.with_name(f"{stem}_overlay.png"),
    )
    sign = outputs.description
    check_replaceable([out], inputs, sign, ours=_is_ours(sign), thing="labels", by="ankle segment")
    return outputs


def write_outputs(
    outputs: Outputs, found: Segmentation, colours: Mapping[str, str], overlay: Figure, scan: Path
) -> None:
    """Write labels, their description, the table and the overlay; if anything fails, none of them.

    Parameters
    ----------
    outputs : Outputs
        From `check_outputs`.
    found : Segmentation
    colours : mapping of bone to "#rrggbb"
    overlay : Figure
    scan : Path
        What was segmented: the labels of a series keep its time step.
    """
    with ExitStack() as together:
        # renamed in reverse: the labels come last, when all the rest is there
        labels, description, table, picture = (
            together.enter_context(atomic_path(path))
            for path in (outputs.labels, outputs.description, outputs.table, outputs.overlay)
        )
        if found.labels.n_frames > 1:
            _save_series(labels, found.labels, scan)
        else:
            save(labels, found.labels.data, found.labels.affine)
        description.write_text(label_description(found.names, colours), encoding="utf-8")
        found.table.to_csv(table, index=False, float_format="%.6g")
        overlay.savefig(picture, dpi=FIGURE_DPI, bbox_inches="tight")


def label_description(names: Mapping[int, str], colours: Mapping[str, str]) -> str:
    """Return the label description that ITK-SNAP reads, with label 0 as clear.

    Parameters
    ----------
    names : mapping of label to bone
    colours : mapping of bone to "#rrggbb"
    """
    lines = [_line(0, (0, 0, 0), 0, "Clear Label")]
    for number, name in names.items():
        red, green, blue = bytes.fromhex(colours[name].removeprefix("#"))
        lines.append(_line(number, (red, green, blue), 1, name))
    return DESCRIPTION + MARK + "\n" + "\n".join(lines) + "\n"


def _line(number: int, rgb: tuple[int, int, int], shown: int, name: str) -> str:
    red, green, blue = rgb
    return f'{number:5d} {red:5d} {green:4d} {blue:4d} {shown:8d} {shown:2d} {shown:2d}    "{name}"'


def _save_series(path: Path, labels: Volume, scan: Path) -> None:
    """Write labels as `save` does, with the time step of the scan's header, right or wrong."""
    timed = _header(scan)
    image = nib.Nifti1Image(labels.data, labels.affine)
    image.set_qform(labels.affine, 1)
    image.set_sform(labels.affine, 1)
    image.header["pixdim"][4] = timed["pixdim"][4]
    image.header["xyzt_units"] = 2 | int(timed["xyzt_units"]) & TIME_UNIT
    nib.save(image, path)


def _header(path: Path) -> nib.Nifti1Header:
    with open(path, "rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if is_compressed else open(path, "rb") as file:
        return nib.Nifti1Header.from_fileobj(file, check=False)


def _is_ours(description: Path) -> bool:
    try:
        return MARK in description.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
