"""A toy ankle in motion as frames with true labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ankle_lib.dynamic.frames import Frame, StaticBones
from ankle_lib.learning.prediction import Prediction
from ankle_lib.learning.scans import Scan
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.items import Item
from ankle_lib.pose_files import FramePose, write_transforms
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, save
from tests.toy_motion import Motion


def static_bones(ankle: Motion) -> StaticBones:
    masks = {b: Volume(m.astype(np.uint8), ankle.static.affine) for b, m in ankle.masks.items()}
    return StaticBones(masks)


def toy_frames(ankle: Motion, bones: StaticBones, code: str = "E01") -> list[Frame]:
    """The frames with true labels, of which the first talus was not accepted."""
    frames = []
    for number, poses in enumerate(ankle.poses):
        image = ankle.frames.frame(number)
        truth = {b: bones.carried(b, p, image.grid) for b, p in poses.items()}
        known = {b: m for b, m in truth.items() if (number, b) != (0, "talus")}
        normal = (image.data - image.data.mean()) / image.data.std()
        item = Item(code, f"active_run-01 frame {number}", normal, image.data > 100, known)
        scan = Scan(item, "equinus", image.voxel_size_mm)
        frames.append(Frame("active_run-01", number, scan, image.affine, truth))
    return frames


def perfect(frame: Frame) -> Prediction:
    """What a perfect network would answer."""
    maps = np.stack([frame.truth[bone] for bone in BONES]).astype(np.float16)
    labels = np.zeros(maps.shape[1:], dtype=np.uint8)
    for number, bone in enumerate(BONES, 1):
        labels[frame.truth[bone]] = number
    return Prediction(labels, maps, BONES, np.eye(4), dict.fromkeys(BONES, 1.0), {})


def courses(ankle: Motion) -> dict[str, np.ndarray]:
    """Bone to its true poses (F, 4, 4)."""
    return {bone: np.stack([one[bone] for one in ankle.poses]) for bone in ankle.poses[0]}


def written_ankle(ankle: Motion, folder: Path) -> tuple[CleanSubject, Path]:
    """Write a clean subject, and a registration folder in which a frame was rejected."""
    clean, registered = folder / "clean", folder / "registered"
    save(clean / "static.nii.gz", ankle.static.data, ankle.static.affine)
    masks = {}
    for bone, mask in ankle.masks.items():
        masks[bone] = clean / f"{bone}.nii.gz"
        save(masks[bone], mask, ankle.static.affine)
    paths = []
    for n in range(ankle.frames.n_frames):
        paths.append(clean / f"frame-{n}.nii.gz")
        save(paths[-1], ankle.frames.frame(n).data, ankle.frames.affine)
    poses = [
        FramePose(n, bone, pose, 0.9, (n, bone) != (2, "tibia"))
        for n, own in enumerate(ankle.poses)
        for bone, pose in own.items()
    ]
    write_transforms(registered / "sub-E01" / "sub-E01_task-active_run-01_transforms.json", poses)
    rows = [("E01", "active_run-01", p.frame, p.bone, 0.5) for p in poses]
    table = pd.DataFrame(rows, columns=["subject", "sequence", "frame", "bone", "seconds"])
    (registered / "tables").mkdir()
    table.to_csv(registered / "tables" / "registration.csv", index=False)
    subject = CleanSubject(
        code="E01",
        group="equinus",
        side=None,
        static=clean / "static.nii.gz",
        masks=masks,
        sequences={"active_run-01": paths},
    )
    return subject, registered
