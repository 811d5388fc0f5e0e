"""Networks tried on images that they were not trained on: other looks, real bones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ankle_lib.dynamic.frames import Frame
from ankle_lib.dynamic.prediction import frame_dice
from ankle_lib.dynamic.template import read_template, template_scans
from ankle_lib.learning.scoring import summary
from ankle_lib.learning.training import Trained
from ankle_lib.registration.truth import read_looks

AS_SIMULATED = "as simulated"


def other_looks(frames: Iterable[Frame], truth: Path) -> dict[str, list[Frame]]:
    """Return frames of which other images are known, by the name of the look.

    Parameters
    ----------
    frames : iterable of Frame
        On their own grids.
    truth : Path
        Of a simulated cohort, see `registration.truth.read_looks`.

    Returns
    -------
    dict
        ``as simulated`` and each other look to the same frames; empty for real scans.
    """
    looks: dict[str, list[Frame]] = {}
    read: dict[tuple[str, str], Mapping] = {}
    for frame in frames:
        key = (frame.code, frame.sequence)
        if key not in read:
            read[key] = read_looks(truth, *key)
        own = {look: image for (n, look), image in read[key].items() if n == frame.number}
        if own:
            looks.setdefault(AS_SIMULATED, []).append(frame)
        for look, image in own.items():
            looks.setdefault(look, []).append(frame.looking_like(image))
    return looks


def template_frames(folder: Path, n: int, pixel_mm: float, seed: int = 0) -> list[Frame]:
    """Return renderings of real bone shapes, see `template.template_scans`, as frames.

    Parameters
    ----------
    folder : Path
        With a mask of each bone, as `ankle data fetch latim_bone_template` leaves it.
    n : int
    pixel_mm : float
    seed : int
    """
    draw = np.random.default_rng(seed)
    scans = template_scans(read_template(folder), n, draw, pixel_mm=pixel_mm)
    return [
        Frame(scan.item.name, number, scan, np.eye(4), scan.item.labels)
        for number, scan in enumerate(scans)
    ]


def robustness(
    networks: Mapping[str, Trained], images: Mapping[str, Sequence[Frame]], pixel_mm: float
) -> pd.DataFrame:
    """Score networks on each kind of images.

    Parameters
    ----------
    networks : mapping of name to Trained
    images : mapping of name to frames
    pixel_mm : float
        That the networks were trained on.

    Returns
    -------
    DataFrame
        Columns images, network, bone, dice_mean, dice_low, dice_high (over subjects), n.
    """
    rows = [
        summary(frame_dice([fitted], frames, pixel_mm)).assign(
            images=name, network=network, n=len(frames)
        )
        for name, frames in images.items()
        for network, fitted in networks.items()
    ]
    table = pd.concat(rows, ignore_index=True)
    return table[["images", "network", "bone", "dice_mean", "dice_low", "dice_high", "n"]]
