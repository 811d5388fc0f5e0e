"""What goes wrong between a scanner and a researcher, injected on purpose into raw files.

A fault changes the images of one subject before they are written, or the bytes of a file after.
Each has a sentence for the manifest's notes. Which subject bears which fault follows the report's
own list where it gives one. What goes wrong while one image is taken or outlined (`IMAGE_FAULTS`)
leaves it usable: later chapters meet it.
"""

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import RigidTransform, Rotation


@dataclass
class RawImage:
    """An image as it will be written: stored numbers, affines, and damage to the finished file."""

    data: NDArray
    affine: NDArray[np.float64]
    slope: float = 1.0
    qform: NDArray[np.float64] | None = None
    """If it differs from ``affine``, which is then the sform alone."""
    frame_seconds: float = 1.0
    damage: Callable[[bytes], bytes] | None = None


@dataclass
class RawImages:
    """One subject's images by file name."""

    static: dict[str, RawImage]
    masks: dict[str, RawImage]
    sequences: dict[str, RawImage]

    def files(self) -> dict[str, RawImage]:
        """All images by file name."""
        return {**self.static, **self.masks, **self.sequences}

    def of(self, part: str) -> RawImage:
        """Return the image of a sequence, or the mask of a bone."""
        (image,) = (one for name, one in self.files().items() if name.endswith(f"_{part}.nii.gz"))
        return image


@dataclass(frozen=True)
class Fault:
    """A named way to spoil a subject's files.

    Attributes
    ----------
    note : str
        For the manifest.
    kinds : tuple of str
        Which images it changes, in this order: fields of `RawImages`. Of the sequences, only the
        last one is spoilt.
    change : callable
        Changes one of them.
    change_all : callable
        What concerns more than one image at a time.
    """

    note: str
    kinds: tuple[str, ...] = ()
    change: Callable[[RawImage, np.random.Generator], None] | None = None
    change_all: Callable[[RawImages, np.random.Generator], None] | None = None

    @property
    def spoils_last_sequence(self) -> bool:
        """Whether a study could not use the subject's last sequence."""
        return "sequences" in self.kinds

    def apply(self, images: RawImages, generator: np.random.Generator) -> None:
        """Spoil a subject's images."""
        if self.change_all is not None:
            self.change_all(images, generator)
        if self.change is not None:
            for kind in self.kinds:
                found = list(getattr(images, kind).values())
                for image in found[-1:] if kind == "sequences" else found:
                    self.change(image, generator)


@dataclass(frozen=True)
class ImageFault:
    """What goes wrong with one image that a study would use.

    Attributes
    ----------
    note : str
        For the manifest.
    change : callable
        Changes the stored numbers in place, in the order of the acquisition's own axes.
    shift_mm : three floats
        By which the field of view misses its place, in the mean child's reference frame.
    """

    note: str
    change: Callable[[NDArray], None] = lambda data: None
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


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
    return packed if image.damage is None else image.damage(packed)


def _mirrored(image: RawImage, _: np.random.Generator) -> None:
    image.data = np.ascontiguousarray(image.data[:, :, ::-1])


def _without_masks(images: RawImages, _: np.random.Generator) -> None:
    images.masks.clear()


def _second_static(images: RawImages, _: np.random.Generator) -> None:
    ((name, scan),) = images.static.items()
    again = np.roll(scan.data, (3, -2, 1), axis=(0, 1, 2))
    images.static[name.replace(".nii.gz", "_run-02.nii.gz")] = RawImage(again, scan.affine)


def _other_world(images: RawImages, generator: np.random.Generator) -> None:
    """Masks and sequences moved by one rigid transform that the static scan did not get."""
    turn = Rotation.from_euler("xyz", generator.uniform(-20, 20, 3), degrees=True)
    shift = generator.choice([-1, 1], 3) * generator.uniform(60, 120, 3)
    world = RigidTransform.from_components(shift, turn).as_matrix()
    for image in (*images.masks.values(), *images.sequences.values()):
        image.affine = world @ image.affine


def _unreadable_header(scan: RawImage, _: np.random.Generator) -> None:
    def scramble(packed: bytes) -> bytes:
        content = bytearray(gzip.decompress(packed))
        content[0:4] = struct.pack("<i", 1_480_610_380)
        content[40:56] = struct.pack("<8h", *[-1] * 8)
        content[344:348] = bytes(4)
        return gzip.compress(bytes(content), 1, mtime=0)

    scan.damage = scramble


def _truncated(scan: RawImage, _: np.random.Generator) -> None:
    scan.damage = lambda packed: packed[: int(0.61 * len(packed))]


def _one_frame_short(series: RawImage, _: np.random.Generator) -> None:
    series.data = np.ascontiguousarray(series.data[..., :-1])


