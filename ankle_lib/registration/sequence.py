"""One sequence, from its files to its poses, their errors and the moved images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ankle_lib.cache import remembered
from ankle_lib.geometry import arrival, part_of, rigid
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.masking.bone_weights import bone_weights, in_mm
from ankle_lib.metrics import dice
from ankle_lib.pose_files import FramePose, write_transforms
from ankle_lib.quality.registered import frame_path
from ankle_lib.registration import measures
from ankle_lib.registration.measures import bone_points, rotation_errors_deg, tre_mm
from ankle_lib.registration.moving import cut_to_mask, moved, moved_mask
from ankle_lib.registration.register import Registration, register
from ankle_lib.registration.settings import RADIUS_VOXELS, SIGMA_VOXELS, WHOLE, Settings
from ankle_lib.registration.truth import TRUE_LABELS, read_true_labels, read_true_poses
from ankle_lib.volume import Volume, load, save

COLUMNS = (
    "subject", "sequence", "frame", "bone", "engine", "correlation", "dice", "tre_mm",
    "rotation_error_deg", "accepted", "seconds", "cost", "seen", "reason", "rotation_lr_deg",
    "rotation_ap_deg", "rotation_si_deg", "speed_mm", "group",
)  # fmt: skip
"""Of ``registration.csv``. Dice, TRE and rotation errors are empty without truth; for the whole
foot they are means over its bones. ``speed_mm`` is how far the bone's points move per frame."""

SLICE_SAMPLES = 5
AROUND_BONE_MM = 15.0
"""Moved images end at this distance from the bone's box; farther away other bones move."""
INTENSITY_STEP = 0.1
"""Moved images are stored as int16 in steps of this size."""


@dataclass(frozen=True)
class Variant:
    """One way to register, for comparisons."""

    settings: Settings = field(default_factory=Settings)
    engine: str = "torch"
    radius_voxels: Mapping[str, float] | None = None
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
    truth: str | None
    device: str
    masked: str | None = None
    """Folder of chapter 02; without, bones start where ``Variant.start_error`` says."""
    out: str | None = None
    """Where to write; a comparison writes nothing."""


def register_sequence(task: SequenceTask) -> list[dict[str, Any]]:
    """Return the rows of ``registration.csv`` for one sequence, and write its files.

    What an earlier, interrupted call has finished is not done again.
    """
    if task.out is None:
        return _work(task)
    subject, variant = task.subject, asdict(task.variant)
    inputs = [subject.static, *subject.masks.values(), *subject.sequences[task.sequence]]
    inputs += [] if task.masked is None else [_foot_mask(task)]
    settings = [subject.code, subject.group, task.sequence, variant, task.device, task.truth]
    record = Path(task.out) / ".records" / f"{subject.code}_{task.sequence}.json"
    return remembered(record, partial(_work, task), inputs=inputs, settings=settings)


def sequence_images(
    subject: CleanSubject, sequence: str
) -> tuple[Volume, Volume, dict[str, Volume]]:
    """Return frames (4D), static scan and bone masks of one sequence of a clean cohort."""
    frames = [load(path) for path in subject.sequences[sequence]]
    fixed = Volume(np.stack([frame.data for frame in frames], axis=-1), frames[0].affine)
    masks = {bone: load(path) for bone, path in subject.masks.items()}
    return fixed, load(subject.static), masks


def _work(task: SequenceTask) -> list[dict[str, Any]]:
    fixed, static, masks = sequence_images(task.subject, task.sequence)
    points = {bone: bone_points(m.data > 0, m.affine) for bone, m in masks.items()}
    truth = _Truth.read(task, points) if task.truth else None
    small = {bone: cut_to_mask(mask) for bone, mask in masks.items()}
    rows: list[dict[str, Any]] = []
    poses: list[FramePose] = []
    for found in _register(task, fixed, static, masks, truth):
        for index, region in enumerate(found.regions):
            speeds = _speeds(found.poses[:, index], points, region)
            for frame in range(fixed.n_frames):
                pose = found.poses[frame, index]
                carried = _moved_masks(region, pose, fixed, small)
                row = _row(task, found, frame, index) | {"speed_mm": _finite(speeds[frame])}
                rows.append(row | (truth.errors(frame, pose, carried) if truth else {}))
                correlation, accepted = row["correlation"], bool(row["accepted"])
                poses.append(FramePose(frame, region, pose, correlation, accepted))
                if task.out and region != WHOLE:
                    _write_frame(task, frame, region, pose, fixed, static, small[region])
    if task.out:
        write_transforms(transforms_path(Path(task.out), task.subject.code, task.sequence), poses)
    return rows


def _row(task: SequenceTask, found: Registration, frame: int, index: int) -> dict[str, Any]:
    return {
        "subject": task.subject.code,
        "sequence": task.sequence,
        "frame": frame,
        "bone": found.regions[index],
        "engine": found.engine,
        "correlation": _finite(found.correlations[frame, index]),
        "accepted": not found.failed[frame, index],
        "seconds": float(found.seconds[frame, index]),
        "cost": float(found.costs[frame, index]),
        "seen": float(found.seen[frame, index]),
        "reason": str(found.reasons[frame, index]),
        "group": task.subject.group,
    }


