"""One volume in three linked planes, or in one."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import partial

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures.images import AXIS_OF_PLANE, PLANES, slice_of
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, bounding_box
from ankle_lib.volume import Volume
from ankle_lib.widgets.inputs import image_3d, masks_on, not_finite
from ankle_lib.widgets.picture import Layer, Mark, Panel, brightness_limits
from ankle_lib.widgets.view import EMPTY, View, colours_of, legend, slider, window_slider

SIDE_PX = {1: 480, 2: 400, 3: 268}
"""Of a plane's longer side, by the number of planes; with the sliders it fits on 1280 x 800."""
CROSS_COLOUR = "#F0E442"


class VolumeViewer(View):
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

    Examples
    --------
    >>> VolumeViewer(scan, {"talus": mask})
    """

    def __init__(
        self,
        image: Volume,
        overlays: Mapping[str, Volume] | None = None,
        *,
        planes: Sequence[str] = PLANES,
        side_px: int | None = None,
    ) -> None:
        super().__init__()
        with self.refusals():
            if not planes or set(planes) - set(PLANES) or len(set(planes)) != len(planes):
                raise AnkleError(f"Planes are {list(planes)}: choose from {', '.join(PLANES)}.")
            self._image = image_3d(image)
            self._masks, sentences = masks_on(self._image, overlays or {})
            self.message.say(not_finite(self._image), *sentences)
            self._build(planes, side_px or SIDE_PX[len(planes)])
            self.draw()

    @property
    def voxel(self) -> tuple[int, int, int]:
        """Where the planes meet: indices along posterior, superior, right."""
        i, j, k = (place.value for place in self._by_axis())
        return i, j, k

    def go_to(self, voxel: Sequence[int]) -> None:
        """Let all planes pass through a voxel (axes P, S, R)."""
        self.change(dict(zip(self._by_axis(), map(int, voxel), strict=True)))

    def describe(self, voxel: Sequence[int]) -> str:
        """Return world position (mm), value and masks of a voxel (axes P, S, R), in one line."""
        i, j, k = (int(index) for index in voxel)
        there = [name for name, mask in self._masks.items() if mask[i, j, k]]
        text = (
            f"{in_mm(self._image, (i, j, k))} · voxel {i}, {j}, {k} "
            f"· value {self._image.data[i, j, k]:.4g}"
        )
        return " · ".join([text, *there])

    def draw(self) -> None:
        """Show all planes."""
        shown = {name: mask for name, mask in self._masks.items() if self.shown[name].value}
        for plane, panel in self.panels.items():
            cut = slice_of(self._image, plane, self.sliders[plane].value, shown)
            layers = [Layer(mask, self.colours[name], self.opacity.value)
                      for name, mask in cut.outlines.items()]  # fmt: skip
            marks = self._cross(plane) if len(self.panels) > 1 else []
            panel.draw(cut, self.window.value, layers, marks, longest_mm=self._side_mm)

    def _build(self, planes: Sequence[str], side_px: int) -> None:
        image = self._image
        self._side_mm = max(max(slice_of(image, plane, 0).size_mm) for plane in planes)
        start = _middle(image, self._masks)
        self.sliders = {
            plane: slider(plane, 0, image.shape[axis] - 1, start[axis], width=268)
            for plane, axis in AXIS_OF_PLANE.items()
        }
        self.window = window_slider(brightness_limits(image.data))
        self.opacity = slider("filling", 0.0, 1.0, 0.0, step=0.05, width=300)
        self.colours = colours_of(list(self._masks))
        narrow = ipywidgets.Layout(width="auto")
        self.shown = {
            name: ipywidgets.Checkbox(True, description=name, indent=False, layout=narrow)
            for name in self._masks
        }
        self.panels = {plane: Panel(plane, side_px) for plane in planes}
        self.read_out = ipywidgets.HTML(EMPTY)
        self.watch(self.window, self.opacity, *self.sliders.values(), *self.shown.values())
        for plane, panel in self.panels.items():
            panel.on_mouse(partial(self._on_mouse, plane))
        columns = [ipywidgets.VBox([panel, self.sliders[plane]])
                   for plane, panel in self.panels.items()]  # fmt: skip
        names = [part for name, box in self.shown.items()
                 for part in (legend({"": self.colours[name]}), box)]  # fmt: skip
        self.show_rows(
            ipywidgets.HBox(columns, layout=ipywidgets.Layout(align_items="flex-end")),
            self.read_out,
            ipywidgets.HBox([self.window, self.opacity] if names else [self.window]),
            ipywidgets.HBox(names),
        )

    def _by_axis(self) -> list[ipywidgets.IntSlider]:
        """Return the sliders along posterior, superior, right."""
        return [
            self.sliders[plane] for plane in sorted(AXIS_OF_PLANE, key=AXIS_OF_PLANE.__getitem__)
        ]

    def _on_mouse(self, plane: str, kind: str, row: int, column: int) -> None:
        if kind == "leave":
            self.read_out.value = EMPTY
            return
        voxel = voxel_at(plane, self.sliders[plane].value, row, column, self._image.shape)
        if kind == "click":
            self.go_to(voxel)
        self.read_out.value = html.escape(self.describe(voxel))

    def _cross(self, plane: str) -> list[Mark]:
        """Return lines where the other planes pass through this one."""
        posterior, superior, right = (
            (place.value + 0.5) / n
            for place, n in zip(self._by_axis(), self._image.shape, strict=True)
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


def voxel_at(
    plane: str, index: int, row: int, column: int, shape: Sequence[int]
) -> tuple[int, int, int]:
    """Return the voxel (axes P, S, R) at a row (upward) and column of `images.slice_of`."""
    if plane == "sagittal":
        return column, row, index
    if plane == "coronal":
        return index, row, column
    return shape[0] - 1 - row, index, column


def in_mm(image: Volume, voxel: Sequence[int]) -> str:
    """Return the world position of a voxel in words."""
    right, anterior, superior = apply(image.affine, voxel)
    return f"R {right:.1f}, A {anterior:.1f}, S {superior:.1f} mm"


def _middle(image: Volume, masks: Mapping[str, NDArray[np.bool_]]) -> list[int]:
    """Return the middle of all masks' boxes together, or of the image."""
    boxes = [box for box in map(bounding_box, masks.values()) if box]
    if not boxes:
        return [length // 2 for length in image.shape]
    middles = [[(side.start + side.stop - 1) / 2 for side in box] for box in boxes]
    return [int(middle) for middle in np.rint(np.mean(middles, axis=0))]
