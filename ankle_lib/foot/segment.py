"""`ankle segment`: calcaneus, talus and tibia on any static scan or dynamic series.

A series is segmented frame by frame. Frames in which nothing is found do not stop the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ankle_lib.cleaning.laterality import side_from_bones
from ankle_lib.figures.anatomy import segmentation_overlay
from ankle_lib.figures.segmentation_series import segmentation_sheet
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.files import FIGURE_DPI, AnkleError
from ankle_lib.foot.reading import read_image, size_in_words
from ankle_lib.foot.results import Beside, Outcome, beside, frames_in_words
from ankle_lib.learning.prediction import predict
from ankle_lib.learning.segmenter import Segmenter, read_segmenter
from ankle_lib.masking.bone_weights import bone_volumes_cm3
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, canonical_voxel_size, save, to_orientation

COARSE = 2.0
"""Pixels so many times larger than the network's make its outlines rough."""

EXPECTED_CM3 = {"calcaneus": (22.0, 85.0), "talus": (12.0, 45.0), "tibia": (15.0, 150.0)}
"""From half of the children's mean volume (44.8, 24.0, 30.3 cm3: LaTIM's mean shape) to 1.3 times
the largest adult's (65, 34); of the tibia as much is seen as the field of view holds."""

LOW_CONFIDENCE = 0.85
"""On frames of the phantom's validation subject, as they are, of other looks and with noise added
until nothing was found, this marks 97 of 102 bones with a Dice below 0.8, and 8 of 105 others."""
FAR_FROM_MEDIAN = 0.2
"""A bone's volume in a frame, against its median: through 8 mm slices the true volumes of the
phantom's bones stay within 6 %."""
FEWEST_FRAMES = 3
"""Frames whose median says which of them is odd."""

MISSING, UNSURE = "not found", "low confidence"
IMPLAUSIBLE, ODD = "implausible volume", "unusual volume"


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
class Segmentation:
    """The bones of a scan, or of every frame of a series."""

    labels: Volume
    """uint8 on the scan's own grid, as many frames: 0, or 1 calcaneus, 2 talus, 3 tibia."""
    names: dict[int, str]
    """Label to bone, for the bones that the network knows."""
    volumes_cm3: dict[str, float]
    """Of a series the median over the frames in which a bone was found."""
    side: str | None
    """``"left"`` or ``"right"``, told by the shape of the bones, or ``None`` if they do not. Of a
    series what most of its frames tell."""
    table: pd.DataFrame
    """How far to trust each frame and bone, see `frame_table`."""
    notes: tuple[str, ...]
    """What a person should look at, one sentence each."""


@dataclass(frozen=True)
class Frame:
    """What was found in one frame."""

    confidence: Mapping[str, float]
    """Bone to expected Dice, see `prediction.Prediction`."""
    volumes_cm3: Mapping[str, float]
    problem: str = ""
    """Why nothing was looked for."""


def segment_file(
    image: Path,
    checkpoint: Path,
    out: Path,
    *,
    device: str = "cpu",
    side: str | None = None,
    progress: bool = False,
) -> Outcome:
    """Segment a file and write the labels, with names, table and picture beside them.

    Parameters
    ----------
    image : Path
        A static scan (3D) or a series of frames (4D).
    checkpoint : Path
        A network that says what it wants to see, see `read_segmenter`.
    out : Path
        Labels to write, on the image's own grid; beside them ``_labels.txt`` (names and colours
        for ITK-SNAP: Segmentation > Import Label Descriptions), ``_confidence.csv`` (how far to
        trust each frame and bone) and ``_overlay.png``.
    device, side, progress
        As in `segment_scan`.

    Raises
    ------
    AnkleError
        If a file cannot be used, there is no bone in it, or ``out`` cannot be written.
    """
    result = label_files(out, image, checkpoint)
    segmenter = read_segmenter(checkpoint)
    scan = read_image(image, segmenter.thickest_mm)
    found = segment_scan(scan, segmenter, device=device, side=side, progress=progress)
    if scan.n_frames > 1:
        figure = segmentation_sheet(scan, found.labels, found.table, found.names)
    else:
        figure = segmentation_overlay(scan, found.labels, found.volumes_cm3, found.names)
    write_labels(result, found, figure)
    lines = _in_words(found.table)
    lines += [f"a {found.side} foot, by the shape of its bones"] if found.side else []
    missing = found.table[found.table["volume_cm3"] == 0]
    problem = ""
    if len(missing):
        lost = set(missing["bone"])
        bones = " and no ".join(bone for bone in found.names.values() if bone in lost)
        frames = f" in {frames_in_words(sorted(set(missing['frame'])))}"
        where = frames if scan.n_frames > 1 else ""
        problem = f"{image}: no {bones} found{where}: see {result.files[-1]}"
    return Outcome(result.files, lines, list(found.notes), problem)


