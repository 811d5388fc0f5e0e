"""Scans of a foot as other scanners, other moments and other children would have given them.

Networks that have seen one kind of image take its contrast for the bone. So each training scan is
painted anew: contrast, slice thickness, sharpness, shading, noise, pose, side and field of view
are drawn at random, as SynthSeg does (Billot et al., Med. Image Anal. 2023,
doi:10.1016/j.media.2023.102789), but through slices as a scanner takes them: every voxel is the
mean over its slice. The bones move rigidly; what lies between them follows. What a foot is made of,
voxel by voxel, is told from its static scan.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.spatial.transform import RigidTransform, Rotation
from torch import Tensor
from torch.nn import functional

from ankle_lib.geometry import apply, bounding_box, rigid
from ankle_lib.learning.scans import Scan, coarser, factor_for
from ankle_lib.motion_fields import finer, flow_back
from ankle_lib.patches.items import Item, zscore
from ankle_lib.presets import BONES

Array = NDArray[np.float64]
Image = NDArray[np.float32]
Masks = Mapping[str, NDArray[np.bool_]]

N_SOFT = 5
"""Classes of the soft tissue and the other bones, from the darkest of a T1 scan to the brightest:
cortex and tendons, skin, muscle, cartilage and marrow, fat."""
AIR, JOINT = 0, N_SOFT + 1
"""Classes before and after those: air, and what lies between two bones, mostly cartilage."""

JOINT_REACH_MM = (3.0, 5.0)
"""Between two bones is what is nearer than the first to one and than the second to another."""
RIM_MM = 2.0
"""The texture of a bone fades towards its surface, where the scan has a cortex of its own."""
MARGIN_MM = 8.0
CLOSING_MM = 2.5
"""Gaps in the mask of the foot twice as wide are closed."""
SMOOTH_MM = 0.6
"""Of the scan before it is told apart into classes: its noise would speckle them."""
MOST_TEXTURE = 2.5
EVERY = 7
"""Classes are found on every so-many-th voxel."""
ROUNDS = 15
LATTICE_MM = 7.0
"""Spacing at which the motion of the foot is computed; between, it is interpolated."""
DISTANCE_STEP_MM = 3.0
"""Spacing of the bones' distances, by which the soft tissue follows them."""
FLOW_STEPS = 2
AXIS_SPREAD = 0.12
"""How far the ankle's axis leaves the right-left direction, as a tangent (standard deviation)."""
PLANE_MM = 1.6
"""Distance at most of the planes that are averaged to a slice."""
FINER = 0.8
"""Pixels of the tissues, over those of the scans that are made of them, at about."""
COIL_MM = (40.0, 90.0)
"""Width of a coil's sensitivity."""
FOOT_SHARE = (0.1, 0.25)
"""Masks of the foot are what is brighter than a threshold, so they leave out what is darker than
this part of the foot's median."""
GAUSSIAN_MEAN, GAUSSIAN_SPREAD = (0.05, 1.0), (0.05, 0.35)
"""Brightness of a label of a Gaussian look, and its standard deviation within the label."""
AIR_MM = (4.0, 20.0)
"""Air so close to the foot is never black."""


@dataclass(frozen=True, eq=False)
class Tissues:
    """A foot without any brightness; axes posterior, superior, right.

    Attributes
    ----------
    spacing_mm : three floats
    classes : (I, J, K) uint8 array
        `AIR`, 1 to `N_SOFT`, or `JOINT`; under the bones too.
    texture : (I, J, K) float32 array
        How much brighter a voxel is than its class or bone, in standard deviations of the foot.
    depth_mm : (I, J, K) float32 array
        Below the surface of the bone that a voxel belongs to; negative outside.
    bones : mapping of bone to (I, J, K) bool array
    foot : (I, J, K) bool array
        Without holes.
    marrow_class : int
        Which soft class the marrow is most like, from 0.
    """

    spacing_mm: tuple[float, float, float]
    classes: NDArray[np.uint8]
    texture: Image
    depth_mm: Image
    bones: Masks
    foot: NDArray[np.bool_]
    marrow_class: int


