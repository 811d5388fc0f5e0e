"""Each file and each bone of a subject for itself: it is what it should be, is repaired, or is not.

What is found goes into `Findings`: reasons why the subject cannot be used, corrections, notes.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.manifest.schema import Geometry, Subject
from ankle_lib.masking.foot import without_padding
from ankle_lib.presets import BONES
from ankle_lib.privacy import header_note
from ankle_lib.volume import Header, Volume, load, read_header

MAX_MISSING_FRACTION = 0.01
"""Above this part of NaN voxels an image is not repaired."""

MAX_LABELS = 8
"""An integer mask with 3 to 8 values holds labels; one with more is an interpolated mask."""

PLAUSIBLE_CM3 = {"calcaneus": (12.0, 100.0), "talus": (6.0, 55.0), "tibia": (5.0, 400.0)}
"""Volumes from a small child's to a large adult's. The mean child has 44.8, 24.0 and 30.3 cm3
(mean shapes of the LaTIM, GitHub ``rousseau/dynMRI``), adults up to 65 and 34; how much of the
tibia is seen varies."""

MAX_CUT_FRACTION = 0.01
"""A calcaneus or talus with more of its voxels on the grid's border has been cut off."""

MAX_UNSEEN_FRACTION = 0.05
"""A bone with more of its voxels where the image is 0 lies outside the field of view."""


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
class Findings:
    """What was found out about one subject."""

    reasons: list[Reason] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def exclude(self, kind: str, text: str) -> None:
        """Add a reason why the subject cannot be used."""
        self.reasons.append(Reason(kind, text))

    def correct(self, path: Path, kind: str, text: str) -> None:
        """Add a change of one file."""
        self.corrections.append(Correction(path.name, kind, text))

    def drop(self, sequence: Path, text: str) -> None:
        """Say why a sequence is not used."""
        self.correct(sequence, "sequence dropped", f"dropped: {text}")


@dataclass(frozen=True)
class Scan:
    """A file that was read: its image may already be corrected, its header never is."""

    name: str
    path: Path
    header: Header
    volume: Volume

    @property
    def scale(self) -> float | None:
        """Slope with which it is stored as int16 without loss; None to store it as it is.

        Where a scanner's integers were scaled, the same slope stores them again.
        """
        header = self.header
        fits = header.dtype == np.int16 and header.intercept == 0 and header.slope > 0
        return header.slope if fits and self.volume.data.dtype.kind == "f" else None

    def with_image(self, data: NDArray, affine: NDArray | None = None) -> "Scan":
        """Return the same scan with a corrected image, in the same place unless told otherwise."""
        place = self.volume.affine if affine is None else affine
        return replace(self, volume=Volume(data, place))


def read_static(subject: Subject, geometry: Geometry, log: Findings) -> Scan | None:
    """Return the one static scan, or None with the reasons in the log."""
    if len(subject.static) != 1:
        kind = "several static scans" if subject.static else "no static scan"
        names = ", ".join(path.name for path in subject.static)
        log.exclude(kind, f"{len(subject.static)} static scans, expected one: {names or 'none'}")
        return None
    path = subject.static[0]
    try:
        header = read_header(path)
        wrong_size = geometry.wrong_voxels(header.affine, static=True)
        if wrong_size:
            log.exclude("wrong resolution", f"static scan: {wrong_size}")
        if header.n_frames != 1:
            found = f"static scan has {header.n_frames} frames, not one"
            log.exclude("static scan unreadable", found)
            return None
        scan = Scan("static", path, header, load(path, form="sform"))
    except AnkleError as error:
        log.exclude("static scan unreadable", f"static scan: {_without_folder(error, path)}")
        return None
    filled, problem = _filled(scan, log)
    if problem:
        log.exclude("missing voxels", f"static scan: {problem}")
        return None
    if not filled.volume.data.any():
        log.exclude("static scan empty", "static scan: every voxel is 0")
        return None
    return _measured(filled, log)


