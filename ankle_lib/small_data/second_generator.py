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
STATIC_TIMES_FRAME = {"air": (0, 0), "skin": (420, 380), "fat": (980, 560), "muscle": (470, 600),
                      "tendon": (110, 120), "marrow": (850, 640), "cortex": (130, 150),
                      "cartilage": (560, 900)}  # fmt: skip
"""Brightness in the static scan and in the frames: marrow is as bright as muscle in these."""
TISSUES = tuple(STATIC_TIMES_FRAME)
KINDS = ("static", "frame")
CONTRAST_SPREAD = 0.07
"""Of each brightness from child to child, relative."""
TEXTURE, TEXTURE_GRAIN_MM = 0.10, 4.0
RANGE_DEG = ((-26.0, -17.0), (0.0, 5.0))
"""Deepest plantarflexion and farthest dorsiflexion from the static pose, of a child with equinus."""
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
SLICE_MM, PLANES = 8.0, 4
"""Distance and width of the frames' slices (full width at half maximum), and planes per slice."""
LATTICE_MM = 7.0
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


def make_child(bones: Masks, spacing_mm: float, rng: np.random.Generator) -> Child:
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
    given = torch.from_numpy(np.stack([_signed_distance(mask, spacing_mm) for mask in wide]))
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
        values = [STATIC_TIMES_FRAME[tissue][number] for tissue in TISSUES]
        levels[kind] = dict(zip(TISSUES, (values * spread).tolist(), strict=True))
        bright = np.array([*levels[kind].values()], np.float32)[classes]
        soft[kind] = torch.from_numpy(bright * (1 + TEXTURE * texture))[None]
    tibia = _points(depth[-1], affine)
    plate = float(tibia[:, 2].min() + rng.uniform(11, 16))
    cortex_mm, coil = rng.uniform(*CORTEX_MM), rng.uniform(-COIL, COIL, 2)
    return Child(affine, depth, soft, levels, cortex_mm, plate, coil)


def _flesh(
    depth: Image, affine: Matrix, spacing_mm: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Image]:
    """Return the tissue of each voxel, as its place in `TISSUES`, and a texture of unit variance."""
    shape = depth.shape[1:]
    x, y, z = np.moveaxis(apply(affine, np.moveaxis(np.indices(shape), 0, -1)), -1, 0)
    ankle = _points(torch.from_numpy(depth[1]), affine)
    heel, tibia = (_points(torch.from_numpy(depth[n]), affine) for n in (0, 2))
    outward = np.sign(heel[:, 0].mean() - ankle[:, 0].mean()) or 1.0  # where the fibula is

    def rod(start: Sequence[float], end: Sequence[float], radius: float) -> NDArray[np.float64]:
        """Return the signed distance from a rod with round ends."""
        first, along = np.array(start), np.array(end) - np.array(start)
        apart = np.stack([x, y, z], axis=-1) - first
        part = np.clip(apart @ along / (along @ along), 0, 1)
        found: NDArray[np.float64] = np.linalg.norm(apart - part[..., None] * along, axis=-1)
        return found - radius

    front, sole = ankle[:, 1].max(), heel[:, 2].min() + 8
    edge = tibia[:, 0].mean() + outward * (np.ptp(tibia[:, 0]) / 2 + 9)
    others = [
        rod((edge, tibia[:, 1].mean() - 6, tibia[:, 2].min() - 6), (edge, -10, z.max()), 5.0),
        *(
            rod((a, front + 6, sole + 14), (1.5 * a, front + 90, sole), radius)
            for a, radius in zip((-14.0, 0.0, 14.0), (8.0, 7.0, 7.0), strict=True)
        ),
    ]
    other = np.min(others, axis=0) + 2.5
    back = heel[:, 1].min() + 3
    tendon = np.minimum(
        rod((0, back, heel[:, 2].max() - 8), (0, back + 4, z.max()), TENDON_MM),
        rod(
            (0, front - 2, heel[:, 2].mean()), (0, tibia[:, 1].max() + 7, z.max()), 0.6 * TENDON_MM
        ),
    )
    bone = np.minimum(depth.min(axis=0), other)
    skin = rng.uniform(*SKIN_MM) * np.exp(0.2 * _noise(shape, 25 / spacing_mm, rng))
    below = skin - np.minimum(bone, tendon + 4)
    classes = np.full(shape, TISSUES.index("muscle"))
    classes[_noise(shape, 9 / spacing_mm, rng) > 0.9] = TISSUES.index("fat")
    classes[below < FAT_MM * np.exp(0.5 * _noise(shape, 20 / spacing_mm, rng))] = TISSUES.index(
        "fat"
    )
    classes[tendon < 0] = TISSUES.index("tendon")
    classes[other < 2.0] = TISSUES.index("cartilage")
    classes[other < 0] = TISSUES.index("cortex")
    classes[other < -1.4] = TISSUES.index("marrow")
    classes[below < 1.6] = TISSUES.index("skin")
    classes[below < 0] = TISSUES.index("air")
    return classes, _noise(shape, TEXTURE_GRAIN_MM / spacing_mm, rng)


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

    def _gap(
        self, bone: str, pose: Matrix, other: str, others: Matrix
    ) -> tuple[float, NDArray[np.float64]]:
        """Return the distance of the nearest tenth of a bone, and the way outward there, world."""
        there = apply(compose(invert(others), pose), self.points[bone])
        steps = np.concatenate([np.zeros((1, 3)), 0.5 * np.eye(3), -0.5 * np.eye(3)])
        field = self.child.depth[BONES.index(other)][None]
        where = torch.from_numpy((there[:, None] + steps).astype(np.float32))[None]
        away = _sampled(field, self.child.affine, where)[0, 0].double().numpy()
        near = away[:, 0].argsort()[: int(NEAREST_TENTH * len(away))]
        slope = (away[near, 1:4] - away[near, 4:7]).mean(axis=0)
        outward = others[:3, :3] @ (slope / np.linalg.norm(slope))
        return float(away[near, 0].mean()), outward


