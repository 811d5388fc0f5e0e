"""One child's ankle: bones and soft tissue on grids, ready to be posed and imaged.

The mean bones of :mod:`ankle_lib.phantom.shapes` and the hand-drawn rest are bent by a smooth
subject-specific warp; bones that would come closer than a joint gap anywhere in the subject's
range of motion give way; cortex, marrow, growth plates and cartilage are laid out by distance to
the surface; muscles, tendons, vessels and skin are painted around them.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ankle_lib.geometry import arrival
from ankle_lib.phantom import shapes as drawn
from ankle_lib.phantom.fields import Field
from ankle_lib.phantom.motion import GROUPS, Pose
from ankle_lib.phantom.shapes import (
    GROUP_OF_BONE,
    SKELETON,
    Cord,
    Ellipsoid,
    rotation_matrix,
    smooth_union,
)
from ankle_lib.phantom.tissues import CONTRASTS, TISSUES, Contrast, Tissue, XRays, signal

Contrasts = Mapping[str, Contrast | XRays]
Paint = Callable[..., None]
"""`_paint` in the contrasts of one anatomy."""

MINIMUM_GAP_MM = 1.3
"""Bones keep this distance in every pose of the range: more than the cartilage on either of them,
which therefore never covers the other bone."""

DISTANCE_SPACING_MM = 1.0
"""Grid of the bones' distances unless the soft tissue's is coarser; smooth surfaces come back from
it to some hundredths of a mm."""

COARSE_SPACING_MM = 2.5
"""Grid on which the wide shapes of skin and muscle are evaluated before they are interpolated."""

BOX_LOW_MM = (-48.0, -92.0, -132.0)
BOX_HIGH_MM = (48.0, 140.0, 132.0)
"""The soft tissue's box for a mean child; larger than any field of view around the ankle."""

CORTEX_MM = {"tibia": 1.7, "fibula": 1.4}
DEFAULT_CORTEX_MM = 1.2
CARTILAGE_MM = 1.2
ARTICULAR_REACH_MM = (3.2, 5.0)
"""A surface bears cartilage if another bone is nearer than the first, none beyond the second."""

PLATE_HALF_WIDTH_MM = 0.9

RED_REACH_MM = 15.0
"""Behind a growth plate the blood-forming marrow gives way to fat over such a distance."""
RED_FAT, RED_FAT_BY_YEAR, RED_AGE_YEARS = 0.40, 0.025, 7.0
"""Fat fraction of that marrow at this age, and how it rises: marrow turns yellow as one grows."""
FAT_SPREAD, FAT_GRAIN_MM = 0.08, 7.0
"""Islands of redder and yellower marrow."""
T2_STAR_SPREAD, T2_STAR_GRAIN_MM, T2_STAR_RANGE_MS = 0.3, (1.6, 1.6, 2.4), (5.0, 20.0)
"""Relative; trabeculae of bone disturb the field between them."""
FAR_MM = 100.0


@dataclass(frozen=True)
class Child:
    """What makes one child's ankle different from the mean.

    Attributes
    ----------
    age_years : float
        Sets which growth plates are open.
    size : float
        Length of the bones over the mean child's.
    stretch : (3,) floats
        Further factors along x, y, z.
    roughness_mm : float
        Amplitude of the smooth random warp; zero for the mean child.
    bone_radius : float
        Spread (standard deviation) of each bone's own thickness, as a fraction.
    fat_mm : float
        Depth of the subcutaneous fat.
    seed : int
        Of the warp and of all textures.
    """

    age_years: float = 10.5
    size: float = 1.0
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)
    roughness_mm: float = 0.0
    bone_radius: float = 0.0
    fat_mm: float = 4.0
    seed: int = 0


MEAN_CHILD = Child()


@dataclass
class Bone:
    """A bone in the reference frame.

    Attributes
    ----------
    distance : Field
        One channel: signed distance to the surface in mm, negative inside.
    look : Field
        Coverage by bone and cartilage in [0, 1], and a channel for each contrast: its signal,
        multiplied by the coverage.
    """

    group: str
    distance: Field
    look: Field


