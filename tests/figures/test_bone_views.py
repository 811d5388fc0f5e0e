"""The ankle as surfaces and as a page."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.figures.bone_views import VIEWS, _surface, bone_surfaces, page
from tests.toy_ankle import ToyAnkle, toy_ankle


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


def test_surfaces_lie_where_the_bones_do_and_face_three_ways(ankle: ToyAnkle) -> None:
    figure = bone_surfaces(ankle.masks, "T01")
    assert [axes.get_title().split(" (")[0] for axes in figure.axes] == list(VIEWS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(ankle.masks)
    mask = ankle.masks["tibia"]
    corners = _surface(mask).reshape(-1, 3)
    voxels = np.argwhere(mask.data > 0) * mask.voxel_size_mm
    right, anterior, superior = voxels[:, 2], -voxels[:, 0], voxels[:, 1]
    for found, true in zip(corners.T, (right, anterior, superior), strict=True):
        voxel = 2 * max(mask.voxel_size_mm)
        assert found.min() == pytest.approx(true.min(), abs=voxel)
        assert found.max() == pytest.approx(true.max(), abs=voxel)


def test_a_page_needs_no_kernel_and_stays_small(ankle: ToyAnkle) -> None:
    html = page(ankle.static, ankle.masks).get_standalone()
    assert "<script" in html
    assert len(html) < 3e6
