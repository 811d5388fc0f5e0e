"""How long a view takes to redraw, beside matplotlib, and how much state it leaves in a notebook.

    python benchmarks/widgets.py

A volume of the report's static grid (576 x 576 x 110, three masks) and a sequence of its dynamic
grid (352 x 352 x 6 x 15) are made of noise, which is the hardest to compress. Times are those of
the processor on one thread, from moving a slider to the last byte for the browser. Beside it: the
same three slices and outlines as one matplotlib figure, drawn anew; and with its artists updated,
as ipympl would do. Ends with 1 if a view misses its mark.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
from ipywidgets.embed import dependency_state, embed_data
from matplotlib.figure import Figure

from ankle_lib.figures.images import PLANES, draw_slice, slice_of
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import PatchRule
from ankle_lib.quality.review_sheet import ReviewSheet
from ankle_lib.volume import Volume
from ankle_lib.widgets.patch_explorer import PatchExplorer
from ankle_lib.widgets.registration_tuner import RegistrationTuner
from ankle_lib.widgets.review_board import ReviewBoard
from ankle_lib.widgets.viewers import SequencePlayer, VolumeViewer

STATIC, STATIC_MM = (576, 576, 110), (0.28, 0.28, 0.8)
DYNAMIC, DYNAMIC_MM, N_FRAMES = (352, 352, 6), (0.57, 0.57, 8.0), 15
MOST_MS, MOST_STATE_MB = 100.0, 2.0


def main() -> int:
    """Print a line for each way of drawing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    scan, masks = noise(STATIC, STATIC_MM, order="F"), boxes(STATIC, STATIC_MM)
    viewer = VolumeViewer(scan, masks)
    frames = [noise(DYNAMIC, DYNAMIC_MM, seed=n) for n in range(N_FRAMES)]
    series = Volume(np.stack([frame.data for frame in frames], axis=3), frames[0].affine)
    moved = boxes(DYNAMIC, DYNAMIC_MM)
    of_frames = {
        bone: Volume(np.stack([mask.data] * N_FRAMES, axis=3), mask.affine)
        for bone, mask in moved.items()
    }
    player = SequencePlayer(series, of_frames)
    board, k = review_board(frames, moved["talus"]), STATIC[2] // 2
    bone = bone_box()
    tuner = RegistrationTuner(series, scan, {"talus": bone}, {"talus": bone.data.astype(float)})
    item = Item("T01", "static", scan.data, scan.data > 200, {"talus": masks["talus"].data})
    explorer = PatchExplorer([item], PatchRule((128, 128), 300, 0.75), STATIC_MM[0])

    ours: dict[str, Callable[[int], object]] = {
        f"VolumeViewer, three planes, {plane} slider": slider(viewer.sliders[plane], 40)
        for plane in PLANES
    }
    ours |= {
        "SequencePlayer, frame slider": slider(player.frame, 0),
        "RegistrationTuner, slider of a turn": slider(tuner.turns["left-right"], 0),
        "RegistrationTuner, slice slider": lambda n: setattr(tuner.slice, "value", 1 + n % 4),
        "PatchExplorer, slice slider": slider(explorer.slice, 40),
        "PatchExplorer, threshold": lambda n: setattr(explorer.fraction, "value", 0.05 * (n % 12)),
        "ReviewBoard, frame slider": slider(board.frame, 0),
    }
    others = {
        "matplotlib, three planes, drawn anew": lambda n: redraw(
            scan, masks, (k + n % 9, 288, 288)
        ),
        "matplotlib, three planes, artists updated": updated(scan, masks),
    }
    times = {name: median_ms(work, repeats) for name, work in ours.items()}
    for name, work in others.items():
        print(f"{name:48s} {median_ms(work, min(repeats, 8)):7.1f} ms")
    for name, took in times.items():
        print(f"{name:48s} {took:7.1f} ms")
    sizes = {type(view).__name__: state_mb(view) for view in (viewer, player, tuner, explorer)}
    for name, size in sizes.items():
        print(f"{name:48s} {size:7.2f} MB of state in a notebook")
    good = max(times.values()) <= MOST_MS and sum(sizes.values()) <= MOST_STATE_MB
    return 0 if good else 1


def median_ms(work: Callable[[int], object], repeats: int) -> float:
    """Return the median time of a call in ms; the first one, which fills caches, does not count."""
    work(0)
    times = []
    for n in range(1, repeats + 1):
        start = time.process_time()
        work(n)
        times.append(time.process_time() - start)
    return float(np.median(times)) * 1000


