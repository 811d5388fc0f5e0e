"""The scanner: from a posed anatomy to the integers in a file.

A static volume is imaged point by point, its slices being thin. A dynamic frame integrates the
signal across 8 mm slices and is measured line by line in k-space while the foot moves on; only
the middle of k-space is measured, the rest is filled with zeros, which correlates the noise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ankle_lib.geometry import Box, Grid, arrival
from ankle_lib.motion_fields import finer, jacobian_determinant
from ankle_lib.phantom.anatomy import Anatomy
from ankle_lib.phantom.fields import Field
from ankle_lib.phantom.motion import Pose, flow_to_reference
from ankle_lib.presets import LABELS

FOOT_LABEL = 4
"""Label of everything inside the skin that is none of the three bones."""

MAX_VOXELS = 8_000_000
"""Voxels rendered at a time, which bounds the memory."""

LATTICE_MM = 8.0
"""Spacing at which the soft tissue's flow is integrated; between, it is interpolated."""

AIR_REACH_MM = 13.0
"""The dynamic reconstruction keeps the air this close to the foot and sets the rest to zero."""


@dataclass(frozen=True)
class Scanner:
    """Faults of a measurement that images of one kind share.

    Attributes
    ----------
    noise_sd : float
        Standard deviation of the noise of the real and the imaginary part of the image, in the
        image's own units.
    measured : float
        Share of k-space measured along each in-plane axis.
    shading : float
        How much brighter than the middle the coil makes what lies nearest to it.
    rescale_slope : float
        Image units per stored integer.
    """

    noise_sd: float
    measured: float
    shading: float
    rescale_slope: float


@dataclass
class Coil:
    """Sensitivity of the receiver coil in one scan: it falls off around one point.

    Attributes
    ----------
    centre_mm : three floats
        Along the axes of the image, from its middle.
    shading : float
        See `Scanner`.
    mean : float or Tensor
        By which everything is divided, so that the body has mean one.
    """

    centre_mm: tuple[float, float, float]
    shading: float
    mean: float | Tensor

    def sensitivity(self, axes: Sequence[Tensor]) -> Tensor:
        """Return the sensitivity at points.

        Parameters
        ----------
        axes : three Tensors, of shapes that fit together
            Position in mm along each axis of the image, from its middle.
        """
        squared = sum((axis - c) ** 2 for axis, c in zip(axes, self.centre_mm, strict=True))
        field = 1 + self.shading * (2 * torch.exp(torch.as_tensor(squared) / (-2 * 65.0**2)) - 1)
        return field / self.mean


STATIC_SCANNER = Scanner(noise_sd=22.0, measured=0.92, shading=0.25, rescale_slope=1.0)
DYNAMIC_SCANNER = Scanner(noise_sd=100.0, measured=0.72, shading=0.35, rescale_slope=27.29)
"""The slope of a real sequence: its 0 to 2483 are 92 steps."""


@dataclass
class Rendering:
    """What would be seen without any fault, on a regular grid (X, Y, Z).

    Attributes
    ----------
    signal : Tensor
        Image units.
    inside : Tensor
        Share inside the skin, in [0, 1].
    bones : Tensor (3, X, Y, Z)
        Inside (1) or outside (0) calcaneus, talus and tibia.
    smallest_jacobian : float
        Of the soft tissue's map back to the reference pose; below zero, it folds.
    """

    signal: Tensor
    inside: Tensor
    bones: Tensor
    smallest_jacobian: float


