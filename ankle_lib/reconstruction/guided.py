"""Sharp frames from thick ones and the moved static scan, without any training.

The static scan knows where everything is, the frame how bright it is. What joins them is a mapping
of intensities that depends on where a voxel lies: deep in a bone, in its cortex, in the cartilage
of a joint, beyond. It is linear in its coefficients, and averaging across a slice is linear too,
so the frame gives the coefficients by least squares. What the mapped scan, averaged again, does
not explain of the frame is spread over the slice and added, smoothed so that noise stays out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Grid, apply, box_around, part_of, world_to_voxel
from ankle_lib.parallel import enough_memory
from ankle_lib.reconstruction.moving_foot import MovedScan, MovingFoot, Poses, moved_static
from ankle_lib.reconstruction.thick_slices import (
    WHOLE,
    Consistency,
    Scanning,
    ThickSlices,
    scanning,
)
from ankle_lib.volume import INT16_MAX, Volume

# How a frame is mapped, chosen on control subjects of the phantom.

INTENSITIES = 4
"""Knots of the mapping, from 0 to the brightest that the static scan shows around bones; between
them it is linear."""
BRIGHT_PERCENTILE = 99.5
DISTANCES_MM = (-4.0, -1.0, 0.5, 2.0, 4.0, 8.0)
"""Distances from a bone at which the mapping has knots too: marrow, cortex, cartilage, what lies
around."""
JOINT_MM = 4.0
"""What lies this close to two bones is a joint and has a mapping of its own."""
RIDGE = 3.0
"""Added to the diagonal of the normal equations, whose entries count voxels."""
NEAR_MM = 5.0
FAR_WEIGHT = 0.3
"""Of voxels farther than that from bones in the fit; those near count 1."""
GAIN_MM = 4.0
"""The mapped scan is scaled by a gain that varies over this distance (standard deviation): coil
shading, and what the mapping does not know of a tissue."""
GAIN_SLICES = 0.4
"""The same, across slices."""
FITS = 4
"""Mapping and gain are found in turns."""
SMOOTHING_PIXELS = (1.1, 1.1, 0.7, 0.5, 0.35)
"""Standard deviations by which the unexplained rest is smoothed each time before it is added, in
pixels as they were measured: without what a scanner fills with zeros."""
ADDITIONS = 2
"""So often it is added in any case, more often only as long as the rest is larger than"""
ENOUGH = 1.15
"""so many times the noise: what is explained more closely is noise itself."""
FEWEST_VOXELS = 200

MARGIN_MM = 12.0
"""Of a sequence's grid around the bones: tendons, and enough for a whole slice on either side."""

Refine = Callable[[Volume, MovedScan, Volume], NDArray]
"""Maps a frame, the static scan moved into it and the guided reconstruction to a better one, on
the grid of the moved scan."""


@dataclass(frozen=True)
class Reconstruction:
    """One sharp frame."""

    volume: Volume
    """float32, on the grid of the moved static scan, in the frame's units."""
    measured: NDArray[np.bool_]
    """Where the frame has data. Beyond, the volume shows the static scan alone."""
    consistency: Consistency


@dataclass(frozen=True)
class SharpFrame:
    """One frame of a sequence, reconstructed."""

    number: int
    moved: MovedScan
    result: Reconstruction

    @property
    def row(self) -> dict[str, float]:
        """What is told of it in a table."""
        judged = self.result.consistency
        return {
            "frame": self.number,
            "consistency": judged.ratio,
            "noise_sd": judged.noise_sd,
            "smallest_jacobian": self.moved.smallest_jacobian,
            "rigidity_mm": self.moved.rigidity_mm,
        }