@dataclass(frozen=True)
class Contrast:
    """How bright one scan shows the tissues; 1 is about the brightest, 0 is air.

    Attributes
    ----------
    soft : N_SOFT floats
    joint : float
    bones : three floats
        Marrow, in the order of `presets.BONES`.
    cortex : float
    cortex_mm : float
        Its thickness; 0 is none.
    soft_texture, bone_texture : float
        Brightness per unit of the texture; negative ones turn it over.
    red : float
        Brightness of red marrow over that of the yellow rest.
    red_mm : float
        The marrow turns from red to yellow within about this distance of the growth plate.
    plate_mm : float
        Thickness of the growth plate, which is as bright as a joint.
    plates : three pairs of floats, or None for bones without
        For each bone two of its voxels, as parts of their number: the plate passes through the
        first, across the line to the second, and red marrow lies on that side.
    """

    soft: tuple[float, ...]
    joint: float
    bones: tuple[float, ...]
    cortex: float
    cortex_mm: float
    soft_texture: float
    bone_texture: float
    red: float = 1.0
    red_mm: float = 15.0
    plate_mm: float = 0.0
    plates: tuple[tuple[float, float] | None, ...] = (None,) * len(BONES)


@dataclass(frozen=True)
class ScanRanges:
    """How different the scans may be; ranges are (least, most), drawn evenly.

    Within sagittal slices feet are turned later, patch by patch.
    """

    alike: float = 0.4
    """Share of scans in which marrow, muscle and fat are about as bright, as in fast sequences."""
    same_marrow: float = 0.5
    """Share in which the three bones are as bright as the other bones."""
    dark_cortex: float = 0.9
    """Share in which cortex and tendons are dark."""
    cortex_mm: tuple[float, float] = (0.3, 2.0)
    """Thickness of the cortex."""
    alike_cortex_mm: tuple[float, float] = (0.8, 2.0)
    """The same where all else is alike: then the cortex, which is dark, alone draws the bones."""
    bone_texture: tuple[float, float] = (-0.6, 0.3)
    """Brightness per unit of the marrow's texture; turned over, growth plates are bright."""
    soft_texture: tuple[float, float] = (0.0, 0.25)
    """The same for everything else."""
    red: float = 0.7
    """Share in which red marrow, towards the shaft from a growth plate, has a brightness of its
    own: darker than yellow marrow in a T1 scan, brighter where fat is suppressed."""
    red_contrast: float = 3.0
    """Red marrow is up to this times as bright as yellow marrow, or as dark."""
    red_mm: tuple[float, float] = (5.0, 40.0)
    """Reach of red marrow from the plate."""
    plate_mm: tuple[float, float] = (0.0, 3.0)
    """Thickness of the plate."""
    plated: tuple[str, ...] = ("calcaneus", "tibia")
    """Bones with a growth plate and red marrow behind it."""
    ankle_deg: float = 25.0
    """Talus and calcaneus turn up to this about the ankle's right-left axis, either way."""
    bone_deg: float = 4.0
    """Standard deviation of a further turn of each bone about its centre."""
    bone_mm: float = 0.5
    """Standard deviation of a shift of each bone, along each axis."""
    tilt_deg: float = 15.0
    """The leg is turned up to this out of the sagittal plane, about each of two axes."""
    shift_mm: float = 10.0
    """Shift of the whole leg, up to this along each axis."""
    scale: float = 1.12
    """The foot is made larger up to this factor, or smaller down to its inverse."""
    mirrored: float = 0.5
    """Share of feet of the other side."""
    cut: float = 0.6
    """Share, at most, of what lies around the bones that the field of view leaves out."""
    thick: float = 0.85
    """Share of scans with thick slices: a scan with thin ones has ten times as many."""
    thick_mm: tuple[float, float] = (5.0, 10.0)
    thin_mm: tuple[float, float] = (0.8, 2.0)
    smooth_profile: float = 0.3
    """Share of scans whose slices have no box for a profile but a Gaussian of the same width."""
    sharpness: tuple[float, float] = (0.55, 1.0)
    """Share of k-space that is measured, along each axis of a slice."""
    shading: tuple[float, float] = (0.0, 0.5)
    """How much brighter than the middle the coil makes what lies nearest to it."""
    noise: tuple[float, float] = (0.01, 0.15)
    """Standard deviation of the noise over the mean brightness of the foot."""
    ct: float = 0.0
    """Share of scans that show attenuation, as CT does: bright cortex, all that is soft alike."""
    black_air: float = 0.5
    """Share of scans in which the air far from the foot was set to zero."""


