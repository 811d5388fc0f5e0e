"""Trained 2D networks on all slices of an image: whole, or in overlapping tiles.

Slices are sagittal, ``[:, :, k]``. To segment an image see `prediction.predict`, which prepares it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ankle_lib.files import AnkleError
from ankle_lib.geometry import bounding_box
from ankle_lib.learning.networks import fast_autocast, ready_to_predict
from ankle_lib.parallel import in_batches

OVERLAP = 0.5
"""Part of a tile's side that the next tile covers again."""

MARGIN = 32
"""Pixels around the foot that the network sees too.

A U-Net then labels 3 in 100,000 bone voxels otherwise than on whole slices; 2 in 1,000 with none.
"""

SIDE_MULTIPLE = 16
"""Sides of the seen box are multiples of this, so that no network needs padding."""

GPU_BATCH = 16
CPU_PIXELS = 60_000
"""Slices at a time: several small ones, or one."""
TILES_AT_ONCE = 16

Predict = Callable[[Tensor], Tensor]
"""Images (n, slices, height, width) to outputs (n, channels, height, width)."""

Box = tuple[slice, slice]


def whole_slices(
    network: nn.Module,
    image: NDArray,
    *,
    context: Sequence[int] = (0,),
    foot: NDArray[np.bool_] | None = None,
    device: torch.device | str | None = None,
    batchnorm_training: bool = False,
    tile: int | None = None,
) -> NDArray[np.floating]:
    """Run the network on whole sagittal slices, as the report did.

    In evaluation mode; the given network is left as it was.

    Parameters
    ----------
    network : nn.Module
        Maps (n, slices, height, width) to (n, channels, height, width), any size.
    image : (I, J, K) array
        Normalised as the network's training images.
    context : sequence of int
        Slices that the network sees at a time, counted from the one that it labels. Beyond the
        image its last slice goes on.
    foot : (I, J, K) bool array, optional
        Slices without foot are skipped, others cut to the foot's box and a margin of 32 pixels;
        outputs are 0 where nothing was computed. Without it, every pixel is.
    device : optional
        The network's own by default. In bfloat16 where it is fast in it.
    batchnorm_training : bool
        Repeat the error of the 2020 test scripts, which never left the training mode: batch
        normalisation with the mean and variance of the slice at hand, mostly air, instead of the
        learnt ones. For the post-mortem only, and without ``foot``, as then; slices, or tiles,
        go one by one.
    tile : int, optional
        Side in pixels of overlapping tiles, averaged with Gaussian weights
        (`monai.inferers.sliding_window_inference`), instead of whole slices: the network sees as
        much of a foot as in training. Slices that are smaller are continued with their border.

    Returns
    -------
    (channels, I, J, K) array
        Probabilities as float16, intensities as float32.

    Raises
    ------
    AnkleError
        If image or foot have a wrong shape, the foot is empty or the image is not finite.
    """
    _check(image, foot)
    # a copy, for the given network stays as it was
    ready = ready_to_predict(copy.deepcopy(network), device).train(batchnorm_training)
    predict: Predict = ready
    if tile is not None:
        predict = _tiled(ready, tile, 1 if batchnorm_training else TILES_AT_ONCE)
    # an intensity of 8 bits after the point would show as steps
    is_intensity = getattr(network, "head", "probability") == "intensity"
    kept, dtype = (torch.float32, np.float32) if is_intensity else (torch.float16, np.float16)
    place = next(ready.parameters()).device
    at_once = 1 if batchnorm_training else _slices_at_once(place, foot, image.shape)
    n_slices = image.shape[2]
    maps: NDArray[np.floating] | None = None
    for ks in _runs(foot, n_slices, at_once):
        box = _box(None if foot is None else foot[:, :, ks], image.shape)
        seen = np.arange(ks.start, ks.stop)[:, None] + np.asarray(context)
        stack = np.moveaxis(image[box][:, :, seen.clip(0, n_slices - 1)], (2, 3), (0, 1))
        images = torch.from_numpy(np.ascontiguousarray(stack, dtype=np.float32)).to(place)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), fast_autocast(place):
            outputs = torch.cat(in_batches(predict, images, at_once=at_once))
        if maps is None:
            maps = np.zeros((n_slices, outputs.shape[1], *image.shape[:2]), dtype=dtype)
        maps[(ks, slice(None), *box)] = outputs.to(kept).cpu().numpy()
    assert maps is not None  # there is at least one slice
    return maps.transpose(1, 2, 3, 0)


def _check(image: NDArray, foot: NDArray[np.bool_] | None) -> None:
    if image.ndim != 3 or 0 in image.shape:
        raise AnkleError(f"expected an image of three axes, found shape {image.shape}")
    if foot is not None and foot.shape != image.shape:
        raise AnkleError(f"the foot mask has shape {foot.shape}, its image {image.shape}")
    if foot is not None and not foot.any():
        raise AnkleError("the foot mask is empty: lower its threshold or leave the mask out")
    if not np.isfinite(image).all():
        raise AnkleError("the image holds values that are not finite: clean it first")


def _tiled(network: nn.Module, size: int, at_once: int) -> Predict:
    # MONAI takes seconds to import, and only tiles need it
    from monai.inferers import sliding_window_inference

    def predict(images: Tensor) -> Tensor:
        outputs = sliding_window_inference(
            images,
            roi_size=(size, size),
            sw_batch_size=at_once,
            predictor=network,
            overlap=OVERLAP,
            mode="gaussian",
            padding_mode="replicate",
        )
        assert isinstance(outputs, Tensor)
        return outputs

    return predict


def _slices_at_once(
    device: torch.device, foot: NDArray[np.bool_] | None, shape: tuple[int, ...]
) -> int:
    if device.type == "cuda":
        return GPU_BATCH
    rows, columns = (len(range(n)[side]) for n, side in zip(shape, _box(foot, shape), strict=False))
    return max(1, CPU_PIXELS // (rows * columns))


def _runs(foot: NDArray[np.bool_] | None, n_slices: int, batch: int) -> Iterator[slice]:
    """Yield runs of at most ``batch`` neighbouring slices that show some foot."""
    shown = np.arange(n_slices) if foot is None else np.flatnonzero(foot.any(axis=(0, 1)))
    for start in range(0, n_slices, batch):
        run = shown[(shown >= start) & (shown < start + batch)]
        if len(run):
            yield slice(int(run[0]), int(run[-1]) + 1)


def _box(foot: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> Box:
    """Return the foot's box within the slices, with its margin, or all of the slices."""
    if foot is None:
        return slice(0, shape[0]), slice(0, shape[1])
    return plane_box(foot, MARGIN, SIDE_MULTIPLE)


def plane_box(mask: NDArray[np.bool_], margin: int, multiple: int) -> Box:
    """Return rows and columns of a mask and its margin, in whole multiples where they fit."""
    box = bounding_box(mask, (margin, margin, 0))
    assert box is not None  # whoever asks has looked
    sides = []
    for side, length in zip(box[:2], mask.shape, strict=False):
        missing = -(side.stop - side.start) % multiple
        added = min(missing, length - side.stop)
        sides.append(slice(max(side.start - (missing - added), 0), side.stop + added))
    return sides[0], sides[1]
