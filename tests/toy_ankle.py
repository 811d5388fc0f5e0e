"""A left foot made of ellipsoids, as files of one subject: small enough for many tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ankle_lib.geometry import rigid
from ankle_lib.manifest.schema import Geometry, Sequence, Subject
from ankle_lib.volume import Volume, resample, save

STATIC_MM = (2.0, 2.0, 2.5)
STATIC_SHAPE = (72, 76, 36)
DYNAMIC_MM = (3.0, 3.0, 8.0)
DYNAMIC_SHAPE = (56, 56, 8)
GEOMETRY = Geometry(static_voxel_mm=STATIC_MM, dynamic_voxel_mm=DYNAMIC_MM, n_frames=3)

# Centre and semi-axes in mm (posterior, superior, right) of a left foot: medial is right.
ELLIPSOIDS = {
    "calcaneus": [((20, -20, 0), (34, 17, 16))],
    "talus": [((-10, 2, 4), (18, 13, 15)), ((-28, -4, 11), (12, 11, 10))],
    "tibia": [((-5, 46, 3), (16, 34, 16)), ((-4, 12, 18), (9, 15, 6))],
}
FOOT = [((-10, 30, 3), (34, 80, 32)), ((-8, -20, 3), (62, 30, 34))]


@dataclass
class ToyAnkle:
    """Images of one subject in memory; change them before they are written."""

    static: Volume
    masks: dict[str, Volume]
    foot: Volume
    sequence: Volume

    def write(self, folder: Path, code: str = "T01", side: str | None = "left") -> Subject:
        """Write the files and return the subject's record."""
        static = folder / f"{code}_static.nii.gz"
        save(static, self.static.data, self.static.affine)
        masks = {}
        for bone, mask in self.masks.items():
            masks[bone] = folder / f"{code}_{bone}.nii.gz"
            save(masks[bone], mask.data, mask.affine)
        movie = folder / f"{code}_active_run-01.nii.gz"
        save(movie, self.sequence.data, self.sequence.affine, scale=0.5)
        return record(code, side, [static], masks, [movie])


def record(
    code: str,
    side: str | None,
    static: list[Path],
    masks: dict[str, Path],
    movies: list[Path],
) -> Subject:
    """Return a subject with absolute paths, as a resolved manifest has them."""
    sequences = [
        Sequence.model_construct(name=f"active_run-{number:02d}", kind="active", path=movie)
        for number, movie in enumerate(movies, start=1)
    ]
    return Subject.model_construct(
        code=code,
        group="control",
        side=side,
        static=static,
        masks=masks,
        sequences=sequences,
        notes=[],
    )


def toy_ankle(seed: int = 0) -> ToyAnkle:
    """Return the images of a left foot: dark cortex, bright marrow, noise around the foot."""
    random = np.random.default_rng(seed)
    affine = oblique_affine(STATIC_SHAPE, STATIC_MM)
    foot = _union(FOOT)
    image = np.where(foot, 600.0, 0.0)
    masks = {}
    for bone, parts in ELLIPSOIDS.items():
        masks[bone] = _union(parts)
        image[masks[bone]] = 200.0
        image[_union(parts, shrink=3.5)] = 1100.0
    noise = random.normal(0, 40, (2, *image.shape))
    image = np.hypot(image + noise[0], noise[1])
    image[:, :, :2] = 0  # zeros that a scanner fills in
    static = Volume(np.rint(image).astype(np.int16), affine)
    place = oblique_affine(DYNAMIC_SHAPE, DYNAMIC_MM)
    frame = resample(static, DYNAMIC_SHAPE, place).data
    sequence = np.stack([frame, 0.97 * frame, 0.94 * frame], axis=3).astype(np.float32)
    return ToyAnkle(
        static,
        {bone: Volume(mask.astype(np.uint8), affine) for bone, mask in masks.items()},
        Volume(foot, affine),
        Volume(sequence, place),
    )


def oblique_affine(shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """Return a PSR affine turned by 11 degrees whose grid is centred at (5, -20, 10) mm."""
    axes = np.zeros((4, 4))
    axes[1, 0], axes[2, 1], axes[0, 2], axes[3, 3] = -voxel_mm[0], voxel_mm[1], voxel_mm[2], 1
    affine = rigid((0, 3, 10.6), (0, 0, 0)) @ axes
    affine[:3, 3] = np.array([5, -20, 10]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _union(parts: list, shrink: float = 0.0) -> np.ndarray:
    index = np.indices(STATIC_SHAPE).reshape(3, -1).T - (np.array(STATIC_SHAPE) - 1) / 2
    points = index * STATIC_MM - np.array([5, 12, 3])  # the bones lie off the grid's middle
    inside = np.zeros(len(points), dtype=bool)
    for centre, axes in parts:
        scaled = (points - centre) / (np.array(axes, dtype=float) - shrink)
        inside |= (scaled**2).sum(axis=1) <= 1
    return inside.reshape(STATIC_SHAPE)
