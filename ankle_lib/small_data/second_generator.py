"""A second simulator of moving children's ankles: the target domain of chapter 08.

It shares no code with the phantom and knows nothing of it: bones are warped from given masks, flesh
is laid around them by distances, bones turn about oblique axes and keep the width of their joints,
soft tissue follows by blended displacements, and another scanner, with Gaussian slices, looks at it
while it moves. Networks that meet these scans for the first time meet another world. That world is
simulated too: whatever is learnt here is from simulation to simulation.

World coordinates are mm to the right, anterior and superior, about the middle of the talus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ankle_lib.geometry import Grid, Matrix, apply, compose, invert, rigid
from ankle_lib.presets import BONES

Image = NDArray[np.float32]
Masks = Mapping[str, NDArray[np.bool_]]
Poses = dict[str, Matrix]
Random = np.random.Generator

SCALES = (0.88, 1.08)
"""Of a child's bones, over the given ones."""
WARP_MM, WARP_GRAIN_MM = 1.3, 32.0
"""How much bones differ in shape: standard deviation of a smooth warp, and its grain."""
SIDE_MM = 12.0
"""Flesh on either side of the given grid."""
SKIN_MM = (9.0, 15.0)
"""From the bones to the skin."""
FAT_MM, CORTEX_MM, CARTILAGE_MM = 4.0, (1.0, 1.8), (2.5, 6.0)
"""Thickness of fat and cortex; nearer than this to one bone, and to a second, is cartilage."""
TENDON_MM = 4.0
BRIGHTNESS = {"air": (0, 0), "skin": (420, 380), "fat": (980, 560), "muscle": (470, 600),
              "tendon": (110, 120), "marrow": (850, 640), "cortex": (130, 150),
              "cartilage": (560, 900)}  # fmt: skip
"""Brightness in the static scan and in the frames: marrow is as bright as muscle in these."""
TISSUES = tuple(BRIGHTNESS)
KINDS = ("static", "frame")
CONTRAST_SPREAD = 0.07
"""Of each brightness from child to child, relative."""
TEXTURE, TEXTURE_GRAIN_MM = 0.10, 4.0
RANGE_DEG = ((-26.0, -17.0), (0.0, 5.0))
"""Deepest plantarflexion and farthest dorsiflexion from the static pose: equinus."""
ANKLE_AXIS, SUBTALAR_AXIS = (1.0, 0.10, -0.14), (0.45, 0.72, 0.53)
"""Oblique: the axis of the ankle leaves the right-left direction, that of the subtalar joint points
forward and upward."""
AXIS_SPREAD = 0.07
SUBTALAR_SHARE = (0.15, 0.35)
"""Turn of the calcaneus under the talus, over that of the talus under the tibia."""
LEG_DEG, LEG_MM = 2.5, 2.0
"""The whole leg is not held quite still."""
NEAREST_TENTH, CONTACT_STEPS, CONTACT_POINTS = 0.1, 6, 1500
EXPOSURE, EXPOSURES = 0.6, 3
"""Part of the time between frames in which one is measured; it is the mean of so many moments."""
SLICE_MM, PLANES = 8.0, 3
"""Distance and width of the frames' slices (full width at half maximum), and planes per slice."""
NOISE = {"static": 0.04, "frame": 0.09}
"""Standard deviation of the noise, over the brightness of muscle."""
BLUR_PIXELS, NOISE_GRAIN_PIXELS = 0.6, 0.6
COIL, DRIFT = 0.35, 0.06
"""Shading by the coil and drift of the gain over the frames."""


