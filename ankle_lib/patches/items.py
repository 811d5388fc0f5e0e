"""Images to draw patches from, read from earlier chapters' folders and laid out as slices."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.geometry import bounding_box, same_grid
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.rules import PatchRule, admissible_positions, local_correlation
from ankle_lib.presets import BONES
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.volume import Volume, canonical_voxel_size, load, read_header, to_orientation

PIXEL_TOLERANCE = 0.05
"""Relative; a cohort's voxel sizes may scatter as much (see `manifest.Geometry`)."""

Rules = PatchRule | Mapping[str, PatchRule]
"""One rule for all items, or one per `Item.bone`."""


@dataclass(frozen=True)
class Item:
    """An image, and what belongs to it; all arrays are of one shape (I, J, K).

    Patches are taken from the sagittal slices ``image[:, :, k]``.
    """

    subject: str
    name: str
    """Which image of the subject, for messages: ``static``, ``active_run-01 frame 7``."""
    image: NDArray[np.floating]
    """Normalised intensities."""
    region: NDArray[np.bool_]
    """Foot or bone: where patches must lie."""
    labels: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Masks to learn. A label that is missing here is unknown in this image, not absent."""
    target: NDArray[np.floating] | None = None
    """Intensities to learn, instead of labels."""
    bone: str | None = None
    """The bone that the patches show, where there is one set of patches per bone."""
    context: tuple[int, ...] = (0,)
    """Slices, counted from a patch's own, that are its channels; 0 is the patch itself."""

    def __str__(self) -> str:
        return f"{self.subject} {self.name} of shape {self.image.shape}"


@dataclass(frozen=True)
class Slices:
    """An item as tensors of shape (K, H, W), cut to where patches may lie."""

    image: Tensor
    """float32."""
    target: Tensor
    """float32 intensities, or uint8 with one bit per label."""
    kept: Tensor
    """(K, H - h + 1, W - w + 1) bool: positions of admissible patches in the cut slices."""
    corner: tuple[int, int]
    """Row and column of the cut in the image; negative where the image was continued."""
    black: float
    """Intensity of air, which continues the image beyond its border."""
    n_positions: int
    """Positions in a whole slice, admissible or not."""
    expected: Tensor
    """(K,) float64: patches that the report's extraction keeps on average."""


def rule_of(item: Item, rules: Rules) -> PatchRule:
    """Return the rule for an item; an item without a rule is refused."""
    if isinstance(rules, PatchRule):
        return rules
    if item.bone is None or item.bone not in rules:
        raise AnkleError(f"{item}: there is no rule for patches of {item.bone!r}")
    return rules[item.bone]


def slices_at(positions_mm: Sequence[float], spacing_mm: float) -> tuple[int, ...]:
    """Return which slices lie at given distances from a slice, at least one slice apart.

    Parameters
    ----------
    positions_mm : sequence of float
        Distances along the slices' normal; 0 is the slice itself.
    spacing_mm : float
        Distance of neighbouring slices.

    Returns
    -------
    tuple of int
        For `Item.context` and `inference.whole_slices`.
    """
    return tuple(
        int(math.copysign(max(1, round(abs(mm) / spacing_mm)), mm)) if mm else 0
        for mm in positions_mm
    )


