"""Images to look through: a volume in linked planes, and a sequence in motion."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures.images import AXIS_OF_PLANE, PLANES, Slice, slice_of
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, bounding_box
from ankle_lib.volume import Volume, to_orientation
from ankle_lib.widgets.picture import SIGNED, Layer, Mark, Panel, brightness_limits
from ankle_lib.widgets.view import (
    EMPTY,
    Frames,
    Mask,
    View,
    belonging,
    colours_of,
    empty_ones,
    image_3d,
    legend,
    masks_on,
    not_finite,
    series,
    slider,
)

SIDE_PX = {1: 480, 2: 400, 3: 268, 4: 200}
"""Of a panel's longer side, by the number of panels; with the controls it fits on 1280 x 800."""
CROSS_COLOUR = "#F0E442"
STEP_MS = 200
"""Between frames that are played; the browser waits for the kernel if that is slower."""


class ImageView(View):
    """Frames and masks of one grid, seen through panels; what is under the mouse stands below.

    A view of its own fills ``_frames`` and ``_masks``, calls `_equip`, and shows its rows.
    """

    _frames: list[Volume]
    """3D, axes P, S, R."""
    _masks: dict[str, list[Mask | None]]
    """One for each frame, by name."""

    def go_to(self, voxel: Sequence[int]) -> None:
        """Let all planes pass through a voxel (axes P, S, R)."""
        self.change({control: int(voxel[AXIS_OF_PLANE[plane]])
                     for plane, control in self.sliders.items()})  # fmt: skip

    def describe(self, voxel: Sequence[int]) -> str:
        """Return world position (mm), values and masks of a voxel (axes P, S, R), in one line."""
        i, j, k = (int(index) for index in voxel)
        right, anterior, superior = apply(self._frames[0].affine, (i, j, k))
        parts = [f"R {right:.1f}, A {anterior:.1f}, S {superior:.1f} mm", f"voxel {i}, {j}, {k}"]
        parts += [f"{name} {image.data[i, j, k]:.4g}" for name, image in self._values().items()]
        parts += [name for name, mask in self._masks_there().items() if mask[i, j, k]]
        return " · ".join(parts)

    def _values(self) -> dict[str, Volume]:
        """Return the images that the read-out tells about, each behind its name."""
        raise NotImplementedError

    def _masks_there(self) -> dict[str, Mask]:
        """Return the masks of the frame that is shown."""
        of_frame = {name: masks[self.frame.value] for name, masks in self._masks.items()}
        return {name: mask for name, mask in of_frame.items() if mask is not None}

    def _equip(self, panels: Sequence[str], filling: float) -> None:
        """Make panels and controls; a panel that is not named like a plane is sagittal."""
        self.frame = slider("frame", 0, len(self._frames) - 1, width=330)
        shape = self._frames[0].shape
        middle = _middle(shape, self._masks_there())
        self.sliders = {plane: slider(plane, 0, shape[axis] - 1, middle[axis], width=268)
                        for plane, axis in AXIS_OF_PLANE.items()}  # fmt: skip
        low, high = brightness_limits(self._frames[len(self._frames) // 2].data)
        self.window = ipywidgets.FloatRangeSlider(
            value=(low, high),
            min=low,
            max=high + (high - low),
            step=(high - low) / 200,
            description="window",
            readout_format=".0f" if high - low > 20 else ".2f",  # what fits beside the slider
            layout=ipywidgets.Layout(width="400px"),
        )
        self.opacity = slider("filling", 0.0, 1.0, filling, step=0.05, width=300)
        self.colours = colours_of(list(self._masks))
        narrow = ipywidgets.Layout(width="auto")
        self.shown = {
            name: ipywidgets.Checkbox(True, description=name, indent=False, layout=narrow)
            for name in self._masks
        }
        self.panels = {name: Panel(name, SIDE_PX[len(panels)]) for name in panels}
        self.read_out = ipywidgets.HTML(EMPTY)
        self.watch(self.frame, *self.sliders.values(), self.window, self.opacity,
                   *self.shown.values())  # fmt: skip
        for name, panel in self.panels.items():
            panel.on_mouse(partial(self._on_mouse, name if name in PLANES else "sagittal"))
        looks = [self.window, self.opacity] if self._masks else [self.window]
        names = [part for name, box in self.shown.items()
                 for part in (legend({"": self.colours[name]}), box)]  # fmt: skip
        self._looks = (ipywidgets.HBox(looks), ipywidgets.HBox(names))

    def _cut(self, plane: str) -> tuple[Slice, list[Layer]]:
        """Return the slice of a plane, and the masks in it that are not switched off."""
        masks = {name: mask for name, mask in self._masks_there().items()
                 if self.shown[name].value}  # fmt: skip
        cut = slice_of(self._frames[self.frame.value], plane, self.sliders[plane].value, masks)
        return cut, [Layer(mask, self.colours[name], self.opacity.value)
                     for name, mask in cut.outlines.items()]  # fmt: skip

    def _on_mouse(self, plane: str, kind: str, row: int, column: int) -> None:
        if kind == "leave":
            self.read_out.value = EMPTY
            return
        voxel = voxel_at(plane, self.sliders[plane].value, row, column, self._frames[0].shape)
        if kind == "click":
            self.go_to(voxel)
        self.read_out.value = html.escape(self.describe(voxel))


class VolumeViewer(ImageView):
    """Look at a volume and its masks.

    The sliders choose the slices, and so does a click: the other planes then pass through the
    place that was clicked. The line below says what is under the mouse. Bad input is said in the
    view: masks on another grid are left out, values that are not finite are black.

    Parameters
    ----------
    image : Volume
        3D, any orientation; stays in the kernel.
    overlays : mapping of name to Volume, optional
        Masks on the image's grid; bones have the colours of all figures.

    Examples
    --------
    >>> VolumeViewer(scan, {"talus": mask})
    """

    def __init__(
        self,
        image: Volume,
        overlays: Mapping[str, Volume] | None = None,
    ) -> None:
        super().__init__()
        with self.refusals():
            self._frames = [image_3d(image)]
            self.notes.append(not_finite([self._frames[0].data]))
            self._masks = masks_on(
                self._frames[0], {} if overlays is None else overlays, self.notes
            )
            self._equip(PLANES, filling=0.0)
            sides_mm = np.multiply(self._frames[0].shape, self._frames[0].voxel_size_mm)
            self._side_mm = float(sides_mm.max())
            columns = [ipywidgets.VBox([panel, self.sliders[plane]])
                       for plane, panel in self.panels.items()]  # fmt: skip
            below = ipywidgets.Layout(align_items="flex-end")
            self.show_rows(ipywidgets.HBox(columns, layout=below), self.read_out, *self._looks)
            self.draw()

    @property
    def voxel(self) -> tuple[int, int, int]:
        """Where the planes meet: indices along posterior, superior, right."""
        i, j, k = (self.sliders[plane].value for plane in ("coronal", "axial", "sagittal"))
        return i, j, k

    def draw(self) -> None:
        """Show all planes."""
        for plane, panel in self.panels.items():
            cut, layers = self._cut(plane)
            panel.draw(cut, self.window.value, layers, self._cross(plane), longest_mm=self._side_mm)
        self.message.say(*self.notes, *empty_ones(self._masks_there()))

    def _values(self) -> dict[str, Volume]:
        return {"value": self._frames[0]}

    def _cross(self, plane: str) -> list[Mark]:
        """Return lines where the other planes pass through this one."""
        posterior, superior, right = (
            (place + 0.5) / n for place, n in zip(self.voxel, self._frames[0].shape, strict=True)
        )
        across, up = {
            "sagittal": (posterior, superior),
            "coronal": (right, superior),
            "axial": (right, 1 - posterior),
        }[plane]
        return [
            Mark(across, across, 0, 1, CROSS_COLOUR, 1),
            Mark(0, 1, up, up, CROSS_COLOUR, 1),
        ]


class SequencePlayer(ImageView):
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

    Examples
    --------
    >>> SequencePlayer(film, moved, {"talus": masks})
    """

    def __init__(
        self,
        sequence: Volume,
        moved: Frames | None = None,
        segmentation: Mapping[str, Frames] | None = None,
    ) -> None:
        super().__init__()
        self._limits_of_moved: dict[int, tuple[float, float]] = {}
        with self.refusals():
            if isinstance(sequence, list | tuple):
                raise AnkleError("The sequence is a list: a Volume is wanted, of 4D.")
            self._frames = [frame for frame in series(sequence, "sequence") if frame is not None]
            self.notes.append(not_finite([sequence.data], "sequence"))
            grid = to_orientation(sequence)
            self._moved: list[Volume | None] = []
            if moved is not None:
                self._moved = belonging(moved, "moved static scan", grid, self.notes)
            self._masks = masks_on(grid, {} if segmentation is None else segmentation, self.notes)
            names = ["frame"]
            names += ["moved static", "difference"] if self._moved else []
            names += ["segmentation"] if self._masks else []
            self._equip(names, filling=0.3)
            self.slice = self.sliders["sagittal"]
            self.slice.description = "slice"
            self.play = ipywidgets.Play(value=0, min=0, max=self.frame.max, interval=STEP_MS,
                                        repeat=True, show_repeat=False)  # fmt: skip
            ipywidgets.link((self.play, "value"), (self.frame, "value"))
            panels = ipywidgets.HBox(list(self.panels.values()))
            motion = ipywidgets.HBox([self.play, self.frame, self.slice])
            self.show_rows(panels, self.read_out, motion, *self._looks)
            self.draw()

    def draw(self) -> None:
        """Show all panels."""
        number, limits = self.frame.value, self.window.value
        cut, layers = self._cut("sagittal")
        self.panels["frame"].draw(cut, limits)
        sentences = list(self.notes)
        moved = self._moved[number] if self._moved else None
        if moved is not None:
            if number not in self._limits_of_moved:
                self._limits_of_moved[number] = brightness_limits(moved.data)
            carried = slice_of(moved, "sagittal", self.slice.value)
            self.panels["moved static"].draw(carried, self._limits_of_moved[number])
            difference = replace(cut, image=matched_difference(cut.image, carried.image))
            reach = (limits[1] - limits[0]) / 2
            self.panels["difference"].draw(difference, (-reach, reach), palette=SIGNED)
        elif self._moved:
            self.panels["moved static"].clear()
            self.panels["difference"].clear()
            sentences.append(f"There is no moved static scan for frame {number}.")
        if self._masks:
            self.panels["segmentation"].draw(cut, limits, layers)
            there = self._masks_there()
            sentences += empty_ones(there)
            if absent := ", ".join(name for name in self._masks if name not in there):
                sentences.append(f"There is no mask of {absent} for frame {number}.")
        self.message.say(*sentences)

    def _values(self) -> dict[str, Volume]:
        number = self.frame.value
        moved = self._moved[number] if self._moved else None
        values = {f"frame {number}:": self._frames[number], "moved static:": moved}
        return {name: image for name, image in values.items() if image is not None}


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
    both = (frame > 0) & (moved > 0) & np.isfinite(frame) & np.isfinite(moved)
    result = np.zeros(frame.shape, dtype=np.float32)
    if np.count_nonzero(both) >= 3:
        x, y = moved[both].astype(np.float64), frame[both].astype(np.float64)
        x -= x.mean()
        result[both] = y - y.mean() - x * (x @ y / max(x @ x, np.finfo(float).tiny))
    return result


def voxel_at(
    plane: str, index: int, row: int, column: int, shape: Sequence[int]
) -> tuple[int, int, int]:
    """Return the voxel (axes P, S, R) at a row (upward) and column of `images.slice_of`."""
    return {
        "sagittal": (column, row, index),
        "coronal": (index, row, column),
        "axial": (shape[0] - 1 - row, index, column),
    }[plane]


def _middle(shape: Sequence[int], masks: Mapping[str, Mask]) -> list[int]:
    """Return the middle of all masks' boxes together, or of the image."""
    boxes = [box for box in map(bounding_box, masks.values()) if box]
    if not boxes:
        return [length // 2 for length in shape]
    middles = [[(side.start + side.stop - 1) / 2 for side in box] for box in boxes]
    return [int(middle) for middle in np.rint(np.mean(middles, axis=0))]
