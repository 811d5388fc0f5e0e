"""One volume in three linked planes, or in one."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures.images import PLANES, Slice, slice_of
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply
from ankle_lib.volume import Volume
from ankle_lib.widgets.inputs import colours_of, image_3d, masks_on, not_finite
from ankle_lib.widgets.message import Message
from ankle_lib.widgets.panel import Panel
from ankle_lib.widgets.pixels import Layer, Mark, brightness_limits, window_slider

SIDE_PX = {1: 480, 2: 400, 3: 268}
"""Of a plane's longer side, by the number of planes; with the sliders it fits on 1280 x 800."""

CROSS_COLOUR = "#F0E442"
AXIS_OF_PLANE = {"coronal": 0, "axial": 1, "sagittal": 2}
"""Of an array with axes P, S, R."""


class VolumeViewer(ipywidgets.VBox):
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
    planes : sequence of str
        Of "sagittal", "coronal" and "axial".
    side_px : int, optional
        Length of the longest side on the screen.
    """

    def __init__(
        self,
        image: Volume,
        overlays: Mapping[str, Volume] | None = None,
        *,
        planes: Sequence[str] = PLANES,
        side_px: int | None = None,
    ) -> None:
        self.message = Message()
        self._image: Volume | None = None
        self._masks: dict[str, NDArray[np.bool_]] = {}
        sentences: list[str] = []
        try:
            _check_planes(planes)
            self._image = image_3d(image)
            self._masks, sentences = masks_on(self._image, overlays or {})
            sentences.insert(0, not_finite(self._image))
        except AnkleError as error:
            sentences = [str(error)]
        self.message.show(sentences)
        if self._image is None:
            super().__init__([self.message])
            return
        super().__init__(self._build(planes, side_px or SIDE_PX[len(planes)]))
        self._draw()

    @property
    def voxel(self) -> tuple[int, int, int]:
        """Where the planes meet: indices along posterior, superior, right."""
        i, j, k = (self.sliders[plane].value for plane in AXIS_OF_PLANE)
        return i, j, k

    def go_to(self, voxel: Sequence[int]) -> None:
        """Let all planes pass through a voxel (axes P, S, R)."""
        self._linked = False
        try:
            for plane, index in zip(AXIS_OF_PLANE, voxel, strict=True):
                self.sliders[plane].value = int(index)
        finally:
            self._linked = True
        self._draw()

    def describe(self, voxel: Sequence[int]) -> str:
        """Return world position (mm), value and masks of a voxel (axes P, S, R), in one line."""
        assert self._image is not None
        i, j, k = (int(index) for index in voxel)
        right, anterior, superior = apply(self._image.affine, (i, j, k))
        inside = [name for name, mask in self._masks.items() if mask[i, j, k]]
        text = (
            f"R {right:.1f}, A {anterior:.1f}, S {superior:.1f} mm · voxel {i}, {j}, {k} "
            f"· value {self._image.data[i, j, k]:.4g}"
        )
        return " · ".join([text, *inside])

    def _build(self, planes: Sequence[str], side_px: int) -> list[ipywidgets.Widget]:
        assert self._image is not None
        self._linked = True
        self._side_mm = max(
            length for plane in planes for length in slice_of(self._image, plane, 0).size_mm
        )
        wide = ipywidgets.Layout(width="268px")
        start = _start(self._image, self._masks)
        self.sliders = {
            plane: ipywidgets.IntSlider(
                start[axis], 0, self._image.shape[axis] - 1, description=plane, layout=wide
            )
            for plane, axis in AXIS_OF_PLANE.items()
        }
        self.window = window_slider(brightness_limits(self._image.data), 400)
        self.opacity = ipywidgets.FloatSlider(0.0, min=0, max=1, step=0.05, description="filling")
        self.colours = colours_of(list(self._masks))
        self.shown = {name: ipywidgets.Checkbox(True, description=name, indent=False,
                                                layout=ipywidgets.Layout(width="auto"))
                      for name in self._masks}  # fmt: skip
        self.panels = {plane: Panel(plane, side_px) for plane in planes}
        self.read_out = ipywidgets.HTML("&nbsp;")
        for control in (self.window, self.opacity, *self.sliders.values(), *self.shown.values()):
            control.observe(self._on_change, "value")
        for plane, panel in self.panels.items():
            panel.on_mouse(partial(self._on_mouse, plane))
        columns = [ipywidgets.VBox([panel, self.sliders[plane]])
                   for plane, panel in self.panels.items()]  # fmt: skip
        names = [part for name, box in self.shown.items() for part in (self._swatch(name), box)]
        rows = [
            ipywidgets.HBox(columns, layout=ipywidgets.Layout(align_items="flex-end")),
            self.read_out,
            ipywidgets.HBox([self.window, self.opacity] if names else [self.window]),
            ipywidgets.HBox(names),
            self.message,
        ]
        return rows

    def _swatch(self, name: str) -> ipywidgets.HTML:
        return ipywidgets.HTML(
            f'<span style="color: {self.colours[name]}; font-size: 18px; '
            f'margin-left: 10px">■&nbsp;</span>'
        )

    def _on_change(self, change: dict[str, Any]) -> None:
        if self._linked:
            self._draw()

    def _on_mouse(self, plane: str, kind: str, row: int, column: int) -> None:
        assert self._image is not None
        if kind == "leave":
            self.read_out.value = "&nbsp;"
            return
        voxel = voxel_at(plane, self.sliders[plane].value, row, column, self._image.shape)
        if kind == "click":
            self.go_to(voxel)
        self.read_out.value = html.escape(self.describe(voxel))

    def _draw(self) -> None:
        assert self._image is not None
        for plane, panel in self.panels.items():
            index = self.sliders[plane].value
            layers = [
                Layer(self._cut(mask, plane, index).image, self.colours[name], self.opacity.value)
                for name, mask in self._masks.items()
                if self.shown[name].value
            ]
            shown = slice_of(self._image, plane, index)
            marks = self._cross(plane) if len(self.panels) > 1 else []
            panel.draw(shown, self.window.value, layers, marks, longest_mm=self._side_mm)

    def _cut(self, mask: NDArray[np.bool_], plane: str, index: int) -> Slice:
        assert self._image is not None
        return slice_of(Volume(mask, self._image.affine), plane, index)

    def _cross(self, plane: str) -> list[Mark]:
        """Return lines where the other planes pass through this one."""
        assert self._image is not None
        part = {p: (self.sliders[p].value + 0.5) / self._image.shape[axis]
                for p, axis in AXIS_OF_PLANE.items()}  # fmt: skip
        across, up = {
            "sagittal": (part["coronal"], part["axial"]),
            "coronal": (part["sagittal"], part["axial"]),
            "axial": (part["sagittal"], 1 - part["coronal"]),
        }[plane]
        return [
            Mark(across, across, 0, 1, CROSS_COLOUR, 1),
            Mark(0, 1, up, up, CROSS_COLOUR, 1),
        ]


def voxel_at(
    plane: str, index: int, row: int, column: int, shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Return the voxel (axes P, S, R) at a row (upward) and column of `figures.slice_of`."""
    if plane == "sagittal":
        return column, row, index
    if plane == "coronal":
        return index, row, column
    return shape[0] - 1 - row, index, column


def _check_planes(planes: Sequence[str]) -> None:
    if not planes or set(planes) - set(PLANES) or len(set(planes)) != len(planes):
        raise AnkleError(f"Planes are {list(planes)}: choose from {', '.join(PLANES)}.")


def _start(image: Volume, masks: Mapping[str, NDArray[np.bool_]]) -> list[int]:
    """Return the middle of all masks together, or of the image."""
    boxes = [_middle(mask) for mask in masks.values() if mask.any()]
    if not boxes:
        return [length // 2 for length in image.shape]
    return [int(middle) for middle in np.rint(np.mean(boxes, axis=0))]


def _middle(mask: NDArray[np.bool_]) -> list[float]:
    """Return the middle of a mask's extent along each axis; faster than its centre of mass."""
    middle = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        middle.append((filled[0] + filled[-1]) / 2)
    return middle
