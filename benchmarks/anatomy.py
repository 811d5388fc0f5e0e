"""Compare the phantom's mean child bones with the children's bone template.

Usage: ``python benchmarks/anatomy.py TEMPLATE_DIR`` (see ``fit_bones.py`` for the template).
Exit status 1 if a mark fails. The marks: after rigid + isotropic-scale alignment Dice of at least
0.90; volume and each principal extent within 10 % before scaling; gaps between bones of 1 to 4 mm.
For scale: a plain ellipsoid of the bone's volume and axis ratios reaches 0.81 to 0.84, tali of
other real people 0.91 to 0.92.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fit_bones import VOXEL_MM, dome_origin_mm, load_mask
from scipy import ndimage
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from ankle_lib.phantom.anatomy import MEAN_CHILD, bone_distances
from ankle_lib.phantom.subjects import draw_recipe, ideal_poses

DICE_MARK, RELATIVE_MARK = 0.90, 0.10
GAP_MARKS_MM = {("talus", "tibia"): (1.0, 4.0), ("talus", "calcaneus"): (1.0, 4.0)}
MARGIN_MM = 8.0
EDGE_MM = 0.3
"""Softness of both surfaces during the alignment, which makes Dice differentiable."""

SignedDistance = Callable[[torch.Tensor], torch.Tensor]
"""Points ``(N, 3)`` in mm, near the frame of `ankle_lib.phantom.shapes`, to ``(N,)`` mm."""


@dataclass(frozen=True)
class Template:
    """One bone's mask cropped to its box, in the reference frame."""

    mask: np.ndarray
    points: np.ndarray
    """``(*mask.shape, 3)`` voxel centres, mm."""
    visible: np.ndarray
    """Where the bone is known: below the plane at which the tibia was cut, else everywhere."""


@dataclass(frozen=True)
class Result:
    """One bone's comparison; each pair is ours, template."""

    bone: str
    dice: float
    dice_unaligned: float
    dice_plain_ellipsoid: float
    scale: float
    volume_cm3: tuple[float, float]
    extents_mm: tuple[np.ndarray, np.ndarray]

    @property
    def volume_difference(self) -> float:
        """Relative difference of the volumes."""
        return self.volume_cm3[0] / self.volume_cm3[1] - 1

    @property
    def extent_differences(self) -> np.ndarray:
        """Relative differences of the three principal extents."""
        return self.extents_mm[0] / self.extents_mm[1] - 1

    @property
    def passed(self) -> bool:
        """Whether the bone meets all marks."""
        differences = np.array([self.volume_difference, *self.extent_differences])
        return self.dice >= DICE_MARK and bool((np.abs(differences) <= RELATIVE_MARK).all())


def main() -> int:
    """Print the tables; return 1 if a mark fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("template", type=Path, help="folder of the three masks")
    bones = mean_child()
    folder = parser.parse_args().template
    masks = {bone: load_mask(folder / f"{bone}.nii.gz") for bone in bones}
    results = compare(bones, masks)
    gaps = compare_gaps(bones, masks)
    print(report(results, gaps))
    passed = all(r.passed for r in results) and all(
        gap_passed(pair, ours) for pair, (ours, _) in gaps.items()
    )
    return 0 if passed else 1


def mean_child() -> dict[str, SignedDistance]:
    """Return the bones of the phantom's mean child, joints opened over a control's range."""
    range_of_motion = ideal_poses(draw_recipe("T02", seed=2020))
    fields = bone_distances(MEAN_CHILD, range_of_motion)
    return {
        bone: lambda points, field=fields[bone]: field.sample(points.float(), outside="border")[0]
        for bone in ("calcaneus", "talus", "tibia")
    }


def compare(bones: Mapping[str, SignedDistance], masks: Mapping[str, np.ndarray]) -> list[Result]:
    """Compare each bone with the template's; a pose within about 15 degrees is found."""
    origin = dome_origin_mm(masks["talus"])
    return [
        compare_bone(name, distance, crop(masks[name], origin, cut=name == "tibia"))
        for name, distance in bones.items()
    ]


