"""Who segments a moving bone best: registration, network, both, or both with time."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib import cache
from ankle_lib.dynamic.frames import CohortPoses, Frame, Poses, StaticBones
from ankle_lib.dynamic.smoothing import smooth_together
from ankle_lib.dynamic.trainings import DynamicStudy
from ankle_lib.geometry import weighted_centre
from ankle_lib.learning.prediction import Prediction, Segmenter, predict
from ankle_lib.learning.training import WEIGHTS, Trained
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.metrics import dice, mask_scores
from ankle_lib.parallel import run_all, turn_on
from ankle_lib.pose_files import poses_by_bone, read_transforms
from ankle_lib.quality.review_sheet import transforms_path
from ankle_lib.registration.engines import Resolution, Settings, register
from ankle_lib.registration.every_sequence import sequence_images
from ankle_lib.registration.moving import cut_to_mask
from ankle_lib.registration.regions import weights_of
from ankle_lib.registration.truth import rotation_errors_deg, tre_mm
from ankle_lib.volume import Volume

REGISTRATION = "registration alone"
NETWORK = "network alone"
GATED = "network, then registration"
OVER_TIME = "network, registration and time"
METHODS = (REGISTRATION, NETWORK, GATED, OVER_TIME)

MEASURES = ("dice", "hd95_mm", "assd_mm", "tre_mm", "rotation_error_deg")

GATE = 0.8
"""Dice of the network's mask and the mask that a registration carries, from which on the
registration is believed; otherwise the pose stays where the network's mask is."""

TRUST_IN_MASKS = 0.25
"""Weight, over time, of a pose that only the network's mask supports."""

FROM_NETWORK = Settings(any_contrast=True, start_angles_deg=(0.0,), retry=False)
"""The search starts close, so no other starts are needed."""

OF_MASKS = Settings(
    resolutions=(Resolution(3.6, (2.4, 2.4), 3, 8), Resolution(1.8, (1.2, 1.6), 5, 10)),
    start_angles_deg=(-20.0, 0.0, 20.0),
    retry=False,
    shading=False,
)
"""Masks have no shading and one way to fit, so few starts and no finest level will do."""

MARGIN_MM = 12.0
"""Around the static mask: what a network labels beyond it counts against a pose."""

LEAST_CM3 = 1.0
"""Of a bone that a network must label to say where it is."""

Trust = Mapping[str, NDArray[np.float64]]
"""Bone to (F,), how much each pose is trusted."""


@dataclass(frozen=True, eq=False)
class Contest:
    """What came out.

    Attributes
    ----------
    scores : DataFrame
        Columns method, subject, group, sequence, frame, bone, dice, hd95_mm, assd_mm, tre_mm,
        rotation_error_deg, lost. Distances from the truth of poses are NaN for real scans.
    poses : mapping of method to mapping of (subject, sequence) to Poses
    seconds : DataFrame
        Columns method, subject, group, sequence, seconds: of computing all that the method needs
        for masks and poses, on one core, or with the GPU alone.
    """

    scores: pd.DataFrame
    poses: Mapping[str, CohortPoses]
    seconds: pd.DataFrame


def hold_contest(study: DynamicStudy, trained: Trained, folder: Path) -> Contest:
    """Segment every test frame in four ways, and find the poses of the bones.

    ``registration alone`` carries the static masks by the poses of chapter 03; it needs the static
    scan and its masks. ``network alone`` needs the frame only; its poses come from laying the
    static masks onto what it labels. ``network, then registration`` starts the registration of
    images there and believes it where both agree. The last one puts these poses on one smooth
    motion.

    Parameters
    ----------
    study : DynamicStudy
    trained : Trained
        A network for all bones.
    folder : Path
        Where finished sequences are remembered.

    Examples
    --------
    >>> held = hold_contest(study, one, chapter.folder / "contest")
    >>> method_scores(held)
    """
    by_sequence = itertools.groupby(study.test, lambda frame: (frame.code, frame.sequence))
    sequences = {key: list(frames) for key, frames in by_sequence}
    subjects = {subject.code: subject for subject in study.subjects}
    fits = pd.read_csv(study.registered / "tables" / "registration.csv")
    seconds = fits.groupby(["subject", "sequence"])["seconds"].sum()
    entries = [
        (subjects[code], frames, float(seconds[code, name]), study.poses.get((code, name), {}))
        for (code, name), frames in sequences.items()
    ]
    segmenter = Segmenter.of(trained, pixel_mm=study.sizes.pixel_mm)
    answers = run_all(
        partial(_remembered, segmenter, study.device, trained.folder, study.registered, folder),
        entries,
        device=study.device,
        desc="segmenting sequences",
    )
    by_key = dict(zip(sequences, answers, strict=True))
    return Contest(
        pd.concat([answer["scores"] for answer in answers], ignore_index=True),
        {m: {key: answer["poses"][m] for key, answer in by_key.items()} for m in METHODS},
        pd.concat([answer["seconds"] for answer in answers], ignore_index=True),
    )


