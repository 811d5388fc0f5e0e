"""Scenes as a network gets them: normalised channels, what to learn, and patches drawn of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Box, bounding_box
from ankle_lib.patches.source import Batch, pair_correlation
from ankle_lib.reconstruction.sharp_scenes import Scales, Scene

CHANNELS = ("measured", "static")
"""The frame, and the static scan moved into it."""

SIDE_MULTIPLE = 8
"""Sides of what a network sees; a U-Net of four levels halves them three times."""


def channels_of(
    measured: NDArray,
    moved_static: NDArray,
    scales: Scales,
    channels: Sequence[str] = CHANNELS,
) -> NDArray[np.float32]:
    """Return what a network sees, shape (channels, I, J, K).

    Parameters
    ----------
    measured, moved_static : (I, J, K) arrays
    scales : dict
        Mean and standard deviation about the bones of ``measured`` and ``static``: each image is
        normalised by its own, see `Scene.scales`.
    channels : sequence of str
        Of `CHANNELS`.
    """
    images = {"measured": measured, "static": moved_static}
    return np.stack(
        [((images[one] - scales[one][0]) / scales[one][1]).astype(np.float32) for one in channels]
    )


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
    size : (int, int)
        Rows and columns of what is drawn.

    Raises
    ------
    AnkleError
        If a scene has no truth, or there is none.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        pixels: int | None = None,
        *,
        channels: Sequence[str] = CHANNELS,
        residual: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if not scenes:
            raise AnkleError("no scene to learn from: were all registrations rejected?")
        self.device = torch.device(device)
        boxes = [_box(scene) for scene in scenes]
        self.size = (pixels, pixels) if pixels else whole_size(scenes)
        self._names = [(str(scene), box[2].start) for scene, box in zip(scenes, boxes, strict=True)]
        self._scenes: list[tuple[Tensor, Tensor]] = []
        places: list[NDArray[np.int16]] = []
        for number, (scene, box) in enumerate(zip(scenes, boxes, strict=True)):
            if scene.truth is None:
                raise AnkleError(f"{scene}: there is no truth to learn from")
            image = channels_of(scene.measured, scene.moved_static, scene.scales, channels)
            mean, sd = scene.scales["measured"]
            lacking = (scene.truth - (scene.measured if residual else mean)) / sd
            self._scenes.append((self._around(box, image), self._around(box, lacking[None])))
            inside = np.moveaxis(scene.region[box], 2, 0)
            k, row, column = np.nonzero(inside)
            if not pixels:  # the slice's middle, as often as the slice shows bone
                row[:], column[:] = inside.shape[1] // 2, inside.shape[2] // 2
            places.append(np.stack([np.full_like(k, number), k, row, column]).astype(np.int16))
        self._places = torch.from_numpy(np.concatenate(places, axis=1)).to(self.device)

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        """Draw ``n`` patches at random, with replacement, every voxel of the regions alike."""
        n_places = self._places.shape[1]
        chosen = torch.randint(n_places, (n,), generator=generator, device=self.device)
        where = self._places[:, chosen].T.long()
        height, width = self.size
        images, targets = [], []
        for number, k, row, column in where.tolist():
            image, target = self._scenes[number]
            part = (..., slice(row, row + height), slice(column, column + width))
            images.append(image[k][part])
            targets.append(target[k][part])
        image, target = torch.stack(images).float(), torch.stack(targets).float()
        valid = torch.ones((n, 1), dtype=torch.bool, device=self.device)
        alike = pair_correlation(image[:, :1], target)
        return Batch(image, target, valid, alike, where, self.describe)

    def describe(self, where: Sequence[int]) -> str:
        """Return scene, slice and middle in words."""
        name, first = self._names[int(where[0])]
        return f"{name}, slice {int(where[1]) + first}, about row {where[2]}, column {where[3]}"

    def _around(self, box: Box, images: NDArray) -> Tensor:
        """Return slices (K, channels, H, W) of a box with half a patch more on every side."""
        height, width = self.size
        wide = np.pad(
            images[..., box[2]], ((0, 0), (height, height), (width, width), (0, 0)), mode="edge"
        )
        rows, columns = (
            slice(side.start + size - size // 2, side.stop + 2 * size - size // 2)
            for side, size in zip(box, self.size, strict=False)
        )
        slices = torch.from_numpy(wide[:, rows, columns]).to(self.device).permute(3, 0, 1, 2)
        return slices.half().contiguous()


def whole_size(scenes: Sequence[Scene]) -> tuple[int, int]:
    """Return rows and columns that hold the region of every scene, in multiples of eight."""
    boxes = [_box(scene) for scene in scenes]
    rows, columns = (max(box[axis].stop - box[axis].start for box in boxes) for axis in (0, 1))
    return rows + -rows % SIDE_MULTIPLE, columns + -columns % SIDE_MULTIPLE


def _box(scene: Scene) -> Box:
    box = bounding_box(scene.region)
    if box is None:
        raise AnkleError(f"{scene}: its bones lie where the frame has no data")
    return box
