from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from ankle_lib.learning.networks import build
from ankle_lib.volume import save
from benchmarks import inference
from tests.toy_ankle import oblique_affine
from tests.toy_segmenter import INPUT, rendered, written

SHAPE, VOXEL_MM = (49, 54, 25), (2.8, 2.8, 3.2)


@pytest.mark.parametrize("context_mm", [[0.0], [-3.2, 0.0, 3.2]])
def test_every_way_takes_networks_of_one_and_of_three_slices(
    context_mm: list[float], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = build("fcn", len(context_mm), 3, depth=1, width=2)
    checkpoint = written(
        network, tmp_path / "net.ckpt", {"input": INPUT | {"context_mm": context_mm}}
    )
    volume = rendered(SHAPE, oblique_affine(SHAPE, VOXEL_MM))
    save(tmp_path / "scan.nii.gz", volume.data, volume.affine)
    arguments = argparse.Namespace(
        scan=tmp_path / "scan.nii.gz", checkpoint=checkpoint, device="cpu", slices=4, threads=1
    )
    found = {method: inference.measure(method, arguments)[3:] for method in inference.METHODS}
    assert {labels.shape for labels, _ in found.values()} == {(49, 54, 4)}
    labels, foot = found["whole slices"]
    assert (labels == found["MONAI"][0])[foot].mean() > 0.95
