"""Slices as pixels of the screen."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.figures.images import slice_of
from ankle_lib.volume import Volume
from ankle_lib.widgets.picture import (
    SIGNED,
    Layer,
    annotate,
    brightness_limits,
    fit_size,
    paint,
)
from tests.widgets.drawn import (
    AFFINE,
    MASK,
    SHAPE,
    TALUS,
    image,
)


def test_pictures_have_true_proportions() -> None:
    coronal = slice_of(image(), "coronal", 3)  # 6 slices of 8 mm, 40 rows of 1 mm
    assert fit_size(coronal, 96) == (96, 80)
    assert fit_size(coronal, 96, longest_mm=96.0) == (48, 40)
    assert fit_size(slice_of(image(), "sagittal", 3), 80) == (60, 80)
    drawn = paint(coronal, (96, 80), (100, 400))
    assert drawn.shape == (80, 96, 3)
    np.testing.assert_array_equal(drawn[0, 0], drawn[0, 15])  # one thick slice is 16 pixels wide
    assert (drawn[0, 0] != drawn[0, 16]).any()


def test_intensities_and_layers_become_colours() -> None:
    shown = slice_of(Volume(np.full(SHAPE, 150.0), AFFINE), "sagittal", 2)
    mask = slice_of(MASK, "sagittal", 2).image
    grey = paint(shown, (30, 40), (100, 200))
    assert np.unique(grey).tolist() == [127]
    drawn = paint(shown, (30, 40), (100, 200), [Layer(mask, "#009E73", 0.5)])
    assert tuple(drawn[39 - 24, 5]) == TALUS  # a corner of the outline, rows downward
    middle = np.array(drawn[39 - 17, 10], dtype=float)
    np.testing.assert_allclose(middle, (127 + np.array(TALUS)) / 2, atol=1)
    assert (drawn.min(axis=2) == 127).sum() == 30 * 40 - mask.sum()
    signed = paint(shown, (30, 40), (-300, 300), palette=SIGNED)
    assert signed[0, 0, 0] > signed[0, 0, 2]  # above 0 is orange
    lettered = annotate(grey, shown)
    assert (lettered != grey).any(axis=2).sum() > 30


def test_limits_for_images_of_any_sign() -> None:
    random = np.random.default_rng(0)
    assert brightness_limits(np.zeros(10)) == (0.0, 1.0)
    low, high = brightness_limits(random.normal(0, 1, 10_000))
    assert -3 < low < -2 < 2 < high < 3
    data = random.uniform(0, 100, 10_000)
    data[:10] = np.nan
    assert brightness_limits(data) == pytest.approx((0, 99.5), abs=0.5)
    assert brightness_limits(np.full(5, -3.0)) == (-3.0, -2.0)
