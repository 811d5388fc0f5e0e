from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from ankle_lib.geometry import rigid
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.presets import BONES
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.reconstruction.guided import grid_of_bones
from ankle_lib.reconstruction.sharp_scenes import Scene, make_scene
from ankle_lib.volume import Volume, resample, save
from tests.toy_ankle import oblique_affine, toy_ankle

FRAME_SHAPE = (56, 56, 6)
POSE = rigid((6, 0, 2), (1, 2, 0), (0, -20, 5))


def toy_scene(code: str, seed: int = 0) -> Scene:
    """A toy foot turned by a pose; the truth is its own static scan in another contrast."""
    ankle = toy_ankle(seed)
    static = Volume(ankle.static.data.astype(np.float32), ankle.static.affine)
    poses = dict.fromkeys(ankle.masks, POSE)
    masks = {bone: mask.data > 0 for bone, mask in ankle.masks.items()}
    grid = grid_of_bones(static, masks, [poses])
    sharp = Volume(1500 - 0.8 * static.data, static.affine)
    truth = resample(sharp, *grid, pose=POSE, fill=1500.0).data
    affine = oblique_affine(FRAME_SHAPE, (3.0, 3.0, 8.0))
    affine[:3, 3] += POSE[:3, 3]
    frame = resample(sharp, FRAME_SHAPE, affine, pose=POSE, slice_samples=4, fill=1500.0)
    carried = resample(static, *grid, pose=POSE)
    name = "active_run-01 frame 2"
    return make_scene(code, name, frame, carried, ankle.masks, poses, truth)


def toy_truth(folder: Path) -> tuple[list[CleanSubject], list[RegisteredFrame], Path]:
    """Write one control with four frames of a noisy sequence, of which two have a sharp truth."""
    ankle, scene = toy_ankle(), toy_scene("T01")
    random = np.random.default_rng(0)
    static = save(folder / "static.nii.gz", ankle.static.data, ankle.static.affine)
    masks = {
        bone: save(folder / f"{bone}.nii.gz", mask.data, mask.affine)
        for bone, mask in ankle.masks.items()
    }
    frames = [
        save(
            folder / f"frame-{n}.nii.gz",
            np.abs(scene.frame.data + random.normal(0, 20, FRAME_SHAPE)).astype(np.float32),
            scene.frame.affine,
        )
        for n in range(4)
    ]
    for n in (1, 3):
        place = folder / "truth" / "T01" / f"active_run-01_frame-{n:02d}_sharp.nii.gz"
        save(place, scene.truth + n, scene.affine)
    accepted = [
        RegisteredFrame("T01", "active_run-01", n, bone, POSE, 0.9, masks[bone], static)
        for n in (0, 1, 3)
        for bone in BONES
        if (n, bone) != (1, "talus")
    ]
    subject = CleanSubject("T01", "control", "left", static, masks, {"active_run-01": frames})
    return [subject], accepted, folder / "truth"


def toy_pairs(folder: Path) -> tuple[list[CleanSubject], list[RegisteredFrame]]:
    """Write two controls and one test subject with one frame each, bones that fill patches."""
    shape, size = (88, 88, 4), (0.9, 0.9, 8.0)
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -size[0], size[1], size[2], 1
    subjects, accepted = [], []
    for number, code in enumerate(("T01", "T02", "E01")):
        random = np.random.default_rng(number)
        image = ndimage.gaussian_filter(random.normal(size=shape), (1.5, 1.5, 0)) * 400 + 900
        frame = ndimage.gaussian_filter(image, (1.2, 1.2, 0)) + random.normal(0, 8, shape)
        paths = {name: folder / f"{code}_{name}.nii.gz" for name in ("static", "frame")}
        save(paths["static"], image.astype(np.float32), affine)
        save(paths["frame"], frame.astype(np.float32), affine)
        for bone, corner in zip(BONES, ((2, 2), (2, 46), (46, 2)), strict=True):
            mask = np.zeros(shape, dtype=np.uint8)
            mask[corner[0] : corner[0] + 40, corner[1] : corner[1] + 40] = 1
            path = folder / f"{code}_{bone}.nii.gz"
            save(path, mask, affine)
            accepted.append(
                RegisteredFrame(
                    code, "active_run-01", 0, bone, np.eye(4), 0.9, path, paths["static"]
                )
            )
        group = "control" if code.startswith("T") else "equinus"
        frames = {"active_run-01": [paths["frame"]]}
        subjects.append(CleanSubject(code, group, "left", paths["static"], {}, frames))
    return subjects, accepted
