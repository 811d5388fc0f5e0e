"""Fit ellipsoids to the children's bone template and print the tables of ``phantom/shapes.yaml``.

Usage: ``python benchmarks/fit_bones.py TEMPLATE_DIR`` (``ankle data fetch`` gets the template:
``calcaneus.nii.gz``, ``talus.nii.gz``, ``tibia.nii.gz`` of GitHub ``rousseau/dynMRI``, folder
``deformity_analysis``, licence CeCILL-B). Takes a few minutes on one thread.

Each bone starts from k-means clusters of its voxels, one ellipsoid each. Adam then minimises, over
points around the surface, the cross-entropy of inside against outside and the error of the signed
distance. Rotations are rounded to a degree half-way, and the rest is fitted on; then centres and
radii are rounded to 0.1 mm.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.spatial.transform import Rotation

from ankle_lib.phantom.shapes import (
    BLEND_MM,
    Ellipsoid,
    ellipsoid_distance,
    rotation_matrix,
    smooth_union,
)

VOXEL_MM = 0.5
COUNTS = {"calcaneus": 18, "talus": 16, "tibia": 18}
SHAFT_COUNT = 2
"""Ellipsoids of the tibia that are meant for the extrapolated shaft, beyond ``COUNTS``."""
SHAFT_START_MM, SHAFT_TOP_MM = 50.0, 140.0
"""Heights above the origin: where the shaft's ellipsoids begin, where the fitted shaft ends."""
DIAPHYSIS_MM = 21.5
"""Thickness of the tibial diaphysis of a child of about ten years (extrapolated)."""
TAPER_MM = 7.0
"""Length over which the cut cross-section tapers to the diaphysis: keeps the template's slope."""
CUT_MARGIN_MM = 4.0
"""The template's tibia is rounded by its cut over this depth, which is not fitted."""
SOFTNESS_MM = 0.4
MIN_RADIUS_MM = 2.0
STEPS, BATCH = (900, 500), 20_000


def main() -> None:
    """Fit the three bones and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("template", type=Path, help="folder of the three masks")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    masks = {bone: load_mask(arguments.template / f"{bone}.nii.gz") for bone in COUNTS}
    origin = dome_origin_mm(masks["talus"])
    for bone, mask in masks.items():
        others = np.any([other for name, other in masks.items() if name != bone], axis=0)
        if bone == "tibia":
            mask = with_shaft(mask, round((SHAFT_TOP_MM + origin[2]) / VOXEL_MM))
            others = np.pad(others, [(0, 0), (0, 0), (0, mask.shape[2] - others.shape[2])])
        ellipsoids, dice = fit(mask, others, -origin, bone, np.random.default_rng(arguments.seed))
        print(f"# Dice with its target {dice:.4f}\n{table(bone, ellipsoids)}", flush=True)


def load_mask(path: Path) -> np.ndarray:
    """Return the mask with axes right, anterior, superior (the file has posterior, sup., right)."""
    data = np.asanyarray(nib.Nifti1Image.from_filename(path).dataobj)
    return (data > 0.5).transpose(2, 0, 1)[:, ::-1]


def dome_origin_mm(talus: np.ndarray) -> np.ndarray:
    """Return the reference frame's origin on the array: top of the talar dome, mm, rounded."""
    top = np.flatnonzero(talus.any((0, 1))).max()
    highest = np.argwhere(talus[:, :, top - round(2 / VOXEL_MM) : top + 1])
    x, y = highest[:, :2].mean(0) * VOXEL_MM
    return np.round([x, y, top * VOXEL_MM], 1)


def with_shaft(tibia: np.ndarray, top: int) -> np.ndarray:
    """Return the tibia with its last whole cross-section carried on to level ``top``."""
    cut = np.flatnonzero(tibia.any((0, 1))).max() - round(CUT_MARGIN_MM / VOXEL_MM)
    section = tibia[:, :, cut].astype(float)
    centre = np.array(ndimage.center_of_mass(section))
    thickness = 2 * VOXEL_MM * np.sqrt(section.sum() / np.pi)
    extended = np.zeros((*tibia.shape[:2], top), bool)
    extended[:, :, : cut + 1] = tibia[:, :, : cut + 1]
    for level in range(cut + 1, top):
        taper = np.exp(-(level - cut) * VOXEL_MM / TAPER_MM)
        scale = thickness / (DIAPHYSIS_MM + (thickness - DIAPHYSIS_MM) * taper)
        offset = centre * (1 - scale)
        extended[:, :, level] = (
            ndimage.affine_transform(section, [scale, scale], offset, order=1) > 0.5
        )
    return extended


