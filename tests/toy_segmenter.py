"""A foot in which each bone has its own brightness, and networks that know it by that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ankle_lib.geometry import apply
from ankle_lib.learning.checkpoints import save_checkpoint
from ankle_lib.learning.networks import SliceNetwork, build
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume
from tests.toy_ankle import ELLIPSOIDS, FOOT, oblique_affine

SHAPE, VOXEL_MM = (98, 108, 50), (1.4, 1.4, 1.6)
GREY = {"foot": 700.0, "calcaneus": 1000.0, "talus": 1300.0, "tibia": 1600.0}
INPUT = {
    "voxel_mm": [1.4, 1.4],
    "normalisation": "zscore-foot",
    "axes": "PSR",
    "side": "as is",
    "context_mm": [0.0],
    "thickest_mm": 3.0,
}


def parts(shape: tuple[int, int, int], affine: np.ndarray) -> dict[str, np.ndarray]:
    """The foot and the bones of a left foot on any grid."""
    world = apply(affine, np.moveaxis(np.indices(shape), 0, -1))
    middle = apply(oblique_affine(SHAPE, VOXEL_MM), (np.array(SHAPE) - 1) / 2)
    points = (world - middle) @ np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]) - (-5, 4, 0)
    p, s, r = np.moveaxis(points.astype(np.float32), -1, 0).copy()

    def union(ellipsoids: list) -> np.ndarray:
        inside = [
            ((p - x) / a) ** 2 + ((s - y) / b) ** 2 + ((r - z) / c) ** 2 <= 1
            for (x, y, z), (a, b, c) in ellipsoids
        ]
        return np.any(inside, axis=0)

    return {"foot": union(FOOT), **{bone: union(ELLIPSOIDS[bone]) for bone in BONES}}


def rendered(
    shape: tuple[int, int, int], affine: np.ndarray, seed: int = 0, bones: Sequence[str] = BONES
) -> Volume:
    """A scan in which each bone has its own brightness."""
    random = np.random.default_rng(seed)
    image, found = np.zeros(shape), parts(shape, affine)
    for name in ("foot", *bones):
        image[found[name]] = GREY[name]
    noise = random.normal(0, 15, (2, *shape))
    return Volume(np.rint(np.hypot(image + noise[0], noise[1])).astype(np.int16), affine)


def labelled(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    found = parts(shape, affine)
    return np.select([found[bone] for bone in reversed(BONES)], [3, 2, 1], 0)


def by_hand(scan: Volume, greys: Sequence[float]) -> SliceNetwork:
    """Weights by hand: channel n is a tent over the intensities from grey n to grey n + 2.

    It is 1/2 half-way up and half-way down. Greys are normalised inside the scan's foot.
    """
    foot = scan.data[parts(scan.shape, scan.affine)["foot"]]
    knots = [(grey - foot.mean()) / foot.std() for grey in greys]
    n_channels, high = len(greys) - 2, 10.0  # high enough: no ReLU cuts off what is below a knot
    made = build("fcn", out_channels=n_channels, depth=1, width=len(greys))
    with torch.no_grad():
        for convolution, norm, _ in made.layers:
            convolution.weight.zero_()
            convolution.weight[:, 0, 1, 1] = 1
            norm.running_var.fill_(1 - norm.eps)
        made.layers[0][1].bias.fill_(high)
        made.layers[1][1].bias.copy_(-high - torch.tensor(knots))
        made.last.weight.zero_()
        for n in range(n_channels):
            up, down = 1 / (knots[n + 1] - knots[n]), 1 / (knots[n + 2] - knots[n + 1])
            made.last.weight[n, n : n + 3, 0, 0] = 20 * torch.tensor([up, -up - down, down])
        made.last.bias.fill_(-10)
    return made.eval()


def written(
    network: SliceNetwork, path: Path, training: dict[str, Any], labels: Sequence[str] = BONES
) -> Path:
    """Write the checkpoint of a network of one level."""
    return save_checkpoint(path, network, labels=labels, training=training)