def label_files(out: Path, *inputs: Path) -> Beside:
    """Return the files of a segmentation, before any work is done for them; see `beside`."""
    names = ("_labels.txt", "_confidence.csv", "_overlay.png")
    return beside(out, names, inputs, sign=MARK, thing="labels", command="ankle segment")


def write_labels(files: Beside, found: Segmentation, figure: Figure) -> None:
    """Write labels, their description, the table and the picture; all of them or none."""
    with files.written() as (labels, description, table, picture):
        made = found.labels
        save(labels, made.data, made.affine, time_step_s=made.time_step_s)
        description.write_text(label_description(found.names, BONE_COLOURS), encoding="utf-8")
        found.table.to_csv(table, index=False, float_format="%.6g")
        figure.savefig(picture, dpi=FIGURE_DPI, bbox_inches="tight")


def segment_scan(
    scan: Volume,
    segmenter: Segmenter,
    *,
    device: str = "cpu",
    side: str | None = None,
    progress: bool = False,
) -> Segmentation:
    """Segment the bones of a static scan, or of every frame of a series.

    Parameters
    ----------
    scan : Volume
        3D or 4D, in any orientation and of any voxel size and unit of intensity; see
        `read_image` for what is refused.
    segmenter : Segmenter
    device : str
        "cpu" or "cuda".
    side : {"left", "right"}, optional
        What the foot is documented to be; bones of the other side are noted.
    progress : bool
        Show a bar for a series, on a terminal.

    Raises
    ------
    AnkleError
        If there is no foot in the scan, or no bone is found in any frame.
    """
    labels = np.zeros((*scan.shape, scan.n_frames), dtype=np.uint8, order="F")
    codes = "".join(scan.axis_codes)
    frames: list[Frame] = []
    hidden = None if progress and scan.n_frames > 1 else True  # None: shown on a terminal alone
    for number in tqdm(range(scan.n_frames), desc="frames", unit="frame", disable=hidden):
        image = to_orientation(scan.frame(number))
        try:
            found = predict(image.data, image.voxel_size_mm, segmenter, device=device)
        except AnkleError as error:
            frames.append(Frame({}, {}, problem=str(error)))
            continue
        there = to_orientation(Volume(found.labels, image.affine), codes).data
        labels[..., number] = there
        volumes = bone_volumes_cm3(_masks(there, segmenter.bones), scan.voxel_size_mm)
        frames.append(Frame(found.confidence, volumes))
    _check_found(frames, segmenter)
    return _described(
        Volume(labels.reshape(scan.data.shape), scan.affine, scan.time_step_s),
        frames,
        segmenter,
        side,
    )


def _check_found(frames: list[Frame], segmenter: Segmenter) -> None:
    """Refuse a scan without any bone."""
    if any(volume for frame in frames for volume in frame.volumes_cm3.values()):
        return
    if len(frames) == 1 and frames[0].problem:
        raise AnkleError(frames[0].problem)
    where = "" if len(frames) == 1 else f" in any of the {len(frames)} frames"
    raise AnkleError(
        f"none of {', '.join(segmenter.bones)} was found{where}: is this a scan of an ankle, with "
        "the contrast that the network was trained on?"
    )


def _described(
    labels: Volume, frames: list[Frame], segmenter: Segmenter, side: str | None
) -> Segmentation:
    table = frame_table(frames, segmenter.bones)
    seen = table[table["volume_cm3"] > 0].groupby("bone")["volume_cm3"].median()
    volumes = {bone: float(seen.get(bone, 0.0)) for bone in segmenter.bones}
    notes = [*_volume_notes(volumes), *frame_notes(table)]
    found = _side(labels)
    if side and found and side != found:
        notes.append(
            f"the bones are those of a {found} foot, not of a {side} one: is the image mirrored?"
        )
    coarse = max(
        size / pixel
        for size, pixel in zip(
            canonical_voxel_size(labels.affine)[:2], segmenter.pixel_mm, strict=True
        )
    )
    if coarse > COARSE:
        pixel = " x ".join(f"{size:.3g}" for size in segmenter.pixel_mm)
        notes.append(
            f"voxels of {size_in_words(labels)} where the network was trained on pixels of "
            f"{pixel} mm: the outlines are rough"
        )
    names = {number: bone for number, bone in enumerate(BONES, 1) if bone in segmenter.bones}
    return Segmentation(labels, names, volumes, found, table, tuple(notes))


