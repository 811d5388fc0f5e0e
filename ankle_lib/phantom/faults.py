"""What goes wrong between a scanner and a researcher, injected on purpose into raw files.

A fault changes the images of one subject before they are written, or the bytes of a file after.
Each has a sentence for the manifest's notes. Which subject bears which fault follows the report's
own list where it gives one.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform, Rotation

Bytes = Callable[[bytes], bytes]


@dataclass
class RawImage:
    """An image as it will be written: stored numbers, affines, and damage to the finished file."""

    data: NDArray
    affine: NDArray[np.float64]
    slope: float = 1.0
    qform: NDArray[np.float64] | None = None
    """If it differs from ``affine``, which is then the sform alone."""
    frame_seconds: float = 1.0
    damage: list[Bytes] = field(default_factory=list)


@dataclass
class RawImages:
    """One subject's images by file name."""

    static: dict[str, RawImage]
    masks: dict[str, RawImage]
    sequences: dict[str, RawImage]

    def files(self) -> dict[str, RawImage]:
        """All images by file name."""
        return {**self.static, **self.masks, **self.sequences}


@dataclass(frozen=True)
class Fault:
    """A named way to spoil a subject's files."""

    note: str
    apply: Callable[[RawImages, np.random.Generator], None]
    spoils_last_sequence: bool = False


def to_bytes(image: RawImage) -> bytes:
    """A complete ``.nii.gz`` file; the same image gives the same bytes."""
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(image.data.dtype)
    header.set_data_shape(image.data.shape)
    header.set_sform(image.affine, code=1)
    header.set_qform(image.affine if image.qform is None else image.qform, code=1)
    header.set_xyzt_units("mm", "sec")
    if image.data.ndim == 4:
        header["pixdim"][4] = image.frame_seconds
    header["scl_slope"], header["scl_inter"] = image.slope, 0.0
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content = header.binaryblock + bytes(4) + image.data.tobytes(order="F")
    packed = gzip.compress(content, 1, mtime=0)
    for damage in image.damage:
        packed = damage(packed)
    return packed


def _only(images: Mapping[str, RawImage]) -> RawImage:
    (image,) = images.values()
    return image


def _mirrored(image: RawImage) -> None:
    image.data = np.ascontiguousarray(image.data[:, :, ::-1])


def _mirror_static(images: RawImages, _: np.random.Generator) -> None:
    _mirrored(_only(images.static))


def _mirror_masks(images: RawImages, _: np.random.Generator) -> None:
    for mask in images.masks.values():
        _mirrored(mask)


def _mirror_both(images: RawImages, generator: np.random.Generator) -> None:
    _mirror_static(images, generator)
    _mirror_masks(images, generator)


def _without_masks(images: RawImages, _: np.random.Generator) -> None:
    images.masks.clear()


def _second_static(images: RawImages, generator: np.random.Generator) -> None:
    (name, scan), *_rest = images.static.items()
    again = np.roll(scan.data, (3, -2, 1), axis=(0, 1, 2))
    images.static[name.replace(".nii.gz", "_run-02.nii.gz")] = RawImage(again, scan.affine)


def _unreadable_header(images: RawImages, _: np.random.Generator) -> None:
    def scramble(packed: bytes) -> bytes:
        content = bytearray(gzip.decompress(packed))
        content[0:4] = struct.pack("<i", 1_480_610_380)
        content[40:56] = struct.pack("<8h", *[-1] * 8)
        content[344:348] = bytes(4)
        return gzip.compress(bytes(content), 1, mtime=0)

    _only(images.static).damage.append(scramble)


def _truncated(images: RawImages, _: np.random.Generator) -> None:
    _only(images.static).damage.append(lambda packed: packed[: int(0.61 * len(packed))])


def _one_frame_short(images: RawImages, _: np.random.Generator) -> None:
    last = list(images.sequences.values())[-1]
    last.data = np.ascontiguousarray(last.data[..., :-1])


