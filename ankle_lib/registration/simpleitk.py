"""Engine "simpleitk": masked correlation with ITK, one frame and one region at a time.

The reference that the course's own engine is compared with. The static scan is first averaged
across the slice, so that both images are equally blurred; the weights become a mask on the frame,
because ITK knows no soft weights. ITK transforms map fixed to moving points in LPS mm.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.geometry import (
    Matrix,
    apply,
    compose,
    nearest_rigid,
    rigid,
    slice_direction,
    slice_parts,
    to_itk,
)
from ankle_lib.registration.engines import Settings
from ankle_lib.registration.regions import Fits, Region, agreement, cut_region, fit_each
from ankle_lib.volume import Volume, resample

LEVELS = ((4.0, 0.02), (2.0, 0.01), (0.0, 0.001))
"""From coarse to fine: pixel size within the slices in mm (0: the frame's own), and the length of
the step in mm at which a level ends."""

MASK_WEIGHT = 0.5
"""Voxels of a frame whose carried weight is larger are compared."""

SMALLEST_MASK = 100
"""Voxels of a frame, the least to fit six numbers to."""

FIRST_STEP_MM = 1.0
RELAXATION = 0.75
"""Factor of the step when the gradient turns back; ITK's own 0.5 ends short of the optimum."""
ITERATIONS = 300

MOST_STARTS = 3
"""So many starts are followed, one after the other, until one explains enough of the frame."""


def fit(
    fixed: Volume,
    moving: Volume,
    weights: Mapping[str, NDArray[Any]],
    start: NDArray[np.float64],
    settings: Settings,
) -> Fits:
    """Register every region to every frame; see `register.register`.

    Parameters
    ----------
    fixed, moving : Volume
        Frames (3D or 4D) and static scan (3D).
    weights : mapping of R names to (I, J, K) arrays
    start : (F, R, 4, 4) array
        Static world to frame world, RAS mm.
    settings : Settings
        ``start_angles_deg``, ``retry``, ``largest_cost`` and ``slice_model`` count.
    """
    thickness_mm = slice_direction(fixed.affine).thickness_mm
    regions = [cut_region(moving, array, name, thickness_mm) for name, array in weights.items()]
    averages: dict[tuple[int, tuple[float, ...]], Volume] = {}

    def fit_from(frame: Volume, index: int, pose: Matrix) -> Matrix:
        across = _across_mm(fixed, pose) if settings.slice_model else (0.0, 0.0, 0.0)
        if (index, across) not in averages:
            averages[index, across] = _averaged(regions[index].image, across)
        return _register(frame, averages[index, across], regions[index], pose)

    def fit_one(number: int, index: int) -> tuple[Matrix, float]:
        begun = time.thread_time()
        frame, region = fixed.frame(number), regions[index]
        tried: list[tuple[float, Matrix]] = []
        for pose in _starts(frame, region, nearest_rigid(start[number, index]), settings):
            found = fit_from(frame, index, pose)
            tried.append((agreement(frame, region, found).cost, found))
            if tried[-1][0] <= settings.largest_cost or not settings.retry:
                break
        _, best = min(tried, key=lambda pair: pair[0])
        return best, time.thread_time() - begun

    with _quiet_thread():
        return fit_each(fixed, regions, fit_one)


@contextmanager
def _quiet_thread() -> Iterator[None]:
    """Let ITK work in the calling thread, so that CPU time is counted and runs do not differ."""
    process = sitk.ProcessObject
    before = process.GetGlobalDefaultNumberOfThreads(), process.GetGlobalWarningDisplay()
    process.SetGlobalDefaultNumberOfThreads(1)
    process.SetGlobalWarningDisplay(False)  # steps that leave the image are taken back
    try:
        yield
    finally:
        process.SetGlobalDefaultNumberOfThreads(before[0])
        process.SetGlobalWarningDisplay(before[1])


def _starts(frame: Volume, region: Region, start: Matrix, settings: Settings) -> list[Matrix]:
    """Return starts turned about left-right, as the ankle turns, the most promising first."""
    centre = apply(start, region.centre)
    turned = [
        compose(rigid((angle, 0, 0), (0, 0, 0), centre), start)
        for angle in settings.start_angles_deg
    ]
    return sorted(turned, key=lambda pose: agreement(frame, region, pose).cost)[:MOST_STARTS]


def _across_mm(fixed: Volume, pose: Matrix) -> tuple[float, ...]:
    """Return the line across a slice of the frame in the static world, to about half a degree."""
    profile = slice_direction(fixed.affine)
    direction = np.round(profile.normal @ pose[:3, :3], 2)
    return tuple((direction / np.linalg.norm(direction) * profile.thickness_mm).tolist())


def _averaged(image: Volume, across_mm: tuple[float, ...]) -> Volume:
    """Average an image over a line about each voxel, on the same grid, as thick slices do."""
    line = np.linalg.inv(image.affine[:3, :3]) @ across_mm  # in voxels
    parts = slice_parts(max(1, int(np.ceil(2 * np.abs(line).max()))))
    shifted = (ndimage.shift(image.data, -part * line, order=1, mode="nearest") for part in parts)
    return Volume(sum(shifted) / len(parts), image.affine)


def _register(frame: Volume, averaged: Volume, region: Region, start: Matrix) -> Matrix:
    """Fit one region to one frame; the start comes back if ITK cannot compare the two."""
    fixed, moving = _itk_image(frame), _itk_image(averaged)
    transform = _itk_transform(start, apply(start, region.centre))
    for spacing_mm, last_step_mm in LEVELS:
        # A start that is 10 degrees off would leave half of a talus outside of its mask.
        mask = _mask(frame, region, _pose(transform))
        if mask is None:
            return start
        method = _method(transform, mask, _radius_mm(region), last_step_mm)
        method.Execute(_coarser(fixed, spacing_mm), _smoothed(moving, spacing_mm))
    return _pose(transform)


def _mask(frame: Volume, region: Region, pose: Matrix) -> Any:
    """Return the voxels of a frame to compare as an ITK image, or None if they are too few."""
    carried = resample(region.weights, frame.shape, frame.affine, pose=pose).data > MASK_WEIGHT
    if carried.sum() < SMALLEST_MASK:
        return None
    return _itk_image(Volume(carried.astype(np.uint8), frame.affine))


def _radius_mm(region: Region) -> float:
    """Return the weighted root mean square of the distance from an axis through the centre."""
    squares = 0.0
    for axis, size_mm in enumerate(region.weights.voxel_size_mm):
        side = region.weights.data.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        side, index = side / side.sum(), np.arange(len(side))
        squares += float(side @ (index - side @ index) ** 2) * size_mm**2
    return float(np.sqrt(2 / 3 * squares))


def _method(transform: Any, mask: Any, radius_mm: float, last_step_mm: float) -> Any:
    """Return a registration that changes ``transform`` in place."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP_MM,
        minStep=last_step_mm,
        numberOfIterations=ITERATIONS,
        relaxationFactor=RELAXATION,
        gradientMagnitudeTolerance=1e-9,
    )
    # A turn by one radian moves the region about as far as its radius. ITK's estimate from the
    # corners of the image weighs turns too little: 0.4 mm of error instead of 0.2.
    method.SetOptimizerScales([radius_mm**2] * 3 + [1.0] * 3)
    method.SetInitialTransform(transform, inPlace=True)
    return method


def _itk_image(volume: Volume) -> Any:
    """Return an image with the axes of the array, in LPS mm."""
    values = volume.data if volume.data.dtype == np.uint8 else volume.data.astype(np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    steps = np.diag([-1.0, -1.0, 1.0]) @ volume.affine[:3, :3]
    sizes = np.linalg.norm(steps, axis=0)
    image.SetSpacing(sizes.tolist())
    image.SetOrigin((np.array([-1.0, -1.0, 1.0]) * volume.affine[:3, 3]).tolist())
    image.SetDirection((steps / sizes).ravel().tolist())
    return image


def _itk_transform(pose: Matrix, centre: NDArray[np.float64]) -> Any:
    """Return a pose as ITK's rotation about ``centre`` (frame world, RAS mm) and shift."""
    lps, middle = to_itk(pose), centre * [-1, -1, 1]
    transform = sitk.Euler3DTransform()
    transform.SetCenter(middle.tolist())
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation((apply(lps, middle) - middle).tolist())
    return transform


def _pose(transform: Any) -> Matrix:
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    lps[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return nearest_rigid(to_itk(lps))


def _coarser(frame: Any, spacing_mm: float) -> Any:
    """Average blocks of pixels within the slices to about ``spacing_mm``."""
    sizes = np.asarray(frame.GetSpacing())
    blocks = np.maximum(1, np.rint(spacing_mm / sizes)).astype(int)
    return sitk.BinShrink(frame, np.minimum(blocks, frame.GetSize()).tolist())


def _smoothed(moving: Any, spacing_mm: float) -> Any:
    """Blur the static scan as much as averaging over ``spacing_mm`` does."""
    if spacing_mm == 0:
        return moving
    return sitk.DiscreteGaussian(moving, variance=[spacing_mm**2 / 12] * 3)  # that of a box
