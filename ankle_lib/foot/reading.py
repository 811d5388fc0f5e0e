"""Scans of one foot and masks on them: read and checked before any work begins.

DICOM folders are made NIfTI files before, by the dcm2niix program.
"""

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.cleaning.checks import MAX_LABELS, binarise, without_missing
from ankle_lib.cleaning.laterality import masks_fit_image, wrong_way_up
from ankle_lib.cleaning.placing import turned_against
from ankle_lib.files import PARTIAL_PREFIX, AnkleError
from ankle_lib.geometry import Grid, apply, in_words, same_grid, world_to_voxel
from ankle_lib.learning.prediction import THIN_MM
from ankle_lib.masking.foot import without_padding
from ankle_lib.presets import BONES, LABELS
from ankle_lib.privacy import header_note
from ankle_lib.volume import (
    Volume,
    canonical_voxel_size,
    load,
    read_header,
    resample,
    to_orientation,
)

FEWEST_SLICES = 2
LARGEST_SIDE_MM = (40.0, 1000.0)
"""Longest side of a field of view: a child's ankle fills 80 mm, a scanner's bore 600 mm."""
LONG_MM = 300.0
"""A longer side of a series is one of a wrong order of axes if another order halves it."""
FEWEST_VALUES = 9
"""A scan has more distinct values than any map of labels that is meant here."""
SAMPLE = 100_000
"""Voxels that usually show whether there are many values."""

WHOLE_NUMBER = 0.01
"""Labels that were stored with a slope come back as 1.9999."""
LARGEST_MASK = 0.5
"""Part of the scan above which a mask is that of the background."""
LARGEST_LOSS = 0.05
"""Part of a mask that may lie outside of the static scan."""
LARGEST_SHARED = 0.5
"""Part of the smaller one that two bones may share."""
LITTLE_SEEN = 0.7
MAX_POINTS = 5000

AIR_HU, SOFT_HU, BONE_HU = (-1100.0, -900.0), (-200.0, 200.0), 300.0
BODY_HU = -800.0
LEAST_SOFT, MOST_BETWEEN, LEAST_BONE = 0.5, 0.15, 0.02
"""Parts of all that is denser than -800 Hounsfield units. In CT of the phantom 70 % to 75 % are as
dense as soft tissue, 9 % lie between it and air. In its MRI, and in ten random looks, moved by
-1024 and multiplied by 24 numbers each, never more than 46 % are."""

NOT_FOR_CT = (
    "the values are those of a CT, in Hounsfield units, but the package's networks learnt from MRI "
    "alone: on CT of simulated children their Dice is 0.90, on MRI 0.97: look at the picture"
)


@dataclass(frozen=True)
class Scans:
    """A static scan, frames, and the masks of bones on the static scan."""

    static: Volume
    """3D, axes brought to posterior, superior, right; nothing is interpolated."""
    static_grid: Grid
    """The static scan's grid as it is in its file."""
    frames: Volume
    """4D, on the grid of the files."""
    masks: dict[str, NDArray[np.bool_]]
    """Bone to mask, on the grid of ``static``."""
    notes: tuple[str, ...]
    """What a person should know about the files, one sentence each."""
    bad_frames: tuple[int, ...] = ()
    """Frames that show nothing, or no numbers; all their voxels are 0."""


def converted(path: Path, folder: Path) -> Path:
    """Return a NIfTI file as it is; of a DICOM folder the NIfTI file made of it, done once.

    Parameters
    ----------
    path : Path
        A file, or a folder with the DICOM files of one series.
    folder : Path
        For the NIfTI file, which is named after the DICOM folder.

    Raises
    ------
    AnkleError
        If there is no such file, or the folder holds no series that dcm2niix can read, or several.
    """
    if not path.is_dir():
        return path
    made = folder / f"{path.resolve().name}.nii.gz"
    if made.exists() and made.stat().st_mtime > _newest(path):
        return made
    import dcm2niix

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder) as temporary:
        command = [dcm2niix.bin, "-z", "y", "-b", "n", "-f", "%s", "-o", temporary, str(path)]
        answer = subprocess.run(command, capture_output=True, text=True)
        files = sorted(Path(temporary).glob("*.nii.gz"))
        if not files:
            last = (answer.stdout + answer.stderr).strip().splitlines()
            reason = last[-1] if last else f"dcm2niix ended with {answer.returncode}"
            raise AnkleError(f"{path}: no image in this folder ({reason}): give a DICOM series")
        if len(files) > 1:
            raise AnkleError(
                f"{path}: {len(files)} series in this folder: put each into a folder of its own"
            )
        shutil.move(files[0], made)
    return made


