"""What a foot is made of, told from its static scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ankle_lib.dynamic.repainting import JOINT, N_SOFT, Contrast, painted, tissues_of
from ankle_lib.learning.scans import Scan
from tests.dynamic.ellipsoid_foot import ELLIPSOIDS, ellipsoid_foot

FLAT = Contrast((0.5,) * N_SOFT, 0.5, (0.5,) * 3, 0.5, 0, 0, 0)


@pytest.fixture(scope="module")
def scan() -> Scan:
    return ellipsoid_foot()


def test_a_scan_is_told_apart_without_labels_of_soft_tissue(scan):
    tissues = tissues_of(scan)
    muscle, fat = int(tissues.classes[62, 40, 20]), int(tissues.classes[20, 20, 30])
    assert 0 < muscle < fat
    assert (tissues.classes[~tissues.foot] == 0).all()
    assert (tissues.classes == JOINT).any()
    assert tissues.depth_mm[scan.item.labels["talus"]].min() > 0
    assert muscle < tissues.marrow_class + 1 <= fat


def test_cortex_is_as_thick_as_asked_for(scan):
    tissues = tissues_of(scan)
    bone = scan.item.labels["tibia"]
    bright = replace(FLAT, bones=(1.0, 1.0, 1.0), cortex=0.0)
    loss = [1 - painted(tissues, replace(bright, cortex_mm=t))[bone].mean() for t in (0, 1.0, 2.0)]
    assert loss[0] == 0
    # a rim of thickness t takes about 3 t / r of an ellipsoid's volume
    surface = np.mean([3 / axis for axis in ELLIPSOIDS["tibia"][1]])
    assert loss[2] == pytest.approx(2.0 * surface, rel=0.4)
    assert 0.3 < loss[1] / loss[2] < 0.7