def compare_bone(name: str, distance: SignedDistance, template: Template) -> Result:
    """Align one bone with the template and measure it there."""
    unaligned = evaluate(distance, template.points) < 0
    pose = align(distance, template)
    scale = float(np.exp(pose[6]))
    ours = (evaluate(distance, moved(template.points, pose, template)) < 0) & template.visible
    return Result(
        bone=name,
        dice=dice(ours, template.mask),
        dice_unaligned=dice(unaligned & template.visible, template.mask),
        dice_plain_ellipsoid=dice(plain_ellipsoid(template), template.mask),
        scale=scale,
        volume_cm3=(volume_cm3(ours) * scale**3, volume_cm3(template.mask)),
        extents_mm=(extents_mm(ours) * scale, extents_mm(template.mask)),
    )


def compare_gaps(
    bones: Mapping[str, SignedDistance], masks: Mapping[str, np.ndarray]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the smallest distance between the faces of neighbours in mm: ours, template."""
    everything = np.any(list(masks.values()), axis=0)
    box = ndimage.find_objects(ndimage.binary_dilation(everything, iterations=10).astype(int))[0]
    points = grid(box, dome_origin_mm(masks["talus"]))
    ours = {name: evaluate(distance, points) < 0 for name, distance in bones.items()}
    return {
        (a, b): (gap_mm(ours[a], ours[b]), gap_mm(masks[a][box], masks[b][box]))
        for a, b in GAP_MARKS_MM
    }


def gap_passed(pair: tuple[str, str], gap: float) -> bool:
    """Whether a gap in mm lies within the pair's marks."""
    low, high = GAP_MARKS_MM[pair]
    return low <= gap <= high


def crop(mask: np.ndarray, origin: np.ndarray, *, cut: bool) -> Template:
    """Return the bone in its box; ``cut`` hides what lies above its upper, flat end."""
    margin = round(MARGIN_MM / VOXEL_MM)
    box = tuple(
        slice(max(one.start - margin, 0), one.stop + margin)
        for one in ndimage.find_objects(mask.astype(int))[0]
    )
    points = grid(box, origin, mask.shape)
    cropped = mask[box]
    visible = points[..., 2] <= cut_plane(cropped, points) if cut else np.ones_like(cropped)
    return Template(cropped, points, visible)


def grid(
    box: tuple[slice, ...], origin: np.ndarray, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Return the voxel centres of ``box`` (cut to ``shape``) in the reference frame, mm."""
    stops = [one.stop for one in box] if shape is None else np.minimum([b.stop for b in box], shape)
    axes = [np.arange(one.start, stop) for one, stop in zip(box, stops, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1) * VOXEL_MM - origin


def cut_plane(tibia: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the height of the template's cut above each voxel, mm, broadcast over its level."""
    level = np.flatnonzero(tibia.any((0, 1))).max() - round(6 / VOXEL_MM)
    core = ndimage.binary_erosion(tibia[:, :, level], iterations=round(3 / VOXEL_MM))
    top = tibia.shape[2] - 1 - tibia[:, :, ::-1].argmax(2)
    height = points[0, 0, top[core], 2] + VOXEL_MM / 2
    flat = np.concatenate([points[:, :, 0, :2], np.ones((*core.shape, 1))], -1)
    coefficients = np.linalg.lstsq(flat[core], height, rcond=None)[0]
    return (flat @ coefficients)[:, :, None]


def align(distance: SignedDistance, template: Template) -> np.ndarray:
    """Return the pose (rotation vector rad, shift mm, log scale) that maximises a soft Dice."""
    low = template.points.reshape(-1, 3).min(0) - MARGIN_MM
    high = template.points.reshape(-1, 3).max(0) + MARGIN_MM
    axes = [np.arange(a, b, VOXEL_MM) for a, b in zip(low, high, strict=True)]
    field = evaluate(distance, np.stack(np.meshgrid(*axes, indexing="ij"), -1))
    every = (slice(None, None, 2),) * 3
    points, visible = template.points[every], template.visible[every]
    wanted = template.mask[every] & visible

    def loss(pose: np.ndarray) -> float:
        index = (moved(points[visible], pose, template) - low) / VOXEL_MM
        sampled = ndimage.map_coordinates(field, index.T, order=1, mode="nearest")
        ours = 1 / (1 + np.exp(np.clip(sampled / EDGE_MM, -30, 30)))
        truth = wanted[visible]
        return -2 * float((ours * truth).sum()) / float(ours.sum() + truth.sum())

    # In units that each move the surface by about a millimetre.
    units = np.array([0.05, 0.05, 0.05, 1.0, 1.0, 1.0, 0.05])
    best = minimize(
        lambda scaled: loss(scaled * units),
        np.zeros(7),
        method="L-BFGS-B",
        options={"eps": 0.02, "maxiter": 60},
    )
    return best.x * units


def moved(points: np.ndarray, pose: np.ndarray, template: Template) -> np.ndarray:
    """Return where ``points`` of the template lie in our frame, turned about the bone's centre."""
    centre = template.points[template.mask].mean(0)
    rotation = Rotation.from_rotvec(pose[:3]).as_matrix()
    return np.exp(pose[6]) * (points - centre) @ rotation.T + centre + pose[3:6]


def plain_ellipsoid(template: Template) -> np.ndarray:
    """Return the mask of an ellipsoid of the bone's centre, axes, axis ratios and volume."""
    inside = template.points[template.mask]
    variance, axes = np.linalg.eigh(np.cov(inside.T))
    scaled = (template.points - inside.mean(0)) @ axes / np.sqrt(variance)
    radius = np.cbrt(3 * len(inside) * VOXEL_MM**3 / (4 * np.pi * np.sqrt(variance.prod())))
    return np.square(scaled).sum(-1) <= radius**2


def evaluate(distance: SignedDistance, points: np.ndarray) -> np.ndarray:
    """Return a signed distance at NumPy points."""
    return distance(torch.from_numpy(points.astype(np.float32))).numpy()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Dice coefficient of two masks."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def volume_cm3(mask: np.ndarray) -> float:
    """Return the volume of a mask of the template's voxels."""
    return float(mask.sum() * VOXEL_MM**3 / 1000)


def extents_mm(mask: np.ndarray) -> np.ndarray:
    """Return the mask's extents along its own principal axes, longest first."""
    inside = np.argwhere(mask) * VOXEL_MM
    axes = np.linalg.eigh(np.cov(inside.T))[1][:, ::-1]
    return np.ptp((inside - inside.mean(0)) @ axes, axis=0)


def gap_mm(a: np.ndarray, b: np.ndarray) -> float:
    """Return the smallest distance between two masks' faces; 0 if they overlap."""
    centres = float(ndimage.distance_transform_edt(~b)[a].min())
    return max(centres - 1, 0) * VOXEL_MM


def report(results: list[Result], gaps: Mapping[tuple[str, str], tuple[float, float]]) -> str:
    """Return the tables as text."""
    lines = [
        f"{'bone':<10} {'Dice':>6} {'unaligned':>9} {'ellipsoid':>9} {'scale':>6} "
        f"{'volume cm3':>13} {'diff':>6}  {'extents mm: ours':>18} {'template':>18} {'diff':>20}"
    ]
    for r in results:
        ours, template = ("x".join(f"{e:.1f}" for e in extents) for extents in r.extents_mm)
        differences = " ".join(f"{d:+.1%}" for d in r.extent_differences)
        lines.append(
            f"{r.bone:<10} {r.dice:6.3f} {r.dice_unaligned:9.3f} {r.dice_plain_ellipsoid:9.3f} "
            f"{r.scale:6.3f} {r.volume_cm3[0]:6.1f}/{r.volume_cm3[1]:6.1f} "
            f"{r.volume_difference:+6.1%}  {ours:>18} {template:>18} {differences:>20}  "
            f"{'pass' if r.passed else 'FAIL'}"
        )
    lines += [
        f"marks: Dice >= {DICE_MARK}, volume and extents within {RELATIVE_MARK:.0%}",
        "",
        f"{'gap mm':<16} {'ours':>6} {'template':>9}",
    ]
    for pair, (ours_mm, template_mm) in gaps.items():
        low, high = GAP_MARKS_MM[pair]
        lines.append(
            f"{'-'.join(pair):<16} {ours_mm:6.1f} {template_mm:9.1f}  "
            f"{'pass' if gap_passed(pair, ours_mm) else 'FAIL'} (mark {low:g} to {high:g})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(main())