@dataclass(frozen=True, eq=False)
class Child:
    """A child's foot in the pose of its static scan.

    Attributes
    ----------
    affine : (4, 4) array
        Of the fields' grid; axes posterior, superior, right.
    depth : Tensor (3, I, J, K)
        Signed distance in mm from each of `presets.BONES`, negative inside.
    soft : dict of kind of scan to Tensor (1, I, J, K)
        Brightness of everything but the three bones and their cartilage.
    levels : dict of kind of scan to dict of tissue to brightness
    cortex_mm : float
    plate_mm : float
        World height of the tibia's growth plate.
    coil : (2,) array
        Slope of the coil's shading along anterior and superior.
    """

    affine: Matrix
    depth: Tensor
    soft: dict[str, Tensor]
    levels: dict[str, dict[str, float]]
    cortex_mm: float
    plate_mm: float
    coil: NDArray[np.float64]

    def distance(self, bone: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the signed distance (N, ...) in mm of world points (N, ..., 3) from a bone."""
        where = torch.from_numpy(points.reshape(-1, 1, 1, 3).astype(np.float32))
        field = self.depth[BONES.index(bone)][None]
        return _sampled(field, self.affine, where).double().numpy().reshape(points.shape[:-1])


def make_child(bones: Masks, spacing_mm: float, rng: Random) -> Child:
    """Return a child whose bones are like the given ones, in flesh of its own.

    Parameters
    ----------
    bones : mapping of bone to (I, J, K) bool array
        Of `presets.BONES`; axes posterior, superior, right.
    spacing_mm : float
        Of their voxels, along all axes, and of the child's fields.
    rng : numpy Generator
        Decides the child.
    """
    side = round(SIDE_MM / spacing_mm)
    wide = [np.pad(bones[bone], ((0, 0), (0, 0), (side, side))) for bone in BONES]
    top = int(np.flatnonzero(wide[-1].any(axis=(0, 2)))[-1] - round(4 / spacing_mm))
    wide = [mask[:, : top + 1] for mask in wide]  # the shank goes on beyond the field of view
    apart = [[ndimage.distance_transform_edt(one) for one in (~mask, mask)] for mask in wide]
    smooth = [ndimage.gaussian_filter(outside - inside, 0.8) for outside, inside in apart]
    given = torch.from_numpy(spacing_mm * np.stack(smooth).astype(np.float32))
    middle = np.argwhere(wide[1]).mean(axis=0)
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -spacing_mm, spacing_mm, spacing_mm, 1
    affine[:3, 3] = -affine[:3, :3] @ middle
    scale = rng.uniform(*SCALES)
    shape = wide[0].shape
    home = torch.from_numpy(apply(affine, np.moveaxis(np.indices(shape), 0, -1)).astype(np.float32))
    warp = np.stack([_noise(shape, WARP_GRAIN_MM / spacing_mm, rng) for _ in range(3)], axis=-1)
    home = home / scale + WARP_MM * torch.from_numpy(warp)
    depth = scale * _sampled(given, affine, home)
    classes, texture = _flesh(depth.numpy(), affine, spacing_mm, rng)
    levels, soft = {}, {}
    spread = np.exp(rng.normal(0, CONTRAST_SPREAD, len(TISSUES)))
    for number, kind in enumerate(KINDS):
        values = [BRIGHTNESS[tissue][number] for tissue in TISSUES]
        levels[kind] = dict(zip(TISSUES, (np.array(values) * spread).tolist(), strict=True))
        bright = np.array([*levels[kind].values()], np.float32)[classes]
        soft[kind] = torch.from_numpy(bright * (1 + TEXTURE * texture))[None]
    tibia = apply(affine, np.argwhere(depth[-1].numpy() < 0))
    plate = float(tibia[:, 2].min() + rng.uniform(11, 16))
    cortex_mm, coil = rng.uniform(*CORTEX_MM), rng.uniform(-COIL, COIL, 2)
    return Child(affine, depth, soft, levels, cortex_mm, plate, coil)


def _flesh(depth: Image, affine: Matrix, spacing_mm: float, rng: Random) -> tuple[NDArray, Image]:
    """Return the tissue of each voxel, as its place in `TISSUES`, and a texture."""
    shape = depth.shape[1:]
    world = apply(affine, np.moveaxis(np.indices(shape), 0, -1))
    heel, ankle, tibia = (apply(affine, np.argwhere(one < 0)) for one in depth)
    top, front, sole = world[..., 2].max(), ankle[:, 1].max(), heel[:, 2].min() + 8
    outward = np.sign(heel[:, 0].mean() - ankle[:, 0].mean()) or 1.0  # where the fibula is
    edge = tibia[:, 0].mean() + outward * (np.ptp(tibia[:, 0]) / 2 + 9)
    back, fore = heel[:, 1].min() + 3, tibia[:, 1].max() + 7
    rays = [((a, front + 6, sole + 14), (1.5 * a, front + 90, sole), 5.0) for a in (-14, 0, 14)]
    fibula = ((edge, tibia[:, 1].mean() - 6, tibia[:, 2].min() - 6), (edge, -10, top), 3.0)
    achilles = ((0, back, heel[:, 2].max() - 8), (0, back + 4, top), TENDON_MM)
    extensor = ((0, front - 2, heel[:, 2].mean()), (0, fore, top), 0.6 * TENDON_MM)
    other = np.min([_rod(world, *one) for one in (fibula, *rays)], axis=0)
    tendon = np.min([_rod(world, *one) for one in (achilles, extensor)], axis=0)
    skin = rng.uniform(*SKIN_MM) * np.exp(0.2 * _noise(shape, 25 / spacing_mm, rng))
    below = skin - np.min([*depth, other, tendon + 4], axis=0)
    fat = FAT_MM * np.exp(0.5 * _noise(shape, 20 / spacing_mm, rng))
    blobs = _noise(shape, 9 / spacing_mm, rng) > 0.9
    classes = np.full(shape, TISSUES.index("muscle"))
    for tissue, where in (
        ("fat", blobs | (below < fat)),
        ("tendon", tendon < 0),
        ("cartilage", other < 2.0),
        ("cortex", other < 0),
        ("marrow", other < -1.4),
        ("skin", below < 1.6),
        ("air", below < 0),
    ):
        classes[where] = TISSUES.index(tissue)
    return classes, _noise(shape, TEXTURE_GRAIN_MM / spacing_mm, rng)


def _rod(world: Matrix, start: Sequence[float], end: Sequence[float], radius: float) -> Matrix:
    """Return the signed distance (I, J, K) in mm from a rod with round ends."""
    apart, along = world - np.array(start), np.array(end) - np.array(start)
    part = np.clip(apart @ along / (along @ along), 0, 1)[..., None]
    return np.asarray(np.linalg.norm(apart - part * along, axis=-1) - radius)


# --- motion ---


@dataclass(frozen=True, eq=False)
class Motion:
    """How a child's bones move; draw one with `draw_motion`."""

    child: Child
    points: dict[str, NDArray[np.float64]]
    range_deg: tuple[float, float]
    ankle: tuple[NDArray[np.float64], NDArray[np.float64]]
    """Direction and a point of the axis."""
    subtalar: tuple[NDArray[np.float64], NDArray[np.float64]]
    share: float
    leg: NDArray[np.float64]
    """(2, 3) sway: degrees and mm."""

    def dorsiflexion_deg(self, moment: float) -> float:
        """Return the angle from the static pose at a moment of the cycle, from 0 to 1."""
        low, high = self.range_deg
        return float(low + (high - low) * (0.5 + 0.5 * np.cos(2 * np.pi * moment)))

    def poses(self, moment: float) -> Poses:
        """Return the pose of each bone, static world to frame world, at a moment of the cycle."""
        angle = self.dorsiflexion_deg(moment)
        sway = np.sin(2 * np.pi * moment + np.arange(3))
        leg = rigid(self.leg[0] * sway, self.leg[1] * sway)
        tibia = np.eye(4)
        talus = rigid(angle * self.ankle[0], (0, 0, 0), self.ankle[1])
        talus = self._in_contact("talus", talus, "tibia", tibia)
        heel = rigid(self.share * angle * self.subtalar[0], (0, 0, 0), self.subtalar[1])
        heel = self._in_contact("calcaneus", talus @ heel, "talus", talus)
        found = {"calcaneus": heel, "talus": talus, "tibia": tibia}
        return {bone: compose(leg, found[bone]) for bone in BONES}

    def _in_contact(self, bone: str, pose: Matrix, other: str, others: Matrix) -> Matrix:
        """Shift a bone until its joint is as wide as in the static scan."""
        at_home, _ = self._gap(bone, np.eye(4), other, np.eye(4))
        for _ in range(CONTACT_STEPS):
            gap, normal = self._gap(bone, pose, other, others)
            pose = rigid((0, 0, 0), (at_home - gap) * normal) @ pose
        return pose

    def _gap(self, bone: str, pose: Matrix, other: str, others: Matrix) -> tuple[float, Matrix]:
        """Return the distance of the nearest tenth of a bone, and the way outward there, world."""
        there = apply(compose(invert(others), pose), self.points[bone])
        away = self.child.distance(other, there)
        near = away.argsort()[: int(NEAREST_TENTH * len(away))]
        steps = 0.5 * np.concatenate([np.eye(3), -np.eye(3)])
        beside = self.child.distance(other, there[near, None] + steps)
        slope = (beside[:, :3] - beside[:, 3:]).mean(axis=0)
        outward = others[:3, :3] @ (slope / np.linalg.norm(slope))
        return float(away[near].mean()), outward


def draw_motion(child: Child, rng: Random) -> Motion:
    """Draw how a child with equinus moves its foot: out and back, hardly past neutral.

    Parameters
    ----------
    child : Child
    rng : numpy Generator
    """
    points = {}
    for bone, depth in zip(BONES, child.depth.numpy(), strict=True):
        surface = np.argwhere(np.abs(depth) < 0.35 * child.affine[0, 2] + 0.3)
        points[bone] = apply(child.affine, rng.permutation(surface)[:CONTACT_POINTS])
    dome, under = (
        points[bone][child.distance(other, points[bone]).argsort()[: len(points[bone]) // 7]]
        for bone, other in (("talus", "tibia"), ("calcaneus", "talus"))
    )
    # the dome is part of a cylinder across the foot: the circle through it, seen from the side
    flat = dome[:, 1:]
    known = np.column_stack([2 * flat, np.ones(len(flat))])
    centre = np.linalg.lstsq(known, (flat**2).sum(axis=1), rcond=None)[0][:2]
    axes = []
    for direction in (ANKLE_AXIS, SUBTALAR_AXIS):
        drawn = np.array(direction) + rng.normal(0, AXIS_SPREAD, 3)
        axes.append(drawn / np.linalg.norm(drawn))
    low, high = (rng.uniform(*ends) for ends in RANGE_DEG)
    ankle = (axes[0], np.array([dome[:, 0].mean(), *centre]))
    leg = rng.normal(0, 0.5, (2, 3)) * [[LEG_DEG], [LEG_MM]]
    share = rng.uniform(*SUBTALAR_SHARE)
    return Motion(child, points, (low, high), ankle, (axes[1], under.mean(axis=0)), share, leg)


# --- the scanner ---


def scan(
    child: Child, moments: Sequence[Poses], grid: Grid, kind: str,
    rng: Random | None, gain: float = 1.0,
) -> tuple[Image, NDArray[np.uint8]]:  # fmt: skip
    """Take one image, and tell where the bones are in the middle of its moments.

    Parameters
    ----------
    child : Child
    moments : sequence of poses
        The image is the mean over them.
    grid : shape and affine
        Axes posterior, superior, right; slices along the last one.
    kind : {"static", "frame"}
        Frames have thick slices.
    rng : numpy Generator, optional
        Of the noise. Without it the image is what no scanner measures: thin slices, no noise.
    gain : float

    Returns
    -------
    image : (I, J, K) float32 array
    labels : (I, J, K) uint8 array
        Bone that fills at least half of a voxel, as the slice sees it; see `presets.LABELS`.

    Examples
    --------
    >>> image, labels = scan(child, [motion.poses(0.5)], grid, "frame", rng)
    """
    count = PLANES if kind == "frame" and rng is not None else 1
    offsets = np.arange(-count, count + 1) / count if count > 1 else np.zeros(1)
    weights = torch.from_numpy(np.exp2(-((2 * offsets) ** 2)).astype(np.float32))
    planes = np.arange((grid[0][2] - 1) * count + len(offsets)) / count + offsets[0]
    voxels = np.meshgrid(np.arange(grid[0][0]), np.arange(grid[0][1]), planes, indexing="ij")
    points = torch.from_numpy(apply(grid[1], np.stack(voxels, -1)).astype(np.float32))
    profile = (weights / weights.sum(), count)
    seen = [_looked_at(child, poses, points, kind, *profile) for poses in moments]
    shares = seen[len(seen) // 2][1]
    filled = torch.cat([torch.full_like(shares[:1], 0.499), shares]).argmax(dim=0)
    image = torch.stack([signal for signal, _ in seen]).mean(dim=0).numpy()
    forward, upward = (apply(grid[1], np.moveaxis(np.indices(grid[0]), 0, -1))[..., 1:] / 80).T
    coil = 1 + child.coil[0] * forward.T + child.coil[1] * upward.T - COIL / 2 * forward.T**2
    image = (gain * coil * image).astype(np.float32)
    if rng is not None:
        image = ndimage.gaussian_filter(image, (BLUR_PIXELS, BLUR_PIXELS, 0))
        grain = (NOISE_GRAIN_PIXELS, NOISE_GRAIN_PIXELS, 0)
        noise = ndimage.gaussian_filter(rng.standard_normal((2, *image.shape)), (0, *grain))
        noise *= NOISE[kind] * child.levels[kind]["muscle"] / noise.std()
        image = np.hypot(image + noise[0], noise[1]).astype(np.float32)
    return image, filled.numpy().astype(np.uint8)


def _looked_at(
    child: Child, poses: Poses, points: Tensor, kind: str, weights: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the signal (I, J, K) and the share of each bone (3, I, J, K) without any noise.

    Slices are sums of the points' planes (I, J, P, 3), each ``count`` planes after the other.
    """
    homes = [_moved(points, invert(poses[bone])) for bone in BONES]
    fields = zip(child.depth, homes, strict=True)
    depth = torch.stack([_sampled(field[None], child.affine, home)[0] for field, home in fields])
    # soft tissue follows the bones: a mean of where they come from, the nearest first
    weights_of = (depth.clamp_min(0) + 2.0) ** -2
    blended = torch.einsum("bijk,bijkc->ijkc", weights_of / weights_of.sum(0), torch.stack(homes))
    soft = _sampled(child.soft[kind], child.affine, blended)[0]
    level = child.levels[kind]
    first, second = depth.sort(dim=0).values[:2]
    joint = (first < CARTILAGE_MM[0]) & (second < CARTILAGE_MM[1]) & (soft > 0)
    signal = torch.where(joint, level["cartilage"], soft)
    inside = (0.5 - depth).clamp(0, 1)
    plate = (homes[-1][..., 2] - child.plate_mm).abs() < 1.0
    for number, share in enumerate(inside):
        deep = (0.5 - depth[number] - child.cortex_mm).clamp(0, 1)
        marrow = level["marrow"] * (soft / level["muscle"]).clamp(0.9, 1.1)
        if BONES[number] == "tibia":
            marrow = torch.where(plate, level["cartilage"], marrow)
        bone = level["cortex"] + deep * (marrow - level["cortex"])
        signal = signal + share * (bone - signal)
    together = torch.cat([signal[None], inside]).unfold(-1, len(weights), count)
    seen = together @ weights
    return seen[0], seen[1:]


# --- fields ---


def _sampled(fields: Tensor, affine: Matrix, points: Tensor) -> Tensor:
    """Interpolate fields (C, I, J, K) at world points (X, Y, Z, 3); beyond, the border goes on."""
    sides = 2 / (np.array(fields.shape[1:]) - 1)
    to_sampler = np.column_stack([np.diag(sides), -np.ones(3)])[::-1] @ np.linalg.inv(affine)
    where = _moved(points, to_sampler)[None]
    return functional.grid_sample(fields[None], where, padding_mode="border", align_corners=True)[0]


def _moved(points: Tensor, matrix: NDArray[np.floating]) -> Tensor:
    rows = torch.from_numpy(np.ascontiguousarray(matrix[:3])).to(points)
    return torch.addmm(rows[:, 3], points.reshape(-1, 3), rows[:, :3].T).view(points.shape)


def _noise(shape: tuple[int, ...], grain: float, rng: Random) -> Image:
    """Return smooth noise of unit variance: a cubic spline of random coefficients."""
    made = rng.standard_normal([int(n / grain) + 4 for n in shape])
    for n in shape:  # one axis after the other, each in turn the first
        place = (np.arange(n) / grain)[:, None] - np.arange(int(n / grain) + 4) + 1
        away = np.abs(place)
        near = (4 - 6 * away**2 + 3 * away**3) / 6
        made = np.tensordot(np.where(away < 1, near, (2 - away).clip(0) ** 3 / 6), made, (1, 0))
        made = np.moveaxis(made, 0, -1)
    return np.asarray(made / made.std(), dtype=np.float32)
