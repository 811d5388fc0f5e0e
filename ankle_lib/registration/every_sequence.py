"""Chapter 03 over a clean cohort: every sequence registered, measured, judged and written.

A sequence is one task: it runs in a process of its own, or on a cluster (see `parallel.run_all`).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.cache import digest, remembered
from ankle_lib.files import write_csv
from ankle_lib.geometry import arrival, part_of
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.masking.mask_images import BONE_RADIUS_VOXELS
from ankle_lib.parallel import run_all, turn_on
from ankle_lib.pose_files import FramePose, read_transforms, write_transforms
from ankle_lib.quality.gate import Gate
from ankle_lib.quality.review_sheet import SHEET_NAME, ReviewSheet, frame_path, transforms_path
from ankle_lib.registration.engines import Registration, Settings, register
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.regions import SIGMA_VOXELS, WHOLE, weights_of
from ankle_lib.registration.truth import ERRORS, SequenceTruth, bone_points, tre_mm, truth_files
from ankle_lib.volume import Volume, load, resample, save

COLUMNS = (
    "subject", "sequence", "frame", "bone", "engine", "correlation", *ERRORS[:3], "accepted",
    "seconds", "cost", "seen", "above", "reason", *ERRORS[3:], "speed_mm", "group",
)  # fmt: skip
"""Of ``registration.csv``. Dice, TRE and rotation errors are empty without truth; for the whole
foot they are means over its bones. ``speed_mm`` is how far the bone's points move per frame."""

RECORDS = ".records"
"""Folder in that of the chapter in which the rows of finished sequences are remembered."""

SLICE_SAMPLES = 5
AROUND_BONE_MM = 15.0
"""Moved images end at this distance from the bone's box; farther away other bones move."""


@dataclass(frozen=True)
class Variant:
    """One way to register."""

    settings: Settings = field(default_factory=Settings)
    """For the bones; the whole foot is registered as if bright stayed bright, as in the report."""
    engine: str = "torch"
    radius_voxels: Mapping[str, float] = field(default_factory=lambda: dict(BONE_RADIUS_VOXELS))
    sigma_voxels: float = SIGMA_VOXELS
    start_error: tuple[float, float] | None = None
    """Bones start from poses that are off the truth by so many degrees about a random axis and so
    many mm, instead of from the whole foot's pose; needs truth."""


@dataclass(frozen=True)
class SequenceTask:
    """What a worker needs to know to register one sequence."""

    subject: CleanSubject
    sequence: str
    variant: Variant
    masked: Path
    """Folder of chapter 02, for the foot masks of the static scans."""
    truth: Path | None
    device: str
    out: Path | None = None
    """Where to write; a comparison writes nothing."""
    record: Path | None = None
    """Where the rows are remembered, if they are."""

    @property
    def foot_mask(self) -> Path:
        """File of the foot mask of the static scan."""
        name = f"sub-{self.subject.code}"
        return self.masked / name / f"{name}_static_desc-foot_mask.nii.gz"