def _register(
    task: SequenceTask,
    fixed: Volume,
    static: Volume,
    masks: Mapping[str, Volume],
    truth: _Truth | None,
) -> Iterator[Registration]:
    """Yield the registration of the whole foot and that of its bones, or the latter alone."""
    variant = task.variant
    radii = variant.radius_voxels or RADIUS_VOXELS
    sigma = in_mm(variant.sigma_voxels)
    soft = {
        bone: bone_weights(mask.data > 0, mask.voxel_size_mm, in_mm(radii[bone]), sigma)
        for bone, mask in masks.items()
    }
    options: dict[str, Any] = {
        "engine": variant.engine,
        "device": task.device,
        "settings": variant.settings,
    }
    if variant.start_error is not None and truth is not None:
        start = truth.disturbed(list(masks), *variant.start_error)
        yield register(fixed, static, soft, start=start, **options)
        return
    foot = load(_foot_mask(task))
    whole = register(fixed, static, {WHOLE: foot.data.astype(np.float32)}, **options)
    yield whole
    yield register(fixed, static, soft, start=whole.poses[:, 0], **options)


def _foot_mask(task: SequenceTask) -> Path:
    name = f"sub-{task.subject.code}"
    return Path(str(task.masked)) / name / f"{name}_static_desc-foot_mask.nii.gz"


@dataclass(frozen=True)
class _Truth:
    """True poses and masks of one sequence."""

    poses: list[dict[str, NDArray[np.float64]]]
    labels: NDArray[Any]
    points: Mapping[str, NDArray[np.float64]]

    @classmethod
    def read(cls, task: SequenceTask, points: Mapping[str, NDArray[np.float64]]) -> _Truth | None:
        place = (Path(str(task.truth)), task.subject.code, task.sequence)
        poses, labels = read_true_poses(*place), read_true_labels(*place)
        return None if labels is None else cls(poses, labels, points)

    def errors(
        self, frame: int, pose: NDArray[np.float64], moved_masks: Mapping[str, Volume]
    ) -> dict[str, float | None]:
        """Compare one pose and its masks with the truth; several bones are averaged."""
        rows = []
        for bone, mask in moved_masks.items():
            true_pose = self.poses[frame][bone]
            turned = rotation_errors_deg(pose, true_pose)
            overlap = dice(mask.data, self.labels[..., frame] == TRUE_LABELS[bone])
            tre = tre_mm(pose, true_pose, self.points[bone])
            rows.append([overlap, tre, float(np.linalg.norm(turned)), *turned])
        names = ["dice", "tre_mm", "rotation_error_deg"]
        names += [f"rotation_{axis}_deg" for axis in measures.AXES]
        return dict(zip(names, map(_finite, np.mean(rows, axis=0)), strict=True))

    def disturbed(
        self, bones: Sequence[str], angle_deg: float, shift_mm: float
    ) -> NDArray[np.float64]:
        """Return start poses (F, R, 4, 4) off the truth, the same at every call."""
        generator = np.random.default_rng(0)
        starts = np.empty((len(self.poses), len(bones), 4, 4))
        for frame, index in np.ndindex(*starts.shape[:2]):
            axis, shift = generator.normal(size=(2, 3))
            axis *= angle_deg / np.linalg.norm(axis)
            shift *= shift_mm / np.linalg.norm(shift)
            bone = bones[index]
            off = rigid(axis, shift, self.points[bone].mean(axis=0))
            starts[frame, index] = self.poses[frame][bone] @ off
        return starts


def _moved_masks(
    region: str, pose: NDArray[np.float64], fixed: Volume, masks: Mapping[str, Volume]
) -> dict[str, Volume]:
    """Carry a bone's mask, or all of them with the whole foot, onto the grid of a frame."""
    chosen = masks if region == WHOLE else {region: masks[region]}
    return {bone: moved_mask(m, pose, fixed.shape, fixed.affine) for bone, m in chosen.items()}


def _write_frame(
    task: SequenceTask,
    frame: int,
    bone: str,
    pose: NDArray[np.float64],
    fixed: Volume,
    static: Volume,
    mask: Volume,
) -> None:
    place = (Path(str(task.out)), task.subject.code, task.sequence, frame, bone)
    whole = moved_mask(mask, pose, fixed.shape, fixed.affine)
    save(frame_path(*place), whole.data, fixed.affine)
    box = arrival(mask.grid, pose, fixed.grid, AROUND_BONE_MM)
    shape, affine = part_of(box, fixed.affine)
    image = np.zeros(fixed.shape, dtype=np.float32)
    if min(shape) > 0:
        image[box] = moved(static, pose, shape, affine, slice_samples=SLICE_SAMPLES).data
    save(frame_path(*place, image=True), image, fixed.affine, scale=INTENSITY_STEP)


def _speeds(
    poses: NDArray[np.float64], points: Mapping[str, NDArray[np.float64]], region: str
) -> NDArray[np.float64]:
    """Mean distance (F,) in mm that a bone's points move from frame to frame, around each frame."""
    if len(poses) < 2:
        return np.full(len(poses), np.nan)
    chosen = np.concatenate([*points.values()]) if region == WHOLE else points[region]
    steps = np.array([tre_mm(a, b, chosen) for a, b in itertools.pairwise(poses)])
    return np.concatenate([steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:]])


def transforms_path(out: Path, subject: str, sequence: str) -> Path:
    """Return the file with the poses of a sequence."""
    return out / f"sub-{subject}" / f"sub-{subject}_task-{sequence}_transforms.json"


def _finite(value: float) -> float | None:
    """NaN as None: JSON has no NaN."""
    return float(value) if np.isfinite(value) else None