def random_scans(
    scan: Scan,
    n: int,
    rng: np.random.Generator,
    *,
    pixel_mm: float,
    ranges: ScanRanges = ScanRanges(),
) -> list[Scan]:
    """Return scans painted anew from one subject's static scan.

    Parameters
    ----------
    scan : Scan
        The static scan with its three bones, pixels no larger than ``pixel_mm``.
    n : int
    rng : numpy Generator
    pixel_mm : float
        Pixels of the results.
    ranges : ScanRanges, optional

    Returns
    -------
    list of Scan
        Normalised inside the foot; a voxel has the label that fills at least half of it.

    Examples
    --------
    >>> made = random_scans(scan, 10, np.random.default_rng(0), pixel_mm=1.6)
    """
    tissues = tissues_of(coarser(scan, factor_for(scan, FINER * pixel_mm)))
    found = []
    for number in range(n):
        contrast = draw_contrast(ranges, tissues.marrow_class, rng)
        names = (scan.code, scan.group, f"random {number}")
        found.append(take(tissues, contrast, ranges, rng, pixel_mm, names))
    return found


def gaussian_looks(scan: Scan, n: int, rng: np.random.Generator, *, pixel_mm: float) -> list[Scan]:
    """Return scans in which every label is noise about one mean: no cortex, no texture, no physics.

    Labels are the three bones, what lies between them, and the classes of the soft tissue. Pose,
    slices, field of view and noise are drawn as for `random_scans`.

    Parameters
    ----------
    scan : Scan
        A static scan with its three bones.
    n : int
    rng : numpy Generator
    pixel_mm : float
        Of the results.

    Examples
    --------
    >>> made = gaussian_looks(scan, 10, np.random.default_rng(0), pixel_mm=2.5)
    """
    tissues = tissues_of(coarser(scan, factor_for(scan, pixel_mm)))
    labels = tissues.classes.copy()
    for number, bone in enumerate(BONES, JOINT + 1):
        labels[tissues.bones[bone]] = number
    found = []
    for number in range(n):
        spread = rng.uniform(*GAUSSIAN_SPREAD, JOINT + 1 + len(BONES)).astype(np.float32)
        spread[AIR] = 0
        noise = rng.standard_normal(labels.shape, dtype=np.float32) * spread[labels]
        means = rng.uniform(*GAUSSIAN_MEAN, N_SOFT + 1 + len(BONES))
        soft, joint, bones = np.split(means, [N_SOFT, N_SOFT + 1])
        look = Contrast(tuple(soft), float(joint[0]), tuple(bones), cortex=0.0, cortex_mm=0.0,
                        soft_texture=1.0, bone_texture=1.0)  # fmt: skip
        noisy, names = (
            replace(tissues, texture=noise),
            (scan.code, scan.group, f"Gaussian {number}"),
        )
        found.append(take(noisy, look, ScanRanges(), rng, pixel_mm, names))
    return found


def draw_contrast(ranges: ScanRanges, marrow_class: int, rng: np.random.Generator) -> Contrast:
    """Draw how bright each tissue is."""
    if ranges.ct and rng.random() < ranges.ct:
        return _attenuation(ranges, marrow_class, rng)
    alike = rng.random() < ranges.alike
    if alike:
        level = rng.uniform(0.5, 0.75)
        soft = level * np.exp(rng.normal(0, 0.12, N_SOFT))
        joint = level * rng.uniform(0.9, 1.8)
        own = level * np.exp(rng.normal(0, 0.12))
    else:
        soft = rng.uniform(0.1, 1.0, N_SOFT)
        joint, own = rng.uniform(0.1, 1.0, 2)
    marrow = soft[marrow_class] if rng.random() < ranges.same_marrow else own
    if alike or rng.random() < ranges.dark_cortex:
        soft[0] = rng.uniform(0.0, 0.2)
    some_red = rng.random() < ranges.red
    brightest = np.log(ranges.red_contrast)
    return Contrast(
        soft=tuple(soft),
        joint=float(joint),
        bones=tuple(marrow * np.exp(rng.normal(0, 0.05, len(BONES)))),
        cortex=float(soft[0]),
        cortex_mm=rng.uniform(*(ranges.alike_cortex_mm if alike else ranges.cortex_mm)),
        soft_texture=rng.uniform(*ranges.soft_texture),
        bone_texture=rng.uniform(*ranges.bone_texture),
        red=float(np.exp(rng.uniform(-brightest, brightest))) if some_red else 1.0,
        red_mm=rng.uniform(*ranges.red_mm),
        plate_mm=rng.uniform(*ranges.plate_mm) if some_red else 0.0,
        plates=_plates(ranges, rng),
    )