def as_slices(
    item: Item, rule: PatchRule, labels: Sequence[str] = BONES, device: torch.device | str = "cpu"
) -> Slices:
    """Lay an item out as slices on the device and find its admissible positions.

    Slices smaller than a patch are continued with air on both sides. Only the surroundings of the
    region are kept, with half a patch more than upright patches need, for those that are turned.

    Raises
    ------
    AnkleError
        If the image or the target is not finite, or a label is not among ``labels``.
    """
    unknown = [label for label in item.labels if label not in labels]
    if unknown:
        raise AnkleError(f"{item}: label {unknown[0]!r} is none of {', '.join(labels)}")
    height, width = rule.size
    missing = [max(0, rule.size[axis] - item.image.shape[axis]) for axis in (0, 1)]
    full = [item.image.shape[axis] + missing[axis] for axis in (0, 1)]
    n_positions = (full[0] - height + 1) * (full[1] - width + 1)
    reach = [side + side // 2 for side in rule.size]
    box = bounding_box(item.region, (*reach, 0)) if rule.min_fraction > 0 else None
    rows, columns, _ = box or (slice(0, length) for length in item.image.shape)
    before = (missing[0] // 2, missing[1] // 2)

    def laid_out(array: NDArray, fill: float, dtype: torch.dtype) -> Tensor:
        cut = np.ascontiguousarray(np.moveaxis(array[rows, columns], 2, 0))
        tensor = torch.from_numpy(cut).to(device, dtype)
        pad = (before[1], missing[1] - before[1], before[0], missing[0] - before[0])
        return functional.pad(tensor, pad, value=fill) if any(missing) else tensor

    black = float(item.image.min())
    image = laid_out(item.image, black, torch.float32)
    kept = admissible_positions(laid_out(item.region, 0, torch.bool), rule)
    if item.target is not None:
        target = laid_out(item.target, float(item.target.min()), torch.float32)
        if rule.min_correlation is not None:
            kept &= local_correlation(image, target, rule.size) > rule.min_correlation
    else:
        target = torch.zeros_like(image, dtype=torch.uint8)
        for bit, label in enumerate(labels):
            if label in item.labels:
                target |= laid_out(item.labels[label], 0, torch.uint8) << bit
    if not (torch.isfinite(image).all() and torch.isfinite(target).all()):
        raise AnkleError(f"{item}: values that are not finite: normalise with zscore first")
    expected = kept.flatten(1).sum(1, dtype=torch.float64) * (rule.tries / n_positions)
    corner = (rows.start - before[0], columns.start - before[1])
    return Slices(image, target, kept, corner, black, n_positions, expected)


def zscore(data: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shift and scale an image to mean 0 and standard deviation 1 inside the mask.

    Report, section 6.2.1: inside the foot for segmentation, inside the bone for reconstruction.

    Parameters
    ----------
    data : array
        Image of any shape.
    mask : bool array of the same shape
        Voxels that count; all others are transformed along with them.

    Returns
    -------
    float32 array of the same shape

    Raises
    ------
    AnkleError
        If the mask is empty, or the values inside it are constant or not finite.
    """
    inside = data[mask]
    if inside.size == 0:
        raise AnkleError("the mask is empty: there is no intensity to normalise by")
    mean = float(inside.mean(dtype=np.float64))
    sd = float(inside.std(dtype=np.float64))
    if not np.isfinite([mean, sd]).all():
        raise AnkleError("the image holds values inside the mask that are not finite: replace them")
    if sd <= 1e-6 * abs(mean):
        raise AnkleError(f"the image is constant inside the mask ({mean:g}): is it the right file?")
    return ((data - np.float32(mean)) / np.float32(sd)).astype(np.float32)


# --- reading ---


def pixel_mm(images: Iterable[Path]) -> float:
    """Return the size of the pixels in sagittal slices: their median over all images.

    Raises
    ------
    AnkleError
        If there is no image, or an image's pixels are not square or not of this size, by more
        than 5 %.
    """
    paths = list(images)
    if not paths:
        raise AnkleError("no image to read a pixel's size from: is the cohort empty?")
    sizes = np.array([canonical_voxel_size(read_header(path).affine)[:2] for path in paths])
    usual = float(np.median(sizes))
    far = np.abs(sizes / usual - 1).max(axis=1) > PIXEL_TOLERANCE
    if far.any():
        first = int(np.argmax(far))
        found = " x ".join(f"{size:.3f}" for size in sizes[first])
        raise AnkleError(
            f"{paths[first]}: pixels of {found} mm, but {usual:.3f} mm in most images: resample it"
        )
    return usual


def static_items(subjects: Iterable[CleanSubject], masked: Path) -> Iterator[Item]:
    """Yield the static scan of each subject, normalised inside the foot, with its bones.

    Parameters
    ----------
    subjects : iterable of CleanSubject
        From `layouts.read_clean_cohort`; pick those of one part of a `Split`.
    masked : Path
        Results of chapter 02, which hold the foot masks.
    """
    for subject in subjects:
        yield _labelled(subject, "static", subject.static, masked, "static", subject.masks)


def dynamic_items(
    subjects: Iterable[CleanSubject], masked: Path, accepted: Sequence[RegisteredFrame]
) -> Iterator[Item]:
    """Yield each frame with at least one accepted bone, normalised inside the foot.

    A bone whose registration was not accepted is unknown in that frame: the other bones' patches
    are still used. Parameters as for `static_items`, and the accepted registrations.
    """
    for subject in subjects:
        for (sequence, frame), bones in _by_frame(subject, accepted).items():
            yield dynamic_item(subject, sequence, frame, masked, bones)


def dynamic_item(
    subject: CleanSubject,
    sequence: str,
    frame: int,
    masked: Path,
    accepted: Sequence[RegisteredFrame] = (),
) -> Item:
    """Return one frame, normalised inside the foot, with the bones accepted in it, if any."""
    path = _frame_path(subject, sequence, frame)
    masks = {one.bone: one.mask for one in accepted}
    stem = f"task-{sequence}_frame-{frame:02d}"
    return _labelled(subject, f"{sequence} frame {frame}", path, masked, stem, masks)


def _labelled(
    subject: CleanSubject,
    name: str,
    path: Path,
    masked: Path,
    stem: str,
    masks: Mapping[str, Path],
) -> Item:
    """Return an image, normalised inside the foot, with bones that lie on its grid."""
    image, folder = _read(path), f"sub-{subject.code}"
    foot = _read_mask(masked / folder / f"{folder}_{stem}_desc-foot_mask.nii.gz", image)
    labels = {bone: _read_mask(mask, image) for bone, mask in masks.items()}
    return Item(subject.code, name, _normalised(path, image, foot), foot, labels)


def reconstruction_items(
    subjects: Iterable[CleanSubject], accepted: Sequence[RegisteredFrame]
) -> Iterator[Item]:
    """Yield, per frame and accepted bone, the frame and the static scan moved with the bone.

    Both are normalised inside the bone, each by itself (report, section 6.3.1).
    """
    for subject in subjects:
        for (sequence, frame), bones in _by_frame(subject, accepted).items():
            path = _frame_path(subject, sequence, frame)
            image = _read(path)
            for one in bones:
                mask, moved = _read_mask(one.mask, image), _read(one.moved_static)
                _check_grid(one.moved_static, moved, image)
                yield Item(
                    subject.code,
                    f"{sequence} frame {frame}",
                    _normalised(path, image, mask),
                    mask,
                    target=_normalised(one.moved_static, moved, mask),
                    bone=one.bone,
                )


def _by_frame(
    subject: CleanSubject, accepted: Sequence[RegisteredFrame]
) -> dict[tuple[str, int], list[RegisteredFrame]]:
    """Return the subject's registrations, frame by frame in order."""
    own = [one for one in accepted if one.subject == subject.code]
    own.sort(key=lambda one: (one.sequence, one.frame, one.bone))
    frames = itertools.groupby(own, key=lambda one: (one.sequence, one.frame))
    return {frame: list(bones) for frame, bones in frames}


def _frame_path(subject: CleanSubject, sequence: str, frame: int) -> Path:
    frames = subject.sequences.get(sequence, [])
    if not 0 <= frame < len(frames):
        raise AnkleError(
            f"{subject.code} has no frame {frame} of {sequence!r}, but a registration of it: "
            "run chapter 03 again"
        )
    return frames[frame]


def _read(path: Path) -> Volume:
    volume = to_orientation(load(path))
    if volume.data.ndim != 3:
        raise AnkleError(f"{path}: a series of {volume.n_frames} frames where one image is needed")
    return volume


def _read_mask(path: Path, image: Volume) -> NDArray[np.bool_]:
    mask = _read(path)
    _check_grid(path, mask, image)
    return mask.data > 0


def _check_grid(path: Path, volume: Volume, image: Volume) -> None:
    if not same_grid(volume.grid, image.grid):
        raise AnkleError(
            f"{path}: not on the grid of its image (shapes {volume.shape} and {image.shape}): run "
            "the chapter that wrote it again"
        )


def _normalised(path: Path, image: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    try:
        return zscore(image.data, mask)
    except AnkleError as error:
        raise AnkleError(f"{path}: {error}") from None
