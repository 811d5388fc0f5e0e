"""`ankle segment`: the bones of a static scan, or of every frame of a series.

Labels go back onto the file's own grid. What was found is told with how far to trust it: each
bone's confidence and volume in every frame, and what of it is odd.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ankle_lib.cleaning.laterality import side_from_bones, wrong_way_up
from ankle_lib.figures.scan_pictures import labelled_scan
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.files import FIGURE_DPI, AnkleError
from ankle_lib.foot.possible import FORBIDDEN, IMPOSSIBLE, IN_PIECES, PIECE_REMOVED, against_anatomy
from ankle_lib.foot.reading import read_image
from ankle_lib.foot.results import Outcome, beside, frames_in_words, written
from ankle_lib.geometry import in_words
from ankle_lib.learning.prediction import Prediction, Segmenter, predict, read_segmenter
from ankle_lib.presets import BONES, LABELS
from ankle_lib.volume import Volume, canonical_voxel_size, read_header, save, to_orientation
from ankle_lib.weights.shipped import named, shipped_network

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

HALF_TURNS = ((), (0, 2), (0, 1), (1, 2))
"""Axes (posterior, superior, right) that half a turn reverses: as a scanner does that was told
supine for prone, head first for feet first, or both."""

MISSING, UNSURE = "not found", "low confidence"
IMPLAUSIBLE, ODD = "implausible volume", "unusual volume"
LOOK = ": look at the picture"

MARK = "# written by `ankle segment`"


@dataclass(frozen=True)
class Segmentation:
    """The bones of a scan, or of every frame of a series."""

    labels: Volume
    """uint8 on the scan's own grid, as many frames: 0, or 1 calcaneus, 2 talus, 3 tibia."""
    names: dict[int, str]
    """Label to bone, for the bones that the network knows."""
    side: str | None
    """``"left"`` or ``"right"``, told by the shape of the bones, or ``None`` if they do not. Of a
    series what most of its frames tell."""
    table: pd.DataFrame
    """How far to trust each frame and bone, see `noted`."""
    notes: tuple[str, ...]
    """What a person should look at, one sentence each."""


def segment_file(
    image: Path,
    checkpoint: Path | None,
    out: Path,
    *,
    device: str = "cpu",
    side: str | None = None,
) -> Outcome:
    """Segment a file and write the labels, with names, table and picture beside them.

    Parameters
    ----------
    image : Path
        A static scan (3D) or a series of frames (4D).
    checkpoint : Path or None
        A network that says what it wants to see, see `read_segmenter`; by default that of the
        package, see `shipped_network`.
    out : Path
        Labels to write, on the image's own grid; beside them ``_labels.txt`` (names and colours
        for ITK-SNAP: Segmentation > Import Label Descriptions), ``_confidence.csv`` (how far to
        trust each frame and bone) and ``_overlay.png``.
    device, side
        As in `segment_scan`.

    Raises
    ------
    AnkleError
        If a file cannot be used, there is no bone in it, or ``out`` cannot be written.
    """
    checkpoint = checkpoint or shipped_network(canonical_voxel_size(read_header(image).affine)[2])
    files = label_files(out, image, checkpoint)
    segmenter = read_segmenter(checkpoint)
    notes: list[str] = []
    scan = read_image(image, segmenter.thickest_mm, notes)
    found = segment_scan(scan, segmenter, device=device, side=side)
    picture = labelled_scan(scan, found.labels, found.table, found.names)
    write_labels(files, found, picture, network=named(checkpoint))
    lines = _in_words(found.table)
    lines += [f"a {found.side} foot, by the shape of its bones"] if found.side else []
    lines.append(f"network: {named(checkpoint)}")
    problems = _problems(found)
    problem = f"{image}: {'; '.join(problems)}: see {files[-1]}" if problems else ""
    return Outcome(files, lines, [*filter(None, notes), *found.notes], problem)


def _problems(found: Segmentation) -> list[str]:
    """Return what makes it no result: bones that are missing, or as no foot has them."""
    missing = found.table[found.table["volume_cm3"] == 0]
    problems = []
    if len(missing):
        bones = " and no ".join(bone for bone in BONES if bone in set(missing["bone"]))
        frames = f" in {frames_in_words(sorted(set(missing['frame'])))}"
        problems.append(f"no {bones} found{frames if found.labels.n_frames > 1 else ''}")
    wrong = [note for note in found.notes if any(problem in note for problem in FORBIDDEN)]
    return problems + [note.removesuffix(LOOK) for note in wrong]