def read_scans(static: Path, dynamic: Sequence[Path], masks: Mapping[str, Path]) -> Scans:
    """Read and check the scans of one foot.

    What was not measured (padding) becomes 0, an offset of all intensities is taken off, a few
    voxels that are no numbers are filled, frames that show nothing are left out; all is noted.

    Parameters
    ----------
    static : Path
        One 3D NIfTI file, in any orientation.
    dynamic : sequence of Path
        One 4D file, or one 3D file for each frame, all on one grid.
    masks : mapping of bone to Path
        At least one of calcaneus, talus, tibia: a mask, soft or not, or labels. Labels 1, 2, 3 are
        calcaneus, talus, tibia, as `ankle segment` writes them; of others the number follows
        behind a colon, as in ``labels.nii.gz:7``. A mask on another grid than the static scan is
        brought to it (nearest voxel), and noted.

    Raises
    ------
    AnkleError
        If a file cannot be read, is not what it is given for, lies in two places, or does not
        overlap the others; if the masks are mirror images of the bones in the static scan; or if
        the foot lies in the frames as it cannot: head for foot.
    """
    if not masks:
        raise AnkleError(f"no mask given: name at least one of {', '.join(BONES)}")
    for bone in masks:
        if bone not in BONES:
            raise AnkleError(f"there is no bone {bone!r}: choose from {', '.join(BONES)}")
    notes: list[str] = []
    still = _static(static, notes)
    frames, bad = _frames(dynamic, notes)
    if abs(np.linalg.det(still.affine)) > abs(np.linalg.det(frames.affine)):
        notes.append(
            f"the static scan {static} has larger voxels ({in_words(still.voxel_size_mm)}) than "
            f"the dynamic one ({in_words(frames.voxel_size_mm)}): are the two swapped?"
        )
    canonical = to_orientation(still)
    bones = {bone: _mask(bone, path, canonical, notes) for bone, path in masks.items()}
    _check_apart(bones)
    outlined = {bone: Volume(mask, canonical.affine) for bone, mask in bones.items()}
    if masks_fit_image(canonical, outlined).mirrored:
        raise AnkleError(
            "the masks fit the static scan only when mirrored from left to right: one of the two "
            "was mirrored when it was converted; give both as the scanner made them"
        )
    notes += _seen_notes(canonical, bones, frames)
    notes += [wrong_way_up(bones, canonical.affine)] if len(bones) == len(BONES) else []
    good = np.delete(frames.data, bad, axis=3)
    if turn := turned_against(canonical, Volume(good, frames.affine)):
        raise AnkleError(
            f"the foot lies in the frames turned by half a circle ({turn}) against the static "
            "scan: is the patient's position (head or feet first, supine or prone) wrong in one "
            "of the headers? correct it, or convert the scans again"
        )
    given = tuple(filter(None, notes))
    return Scans(canonical, (still.shape, still.affine), frames, bones, given, tuple(bad))


def read_image(path: Path, thickest_mm: float = THIN_MM, notes: list[str] | None = None) -> Volume:
    """Read a static scan or a series of frames, in the orientation of its file.

    Parameters
    ----------
    path : Path
    thickest_mm : float
        The thickest sagittal slices that the network was trained for.
    notes : list of str, optional
        Gets what a person should know about the file, see `read_scans`.

    Raises
    ------
    AnkleError
        If it cannot be read, is no scan of an ankle (see `checked_scan`), or has slices too thick
        for the network, or pixels too large to show the bones' shape.
    """
    scan, _ = _measured([path], load(path), [] if notes is None else notes)
    *pixel_mm, slice_mm = canonical_voxel_size(scan.affine)
    if max(pixel_mm) > THIN_MM:
        raise AnkleError(
            f"{path}: voxels of {in_words(scan.voxel_size_mm)}: beyond {THIN_MM:g} mm a voxel "
            "mixes bone with what lies beside it; only from left to right it may: give sagittal "
            "slices"
        )
    if slice_mm > thickest_mm:
        instead = "give thinner ones"
        if thickest_mm <= THIN_MM:
            instead = "use the package's network or one of chapter 07"
        raise AnkleError(
            f"{path}: sagittal slices of {slice_mm:.3g} mm, the network was trained for at most "
            f"{thickest_mm:g} mm: {instead}"
        )
    return scan


