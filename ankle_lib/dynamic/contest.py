"""Who segments a moving bone best: registration, network, both, or both with time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.cache import remembered
from ankle_lib.dynamic.bones import StaticBones
from ankle_lib.dynamic.frames import Frame
from ankle_lib.dynamic.mask_poses import poses_from_masks
from ankle_lib.dynamic.over_time import smooth_together
from ankle_lib.dynamic.prediction import Prediction, predict
from ankle_lib.learning.training import Trained
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.masking.bone_weights import bone_weights, in_mm
from ankle_lib.metrics import dice, mask_scores
from ankle_lib.parallel import run_all
from ankle_lib.pose_files import FramePose, read_transforms
from ankle_lib.registration.every_sequence import sequence_images, transforms_path
from ankle_lib.registration.regions import RADIUS_VOXELS, SIGMA_VOXELS
from ankle_lib.registration.register import Settings, register
from ankle_lib.registration.truth import TruePoses, read_true_poses, rotation_errors_deg, tre_mm
from ankle_lib.volume import Volume

REGISTRATION = "registration alone"
NETWORK = "network alone"
GATED = "network, then registration"
OVER_TIME = "network, registration and time"
METHODS = (REGISTRATION, NETWORK, GATED, OVER_TIME)

GATE = 0.8
"""Dice of the network's mask and the mask that a registration carries, from which on the
registration is believed; otherwise the pose stays where the network's mask is."""

TRUST_IN_MASKS = 0.25
"""Weight, over time, of a pose that only the network's mask supports."""

FROM_NETWORK = Settings(
    resolutions=Settings().resolutions[1:], start_angles_deg=(0.0,), retry=False
)
"""The search starts close, so neither coarse images nor other starts are needed."""

SCORES = ["dice", "hd95_mm", "assd_mm", "tre_mm", "rotation_error_deg"]

Poses = NDArray[np.float64]
SequencePoses = Mapping[str, Poses]
"""Bone to (F, 4, 4), static world to frame world, RAS mm; NaN where it is not known."""


@dataclass(frozen=True, eq=False)
class Contest:
    """What came out.

    Attributes
    ----------
    scores : DataFrame
        Columns method, subject, group, sequence, frame, bone, dice, hd95_mm, assd_mm, tre_mm,
        rotation_error_deg, lost. Distances from the truth of poses are NaN for real scans.
    poses : mapping of (method, subject, sequence) to SequencePoses
    seconds : DataFrame
        Columns method, subject, sequence, seconds: of computing on one core.
    """

    scores: pd.DataFrame
    poses: Mapping[tuple[str, str, str], SequencePoses]
    seconds: pd.DataFrame


@dataclass(frozen=True, eq=False)
class _Entry:
    """One sequence, with everything that a worker needs."""

    subject: CleanSubject
    sequence: str
    frames: Sequence[Frame]
    registered: Sequence[FramePose]
    registration_seconds: float
    truth: TruePoses = field(repr=False)