def _attenuation(ranges: ScanRanges, marrow_class: int, rng: np.random.Generator) -> Contrast:
    """Draw how much each tissue attenuates X-rays, over water: 1 + Hounsfield units / 1000."""
    soft = rng.normal(1.04, 0.02, N_SOFT)
    soft[-1] = rng.uniform(0.88, 0.95)  # fat
    marrow, cortex = rng.uniform(1.0, 1.4), rng.uniform(1.5, 2.4)
    if rng.random() < ranges.same_marrow:
        soft[marrow_class] = marrow
    if rng.random() < 0.7:  # tendons and the cortex of other bones are one class
        soft[0] = cortex
    return Contrast(
        soft=tuple(soft),
        joint=rng.uniform(1.0, 1.15),
        bones=tuple(marrow * np.exp(rng.normal(0, 0.05, len(BONES)))),
        cortex=cortex,
        cortex_mm=rng.uniform(*ranges.cortex_mm),
        soft_texture=rng.uniform(0.0, 0.05),
        bone_texture=rng.uniform(-0.1, 0.2),
        plate_mm=rng.uniform(*ranges.plate_mm),
        plates=_plates(ranges, rng),
    )


def _plates(ranges: ScanRanges, rng: np.random.Generator) -> tuple[tuple[float, float] | None, ...]:
    return tuple(
        (through, towards) if bone in ranges.plated else None
        for bone, (through, towards) in zip(BONES, rng.random((len(BONES), 2)), strict=True)
    )


def take(
    tissues: Tissues,
    contrast: Contrast,
    ranges: ScanRanges,
    rng: np.random.Generator,
    pixel_mm: float,
    names: tuple[str, str, str],
) -> Scan:
    """Take one scan of a foot in a random pose with a random scanner.

    Parameters
    ----------
    tissues : Tissues
    contrast : Contrast
    ranges : ScanRanges
    rng : numpy Generator
    pixel_mm : float
    names : (subject, group, image)

    Returns
    -------
    Scan
        As of `random_scans`.
    """
    thick = rng.random() < ranges.thick
    thickness = rng.uniform(*(ranges.thick_mm if thick else ranges.thin_mm))
    count, weights = _profile(thickness, smooth=rng.random() < ranges.smooth_profile)
    axes = _grid(tissues, ranges, rng, (pixel_mm, pixel_mm, thickness))
    numbers = np.arange((len(axes[2]) - 1) * count + len(weights)) - (len(weights) - 1) / 2
    planes = axes[2][0] + thickness / count * numbers
    home = _posed(tissues, ranges, rng, (axes[0], axes[1], planes))
    layers = [painted(tissues, contrast), tissues.foot, *(tissues.bones[bone] for bone in BONES)]
    source = torch.from_numpy(np.stack([np.asarray(one, np.float32) for one in layers]))
    fine = _sampled(source, home, tissues.spacing_mm)
    slices = fine.unfold(-1, len(weights), count) @ torch.from_numpy(weights)
    if rng.random() < ranges.mirrored:
        slices = slices.flip(-1)
    signal, foot, *bones = slices.numpy()
    image = _measured(signal, foot >= 0.5, axes, ranges, rng)
    dark = rng.uniform(*FOOT_SHARE) * np.median(image[foot >= 0.5])
    region = (foot >= 0.5) & (image > dark)
    labels = {bone: share >= 0.5 for bone, share in zip(BONES, bones, strict=True)}
    subject, group, name = names
    item = Item(subject, name, zscore(image, region), region, labels)
    return Scan(item, group, (pixel_mm, pixel_mm, thickness))


