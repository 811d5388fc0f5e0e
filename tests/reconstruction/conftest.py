from __future__ import annotations

from dataclasses import replace

import pytest

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.presets import PRESETS
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.reconstruction.report_pairs import Pairs, read_pairs
from ankle_lib.reconstruction.sharp_scenes import Scene
from tests.reconstruction.toy_scene import toy_pairs, toy_scene


@pytest.fixture(scope="session")
def scene() -> Scene:
    """A toy foot turned by a pose; the truth is its own static scan in another contrast."""
    return toy_scene("T01")


@pytest.fixture(scope="session")
def toy_cohort(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[CleanSubject], list[RegisteredFrame]]:
    return toy_pairs(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def pairs(
    toy_cohort: tuple[list[CleanSubject], list[RegisteredFrame]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pairs:
    sizes = replace(PRESETS["smoke"].reconstruction, pair_frame_step=1, n_patches=3)
    return read_pairs(*toy_cohort, sizes, tmp_path_factory.mktemp("trainings"))