def reconstruct_frames(
    static: Volume,
    masks: Mapping[str, NDArray[np.bool_]],
    frames: Volume,
    poses: Sequence[Poses],
    grid: Grid | None = None,
    *,
    refine: Refine | None = None,
    shared: Scanning | None = None,
    device: str = "cpu",
) -> Iterator[SharpFrame]:
    """Yield every frame of a sequence at the resolution of the static scan, one at a time.

    Parameters
    ----------
    static : Volume
        3D.
    masks : mapping of bone to (I, J, K) bool array
        On the grid of ``static``.
    frames : Volume
        4D (or one frame, 3D), in any orientation.
    poses : sequence of mappings
        One for each frame. A frame without any pose is passed over.
    grid : shape and affine, optional
        Of the result, in the frames' world; `grid_of_bones` by default.
    refine : function, optional
        Improves each frame; the result is then brought into agreement with the frame again.
    shared : Scanning, optional
        From `scanning`, of all frames; measured here by default.
    device : str
        ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    AnkleError
        As `guided` says.

    Examples
    --------
    >>> for frame in reconstruct_frames(static, masks, frames, poses):
    ...     print(frame.number, frame.result.consistency.ratio)
    """
    shape, affine = grid or grid_of_bones(static, masks, poses)
    foot = MovingFoot.prepare(static, masks, device)
    shared = shared or scanning(frames)
    for number, pose in enumerate(poses):
        if not pose:
            continue
        frame = frames.frame(number)
        moved = moved_static(foot, pose, shape, affine)
        result = guided(moved, frame, shared, device=device)
        if refine is not None:
            better = Volume(refine(frame, moved, result.volume), moved.volume.affine)
            result = with_the_measured(better, frame, shared, covered=moved.covered, device=device)
        yield SharpFrame(number, moved, result)
        del moved, result  # before the next frame takes its memory


