"""A sharp frame from a thick one and the moved static scan, without any training.

The static scan knows where everything is, the frame how bright it is. What joins them is a mapping
of intensities that depends on where a voxel lies: deep in a bone, in its cortex, in the cartilage
of a joint, beyond. It is linear in its coefficients, and averaging across a slice is linear too,
so the frame gives the coefficients by least squares. What the mapped scan, averaged again, does
not explain of the frame is spread over the slice and added, smoothed so that noise stays out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ankle_lib.files import AnkleError
from ankle_lib.masking.foot import find_foot
from ankle_lib.reconstruction.consistency import Consistency, consistency
from ankle_lib.reconstruction.polyrigid import MovedScan
from ankle_lib.reconstruction.thick import Scanning, ThickSlices, scanning
from ankle_lib.volume import Volume

BRIGHT_PERCENTILE = 99.5
FEWEST_VOXELS = 200


@dataclass(frozen=True)
class Guided:
    """How a frame is mapped. The defaults were chosen on control subjects of the phantom."""

    intensities: int = 4
    """Knots of the mapping, from 0 to the brightest that the static scan shows around bones;
    between them it is linear."""
    distances_mm: tuple[float, ...] = (-4.0, -1.0, 0.5, 2.0, 4.0, 8.0)
    """Distances from a bone at which the mapping has knots too: marrow, cortex, cartilage,
    what lies around."""
    joint_mm: float = 4.0
    """What lies this close to two bones is a joint and has a mapping of its own."""
    ridge: float = 3.0
    """Added to the diagonal of the normal equations, whose entries count voxels."""
    far_weight: float = 0.3
    """Of voxels far from bones in the fit; those near count 1."""
    near_mm: float = 5.0
    gain_mm: float = 4.0
    """The mapped scan is scaled by a gain that varies over this distance (standard deviation):
    coil shading, and what the mapping does not know of a tissue."""
    gain_slices: float = 0.4
    """The same, across slices."""
    fits: int = 4
    """Mapping and gain are found in turns."""
    smoothing_pixels: tuple[float, ...] = (1.1, 1.1, 0.7, 0.5, 0.35)
    """Standard deviations by which the unexplained rest is smoothed each time before it is added,
    in pixels as they were measured: without what a scanner fills with zeros."""
    additions: int = 2
    """So often it is added in any case, more often only as long as the rest is larger than"""
    enough: float = 1.15
    """so many times the noise: what is explained more closely is noise itself."""


@dataclass(frozen=True)
class Reconstruction:
    """One sharp frame."""

    volume: Volume
    """float32, on the grid of the moved static scan, in the frame's units."""
    measured: NDArray[np.bool_]
    """Where the frame has data. Beyond, the volume shows the static scan alone."""
    consistency: Consistency


def guided(
    moved: MovedScan,
    frame: Volume,
    *,
    seen: Scanning | None = None,
    settings: Guided | None = None,
    device: str | torch.device = "cpu",
) -> Reconstruction:
    """Reconstruct a frame at the resolution of the static scan.

    Parameters
    ----------
    moved : MovedScan
        The static scan in the position of the frame, from `moved_static`.
    frame : Volume
        3D, as measured, in any orientation.
    seen : Scanning, optional
        Of the whole sequence (`scanning`); by default of this frame.
    settings : Guided, optional
    device : str

    Returns
    -------
    Reconstruction
        Where the static scan does not reach, the frame is interpolated; where neither does, the
        volume is 0.

    Raises
    ------
    AnkleError
        If frame and static scan share too little tissue.
    """
    chosen, seen = settings or Guided(), seen or scanning(frame)
    image = moved.volume
    slices = ThickSlices.between(image.shape, image.affine, frame, seen.band, device)
    measured = slices.part(frame)
    covered = _average(slices, moved.covered) > 0.999
    foot = slices.part(Volume(find_foot(frame.data), frame.affine)) > 0
    tissue = ndimage.binary_dilation(foot, np.ones((3, 3, 1))) & covered & (measured != 0)
    if np.count_nonzero(tissue) < FEWEST_VOXELS:
        raise AnkleError(
            f"frame and moved static scan share {np.count_nonzero(tissue)} voxels of tissue: are "
            "the poses those of this frame?"
        )
    mapped = _mapped(moved, slices, measured, tissue, chosen)
    known = torch.from_numpy(moved.covered).to(device)
    sharp = torch.where(known, mapped, slices.spread(torch.from_numpy(measured).to(device)))
    reached = slices.reached()
    sharp[torch.from_numpy(~(reached | moved.covered)).to(device)] = 0
    _add_rest(sharp, slices, frame, reached, seen, chosen)
    volume = Volume(sharp.clamp_(min=0).cpu().numpy(), image.affine)
    judged = consistency(volume, frame, seen, covered=moved.covered, device=device)
    return Reconstruction(volume, reached, judged)


def with_the_measured(
    sharp: Volume,
    frame: Volume,
    *,
    seen: Scanning | None = None,
    settings: Guided | None = None,
    covered: NDArray[np.bool_] | None = None,
    device: str | torch.device = "cpu",
) -> Reconstruction:
    """Bring any sharp volume, such as a network's, into agreement with the measured frame.

    Parameters
    ----------
    sharp : Volume
        In the frame's world and units.
    frame, seen, settings, device
        As in `guided`.
    covered : bool array, optional
        Where the static scan was seen; the rest is left out of the consistency.
    """
    chosen, seen = settings or Guided(), seen or scanning(frame)
    slices = ThickSlices.between(sharp.shape, sharp.affine, frame, seen.band, device)
    image = torch.from_numpy(np.array(sharp.data, dtype=np.float32)).to(device)
    reached = slices.reached()
    _add_rest(image, slices, frame, reached, seen, chosen)
    volume = Volume(image.clamp_(min=0).cpu().numpy(), sharp.affine)
    judged = consistency(volume, frame, seen, covered=covered, device=device)
    return Reconstruction(volume, reached, judged)


