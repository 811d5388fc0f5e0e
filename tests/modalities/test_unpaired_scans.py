from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.modalities.unpaired_scans import Regime, codes_for, read_scan, stacked
from ankle_lib.phantom.subjects import SUBJECTS
from ankle_lib.presets import BONES
from ankle_lib.volume import save
from tests.modalities.toy_children import toy_child


def test_simulated_children_are_others_than_the_cohorts_and_test_children_others_still() -> None:
    train, test = codes_for(10, 6)
    assert len({*train, *test}) == 16
    assert not {*train, *test} & {*SUBJECTS}
    assert {code[0] for code in train[:2]} == {"T", "E"}


def test_a_regime_shows_nobody_in_both() -> None:
    seen = Regime(2, 3).children("abcdef")
    assert seen == {"mr": ("a", "b"), "ct": ("c", "d", "e")}
    with pytest.raises(AnkleError, match="5 children, there are 4"):
        Regime(2, 3).children("abcd")


@pytest.mark.parametrize(("kind", "modality"), [("static_3DT1", "mr"), ("CT", "ct")])
def test_both_are_normalised_in_the_foot_without_being_told(
    tmp_path: Path, kind: str, modality: str
) -> None:
    random = np.random.default_rng(0)
    air, tissue = (0.0, 800.0) if modality == "mr" else (-1000.0, 50.0)
    image = air + random.normal(0, 10, (40, 40, 16))
    image[10:30, 10:30, 3:13] = tissue + random.normal(0, 60, (20, 20, 10))
    image[15:20, 15:20, 5:9] = air + 20  # what lies enclosed is foot
    image[:, 1, :] = air + 0.4 * (tissue - air)  # a table
    affine = np.array([[0, 0, 2.0, 0], [-2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    raw = tmp_path / "raw" / "E31"
    if modality == "mr":
        image = image.clip(0)
    save(raw / f"E31_{kind}.nii.gz", image.astype(np.float32), affine)
    for bone in BONES:
        save(raw / f"E31_{kind}_segment_{bone}.nii.gz", image > 1e9, affine)
    scan = read_scan(tmp_path, "E31", modality)
    assert scan.group == "equinus"
    assert scan.voxel_size_mm == pytest.approx((2, 2, 2))
    foot = np.zeros(image.shape, bool)
    foot[10:30, 10:30, 3:13] = True
    np.testing.assert_array_equal(scan.item.region, foot)
    assert scan.item.image[foot].mean() == pytest.approx(0, abs=1e-4)
    assert scan.item.image[foot].std() == pytest.approx(1, abs=1e-4)


def test_a_stack_holds_the_ct_behind_the_mr_and_no_label_there() -> None:
    child = toy_child("T31")
    stack, n = stacked(child).item, child.scans["mr"].item.image.shape[2]
    np.testing.assert_array_equal(stack.image[:, :, :n], child.scans["mr"].item.image)
    np.testing.assert_array_equal(stack.image[:, :, n:], child.registered.item.image)
    assert not any(mask[:, :, n:].any() for mask in (stack.region, *stack.labels.values()))