@dataclass
class Anatomy:
    """Bones and soft tissue of one child, in the reference frame.

    Attributes
    ----------
    soft : Field
        Share inside the skin in [0, 1], and a channel for each contrast: its signal. It goes on
        under the bones, which are laid over it.
    contrasts : tuple of str
        What the channels show.
    """

    bones: dict[str, Bone]
    soft: Field
    contrasts: tuple[str, ...]

    def channels(self, contrast: str) -> slice:
        """Return the first channel and a contrast's, as a slice: so none is copied."""
        number = 1 + self.contrasts.index(contrast)
        return slice(0, number + 1, number)

    @cached_property
    def group_distances(self) -> Field:
        """Distance in mm (zero inside) to each group of bones, one channel each."""
        grid = Field.empty(
            self.soft.origin_mm, self.soft.high, 2.0, len(GROUPS), torch.device("cpu")
        )
        points = grid.points()
        for bone in self.bones.values():
            block = grid.block(bone.distance.origin_mm, bone.distance.high)
            inside = bone.distance.sample(points[block].to(bone.distance.values.device)) < 0
            channel = GROUPS.index(bone.group)
            grid.values[channel][block] += inside[0].cpu()
        for channel, mask in enumerate(grid.values.numpy() > 0):
            distance = ndimage.distance_transform_edt(~mask, sampling=grid.spacing_mm)
            grid.values[channel] = torch.from_numpy(distance)
        return Field(grid.values.to(self.soft.values.device), grid.origin_mm, grid.spacing_mm)


class _Warp:
    """The map from a child's points to the mean child's, both in mm in the reference frame."""

    def __init__(self, child: Child, device: torch.device) -> None:
        generator = np.random.default_rng(child.seed)
        low, high = np.array([-30, -65, -75]), np.array([30, 110, 60])
        count = 12
        self.scale, self.centres, self.shifts = (
            torch.as_tensor(array, dtype=torch.float32, device=device)
            for array in (
                child.size * np.array(child.stretch),
                generator.uniform(low, high, (count, 3)),
                generator.normal(0, child.roughness_mm, (count, 3)),
            )
        )
        self.width_mm = 20.0
        self.mean_scale = float(self.scale.prod() ** (1 / 3))

    def __call__(self, points: Tensor) -> Tensor:
        points = points / self.scale
        warped = points.clone()
        for centre, shift in zip(self.centres, self.shifts, strict=True):
            squared = (points - centre).square().sum(-1, keepdim=True)
            warped += shift * torch.exp(squared * (-0.5 / self.width_mm**2))
        return warped

    def distance(self, points: Tensor, shapes: Sequence[Ellipsoid], blend_mm: float) -> Tensor:
        """Signed distance (...) in the child to shapes of the mean child."""
        return smooth_union(self(points), shapes, blend_mm) * self.mean_scale

    def box(self, shapes: Sequence[Ellipsoid], margin_mm: float) -> tuple[Tensor, Tensor]:
        """Corners (3,) of a box in the child around shapes of the mean child."""
        centres = torch.tensor([shape.centre_mm for shape in shapes])
        turns = [rotation_matrix(torch.tensor(shape.rotation_deg)) for shape in shapes]
        radii = [torch.tensor(shape.radii_mm) for shape in shapes]
        reach = torch.stack([(a * r).norm(dim=1) for a, r in zip(turns, radii, strict=True)])
        low, high = (centres - reach).amin(0), (centres + reach).amax(0)
        scale = self.scale.cpu()
        return low * scale - margin_mm, high * scale + margin_mm


def build(
    child: Child,
    poses: Sequence[Pose],
    *,
    soft_voxel_mm: float,
    device: torch.device | str = "cpu",
    contrasts: Contrasts = CONTRASTS,
) -> Anatomy:
    """Lay out one child's ankle.

    Parameters
    ----------
    child
        Who it is.
    poses
        The poses between which no two bones may touch.
    soft_voxel_mm
        Grid of the soft tissue; the bones' look has half of it.
    device
        Where everything is computed and kept.
    contrasts
        In which it can be seen; the anatomy does not depend on them.
    """
    device = torch.device(device)
    distances = bone_distances(child, poses, max(DISTANCE_SPACING_MM, soft_voxel_mm), device)
    warp = _Warp(child, device)
    bones = {}
    for name, distance in distances.items():
        look = _bone_look(name, distances, child, warp, soft_voxel_mm / 2, contrasts)
        bones[name] = Bone(GROUP_OF_BONE[name], distance, look)
    soft = _soft_tissue(child, warp, distances, soft_voxel_mm, device, contrasts)
    return Anatomy(bones, soft, tuple(contrasts))


