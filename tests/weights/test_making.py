from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from ankle_lib.learning.prediction import THICKEST_MM, predict, read_segmenter
from ankle_lib.presets import BONES
from ankle_lib.weights.making import SMALL, make_network, scans_to_learn
from ankle_lib.weights.shipped import checksum_file


def test_a_network_is_made_once_and_reads_as_one_for_any_scan(tmp_path: Path) -> None:
    made = make_network(tmp_path / "bones.ckpt", tmp_path / "training", SMALL)
    content = made.read_bytes()
    assert checksum_file(made).read_text() == f"{sha256(content).hexdigest()}  bones.ckpt\n"
    segmenter = read_segmenter(made)
    assert segmenter.bones == BONES
    assert segmenter.thickest_mm == THICKEST_MM
    assert all(one.dtype == torch.float32 for one in segmenter.network.state_dict().values()
               if one.is_floating_point())  # fmt: skip
    weights = sum(one.numel() for one in segmenter.network.parameters())
    assert len(content) < 2.5 * weights + 200_000  # half precision
    scan = scans_to_learn(SMALL)[0]
    found = predict(scan.item.image, scan.voxel_size_mm, segmenter, foot=scan.item.region)
    assert np.isfinite(found.maps).all()
    again = make_network(tmp_path / "again.ckpt", tmp_path / "training", SMALL)
    assert again.read_bytes() == content


def test_both_kinds_of_flesh_and_of_slices_are_seen() -> None:
    scans = scans_to_learn(SMALL)
    assert {scan.group for scan in scans} == {"phantom", "noise"}
    assert len(scans) == SMALL.n_feet * SMALL.n_scans