def hold_contest(
    fitted: Trained,
    frames: Iterable[Frame],
    subjects: Sequence[CleanSubject],
    registered: Path,
    pixel_mm: float,
    folder: Path,
    *,
    truth: Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Contest:
    """Segment every frame of some subjects in four ways, and find the poses of the bones.

    ``registration alone`` carries the static masks by the poses of chapter 03; it needs the static
    scan and its masks. ``network alone`` needs the frame only; its poses come from laying the
    static masks onto what it sees. ``network, then registration`` starts the registration of
    images there and believes it where both agree. The last one puts these poses on one smooth
    motion.

    Parameters
    ----------
    fitted : Trained
        A network for all bones.
    frames : iterable of Frame
        On their own grids, all frames of a sequence.
    subjects : sequence of CleanSubject
    registered : Path
        Results of chapter 03.
    pixel_mm : float
        That the network was trained on.
    folder : Path
        Where finished sequences are remembered.
    truth : Path, optional
        Of a simulated cohort.
    n_jobs : int, optional
        Sequences at a time.
    progress : bool
    """
    entries = list(_entries(frames, subjects, registered, truth))
    answers = run_all(
        partial(_contend, fitted=fitted, pixel_mm=pixel_mm, folder=folder),
        entries,
        n_jobs=n_jobs,
        desc="segmenting",
        unit="sequence",
        progress=progress,
    )
    scores = pd.DataFrame([row for answer in answers for row in answer["rows"]])
    scores[SCORES] = scores[SCORES].astype(float)
    seconds = pd.DataFrame([row for answer in answers for row in answer["seconds"]])
    poses = {
        (method, entry.subject.code, entry.sequence): {
            bone: np.array(matrices, dtype=np.float64) for bone, matrices in found.items()
        }
        for entry, answer in zip(entries, answers, strict=True)
        for method, found in answer["poses"].items()
    }
    return Contest(scores, poses, seconds)


def method_scores(contest: Contest) -> pd.DataFrame:
    """Return the means over the frames of each subject: ``dynamic_segmentation.csv``.

    Returns
    -------
    DataFrame
        Columns method, subject, bone, dice, hd95_mm, assd_mm, tre_mm, rotation_error_deg (medians
        for the last two), frames, lost.
    """
    grouped = contest.scores.groupby(["method", "subject", "bone"], sort=False)
    table = grouped[["dice", "hd95_mm", "assd_mm"]].mean()
    table[["tre_mm", "rotation_error_deg"]] = grouped[["tre_mm", "rotation_error_deg"]].median()
    table["frames"], table["lost"] = grouped.size(), grouped["lost"].sum()
    return table.reset_index()


def best_poses(contest: Contest, method: str = OVER_TIME) -> dict[tuple[str, str], SequencePoses]:
    """Return the poses that a method found, by subject and sequence."""
    return {key[1:]: poses for key, poses in contest.poses.items() if key[0] == method}


def _entries(
    frames: Iterable[Frame],
    subjects: Sequence[CleanSubject],
    registered: Path,
    truth: Path | None,
) -> Iterable[_Entry]:
    by_code = {subject.code: subject for subject in subjects}
    sequences: dict[tuple[str, str], list[Frame]] = {}
    for frame in frames:
        sequences.setdefault((frame.code, frame.sequence), []).append(frame)
    fits = pd.read_csv(registered / "tables" / "registration.csv")
    seconds = fits.groupby(["subject", "sequence"])["seconds"].sum()
    for (code, sequence), own in sequences.items():
        yield _Entry(
            by_code[code],
            sequence,
            own,
            read_transforms(transforms_path(registered, code, sequence)),
            float(seconds[code, sequence]),
            read_true_poses(truth, code, sequence) if truth else [],
        )


def _contend(entry: _Entry, *, fitted: Trained, pixel_mm: float, folder: Path) -> dict[str, Any]:
    """Return rows, poses and seconds of one sequence; what was done before is read."""
    subject = entry.subject
    stamp = [
        [subject.code, subject.group, entry.sequence, pixel_mm, fitted.folder.name],
        [frame.scan.checksum for frame in entry.frames],
        [[p.frame, p.bone, p.accepted, np.round(p.matrix, 6).tolist()] for p in entry.registered],
    ]
    inputs = [fitted.folder / "network.ckpt", subject.static, *subject.masks.values()]
    record = folder / f"{subject.code}_{entry.sequence}.json"
    work = partial(_work, entry, fitted, pixel_mm)
    return remembered(record, work, inputs=inputs, settings=stamp)


def _work(entry: _Entry, fitted: Trained, pixel_mm: float) -> dict[str, Any]:
    bones = StaticBones.read(entry.subject)
    clock = _Clock()
    seen = [predict([fitted], frame, pixel_mm) for frame in entry.frames]
    network_s = clock.lap()
    of_masks = poses_from_masks(seen, bones)
    masks_s = clock.lap()
    gated, trust = _gated(entry, bones, seen, of_masks)
    gated_s = clock.lap()
    smooth = _smooth(bones, gated, trust)
    time_s = clock.lap()
    alone, accepted = _registered(entry, bones)
    poses = {REGISTRATION: alone, NETWORK: of_masks, GATED: gated, OVER_TIME: smooth}
    seconds = {
        REGISTRATION: entry.registration_seconds,
        NETWORK: network_s,
        GATED: network_s + masks_s + gated_s,
        OVER_TIME: network_s + masks_s + gated_s + time_s,
    }
    rows = []
    for method, found in poses.items():
        for (n, frame), (index, bone) in _pairs(entry.frames, bones):
            pose = found[n, index]
            known = bool(np.isfinite(pose).all())
            if method == NETWORK:
                mask = seen[n].mask(bone)
                lost = not mask.any()
            else:
                shape = frame.scan.item.image.shape
                mask = bones.carried(bone, pose, shape, frame.affine) if known else None
                lost = not known or (method == REGISTRATION and not accepted[n, index])
            rows.append(
                {
                    "method": method,
                    "subject": frame.code,
                    "group": entry.subject.group,
                    "sequence": entry.sequence,
                    "frame": frame.number,
                    "bone": bone,
                    **_overlap(frame, bone, mask),
                    **_pose_errors(entry, frame, bone, pose if known else None, bones),
                    "lost": lost,
                }
            )
    return {
        "rows": rows,
        "poses": {method: _listed(found, bones) for method, found in poses.items()},
        "seconds": [
            {
                "method": method,
                "subject": entry.subject.code,
                "sequence": entry.sequence,
                "seconds": spent,
            }
            for method, spent in seconds.items()
        ],
    }


def _gated(
    entry: _Entry, bones: StaticBones, seen: Sequence[Prediction], of_masks: Poses
) -> tuple[Poses, NDArray[np.float64]]:
    """Register images from the network's poses; return poses and trust (F, R) in them."""
    known = np.asarray(np.isfinite(of_masks).all(axis=(2, 3)))
    trust = np.where(known, TRUST_IN_MASKS, 0.0)
    poses = of_masks.copy()
    frames: list[int] = np.flatnonzero(known.all(axis=1)).tolist()
    if not frames:
        return poses, trust
    fixed, static, masks = sequence_images(entry.subject, entry.sequence)
    numbers = [entry.frames[n].number for n in frames]
    weights = {
        bone: bone_weights(
            masks[bone].data > 0,
            masks[bone].voxel_size_mm,
            in_mm(RADIUS_VOXELS[bone]),
            in_mm(SIGMA_VOXELS),
        )
        for bone in bones.masks
    }
    chosen = Volume(fixed.data[..., numbers], fixed.affine)
    found = register(chosen, static, weights, start=of_masks[frames], settings=FROM_NETWORK)
    for row, n in enumerate(frames):
        frame = entry.frames[n]
        shape = frame.scan.item.image.shape
        for index, bone in enumerate(bones.masks):
            pose = found.poses[row, index]
            carried = bones.carried(bone, pose, shape, frame.affine)
            if not found.failed[row, index] and dice(carried, seen[n].mask(bone)) >= GATE:
                poses[n, index], trust[n, index] = pose, 1.0
    return poses, trust


def _smooth(bones: StaticBones, poses: Poses, trust: NDArray[np.float64]) -> Poses:
    """Put the bones that were seen in some frame on a smooth motion."""
    names = [bone for index, bone in enumerate(bones.masks) if trust[:, index].any()]
    places = {bone: index for index, bone in enumerate(bones.masks)}
    if not names:
        return poses
    smooth = smooth_together(
        {bone: poses[:, places[bone]] for bone in names},
        {bone: trust[:, places[bone]] for bone in names},
        {bone: bones.centre(bone) for bone in names},
    )
    result = poses.copy()
    for bone in names:
        result[:, places[bone]] = smooth[bone]
    return result


def _registered(entry: _Entry, bones: StaticBones) -> tuple[Poses, NDArray[np.bool_]]:
    """Return the poses (F, R, 4, 4) of chapter 03, and which were accepted (F, R)."""
    shape = (len(entry.frames), len(bones.masks))
    poses, accepted = np.full((*shape, 4, 4), np.nan), np.zeros(shape, dtype=bool)
    rows = {frame.number: n for n, frame in enumerate(entry.frames)}
    columns = {bone: index for index, bone in enumerate(bones.masks)}
    for one in entry.registered:
        if one.bone in columns and one.frame in rows:
            place = rows[one.frame], columns[one.bone]
            poses[place], accepted[place] = one.matrix, one.accepted
    return poses, accepted


def _overlap(frame: Frame, bone: str, mask: NDArray[np.bool_] | None) -> dict[str, float | None]:
    reference = frame.reference.get(bone)
    if reference is None:
        return dict.fromkeys(SCORES[:3])
    found = np.zeros_like(reference) if mask is None else mask
    scores = mask_scores(found, reference, frame.scan.voxel_size_mm)
    return {name: _finite(value) for name, value in zip(SCORES[:3], scores, strict=True)}


def _pose_errors(
    entry: _Entry, frame: Frame, bone: str, pose: Poses | None, bones: StaticBones
) -> dict[str, float | None]:
    if pose is None or not entry.truth:
        return dict.fromkeys(SCORES[3:])
    true = entry.truth[frame.number][bone]
    turned = float(np.linalg.norm(rotation_errors_deg(pose, true)))
    return dict(zip(SCORES[3:], (tre_mm(pose, true, bones.points[bone]), turned), strict=True))


def _pairs(frames: Sequence[Frame], bones: StaticBones) -> Iterable[Any]:
    return ((f, b) for f in enumerate(frames) for b in enumerate(bones.masks))


def _listed(poses: Poses, bones: StaticBones) -> dict[str, list[Any]]:
    """Return poses as JSON can hold them: None instead of NaN."""
    known = poses.astype(object)
    known[~np.isfinite(poses)] = None
    return {bone: known[:, index].tolist() for index, bone in enumerate(bones.masks)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


class _Clock:
    """Processor seconds between laps."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def lap(self) -> float:
        now = time.process_time()
        spent, self.last = now - self.last, now
        return spent