def checked_scan(name: Path | str, volume: Volume) -> tuple[Volume, str]:
    """Refuse what cannot be a scan of an ankle; fill a few voxels that are no numbers.

    Parameters
    ----------
    name : Path or str
        How messages call the scan.
    volume : Volume
        3D, in any orientation.

    Returns
    -------
    volume : Volume
        Itself if nothing is missing.
    found : str
        What was filled, for a person; empty if nothing.

    Raises
    ------
    AnkleError
        If it is a single slice, smaller or larger than any scan of an ankle, constant, or a mask,
        or if too many voxels are NaN or infinite.
    """
    if min(volume.shape) < FEWEST_SLICES:
        raise AnkleError(
            f"{name}: shape {volume.shape} is a single slice: give the whole scan, at least "
            f"{FEWEST_SLICES} slices"
        )
    longest = max(np.multiply(volume.shape, volume.voxel_size_mm))
    if not LARGEST_SIDE_MM[0] <= longest <= LARGEST_SIDE_MM[1]:
        raise AnkleError(
            f"{name}: its longest side is {longest:.3g} mm, expected {LARGEST_SIDE_MM[0]:g} to "
            f"{LARGEST_SIDE_MM[1]:g}: is the header in another unit than mm?"
        )
    try:
        data, found = without_missing(volume.data)
    except AnkleError as error:
        raise AnkleError(f"{name}: {error}") from None
    values = _few_values(data)
    if values is not None:
        problem = f"holds only the values {values_in_words(values)}: a mask was given for a scan"
        if len(values) == 1:
            problem = f"every voxel is {values[0]:g}: there is no image in it"
        raise AnkleError(f"{name}: {problem}")
    return (replace(volume, data=data), f"{name}: {found}") if found else (volume, "")


