"""The files of `ankle segment`: a scan that can be segmented, and a result beside its names."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ankle_lib.files import FIGURE_DPI, AnkleError, atomic_path, nifti_stem
from ankle_lib.scan_checks import check_scan, size_in_words
from ankle_lib.segmentation.any_scan import Segmentation
from ankle_lib.volume import Volume, load, save

__all__ = ["Outputs", "check_outputs", "label_description", "read_scan", "write_outputs"]

THICKEST_MM = 3.0
"""The talus, 50 x 37 x 28 mm, has nine such slices where it is thinnest: just enough."""

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
    overlay: Path
    """A picture to look at first."""


def read_scan(path: Path) -> Volume:
    """Read a static scan, in the orientation of its file.

    Raises
    ------
    AnkleError
        If it cannot be read, is no static scan of an ankle (see `check_scan`), a series, or of
        slices too thick to show the bones' shape.
    """
    scan = load(path)
    if scan.n_frames > 1:
        raise AnkleError(
            f"{path}: a series of {scan.n_frames} images, expected one static scan: carry the "
            "bones of a static scan onto frames with `ankle register`"
        )
    check_scan(path, scan)
    if max(scan.voxel_size_mm) > THICKEST_MM:
        raise AnkleError(
            f"{path}: voxels of {size_in_words(scan)}: beyond {THICKEST_MM:g} mm a slice mixes "
            "bone with what lies beside it; give a static scan with thinner slices"
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
        out, out.with_name(f"{stem}_labels.txt"), out.with_name(f"{stem}_overlay.png")
    )
    for path in inputs:
        if path.exists() and out.resolve() == path.resolve():
            raise AnkleError(f"{out}: is what is read: name another file for the labels")
    if out.exists() and not _is_ours(outputs.description):
        raise AnkleError(
            f"{out}: exists and is no result of `ankle segment` ({outputs.description.name} is "
            "missing or of another program): name another file, or move it away"
        )
    return outputs


def write_outputs(
    outputs: Outputs, found: Segmentation, colours: Mapping[str, str], overlay: Figure
) -> None:
    """Write labels, their description and the overlay; if anything fails, none of them.

    Parameters
    ----------
    outputs : Outputs
        From `check_outputs`.
    found : Segmentation
    colours : mapping of bone to "#rrggbb"
    overlay : Figure
    """
    with ExitStack() as together:
        # renamed in reverse: the labels come last, when all the rest is there
        labels, description, picture = (
            together.enter_context(atomic_path(path))
            for path in (outputs.labels, outputs.description, outputs.overlay)
        )
        save(labels, found.labels.data, found.labels.affine)
        description.write_text(label_description(found.names, colours), encoding="utf-8")
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


def _is_ours(description: Path) -> bool:
    try:
        return MARK in description.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