def draw_motion(child: Child, rng: np.random.Generator) -> Motion:
    """Draw how a child with equinus moves its foot: out and back, hardly past neutral.

    Parameters
    ----------
    child : Child
    rng : numpy Generator
    """
    points = {bone: _points(child.depth[n], child.affine, rng) for n, bone in enumerate(BONES)}

    def joint(bone: str, other: str) -> NDArray[np.float64]:
        field = child.depth[BONES.index(other)][None]
        where = torch.from_numpy(points[bone].astype(np.float32))[None, None]
        away = _sampled(field, child.affine, where).ravel().numpy()
        return points[bone][away.argsort()[: len(away) // 7]]

    dome, under = joint("talus", "tibia"), joint("calcaneus", "talus")
    # the dome is part of a cylinder across the foot: the circle through it, seen from the side
    flat = dome[:, 1:]
    known = np.column_stack([2 * flat, np.ones(len(flat))])
    centre = np.linalg.lstsq(known, (flat**2).sum(axis=1), rcond=None)[0][:2]
    axes = []
    for direction in (ANKLE_AXIS, SUBTALAR_AXIS):
        drawn = np.array(direction) + rng.normal(0, AXIS_SPREAD, 3)
        axes.append(drawn / np.linalg.norm(drawn))
    low, high = (rng.uniform(*ends) for ends in RANGE_DEG)
    return Motion(
        child,
        points,
        (low, high),
        (axes[0], np.array([dome[:, 0].mean(), *centre])),
        (axes[1], under.mean(axis=0)),
        rng.uniform(*SUBTALAR_SHARE),
        np.stack([rng.normal(0, LEG_DEG / 2, 3), rng.normal(0, LEG_MM / 2, 3)]),
    )


# --- the scanner ---


def scan(
    child: Child,
    moments: Sequence[Poses],
    grid: Grid,
    kind: str,
    rng: np.random.Generator | None,
    gain: float = 1.0,
) -> tuple[Image, NDArray[np.uint8]]:
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
    signals = []
    for number, poses in enumerate(moments):
        thick = kind == "frame" and rng is not None
        signal, shares = _looked_at(child, poses, grid, kind, thick)
        signals.append(signal)
        if number == len(moments) // 2:
            filled = torch.cat([torch.full_like(shares[:1], 0.499), shares]).argmax(dim=0)
    image = torch.stack(signals).mean(dim=0).numpy()
    forward, upward = (apply(grid[1], np.moveaxis(np.indices(grid[0]), 0, -1))[..., 1:] / 80).T
    coil = 1 + child.coil[0] * forward.T + child.coil[1] * upward.T - COIL / 2 * forward.T**2
    image = (gain * coil * image).astype(np.float32)
    if rng is not None:
        image = ndimage.gaussian_filter(image, (BLUR_PIXELS, BLUR_PIXELS, 0))
        grain = (NOISE_GRAIN_PIXELS, NOISE_GRAIN_PIXELS, 0)
        noise = np.stack(
            [ndimage.gaussian_filter(rng.standard_normal(image.shape), grain) for _ in range(2)]
        )
        noise *= NOISE[kind] * child.levels[kind]["muscle"] / noise.std()
        image = np.hypot(image + noise[0], noise[1]).astype(np.float32)
    return image, filled.numpy().astype(np.uint8)


def _looked_at(
    child: Child, poses: Poses, grid: Grid, kind: str, thick: bool
) -> tuple[Tensor, Tensor]:
    """Return the signal (I, J, K) and the share of each bone (3, I, J, K) without any noise."""
    (i, j, k), affine = grid
    count = PLANES if thick else 1
    offsets = np.arange(-count, count + 1) / count if thick else np.zeros(1)
    weights = torch.from_numpy(np.exp2(-((2 * offsets) ** 2)).astype(np.float32))
    planes = np.arange((k - 1) * count + len(offsets)) / count + offsets[0]
    axes = (np.arange(i), np.arange(j), planes)
    points = torch.from_numpy(
        apply(affine, np.stack(np.meshgrid(*axes, indexing="ij"), -1)).astype(np.float32)
    )
    depth = torch.stack([
        _sampled(child.depth[n][None], child.affine, _moved(points, invert(poses[bone])))[0]
        for n, bone in enumerate(BONES)
    ])  # fmt: skip
    soft = _sampled(child.soft[kind], child.affine, _soft_home(child, poses, points))[0]
    level = child.levels[kind]
    first, second = depth.sort(dim=0).values[:2]
    joint = (first < CARTILAGE_MM[0]) & (second < CARTILAGE_MM[1]) & (soft > 0)
    signal = torch.where(joint, level["cartilage"], soft)
    inside = (0.5 - depth).clamp(0, 1)
    plate = (_moved(points, invert(poses["tibia"]))[..., 2] - child.plate_mm).abs() < 1.0
    for number, share in enumerate(inside):
        deep = (0.5 - depth[number] - child.cortex_mm).clamp(0, 1)
        marrow = level["marrow"] * (soft / level["muscle"]).clamp(0.9, 1.1)
        if BONES[number] == "tibia":
            marrow = torch.where(plate, level["cartilage"], marrow)
        bone = level["cortex"] + deep * (marrow - level["cortex"])
        signal = signal + share * (bone - signal)
    together = torch.cat([signal[None], inside]).unfold(-1, len(weights), count)
    seen = together @ (weights / weights.sum())
    return seen[0], seen[1:]


def _soft_home(child: Child, poses: Poses, points: Tensor) -> Tensor:
    """Return where soft tissue at points (I, J, K, 3) comes from: bones' displacements, blended."""
    size = [max(2, int(np.ptp(points[..., a].numpy()) / LATTICE_MM)) for a in (1, 2, 0)]
    coarse = functional.interpolate(
        points.permute(3, 0, 1, 2)[None], size=size, mode="trilinear", align_corners=True
    )[0].permute(1, 2, 3, 0)
    total, weights = torch.zeros_like(coarse), torch.zeros_like(coarse[..., :1])
    for number, bone in enumerate(BONES):
        home = _moved(coarse, invert(poses[bone]))
        away = _sampled(child.depth[number][None], child.affine, home)[0].clamp_min(0)
        weight = (away[..., None] + 2.0) ** -2
        total, weights = total + weight * (home - coarse), weights + weight
    shift = (total / weights).permute(3, 0, 1, 2)[None]
    fine = functional.interpolate(
        shift, size=points.shape[:3], mode="trilinear", align_corners=True
    )
    return points + fine[0].permute(1, 2, 3, 0)


# --- fields ---


def _signed_distance(mask: NDArray[np.bool_], spacing_mm: float) -> Image:
    inside, outside = (
        ndimage.distance_transform_edt(one, [spacing_mm] * 3) for one in (mask, ~mask)
    )
    smooth: Image = ndimage.gaussian_filter((outside - inside).astype(np.float32), 0.8)
    return smooth


def _sampled(fields: Tensor, affine: Matrix, points: Tensor) -> Tensor:
    """Interpolate fields (C, I, J, K) at world points (X, Y, Z, 3); beyond, the border goes on."""
    home = _moved(points, np.linalg.inv(affine))
    scale = 2 / (torch.tensor(fields.shape[1:]) - 1)
    where = (home * scale - 1).flip(-1)
    if where.ndim < 4:
        where = where.reshape(*[1] * (4 - where.ndim), *where.shape)
    found = functional.grid_sample(
        fields[None], where[None], padding_mode="border", align_corners=True
    )[0]
    return found.reshape(len(fields), *points.shape[:-1])


def _moved(points: Tensor, matrix: Matrix) -> Tensor:
    rows = torch.from_numpy(matrix[:3]).to(points)
    return points @ rows[:, :3].T + rows[:, 3]


def _points(
    depth: Tensor, affine: Matrix, rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """Return world points (N, 3) of a bone's voxels; with a generator, some of its surface."""
    if rng is None:
        return apply(affine, np.argwhere(depth.numpy() < 0))
    found = np.argwhere(np.abs(depth.numpy()) < 0.35 * abs(affine[0, 2]) + 0.3)
    chosen = rng.permutation(len(found))[:CONTACT_POINTS]
    return apply(affine, found[chosen])


def _noise(shape: tuple[int, ...], grain: float, rng: np.random.Generator) -> Image:
    """Return smooth noise of unit variance: a cubic spline of random coefficients."""
    made = rng.standard_normal([int(n / grain) + 4 for n in shape])
    for n in shape:  # one axis after the other, each in turn the first
        place = (np.arange(n) / grain)[:, None] - np.arange(int(n / grain) + 4) + 1
        away = np.abs(place)
        near = (4 - 6 * away**2 + 3 * away**3) / 6
        made = np.tensordot(np.where(away < 1, near, (2 - away).clip(0) ** 3 / 6), made, (1, 0))
        made = np.moveaxis(made, 0, -1)
    return np.asarray(made / made.std(), dtype=np.float32)
