from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ankle_lib.figures.images import image_grid
from ankle_lib.figures.segmentation import (
    middle_slice_of,
    network_slice,
    patch_rows,
    reader_slice,
    shown,
)
from ankle_lib.files import write_figure
from ankle_lib.presets import BONES
from tests.toy_scans import SHAPE, toy_scan, trained_reader


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_slices_stand_upright_with_their_outlines() -> None:
    image = np.zeros((20, 30))
    image[0, 29] = 1.0  # anterior, superior: upper left
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 5:15] = True
    one = shown(image, {"talus": mask}, (1.0, 2.0, 3.0))
    assert one.image[-1, 0] == 1.0
    assert one.size_mm == (20.0, 60.0)
    assert one.outlines["talus"].sum(axis=1).max() == 5


def test_readers_and_networks_stand_below_each_other(tmp_path: Path) -> None:
    scans = [toy_scan("E01"), toy_scan("E02", 1)]
    networks = {"unet": [trained_reader(tmp_path, (bone,)) for bone in BONES]}
    rows = patch_rows(networks, scans, 16)
    assert list(rows) == ["reader", "U-Net"]
    for reader, network in zip(*rows.values(), strict=True):
        assert reader.image.shape == (16, 16)
        for bone in BONES:
            np.testing.assert_array_equal(reader.outlines[bone], network.outlines[bone])
    figure, panels = image_grid(rows, ["E01", "E02"])
    assert panels.shape == (2, 2)
    assert write_figure(tmp_path / "figure.png", figure).stat().st_size > 3000


def test_whole_slices_show_what_networks_see(tmp_path: Path) -> None:
    scan = toy_scan("E01")
    k = middle_slice_of(scan)
    reader, network = reader_slice(scan, k), network_slice([trained_reader(tmp_path)], scan, k)
    assert reader.size_mm == (2.0 * SHAPE[0], 2.0 * SHAPE[1])
    assert all(mask.any() for mask in reader.outlines.values())
    for bone in BONES:
        np.testing.assert_array_equal(reader.outlines[bone], network.outlines[bone])