def fit(
    mask: np.ndarray, others: np.ndarray, origin: np.ndarray, bone: str, rng: np.random.Generator
) -> tuple[list[Ellipsoid], float]:
    """Return the rounded ellipsoids of one bone and their Dice on every second voxel."""
    box, low = bounding_box(mask, margin=16)
    inside = mask[box]
    target = signed_distance(inside)
    weights = 1.0 + 2.0 * (ndimage.distance_transform_edt(~others[box]) * VOXEL_MM < 5.0)
    corner = origin + low * VOXEL_MM
    centre, radii, rotation = initial(np.argwhere(inside) * VOXEL_MM + corner, bone, rng)

    coarse = np.zeros_like(inside)
    coarse[::2, ::2, ::2] = True
    chosen = (np.abs(target) < 1.5) | (coarse & (np.abs(target) < 8.0))
    points = torch.tensor(np.argwhere(chosen) * VOXEL_MM + corner, dtype=torch.float32)
    wanted = torch.tensor(target[chosen], dtype=torch.float32)
    weight = torch.tensor(weights[chosen], dtype=torch.float32)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    for stage, steps in enumerate(STEPS):
        free = [centre, radii] + ([rotation] if stage == 0 else [])
        for parameter in (centre, radii, rotation):
            parameter.requires_grad_(any(parameter is one for one in free))
        rates = (0.25, 0.015, 2.0) if stage == 0 else (0.05, 0.004)
        optimiser = torch.optim.Adam(
            [{"params": [p], "lr": lr} for p, lr in zip(free, rates, strict=True)]
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            batch = torch.randint(len(points), (BATCH,), generator=generator)
            distance = union(points[batch], centre, radii, rotation)
            loss = (weight[batch] * losses(distance, wanted[batch])).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if stage == 0:
            rotation = rotation.detach().round()

    ellipsoids = rounded(centre, radii, rotation)
    every = torch.tensor(np.argwhere(coarse) * VOXEL_MM + corner, dtype=torch.float32)
    ours = smooth_union(every, ellipsoids).numpy() < 0
    truth = inside[coarse]
    return ellipsoids, 2 * (ours & truth).sum() / (ours.sum() + truth.sum())


def bounding_box(mask: np.ndarray, margin: int) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return slices of the mask's box widened by ``margin`` voxels, and its first index.

    The box is clipped to the array, above which an extended tibia goes on.
    """
    where = np.argwhere(mask)
    low = np.maximum(where.min(0) - margin, 0)
    high = np.minimum(where.max(0) + 1 + margin, mask.shape)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), low


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Return the distance in mm to the faces between mask and background, negative inside.

    The array is continued by its edge, so that a bone cut by the array has no surface there.
    """
    padded = np.pad(mask, 12, mode="edge")
    inner = ndimage.distance_transform_edt(padded) - 0.5
    outer = ndimage.distance_transform_edt(~padded) - 0.5
    return (np.where(padded, -inner, outer) * VOXEL_MM)[12:-12, 12:-12, 12:-12]


def initial(
    voxels: np.ndarray, bone: str, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return centres, log radii and rotation vectors (deg) of k-means clusters, each (E, 3)."""
    groups = []
    if bone == "tibia":
        shaft = voxels[voxels[:, 2] > SHAFT_START_MM]
        edges = np.quantile(shaft[:, 2], np.linspace(0, 1, SHAFT_COUNT + 1))
        groups = [shaft[(shaft[:, 2] >= a) & (shaft[:, 2] <= b)] for a, b in pairwise(edges)]
        voxels = voxels[voxels[:, 2] <= SHAFT_START_MM]
    count = COUNTS[bone]
    _, label = kmeans2(voxels, count, minit="++", seed=rng)
    groups = [voxels[label == cluster] for cluster in range(count)] + groups
    centre = np.array([group.mean(0) for group in groups])
    radii, rotation = [], []
    for group in groups:
        variance, axes = np.linalg.eigh(np.cov(group.T))
        axes[:, 0] *= np.sign(np.linalg.det(axes))
        radii.append(np.log(np.sqrt(5 * variance)))
        rotation.append(Rotation.from_matrix(axes).as_rotvec(degrees=True))
    return (
        torch.tensor(np.array(centre), dtype=torch.float32),
        torch.tensor(np.array(radii), dtype=torch.float32),
        torch.tensor(np.array(rotation), dtype=torch.float32),
    )


def union(
    points: torch.Tensor, centre: torch.Tensor, radii: torch.Tensor, rotation: torch.Tensor
) -> torch.Tensor:
    """Return the smooth union's signed distance, differentiable in the parameters."""
    coordinates = points.T.contiguous()
    distances = [
        ellipsoid_distance(coordinates, c, r.exp().clamp(min=MIN_RADIUS_MM), rotation_matrix(v))
        for c, r, v in zip(centre, radii, rotation, strict=True)
    ]
    return -BLEND_MM * torch.logsumexp(torch.stack(distances) / -BLEND_MM, 0)


def losses(distance: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return each point's cross-entropy, plus its distance error near the surface."""
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        -distance / SOFTNESS_MM, (wanted < 0).to(distance), reduction="none"
    )
    return entropy + 0.3 * (distance - wanted).abs() * (wanted.abs() < 3.0)


def rounded(centre: torch.Tensor, radii: torch.Tensor, rotation: torch.Tensor) -> list[Ellipsoid]:
    """Return the ellipsoids, mm to one decimal and degrees to none."""
    radii = radii.exp().clamp(min=MIN_RADIUS_MM)
    return [
        Ellipsoid(decimals(c, 1), decimals(r, 1), decimals(shortest(v), 0))
        for c, r, v in zip(centre.detach(), radii.detach(), rotation.detach(), strict=True)
    ]


def shortest(rotation_deg: torch.Tensor) -> torch.Tensor:
    """Return the rotation vector unchanged if it is shorter than half a turn, else its twin."""
    return torch.tensor(
        Rotation.from_rotvec(rotation_deg.double(), degrees=True).as_rotvec(degrees=True)
    )


def decimals(values: torch.Tensor, places: int) -> tuple[float, float, float]:
    """Return three floats rounded to ``places`` decimals, without negative zeros."""
    x, y, z = (round(float(value), places) + 0.0 for value in values)
    return x, y, z


def table(bone: str, ellipsoids: list[Ellipsoid]) -> str:
    """Return the bone's table as lines of YAML."""
    rows = (
        f"    - [ellipsoid, {[*e.centre_mm]}, {[*e.radii_mm]}, {[int(a) for a in e.rotation_deg]}]"
        for e in ellipsoids
    )
    return "\n".join([f"  {bone}:", *rows])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