def grid_of_bones(
    static: Volume,
    masks: Mapping[str, NDArray[np.bool_]],
    poses: Sequence[Poses],
) -> Grid:
    """Return the part of the static scan's grid that holds the bones in all frames.

    Parameters
    ----------
    static : Volume
        3D.
    masks : mapping of bone to (I, J, K) bool array
        On the grid of ``static``.
    poses : sequence of mappings
        One for each frame; bones without pose, or without mask, do not count.

    Returns
    -------
    shape, affine
        The box ends at the static scan's border.

    Raises
    ------
    AnkleError
        If there is no pose of a masked bone, or bones have left the scan's field of view.
    """
    ends = []
    for bone, mask in masks.items():
        filled = np.argwhere(mask)
        corners = filled[np.concatenate([filled.argmin(axis=0), filled.argmax(axis=0)])]
        hull = np.concatenate([corners, filled[:: max(1, len(filled) // 2000)]])
        world = apply(static.affine, hull)
        there = [apply(pose[bone], world) for pose in poses if bone in pose]
        ends += [world_to_voxel(static.affine, points) for points in there]
    if not ends:
        raise AnkleError("no bone has both a mask and a pose: there is nothing to reconstruct")
    margin = MARGIN_MM / np.asarray(static.voxel_size_mm)
    grid = part_of(box_around(np.concatenate(ends), margin, static.shape), static.affine)
    if min(grid[0]) < 2:
        raise AnkleError(
            "the poses carry the bones out of the static scan's field of view: are they of "
            "this scan?"
        )
    return grid


@enough_memory()
def guided(
    moved: MovedScan,
    frame: Volume,
    shared: Scanning | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Reconstruction:
    """Reconstruct a frame at the resolution of the static scan.

    Parameters
    ----------
    moved : MovedScan
        The static scan in the position of the frame, from `moved_static`.
    frame : Volume
        3D, as measured, in any orientation.
    shared : Scanning, optional
        Of the whole sequence (`scanning`); by default of this frame.
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
    image = moved.volume
    slices = ThickSlices.between(
        image.shape, image.affine, frame, shared or scanning(frame), device
    )
    covered = slices.share(moved.covered) > WHOLE
    wide = ndimage.binary_dilation(slices.foot, np.ones((3, 3, 1)))
    tissue = wide & covered & (slices.measured != 0)
    if np.count_nonzero(tissue) < FEWEST_VOXELS:
        raise AnkleError(
            f"frame and moved static scan share {np.count_nonzero(tissue)} voxels of tissue: are "
            "the poses those of this frame?"
        )
    known = torch.from_numpy(moved.covered).to(device)
    sharp = torch.where(known, _mapped(moved, slices, tissue), slices.spread(slices.measured))
    sharp[torch.from_numpy(~(slices.reached | moved.covered)).to(device)] = 0
    return _explaining_the_frame(sharp, image.affine, slices, moved.covered)


def with_the_measured(
    sharp: Volume,
    frame: Volume,
    shared: Scanning | None = None,
    *,
    covered: NDArray[np.bool_] | None = None,
    device: str | torch.device = "cpu",
) -> Reconstruction:
    """Bring any sharp volume, such as a network's, into agreement with the measured frame.

    Parameters
    ----------
    sharp : Volume
        In the frame's world and units.
    frame, shared, device
        As in `guided`.
    covered : bool array, optional
        Where the static scan has data; the rest is left out of the consistency.
    """
    slices = ThickSlices.between(
        sharp.shape, sharp.affine, frame, shared or scanning(frame), device
    )
    image = torch.from_numpy(np.array(sharp.data, dtype=np.float32)).to(device)
    return _explaining_the_frame(image, sharp.affine, slices, covered)


def _explaining_the_frame(
    sharp: Tensor,
    affine: NDArray[np.float64],
    slices: ThickSlices,
    covered: NDArray[np.bool_] | None,
) -> Reconstruction:
    """Add, in place, what the averaged volume does not explain of the frame, smoothed."""
    inside = torch.from_numpy(slices.reached).to(sharp.device)
    # not a lost slice, nor air that the scanner has set to 0
    known = (slices.share(np.ones(slices.shape, dtype=bool)) > WHOLE) & (slices.measured != 0)
    tissue = known & slices.foot
    for number, pixels in enumerate(SMOOTHING_PIXELS):
        rest = np.where(known, slices.rest(sharp), 0)
        left = float(np.sqrt(np.mean(rest[tissue] ** 2))) if tissue.any() else 0.0
        if number >= ADDITIONS and left <= ENOUGH * slices.scanning.noise_sd:
            break
        smooth = ndimage.gaussian_filter(rest, [*(pixels / np.array(slices.scanning.band)), 0])
        sharp += slices.spread(smooth) * inside
    sharp.clamp_(min=0)
    if step := slices.scanning.step:
        sharp.div_(step).round_().clamp_(max=INT16_MAX).mul_(step)
    judged = slices.judge(sharp, covered)
    return Reconstruction(Volume(sharp.cpu().numpy(), affine), slices.reached, judged)


def _mapped(moved: MovedScan, slices: ThickSlices, tissue: NDArray[np.bool_]) -> Tensor:
    """The moved scan (X, Y, Z) with the frame's contrast and gain."""
    device = slices.where.device
    near = slices.share(np.min(list(moved.distances_mm.values()), axis=0) < NEAR_MM) > 0.3
    weights = np.where(near, 1.0, FAR_WEIGHT)[tissue]
    columns = [slices.average(group).cpu().numpy()[:, tissue] for group in _features(moved, device)]
    averages = np.concatenate(columns).T.astype(np.float64)
    values = slices.measured[tissue].astype(np.float64)
    sigma = [*(GAIN_MM / np.linalg.norm(slices.affine[:3, :2], axis=0)), GAIN_SLICES]
    gain = np.ones(tissue.shape)
    for _ in range(FITS):
        scaled = averages * gain[tissue][:, None]
        normal = (scaled * weights[:, None]).T @ scaled + RIDGE * np.eye(scaled.shape[1])
        coefficients = np.linalg.solve(normal, (scaled * weights[:, None]).T @ values)
        gain = _gain(averages @ coefficients, values, tissue, sigma)
    result = torch.zeros(slices.shape, device=device)
    of_groups = np.split(coefficients.astype(np.float32), len(columns))
    for part, group in zip(of_groups, _features(moved, device), strict=True):
        result += torch.tensordot(torch.from_numpy(part).to(group), group, dims=1)
    result *= slices.spread(gain.astype(np.float32))
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


def _features(moved: MovedScan, device: torch.device) -> Iterator[Tensor]:
    """Yield features (C, X, Y, Z), one group after the other: all would not fit into memory."""
    ordered = np.sort(list(moved.distances_mm.values()), axis=0)[:2]
    image, nearest, *others = (
        torch.from_numpy(one).to(device) for one in (moved.volume.data, *ordered)
    )
    around = moved.covered & (ordered[0] < NEAR_MM)
    if not around.any():
        raise AnkleError("the static scan does not reach the bones in this frame")
    top = float(np.percentile(moved.volume.data[around], BRIGHT_PERCENTILE))
    knots = np.linspace(0, top, INTENSITIES).tolist()
    levels = torch.stack([_hat(image, knots, n) for n in range(INTENSITIES)])
    for n in range(len(DISTANCES_MM)):
        yield levels * _hat(nearest, DISTANCES_MM, n)
    for second in others:
        yield levels * (1 - (second - JOINT_MM) / 2).clamp(0, 1) * (nearest + 0.5).clamp(0, 1)


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
