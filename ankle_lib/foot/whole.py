"""`ankle foot`: from raw scans of one foot to its moving bones, with a page that tells of them.

Each step leaves its files in the result's folder and is not done again while they are there and
nothing that decides them has changed, so a run that was stopped goes on.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ankle_lib.cache import remembered
from ankle_lib.cleaning.laterality import side_from_bones
from ankle_lib.dynamic import kinematics
from ankle_lib.dynamic.smoothing import smooth_together
from ankle_lib.files import AnkleError, write_csv, write_text
from ankle_lib.foot.page import SequenceReport, foot_page
from ankle_lib.foot.reading import converted, read_scans
from ankle_lib.foot.reconstruct import reconstruct_file
from ankle_lib.foot.register import register_files, verdicts
from ankle_lib.foot.results import Outcome, frames_in_words
from ankle_lib.foot.segment import segment_file
from ankle_lib.geometry import weighted_centre
from ankle_lib.pose_files import FramePose, poses_by_bone, read_transforms, write_transforms
from ankle_lib.presets import BONES
from ankle_lib.privacy import without_folders
from ankle_lib.quality.review_sheet import SHEET_NAME, ReviewSheet
from ankle_lib.registration.regions import WHOLE
from ankle_lib.volume import Volume
from ankle_lib.weights.shipped import named, shipped_network

LABELS, PAGE, STEPS = "labels.nii.gz", "report.html", ".steps"
CURVES = ("angles.csv", "helical_axes.csv", "joint_gaps.csv")


@dataclass(frozen=True)
class Examination:
    """What is asked for, and where it goes."""

    static: Path
    dynamic: Mapping[str, Path]
    """By the sequences' names."""
    out: Path
    side: str | None
    device: str


