"""Records of a cohort, as written in ``data_manifest.yaml`` and as the chapters use them.

In a manifest every file is named relative to the root of its cohort, with ``/`` between folders.
After :meth:`ankle_lib.manifest.Manifest.cohort` the same records hold absolute paths.
"""

from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PrivateAttr

from ankle_lib.geometry import Matrix, in_words
from ankle_lib.presets import BONES
from ankle_lib.volume import canonical_voxel_size

Kind = Literal["active", "passive", "unknown"]
Side = Literal["left", "right"]
Layout = Literal["lab", "bids", "raw", "msseg2016", "isbi2015", "open_ms_data", "atlas"]


def unsafe_path(text: str) -> str | None:
    """Return why ``text`` cannot name a file below a root, or None if it can."""
    windows = PureWindowsPath(text)
    if not PurePosixPath(text).parts or "\0" in text:
        return "is empty or holds a zero byte"
    if PurePosixPath(text).is_absolute() or windows.drive or windows.root:
        return "is absolute"
    if ".." in windows.parts:
        return "leads out with '..'"
    if "\\" in text:
        return "holds a backslash (write / between folders)"
    return None


def _relative(path: Path) -> Path:
    problem = unsafe_path(str(path))
    if problem:
        raise ValueError(f"the path {problem}: give it relative to the cohort's root")
    return path


def _bone(name: str) -> str:
    if name not in BONES:
        raise ValueError(f"{name!r} is not one of the bones {', '.join(BONES)}")
    return name


RelativePath = Annotated[
    Path,
    AfterValidator(_relative),
    PlainSerializer(lambda path: path.as_posix(), return_type=str),
]
Bone = Annotated[str, AfterValidator(_bone)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$", max_length=40)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sizes = tuple[Length, Length, Length]


def distinct(what: str, by: str = "name") -> AfterValidator:
    """Return a validator of a list: no two items share the attribute ``by``, whatever its case."""

    def check(items: list[Any]) -> list[Any]:
        # file systems may ignore case, so names that differ only in case would share a file
        names = Counter(str(getattr(item, by)).lower() for item in items)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"more than one {what} is named {twice[0]!r}")
        return items

    return AfterValidator(check)


class Record(BaseModel):
    """An immutable record; keys that the schema does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Geometry(Record):
    """What a cohort's scans should look like; the defaults are the report's acquisition.

    Voxel sizes in mm run along posterior, superior and right. ``tolerance`` is relative.
    """

    static_voxel_mm: Sizes = (0.28, 0.28, 0.8)
    dynamic_voxel_mm: Sizes = (0.56, 0.56, 8.0)
    n_frames: Annotated[int, Field(ge=1)] = 15
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.05

    def wrong_voxels(self, affine: Matrix, *, static: bool) -> str | None:
        """Return in words what is wrong with the voxel size of a scan, or None."""
        found = canonical_voxel_size(affine)
        wanted = self.static_voxel_mm if static else self.dynamic_voxel_mm
        if np.allclose(found, wanted, rtol=self.tolerance, atol=0):
            return None
        return (
            f"voxels of {in_words(found)}, expected {in_words(wanted)} within {self.tolerance:.0%}"
        )


class Sequence(Record):
    """One dynamic series: a 4D file."""

    name: Name
    """As in file names, e.g. ``active_run-01``."""
    kind: Kind = "unknown"
    path: RelativePath


class Subject(Record):
    """The files of one child's foot, or of one person's head.

    ``side`` is None if not known. ``static`` lists every static scan that there is (one is
    expected), ``masks`` maps bones to their masks on the static scan's grid. Heads have ``images``
    instead: files by role, such as "T1w", "FLAIR" or "lesions", all on one grid.
    """

    code: Code
    group: Name = "unknown"
    side: Side | None = None
    static: list[RelativePath] = []
    masks: dict[Bone, RelativePath] = {}
    sequences: Annotated[list[Sequence], distinct("sequence")] = []
    images: dict[Name, RelativePath] = {}
    notes: list[str] = []

    def files(self) -> list[tuple[str, Path]]:
        """Return (role, path) of every file: "static", a bone, a sequence's name, a head's role."""
        return [
            *(("static", path) for path in self.static),
            *self.masks.items(),
            *((sequence.name, sequence.path) for sequence in self.sequences),
            *self.images.items(),
        ]


class PhantomSource(Record):
    """The embedded cohort, simulated when a chapter needs it."""

    type: Literal["phantom"]
    preset: str | None = None
    """None takes the preset of the run."""
    seed: int = 2020


class LocalSource(Record):
    """Files on this machine."""

    type: Literal["local"]
    root: Annotated[str, Field(min_length=1)]
    """Folder; relative to the manifest's own folder unless absolute."""
    layout: Layout | None = None
    """How to find the subjects' files if the manifest lists no subjects."""
    ask_at: str | None = None
    """Where one gets the files, of a public data set that may not be handed on."""
    sha256: dict[RelativePath, Sha256] = {}
    """Checksums of some or all files, by path relative to the root."""


class RemoteFile(Record):
    """One file to download, saved as ``name`` below the cohort's root."""

    name: RelativePath
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+/\S+$")]
    sha256: Sha256
    size: Annotated[int, Field(gt=0)] | None = None
    """Bytes, for whoever reads the manifest."""
    licence: str | None = None
    """None: that of the cohort."""


class RemoteSource(Record):
    """Files that :func:`ankle_lib.manifest.document.fetch` downloads."""

    type: Literal["remote"]
    files: Annotated[list[RemoteFile], Field(min_length=1), distinct("file")]
    root: str | None = None
    """Where they go; None: ``data/<name of the cohort>`` beside the manifest."""


class Cohort(Record):
    """A named set of subjects and where their files come from."""

    name: Name
    description: str = ""
    licence: Annotated[str, Field(min_length=1)]
    source: Annotated[PhantomSource | LocalSource | RemoteSource, Field(discriminator="type")]
    geometry: Geometry = Geometry()
    subjects: Annotated[list[Subject], distinct("subject", "code")] = []
    notes: list[str] = []
    _root: Path | None = PrivateAttr(default=None)

    @property
    def root(self) -> Path | None:
        """Absolute folder of the files; None for the phantom and before the cohort is resolved."""
        return self._root

    def subject(self, code: str) -> Subject:
        """Return the subject with this code (KeyError if there is none)."""
        return {subject.code: subject for subject in self.subjects}[code]
