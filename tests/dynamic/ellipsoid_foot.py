"""A static scan of a foot whose bones are ellipsoids."""

from __future__ import annotations

import numpy as np

from ankle_lib.learning.scans import Scan
from ankle_lib.patches.items import Item, zscore

# middle and semi-axes in mm: posterior, superior, right; the talus lies off the middle
ELLIPSOIDS = {
    "calcaneus": ((75, 30, 42), (30, 13, 13)),
    "talus": ((50, 58, 50), (20, 12, 14)),
    "tibia": ((52, 93, 45), (13, 21, 14)),
}


def ellipsoid(points, middle, axes):
    return (((points - np.array(middle)) / np.array(axes)) ** 2).sum(axis=-1) <= 1


def ellipsoid_foot() -> Scan:
    """Three bones in a foot of muscle and fat, with 1.5 mm voxels."""
    points = np.moveaxis(np.indices((80, 80, 60)), 0, -1) * 1.5
    bones = {bone: ellipsoid(points, *shape) for bone, shape in ELLIPSOIDS.items()}
    foot = ellipsoid(points, (60, 45, 45), (58, 42, 36)) | (
        np.hypot(points[..., 0] - 54, points[..., 2] - 45) < 32
    ) & (points[..., 1] > 45)
    generator = np.random.default_rng(0)
    muscle = ellipsoid(points, (90, 60, 45), (20, 60, 30))
    image = np.where(muscle, 500.0, 1000.0)
    for mask in bones.values():
        image[mask] = 900.0
    image = (image + generator.normal(0, 20, foot.shape)) * foot
    return Scan(Item("T01", "static", zscore(image, foot), foot, bones), "control", (1.5, 1.5, 1.5))


def volume_cm3(scan: Scan, bone: str) -> float:
    return float(scan.item.labels[bone].sum() * np.prod(scan.voxel_size_mm)) / 1000
