"""The network that comes with the package: ``bones.ckpt`` beside this module, see README.md."""

from pathlib import Path

from ankle_lib.cache import file_digest
from ankle_lib.files import AnkleError, write_text

SHIPPED = Path(__file__).with_name("bones.ckpt")


def checksum_file(checkpoint: Path) -> Path:
    """Return the file beside a checkpoint that holds its checksum, as ``sha256sum`` writes it."""
    return checkpoint.with_name(f"{checkpoint.name}.sha256")


def write_checksum(checkpoint: Path) -> None:
    """Write the checksum of a checkpoint beside it; ``sha256sum -c`` checks it, too."""
    write_text(checksum_file(checkpoint), f"{file_digest(checkpoint)}  {checkpoint.name}\n")


def shipped_network() -> Path:
    """Return the checkpoint that comes with the package, after a look at its checksum.

    Raises
    ------
    AnkleError
        If it is missing or not the file that came with the package.

    Examples
    --------
    >>> read_segmenter(shipped_network()).bones
    ('calcaneus', 'talus', 'tibia')
    """
    found, listed = file_digest(SHIPPED), checksum_file(SHIPPED)
    expected = listed.read_text(encoding="utf-8").split()[0] if listed.exists() else "no checksum"
    if found != expected:
        raise AnkleError(
            f"{SHIPPED}: the package's network is missing or another file (sha256 {found[:12]}, "
            f"expected {expected[:12]}): install ankle_lib again, or make one with `ankle networks "
            "train --out DIR` and give --checkpoint DIR/bones.ckpt"
        )
    return SHIPPED


def named(checkpoint: Path) -> str:
    """Return how to call a network in a record: its file's name and the start of its checksum."""
    whose = "of the package, " if checkpoint == SHIPPED else ""
    return f"{checkpoint.name} ({whose}sha256 {file_digest(checkpoint)[:12]})"
