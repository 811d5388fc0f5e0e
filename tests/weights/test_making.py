from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from ankle_lib.learning.prediction import THICKEST_MM, predict, read_segmenter
from ankle_lib.presets import BONES
from ankle_lib.weights.making import SMALL, make_networks, scans_to_learn
from ankle_lib.weights.shipped import FRAMES, STATIC, checksum_file


def test_networks_are_made_once_and_read_as_those_for_any_scan(tmp_path: Path) -> None:
    made = make_networks(tmp_path, SMALL)
    assert [one.name for one in made] == [STATIC, FRAMES]
    content = {one: one.read_bytes() for one in made}
    for one in made:
        assert checksum_file(one).read_text() == f"{sha256(content[one]).hexdigest()}  {one.name}\n"
        segmenter = read_segmenter(one)
        assert segmenter.bones == BONES
        assert segmenter.thickest_mm == THICKEST_MM
        assert all(one.dtype == torch.float32 for one in segmenter.network.state_dict().values()
                   if one.is_floating_point())  # fmt: skip
        weights = sum(one.numel() for one in segmenter.network.parameters())
        assert len(content[one]) < 2.5 * weights + 200_000  # half precision
    scan = scans_to_learn(SMALL, STATIC)[0]
    found = predict(scan.item.image, scan.voxel_size_mm, segmenter, foot=scan.item.region)
    assert np.isfinite(found.maps).all()
    assert {one: one.read_bytes() for one in make_networks(tmp_path, SMALL)} == content


@pytest.mark.parametrize(("name", "lesson", "n_feet"), [(STATIC, 0, 2), (FRAMES, 1, 1)])
def test_scans_of_every_foot_are_seen(name: str, lesson: int, n_feet: int) -> None:
    scans = scans_to_learn(SMALL, name, lesson)
    assert len(scans) == 2 * n_feet
    assert {scan.group for scan in scans} == set(["phantom", "noise"][:n_feet])
