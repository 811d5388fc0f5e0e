"""Slices, their crops and grids."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ankle_lib.figures.images import (
    Slice,
    as_slice,
    box_around,
    centre_voxel,
    image_grid,
    in_rows,
    slice_of,
    window,
)
from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume, to_orientation
from tests.toy_ankle import ToyAnkle, toy_ankle

# Axes P, S, R with voxels of 1, 2 and 5 mm.
THICK = Volume(
    np.arange(20 * 10 * 4, dtype=float).reshape(20, 10, 4),
    np.array([[0, 0, 5, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]], dtype=float),
)


def with_talus() -> Slice:
    talus = np.zeros(THICK.shape, dtype=bool)
    talus[8:12, 4:6] = True
    return slice_of(THICK, "sagittal", 1, {"talus": talus})


def test_a_crop_keeps_outlines_and_knows_where_it_was() -> None:
    image = with_talus()
    near = image.crop(box_around(image, margin_mm=2.0))
    assert near.image.shape == (4, 8)  # 4 mm high and 4 mm wide, and 2 mm on every side
    assert near.size_mm == (8.0, 8.0)
    assert near.origin_mm == (6.0, 6.0)
    assert near.outlines["talus"].sum() == 8
    again = near.crop((slice(1, 3), slice(2, 6)))
    assert again.origin_mm == (8.0, 8.0)


def test_a_box_is_square_in_mm_and_ends_with_the_slice() -> None:
    talus = np.zeros(THICK.shape, dtype=bool)
    talus[2:14, 4:5] = True  # 12 mm by 2 mm
    image = slice_of(THICK, "sagittal", 1, {"talus": talus})
    rows, columns = box_around(image, margin_mm=1.0, square=True)
    assert (columns.start, columns.stop) == (1, 15)
    assert (rows.start, rows.stop) == (1, 8)
    assert box_around(slice_of(THICK, "sagittal", 1)) == (slice(None), slice(None))


def test_a_grid_has_one_scale_and_marks_its_first_image() -> None:
    image = with_talus()
    coronal = slice_of(THICK, "coronal", 3)
    figure, panels = image_grid({"one": [image, coronal], "two": [image]}, ["side", "behind"])
    figure.canvas.draw()
    assert panels.shape == (2, 2)
    assert [axes.get_title() for axes in panels[0]] == ["side", "behind"]
    scales = [axes.get_window_extent().width / np.ptp(axes.get_xlim()) for axes in panels.flat[:3]]
    np.testing.assert_allclose(scales, scales[0], rtol=0.02)
    texts = [[text.get_text() for text in axes.texts] for axes in panels.flat]
    assert texts[0] == ["A", "P", "I", "S", "5 mm", "one"]
    assert texts[1] == texts[3] == []
    assert texts[2] == ["two"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["talus"]


def test_a_grid_of_nothing_is_refused_and_rows_are_wrapped() -> None:
    with pytest.raises(AnkleError, match="at least one image"):
        image_grid([[None]])
    image = with_talus()
    assert [len(row) for row in in_rows([image] * 7, 3)] == [3, 3, 1]


def test_the_window_takes_an_offset_if_asked() -> None:
    data = np.linspace(-100, 900, 1001)
    assert window(data)[0] == 0
    dark, bright = window(data, dark_percentile=1)
    assert dark == pytest.approx(-90)
    assert bright == pytest.approx(895)
    assert window(np.full((4, 4), 7.0), dark_percentile=1)[1] > 7


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


@pytest.fixture(scope="module")
def masks(ankle: ToyAnkle) -> dict[str, np.ndarray]:
    return {bone: mask.data > 0 for bone, mask in ankle.masks.items()}


def test_slices_show_superior_up_and_anterior_left() -> None:
    data = np.zeros((4, 6, 8))
    data[0, 5, 7] = 1  # anterior, superior, right
    affine = np.array([[0, 0, 3, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]], dtype=float)
    image = Volume(data, affine)
    sagittal = slice_of(image, "sagittal", 7)
    assert sagittal.image.shape == (6, 4)
    assert sagittal.image[-1, 0] == 1  # rows go upward: top left
    assert sagittal.size_mm == (4, 12)
    assert sagittal.letters == ("A", "P", "I", "S")
    coronal = slice_of(image, "coronal", 0)
    assert coronal.image[-1, -1] == 1
    assert coronal.size_mm == (24, 12)
    axial = slice_of(image, "axial", 5)
    assert axial.image[-1, -1] == 1
    assert axial.size_mm == (24, 4)
    assert axial.letters == ("L", "R", "P", "A")


def test_arrays_stand_upright_with_their_outlines() -> None:
    image = np.zeros((20, 30))
    image[0, 29] = 1.0  # anterior, superior: upper left
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 5:15] = True
    one = as_slice(image, (1.0, 2.0, 3.0), {"talus": mask})
    assert one.image[-1, 0] == 1.0
    assert one.size_mm == (20.0, 60.0)
    assert one.outlines["talus"].sum(axis=1).max() == 5
    assert as_slice(np.zeros((20, 30, 3)), (1.0, 1.0)).image.shape == (30, 20, 3)


def test_slices_need_the_courses_axes(ankle: ToyAnkle) -> None:
    with pytest.raises(AnkleError, match="bring the image to PSR first"):
        slice_of(to_orientation(ankle.static, "RAS"), "sagittal", 3)
    with pytest.raises(AnkleError, match="choose one of sagittal, coronal, axial"):
        slice_of(ankle.static, "oblique", 3)


def test_a_cropped_slice_keeps_its_pixels() -> None:
    part = Slice(np.ones((10, 20)), (40.0, 10.0), ("A", "P", "I", "S")).crop(
        (slice(2, 7), slice(0, 10))
    )
    assert part.image.shape == (5, 10)
    assert part.size_mm == (20.0, 5.0)


def test_window_and_centre(masks: dict[str, np.ndarray]) -> None:
    assert window(np.zeros((3, 3))) == (0.0, 1.0)
    low, high = window(np.array([np.nan, 0.0, 100.0, 100.0]))
    assert (low, high) == (0.0, 100.0)
    i, j, k = centre_voxel({"talus": masks["talus"]})
    np.testing.assert_allclose(
        (i, j, k), ndimage.center_of_mass(masks["talus"].astype(float)), atol=0.5
    )
    with pytest.raises(AnkleError, match="every mask is empty"):
        centre_voxel({"talus": np.zeros((2, 2, 2))})