def _profile(thickness_mm: float, *, smooth: bool) -> tuple[int, Image]:
    """Return how many planes a slice is thick, and the weights of the planes it is the sum of."""
    count = max(1, int(np.ceil(thickness_mm / PLANE_MM)))
    if not smooth:
        return count, np.full(count, 1 / count, np.float32)
    # twice as wide: a Gaussian with the thickness as its full width at half maximum
    places = (np.arange(2 * count) + 0.5) / count - 1
    weights = np.exp2(-((2 * places) ** 2))
    return count, (weights / weights.sum()).astype(np.float32)


def _grid(
    tissues: Tissues, ranges: ScanRanges, rng: np.random.Generator, voxel_mm: Sequence[float]
) -> list[Array]:
    """Return the middles of the voxels along each axis, in mm of the tissues' grid."""
    bones = np.logical_or.reduce([*tissues.bones.values()])
    axes = []
    box = bounding_box(bones)
    assert box is not None  # no bone is empty
    sizes = zip(box, bones.shape, tissues.spacing_mm, voxel_mm, strict=True)
    for part, length, spacing, voxel in sizes:
        low = part.start * spacing * rng.uniform(0, ranges.cut)
        high = (length - 1 - (length - part.stop) * rng.uniform(0, ranges.cut)) * spacing
        first = low + rng.uniform(0, 0.5) * voxel
        axes.append(np.arange(first, max(high, first + voxel / 2), voxel))
    return axes


def _measured(
    signal: Image,
    foot: NDArray[np.bool_],
    axes: Sequence[Array],
    ranges: ScanRanges,
    rng: np.random.Generator,
) -> Image:
    """Return the magnitude image (I, J, K) that a random scanner measures of a signal."""
    strength = rng.uniform(*ranges.shading)
    squared = np.zeros((1, 1, 1))  # distance from a coil somewhere at the foot
    for axis, grid in enumerate(np.ix_(*axes)):
        squared = squared + (grid - rng.uniform(axes[axis][0], axes[axis][-1])) ** 2
    near = np.exp(squared / (-2 * rng.uniform(*COIL_MM) ** 2))
    shaded = signal * (1 + strength * (2 * near - 1)).astype(np.float32)
    rows, columns, _ = signal.shape
    share = rng.uniform(*ranges.sharpness)
    measured = [np.abs(np.fft.fftfreq(n)) <= share / 2 for n in (rows, columns)]
    mask = (measured[0][:, None] & measured[1])[..., None]
    # the noise of the image adds up from the measured lines alone
    sd = rng.uniform(*ranges.noise) * float(shaded[foot].mean())
    sd *= rows * columns / np.sqrt(mask.sum())
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32)
    spectrum = np.fft.fft2(shaded, axes=(0, 1)) + sd * (noise[0] + 1j * noise[1])
    image = np.abs(np.fft.ifft2(spectrum * mask, axes=(0, 1))).astype(np.float32)
    if rng.random() < ranges.black_air:
        pixel_mm = axes[0][1] - axes[0][0]
        reach = 2 * round(rng.uniform(*AIR_MM) / pixel_mm) + 1
        image[ndimage.maximum_filter(foot, (reach, reach, 1)) == 0] = 0
    return image


def _posed(
    tissues: Tissues, ranges: ScanRanges, rng: np.random.Generator, axes: Sequence[Array]
) -> Tensor:
    """Return where in the tissues' grid each point of a scan comes from, (I, J, K, 3) mm."""
    centres = {
        bone: np.argwhere(tissues.bones[bone]).mean(axis=0) * tissues.spacing_mm for bone in BONES
    }
    motions = _bone_motions(centres, ranges, rng)
    tilts, reach = rng.uniform(-ranges.tilt_deg, ranges.tilt_deg, 2), np.log(ranges.scale)
    leg = np.eye(4)  # size and pose of the whole leg, from the tissues' grid to the scan
    leg[:3, :3] = Rotation.from_euler("xy", tilts, degrees=True).as_matrix()
    leg[:3, :3] *= np.exp(rng.uniform(-reach, reach))
    shift = rng.uniform(-ranges.shift_mm, ranges.shift_mm, 3)
    leg[:3, 3] = centres["talus"] + shift - leg[:3, :3] @ centres["talus"]
    counts = [max(2, int(np.ceil(np.ptp(a) / LATTICE_MM)) + 1) for a in axes]
    coarse = [np.linspace(a[0], a[-1], count) for a, count in zip(axes, counts, strict=True)]
    points = np.stack(np.meshgrid(*coarse, indexing="ij"), axis=-1)
    moved = torch.from_numpy(apply(np.linalg.inv(leg), points).astype(np.float32))
    home = flow_back(moved, motions, _distances(tissues), steps=FLOW_STEPS)
    return finer(home, [len(a) for a in axes])