def _masks(labels: NDArray[np.uint8], bones: Iterable[str]) -> dict[str, NDArray[np.bool_]]:
    return {bone: labels == BONES.index(bone) + 1 for bone in bones}


def _side(labels: Volume) -> str | None:
    """Return the side that more than half of the frames tell that tell one."""
    votes: Counter[str] = Counter()
    for number in range(labels.n_frames):
        masks = _masks(labels.frame(number).data, BONES)
        if all(mask.any() for mask in masks.values()):
            side = side_from_bones(masks, labels.affine).side
            votes.update([side] if side else [])
    return next((side for side, n in votes.items() if 2 * n > votes.total()), None)


def _volume_notes(volumes: dict[str, float]) -> list[str]:
    notes = []
    for bone, volume in volumes.items():
        low, high = EXPECTED_CM3[bone]
        if volume == 0:
            notes.append(f"no {bone} was found")
        elif not low <= volume <= high:
            notes.append(
                f"the {bone} has {volume:.3g} cm3, expected {low:g} to {high:g} in children and "
                "adults: look at the overlay"
            )
    return notes


def frame_table(frames: Sequence[Frame], bones: Iterable[str]) -> pd.DataFrame:
    """Return a row for each frame and bone.

    Returns
    -------
    DataFrame
        Columns frame (from 0), bone, confidence (0 to 1), volume_cm3, and note: empty, or what is
        wrong: the bone was not found, its confidence is below 0.85, its volume is that of nobody
        (implausible), or differs by more than 20 % from its median over the frames (unusual).
    """
    rows = [
        (number, bone, frame.confidence.get(bone, 0.0), frame.volumes_cm3.get(bone, 0.0))
        for number, frame in enumerate(frames)
        for bone in bones
    ]
    table = pd.DataFrame(rows, columns=["frame", "bone", "confidence", "volume_cm3"])
    found = table[table["volume_cm3"] > 0].groupby("bone")["volume_cm3"]
    usual = found.median().where(found.size() >= FEWEST_FRAMES)
    notes = []
    for number, bone, confidence, volume in rows:
        if volume == 0:
            problem = frames[number].problem
            notes.append(f"{MISSING}: {problem}" if problem else MISSING)
            continue
        problems = {
            UNSURE: confidence < LOW_CONFIDENCE,
            IMPLAUSIBLE: not EXPECTED_CM3[bone][0] <= volume <= EXPECTED_CM3[bone][1],
            ODD: abs(volume / usual[bone] - 1) > FAR_FROM_MEDIAN,  # not where there is no median
        }
        notes.append("; ".join(problem for problem, there in problems.items() if there))
    return table.assign(note=notes)


def frame_notes(table: pd.DataFrame) -> list[str]:
    """Return what a `frame_table` says, a sentence for each bone and problem.

    Bones that are in no frame, and volumes that are implausible, are said elsewhere: of all frames
    together.
    """
    n_frames, notes = table["frame"].nunique(), []
    for bone, rows in table.groupby("bone", sort=False):
        for problem in (MISSING, UNSURE, ODD):
            frames = list(rows.loc[rows["note"].str.contains(problem), "frame"])
            if frames and not (problem == MISSING and len(frames) == n_frames):
                where = f" in {frames_in_words(frames)}" if n_frames > 1 else ""
                notes.append(f"the {bone}: {problem}{where}: look at the picture")
    return notes


def _in_words(table: pd.DataFrame) -> list[str]:
    """Return volume and confidence of each bone, of a series the median over its frames."""
    lines = []
    for bone, rows in table.groupby("bone", sort=False):
        found = rows[rows["volume_cm3"] > 0]
        if len(rows) == 1:
            lines.append(f"{bone}: {rows['volume_cm3'].iloc[0]:.1f} cm3")
        elif found.empty:
            lines.append(f"{bone}: in none of {len(rows)} frames")
        else:
            confidence = found["confidence"]
            lines.append(
                f"{bone}: {found['volume_cm3'].median():.1f} cm3 in {len(found)} of {len(rows)} "
                f"frames, confidence {confidence.median():.2f}, at least {confidence.min():.2f} "
                f"(frame {found.loc[confidence.idxmin(), 'frame']})"
            )
    return lines


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
