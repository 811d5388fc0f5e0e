"""``data_manifest.yaml``: which cohorts there are, where their files lie, if they are intact."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pooch
import requests
import yaml
from pydantic import PrivateAttr, ValidationError

from ankle_lib.cache import file_digest
from ankle_lib.files import AnkleError, first_problem, write_text
from ankle_lib.manifest.layouts import inside, scan_folder
from ankle_lib.manifest.schema import (
    Cohort,
    Geometry,
    LocalSource,
    PhantomSource,
    Record,
    RemoteFile,
    RemoteSource,
    Subject,
    distinct,
    unsafe_path,
)
from ankle_lib.presets import BONES
from ankle_lib.privacy import told_by
from ankle_lib.volume import load, read_header

TIMEOUT_S = (10, 60)
"""Seconds to wait for a connection, and for the next bytes."""


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

    def waits(self, name: str) -> str | None:
        """Return where to get the files of a cohort that are not here, if it says so; else None."""
        (cohort,) = (cohort for cohort in self.cohorts if cohort.name == name)
        source = cohort.source
        if not isinstance(source, LocalSource) or _root_of(cohort, self._folder).is_dir():
            return None
        return source.ask_at


@dataclass(frozen=True)
class Finding:
    """One problem that :func:`verify` found.

    ``subject`` is empty if the file belongs to none, ``file`` if one is missing.
    """

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
    try:
        manifest = Manifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise AnkleError(f"{path}: {first_problem(error)}") from None
    except OSError as error:
        raise AnkleError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise AnkleError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    manifest._folder = path.resolve().parent
    return manifest


def save_manifest(path: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write a manifest as YAML, atomically; values that equal the defaults are left out."""
    content = manifest.model_dump(mode="json", exclude_defaults=True)
    return write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))


def manifest_from_folder(folder: str | os.PathLike[str]) -> Manifest:
    """Make a manifest of one local cohort from a lab's folder, a BIDS tree or the raw layout.

    The layouts are those of :mod:`ankle_lib.manifest.layouts`. What was not recognised is listed
    in the cohort's ``notes``, what was chosen among several versions of a file in the subject's.

    Raises
    ------
    AnkleError
        If the folder does not exist or holds no known layout.
    """
    scan, root = scan_folder(folder), Path(folder).resolve()
    cohort = Cohort(
        name=re.sub(r"[^A-Za-z0-9]+", "-", root.name).strip("-") or "cohort",
        licence="unknown",
        source=LocalSource(type="local", root=root.as_posix(), layout=scan.layout),
        subjects=scan.subjects,
        notes=scan.notes(),
    )
    return Manifest(version=1, cohorts=[cohort])


def privacy(cohort: Cohort) -> list[Finding]:
    """List what the files below a cohort's root tell about who was scanned; see `privacy.told_by`.

    Parameters
    ----------
    cohort : Cohort
        As returned by :meth:`Manifest.cohort`.
    """
    root = cohort.root
    if root is None or not root.is_dir():
        return []
    paths = sorted(path for path in root.rglob("*") if inside(root, path) and path.is_file())
    return [
        Finding(cohort.name, "", path.relative_to(root).as_posix(), told)
        for path in paths
        for told in told_by(path)
    ]