def _bone_motions(
    centres: Mapping[str, Array], ranges: ScanRanges, rng: np.random.Generator
) -> Array:
    """Draw how each bone moves within the foot: exponential coordinates (3, 6)."""
    axis = np.array([*rng.normal(0, AXIS_SPREAD, 2), 1.0])
    turn = rng.uniform(-ranges.ankle_deg, ranges.ankle_deg) * axis / np.linalg.norm(axis)
    ankle = rigid(turn, (0, 0, 0), centres["talus"])
    motions = []
    for bone in BONES:
        own = rng.normal(0, ranges.bone_deg, 3)
        motion = rigid(own, rng.normal(0, ranges.bone_mm, 3), centres[bone])
        motions.append(motion if bone == "tibia" else ankle @ motion)
    coordinates: Array = RigidTransform.from_matrix(np.stack(motions)).as_exp_coords()
    return coordinates


def _distances(tissues: Tissues) -> Callable[[int, Tensor], Tensor]:
    """Return the distance in mm to each bone, zero inside; see `motion_fields.Distances`."""
    steps = [max(1, round(DISTANCE_STEP_MM / one)) for one in tissues.spacing_mm]
    spacing = [step * one for step, one in zip(steps, tissues.spacing_mm, strict=True)]
    every = tuple(slice(None, None, step) for step in steps)
    outside = [~tissues.bones[bone][every] for bone in BONES]
    fields = np.stack([ndimage.distance_transform_edt(one, spacing) for one in outside])
    source = torch.from_numpy(fields.astype(np.float32))
    return lambda bone, points: _sampled(source[bone : bone + 1], points, spacing)[0]