def label_files(out: Path, *inputs: Path) -> list[Path]:
    """Return the files of a segmentation, before any work is done for them; see `beside`."""
    names = ("_labels.txt", "_confidence.csv", "_overlay.png")
    return beside(out, names, inputs, sign=MARK, thing="labels", command="ankle segment")


def write_labels(
    files: Sequence[Path], found: Segmentation, figure: Figure, *, network: str = "unknown"
) -> None:
    """Write labels, their description, the table and the picture; all of them or none."""
    with written(files) as (labels, description, table, picture):
        made = found.labels
        save(labels, made.data, made.affine, time_step_s=made.time_step_s)
        text = label_description(found.names, network)
        description.write_text(text, encoding="utf-8")
        found.table.to_csv(table, index=False, float_format="%.6g")
        figure.savefig(picture, dpi=FIGURE_DPI, bbox_inches="tight")


def label_description(names: Mapping[int, str], network: str = "unknown") -> str:
    """Return the label description that ITK-SNAP reads, with label 0 as clear.

    Comments say what wrote it, and with which network.

    Fields are the label, red, green, blue, whether it is opaque, visible and has a mesh, and its
    name.
    """
    rows = [(0, bytes(3), 0, "Clear Label")]
    rows += [(n, bytes.fromhex(BONE_COLOURS[bone][1:]), 1, bone) for n, bone in names.items()]
    lines = [
        f'{n:5d} {red:5d} {green:4d} {blue:4d} {shown:8d} {shown:2d} {shown:2d}    "{name}"'
        for n, (red, green, blue), shown, name in rows
    ]
    return "\n".join([MARK, f"# network: {network}", *lines, ""])


def segment_scan(
    scan: Volume, segmenter: Segmenter, *, device: str = "cpu", side: str | None = None
) -> Segmentation:
    """Segment the bones of a static scan, or of every frame of a series; a terminal shows a bar.

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

    Raises
    ------
    AnkleError
        If there is no foot in the scan, or no bone is found in any frame.

    Examples
    --------
    >>> found = segment_scan(read_image(path), read_segmenter(checkpoint))
    >>> found.table[found.table["note"] != ""]
    """
    labels = np.zeros((*scan.shape, scan.n_frames), dtype=np.uint8, order="F")
    names = {label: bone for bone, label in LABELS.items() if bone in segmenter.bones}
    voxel_cm3 = float(np.prod(scan.voxel_size_mm)) / 1000
    codes = "".join(scan.axis_codes)
    rows: list[tuple[int, str, float, float, str]] = []
    hidden = None if scan.n_frames > 1 else True  # None: shown on a terminal alone
    turn: tuple[int, ...] | None = None  # not known yet
    for number in tqdm(range(scan.n_frames), desc="frames", unit="frame", disable=hidden):
        image = to_orientation(scan.frame(number))
        confidence: Mapping[str, float] = {}
        wrong: Mapping[str, list[str]] = {}
        problem = ""
        try:
            known = HALF_TURNS if turn is None else [turn]
            turn, found = _predict(image, segmenter, known, device)
            confidence = found.confidence
            made = Volume(np.flip(found.labels, turn), image.affine)
            wrong = against_anatomy(made, found.apart)
            labels[..., number] = to_orientation(made, codes).data
        except AnkleError as error:
            problem = str(error)
        sizes = np.bincount(labels[..., number].ravel(order="K"), minlength=len(BONES) + 1)
        for label, bone in names.items():
            note = problem or "; ".join(wrong.get(bone, []))
            volume = float(sizes[label]) * voxel_cm3
            rows.append((number, bone, confidence.get(bone, 0.0), volume, note))
    table = pd.DataFrame(rows, columns=["frame", "bone", "confidence", "volume_cm3", "note"])
    if not table["volume_cm3"].any():
        if scan.n_frames == 1 and problem:
            raise AnkleError(problem)
        where = "" if scan.n_frames == 1 else f" in any of the {scan.n_frames} frames"
        raise AnkleError(
            f"none of {', '.join(segmenter.bones)} was found{where}: is this a scan of an ankle, "
            "with the contrast that the network was trained on?"
        )
    table = noted(table)
    series = Volume(labels.reshape(scan.data.shape), scan.affine, scan.time_step_s)
    shape, position = _told_by_shape(series)
    notes = [position] if position else []
    if turn:
        notes.append("the network knew the bones only after half a turn of the scan")
    notes += notes_of(table)
    if side and shape and side != shape:
        notes.append(
            f"the bones are those of a {shape} foot, not of a {side} one: is the image mirrored?"
        )
    if (np.divide(canonical_voxel_size(scan.affine)[:2], segmenter.pixel_mm) > COARSE).any():
        notes.append(
            f"voxels of {in_words(scan.voxel_size_mm)} where the network was trained on pixels of "
            f"{in_words(segmenter.pixel_mm)}: the outlines are rough"
        )
    return Segmentation(series, names, shape, table, tuple(notes))


