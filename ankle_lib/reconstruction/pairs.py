"""Scenes as a network sees them: normalised channels, what to learn, and patches drawn of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.files import AnkleError
from ankle_lib.patches.source import Batch, pair_correlation
from ankle_lib.reconstruction.scenes import Scene

Channel = Literal["measured", "static"]
CHANNELS: tuple[Channel, ...] = ("measured", "static")
"""The frame, and the static scan moved into it."""


def channels_of(
    measured: NDArray,
    moved_static: NDArray,
    scales: dict[str, tuple[float, float]],
    channels: Sequence[Channel] = CHANNELS,
) -> NDArray[np.float32]:
    """Return what the network sees, shape (channels, I, J, K).

    Parameters
    ----------
    measured, moved_static : (I, J, K) arrays
    scales : dict
        Mean and standard deviation about the bones of ``measured`` and ``static``: each image is
        normalised by its own, see `Scene.scales`.
    channels : sequence of str
    """
    images = {"measured": measured, "static": moved_static}
    return np.stack(
        [((images[one] - scales[one][0]) / scales[one][1]).astype(np.float32) for one in channels]
    )


def restored(
    output: NDArray, measured: NDArray, scales: dict[str, tuple[float, float]], *, residual: bool
) -> NDArray[np.float32]:
    """Return intensities of the frame from a network's output.

    Parameters
    ----------
    output : (I, J, K) array
        In standard deviations of the frame.
    measured : (I, J, K) array
        The frame, interpolated linearly.
    scales : dict
        See `channels_of`.
    residual : bool
        Whether the output is to be added to the frame, or to its mean.
    """
    mean, sd = scales["measured"]
    image: NDArray[np.float32] = (sd * output + (measured if residual else mean)).astype(np.float32)
    return image


class SceneSource:
    """Slices of many scenes on one device, and patches drawn from them about the bones.

    Parameters
    ----------
    scenes : sequence of Scene
        With truth; all with pixels of one size.
    pixels : int, optional
        Rows and columns of a patch, whose middle lies in the region. Without it whole slices are
        drawn, cut or continued to one size: that of the largest region.
    channels : sequence of str
        What the network sees, see `CHANNELS`.
    residual : bool
        Learn what the interpolated frame lacks instead of the image itself.
    device : torch device

    Attributes
    ----------
    subjects : tuple of str
    size : (int, int)
        Rows and columns of what is drawn.

    Raises
    ------
    AnkleError
        If a scene has no truth, or there is none.
    """

    of_labels = False

    def __init__(
        self,
        scenes: Sequence[Scene],
        pixels: int | None = None,
        *,
        channels: Sequence[Channel] = CHANNELS,
        residual: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if not scenes:
            raise AnkleError("no scene to learn from: were all registrations rejected?")
        self.device = torch.device(device)
        self.subjects = tuple(dict.fromkeys(scene.subject for scene in scenes))
        boxes = [_box(scene.region) for scene in scenes]
        sides = [max(box[axis].stop - box[axis].start for box in boxes) for axis in (0, 1)]
        self.size = (pixels, pixels) if pixels else (_even(sides[0]), _even(sides[1]))
        self._reach = (self.size[0] // 2, self.size[1] // 2)
        self._names: list[tuple[str, int]] = []
        self._scenes: list[tuple[Tensor, Tensor]] = []
        places: list[NDArray[np.int16]] = []
        for number, (scene, box) in enumerate(zip(scenes, boxes, strict=True)):
            image, target = self._laid_out(scene, box, channels, residual)
            self._scenes.append((image, target))
            self._names.append((str(scene), box[2].start))
            inside = scene.region[box]
            if pixels:
                k, row, column = np.nonzero(np.moveaxis(inside, 2, 0))
            else:  # the slice's middle, as often as the slice shows bone
                k = np.nonzero(np.moveaxis(inside, 2, 0))[0]
                row, column = (np.full_like(k, side // 2) for side in inside.shape[:2])
            places.append(np.stack([np.full_like(k, number), k, row, column]).astype(np.int16))
        self._places = torch.from_numpy(np.concatenate(places, axis=1)).to(self.device)

    @property
    def n_positions(self) -> int:
        """Number of different patches."""
        return self._places.shape[1]

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        """Draw ``n`` patches at random, with replacement, every voxel of the regions alike."""
        chosen = torch.randint(self.n_positions, (n,), generator=generator, device=self.device)
        return self.at(self._places[:, chosen].T.long())

    def at(self, where: Tensor) -> Batch:
        """Return patches at places, shape (n, 4): scene, slice, row and column of the middle."""
        height, width = self.size
        images, targets = [], []
        for number, k, row, column in where.tolist():
            image, target = self._scenes[number]
            part = (..., slice(row, row + height), slice(column, column + width))
            images.append(image[k][part])
            targets.append(target[k][part])
        image, target = torch.stack(images).float(), torch.stack(targets).float()
        valid = torch.ones((len(where), 1), dtype=torch.bool, device=self.device)
        seen = pair_correlation(image[:, :1], target)
        return Batch(image, target, valid, seen, where, self.describe)

    def describe(self, where: Sequence[int]) -> str:
        """Return scene, slice and middle in words."""
        name, first = self._names[int(where[0])]
        return f"{name}, slice {int(where[1]) + first}, about row {where[2]}, column {where[3]}"

    def _laid_out(
        self,
        scene: Scene,
        box: tuple[slice, slice, slice],
        channels: Sequence[Channel],
        residual: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return slices (K, channels, H, W) and targets (K, 1, H, W), with half a patch more."""
        if scene.truth is None:
            raise AnkleError(f"{scene}: there is no truth to learn from")
        around = [
            (min(self._reach[axis], box[axis].start), box[axis].start - self._reach[axis])
            for axis in (0, 1)
        ]
        wide = tuple(
            slice(max(first, 0), box[axis].stop + self.size[axis] - self._reach[axis])
            for axis, (_, first) in enumerate(around)
        )
        part = (*wide, box[2])
        seen = channels_of(scene.measured[part], scene.moved_static[part], scene.scales, channels)
        base = scene.measured[part] if residual else scene.scales["measured"][0]
        lacking = (scene.truth[part] - base) / scene.scales["measured"][1]
        needed = [box[axis].stop - box[axis].start + self.size[axis] for axis in (0, 1)]
        before = [self._reach[axis] - around[axis][0] for axis in (0, 1)]

        def laid(array: NDArray) -> Tensor:
            after = [n - b - s for n, b, s in zip(needed, before, array.shape[1:3], strict=True)]
            rows, columns = ((b, max(a, 0)) for b, a in zip(before, after, strict=True))
            slices = torch.from_numpy(array).to(self.device).permute(3, 0, 1, 2)
            whole = functional.pad(slices, (*columns, *rows), mode="replicate")
            return whole[..., : needed[0], : needed[1]].half().contiguous()

        return laid(seen), laid(lacking[None])


def _box(region: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Return the region's box."""
    filled = [np.flatnonzero(region.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not len(filled[0]):
        raise AnkleError("a scene's region is empty: its bones lie where the frame has no data")
    i, j, k = (slice(int(found[0]), int(found[-1]) + 1) for found in filled)
    return i, j, k


def _even(length: int, multiple: int = 8) -> int:
    return -(-length // multiple) * multiple
