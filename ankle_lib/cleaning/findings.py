"""What cleaning finds: reasons, corrections, notes, and the scan that they are about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ankle_lib.files import AnkleError
from ankle_lib.volume import Header, Volume


@dataclass(frozen=True)
class Reason:
    """Why a subject cannot be used."""

    kind: str
    """A few words, the same for every subject with this problem."""
    text: str
    """What was found."""


@dataclass(frozen=True)
class Correction:
    """What was changed in which file."""

    file: str
    kind: str
    text: str


@dataclass
class Log:
    """Collects the findings about one subject."""

    reasons: list[Reason] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def exclude(self, kind: str, text: str) -> None:
        """Add a reason why the subject cannot be used."""
        self.reasons.append(Reason(kind, text))

    def correct(self, path: Path, kind: str, text: str) -> None:
        """Add a change of one file."""
        self.corrections.append(Correction(path.name, kind, text))


@dataclass(frozen=True)
class Scan:
    """A file that was read: its image may already be corrected, its header never is."""

    name: str
    path: Path
    header: Header
    volume: Volume

    def with_volume(self, volume: Volume) -> Scan:
        """Return the same scan with a corrected image."""
        return Scan(self.name, self.path, self.header, volume)


def without_folder(error: AnkleError, path: Path) -> str:
    """Return an error's message without the path that it begins with."""
    return str(error).removeprefix(f"{path}: ")


def in_mm(sizes: Iterable[float]) -> str:
    """Write sizes as in ``0.28 x 0.28 x 0.8 mm``."""
    return " x ".join(f"{size:.3g}" for size in sizes) + " mm"


def numbered(noun: str, which: list[int]) -> str:
    """Write a noun with numbers, as in ``frames 3, 4``."""
    return f"{noun}{'s' if len(which) > 1 else ''} {', '.join(map(str, which))}"