def _frame_of_zeros(series: RawImage, _: np.random.Generator) -> None:
    series.data[..., series.data.shape[3] // 3] = 0


def _coarse(image: RawImage, _: np.random.Generator) -> None:
    """Every third slice only, as from a protocol with thick slices."""
    image.data = np.ascontiguousarray(image.data[:, :, ::3])
    image.affine = image.affine @ np.diag([1.0, 1.0, 3.0, 1.0])


def _many_nan(scan: RawImage, _: np.random.Generator) -> None:
    scan.data = scan.data.astype(np.float32)
    n = scan.data.shape[2]
    scan.data[:, :, n // 2 : n // 2 + max(2, n // 12)] = np.nan


def _few_nan(scan: RawImage, generator: np.random.Generator) -> None:
    scan.data = scan.data.astype(np.float32)
    scan.data.reshape(-1)[generator.integers(0, scan.data.size, 40)] = np.nan


def _mask_255(mask: RawImage, _: np.random.Generator) -> None:
    mask.data = mask.data * np.uint8(255)


def _soft(mask: RawImage, _: np.random.Generator) -> None:
    """A mask as an interpolating program leaves it: between 0 and 1 at the edges."""
    soft = mask.data.astype(np.float32)
    for axis in (0, 1):
        soft = 0.25 * np.roll(soft, 1, axis) + 0.5 * soft + 0.25 * np.roll(soft, -1, axis)
    # Rounded to either side of the threshold, the voxel stays what the reader drew.
    mask.data = np.where(mask.data > 0, np.maximum(soft, 0.51), np.minimum(soft, 0.49))
    mask.data = mask.data.astype(np.float32)


def _talus_cut_off(images: RawImages, _: np.random.Generator) -> None:
    (talus,) = (mask for name, mask in images.masks.items() if "talus" in name)
    talus.data = np.zeros_like(talus.data)


def _qform_elsewhere(scan: RawImage, _: np.random.Generator) -> None:
    wrong = scan.affine.copy()
    wrong[:3, 3] += (35.0, -50.0, 20.0)
    scan.qform, scan.affine = scan.affine, wrong


def _lost_slices(series: NDArray) -> None:
    """On the way back, since frames before the turn were also taken in other ways."""
    middle, n = series.shape[2] // 2, series.shape[3]
    series[:, :, middle - 1 : middle + 1, 2 * n // 3 : 2 * n // 3 + max(1, n // 5)] = 0


def _jerk(series: NDArray) -> None:
    """Half of k-space is measured where the foot is two of 15 frames before, half after."""
    n, frame = series.shape[3], 2 * series.shape[3] // 3
    reach = max(1, n // 7)
    seen = series[..., [frame - reach, (frame + reach) % n]]
    early, spectra = np.fft.fftfreq(len(seen))[:, None, None] < 0, np.fft.fft(seen, axis=0)
    image = np.abs(np.fft.ifft(np.where(early, spectra[..., 0], spectra[..., 1]), axis=0))
    series[..., frame] = np.where(seen.any(axis=-1), image.round(), 0)


def _part_of_slices(mask: NDArray) -> None:
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    mask[:, :, filled[2 * len(filled) // 3 :]] = 0


_STATIC, _MASKS, _LAST = ("static",), ("masks",), ("sequences",)
_ELSEWHERE = Fault("masks and sequences are in another reference frame", change_all=_other_world)

FAULTS: dict[str, Fault] = {
    "T01": Fault("the static scan is flipped left to right", _STATIC, _mirrored),
    "T02": Fault("the masks hold 0 and 255", _MASKS, _mask_255),
    "T04": _ELSEWHERE,
    "T05": Fault("the masks are flipped left to right", _MASKS, _mirrored),
    "T06": Fault("the static scan has slices three times too thick", _STATIC + _MASKS, _coarse),
    "T07": Fault("the last sequence has a frame of zeros", _LAST, _frame_of_zeros),
    "T08": Fault("the static scan's file is cut short", _STATIC, _truncated),
    "T10": Fault(
        "the talus is not in the field of view: its mask is empty", change_all=_talus_cut_off
    ),
    "E01": Fault("static scan and masks are flipped left to right", _STATIC + _MASKS, _mirrored),
    "E03": Fault("the last sequence is one frame short", _LAST, _one_frame_short),
    "E04": Fault("the masks are soft: numbers between 0 and 1", _MASKS, _soft),
    "E05": _ELSEWHERE,
    "E06": Fault("the only sequence is one frame short", _LAST, _one_frame_short),
    "E07": Fault(
        "qform and sform of the static scan disagree; the qform is right", _STATIC, _qform_elsewhere
    ),
    "E08": Fault("forty voxels of the static scan are not numbers", _STATIC, _few_nan),
    "E09": Fault("the static scan's header is unreadable", _STATIC, _unreadable_header),
    "E10": Fault("the only sequence has a frame of zeros", _LAST, _frame_of_zeros),
    "E11": Fault("there are no masks", change_all=_without_masks),
    "E12": Fault("there are two static scans", change_all=_second_static),
    "E13": Fault("a block of the static scan is not numbers", _STATIC, _many_nan),
}
"""By subject."""

IMAGE_FAULTS: dict[tuple[str, str], ImageFault] = {
    ("T01", "passive_run-02"): ImageFault("two slices of some frames are lost", _lost_slices),
    ("T05", "passive_run-02"): ImageFault(
        "the field of view misses a part of the foot", shift_mm=(20.0, 0.0, 0.0)
    ),
    ("T07", "talus"): ImageFault("a third of the talus's slices is not outlined", _part_of_slices),
    ("E08", "passive_run-01"): ImageFault("the foot jerks during a frame", _jerk),
}
"""By subject, and sequence or bone."""