def bone_distances(
    child: Child,
    poses: Sequence[Pose],
    spacing_mm: float = DISTANCE_SPACING_MM,
    device: torch.device | str = "cpu",
) -> dict[str, Field]:
    """Signed distance in mm to each bone of one child, one field each; see `build`."""
    device = torch.device(device)
    warp = _Warp(child, device)
    generator = np.random.default_rng(child.seed + 1)
    margin = 6.0 + 3 * child.roughness_mm
    fields = {}
    for name, shapes in SKELETON.items():
        thicker = 1 + child.bone_radius * float(np.clip(generator.normal(), -2, 2))
        shapes = tuple(shape.thicker(thicker) for shape in shapes)
        low, high = warp.box(shapes, margin)
        field = Field.empty(low, high, spacing_mm, 1, device)
        field.values[0] = warp.distance(field.points(), shapes, blend_mm=1.0)
        fields[name] = field
    _open_joints(fields, poses)
    return fields


def _open_joints(distances: dict[str, Field], poses: Sequence[Pose]) -> None:
    """Carve each bone wherever an earlier one would come closer than the minimum gap."""
    for (other, carver), (name, carved) in itertools.combinations(list(distances.items()), 2):
        nearest = torch.full_like(carved.values[0], torch.inf)
        groups = GROUP_OF_BONE[other], GROUP_OF_BONE[name]
        for pose in poses if groups[0] != groups[1] else poses[:1]:
            to_carver = np.linalg.inv(pose.matrix(groups[0])) @ pose.matrix(groups[1])
            block = arrival(carver.grid, np.linalg.inv(to_carver), carved.grid)
            matrix = torch.from_numpy(to_carver).to(carved.values)
            points = carved.points(block) @ matrix[:3, :3].T + matrix[:3, 3]
            sampled = carver.sample(points, outside="border")[0]
            nearest[block] = torch.minimum(nearest[block], sampled)
        carved.values[0] = torch.maximum(carved.values[0], MINIMUM_GAP_MM - nearest)


def _bone_look(
    name: str,
    distances: dict[str, Field],
    child: Child,
    warp: _Warp,
    voxel_mm: float,
    contrasts: Contrasts,
) -> Field:
    known = distances[name]
    levels = (known.values[0], _nearest_other(name, distances), _plate_offset(name, warp, known))
    distance = Field(torch.stack(levels), known.origin_mm, known.spacing_mm)
    distance = distance.cropped(known.values[0] < CARTILAGE_MM + voxel_mm).resampled(voxel_mm)
    surface, partner, plate_offset = distance.values
    # The distal plates of tibia and fibula are open at all ages of the cohort; that of the
    # calcaneus closes between eleven and thirteen.
    openness = min(max((13.0 - child.age_years) / 2.0, 0.0), 1.0) if name == "calcaneus" else 1.0
    plate = openness * _coverage(plate_offset.abs() - PLATE_HALF_WIDTH_MM, voxel_mm)
    generator = torch.Generator().manual_seed(child.seed * 100 + list(distances).index(name))

    near_mm, far_mm = ARTICULAR_REACH_MM
    articular = ((far_mm - partner) / (far_mm - near_mm)).clamp(0, 1)

    bone = _coverage(surface, voxel_mm)
    cartilage = _coverage(surface - CARTILAGE_MM, voxel_mm) * articular
    cortex_mm = CORTEX_MM.get(name, DEFAULT_CORTEX_MM) * (1 - 0.35 * articular)
    cortex = bone * (1 - _coverage(surface + cortex_mm, voxel_mm))
    marrow = _marrow(distance, plate_offset, child, generator)
    inside = bone * (1 - plate)

    coverage = torch.maximum(bone, cartilage)
    channels = [coverage]
    for contrast in contrasts.values():
        level = {tissue: signal(TISSUES[tissue], contrast) for tissue in TISSUES}
        looks = signal(marrow, contrast)
        looks = looks * (level["marrow"] * inside.sum() / (looks * inside).sum())
        inner = looks * (1 - plate) + level["growth_plate"] * plate
        solid = torch.where(
            bone > 0, inner + (level["cortex"] - inner) * cortex / bone.clamp(min=1e-6), 0.0
        )
        channels.append(bone * solid + (coverage - bone) * level["cartilage"])
    return Field(torch.stack(channels), distance.origin_mm, voxel_mm)


