from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ankle_lib.learning.prediction import Segmenter, labels_from, predict, tidy_labels
from ankle_lib.presets import BONES
from tests.toy_scans import SHAPE, toy_scan, trained_reader

# --- labels --------------------------------------------------------------------------------------


def test_labels_are_the_strongest_channels() -> None:
    probabilities = np.array([[0.2, 0.6, 0.5, 0.1], [0.4, 0.7, 0.5, 0.9]])[:, :, None, None]
    assert labels_from(probabilities)[:, 0, 0].tolist() == [0, 2, 0, 2]
    assert labels_from(probabilities, 0.3)[:, 0, 0].tolist() == [2, 2, 1, 2]
    assert labels_from(probabilities).dtype == np.uint8


def test_tidy_keeps_the_largest_piece_and_fills_it() -> None:
    labels = np.zeros((20, 20, 10), np.uint8)
    labels[2:10, 2:10, 2:8] = 1
    labels[15:17, 15:17, 2:4] = 1  # a second piece
    labels[5, 5, 5] = 0  # a hole
    labels[4, 4, 4] = 3  # another bone's voxel in it stays
    labels[12:18, 2:8, 1:9] = 3
    tidy = tidy_labels(labels)
    assert (tidy == 1).sum() == 8 * 8 * 6 - 1
    assert tidy[15, 15, 2] == 0
    assert tidy[5, 5, 5] == 1
    assert tidy[4, 4, 4] == 0  # a piece of label 3, but not its largest
    assert (tidy == 3).sum() == 6 * 6 * 8
    np.testing.assert_array_equal(tidy_labels(tidy), tidy_labels(tidy_labels(tidy)))
    assert not tidy_labels(np.zeros((3, 3, 3), np.uint8)).any()


def test_tidy_equals_the_obvious_way() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(30, 30, 30)), 2)
    mask = noise > 0.02
    pieces, n_pieces = ndimage.label(mask)
    assert n_pieces > 2
    largest = max(range(1, n_pieces + 1), key=lambda piece: (pieces == piece).sum())
    expected = ndimage.binary_fill_holes(pieces == largest)
    np.testing.assert_array_equal(tidy_labels(mask.astype(np.uint8) * 2), expected * 2)


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixel_mm", [2.0, 4.0, 3.1])
def test_probabilities_return_to_the_images_grid(tmp_path: Path, pixel_mm: float) -> None:
    scan, reader = toy_scan("E01"), trained_reader(tmp_path)
    segmenter = Segmenter.of(reader, pixel_mm=pixel_mm)
    # the reader knows bones by their brightness, in the units of the toy
    found = predict(scan.item.image, scan.voxel_size_mm, segmenter, foot=scan.item.region)
    assert found.labels.shape == SHAPE
    rows, columns = (round(n * 2.0 / pixel_mm) for n in SHAPE[:2])
    assert found.maps.shape == (3, rows, columns, SHAPE[2])
    corners = found.grid @ [[-0.5, rows - 0.5], [-0.5, columns - 0.5], [0, 0], [1, 1]]
    np.testing.assert_allclose(corners[:2], [[-0.5, 47.5], [-0.5, 51.5]])


def test_networks_of_one_bone_each_answer_together(tmp_path: Path) -> None:
    scan = toy_scan("E01")
    one_each = [trained_reader(tmp_path, (bone,)) for bone in BONES]
    options = {"foot": scan.item.region}
    together, all_at_once = (
        predict(
            scan.item.image, scan.voxel_size_mm, Segmenter.of(*networks, pixel_mm=2.0), **options
        )
        for networks in (one_each, [trained_reader(tmp_path)])
    )
    assert together.bones == BONES
    np.testing.assert_array_equal(together.labels, all_at_once.labels)
    np.testing.assert_array_equal(together.maps, all_at_once.maps)