def _frame_of_zeros(images: RawImages, _: np.random.Generator) -> None:
    last = list(images.sequences.values())[-1]
    last.data[..., last.data.shape[3] // 3] = 0


def _coarse_static(images: RawImages, _: np.random.Generator) -> None:
    """Every third slice of scan and masks only, as from a protocol with thick slices."""
    thin = np.diag([1.0, 1.0, 3.0, 1.0])
    for image in (*images.static.values(), *images.masks.values()):
        image.data = np.ascontiguousarray(image.data[:, :, ::3])
        image.affine = image.affine @ thin


def _many_nan(images: RawImages, _: np.random.Generator) -> None:
    scan = _only(images.static)
    scan.data = scan.data.astype(np.float32)
    n = scan.data.shape[2]
    scan.data[:, :, n // 2 : n // 2 + max(2, n // 12)] = np.nan


def _few_nan(images: RawImages, generator: np.random.Generator) -> None:
    scan = _only(images.static)
    scan.data = scan.data.astype(np.float32)
    spots = generator.integers(0, scan.data.size, 40)
    scan.data.reshape(-1)[spots] = np.nan


def _mask_255(images: RawImages, _: np.random.Generator) -> None:
    for mask in images.masks.values():
        mask.data = mask.data * np.uint8(255)


def _soft_masks(images: RawImages, _: np.random.Generator) -> None:
    """Masks as an interpolating program leaves them: between 0 and 1 at the edges."""
    for mask in images.masks.values():
        soft = mask.data.astype(np.float32)
        for axis in (0, 1):
            soft = 0.25 * np.roll(soft, 1, axis) + 0.5 * soft + 0.25 * np.roll(soft, -1, axis)
        # Rounded to either side of the threshold, the voxel stays what the reader drew.
        mask.data = np.where(mask.data > 0, np.maximum(soft, 0.51), np.minimum(soft, 0.49))
        mask.data = mask.data.astype(np.float32)


def _other_world(images: RawImages, generator: np.random.Generator) -> None:
    """Masks and sequences moved by one rigid transform that the static scan did not get."""
    turn = Rotation.from_euler("xyz", generator.uniform(-20, 20, 3), degrees=True)
    shift = generator.choice([-1, 1], 3) * generator.uniform(60, 120, 3)
    world = RigidTransform.from_components(shift, turn).as_matrix()
    for image in (*images.masks.values(), *images.sequences.values()):
        image.affine = world @ image.affine


def _talus_cut_off(images: RawImages, _: np.random.Generator) -> None:
    for name, mask in images.masks.items():
        if "talus" in name:
            mask.data = np.zeros_like(mask.data)


def _qform_elsewhere(images: RawImages, _: np.random.Generator) -> None:
    scan = _only(images.static)
    wrong = scan.affine.copy()
    wrong[:3, 3] += (35.0, -50.0, 20.0)
    scan.qform, scan.affine = scan.affine, wrong


FAULTS: dict[str, Fault] = {
    "T01": Fault("the static scan is flipped left to right", _mirror_static),
    "T02": Fault("the masks hold 0 and 255", _mask_255),
    "T04": Fault("masks and sequences are in another reference frame", _other_world),
    "T05": Fault("the masks are flipped left to right", _mirror_masks),
    "T06": Fault("the static scan has slices three times too thick", _coarse_static),
    "T07": Fault(
        "the last sequence has a frame of zeros", _frame_of_zeros, spoils_last_sequence=True
    ),
    "T08": Fault("the static scan's file is cut short", _truncated),
    "T10": Fault("the talus is not in the field of view: its mask is empty", _talus_cut_off),
    "E01": Fault("static scan and masks are flipped left to right", _mirror_both),
    "E03": Fault(
        "the last sequence is one frame short", _one_frame_short, spoils_last_sequence=True
    ),
    "E04": Fault("the masks are soft: numbers between 0 and 1", _soft_masks),
    "E05": Fault("masks and sequences are in another reference frame", _other_world),
    "E06": Fault("the only sequence is one frame short", _one_frame_short),
    "E07": Fault(
        "qform and sform of the static scan disagree; the qform is right", _qform_elsewhere
    ),
    "E08": Fault("forty voxels of the static scan are not numbers", _few_nan),
    "E09": Fault("the static scan's header is unreadable", _unreadable_header),
    "E10": Fault("the only sequence has a frame of zeros", _frame_of_zeros),
    "E11": Fault("there are no masks", _without_masks),
    "E12": Fault("there are two static scans", _second_static),
    "E13": Fault("a block of the static scan is not numbers", _many_nan),
}
"""By subject."""
