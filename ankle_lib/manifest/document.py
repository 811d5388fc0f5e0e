"""``data_manifest.yaml``: which cohorts there are, where their files lie, if they are intact."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import PrivateAttr, ValidationError

from ankle_lib.cache import file_digest
from ankle_lib.files import AnkleError, write_text
from ankle_lib.manifest.layouts import scan_folder
from ankle_lib.manifest.schema import (
    Cohort,
    Geometry,
    Layout,
    LocalSource,
    PhantomSource,
    Record,
    RemoteSource,
    Subject,
    distinct,
    unsafe_path,
)
from ankle_lib.volume import Header, canonical_voxel_size, load, read_header

MAX_MANIFEST_BYTES = 20 * 1024**2


class Manifest(Record):
    """All cohorts of one ``data_manifest.yaml``."""

    version: Literal[1]
    cohorts: Annotated[list[Cohort], distinct("cohort")]
    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    def cohort(self, name: str | None = None) -> Cohort:
        """Return one cohort with absolute paths, its layout scanned if it lists no subjects.

        Parameters
        ----------
        name : str, optional
            May be left out if the manifest has one cohort only.

        Raises
        ------
        AnkleError
            If there is no such cohort, its root is no folder, or a path leads out of the root.
        """
        by_name = {cohort.name: cohort for cohort in self.cohorts}
        if name is None and len(by_name) == 1:
            return _resolved(self.cohorts[0], self._folder)
        if name not in by_name:
            raise AnkleError(f"there is no cohort {name!r}: choose one of {', '.join(by_name)}")
        return _resolved(by_name[name], self._folder)


@dataclass(frozen=True)
class Finding:
    """One problem that :func:`verify` found; ``subject`` is empty if the file belongs to none."""

    cohort: str
    subject: str
    file: str
    problem: str


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read and check a manifest.

    Raises
    ------
    AnkleError
        If the file is missing, no YAML, or not as the schema says; the message names the place in
        the YAML, e.g. ``cohorts[0].subjects[3].side``.
    """
    path = Path(path)
    content = _read_yaml(path)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise AnkleError(f"{path}: {_first_problem(error, content)}") from None
    manifest._folder = path.resolve().parent
    return manifest


