"""A toy ankle in motion as frames with true labels."""

from __future__ import annotations

import numpy as np

from ankle_lib.dynamic.frames import Frame, StaticBones
from ankle_lib.learning.prediction import Prediction
from ankle_lib.learning.scans import Scan
from ankle_lib.patches.items import Item
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume
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
    return Prediction(labels, maps, BONES, np.eye(4), dict.fromkeys(BONES, 1.0))


def courses(ankle: Motion) -> dict[str, np.ndarray]:
    """Bone to its true poses (F, 4, 4)."""
    return {bone: np.stack([one[bone] for one in ankle.poses]) for bone in ankle.poses[0]}
