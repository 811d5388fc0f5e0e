from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.cleaning.checks import binarise, fill_missing
from ankle_lib.files import AnkleError

# --- small parts ---------------------------------------------------------------------------------


def test_binarise() -> None:
    assert binarise(np.array([0, 1, 1]))[1] is None
    mask, correction = binarise(np.array([0, 255, 0, 255], dtype=np.uint8))
    assert mask.tolist() == [False, True, False, True]
    assert correction == "binarised: values 0 and 255"
    mask, correction = binarise(np.array([0.0, 0.4, 0.6, 1.0]))
    assert mask.tolist() == [False, False, True, True]
    assert correction == "binarised at 0.5: 2 voxels between 0 and 1"
    assert not binarise(np.zeros(4))[0].any()
    with pytest.raises(AnkleError, match=r"labels \[0, 1, 2, 3\]"):
        binarise(np.array([0, 1, 2, 3]))
    with pytest.raises(AnkleError, match="from -1 to 1"):
        binarise(np.array([-1, 0, 1]))


def test_fill_missing() -> None:
    ramp = np.broadcast_to(np.arange(9.0), (9, 9, 9)).copy()
    holes = ramp.copy()
    holes[3:6, 3:6, 3:6] = np.nan
    holes[0, 0, 0] = np.inf
    filled = fill_missing(holes)
    assert np.isnan(holes[4, 4, 4])
    assert np.abs(filled - ramp).max() <= 1.0
    known = np.isfinite(holes)
    assert np.array_equal(filled[known], ramp[known])
    assert fill_missing(ramp) is ramp
