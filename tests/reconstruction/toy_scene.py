from __future__ import annotations

import numpy as np

from ankle_lib.geometry import rigid
from ankle_lib.reconstruction.guided import grid_of_bones
from ankle_lib.reconstruction.sharp_scenes import Scene, make_scene
from ankle_lib.volume import Volume, resample
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
