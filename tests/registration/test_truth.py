from __future__ import annotations

from pathlib import Path

import numpy as np

from ankle_lib.registration.truth import read_sharp
from ankle_lib.volume import save


def test_the_sharp_truth_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert read_sharp(tmp_path, "T01", "active_run-01") == {}
    affine = np.diag([2.0, 3, 4, 1])
    data = np.arange(24).reshape(2, 3, 4)
    for name in ("active_run-01_frame-07", "active_run-01_frame-12", "active_run-011_frame-03"):
        save(tmp_path / "T01" / f"{name}_sharp.nii.gz", data.astype(np.int16), affine)
    found = read_sharp(tmp_path, "T01", "active_run-01")
    assert sorted(found) == [7, 12]
    assert "".join(found[7].axis_codes) == "PSR"