def read_masks(subject: Subject, log: Findings) -> dict[str, Scan]:
    """Return the readable masks, made binary; reasons for the others are in the log."""
    missing = [bone for bone in BONES if bone not in subject.masks]
    if missing:
        which = "any bone" if len(missing) == len(BONES) else " and ".join(missing)
        log.exclude("bone masks missing", f"no mask of {which}")
    masks = {}
    for bone in (bone for bone in BONES if bone in subject.masks):
        path = subject.masks[bone]
        try:
            scan = Scan(bone, path, read_header(path), load(path, form="sform"))
            if scan.volume.n_frames != 1:
                raise AnkleError(f"has {scan.volume.n_frames} frames, expected one")
            scan, problem = _filled(scan, log)
            if problem:
                raise AnkleError(problem)
            mask, correction = binarise(scan.volume.data)
            masks[bone] = scan.with_image(mask)
            if correction:
                log.correct(path, "binarised", correction)
        except AnkleError as error:
            log.exclude("mask unusable", f"{bone} mask: {_without_folder(error, path)}")
    return masks


def read_sequences(subject: Subject, geometry: Geometry, log: Findings) -> list[Scan]:
    """Return the usable sequences; say of every other why it is dropped."""
    usable = []
    for sequence in subject.sequences:
        path, problems = sequence.path, []
        try:
            header = read_header(path)
            wrong_size = geometry.wrong_voxels(header.affine, static=False)
            problems += [wrong_size] if wrong_size else []
            if header.n_frames != geometry.n_frames:
                problems.append(f"{header.n_frames} frames, expected {geometry.n_frames}")
            volume = load(path, form="sform")
            scan, problem = _filled(Scan(sequence.name, path, header, volume), log)
        except AnkleError as error:
            log.drop(path, ", ".join([*problems, _without_folder(error, path)]))
            continue
        problems += [problem] if problem else []
        volume = scan.volume
        empty = [str(i) for i in range(volume.n_frames) if not volume.frame(i).data.any()]
        if empty:
            problems.append(f"only 0 in frame{'s' if len(empty) > 1 else ''} {', '.join(empty)}")
        if problems:
            log.drop(path, ", ".join(problems))
        else:
            usable.append(_measured(scan, log))
    return usable


def check_bones(static: Scan, masks: dict[str, Volume], log: Findings) -> None:
    """See that each bone is there: of a plausible volume, not cut off, inside the image."""
    voxel_cm3 = float(np.prod(static.volume.voxel_size_mm)) / 1000.0
    for bone, mask in masks.items():
        n_voxels = int(np.count_nonzero(mask.data))
        if n_voxels == 0:
            log.exclude("bone not visible", f"{bone} mask is empty")
            continue
        volume_cm3, (low, high) = n_voxels * voxel_cm3, PLAUSIBLE_CM3[bone]
        if not low <= volume_cm3 <= high:
            problem = f"{bone} has {volume_cm3:.1f} cm3, expected {low:g} to {high:g}"
            log.exclude("bone not visible", problem)
        inner = int(np.count_nonzero(mask.data[1:-1, 1:-1, 1:-1]))
        cut = (n_voxels - inner) / n_voxels
        if bone != "tibia" and cut > MAX_CUT_FRACTION:
            log.exclude("bone not visible", f"{bone} is cut off by the image's border ({cut:.0%})")
        unseen = np.count_nonzero(static.volume.data[mask.data] == 0) / n_voxels
        if unseen > MAX_UNSEEN_FRACTION:
            log.exclude("bone not visible", f"{unseen:.0%} of the {bone} lies where the image is 0")


