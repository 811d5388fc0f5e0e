"""The networks that come with the package, beside this module: see README.md."""

from pathlib import Path

from ankle_lib.cache import file_digest
from ankle_lib.files import AnkleError, write_text
from ankle_lib.learning.prediction import THIN_MM

SHIPPED = Path(__file__).parent
STATIC, FRAMES = "bones.ckpt", "frames.ckpt"
"""Networks for thin slices and for thick ones."""


def checksum_file(checkpoint: Path) -> Path:
    """Return the file beside a checkpoint that holds its checksum, as ``sha256sum`` writes it."""
    return checkpoint.with_name(f"{checkpoint.name}.sha256")


def write_checksum(checkpoint: Path) -> None:
    """Write the checksum of a checkpoint beside it; ``sha256sum -c`` checks it, too."""
    write_text(checksum_file(checkpoint), f"{file_digest(checkpoint)}  {checkpoint.name}\n")


def shipped_network(slice_mm: float = THIN_MM) -> Path:
    """Return the checkpoint that comes with the package, after a look at its checksum.

    Parameters
    ----------
    slice_mm : float
        Thickness of the slices: up to 3 mm are those of a static scan, others of frames.

    Raises
    ------
    AnkleError
        If it is missing or not the file that came with the package.

    Examples
    --------
    >>> read_segmenter(shipped_network()).bones
    ('calcaneus', 'talus', 'tibia')
    """
    checkpoint = SHIPPED / (STATIC if slice_mm <= THIN_MM else FRAMES)
    found, listed = file_digest(checkpoint), checksum_file(checkpoint)
    expected = listed.read_text(encoding="utf-8").split()[0] if listed.exists() else "no checksum"
    if found != expected:
        raise AnkleError(
            f"{checkpoint}: the package's network is missing or another file (sha256 {found[:12]}, "
            f"expected {expected[:12]}): install ankle_lib again, or make one with `ankle networks "
            f"train --out DIR` and give --checkpoint DIR/{checkpoint.name}"
        )
    return checkpoint


def named(checkpoint: Path) -> str:
    """Return how to call a network in a record: its file's name and the start of its checksum."""
    whose = "of the package, " if checkpoint.parent == SHIPPED else ""
    return f"{checkpoint.name} ({whose}sha256 {file_digest(checkpoint)[:12]})"