def foot_files(
    static: Path,
    dynamic: Sequence[Path],
    out: Path,
    *,
    masks: Mapping[str, Path] | None = None,
    checkpoint: Path | None = None,
    side: str | None = None,
    sharp: bool = False,
    device: str = "cpu",
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Segment, register and measure a foot, and write a page about it.

    Parameters
    ----------
    static : Path
        One 3D NIfTI file, or a folder of DICOM files.
    dynamic : sequence of Path
        One 4D NIfTI file, or DICOM folder, for each sequence.
    out : Path
        Folder: ``labels.nii.gz``, ``report.html`` and for each sequence a folder with what
        `ankle register` writes, ``angles.csv``, ``helical_axes.csv``, ``joint_gaps.csv`` and,
        with ``sharp``, ``sharp.nii.gz``. ``qc_sheet.csv`` there has a verdict for each frame and
        bone; what a person writes into it (see `ReviewSheet`) counts in the next run.
    masks : mapping of bone to Path, optional
        As in `read_scans`.
    checkpoint : Path, optional
        Without masks: a network that finds the bones, see `read_segmenter`; by default that of the
        package.
    side : {"left", "right"}, optional
        By default told by the shape of the bones.
    sharp : bool
        Also make the frames as sharp as the static scan.
    device : str
        "cpu" or "cuda".
    tell : callable
        Gets a line for each step.

    Raises
    ------
    AnkleError
        If a file cannot be used, or a bone is not found, or only where no foot has it.

    Examples
    --------
    >>> foot_files(static, [active, passive], Path("foot"))  # doctest: +SKIP
    """
    network = None if masks else checkpoint or shipped_network()
    still, *films = (converted(path, out / "nifti") for path in (static, *dynamic))
    names = [path.name.removesuffix(".gz").removesuffix(".nii") for path in films]
    if len(set(names)) < len(names):
        raise AnkleError(f"two sequences are called {', '.join(sorted(names))}: rename the files")
    given = Examination(still, dict(zip(names, films, strict=True)), out, side, device)
    lines, notes, problems = [], [], []
    found = dict(masks or {})
    if network:
        tell("looking for the bones in the static scan")
        work = partial(segment_file, still, network, out / LABELS, device=device, side=side)
        segmented = _step(given, "labels", work, [still, network], [out / LABELS])
        found = dict.fromkeys(BONES, out / LABELS)
        lines += segmented.lines
        notes += segmented.notes
        if segmented.problem:
            raise AnkleError(f"{segmented.problem}; give masks with --mask")
    reports = []
    for name, film in given.dynamic.items():
        inputs = [still, film, *found.values()]
        tell(f"{name}: following the bones")
        work = partial(register_files, still, [film], found, out / name, device=device)
        registered = _step(given, f"{name}-poses", work, inputs, [out / name / "transforms.json"])
        lines += [f"{name}: {line}" for line in registered.lines]
        problems += [registered.problem] if registered.problem else []
        poses = _reviewed(given, name)
        if sharp and not registered.problem:
            tell(f"{name}: making the frames sharp")
            believed = write_transforms(out / STEPS / f"{name}-transforms.json", poses)
            series = out / name / "sharp.nii.gz"
            work = partial(reconstruct_file, film, still, found, believed, series, device=device)
            made = _step(given, f"{name}-sharp", work, [*inputs, believed], [series])
            lines += [f"{name}: {line}" for line in made.lines]
        tell(f"{name}: joints")
        reports.append(_report(given, name, found, poses, registered.notes))
    scans = read_scans(still, [next(iter(given.dynamic.values()))], found)
    bones = {bone: Volume(mask, scans.static.affine) for bone, mask in scans.masks.items()}
    facts = {
        "static scan": still.name,
        "bones": f"network {named(network)}" if network else "given masks",
        "side": _side(given, bones) or "unknown",
        "ankle_lib": version("ankle-lib"),
        "Python": platform.python_version(),
    }
    title = still.name.removesuffix(".gz").removesuffix(".nii")
    page = foot_page(title, bones, _side(given, bones), reports, notes=notes, facts=facts)
    folders = {path.parent: path.parent.name for path in (still, *films)}
    write_text(out / PAGE, without_folders(page, folders))
    return Outcome([out / PAGE], lines, notes, "; ".join(problems))


def _step(
    given: Examination,
    name: str,
    work: Callable[[], Outcome],
    inputs: Sequence[Path],
    outputs: Sequence[Path],
) -> Outcome:
    """Do a step unless its files are there and nothing has changed."""
    record = given.out / STEPS / f"{name}.json"
    if not all(path.exists() for path in outputs):
        record.unlink(missing_ok=True)

    def told() -> list[Any]:
        outcome = work()
        return [outcome.lines, outcome.notes, outcome.problem]

    settings = [given.side, given.device]
    return Outcome([*outputs], *remembered(record, told, inputs=inputs, settings=settings))


def _reviewed(given: Examination, name: str) -> list[FramePose]:
    """Return the poses of a sequence's bones, believed or not as its review sheet says."""
    folder = given.out / name
    found = [pose for pose in read_transforms(folder / "transforms.json") if pose.bone != WHOLE]
    rows = verdicts(found).assign(subject=given.static.name, sequence=name)
    sheet = ReviewSheet(folder / SHEET_NAME).update(rows)
    own = sheet[sheet["subject"] == given.static.name]
    judged = own.set_index(["frame", "bone"])["verdict"]
    return [replace(p, accepted=judged[p.frame, p.bone] == "accepted") for p in found]


def _side(given: Examination, bones: Mapping[str, Volume]) -> str | None:
    if given.side or set(bones) != set(BONES):
        return given.side
    masks = {bone: bones[bone].data for bone in BONES}
    return side_from_bones(masks, bones[BONES[0]].affine).side


def _report(
    given: Examination,
    name: str,
    masks: Mapping[str, Path],
    found: Sequence[FramePose],
    notes: Sequence[str],
) -> SequenceReport:
    """Measure the joints of a sequence, write the tables, and return what the page tells."""
    folder = given.out / name
    scans = read_scans(given.static, [given.dynamic[name]], masks)
    bones = {bone: Volume(mask, scans.static.affine) for bone, mask in scans.masks.items()}
    told = [note for note in notes if str(given.out / LABELS) not in note]  # its own labels
    picture = (folder / "contact_sheet.png").read_bytes()
    n_frames = scans.frames.n_frames
    report, axes = measured(
        name, found, bones, n_frames, _side(given, bones), notes=told, contact_sheet=picture
    )
    for file, table in zip(CURVES, (report.angles, axes, report.gaps), strict=True):
        write_csv(folder / file, table)
    return report


def measured(
    name: str,
    found: Sequence[FramePose],
    bones: Mapping[str, Volume],
    n_frames: int,
    side: str | None,
    *,
    notes: Sequence[str] = (),
    contact_sheet: bytes | None = None,
) -> tuple[SequenceReport, pd.DataFrame]:
    """Measure the joints of a sequence.

    Parameters
    ----------
    name : str
        Of the sequence.
    found : sequence of FramePose
        Of the bones, static world to frame world.
    bones : mapping of bone to Volume
        Masks on the static scan.
    n_frames : int
    side : {"left", "right"} or None
    notes, contact_sheet
        What else the page tells of the sequence, see `SequenceReport`.

    Returns
    -------
    report : SequenceReport
    axes : DataFrame
        From `kinematics.helical_table`; empty where there are no joint angles.
    """
    told = list(notes)
    believed = [pose for pose in found if pose.accepted]
    poses, known = poses_by_bone(believed, bones, n_frames)
    for bone, there in known.items():
        if not there.all():
            where = frames_in_words(np.flatnonzero(there == 0).tolist())
            told.append(
                f"the {bone} was refused in {where}: its angles there follow its other frames"
            )
    centres = {bone: weighted_centre(mask.data, mask.affine) for bone, mask in bones.items()}
    smooth = smooth_together(poses, known, centres)
    seen = {bone: one for bone, one in poses.items() if known[bone].any()}
    angles = pd.DataFrame(columns=["frame", "joint", *kinematics.ANGLES])
    axes, frame = pd.DataFrame(), None
    try:
        frame = kinematics.anatomical_frame(bones, side)
    except AnkleError as error:
        told.append(f"no joint angles: {error}")
    if frame is not None and len(seen) == len(BONES):
        angles = kinematics.angle_table(smooth, frame)
        axes = kinematics.helical_table(smooth, frame)
    gaps = kinematics.gap_table(seen, {bone: bones[bone] for bone in seen})
    shown = ["joint", "rotation_deg", "shift_mm", "inclination_deg", "deviation_deg"]
    heading = "Helical axes, from one end of the cycle to the other"
    tables = {heading: axes[shown]} if len(axes) else {}
    return SequenceReport(name, found, angles, gaps, contact_sheet, tables, told), axes
