from __future__ import annotations

from pathlib import Path

import pytest

from ankle_lib.segmentation.study import Study
from tests.toy_scans import toy_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return toy_study(tmp_path / "trainings")