def _sampled(fields: Tensor, points: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Interpolate fields (C, I, J, K) at points (X, Y, Z, 3) in mm; they go on beyond their grid.

    So a shank that leaves the field of view of the static scan does not end in the air.
    """
    lengths = [(n - 1) * one for n, one in zip(fields.shape[1:], spacing_mm, strict=True)]
    places = 2 * points / torch.tensor(lengths) - 1
    found: Tensor = functional.grid_sample(
        fields[None], places.flip(-1)[None], padding_mode="border", align_corners=True
    )
    return found[0]


# --- what a foot is made of ---


def tissues_of(scan: Scan) -> Tissues:
    """Tell the tissues of a static scan apart, knowing no more than foot and bones.

    Parameters
    ----------
    scan : Scan
        With all three bones.
    """
    spacing, item = scan.voxel_size_mm, scan.item
    anything = np.logical_or.reduce([item.labels[bone] for bone in BONES])
    foot = _solid(item.region | anything, spacing)
    soft = foot & ~anything
    sigma = [SMOOTH_MM / one for one in spacing]
    smooth = ndimage.gaussian_filter(item.image.astype(np.float32), sigma)
    values = smooth[soft][::EVERY].astype(np.float64)
    quantiles = np.quantile(values, (np.arange(N_SOFT) + 0.5) / N_SOFT)
    levels, _ = kmeans2(values, quantiles, ROUNDS, minit="matrix")
    classes = np.zeros(smooth.shape, np.uint8)
    classes[foot] = 1 + np.digitize(smooth[foot], (levels[1:] + levels[:-1]) / 2)
    depths = bone_depths(item.labels, spacing)
    depth = np.max([*depths.values()], axis=0)
    classes[between_bones(depths) & soft] = JOINT
    expected = np.concatenate([[0.0], levels, [float(np.mean(levels))]]).astype(np.float32)
    texture = smooth - expected[classes]
    marrow = {}
    for bone in BONES:
        mask = item.labels[bone]
        inside = mask & (depth > RIM_MM)
        marrow[bone] = float(np.median(smooth[inside if inside.any() else mask]))
        texture[mask] = (smooth[mask] - marrow[bone]) * np.clip(depth[mask] / RIM_MM, 0, 1)
    texture[~foot] = 0
    texture = np.clip(texture / smooth[foot].std(), -MOST_TEXTURE, MOST_TEXTURE)
    nearest = int(np.abs(levels - np.median([*marrow.values()])).argmin())
    bones = {bone: item.labels[bone] for bone in BONES}
    return Tissues(spacing, classes, texture, depth, bones, foot, nearest)


def painted(tissues: Tissues, contrast: Contrast) -> Image:
    """Return the signal (I, J, K) of every voxel under a contrast."""
    table = np.array([0.0, *contrast.soft, contrast.joint], np.float32)
    signal = table[tissues.classes]
    signal += contrast.soft_texture * tissues.texture
    signal[tissues.classes == AIR] = 0
    softness = float(np.mean(tissues.spacing_mm[:2]))
    for bone, level, plate in zip(BONES, contrast.bones, contrast.plates, strict=True):
        mask = tissues.bones[bone]
        inner = level + contrast.bone_texture * tissues.texture[mask]
        if plate is not None:
            behind = _behind_plate(mask, tissues.spacing_mm, plate)
            red = np.where(behind > 0, np.exp(-behind.clip(0) / contrast.red_mm), 0)
            inner += level * (contrast.red - 1) * red
            inner[np.abs(behind) < contrast.plate_mm / 2] = contrast.joint
        # a rim thinner than a voxel fills a part of it
        rim = np.clip((contrast.cortex_mm - tissues.depth_mm[mask]) / softness + 0.5, 0, 1)
        rim *= min(1.0, contrast.cortex_mm / softness)
        signal[mask] = inner + rim * (contrast.cortex - inner)
    return np.maximum(signal, 0)


def _behind_plate(
    mask: NDArray[np.bool_], spacing_mm: Sequence[float], plate: tuple[float, float]
) -> Image:
    """Return how far, in mm, each voxel of a bone lies behind its plate; see `Contrast`."""
    points = np.argwhere(mask) * np.array(spacing_mm, np.float32)
    through, towards = points[[int(part * len(points)) for part in plate]]
    along = towards - through
    length = float(np.linalg.norm(along))
    behind: Image = ((points - through) @ along / max(length, 1e-6)).astype(np.float32)
    return behind


def between_bones(depths: Mapping[str, Image]) -> NDArray[np.bool_]:
    """Return what lies between two bones, whose `bone_depths` these are."""
    _, second, depth = np.sort(np.stack([*depths.values()]), axis=0)
    near: NDArray[np.bool_] = (depth > -JOINT_REACH_MM[0]) & (second > -JOINT_REACH_MM[1])
    return near & (depth <= 0)


def bone_depths(bones: Masks, spacing_mm: Sequence[float]) -> dict[str, Image]:
    """Return depth (I, J, K) in mm below the surface of each bone.

    Negative outside; further out than `MARGIN_MM` around all bones it is just some depth below
    -`MARGIN_MM`.
    """
    anything = np.logical_or.reduce([*bones.values()])
    box = bounding_box(anything, np.ceil(MARGIN_MM / np.array(spacing_mm)))
    assert box is not None  # no bone is empty
    half = float(np.mean(spacing_mm)) / 2
    depths = {}
    for bone, mask in bones.items():
        depth = np.full(mask.shape, -2 * MARGIN_MM, np.float32)
        inside = ndimage.distance_transform_edt(mask[box], sampling=spacing_mm)
        outside = ndimage.distance_transform_edt(~mask[box], sampling=spacing_mm)
        depth[box] = np.where(mask[box], inside - half, half - outside)
        depths[bone] = depth
    return depths


def _solid(foot: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Return the foot with cortex and tendons, which a mask by a threshold leaves out."""
    reach = [max(1, round(CLOSING_MM / one)) for one in spacing_mm]
    size = [2 * one + 1 for one in reach]
    wide = np.pad(foot, [(one, one) for one in reach], "edge")
    closed = ndimage.minimum_filter(ndimage.maximum_filter(wide.view(np.uint8), size), size)
    inner = tuple(slice(one, -one) for one in reach)
    cross = ndimage.generate_binary_structure(2, 1)[:, :, None]  # holes of each slice
    solid: NDArray[np.bool_] = ndimage.binary_fill_holes(closed[inner], cross)
    return solid
