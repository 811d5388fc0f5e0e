"""A sequence in motion: frame, moved static scan, their difference and the segmentation."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures.images import slice_of
from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume, to_orientation
from ankle_lib.widgets.inputs import (
    OUTSIDE,
    Frames,
    check_values,
    colours_of,
    inside,
    masks_on,
    not_finite,
    series,
)
from ankle_lib.widgets.message import Message
from ankle_lib.widgets.panel import Panel
from ankle_lib.widgets.pixels import SIGNED, Layer, brightness_limits, window_slider
from ankle_lib.widgets.volume_viewer import voxel_at

SIDE_PX = {1: 480, 2: 400, 3: 268, 4: 200}
"""Of a panel's longer side, by the number of panels; with the controls it fits on 1280 x 800."""
PLANE = "sagittal"
STEP_MS = 200
"""Between frames that are played; the browser waits for the kernel if that is slower."""


class SequencePlayer(ipywidgets.VBox):
    """Play a dynamic scan beside the moved static scan, their difference and the segmentation.

    All panels show the same sagittal slice of the same frame. Panels without data are left out.
    The line below says what is under the mouse. Bad input is said in the view: series that do not
    belong to the sequence are left out, values that are not finite are black, in masks outside.

    Parameters
    ----------
    sequence : Volume
        4D, any orientation; stays in the kernel.
    moved : Volume or sequence of Volume, optional
        The static scan moved onto each frame: 4D, or one 3D image per frame (None where there is
        none), on the sequence's grid.
    segmentation : mapping of name to (Volume or sequence of Volume), optional
        Masks of the frames, likewise.
    side_px : int, optional
        Length of a panel's longer side on the screen.
    """

    def __init__(
        self,
        sequence: Volume,
        moved: Frames | None = None,
        segmentation: Mapping[str, Frames] | None = None,
        *,
        side_px: int | None = None,
    ) -> None:
        self.message = Message()
        self._frames: list[Volume] = []
        self._moved: list[Volume | None] = []
        self._masks: dict[str, list[Volume | None]] = {}
        sentences: list[str] = []
        try:
            check_values(sequence, "sequence")
            self._frames = [frame for frame in series(sequence, "sequence") if frame is not None]
            sentences.append(not_finite(sequence, "sequence"))
        except AnkleError as error:
            sentences.append(str(error))
        if not self._frames:
            self.message.show(sentences)
            super().__init__([self.message])
            return
        if moved is not None:
            self._moved = _kept(moved, "moved static scan", sequence, sentences)
            sentences.append(not_finite(self._moved, "moved static scan"))
        for name, masks in (segmentation or {}).items():
            found = _kept(masks, f"mask of {name}", sequence, sentences)
            sentences.append(not_finite(found, f"mask of {name}", OUTSIDE))
            if found:
                self._masks[name] = [
                    None if mask is None else Volume(inside(mask.data), mask.affine)
                    for mask in found
                ]
        self._sentences = sentences
        self._limits_of_moved: dict[int, tuple[float, float]] = {}
        super().__init__(self._build(side_px))
        self._draw()

    def _build(self, side_px: int | None) -> list[ipywidgets.Widget]:
        names = ["frame"]
        names += ["moved static", "difference"] if self._moved else []
        names += ["segmentation"] if self._masks else []
        side = side_px or SIDE_PX[len(names)]
        self.panels = {name: Panel(name, side) for name in names}
        wide = ipywidgets.Layout(width="330px")
        last = len(self._frames) - 1
        self.play = ipywidgets.Play(value=0, min=0, max=last, interval=STEP_MS, repeat=True,
                                    show_repeat=False)  # fmt: skip
        self.frame = ipywidgets.IntSlider(0, 0, last, description="frame", layout=wide)
        n_slices = self._frames[0].shape[2]
        self.slice = ipywidgets.IntSlider(self._first_slice(), 0, n_slices - 1,
                                          description="slice", layout=wide)  # fmt: skip
        middle = self._frames[len(self._frames) // 2]
        self.window = window_slider(brightness_limits(middle.data), 400)
        self.opacity = ipywidgets.FloatSlider(0.3, min=0, max=1, step=0.05, description="filling")
        self.colours = colours_of(list(self._masks))
        self.read_out = ipywidgets.HTML("&nbsp;")
        ipywidgets.link((self.play, "value"), (self.frame, "value"))
        for control in (self.frame, self.slice, self.window, self.opacity):
            control.observe(self._on_change, "value")
        for panel in self.panels.values():
            panel.on_mouse(self._on_mouse)
        legend = "".join(f'<span style="color: {colour}">■</span> {html.escape(name)} &nbsp; '
                         for name, colour in self.colours.items())  # fmt: skip
        below = [self.window, self.opacity] if self._masks else [self.window]
        return [
            ipywidgets.HBox(list(self.panels.values())),
            self.read_out,
            ipywidgets.HBox([self.play, self.frame, self.slice]),
            ipywidgets.HBox(below),
            ipywidgets.HTML(legend),
            self.message,
        ]

    def _first_slice(self) -> int:
        """Return the slice that shows most of the masks, or the middle one."""
        area: NDArray[Any] = np.zeros(self._frames[0].shape[2])
        for masks in self._masks.values():
            if masks[0] is not None:
                area = area + np.count_nonzero(masks[0].data, axis=(0, 1))
        return int(np.argmax(area)) if area.any() else len(area) // 2

    def _on_change(self, change: dict[str, Any]) -> None:
        self._draw()

    def _on_mouse(self, kind: str, row: int, column: int) -> None:
        if kind == "leave":
            self.read_out.value = "&nbsp;"
            return
        number = self.frame.value
        image = self._frames[number]
        voxel = voxel_at(PLANE, self.slice.value, row, column, image.shape)
        right, anterior, superior = image.affine[:3, :3] @ voxel + image.affine[:3, 3]
        parts = [
            f"R {right:.1f}, A {anterior:.1f}, S {superior:.1f} mm",
            f"frame {number}: {image.data[voxel]:.4g}",
        ]
        moved = self._moved[number] if self._moved else None
        if moved is not None:
            parts.append(f"moved static: {moved.data[voxel]:.4g}")
        for name, masks in self._masks.items():
            mask = masks[number]
            if mask is not None and mask.data[voxel]:
                parts.append(name)
        self.read_out.value = html.escape(" · ".join(parts))

    def _draw(self) -> None:
        number, index = self.frame.value, self.slice.value
        frame = self._frames[number]
        shown = slice_of(frame, PLANE, index)
        sentences = list(self._sentences)
        self.panels["frame"].draw(shown, self.window.value)
        if self._moved:
            self._draw_moved(number, index, frame, sentences)
        if self._masks:
            self._draw_masks(number, index, frame, sentences)
        self.message.show(sentences)

    def _draw_moved(self, number: int, index: int, frame: Volume, sentences: list[str]) -> None:
        moved = self._moved[number]
        if moved is None:
            self.panels["moved static"].clear()
            self.panels["difference"].clear()
            sentences.append(f"There is no moved static scan for frame {number}.")
            return
        if number not in self._limits_of_moved:
            self._limits_of_moved[number] = brightness_limits(moved.data)
        cut = slice_of(moved, PLANE, index)
        self.panels["moved static"].draw(cut, self._limits_of_moved[number])
        shown = slice_of(frame, PLANE, index)
        difference = matched_difference(shown.image, cut.image)
        low, high = self.window.value
        reach = (high - low) / 2
        self.panels["difference"].draw(
            type(shown)(difference, shown.size_mm, shown.letters), (-reach, reach), palette=SIGNED
        )

    def _draw_masks(self, number: int, index: int, frame: Volume, sentences: list[str]) -> None:
        masks = {name: of_frames[number] for name, of_frames in self._masks.items()}
        there = {name: mask for name, mask in masks.items() if mask is not None}
        drawn, missing = masks_on(frame, there)
        sentences += missing
        absent = ", ".join(name for name in masks if name not in there)
        if absent:
            sentences.append(f"There is no mask of {absent} for frame {number}.")
        layers = [
            Layer(
                slice_of(Volume(mask, frame.affine), PLANE, index).image,
                self.colours[name],
                self.opacity.value,
            )
            for name, mask in drawn.items()
        ]
        shown = slice_of(frame, PLANE, index)
        self.panels["segmentation"].draw(shown, self.window.value, layers)


def matched_difference(frame: NDArray[Any], moved: NDArray[Any]) -> NDArray[np.float32]:
    """Return frame minus moved static scan, whose gain and offset are fitted first.

    Two kinds of scan have two scales, so their plain difference says nothing. The best gain and
    offset (least squares) are those of the pixels where both are above 0; elsewhere, where the
    static scan was not carried, the difference is 0.

    Parameters
    ----------
    frame, moved : array
        Of one shape.
    """
    one, two = np.asarray(frame, dtype=np.float32), np.asarray(moved, dtype=np.float32)
    both = (one > 0) & (two > 0) & np.isfinite(one) & np.isfinite(two)
    result = np.zeros(one.shape, dtype=np.float32)
    if np.count_nonzero(both) < 3:
        return result
    x, y = two[both].astype(np.float64), one[both].astype(np.float64)
    spread = float(np.var(x))
    gain = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 0.0
    result[both] = y - (y.mean() + gain * (x - x.mean()))
    return result


def _kept(frames: Frames, name: str, sequence: Volume, sentences: list[str]) -> list[Volume | None]:
    """Return one image per frame; a sentence and nothing if they do not belong to the sequence."""
    try:
        return series(frames, name, like=to_orientation(sequence))
    except AnkleError as error:
        sentences.append(f"Not shown: {error}")
        return []
