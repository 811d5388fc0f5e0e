"""Each file of a subject for itself: it can be read, and it is what it should be, or not."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ankle_lib.cleaning.findings import Log, Scan, in_mm, numbered, without_folder
from ankle_lib.cleaning.repairs import binarise, fill_missing
from ankle_lib.files import AnkleError
from ankle_lib.manifest.schema import Geometry, Sequence, Subject
from ankle_lib.presets import BONES
from ankle_lib.volume import Header, Volume, canonical_voxel_size, load, read_header

MAX_MISSING_FRACTION = 0.01
"""Above this part of NaN voxels an image is not repaired."""


def read_static(subject: Subject, geometry: Geometry, log: Log) -> Scan | None:
    """Return the one static scan, or None with the reasons in the log."""
    if len(subject.static) != 1:
        kind = "several static scans" if subject.static else "no static scan"
        names = ", ".join(path.name for path in subject.static)
        log.exclude(kind, f"{len(subject.static)} static scans, expected one: {names or 'none'}")
        return None
    path = subject.static[0]
    try:
        header = read_header(path)
    except AnkleError as error:
        log.exclude("static scan unreadable", f"static scan: {without_folder(error, path)}")
        return None
    wrong_size = _wrong_voxel_size(header, geometry.static_voxel_mm, geometry.tolerance)
    if wrong_size:
        log.exclude("wrong resolution", f"static scan: {wrong_size}")
    if header.n_frames != 1:
        log.exclude("static scan unreadable", f"static scan has {header.n_frames} frames, not one")
        return None
    try:
        volume = load(path)
    except AnkleError as error:
        log.exclude("static scan unreadable", f"static scan: {without_folder(error, path)}")
        return None
    scan = Scan("static", path, header, volume)
    filled, problem = _filled(scan, log)
    if problem:
        log.exclude("missing voxels", f"static scan: {problem}")
        return None
    if not filled.volume.data.any():
        log.exclude("static scan empty", "static scan: every voxel is 0")
        return None
    return filled


def read_masks(subject: Subject, log: Log) -> dict[str, Scan]:
    """Return the readable masks, made binary; reasons for the others are in the log."""
    missing = [bone for bone in BONES if bone not in subject.masks]
    if missing:
        which = "any bone" if len(missing) == len(BONES) else " and ".join(missing)
        log.exclude("bone masks missing", f"no mask of {which}")
    masks = {}
    for bone in BONES:
        if bone not in subject.masks:
            continue
        path = subject.masks[bone]
        try:
            header = read_header(path)
            scan = Scan(bone, path, header, load(path))
            masks[bone] = _binary(scan, log)
        except AnkleError as error:
            log.exclude("mask unusable", f"{bone} mask: {without_folder(error, path)}")
    return masks


def _binary(scan: Scan, log: Log) -> Scan:
    if scan.volume.n_frames != 1:
        raise AnkleError(f"has {scan.volume.n_frames} frames, expected one")
    filled, problem = _filled(scan, log)
    if problem:
        raise AnkleError(problem)
    mask, correction = binarise(filled.volume.data)
    if correction:
        log.correct(scan.path, "binarised", correction)
    return scan.with_volume(Volume(mask, scan.volume.affine))


def read_sequences(subject: Subject, geometry: Geometry, log: Log) -> list[Scan]:
    """Return the usable sequences; say of every other why it is dropped."""
    usable = []
    for sequence in subject.sequences:
        scan, problems = _read_sequence(sequence, geometry, log)
        if problems or scan is None:
            log.correct(sequence.path, "sequence dropped", "dropped: " + ", ".join(problems))
        else:
            usable.append(scan)
    return usable


def _read_sequence(
    sequence: Sequence, geometry: Geometry, log: Log
) -> tuple[Scan | None, list[str]]:
    problems = []
    try:
        header = read_header(sequence.path)
        wrong_size = _wrong_voxel_size(header, geometry.dynamic_voxel_mm, geometry.tolerance)
        if wrong_size:
            problems.append(wrong_size)
        if header.n_frames != geometry.n_frames:
            problems.append(f"{header.n_frames} frames, expected {geometry.n_frames}")
        volume = load(sequence.path)
    except AnkleError as error:
        return None, [*problems, without_folder(error, sequence.path)]
    scan, problem = _filled(Scan(sequence.name, sequence.path, header, volume), log)
    if problem:
        problems.append(problem)
    empty = [i for i in range(volume.n_frames) if not volume.frame(i).data.any()]
    if empty:
        problems.append(f"only 0 in {numbered('frame', empty)}")
    return scan, problems


def _filled(scan: Scan, log: Log) -> tuple[Scan, str | None]:
    """Fill a few missing voxels; return a problem if there are too many."""
    data = scan.volume.data
    if data.dtype.kind != "f":
        return scan, None
    n_missing = int(data.size - np.count_nonzero(np.isfinite(data)))
    if n_missing == 0:
        return scan, None
    found = f"{n_missing} voxels ({n_missing / data.size:.2%}) are NaN or infinite"
    if n_missing > MAX_MISSING_FRACTION * data.size:
        return scan, f"{found}, more than {MAX_MISSING_FRACTION:.0%}"
    frames = data[..., None] if data.ndim == 3 else data
    filled = np.stack([fill_missing(frames[..., i])[0] for i in range(frames.shape[3])], axis=3)
    log.correct(scan.path, "missing voxels", f"{found}: filled from their neighbours")
    return scan.with_volume(Volume(filled.reshape(data.shape), scan.volume.affine)), None


def _wrong_voxel_size(header: Header, expected: Iterable[float], tolerance: float) -> str | None:
    found = canonical_voxel_size(header.affine)
    wanted = tuple(expected)
    if np.allclose(found, wanted, rtol=tolerance, atol=0):
        return None
    return f"voxels of {in_mm(found)}, expected {in_mm(wanted)} within {tolerance:.0%}"
