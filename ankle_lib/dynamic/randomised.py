"""Scans of a foot as other scanners, other moments and other children would have given them.

Networks that have seen one kind of image take its look for the bone. So each training scan gets a
random look: contrast, slice thickness, sharpness, shading, noise, pose, side and field of view,
as SynthSeg does (Billot et al., Med. Image Anal. 2023, doi:10.1016/j.media.2023.102789), but
through slices as a scanner takes them: every voxel is the mean over its slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.dynamic.random_poses import Poses, posed, sampled
from ankle_lib.dynamic.tissues import N_SOFT, Contrast, Image, Tissues, painted, tissues_of
from ankle_lib.learning.scans import Scan, coarser, factor_for
from ankle_lib.patches.items import Item
from ankle_lib.patches.normalise import zscore
from ankle_lib.presets import BONES

PLANE_MM = 1.6
"""Distance at most of the planes that are averaged to a slice."""
FINER = 0.8
"""Pixels of the tissues, over those of the scans that are made of them, at about."""
COIL_MM = (40.0, 90.0)
"""Width of a coil's sensitivity."""
FOOT_SHARE = (0.1, 0.25)
"""Masks of the foot are what is brighter than a threshold, so they leave out what is darker than
this part of the foot's median."""
AIR_MM = (4.0, 20.0)
"""Air so close to the foot is never black."""


@dataclass(frozen=True)
class Looks:
    """How different the scans may look; ranges are (least, most), drawn evenly."""

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
    poses: Poses = field(default_factory=Poses)
    """How the leg lies and the ankle is bent."""
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
    black_air: float = 0.5
    """Share of scans in which the air far from the foot was set to zero."""


def random_scans(
    scan: Scan, n: int, rng: np.random.Generator, *, pixel_mm: float, looks: Looks | None = None
) -> list[Scan]:
    """Return scans of random looks, made from one subject's static scan.

    Parameters
    ----------
    scan : Scan
        The static scan with its three bones, pixels no larger than ``pixel_mm``.
    n : int
    rng : numpy Generator
    pixel_mm : float
        Pixels of the results.
    looks : Looks, optional

    Returns
    -------
    list of Scan
        Normalised inside the foot; a voxel has the label that fills at least half of it.

    Raises
    ------
    AnkleError
        If a bone is missing.
    """
    chosen = looks or Looks()
    tissues = tissues_of(coarser(scan, factor_for(scan, FINER * pixel_mm)))
    found = []
    for number in range(n):
        contrast = draw_contrast(chosen, tissues.marrow_class, rng)
        item, voxel_mm = take(
            tissues, contrast, chosen, rng, pixel_mm, (scan.code, f"look {number}")
        )
        found.append(Scan(item, scan.group, voxel_mm))
    return found


def draw_contrast(looks: Looks, marrow_class: int, rng: np.random.Generator) -> Contrast:
    """Draw how bright each tissue is."""
    alike = rng.random() < looks.alike
    if alike:
        level = rng.uniform(0.5, 0.75)
        soft = level * np.exp(rng.normal(0, 0.12, N_SOFT))
        joint = level * rng.uniform(0.9, 1.8)
        own = level * np.exp(rng.normal(0, 0.12))
    else:
        soft = rng.uniform(0.1, 1.0, N_SOFT)
        joint, own = rng.uniform(0.1, 1.0, 2)
    marrow = soft[marrow_class] if rng.random() < looks.same_marrow else own
    if alike or rng.random() < looks.dark_cortex:
        soft[0] = rng.uniform(0.0, 0.2)
    return Contrast(
        soft=tuple(soft),
        joint=float(joint),
        bones=tuple(marrow * np.exp(rng.normal(0, 0.05, len(BONES)))),
        cortex=float(soft[0]),
        cortex_mm=rng.uniform(*(looks.alike_cortex_mm if alike else looks.cortex_mm)),
        soft_texture=rng.uniform(*looks.soft_texture),
        bone_texture=rng.uniform(*looks.bone_texture),
    )