def read_poses(registered: Path, subject: CleanSubject, sequence: str) -> tuple[Poses, Trust]:
    """Return the poses of chapter 03 for one sequence, and 1 where one was accepted, 0 elsewhere.

    Parameters
    ----------
    registered : Path
        Results of chapter 03.
    subject : CleanSubject
    sequence : str
    """
    found = read_transforms(transforms_path(registered, subject.code, sequence))
    return poses_by_bone(found, subject.masks, len(subject.sequences[sequence]))


def poses_from_masks(
    found: Sequence[Prediction],
    affine: NDArray[np.float64],
    bones: StaticBones,
    device: str = "cpu",
) -> Poses:
    """Return the poses that lay the static masks onto the network's probabilities.

    The same search as for images, on probabilities: the static mask, averaged over the slice, is
    compared with the map of the bone.

    Parameters
    ----------
    found : sequence of Prediction
        Of the F frames of a sequence.
    affine : (4, 4) array
        Of the frames.
    bones : StaticBones
    device : str
        "cpu" or "cuda".

    Returns
    -------
    Poses
        NaN where the network found next to nothing of a bone.
    """
    grid = affine @ found[0].grid
    voxel_cm3 = abs(float(np.linalg.det(grid[:3, :3]))) / 1000
    poses = {}
    for bone, mask in bones.masks.items():
        poses[bone] = np.full((len(found), 4, 4), np.nan)
        maps = [_largest_piece(one.maps[one.bones.index(bone)]) for one in found]
        enough = [n for n, one in enumerate(maps) if one.sum() * voxel_cm3 >= LEAST_CM3]
        if not enough:
            continue
        start = np.tile(np.eye(4), (len(enough), 1, 1, 1))
        for row, n in enumerate(enough):
            start[row, 0, :3, 3] = weighted_centre(maps[n], grid) - bones.centres[bone]
        cut = cut_to_mask(mask, np.ceil(MARGIN_MM / np.array(mask.voxel_size_mm)))
        moving = Volume(cut.data.astype(np.float32), cut.affine)
        fixed = Volume(np.stack([maps[n] for n in enough], axis=-1), grid)
        everywhere = {bone: np.ones(moving.shape, dtype=np.float32)}
        fit = register(fixed, moving, everywhere, start=start, settings=OF_MASKS, device=device)
        poses[bone][enough] = fit.region(bone)
    return poses


