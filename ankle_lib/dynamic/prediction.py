"""What a network sees in a frame: labels, probabilities, and how sure it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.dynamic.frames import Frame
from ankle_lib.learning import prediction
from ankle_lib.learning.segmenter import Segmenter
from ankle_lib.learning.training import Trained
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES


@dataclass(frozen=True, eq=False)
class Prediction:
    """A segmented frame.

    Attributes
    ----------
    labels : (I, J, K) uint8 array
        On the frame's grid: 0, or 1 + the position of the bone in `presets.BONES`.
    maps : (3, i, j, K) float16 array
        Probability of each bone, with the pixels that the network sees.
    affine : (4, 4)
        Of the maps' grid, to world RAS, mm.
    """

    labels: NDArray[np.uint8]
    maps: NDArray[np.floating]
    affine: NDArray[np.float64]

    def mask(self, bone: str) -> NDArray[np.bool_]:
        """Return where the bone is, on the frame's grid."""
        return self.labels == BONES.index(bone) + 1


def predict(networks: Sequence[Trained], frame: Frame, pixel_mm: float) -> Prediction:
    """Segment a frame, with one network for all bones or one for each.

    Parameters
    ----------
    networks : sequence of Trained
        Which together have one output for each bone.
    frame : Frame
        On its own grid.
    pixel_mm : float
        Pixels that the networks were trained on.
    """
    segmenter = Segmenter.of(*networks, pixel_mm=pixel_mm)
    scan = frame.scan
    found = prediction.predict(scan.item.image, scan.voxel_size_mm, segmenter)
    maps = np.stack([found.maps[found.bones.index(bone)] for bone in BONES])
    return Prediction(found.labels, maps, frame.affine @ found.grid)


def frame_dice(
    networks: Sequence[Trained], frames: Iterable[Frame], pixel_mm: float
) -> pd.DataFrame:
    """Score networks on frames; done once per network.

    Returns
    -------
    DataFrame
        Columns subject, bone, dice: means over the subject's frames in which the bone is known.
    """
    seen = tuple(frames)
    others = [fitted.folder.name for fitted in networks[1:]]
    key = [pixel_mm, others, [frame.scan.checksum for frame in seen]]
    return networks[0].remembered("frames", partial(_frame_dice, networks, seen, pixel_mm), key)


def _frame_dice(
    networks: Sequence[Trained], frames: Sequence[Frame], pixel_mm: float
) -> pd.DataFrame:
    rows = []
    for frame in frames:
        found = predict(networks, frame, pixel_mm)
        rows += [
            (frame.code, bone, dice(found.mask(bone), mask))
            for bone, mask in frame.reference.items()
        ]
    table = pd.DataFrame(rows, columns=["subject", "bone", "dice"])
    return table.groupby(["subject", "bone"], sort=False, as_index=False).mean()