def _predict(
    image: Volume, segmenter: Segmenter, turns: Sequence[tuple[int, ...]], device: str
) -> tuple[tuple[int, ...], Prediction]:
    """Segment an image (axes P, S, R) as it is, or turned by half a circle if only that helps.

    Returns the axes that were reversed, and what was found with them reversed. The first way stays
    unless a bone is doubtful in it and none is in another.
    """
    best: tuple[tuple[int, ...], Prediction] | None = None
    for turn in turns:
        data = np.flip(image.data, turn)
        found = predict(data, image.voxel_size_mm, segmenter, device=device)
        sure = min(found.confidence.values()) >= LOW_CONFIDENCE
        if best is None or sure:
            best = turn, found
        if sure:
            break
    assert best is not None
    return best


def _told_by_shape(labels: Volume) -> tuple[str | None, str]:
    """Return the side that more than half of the frames tell that tell one, and how it lies.

    The latter is a sentence where the bones lie as no foot can, else empty.
    """
    votes: Counter[str] = Counter()
    positions: Counter[str] = Counter()
    for number in range(labels.n_frames):
        frame = labels.frame(number).data
        masks = {bone: frame == label for bone, label in LABELS.items()}
        if all(mask.any() for mask in masks.values()):
            side = side_from_bones(masks, labels.affine).side
            votes.update([side] if side else [])
            positions.update([wrong_way_up(masks, labels.affine)])
    told = next((side for side, n in votes.items() if 2 * n > votes.total()), None)
    return told, next((text for text, n in positions.items() if 2 * n > positions.total()), "")


def noted(table: pd.DataFrame) -> pd.DataFrame:
    """Say in a table of frames and bones what is wrong with each.

    Parameters
    ----------
    table : DataFrame
        Columns frame (from 0), bone, confidence (0 to 1), volume_cm3, and note: why nothing was
        looked for, or what no foot has (see `against_anatomy`), if so.

    Returns
    -------
    DataFrame
        With the notes empty, or: the bone was not found, its confidence is below 0.85, its volume
        is hardly anybody's (implausible), or differs by more than 20 % from its median over the
        frames (unusual); or what no foot has.
    """
    found = table[table["volume_cm3"] > 0].groupby("bone")["volume_cm3"]
    usual = found.median().where(found.size() >= FEWEST_FRAMES)
    notes = []
    for row in table.itertuples():
        if row.volume_cm3 == 0:
            notes.append(f"{MISSING}: {row.note}" if row.note else MISSING)
            continue
        low, high = EXPECTED_CM3[row.bone]
        problems = {
            UNSURE: row.confidence < LOW_CONFIDENCE,
            IMPLAUSIBLE: not low <= row.volume_cm3 <= high and IMPOSSIBLE not in row.note,
            # not where there is no median
            ODD: abs(row.volume_cm3 / usual[row.bone] - 1) > FAR_FROM_MEDIAN,
        }
        odd = [problem for problem, there in problems.items() if there]
        notes.append("; ".join(filter(None, [*odd, row.note])))
    return table.assign(note=notes)


def notes_of(table: pd.DataFrame) -> list[str]:
    """Return what a table says that is `noted`, a sentence for each bone and problem.

    Whether a volume is implausible is said of all frames together.
    """
    n_frames, notes = table["frame"].nunique(), []
    for bone, rows in table.groupby("bone", sort=False):
        volume = rows.loc[rows["volume_cm3"] > 0, "volume_cm3"].median()
        if np.isnan(volume):
            notes.append(f"no {bone} was found")
            continue
        low, high = EXPECTED_CM3[str(bone)]
        if not low <= volume <= high:
            notes.append(
                f"the {bone} has {volume:.3g} cm3, expected {low:g} to {high:g} in children and "
                "adults: look at the overlay"
            )
        for problem in (MISSING, UNSURE, ODD, PIECE_REMOVED, IN_PIECES, *FORBIDDEN):
            frames = list(rows.loc[rows["note"].str.contains(problem), "frame"])
            if frames:
                where = f" in {frames_in_words(frames)}" if n_frames > 1 else ""
                notes.append(f"the {bone}: {problem}{where}{LOOK}")
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