def _largest_piece(raw: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return a bone's probability without far-off pieces."""
    pieces, n_pieces = ndimage.label(raw > 0.5)
    if n_pieces == 0:
        return np.zeros(raw.shape, np.float32)
    largest = 1 + np.bincount(pieces.ravel())[1:].argmax()
    return np.where(ndimage.binary_dilation(pieces == largest, iterations=2), raw, 0).astype("f4")


def _remembered(
    segmenter: Segmenter,
    device: str,
    network: Path,
    registered: Path,
    folder: Path,
    entry: tuple[CleanSubject, Sequence[Frame], float, Poses],
) -> dict[str, Any]:
    """Return scores, poses and seconds of one sequence; what was done before is read."""
    subject, frames, seconds, truth = entry
    sequence = frames[0].sequence
    transforms = transforms_path(registered, subject.code, sequence)
    return cache.remembered(
        folder / f"{subject.code}_{sequence}.json",
        partial(_work, segmenter, device, registered, *entry),
        inputs=[network / WEIGHTS, subject.static, *subject.masks.values(), transforms],
        settings=[
            [subject.code, subject.group, sequence, segmenter.pixel_mm, network.name],
            [[frame.reference.checksum, frame.affine] for frame in frames],
            [seconds, truth],
        ],
    )


def _work(
    segmenter: Segmenter,
    device: str,
    registered: Path,
    subject: CleanSubject,
    frames: Sequence[Frame],
    registration_seconds: float,
    truth: Poses,
) -> dict[str, Any]:
    bones = StaticBones.read(subject)
    carried, accepted = read_poses(registered, subject, frames[0].sequence)
    # a processor's time says nothing of a GPU, and here threads share it
    clock = time.process_time if device == "cpu" else time.perf_counter
    with turn_on(device):
        laps = [clock()]
        found = [predict_frame(frame, segmenter) for frame in frames]
        of_masks = poses_from_masks(found, frames[0].affine, bones, device)
        laps.append(clock())  # the network's poses take its masks and this search
        gated, trust = _gated(subject, frames, bones, found, of_masks, device)
        laps.append(clock())
        smooth = smooth_together(gated, trust, bones.centres)
        laps.append(clock())
    seconds = [registration_seconds, *np.subtract(laps[1:], laps[0])]
    poses = dict(zip(METHODS, (carried, of_masks, gated, smooth), strict=True))
    where = {"subject": subject.code, "group": subject.group, "sequence": frames[0].sequence}
    rows = []
    for method, own in poses.items():
        for n, frame in enumerate(frames):
            masks = found[n].masks() if method == NETWORK else bones.at(own, n, frame.grid)
            for bone in bones.masks:
                mask = masks.get(bone, np.zeros(frame.grid[0], dtype=bool))
                rejected = method == REGISTRATION and not accepted[bone][n]
                row = {"method": method, **where, "frame": frame.number, "bone": bone}
                row |= dict.fromkeys(MEASURES, np.nan)
                reference = frame.reference.item.labels.get(bone)
                if reference is not None:
                    row |= mask_scores(mask, reference, frame.scan.voxel_size_mm)._asdict()
                pose = own[bone][n]
                if bone in truth and np.isfinite(pose).all():
                    true = truth[bone][n]
                    row["tre_mm"] = tre_mm(pose, true, bones.points[bone])
                    row["rotation_error_deg"] = np.linalg.norm(rotation_errors_deg(pose, true))
                rows.append(row | {"lost": rejected or not mask.any()})
    times = [{"method": m, **where, "seconds": s} for m, s in zip(METHODS, seconds, strict=True)]
    return {"scores": pd.DataFrame(rows), "poses": poses, "seconds": pd.DataFrame(times)}


def predict_frame(frame: Frame, segmenter: Segmenter) -> Prediction:
    """Segment a frame on its own grid."""
    item = frame.scan.item
    return predict(item.image, frame.scan.voxel_size_mm, segmenter, foot=item.region)


def _gated(
    subject: CleanSubject,
    frames: Sequence[Frame],
    bones: StaticBones,
    found: Sequence[Prediction],
    of_masks: Poses,
    device: str,
) -> tuple[Poses, Trust]:
    """Register images from the network's poses; return poses and trust in them."""
    known = {bone: np.isfinite(poses).all(axis=(1, 2)) for bone, poses in of_masks.items()}
    trust = {bone: np.where(one, TRUST_IN_MASKS, 0.0) for bone, one in known.items()}
    poses = {bone: one.copy() for bone, one in of_masks.items()}
    seen: list[int] = np.flatnonzero(np.all([*known.values()], axis=0)).tolist()
    if not seen:
        return poses, trust
    fixed, static, masks = sequence_images(subject, frames[0].sequence)
    chosen = Volume(fixed.data[..., seen], fixed.affine)
    weights = weights_of({bone: masks[bone] for bone in poses}, dict.fromkeys(poses, 0.0))
    start = np.stack([of_masks[bone][seen] for bone in poses], axis=1)
    fits = register(chosen, static, weights, start=start, settings=FROM_NETWORK, device=device)
    for row, n in enumerate(seen):
        for index, bone in enumerate(poses):
            pose = fits.poses[row, index]
            carried = bones.carried(bone, pose, frames[n].grid)
            if not fits.failed[row, index] and dice(carried, found[n].mask(bone)) >= GATE:
                poses[bone][n], trust[bone][n] = pose, 1.0
    return poses, trust