def review_board(frames: list[Volume], mask: Volume) -> ReviewBoard:
    """Return a board for one bone in all frames."""
    sheet = ReviewSheet(Path(tempfile.mkdtemp()) / "sheet.csv")
    row = {"subject": "T01", "sequence": "active_run-01", "bone": "talus", "correlation": 0.9}
    rows = [row | {"frame": n, "verdict": "accepted"} for n in range(len(frames))]
    sheet.update(pd.DataFrame(rows))
    return ReviewBoard(sheet, lambda *key: (frames[key[2]], mask), "Ada")


def bone_box() -> Volume:
    """Return a mask of the report's static grid as large as a child's talus."""
    mask = np.zeros(STATIC, dtype=bool)
    mask[200:380, 220:350, 38:73] = True  # 50 x 36 x 28 mm
    return Volume(mask, affine(STATIC_MM))


def slider(control: ipywidgets.Widget, first: int) -> Callable[[int], None]:
    """Return what moves a slider to another place at each call."""

    def move(n: int) -> None:
        control.value = first + n % 12

    return move


def redraw(scan: Volume, masks: dict[str, Volume], places: tuple[int, int, int]) -> bytes:
    """Draw three planes as a new figure."""
    figure = Figure(figsize=(9, 3.2), dpi=100)
    for axes, plane, index in zip(figure.subplots(1, 3), PLANES, places, strict=True):
        draw_slice(axes, slice_of(scan, plane, index, masks, limits=(0, 800)))
    return png(figure)


def updated(scan: Volume, masks: dict[str, Volume]) -> Callable[[int], bytes]:
    """Return what gives a figure's images other slices; outlines are contours, drawn anew."""
    figure = Figure(figsize=(9, 3.2), dpi=100)
    images, panels, lines = {}, {}, []
    for axes, plane in zip(figure.subplots(1, 3), PLANES, strict=True):
        shown = slice_of(scan, plane, 50).image
        images[plane] = axes.imshow(shown, cmap="gray", vmin=0, vmax=800, origin="lower")
        panels[plane] = axes
        axes.set_axis_off()

    def draw(n: int) -> bytes:
        while lines:
            lines.pop().remove()
        for plane, index in zip(PLANES, (50 + n % 9, 288, 288), strict=True):
            images[plane].set_data(slice_of(scan, plane, index).image)
            for bone, mask in masks.items():
                inside = slice_of(mask, plane, index).image
                if inside.any():
                    colours = [BONE_COLOURS[bone]]
                    lines.append(panels[plane].contour(inside, levels=[0.5], colors=colours))
        return png(figure)

    return draw


def png(figure: Figure) -> bytes:
    """Return a figure as a browser gets it."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def state_mb(view: ipywidgets.Widget) -> float:
    """Return the size of a view's state as JSON, as nbclient stores it."""
    alone = embed_data(views=[view], state=dependency_state([view]))
    return len(json.dumps(alone["manager_state"])) / 2**20


def noise(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], *, seed: int = 0,
    order: str = "C",
) -> Volume:  # fmt: skip
    """Return a bright ellipsoid in noise, axes P, S, R; ``F`` is how NIfTI lies in memory."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    inside = sum(part**2 for part in np.meshgrid(*axes, indexing="ij", sparse=True)) < 0.9
    data = np.random.default_rng(seed).normal(60, 30, shape).astype(np.float32)
    data += 400 * inside
    return Volume(np.asarray(data.clip(0), order=order), affine(voxel_mm))


def boxes(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]
) -> dict[str, Volume]:  # fmt: skip
    """Return a box for each bone, side by side."""
    masks = {}
    for number, bone in enumerate(BONE_COLOURS):
        mask = np.zeros(shape, dtype=bool)
        i = (2 + 2 * number) * shape[0] // 9
        mask[i : i + shape[0] // 6, shape[1] // 3 : 2 * shape[1] // 3, 1:-1] = True
        masks[bone] = Volume(mask, affine(voxel_mm))
    return masks


def affine(voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """Return an affine with axes P, S, R."""
    matrix = np.zeros((4, 4))
    matrix[1, 0], matrix[2, 1], matrix[0, 2], matrix[3, 3] = -voxel_mm[0], *voxel_mm[1:], 1
    return matrix


if __name__ == "__main__":
    sys.exit(main())