def save_manifest(path: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write a manifest as YAML, atomically; values that equal the defaults are left out."""
    content = manifest.model_dump(mode="json", exclude_defaults=True)
    return write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))


def manifest_from_folder(
    folder: str | os.PathLike[str],
    layout: Layout | None = None,
    *,
    name: str | None = None,
    geometry: Geometry | None = None,
) -> Manifest:
    """Make a manifest of one local cohort from a lab's folder, a BIDS tree or the raw layout.

    The layouts are those of :mod:`ankle_lib.manifest.layouts`. What was not recognised is listed
    in the cohort's ``notes``, what was chosen among several versions of a file in the subject's.

    Raises
    ------
    AnkleError
        If the folder does not exist or holds no known layout.
    """
    scan = scan_folder(folder, layout)
    root = Path(folder).resolve()
    cohort = Cohort(
        name=name or re.sub(r"[^A-Za-z0-9]+", "-", root.name).strip("-") or "cohort",
        licence="unknown",
        source=LocalSource(type="local", root=root.as_posix(), layout=scan.layout),
        geometry=geometry or Geometry(),
        subjects=scan.subjects,
        notes=scan.notes(),
    )
    return Manifest(version=1, cohorts=[cohort])


def verify(cohort: Cohort) -> list[Finding]:
    """Check that every file is there, has its checksum, can be read and has the right geometry.

    Parameters
    ----------
    cohort : Cohort
        As returned by :meth:`Manifest.cohort`. A phantom has nothing to check before it is
        simulated.

    Returns
    -------
    list of Finding
        Empty if all is well. Broken files are listed, they raise nothing.
    """
    source, root = cohort.source, cohort.root
    if root is None:
        return []
    problems: list[tuple[str, Path, str | None]] = []
    if isinstance(source, RemoteSource):
        for file in source.files:
            problem = _file_problem(root / file.name, file.sha256)
            if problem == "missing":
                problem = f"missing: run `ankle data fetch {cohort.name}`"
            problems.append(("", file.name, problem))
    checksums = dict(source.sha256) if isinstance(source, LocalSource) else {}
    for subject in cohort.subjects:
        for role, path in subject.files():
            relative = path.relative_to(root)
            problem = _file_problem(path, checksums.pop(relative, None))
            problem = problem or _image_problem(cohort.geometry, subject, role, path)
            problems.append((subject.code, relative, problem))
    problems += [("", path, _file_problem(root / path, sha)) for path, sha in checksums.items()]
    return [
        Finding(cohort.name, subject, path.as_posix(), problem)
        for subject, path, problem in problems
        if problem
    ]


def _resolved(cohort: Cohort, folder: Path) -> Cohort:
    root = _root(cohort, folder)
    subjects = cohort.subjects
    notes = cohort.notes
    if root is not None:
        if isinstance(cohort.source, LocalSource):
            if not root.is_dir():
                raise AnkleError(f"cohort {cohort.name}: its root {root} is no folder")
            if not subjects and cohort.source.layout:
                scan = scan_folder(root, cohort.source.layout)
                subjects, notes = scan.subjects, [*notes, *scan.notes()]
        subjects = [_absolute(subject, root) for subject in subjects]
    resolved = cohort.model_copy(update={"subjects": subjects, "notes": notes})
    resolved._root = root
    return resolved


def _root(cohort: Cohort, folder: Path) -> Path | None:
    source = cohort.source
    if isinstance(source, PhantomSource):
        return None
    root = source.root if source.root is not None else f"data/{cohort.name}"
    return (folder / Path(root).expanduser()).resolve()


def _absolute(subject: Subject, root: Path) -> Subject:
    sequences = [
        sequence.model_copy(update={"path": _below(root, sequence.path, subject.code)})
        for sequence in subject.sequences
    ]
    return subject.model_copy(
        update={
            "static": [_below(root, path, subject.code) for path in subject.static],
            "masks": {b: _below(root, path, subject.code) for b, path in subject.masks.items()},
            "sequences": sequences,
        }
    )


def _below(root: Path, path: Path, code: str) -> Path:
    """Return ``root / path``; refuse what leads out of the root, also by a symbolic link."""
    problem = unsafe_path(path.as_posix())
    try:
        inside = (root / path).resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself
        inside = False
    if problem or not inside:
        reason = problem or "is a link that leads out"
        raise AnkleError(f"subject {code}: {path} {reason}: files must lie below {root}")
    return root / path


def _read_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise AnkleError(f"{path}: is too large for a manifest ({path.stat().st_size} bytes)")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, AnkleError):
            raise
        raise AnkleError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _first_problem(error: ValidationError, content: Any) -> str:
    """Return one line: place in the YAML, what is wrong, what was found."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    place = _place(first["loc"], content)
    message = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    found = f" (found {first['input']!r})" if isinstance(first["input"], str | int | float) else ""
    more = f"; and {len(problems) - 1} more problems" if len(problems) > 1 else ""
    return f"{place or 'the whole file'}: {message}{found}{more}"


def _place(location: tuple[int | str, ...], content: Any) -> str:
    """Write a location as in ``cohorts[0].source.files[2].url``, without pydantic's own tags."""
    place = ""
    for step in location:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step in ("phantom", "local", "remote") and place.endswith(".source"):
            continue  # the tag of the union is not a key of the YAML
        elif step != "[key]":
            place += f".{step}"
    return place.removeprefix(".")


def _file_problem(path: Path, sha256: str | None) -> str | None:
    if not path.is_file():
        return "missing"
    try:
        found = file_digest(path) if sha256 else None
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if found != sha256:
        return f"checksum {str(found)[:12]}… is not {str(sha256)[:12]}…"
    return None


def _image_problem(geometry: Geometry, subject: Subject, role: str, path: Path) -> str | None:
    """Check that the whole image can be read, and its voxels and frames or its mask's shape."""
    try:
        load(path)
    except AnkleError as error:
        return str(error).removeprefix(f"{path}: ")
    header = read_header(path)
    if role in subject.masks:
        return _mask_problem(header, subject)
    static = role == "static"
    expected = geometry.static_voxel_mm if static else geometry.dynamic_voxel_mm
    sizes = canonical_voxel_size(header.affine)
    if any(abs(a - b) > geometry.tolerance * b for a, b in zip(sizes, expected, strict=True)):
        return f"voxels of {_mm(sizes)}, expected {_mm(expected)}"
    n_frames = 1 if static else geometry.n_frames
    if header.n_frames != n_frames:
        return f"{header.n_frames} frames, expected {n_frames}"
    return None


def _mask_problem(mask: Header, subject: Subject) -> str | None:
    try:
        others = [read_header(static).shape for static in subject.static]
    except AnkleError:  # listed for the static scan itself
        return None
    if others and mask.shape not in others:
        return f"mask of shape {mask.shape}, its static scan has {others[0]}"
    return None


def _mm(sizes: tuple[float, float, float]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes) + " mm"