def _marrow(grid: Field, plate_offset: Tensor, child: Child, generator: torch.Generator) -> Tissue:
    """Return marrow as maps of fat, T2* and mineral, which each contrast shows in its own way.

    Where trabeculae are dense, T2* is short.
    """
    red = torch.where(plate_offset > 0, torch.exp(-plate_offset / RED_REACH_MM), 0.0)
    red_fat = RED_FAT + RED_FAT_BY_YEAR * (child.age_years - RED_AGE_YEARS)
    usual = TISSUES["marrow"]
    islands = FAT_SPREAD * grid.noise((FAT_GRAIN_MM,) * 3, generator)
    fat = usual.fat_fraction + islands - red * max(0.0, usual.fat_fraction - red_fat)
    grain = T2_STAR_SPREAD * grid.noise(T2_STAR_GRAIN_MM, generator)
    t2_star = (usual.t2_star_ms * grain.exp()).clamp(*T2_STAR_RANGE_MS)
    mineral = usual.mineral * usual.t2_star_ms / t2_star
    return replace(usual, fat_fraction=fat.clamp(0.1, 0.95), t2_star_ms=t2_star, mineral=mineral)


def _nearest_other(name: str, distances: dict[str, Field]) -> Tensor:
    """Distance (X, Y, Z) in mm on a bone's grid to the nearest other bone; large if far away."""
    grid = distances[name]
    nearest = torch.full(grid.shape, FAR_MM, device=grid.values.device)
    for other, field in distances.items():
        block = grid.block(field.origin_mm, field.high)
        if other != name:
            distance = field.sample(grid.points(block), outside="border")[0]
            nearest[block] = torch.minimum(nearest[block], distance)
    return nearest


def _plate_offset(name: str, warp: _Warp, grid: Field) -> Tensor:
    """Distance (X, Y, Z) in mm from the growth plate's middle; large if there is none.

    It is positive on the shaft's side, negative on that of the bone's end.
    """
    if name not in ("tibia", "fibula", "calcaneus"):
        return torch.full(grid.shape, FAR_MM, device=grid.values.device)
    x, y, z = warp(grid.points()).unbind(-1)
    if name == "tibia":
        offset = z - (15.5 + 1.2 * torch.sin(x / 7.0) + 1.0 * torch.cos(y / 6.0))
    elif name == "fibula":
        offset = z - (1.5 + 0.8 * torch.sin(x / 3.0 + y / 4.0))
    else:
        bulge = ((x + 2.0) ** 2 + (z + 27.0) ** 2) / 55.0
        offset = y - (-49.5 + bulge + 0.9 * torch.sin(z / 3.0))
    return offset * warp.mean_scale


