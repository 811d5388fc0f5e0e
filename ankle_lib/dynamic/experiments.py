"""Short trainings that answer questions: which design, which start, and what labels are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ankle_lib.dynamic.frames import Frame
from ankle_lib.dynamic.prediction import frame_dice
from ankle_lib.dynamic.study import DynamicStudy
from ankle_lib.dynamic.wrong_labels import StaticBones, registration_error, with_errors
from ankle_lib.learning.scans import Scan
from ankle_lib.learning.scoring import summary
from ankle_lib.learning.training import Trained
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES
from ankle_lib.quality.registered import RegisteredFrame
from ankle_lib.registration.truth import TruePoses, read_true_poses

STATIC_AS_IS = "static network as it is"
PER_BONE = "one network per bone, from scratch"
FROM_SCRATCH = "one network, from scratch"
FROM_STATIC = "one network, from the static one"


def count_labels(study: DynamicStudy) -> pd.DataFrame:
    """Count frames and labels to learn from.

    Returns
    -------
    DataFrame
        Columns part, frames, with_all_bones, with_some, with_none and one per bone.
    """
    rows = []
    for part in ("train", "validation", "test"):
        frames: Sequence[Frame] = getattr(study, part)
        known = [set(frame.scan.item.labels) for frame in frames]
        rows.append(
            {
                "part": part,
                "frames": len(frames),
                "with_all_bones": sum(len(one) == len(BONES) for one in known),
                "with_some": sum(0 < len(one) < len(BONES) for one in known),
                "with_none": sum(not one for one in known),
                **{bone: sum(bone in one for one in known) for bone in BONES},
            }
        )
    return pd.DataFrame(rows)


def compare_designs(study: DynamicStudy) -> pd.DataFrame:
    """Compare one network with three, and first weights from static scans with random ones.

    All are trained for the same number of steps on the same frames; three networks together take
    three times as long as one.

    Returns
    -------
    DataFrame
        Columns design, bone, trained_steps, dice_mean, dice_low, dice_high over test subjects.
    """
    scans = [frame.scan for frame in study.few(study.train) if frame.scan.item.labels]
    alone = [
        study.task(study.recipe.of_bone(bone), _with_label(scans, bone), scratch=True)
        for bone in BONES
    ]
    together = study.task(study.recipe, scans, scratch=True)
    tuned = study.task(study.recipe, scans)
    *ones, joint, transferred = study.fit_all([*alone, together, tuned])
    designs: Mapping[str, list[Trained]] = {
        STATIC_AS_IS: [study.static],
        PER_BONE: ones,
        FROM_SCRATCH: [joint],
        FROM_STATIC: [transferred],
    }
    tables = []
    for design, networks in designs.items():
        scores = frame_dice(networks, study.few(study.test), study.sizes.pixel_mm)
        steps = 0 if design == STATIC_AS_IS else study.sizes.steps * len(networks)
        tables.append(summary(scores).assign(design=design, trained_steps=steps))
    table = pd.concat(tables, ignore_index=True)
    return table[["design", "bone", "trained_steps", "dice_mean", "dice_low", "dice_high"]]


def true_poses(subjects: Sequence[CleanSubject], truth: Path) -> dict[tuple[str, str], TruePoses]:
    """Return the true poses of every sequence, by subject and sequence; empty for real scans."""
    found = {
        (subject.code, sequence): read_true_poses(truth, subject.code, sequence)
        for subject in subjects
        for sequence in subject.sequences
    }
    return {key: poses for key, poses in found.items() if poses}


def value_of_labels(
    study: DynamicStudy,
    bones: Mapping[str, StaticBones],
    poses: Mapping[tuple[str, str], TruePoses],
    accepted: Sequence[RegisteredFrame],
) -> pd.DataFrame:
    """Train on labels of known quality: from registration to label to network.

    Labels are the true ones, those of the accepted registrations, and the static masks carried
    by poses with an error put in: another one in every frame (``random``), or the same one in all
    frames of all subjects (``systematic``, of every other size down from the largest).

    Parameters
    ----------
    study : DynamicStudy
    bones : mapping of subject to StaticBones
        Of the training subjects.
    poses : mapping of (subject, sequence) to true poses
    accepted : sequence of RegisteredFrame

    Returns
    -------
    DataFrame
        Columns labels, error_mm (mean distance on the bones), label_dice, bone, dice_mean,
        dice_low, dice_high of the network over test subjects. Empty for real scans, whose truth
        nobody knows.
    """
    frames = [frame for frame in study.few(study.train) if frame.truth and frame.scan.item.labels]
    if not frames:
        return pd.DataFrame()
    truth = [frame.labelled(frame.truth) for frame in frames]
    registered = [frame.scan for frame in frames]
    kinds: list[tuple[str, float, Sequence[Scan]]] = [
        ("truth", 0.0, truth),
        ("registration", registration_error(accepted, bones, poses), registered),
    ]
    sizes = sorted(study.sizes.errors_mm)
    wanted = [("random", size) for size in sizes]
    wanted += [("systematic", size) for size in sizes[::-2][::-1]]
    for kind, size in wanted:
        wrong = with_errors(frames, bones, poses, size, systematic=kind == "systematic")
        kinds.append((kind, size, wrong))
    fitted = study.fit_all([study.task(study.recipe, scans) for _, _, scans in kinds])
    rows = []
    for (kind, error, scans), network in zip(kinds, fitted, strict=True):
        scores = summary(frame_dice([network], study.few(study.test), study.sizes.pixel_mm))
        agreement = _label_dice(scans, truth)
        rows.append(scores.assign(labels=kind, error_mm=error, label_dice=agreement))
    table = pd.concat(rows, ignore_index=True)
    return table[["labels", "error_mm", "label_dice", "bone", "dice_mean", "dice_low", "dice_high"]]


def _label_dice(scans: Sequence[Scan], truth: Sequence[Scan]) -> float:
    values = [
        dice(mask, right.item.labels[bone])
        for scan, right in zip(scans, truth, strict=True)
        for bone, mask in scan.item.labels.items()
    ]
    return float(np.nanmean(values))


def _with_label(scans: Sequence[Scan], bone: str) -> list[Scan]:
    return [scan for scan in scans if bone in scan.item.labels]