def verify(cohort: Cohort) -> list[Finding]:
    """Check that every file is there, has its checksum, can be read and has the right geometry.

    Each child should have one static scan, masks of all bones and a sequence; a head a T1w.

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
        problems += [(subject.code, Path(), problem) for problem in _lacking(subject)]
        for role, path in subject.files():
            relative = path.relative_to(root)
            problem = _file_problem(path, checksums.pop(relative, None))
            problem = problem or _image_problem(cohort.geometry, subject, role, path)
            problems.append((subject.code, relative, problem))
    problems += [("", path, _file_problem(root / path, sha)) for path, sha in checksums.items()]
    return [
        Finding(cohort.name, subject, path.as_posix() if path.name else "", problem)
        for subject, path, problem in problems
        if problem
    ]


def fetch(cohort: Cohort, dest: str | os.PathLike[str] | None = None) -> list[Path]:
    """Download what is missing of a remote cohort and return the paths of all its files.

    A file that is there with the right checksum is not downloaded again; one that arrives with a
    wrong checksum is deleted.

    Parameters
    ----------
    cohort : Cohort
        One whose source is ``remote``.
    dest : path, optional
        Folder; the cohort's own root if not given.

    Raises
    ------
    AnkleError
        If the cohort is not remote, or a file cannot be downloaded as the manifest says.

    Examples
    --------
    >>> paths = fetch(load_manifest("data_manifest.yaml").cohort("openfoot"))
    """
    source, folder = cohort.source, dest or cohort.root
    if not isinstance(source, RemoteSource):
        raise AnkleError(f"cohort {cohort.name}: is {source.type}, there is nothing to fetch")
    if folder is None:
        raise AnkleError(f"cohort {cohort.name}: say into which folder to download it")
    root = Path(folder).resolve()
    return [_fetch_file(file, _below(root, file.name, "download")) for file in source.files]


def _fetch_file(file: RemoteFile, target: Path) -> Path:
    # without compression on the way, which servers may add to a file that is compressed
    identity = {"Accept-Encoding": "identity"}
    download = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT_S, headers=identity)
    try:
        pooch.retrieve(
            file.url, f"sha256:{file.sha256}", target.name, target.parent, downloader=download
        )
    except requests.RequestException as error:
        raise AnkleError(
            f"{file.url}: cannot be downloaded ({error}): check the address, or fetch again later"
        ) from None
    except ValueError:  # pooch's only one: the checksum; it has deleted the download
        raise AnkleError(
            f"{file.url}: the checksum is not the manifest's ({file.sha256[:12]}…), the download "
            "was deleted: fetch again, or correct the manifest if the source has changed"
        ) from None
    except OSError as error:
        raise AnkleError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _resolved(cohort: Cohort, folder: Path) -> Cohort:
    source, subjects, notes = cohort.source, cohort.subjects, cohort.notes
    if isinstance(source, PhantomSource):
        return cohort
    root = _root_of(cohort, folder)
    if isinstance(source, LocalSource):
        if not root.is_dir():
            get = f": get its files at {source.ask_at}" if source.ask_at else ""
            raise AnkleError(f"cohort {cohort.name}: its root {root} is no folder{get}")
        if not subjects and source.layout:
            scan = scan_folder(root, source.layout)
            subjects, notes = scan.subjects, [*notes, *scan.notes()]
    subjects = [_absolute(subject, root) for subject in subjects]
    resolved = cohort.model_copy(update={"subjects": subjects, "notes": notes})
    resolved._root = root
    return resolved


def _root_of(cohort: Cohort, folder: Path) -> Path:
    """Return the folder of a cohort's files, from the manifest's folder."""
    root = getattr(cohort.source, "root", None) or f"data/{cohort.name}"
    return (folder / Path(root).expanduser()).resolve()


def _absolute(subject: Subject, root: Path) -> Subject:
    name = f"subject {subject.code}"
    sequences = [
        sequence.model_copy(update={"path": _below(root, sequence.path, name)})
        for sequence in subject.sequences
    ]
    return subject.model_copy(
        update={
            "static": [_below(root, path, name) for path in subject.static],
            "masks": {b: _below(root, path, name) for b, path in subject.masks.items()},
            "sequences": sequences,
            "images": {role: _below(root, path, name) for role, path in subject.images.items()},
        }
    )


def _below(root: Path, path: Path, what: str) -> Path:
    """Return ``root / path``; refuse what leads out of the root, also by a symbolic link."""
    reason = unsafe_path(path.as_posix())
    if not reason and not inside(root, root / path):
        reason = "is a link that leads out"
    if reason:
        raise AnkleError(f"{what}: {path} {reason}: files must lie below {root}")
    return root / path


def _lacking(subject: Subject) -> list[str]:
    """Say what a subject has too little or too much of."""
    if subject.images:  # of a head: what is needed depends on the chapter
        return [] if "T1w" in subject.images else ["no T1w image"]
    missing = [bone for bone in BONES if bone not in subject.masks]
    found = {
        f"{len(subject.static)} static scans, expected one": len(subject.static) != 1,
        f"no mask of {' and '.join(missing)}": bool(missing),
        "no sequence": not subject.sequences,
    }
    return [problem for problem, there in found.items() if there]


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
    if role in subject.images:
        shape = read_header(subject.images.get("T1w", path)).shape
        apart = f"shape {header.shape}, its T1w has {shape}: all images of a head are on one grid"
        return None if header.shape == shape else apart
    if role in subject.masks:
        return _mask_problem(header.shape, subject)
    static = role == "static"
    expected = 1 if static else geometry.n_frames
    frames = f"{header.n_frames} frames, expected {expected}"
    wrong = geometry.wrong_voxels(header.affine, static=static)
    return wrong or (frames if header.n_frames != expected else None)


def _mask_problem(shape: tuple[int, int, int], subject: Subject) -> str | None:
    try:
        others = [read_header(static).shape for static in subject.static]
    except AnkleError:  # listed for the static scan itself
        return None
    if others and shape not in others:
        return f"mask of shape {shape}, its static scan has {others[0]}"
    return None
