"""The benchmark of inference takes every network of the course."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from ankle_lib.learning.checkpoints import save_checkpoint
from ankle_lib.learning.networks import build
from ankle_lib.presets import BONES
from ankle_lib.volume import save
from benchmarks.inference import METHODS, measure


@pytest.mark.parametrize("n_slices", [1, 3])
def test_networks_of_one_and_of_several_slices_are_measured(tmp_path: Path, n_slices: int) -> None:
    torch.manual_seed(0)
    network = build("unet", in_channels=n_slices, out_channels=3, depth=2, width=4)
    image = np.random.default_rng(0).normal(30, 10, (48, 48, 4))
    image[8:40, 8:40] += 600
    arguments = Namespace(
        scan=save(tmp_path / "scan.nii", image, np.eye(4)),
        checkpoint=save_checkpoint(tmp_path / "network.ckpt", network, labels=BONES),
        device="cpu",
        slices=None,
        threads=torch.get_num_threads(),
    )
    measured = {method: measure(method, arguments) for method in METHODS}
    foot = measured["MONAI"][4]
    for method in METHODS:
        labels = measured[method][3]
        assert labels.shape == image.shape
        # one tile holds the slices, so that all three see the same
        assert (labels == measured["MONAI"][3])[foot].mean() > 0.99