def _soft_tissue(
    child: Child,
    warp: _Warp,
    distances: dict[str, Field],
    voxel_mm: float,
    device: torch.device,
    contrasts: Contrasts,
) -> Field:
    paint = partial(_paint, contrasts)
    scale = warp.scale.cpu()
    low, high = torch.tensor(BOX_LOW_MM) * scale, torch.tensor(BOX_HIGH_MM) * scale
    soft = Field.empty(low, high, voxel_mm, 1 + len(contrasts), device)
    generator = torch.Generator().manual_seed(child.seed * 100 + 99)
    coarse = Field.empty(low, high, COARSE_SPACING_MM, 2, device)
    coarse.values[0] = _skin_distance(coarse, child, warp, distances)
    # Muscles are kept a fat's depth under the skin.
    muscle = warp.distance(coarse.points(), drawn.MUSCLES, blend_mm=1.0)
    coarse.values[1] = torch.maximum(muscle, coarse.values[0] + child.fat_mm)
    skin, muscle = coarse.sample(soft.points(), outside="border")
    whole = (slice(None),) * 3
    soft.values[0] = _coverage(skin, voxel_mm)
    fat = 1 + 0.08 * soft.noise((4.0, 4.0, 4.0), generator)
    paint(soft, whole, _coverage(skin, voxel_mm), "skin")
    paint(soft, whole, _coverage(skin + 1.4, voxel_mm), "fat", fat)
    del fat
    fibres = soft.noise((1.8, 1.8, 14.0), generator)
    bundles = soft.noise((5.0, 4.0, 40.0), generator)
    belly = _coverage(muscle, voxel_mm)
    paint(soft, whole, belly, "muscle", 1 + 0.09 * fibres.clamp(-2.5, 2.5))
    paint(soft, whole, belly * (bundles.abs() < 0.10), "septum")
    del fibres, bundles, belly, skin, muscle

    for cord in drawn.TENDONS:
        _paint_cord(paint, soft, cord, warp, "tendon")
    for cord in drawn.VESSELS:
        _paint_cord(paint, soft, cord, warp, "vessel")
    _paint_joint_spaces(paint, soft, distances)
    soft.values[1:] *= soft.values[:1] > 0
    return soft


def _skin_distance(grid: Field, child: Child, warp: _Warp, distances: dict[str, Field]) -> Tensor:
    """Skin drawn by hand, and at least the fat's depth over every bone."""
    points = grid.points()
    thickness = child.fat_mm - MEAN_CHILD.fat_mm
    skin = warp.distance(points, drawn.SKIN, blend_mm=5.0) - thickness
    for field in distances.values():
        block = grid.block(field.origin_mm, field.high)
        covered = field.sample(points[block], outside="border")[0] - (child.fat_mm + 1.5)
        skin[block] = -torch.logaddexp(-skin[block] / 2.0, -covered / 2.0) * 2.0
    return skin


def _paint(
    contrasts: Contrasts,
    soft: Field,
    block: tuple[slice, ...],
    coverage: Tensor,
    tissue: str,
    texture: Tensor | float = 1.0,
) -> None:
    """Lay ``tissue`` over a block of the soft tissue's signals, as far as it covers."""
    for channel, contrast in enumerate(contrasts.values(), start=1):
        target = soft.values[channel][block]
        seen = signal(TISSUES[tissue], contrast) * texture**contrast.texture
        target += coverage * (seen - target)


def _paint_cord(paint: Paint, soft: Field, cord: Cord, warp: _Warp, tissue: str) -> None:
    reach = cord.radius_mm * max(cord.flatness, 1.0) + 3.0
    scale = warp.scale.cpu()
    for start, end in itertools.pairwise(cord.points):
        ends = torch.tensor([start, end])
        block = soft.block((ends.amin(0) - reach) * scale, (ends.amax(0) + reach) * scale)
        squeeze = torch.tensor([1 / cord.flatness, 1.0, 1.0], device=soft.values.device)
        points = soft.points(block) / warp.scale * squeeze
        first, last = ends.to(points) * squeeze
        axis = last - first
        along = ((points - first) @ axis / axis.square().sum()).clamp(0, 1)
        distance = (points - first - along[..., None] * axis).norm(dim=-1) - cord.radius_mm
        paint(soft, block, _coverage(distance * warp.mean_scale, soft.spacing_mm), tissue)


def _paint_joint_spaces(paint: Paint, soft: Field, distances: dict[str, Field]) -> None:
    """Joint fluid where two bones face each other."""
    for (_, one), (_, two) in itertools.combinations(distances.items(), 2):
        block = soft.block(
            torch.maximum(one.origin_mm, two.origin_mm), torch.minimum(one.high, two.high)
        )
        points = soft.points(block)
        width = one.sample(points, outside="border") + two.sample(points, outside="border")
        paint(soft, block, _coverage(width[0] - 4.5, soft.spacing_mm), "joint_fluid")


def _coverage(distance: Tensor, voxel_mm: float) -> Tensor:
    """Share of a voxel inside a surface at this signed distance (mm) from its centre."""
    return (0.5 - distance / voxel_mm).clamp(0, 1)