def binarise(data: NDArray) -> tuple[NDArray[np.bool_], str | None]:
    """Make a mask binary, and say what had to be done.

    Parameters
    ----------
    data : array
        Values {0, 1} need nothing. Values from 0 to a larger number, and fractions (soft edges),
        are cut at half of the largest value; 0.5 for fractions up to 1.

    Returns
    -------
    mask : bool array
    correction : str or None

    Raises
    ------
    AnkleError
        If values are negative, or if integers stand for several labels.
    """
    low, high = float(data.min()), float(data.max())
    if low < 0:
        raise AnkleError(f"values from {low:g} to {high:g}, expected a mask of 0 and 1")
    mask = data > 0.5 * high if high > 0 else np.zeros(data.shape, dtype=bool)
    between = data[(data > 0) & (data < high)]
    if len(between) == 0:
        return mask, None if high in (0.0, 1.0) else f"binarised: values 0 and {high:g}"
    values = np.unique(between[:: max(1, len(between) // 10_000)])
    if high >= 2 and len(values) + 2 <= MAX_LABELS and np.array_equal(values, np.rint(values)):
        raise AnkleError(
            f"holds labels {[0, *values.astype(int).tolist(), int(high)]}, expected one bone: "
            "save each label as a mask of its own"
        )
    return mask, f"binarised at {0.5 * high:g}: {len(between)} voxels between 0 and {high:g}"


def fill_missing(data: NDArray) -> NDArray:
    """Replace NaN and infinite voxels by the mean of their finite neighbours (3 x 3 x 3).

    Larger holes are filled from their border inwards. Returned is ``data`` itself if nothing, or
    everything, is missing.
    """
    missing = ~np.isfinite(data)
    if missing.all() or not missing.any():
        return data
    filled = data.copy()
    (box,) = ndimage.find_objects(ndimage.binary_dilation(missing).astype(np.uint8))
    part, holes = filled[box], missing[box]
    if holes.all():
        part, holes = filled, missing
    while holes.any():
        known = ndimage.uniform_filter((~holes).astype(np.float64), 3, mode="constant")
        total = ndimage.uniform_filter(np.where(holes, 0.0, part), 3, mode="constant")
        reach = holes & (known > 1e-6)
        part[reach] = total[reach] / known[reach]
        holes = holes & ~reach
    return filled


def without_missing(data: NDArray) -> tuple[NDArray, str]:
    """Fill the voxels of an image that are NaN or infinite, if they are few.

    Parameters
    ----------
    data : 3D array, or 4D with frames last

    Returns
    -------
    data : array
        Itself if nothing is missing.
    found : str
        What was done, for a person; empty if nothing.

    Raises
    ------
    AnkleError
        If more than ``MAX_MISSING_FRACTION`` of the voxels are missing.
    """
    n_missing = 0 if data.dtype.kind in "iu" else int(np.count_nonzero(~np.isfinite(data)))
    if n_missing == 0:
        return data, ""
    found = f"{n_missing} voxels ({n_missing / data.size:.2%}) are NaN or infinite"
    if n_missing > MAX_MISSING_FRACTION * data.size:
        raise AnkleError(f"{found}, more than {MAX_MISSING_FRACTION:.0%}")
    frames = data[..., None] if data.ndim == 3 else data
    filled = np.stack([fill_missing(frames[..., i]) for i in range(frames.shape[3])], axis=3)
    return filled.reshape(data.shape), f"{found}: filled from their neighbours"


def _filled(scan: Scan, log: Findings) -> tuple[Scan, str | None]:
    """Fill a few missing voxels; return a problem if there are too many."""
    try:
        data, found = without_missing(scan.volume.data)
    except AnkleError as error:
        return scan, str(error)
    if found:
        log.correct(scan.path, "missing voxels", found)
    return (scan.with_image(data) if found else scan), None


def _measured(scan: Scan, log: Findings) -> Scan:
    """Take off padding around the field of view and an offset; note free text in the header."""
    if note := header_note(scan.path):
        log.notes.append(note.replace(str(scan.path), scan.path.name))
    data, found = without_padding(scan.volume.data)
    for text in found:
        log.correct(scan.path, "padding or offset", text)
    return scan.with_image(data) if found else scan


def _without_folder(error: AnkleError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
