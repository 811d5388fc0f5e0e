"""A sequence in motion: frame, moved static scan, their difference and the segmentation."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures.images import slice_of
from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume, to_orientation
from ankle_lib.widgets.inputs import OUTSIDE, Frames, if_empty, inside, not_finite, series
from ankle_lib.widgets.picture import SIGNED, Layer, Panel, brightness_limits
from ankle_lib.widgets.view import EMPTY, View, colours_of, legend, slider, window_slider
from ankle_lib.widgets.volume_viewer import in_mm, voxel_at

SIDE_PX = {1: 480, 2: 400, 3: 268, 4: 200}
"""Of a panel's longer side, by the number of panels; with the controls it fits on 1280 x 800."""
PLANE = "sagittal"
STEP_MS = 200
"""Between frames that are played; the browser waits for the kernel if that is slower."""


class SequencePlayer(View):
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

    Examples
    --------
    >>> SequencePlayer(film, moved, {"talus": masks})
    """

    def __init__(
        self,
        sequence: Volume,
        moved: Frames | None = None,
        segmentation: Mapping[str, Frames] | None = None,
        *,
        side_px: int | None = None,
    ) -> None:
        super().__init__()
        self._moved: list[Volume | None] = []
        self._masks: dict[str, list[Volume | None]] = {}
        self._limits_of_moved: dict[int, tuple[float, float]] = {}
        with self.refusals():
            if isinstance(sequence, list | tuple):
                raise AnkleError("The sequence is a list: a Volume is wanted, of 4D.")
            frames = series(sequence, "sequence")
            self._frames = [frame for frame in frames if frame is not None]
            self.notes.append(not_finite(sequence, "sequence"))
            grid = to_orientation(sequence)
            if moved is not None:
                self._moved = self._belonging(moved, "moved static scan", grid)
            for name, masks in (segmentation or {}).items():
                found = self._belonging(masks, f"mask of {name}", grid, OUTSIDE)
                if found:
                    self._masks[name] = [
                        None if mask is None else Volume(inside(mask.data), mask.affine)
                        for mask in found
                    ]
            self._build(side_px)
            self.draw()

    def draw(self) -> None:
        """Show all panels."""
        number, index, limits = self.frame.value, self.slice.value, self.window.value
        shown = slice_of(self._frames[number], PLANE, index)
        sentences = list(self.notes)
        self.panels["frame"].draw(shown, limits)
        moved = self._moved[number] if self._moved else None
        if moved is not None:
            if number not in self._limits_of_moved:
                self._limits_of_moved[number] = brightness_limits(moved.data)
            cut = slice_of(moved, PLANE, index)
            self.panels["moved static"].draw(cut, self._limits_of_moved[number])
            difference = replace(shown, image=matched_difference(shown.image, cut.image))
            reach = (limits[1] - limits[0]) / 2
            self.panels["difference"].draw(difference, (-reach, reach), palette=SIGNED)
        elif self._moved:
            self.panels["moved static"].clear()
            self.panels["difference"].clear()
            sentences.append(f"There is no moved static scan for frame {number}.")
        if self._masks:
            there = self._masks_of(number)
            sentences += [if_empty(mask, name) for name, mask in there.items()]
            if absent := ", ".join(name for name in self._masks if name not in there):
                sentences.append(f"There is no mask of {absent} for frame {number}.")
            cut = slice_of(self._frames[number], PLANE, index, there)
            layers = [Layer(mask, self.colours[name], self.opacity.value)
                      for name, mask in cut.outlines.items()]  # fmt: skip
            self.panels["segmentation"].draw(shown, limits, layers)
        self.message.say(*sentences)

    def _belonging(
        self, frames: Frames, name: str, grid: Volume, what: str = "shown black"
    ) -> list[Volume | None]:
        """Return one image per frame; a note and nothing if they do not belong to the sequence."""
        try:
            found = series(frames, name, like=grid)
        except AnkleError as error:
            self.notes.append(f"Not shown: {error}")
            return []
        self.notes.append(not_finite(found, name, what))
        return found

    def _masks_of(self, number: int) -> dict[str, NDArray[np.bool_]]:
        of_frame = {name: masks[number] for name, masks in self._masks.items()}
        return {name: mask.data for name, mask in of_frame.items() if mask is not None}

    def _build(self, side_px: int | None) -> None:
        names = ["frame"]
        names += ["moved static", "difference"] if self._moved else []
        names += ["segmentation"] if self._masks else []
        self.panels = {name: Panel(name, side_px or SIDE_PX[len(names)]) for name in names}
        last, n_slices = len(self._frames) - 1, self._frames[0].shape[2]
        self.play = ipywidgets.Play(value=0, min=0, max=last, interval=STEP_MS, repeat=True,
                                    show_repeat=False)  # fmt: skip
        self.frame = slider("frame", 0, last, width=330)
        # the slice with most of the masks, or the middle one
        areas = [np.count_nonzero(mask, axis=(0, 1)) for mask in self._masks_of(0).values()]
        most = int(np.argmax(np.sum(areas, axis=0))) if np.any(areas) else n_slices // 2
        self.slice = slider("slice", 0, n_slices - 1, most, width=330)
        self.window = window_slider(brightness_limits(self._frames[len(self._frames) // 2].data))
        self.opacity = slider("filling", 0.0, 1.0, 0.3, step=0.05, width=300)
        self.colours = colours_of(list(self._masks))
        self.read_out = ipywidgets.HTML(EMPTY)
        ipywidgets.link((self.play, "value"), (self.frame, "value"))
        self.watch(self.frame, self.slice, self.window, self.opacity)
        for panel in self.panels.values():
            panel.on_mouse(self._on_mouse)
        self.show_rows(
            ipywidgets.HBox(list(self.panels.values())),
            self.read_out,
            ipywidgets.HBox([self.play, self.frame, self.slice]),
            ipywidgets.HBox([self.window, self.opacity] if self._masks else [self.window]),
            legend(self.colours),
        )

    def _on_mouse(self, kind: str, row: int, column: int) -> None:
        if kind == "leave":
            self.read_out.value = EMPTY
            return
        number = self.frame.value
        image, moved = self._frames[number], self._moved[number] if self._moved else None
        voxel = voxel_at(PLANE, self.slice.value, row, column, image.shape)
        parts = [in_mm(image, voxel), f"frame {number}: {image.data[voxel]:.4g}"]
        parts += [f"moved static: {moved.data[voxel]:.4g}"] if moved is not None else []
        parts += [name for name, mask in self._masks_of(number).items() if mask[voxel]]
        self.read_out.value = html.escape(" · ".join(parts))


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