def take(
    tissues: Tissues,
    contrast: Contrast,
    looks: Looks,
    rng: np.random.Generator,
    pixel_mm: float,
    name: tuple[str, str],
) -> tuple[Item, tuple[float, float, float]]:
    """Take one scan of a foot in a random pose with a random scanner.

    Parameters
    ----------
    tissues : Tissues
    contrast : Contrast
    looks : Looks
    rng : numpy Generator
    pixel_mm : float
    name : (subject, image)
        For messages.

    Returns
    -------
    item : Item
        See `random_scans`.
    voxel_mm : three floats
    """
    thick = rng.random() < looks.thick
    thickness = rng.uniform(*(looks.thick_mm if thick else looks.thin_mm))
    count, weights = _profile(thickness, smooth=rng.random() < looks.smooth_profile)
    axes = _grid(tissues, looks, rng, (pixel_mm, pixel_mm, thickness))
    numbers = np.arange((len(axes[2]) - 1) * count + len(weights)) - (len(weights) - 1) / 2
    planes = axes[2][0] + thickness / count * numbers
    home = posed(tissues, looks.poses, rng, (axes[0], axes[1], planes))
    layers = [painted(tissues, contrast), tissues.foot, *(tissues.bones[bone] for bone in BONES)]
    source = torch.from_numpy(np.stack([np.asarray(one, np.float32) for one in layers]))
    fine = sampled(source, home, tissues.spacing_mm)
    slices = fine.unfold(-1, len(weights), count) @ torch.from_numpy(weights)
    if rng.random() < looks.mirrored:
        slices = slices.flip(-1)
    signal, foot, *bones = slices.numpy()
    image = _measured(signal, foot >= 0.5, axes, looks, rng)
    dark = rng.uniform(*FOOT_SHARE) * np.median(image[foot >= 0.5])
    region = (foot >= 0.5) & (image > dark)
    labels = {bone: share >= 0.5 for bone, share in zip(BONES, bones, strict=True)}
    return Item(*name, zscore(image, region), region, labels), (pixel_mm, pixel_mm, thickness)


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
    tissues: Tissues, looks: Looks, rng: np.random.Generator, voxel_mm: tuple[float, float, float]
) -> list[NDArray[np.float64]]:
    """Return the middles of the voxels along each axis, in mm of the tissues' grid."""
    bones = np.logical_or.reduce([*tissues.bones.values()])
    axes = []
    for axis, (spacing, voxel) in enumerate(zip(tissues.spacing_mm, voxel_mm, strict=True)):
        others = tuple(n for n in range(3) if n != axis)
        found = np.flatnonzero(bones.any(axis=others)) * spacing
        end = (bones.shape[axis] - 1) * spacing
        low = found[0] * rng.uniform(0, looks.cut)
        high = end - (end - found[-1]) * rng.uniform(0, looks.cut)
        first = low + rng.uniform(0, 0.5) * voxel
        axes.append(np.arange(first, max(high, first + voxel / 2), voxel))
    return axes


def _measured(
    signal: Image,
    foot: NDArray[np.bool_],
    axes: Sequence[NDArray[np.float64]],
    looks: Looks,
    rng: np.random.Generator,
) -> Image:
    """Return the magnitude image (I, J, K) that a random scanner measures of a signal."""
    shaded = signal * _shading(axes, rng.uniform(*looks.shading), rng)
    rows, columns, _ = signal.shape
    share = rng.uniform(*looks.sharpness)
    kept = [np.abs(np.fft.fftfreq(n)) <= share / 2 for n in (rows, columns)]
    mask = (kept[0][:, None] & kept[1])[..., None]
    # the noise of the image adds up from the measured lines alone
    sd = rng.uniform(*looks.noise) * float(shaded[foot].mean())
    sd *= rows * columns / np.sqrt(mask.sum())
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32)
    spectrum = np.fft.fft2(shaded, axes=(0, 1)) + sd * (noise[0] + 1j * noise[1])
    image = np.abs(np.fft.ifft2(spectrum * mask, axes=(0, 1))).astype(np.float32)
    if rng.random() < looks.black_air:
        pixel_mm = axes[0][1] - axes[0][0]
        reach = 2 * round(rng.uniform(*AIR_MM) / pixel_mm) + 1
        image[ndimage.maximum_filter(foot, (reach, reach, 1)) == 0] = 0
    return image


def _shading(
    axes: Sequence[NDArray[np.float64]], strength: float, rng: np.random.Generator
) -> Image:
    """Return the sensitivity (I, J, K) of a coil somewhere at the foot."""
    squared = np.zeros((1, 1, 1))
    for axis, grid in enumerate(np.ix_(*axes)):
        squared = squared + (grid - rng.uniform(axes[axis][0], axes[axis][-1])) ** 2
    width = rng.uniform(*COIL_MM)
    return (1 + strength * (2 * np.exp(squared / (-2 * width**2)) - 1)).astype(np.float32)