def render(
    anatomy: Anatomy, pose: Pose, placement: NDArray[np.float64], grid: Grid, contrast: str
) -> Rendering:
    """Evaluate a posed anatomy on a grid of world points.

    Parameters
    ----------
    placement : (4, 4)
        Reference frame → world RAS, mm; mirrors for a right foot.
    grid : Grid
    contrast : str
        One of the anatomy's: "static", "dynamic", ….
    """
    shape, affine = grid
    device = anatomy.soft.values.device
    values = torch.zeros(2 + len(LABELS), *shape, device=device)
    channels = anatomy.channels(contrast)
    planes, smallest = max(2, MAX_VOXELS // (shape[0] * shape[1])), np.inf
    for first in range(0, shape[2], planes):
        offset = np.eye(4)
        offset[2, 3] = first
        part = affine @ offset
        to_reference = np.linalg.inv(placement) @ part
        inside, signal, *bones = values[..., first : first + planes]
        coordinates, jacobian = _soft_coordinates(anatomy, pose, to_reference, signal.shape)
        smallest = min(smallest, jacobian)
        soft = anatomy.soft.picked(channels).sample_normalised(coordinates)
        inside.copy_(soft[0])
        signal.copy_(soft[1])
        del coordinates, soft
        for name, bone in anatomy.bones.items():
            to_bone = np.linalg.inv(pose.matrix(bone.group)) @ to_reference
            block, coordinates = _bone_coordinates(bone.look, to_bone, signal.shape)
            coverage, look = bone.look.picked(channels).sample_normalised(coordinates)
            signal[block] = signal[block] * (1 - coverage) + look
            inside[block] = torch.maximum(inside[block], coverage)
            if name in LABELS:
                here = signal.shape, part
                mask = mark(bone.distance, bone.group, pose, placement, here)
                bones[LABELS[name] - 1].copy_(mask)
    return Rendering(values[1], values[0], values[2:], smallest)


def mark(
    distance: Field, group: str, pose: Pose, placement: NDArray[np.float64], grid: Grid
) -> Tensor:
    """Inside (1) or outside (0) of a surface that moves with a group of bones, on a world grid."""
    shape, affine = grid
    mask = torch.zeros(shape, device=distance.values.device)
    to_bone = np.linalg.inv(placement @ pose.matrix(group)) @ affine
    block, coordinates = _bone_coordinates(distance, to_bone, shape)
    sampled = distance.sample_normalised(coordinates, outside="border")[0]
    mask[block] = (sampled < 0).to(mask)
    return mask


def thick(rendering: Rendering, samples_per_slice: int) -> Rendering:
    """Average the planes of each slice: the slice profile is a box."""
    signal, inside, bones = (
        values.unflatten(-1, (-1, samples_per_slice)).mean(-1)
        for values in (rendering.signal, rendering.inside, rendering.bones)
    )
    return Rendering(signal, inside, bones, rendering.smallest_jacobian)


def image_static(
    rendering: Rendering, voxel_mm: Sequence[float], generator: torch.Generator
) -> Tensor:
    """Stored integers (X, Y, Z) of a static volume."""
    scanner = STATIC_SCANNER
    coil = draw_coil(rendering.inside, voxel_mm, scanner, generator)
    signal = rendering.signal * coil.sensitivity(_axes_mm(rendering.inside, voxel_mm))
    planes = (torch.fft.fft2(plane) for plane in signal.unbind(-1))
    return _store(_reconstruct(planes, scanner, generator), scanner)


def image_frames(
    renderings: Sequence[Rendering],
    voxel_mm: Sequence[float],
    gains: NDArray[np.float64],
    coil: Coil,
    generator: torch.Generator,
    scanner: Scanner = DYNAMIC_SCANNER,
) -> Tensor:
    """Stored integers (X, Y, Z, frames) of a dynamic sequence.

    Parameters
    ----------
    renderings
        Of thick slices, at half-frame steps: before the first frame's centre, at it, between it
        and the second's, and so on to after the last.
    gains : (frames,)
        Receiver gain of each frame.
    coil : Coil
        Drawn for the rendering in the middle.
    scanner : Scanner
    """
    shading = coil.sensitivity(_axes_mm(renderings[0].inside, voxel_mm))
    frames = []
    for frame, gain in enumerate(gains):
        before, centre, after = (
            torch.fft.fft2(r.signal * shading, dim=(0, 1))
            for r in renderings[2 * frame : 2 * frame + 3]
        )
        spectrum = float(gain) * _lines_in_time(before, centre, after)
        image = _reconstruct(spectrum.unbind(-1), scanner, generator)
        frames.append(image * _near_foot(renderings[2 * frame + 1].inside, voxel_mm))
    return _store(torch.stack(frames, dim=-1), scanner)


def image_sharp(
    rendering: Rendering,
    affine: NDArray[np.float64],
    frame_grid: Grid,
    coil: Coil,
    gain: float,
) -> Tensor:
    """What a frame would be without noise and with small voxels, in image units (X, Y, Z).

    The coil and the receiver's gain are those of the frame. The voxels of the rendering are points,
    and all of k-space is seen at once, at the frame's centre: averaged across the slices and cut to
    the measured k-space, this is the frame of a foot that holds still for as long as it takes.

    Parameters
    ----------
    rendering : Rendering
        In the dynamic contrast.
    affine : (4, 4)
        Of the rendering's grid, to world RAS, mm.
    frame_grid : Grid
        Of the frames: the coil is fixed to it.
    """
    image_shape, image_affine = frame_grid
    to_image = np.linalg.inv(image_affine) @ affine
    sizes = np.linalg.norm(image_affine[:3, :3], axis=0)
    to_image[:3, 3] -= (np.array(image_shape) - 1) / 2
    matrix = torch.from_numpy(sizes[:, None] * to_image[:3]).to(rendering.signal)
    steps = _axes_mm(rendering.signal, (1.0, 1.0, 1.0))
    middle = [(n - 1) / 2 for n in rendering.signal.shape]
    axes = [
        row[3] + sum((step + m) * c for step, m, c in zip(steps, middle, row[:3], strict=True))
        for row in matrix
    ]
    return float(gain) * rendering.signal * coil.sensitivity(axes)


def draw_coil(
    inside: Tensor, voxel_mm: Sequence[float], scanner: Scanner, generator: torch.Generator
) -> Coil:
    """Place a coil at the heel.

    Parameters
    ----------
    inside : Tensor (X, Y, Z)
        Share inside the skin; there the sensitivity has mean one.
    """
    jitter = 8.0 * torch.randn(3, generator=generator)
    centre = (45.0 + float(jitter[0]), -55.0 + float(jitter[1]), float(jitter[2]))
    coil = Coil(centre, scanner.shading, 1.0)
    body = inside > 0.5
    if bool(body.any()):
        coil.mean = coil.sensitivity(_axes_mm(inside, voxel_mm))[body].mean()
    return coil


def slice_planes(grid: Grid, samples_per_slice: int) -> Grid:
    """Return the grid with ``samples_per_slice`` planes evenly across each slice."""
    (i, j, k), affine = grid
    within = np.diag([1, 1, 1 / samples_per_slice, 1])
    within[2, 3] = 0.5 / samples_per_slice - 0.5
    return (i, j, k * samples_per_slice), affine @ within


def labels(rendering: Rendering) -> NDArray[np.uint8]:
    """True label (X, Y, Z) of each voxel: the one that fills at least half of it."""
    label = FOOT_LABEL * (rendering.inside >= 0.5)
    for bone, value in zip(rendering.bones, LABELS.values(), strict=True):
        label[bone >= 0.5] = value
    array: NDArray[np.uint8] = label.to(torch.uint8).cpu().numpy()
    return array


def _soft_coordinates(
    anatomy: Anatomy, pose: Pose, to_reference: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[Tensor, float]:
    """``grid_sample`` coordinates (X, Y, Z, 3) of the soft tissue, and the smallest Jacobian."""
    device = anatomy.soft.values.device
    spacing = np.linalg.norm(to_reference[:3, :3], axis=0)
    counts = [
        max(2, int(np.ceil((n - 1) * s / LATTICE_MM)) + 1)
        for n, s in zip(shape, spacing, strict=True)
    ]
    axes = [
        torch.linspace(0, n - 1, count, dtype=torch.float64)
        for n, count in zip(shape, counts, strict=True)
    ]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    matrix = torch.from_numpy(to_reference)
    points = (index @ matrix[:3, :3].T + matrix[:3, 3]).float().to(device)
    home = flow_to_reference(points, pose, anatomy.group_distances)
    jacobian = jacobian_determinant(home, 1.0) / jacobian_determinant(points, 1.0)
    normalising = anatomy.soft.normalising().to(home)
    coordinates = home @ normalising[:, :3].T + normalising[:, 3]
    return finer(coordinates, shape), float(jacobian.min())


def _bone_coordinates(
    field: Field, to_bone: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[Box, Tensor]:
    """Block of voxels that a bone's box can touch, and their ``grid_sample`` coordinates."""
    block = arrival(field.grid, np.linalg.inv(to_bone), (shape, np.eye(4)))
    matrix = torch.from_numpy(field.normalising().numpy() @ to_bone)
    device = field.values.device
    x, y, z = (
        (torch.arange(s.start, s.stop, dtype=torch.float64)[:, None] * matrix[:, axis]).float()
        for axis, s in enumerate(block)
    )
    x, y, z = x.to(device), y.to(device), (z + matrix[:, 3].float()).to(device)
    return block, x[:, None, None] + y[None, :, None] + z[None, None]


def _lines_in_time(before: Tensor, centre: Tensor, after: Tensor) -> Tensor:
    """One frame's k-space (X, Y, Z): first lines seen early, last late, the middle at its centre.

    Lines run along the first axis (phase encoding), in unshifted FFT order.
    """
    n = centre.shape[0]
    line = torch.fft.fftfreq(n, device=centre.device)[:, None, None]
    early, late = line < -0.25, line >= 0.25
    return torch.where(early, before, torch.where(late, after, centre))


def _reconstruct(spectra: Iterable[Tensor], scanner: Scanner, generator: torch.Generator) -> Tensor:
    """Magnitude image (X, Y, Z) from k-spaces (X, Y) of which only the middle is measured."""
    planes = []
    for spectrum in spectra:
        shape = spectrum.shape
        seen = [torch.fft.fftfreq(n).abs() <= 0.5 * scanner.measured for n in shape]
        mask = (seen[0][:, None] & seen[1][None, :]).to(spectrum.device)
        # The noise of the image adds up from the measured lines alone.
        sd = scanner.noise_sd * shape[0] * shape[1] / int(mask.sum()) ** 0.5
        noise = torch.randn(2, *shape, generator=generator).to(spectrum.device) * sd
        planes.append(torch.fft.ifft2((spectrum + torch.complex(*noise)) * mask).abs())
    return torch.stack(planes, dim=-1)


def _axes_mm(image: Tensor, voxel_mm: Sequence[float]) -> list[Tensor]:
    """Positions along the axes of an image from its middle: (X, 1, 1), (1, Y, 1), (1, 1, Z)."""
    axes = [
        (torch.arange(n, device=image.device) - (n - 1) / 2) * float(v)
        for n, v in zip(image.shape, voxel_mm, strict=True)
    ]
    return [axis.reshape([-1 if n == m else 1 for m in range(3)]) for n, axis in enumerate(axes)]


def _near_foot(inside: Tensor, voxel_mm: Sequence[float]) -> Tensor:
    """1 within reach of the foot in each slice (X, Y, Z), 0 beyond."""
    size = 2 * max(1, round(AIR_REACH_MM / float(voxel_mm[0]))) + 1
    near = ndimage.maximum_filter((inside > 0.3).cpu().numpy(), (size, size, 1))
    return torch.from_numpy(near).to(inside)


def _store(image: Tensor, scanner: Scanner) -> Tensor:
    return (image / scanner.rescale_slope).round().clamp(0, 32767).to(torch.int16)
