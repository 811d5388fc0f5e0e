from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.reconstruction.report_pairs import Pairs, read_pairs
from ankle_lib.reconstruction.sharp_scenes import Scene
from ankle_lib.volume import save
from tests.reconstruction.toy_scene import toy_scene


@pytest.fixture(scope="session")
def scene() -> Scene:
    """A toy foot turned by a pose; the truth is its own static scan in another contrast."""
    return toy_scene("T01")


@pytest.fixture(scope="session")
def toy_cohort(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[CleanSubject], list[RegisteredFrame]]:
    """Two controls and one test subject with one frame each, large bones for whole patches."""
    folder = tmp_path_factory.mktemp("cohort")
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


@pytest.fixture(scope="session")
def pairs(
    toy_cohort: tuple[list[CleanSubject], list[RegisteredFrame]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pairs:
    sizes = replace(PRESETS["smoke"].reconstruction, pair_frame_step=1, n_patches=3)
    return read_pairs(*toy_cohort, sizes, tmp_path_factory.mktemp("trainings"))