def _add_rest(
    sharp: Tensor,
    slices: ThickSlices,
    frame: Volume,
    reached: NDArray[np.bool_],
    seen: Scanning,
    settings: Guided,
) -> None:
    """Add, in place, what the averaged volume does not explain of the frame, smoothed."""
    measured = slices.part(frame)
    inside = torch.from_numpy(reached).to(sharp.device)
    # not a lost slice, nor air that the scanner has set to 0
    known = (_average(slices, np.ones(slices.shape, bool)) > 0.999) & (measured != 0)
    tissue = known & (slices.part(Volume(find_foot(frame.data), frame.affine)) > 0)
    for number, pixels in enumerate(settings.smoothing_pixels):
        rest = np.where(known, measured - slices.average(sharp[None])[0].cpu().numpy(), 0)
        left = float(np.sqrt(np.mean(rest[tissue] ** 2))) if tissue.any() else 0.0
        if number >= settings.additions and left <= settings.enough * seen.noise_sd:
            return
        smooth = ndimage.gaussian_filter(rest, [*(pixels / np.array(slices.band)), 0])
        sharp += slices.spread(torch.from_numpy(smooth).to(sharp.device)) * inside


def _mapped(
    moved: MovedScan,
    slices: ThickSlices,
    measured: NDArray[np.float32],
    tissue: NDArray[np.bool_],
    settings: Guided,
) -> Tensor:
    """The moved scan (X, Y, Z) with the frame's contrast and gain."""
    device = slices.where.device
    nearest = np.min(list(moved.distances_mm.values()), axis=0)
    near = _average(slices, nearest < settings.near_mm) > 0.3
    weights = np.where(near, 1.0, settings.far_weight)[tissue]
    columns = [
        slices.average(group).cpu().numpy()[:, tissue]
        for group in _groups(moved, nearest, settings, device)
    ]
    averages = np.concatenate(columns).T.astype(np.float64)
    values = measured[tissue].astype(np.float64)
    sigma = [*(settings.gain_mm / slices.pixel_mm), settings.gain_slices]
    gain = np.ones(tissue.shape)
    for _ in range(settings.fits):
        scaled = averages * gain[tissue][:, None]
        normal = (scaled * weights[:, None]).T @ scaled
        normal += settings.ridge * np.eye(len(normal))
        coefficients = np.linalg.solve(normal, (scaled * weights[:, None]).T @ values)
        gain = _gain(averages @ coefficients, values, tissue, sigma)
    result = torch.zeros(slices.shape, device=device)
    place = 0
    for group in _groups(moved, nearest, settings, device):
        part = torch.from_numpy(coefficients[place : place + len(group)]).to(group)
        result += torch.tensordot(part, group, dims=1)
        place += len(group)
    result *= slices.spread(torch.from_numpy(gain.astype(np.float32)).to(device))
    return result


def _gain(
    fit: NDArray[np.float64],
    values: NDArray[np.float64],
    tissue: NDArray[np.bool_],
    sigma: Sequence[float],
) -> NDArray[np.float64]:
    """Smooth gain (I, J, K) by which a fit explains the values best, near 1 where little is fit."""
    products, squares = np.zeros(tissue.shape), np.zeros(tissue.shape)
    products[tissue], squares[tissue] = fit * values, fit**2
    little = 0.01 * float(np.mean(fit**2))
    smooth = ndimage.gaussian_filter(products, sigma) + little
    return smooth / (ndimage.gaussian_filter(squares, sigma) + little)


def _groups(
    moved: MovedScan,
    nearest: NDArray[np.float32],
    settings: Guided,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield features (C, X, Y, Z), one group after the other: all would not fit into memory."""
    image = torch.from_numpy(moved.volume.data).to(device)
    first = torch.from_numpy(nearest).to(device)
    around = moved.covered & (nearest < settings.near_mm)
    if not around.any():
        raise AnkleError("the static scan does not reach the bones in this frame")
    top = float(np.percentile(moved.volume.data[around], BRIGHT_PERCENTILE))
    knots = np.linspace(0, top, settings.intensities).tolist()
    levels = torch.stack([_hat(image, knots, n) for n in range(len(knots))])
    for n in range(len(settings.distances_mm)):
        yield levels * _hat(first, settings.distances_mm, n)
    if len(moved.distances_mm) > 1:
        ordered = np.partition(list(moved.distances_mm.values()), 1, axis=0)[1]
        second = torch.from_numpy(ordered).to(device)
        joint = (1 - (second - settings.joint_mm) / 2).clamp(0, 1) * (first + 0.5).clamp(0, 1)
        yield levels * joint


def _hat(values: Tensor, knots: Sequence[float], n: int) -> Tensor:
    """Piecewise linear function of values that is 1 at knot ``n`` and 0 at the others.

    Beyond the first and the last knot it stays what it is there.
    """
    hat = torch.ones_like(values)
    if n > 0:
        hat = torch.minimum(hat, (values - knots[n - 1]) / (knots[n] - knots[n - 1]))
    if n < len(knots) - 1:
        hat = torch.minimum(hat, (knots[n + 1] - values) / (knots[n + 1] - knots[n]))
    return hat.clamp_(0, 1)


def _average(slices: ThickSlices, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Part of each voxel of the frame that a mask on the sharp grid fills."""
    volume = torch.from_numpy(mask.astype(np.float32)).to(slices.where.device)
    found: NDArray[np.float32] = slices.average(volume[None], blur=False)[0].cpu().numpy()
    return found