def is_ct(data: NDArray[Any]) -> bool:
    """Return whether an image evidently holds Hounsfield units.

    Air is near -1000; most of what is denser is soft tissue, all alike, some is bone, and little
    lies between air and soft tissue. In MRI whose values were moved by -1024 tissue is spread from
    air upwards. A CT that was stored with its air at 0 is not recognised.

    Parameters
    ----------
    data : array of any shape
        As stored; what is below -1100 is padding.

    Examples
    --------
    >>> is_ct(load("scan.nii.gz").data)
    """
    sample = data.ravel(order="K")
    sample = sample[:: sample.size // SAMPLE + 1].astype(np.float32)
    sample = sample[sample >= AIR_HU[0]]
    body = sample[sample > BODY_HU]
    if len(body) in (0, len(sample)) or np.percentile(sample, 1) > AIR_HU[1]:
        return False
    soft = np.mean((body > SOFT_HU[0]) & (body < SOFT_HU[1]))
    between, bone = np.mean(body <= SOFT_HU[0]), np.mean(body > BONE_HU)
    return bool(soft >= LEAST_SOFT and between <= MOST_BETWEEN and bone >= LEAST_BONE)


def values_in_words(values: NDArray[Any]) -> str:
    """Return the first values, e.g. ``0, 1, 2``."""
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return f"{shown}, …" if len(values) > 5 else shown


def _newest(folder: Path) -> float:
    return max((file.stat().st_mtime for file in folder.rglob("*") if file.is_file()), default=0.0)


def _static(path: Path, notes: list[str]) -> Volume:
    volume = load(path)
    if volume.n_frames > 1:
        raise AnkleError(
            f"{path}: more than one static volume ({volume.n_frames}): give one 3D scan, or is "
            "this the dynamic series?"
        )
    return _measured([path], volume, notes)[0]


def _frames(paths: Sequence[Path], notes: list[str]) -> tuple[Volume, list[int]]:
    """Return a 4D series and the numbers of bad frames."""
    if not paths:
        raise AnkleError("no dynamic scan given: name one 4D file, or one 3D file for each frame")
    volumes = [load(path) for path in paths]
    for path, volume in zip(paths, volumes, strict=True):
        if len(paths) > 1 and volume.n_frames > 1:
            raise AnkleError(
                f"{path}: one of {len(paths)} dynamic files, but it holds {volume.n_frames} "
                "frames: give one 4D file alone"
            )
        if not same_grid(volume.grid, volumes[0].grid):
            raise AnkleError(
                f"{path}: {_grid_in_words(volume)} are not the grid of {paths[0]} "
                f"({_grid_in_words(volumes[0])}): register it by itself"
            )
    series = volumes[0]
    if series.data.ndim == 3:
        series = Volume(np.stack([one.data for one in volumes], axis=3), series.affine)
    return _measured(paths, series, notes)


def _measured(paths: Sequence[Path], volume: Volume, notes: list[str]) -> tuple[Volume, list[int]]:
    """Check a scan frame by frame; return it whole, without padding and offset; its bad frames."""
    _check_axes(paths[0], volume)
    notes += map(header_note, paths)
    notes += [f"{paths[0]}: {NOT_FOR_CT}"] if is_ct(volume.data) else []
    frames = range(volume.n_frames)
    names = [str(path) for path in paths]
    if len(paths) == 1 < volume.n_frames:
        names = [f"{paths[0]}, frame {number}" for number in frames]
    problems, filled = {}, {}
    for number in frames:
        try:
            checked, found = checked_scan(names[number], volume.frame(number))
        except AnkleError as error:
            problems[number] = str(error)
            continue
        if found:
            filled[number] = checked.data
            notes.append(found)
    good = [number for number in frames if number not in problems]
    if not good:
        raise AnkleError(problems[0])
    series = volume.data.reshape(*volume.shape, volume.n_frames)
    if filled:
        series = series.copy()
    for number, data in filled.items():
        series[..., number] = data
    measured, told = without_padding(series[..., good] if problems else series)
    notes += [f"{paths[0]}: {text}" for text in told]
    notes += [f"{problem}: this frame is rejected" for problem in problems.values()]
    if problems:
        whole = np.zeros(series.shape, dtype=measured.dtype)
        whole[..., good] = measured
        measured = whole
    return replace(volume, data=measured.reshape(volume.data.shape)), list(problems)


def _check_axes(path: Path, volume: Volume) -> None:
    """Refuse a series in which time seems to come first."""
    if volume.data.ndim == 4:
        sizes = volume.voxel_size_mm
        own, other = (max(np.multiply(s, sizes)) for s in (volume.shape, volume.data.shape[1:]))
        if own > max(LONG_MM, 2 * other):
            raise AnkleError(
                f"{path}: shape {volume.data.shape} with voxels of {in_words(sizes)}: time seems "
                "to be the first axis, NIfTI has it last: write the file again with numpy's "
                "moveaxis(data, 0, -1)"
            )


def file_and_label(mask: Path) -> tuple[Path, int | None]:
    """Part ``labels.nii.gz:7`` into file and label; None if there is no label."""
    name, colon, label = str(mask).rpartition(":")
    if colon and label.isdecimal() and not mask.exists():
        return Path(name), int(label)
    return mask, None


def _mask(bone: str, path: Path, static: Volume, notes: list[str]) -> NDArray[np.bool_]:
    """Return a mask on the static scan's grid."""
    path, label = file_and_label(path)
    # of two places the one that is the static scan's
    volume, places = load(path, form="sform"), read_header(path).affines.values()
    if volume.n_frames > 1:
        raise AnkleError(f"{path}: a mask with {volume.n_frames} volumes: give one 3D mask")
    data, note = _inside(bone, path, label, volume.data)
    part = np.count_nonzero(data) / data.size
    if part > LARGEST_MASK:
        raise AnkleError(f"{path}: the {bone} fills {part:.0%} of its grid: is it inverted?")
    notes += [header_note(path), note]
    for affine in places:
        mask = to_orientation(Volume(data, affine))
        if same_grid(mask.grid, static.grid):
            return mask.data
    mask = to_orientation(Volume(data, load(path).affine))  # refused if there are two
    moved = resample(mask, static.shape, static.affine, order=0)
    volumes = [np.count_nonzero(m.data) * abs(np.linalg.det(m.affine)) for m in (mask, moved)]
    lost = 1 - volumes[1] / volumes[0]
    if abs(lost) > LARGEST_LOSS:
        raise AnkleError(
            f"{path}: on the static scan's grid the {bone} has {volumes[1] / 1000:.3g} cm3 instead "
            f"of {volumes[0] / 1000:.3g}: is it the mask of another scan?"
        )
    grid = in_words(mask.voxel_size_mm)
    notes.append(
        f"the mask of the {bone} was brought from its own grid ({grid}) to the static scan"
    )
    return moved.data


def _inside(
    bone: str, path: Path, label: int | None, data: NDArray[Any]
) -> tuple[NDArray[np.bool_], str]:
    """Return where a file shows a bone, and how that was told; the latter may be empty."""
    values = np.unique(data[data != 0])
    if len(values) == 0:
        raise AnkleError(f"{path}: the mask of the {bone} is empty")
    if not np.isfinite(values).all() or values[0] < 0:
        raise AnkleError(
            f"{path}: the mask of the {bone} has the values {values_in_words(values)} beside 0: "
            "is it a scan? give a mask or labels"
        )
    labels = np.unique(np.rint(values))
    are_labels = len(labels) < MAX_LABELS and np.abs(values - np.rint(values)).max() < WHOLE_NUMBER
    ours = are_labels and set(labels) <= set(range(1, len(BONES) + 1))
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    by_segment = path.with_name(f"{stem}_labels.txt").exists()
    note = ""
    if label is None and ours and (len(labels) > 1 or by_segment):
        label = LABELS[bone]
        note = f"{path}: label {label} is taken for the {bone}, as `ankle segment` numbers bones"
    if label is not None:
        if label not in labels or not are_labels:
            raise AnkleError(
                f"{path}: has no label {label} for the {bone}, but {values_in_words(values)}: name "
                f"its label, as in --mask {bone}={path}:{labels[0]:g}"
            )
        return np.rint(data) == label, note
    if len(values) == 1:
        return data != 0, ""
    if are_labels:
        raise AnkleError(
            f"{path}: the mask of the {bone} has the labels {values_in_words(values)} beside 0: "
            f"name the one of the {bone}, as in --mask {bone}={path}:{labels[0]:g}"
        )
    mask, how = binarise(data)
    return mask, f"{path}: the mask of the {bone} was {how}"


def _check_apart(masks: Mapping[str, NDArray[np.bool_]]) -> None:
    for one, other in itertools.combinations(masks, 2):
        smaller = min(np.count_nonzero(masks[one]), np.count_nonzero(masks[other]))
        shared = np.count_nonzero(masks[one] & masks[other]) / smaller
        if shared > LARGEST_SHARED:
            raise AnkleError(
                f"the masks of {one} and {other} share {shared:.0%} of the smaller one: is one "
                "file given for both?"
            )


def _seen_notes(
    static: Volume, masks: Mapping[str, NDArray[np.bool_]], frames: Volume
) -> list[str]:
    """Note bones that the frames see in part; refuse those that they do not see at all."""
    notes = []
    for bone, mask in masks.items():
        voxels = np.argwhere(mask)
        world = apply(static.affine, voxels[:: len(voxels) // MAX_POINTS + 1])
        there = world_to_voxel(frames.affine, world)
        seen = ((there >= -0.5) & (there <= np.asarray(frames.shape) - 0.5)).all(axis=1).mean()
        if seen == 0:
            raise AnkleError(
                f"the {bone} lies outside of the dynamic scan's field of view ({_span(frames)}; "
                f"static scan {_span(static)}; world mm): are the two of one session?"
            )
        if seen < LITTLE_SEEN:
            notes.append(f"only {seen:.0%} of the {bone} lies in the dynamic scan's field of view")
    return notes


def _grid_in_words(volume: Volume) -> str:
    return f"shape {volume.shape} and voxels of {in_words(volume.voxel_size_mm)}"


def _span(volume: Volume) -> str:
    """Write the box that a grid fills, e.g. ``R -40..52, A -80..61, S -90..33``."""
    world = apply(volume.affine, np.array([*np.ndindex(2, 2, 2)]) * volume.shape - 0.5)
    sides = zip("RAS", world.min(axis=0), world.max(axis=0), strict=True)
    return ", ".join(f"{letter} {low:.0f}..{high:.0f}" for letter, low, high in sides)


def _few_values(data: NDArray[Any]) -> NDArray[Any] | None:
    """Return the distinct values if there are few; a sample tells for most scans."""
    flat = data.ravel(order="K")
    if len(np.unique(flat[:: len(flat) // SAMPLE + 1])) >= FEWEST_VALUES:
        return None
    values = np.unique(flat)
    return values if len(values) < FEWEST_VALUES else None