def register_cohort(
    subjects: Sequence[CleanSubject],
    out: Path,
    *,
    masked: Path,
    truth: Path | None = None,
    variant: Variant | None = None,
    device: str = "cpu",
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Register every sequence, first the whole foot and from there its bones, and write it.

    Files are, in ``out``, ``sub-T01/sub-T01_task-active_run-01_transforms.json`` and for every
    frame and bone ``sub-T01/sub-T01_task-active_run-01_frame-07_label-talus_mask.nii.gz`` (the
    moved mask, true where it fills half of a voxel) and the same with
    ``_desc-moved_static.nii.gz`` (the static scan moved with the bone, averaged over the slice).
    Sequences that an earlier, interrupted call has finished are not done again. Which
    registrations to believe is for `judge` to say.

    Parameters
    ----------
    subjects : sequence of CleanSubject
        From `layouts.read_clean_cohort`.
    masked : Path
        Folder of chapter 02, for the foot masks of the static scans.
    truth : Path, optional
        Folder of the simulated cohort's truth (see `truth.truth_files`); read to evaluate only.
    variant : Variant, optional
        Engine, settings and weights.
    device : str
        ``"cpu"`` or ``"cuda"``; on a GPU one fit at a time, while others are written.
    n_jobs : int, optional
        Sequences at a time; one per processor core by default.

    Returns
    -------
    DataFrame
        Columns as in `COLUMNS`, ``accepted`` where no fit failed.

    Examples
    --------
    >>> table = register_cohort(subjects, chapter.folder, masked=masked)
    >>> table = judge(table, {"whole": gate, "bone": gate}, chapter.folder)
    """
    tasks = [
        SequenceTask(subject, sequence, variant or Variant(), masked, truth, device, out, record)
        for subject in subjects
        for sequence in subject.sequences
        for record in [out / RECORDS / f"{subject.code}_{sequence}.json"]
    ]
    what = "registering sequences"
    tables = run_all(register_sequence, tasks, n_jobs=n_jobs, device=device, desc=what)
    return pd.concat(tables, ignore_index=True)


def experiment(
    subjects: Sequence[CleanSubject],
    variants: Mapping[str, Variant],
    *,
    masked: Path,
    truth: Path | None = None,
    device: str = "cpu",
    n_jobs: int | None = None,
    out: Path | None = None,
) -> pd.DataFrame:
    """Register the first sequence of some subjects in several ways; no pose or mask is written.

    Parameters
    ----------
    variants : mapping of name to Variant
    subjects, masked, truth, device, n_jobs
        As in `register_cohort`.
    out : Path, optional
        Folder of the chapter, where what is finished is remembered and not done again.

    Returns
    -------
    DataFrame
        Columns ``variant`` and those of `COLUMNS`.
    """
    tasks = []
    for subject in subjects:
        sequence = next(iter(subject.sequences))
        for variant in variants.values():
            name = f"{subject.code}_{sequence}_{digest(variant)[:12]}.json"
            record = None if out is None else out / RECORDS / name
            tasks.append(
                SequenceTask(subject, sequence, variant, masked, truth, device, record=record)
            )
    what = "comparing sequences"
    tables = run_all(register_sequence, tasks, n_jobs=n_jobs, device=device, desc=what)
    names = itertools.cycle(variants)
    return pd.concat([t.assign(variant=next(names)) for t in tables], ignore_index=True)


def judge(table: pd.DataFrame, gates: Mapping[str, Gate], out: Path) -> pd.DataFrame:
    """Say which registrations to believe, and write all tables and the review sheet.

    Accepted is what did not fail and passes the gate of its step, if there is one. Written are
    ``tables/registration.csv``, ``tables/gate.csv``, ``qc_sheet.csv`` (people's verdicts in it
    stay) and the verdict in every ``transforms.json``.

    Parameters
    ----------
    table : DataFrame
        From `register_cohort`.
    gates : mapping
        ``"whole"`` or ``"bone"`` to the gate of this step.
    out : Path
        Folder of the chapter.

    Returns
    -------
    DataFrame
        ``table`` with ``accepted`` set.
    """
    table = table.copy()
    passed = np.ones(len(table), dtype=bool)
    for step, gate in gates.items():
        chosen = (table["bone"] == WHOLE).to_numpy() == (step == "whole")
        passed[chosen] = gate.passes(table.loc[chosen, "correlation"].to_numpy())
    fits = table["reason"] == ""
    table["accepted"] = passed & fits
    table.loc[~passed & fits, "reason"] = "correlation below the gate"
    for (subject, sequence), rows in table.groupby(["subject", "sequence"]):
        path = transforms_path(out, subject, sequence)
        verdicts = rows.set_index(["frame", "bone"])["accepted"]
        poses = [
            replace(pose, accepted=bool(verdicts[pose.frame, pose.bone]))
            for pose in read_transforms(path)
        ]
        write_transforms(path, poses)
    write_csv(out / "tables" / "registration.csv", table)
    rows = [{"step": step} | asdict(gate) for step, gate in gates.items()]
    first = ["dice_threshold", "correlation_threshold"]
    write_csv(out / "tables" / "gate.csv", pd.DataFrame(rows).set_index(first).reset_index())
    bones = table[table["bone"] != WHOLE]
    sheet = bones[["subject", "sequence", "frame", "bone", "correlation"]].copy()
    sheet["verdict"] = np.where(bones["accepted"], "accepted", "rejected")
    sheet["note"] = bones["reason"]
    ReviewSheet(out / SHEET_NAME).update(sheet)
    return table


def register_sequence(task: SequenceTask) -> pd.DataFrame:
    """Return the rows of ``registration.csv`` for one sequence, and write its files.

    What an earlier call has finished is not done again.
    """
    if task.record is None:
        return _work(task)
    subject = task.subject
    inputs = [subject.static, *subject.masks.values(), *subject.sequences[task.sequence]]
    inputs.append(task.foot_mask)
    if task.truth is not None:
        inputs += truth_files(task.truth, subject.code, task.sequence)
    settings = [subject.code, subject.group, task.sequence, task.variant, task.device]
    return remembered(task.record, partial(_work, task), inputs=inputs, settings=settings)


def sequence_images(
    subject: CleanSubject, sequence: str
) -> tuple[Volume, Volume, dict[str, Volume]]:
    """Return frames (4D), static scan and bone masks of one sequence of a clean cohort."""
    frames = [load(path) for path in subject.sequences[sequence]]
    fixed = Volume(np.stack([frame.data for frame in frames], axis=-1), frames[0].affine)
    masks = {bone: load(path) for bone, path in subject.masks.items()}
    return fixed, load(subject.static), masks


def _work(task: SequenceTask) -> pd.DataFrame:
    fixed, static, masks = sequence_images(task.subject, task.sequence)
    small = {bone: cut_to_mask(mask) for bone, mask in masks.items()}
    points = {bone: bone_points(mask.data, mask.affine) for bone, mask in small.items()}
    truth = SequenceTruth.read(task.truth, task.subject.code, task.sequence)
    rows, poses = [], []
    for found in _registrations(task, fixed, static, masks, truth, points):
        for index, region in enumerate(found.regions):
            bones = list(masks) if region == WHOLE else [region]
            speeds = _speeds(found.poses[:, index], np.concatenate([points[b] for b in bones]))
            for frame, pose in enumerate(found.poses[:, index]):
                carried = {b: moved_mask(small[b], pose, *fixed.grid) for b in bones}
                correlation = float(found.correlations[frame, index])
                accepted = not found.failed[frame, index]
                row = {
                    "subject": task.subject.code,
                    "sequence": task.sequence,
                    "frame": frame,
                    "bone": region,
                    "engine": found.engine,
                    "correlation": correlation,
                    "accepted": accepted,
                    "seconds": float(found.seconds[frame, index]),
                    "cost": float(found.costs[frame, index]),
                    "seen": float(found.seen[frame, index]),
                    "above": float(found.above[frame, index]),
                    "reason": str(found.reasons[frame, index]),
                    "speed_mm": speeds[frame],
                    "group": task.subject.group,
                }
                rows.append(row | (truth.errors(frame, pose, carried, points) if truth else {}))
                poses.append(FramePose(frame, region, pose, correlation, accepted))
                if task.out and region != WHOLE:
                    place = (task.out, task.subject.code, task.sequence, frame, region)
                    _write_frame(place, pose, static, small[region], carried[region])
    if task.out:
        write_transforms(transforms_path(task.out, task.subject.code, task.sequence), poses)
    numbers = dict.fromkeys(["correlation", *ERRORS, "speed_mm"], float)
    return pd.DataFrame(rows, columns=COLUMNS).astype(numbers)


def _registrations(
    task: SequenceTask,
    fixed: Volume,
    static: Volume,
    masks: Mapping[str, Volume],
    truth: SequenceTruth | None,
    points: Mapping[str, NDArray[np.float64]],
) -> Iterator[Registration]:
    """Yield the registration of the whole foot and that of its bones, or the latter alone."""
    variant = task.variant
    fit = partial(register, fixed, static, engine=variant.engine, device=task.device)
    if variant.start_error is not None and truth is not None:
        start = truth.disturbed(points, *variant.start_error)
    else:
        foot = {WHOLE: load(task.foot_mask).data.astype(np.float32)}
        with turn_on(task.device):
            whole = fit(foot, settings=replace(variant.settings, any_contrast=False))
        yield whole
        start = whole.poses[:, 0]
    soft = weights_of(masks, variant.radius_voxels, variant.sigma_voxels)
    with turn_on(task.device):
        bones = fit(soft, start=start, settings=variant.settings)
    yield bones


def _write_frame(
    place: tuple[Path, str, str, int, str],
    pose: NDArray[np.float64],
    static: Volume,
    bone: Volume,
    carried: Volume,
) -> None:
    """Write the carried mask of a bone and the static scan moved with it (see `frame_path`)."""
    save(frame_path(*place), carried.data, carried.affine)
    box = arrival(bone.grid, pose, carried.grid, AROUND_BONE_MM)
    shape, affine = part_of(box, carried.affine)
    image = np.zeros(carried.shape, dtype=np.float32)
    if min(shape) > 0:
        image[box] = resample(static, shape, affine, pose=pose, slice_samples=SLICE_SAMPLES).data
    save(frame_path(*place, image=True), image, carried.affine, scale="auto")


def _speeds(poses: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean distance (F,) in mm that points move from frame to frame, around each frame."""
    if len(poses) < 2:
        return np.full(len(poses), np.nan)
    steps = np.array([tre_mm(a, b, points) for a, b in itertools.pairwise(poses)])
    return np.concatenate([steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:]])
