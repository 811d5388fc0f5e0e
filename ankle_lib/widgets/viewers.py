"""Images to look through: a volume in linked planes, and a sequence in motion."""

import html
from collections.abc import Mapping, Sequence
from functools import partial

import ipywidgets
import numpy as np

from ankle_lib.figures.images import AXIS_OF_PLANE, PLANES, Slice, centre_voxel, slice_of
from ankle_lib.geometry import apply
from ankle_lib.volume import Volume
from ankle_lib.widgets.picture import Layer, Mark, Panel, brightness_limits
from ankle_lib.widgets.view import (
    EMPTY,
    Mask,
    View,
    colours_of,
    empty_ones,
    legend,
    masks_on,
    not_finite,
    oriented,
    slider,
)

SIDE_PX = {1: 480, 3: 268}
"""Of a panel's longer side, by the number of panels; with the controls it fits on 1280 x 800."""
CROSS_COLOUR = "#F0E442"
STEP_MS = 200
"""Between frames that are played; the browser waits for the kernel if that is slower."""


class ImageView(View):
    """An image and masks on its grid, seen in planes; what is under the mouse stands below.

    Parameters
    ----------
    image : Volume
        3D, or 4D with frames to be played.
    masks : mapping of name to Volume, optional
        With as many axes.
    name : str
        Of the image, for sentences.
    n_axes : int
        3 or 4, as many as the image must have.
    planes : sequence of str
        A panel for each.
    filling : float
        Opacity of the masks at first, 0 to 1.
    """

    def __init__(
        self,
        image: Volume,
        masks: Mapping[str, Volume] | None,
        name: str,
        n_axes: int,
        planes: Sequence[str],
        filling: float,
    ) -> None:
        super().__init__()
        with self.refusals():
            self._image = oriented(image, name, n_axes)
            self.notes.append(not_finite(self._image.data, name))
            self._masks = masks_on(self._image, {} if masks is None else masks, self.notes)
            self._build(planes, filling)
            self.draw()

    @property
    def voxel(self) -> tuple[int, int, int]:
        """Where the planes meet: indices along posterior, superior, right."""
        i, j, k = (self.sliders[plane].value for plane in ("coronal", "axial", "sagittal"))
        return i, j, k

    def go_to(self, voxel: Sequence[int]) -> None:
        """Let all planes pass through a voxel (axes P, S, R)."""
        self.change({control: int(voxel[AXIS_OF_PLANE[plane]])
                     for plane, control in self.sliders.items()})  # fmt: skip

    def describe(self, voxel: Sequence[int]) -> str:
        """Return world position (mm), value and masks of a voxel (axes P, S, R), in one line."""
        i, j, k = (int(index) for index in voxel)
        right, anterior, superior = apply(self._image.affine, (i, j, k))
        parts = [f"R {right:.1f}, A {anterior:.1f}, S {superior:.1f} mm", f"voxel {i}, {j}, {k}"]
        parts.append(f"value {self._shown.data[i, j, k]:.4g}")
        parts += [name for name, mask in self._masks_there().items() if mask[i, j, k]]
        return " · ".join(parts)

    def draw(self) -> None:
        """Show all planes."""
        for plane, panel in self.panels.items():
            cut, layers = self._cut(plane)
            marks = self._cross(plane) if len(self.panels) > 1 else []
            panel.draw(cut, self.window.value, layers, marks, longest_mm=self._side_mm)
        self.message.say(*self.notes, *empty_ones(self._masks_there()))

    @property
    def _shown(self) -> Volume:
        return self._image.frame(self.frame.value)

    def _masks_there(self) -> dict[str, Mask]:
        """Return the masks of the frame that is shown."""
        number = self.frame.value
        return {name: mask if mask.ndim == 3 else mask[..., number]
                for name, mask in self._masks.items()}  # fmt: skip

    def _build(self, planes: Sequence[str], filling: float) -> None:
        image = self._image
        self._side_mm = float(np.multiply(image.shape, image.voxel_size_mm).max())
        self.frame = slider("frame", 0, image.n_frames - 1, width=330)
        there = {name: mask for name, mask in self._masks_there().items() if mask.any()}
        middle = centre_voxel(there) if there else [length // 2 for length in image.shape]
        self.sliders = {plane: slider(plane, 0, image.shape[axis] - 1, middle[axis], width=268)
                        for plane, axis in AXIS_OF_PLANE.items()}  # fmt: skip
        low, high = brightness_limits(image.frame(image.n_frames // 2).data)
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
        self.panels = {plane: Panel(plane, SIDE_PX[len(planes)]) for plane in planes}
        self.read_out = ipywidgets.HTML(EMPTY)
        self.play = ipywidgets.Play(value=0, min=0, max=self.frame.max, interval=STEP_MS,
                                    repeat=True, show_repeat=False)  # fmt: skip
        ipywidgets.link((self.play, "value"), (self.frame, "value"))
        self.watch(self.frame, *self.sliders.values(), self.window, self.opacity,
                   *self.shown.values())  # fmt: skip
        for plane, panel in self.panels.items():
            panel.on_mouse(partial(self._on_mouse, plane))
        columns = [ipywidgets.VBox([panel, self.sliders[plane]])
                   for plane, panel in self.panels.items()]  # fmt: skip
        below = ipywidgets.Layout(align_items="flex-end")
        motion = [self.play, self.frame] if image.data.ndim == 4 else []
        looks = [self.window, self.opacity] if self._masks else [self.window]
        names = [part for name, box in self.shown.items()
                 for part in (legend({"": self.colours[name]}), box)]  # fmt: skip
        self.show_rows(
            ipywidgets.HBox(columns, layout=below),
            self.read_out,
            *map(ipywidgets.HBox, (motion, looks, names)),
        )

    def _cut(self, plane: str) -> tuple[Slice, list[Layer]]:
        """Return the slice of a plane, and the masks in it that are not switched off."""
        masks = {name: mask for name, mask in self._masks_there().items()
                 if self.shown[name].value}  # fmt: skip
        cut = slice_of(self._shown, plane, self.sliders[plane].value, masks)
        return cut, [Layer(mask, self.colours[name], self.opacity.value)
                     for name, mask in cut.outlines.items()]  # fmt: skip

    def _cross(self, plane: str) -> list[Mark]:
        """Return lines where the other planes pass through this one."""
        posterior, superior, right = (
            (place + 0.5) / n for place, n in zip(self.voxel, self._image.shape, strict=True)
        )
        across, up = {
            "sagittal": (posterior, superior),
            "coronal": (right, superior),
            "axial": (right, 1 - posterior),
        }[plane]
        return [Mark(across, across, 0, 1, CROSS_COLOUR, 1), Mark(0, 1, up, up, CROSS_COLOUR, 1)]

    def _on_mouse(self, plane: str, kind: str, row: int, column: int) -> None:
        if kind == "leave":
            self.read_out.value = EMPTY
            return
        voxel = voxel_at(plane, self.sliders[plane].value, row, column, self._image.shape)
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

    def __init__(self, image: Volume, overlays: Mapping[str, Volume] | None = None) -> None:
        super().__init__(image, overlays, "image", 3, PLANES, filling=0.0)


class SequencePlayer(ImageView):
    """Play a dynamic scan, with its segmentation.

    The line below says what is under the mouse. Bad input is said in the view: masks that do not
    belong to the sequence are left out, values that are not finite are black, in masks outside.

    Parameters
    ----------
    sequence : Volume
        4D, any orientation; stays in the kernel.
    segmentation : mapping of name to Volume, optional
        Masks of the frames, 4D, on the sequence's grid.

    Examples
    --------
    >>> SequencePlayer(film, {"talus": masks})
    """

    def __init__(self, sequence: Volume, segmentation: Mapping[str, Volume] | None = None) -> None:
        super().__init__(sequence, segmentation, "sequence", 4, ("sagittal",), filling=0.3)


def voxel_at(
    plane: str, index: int, row: int, column: int, shape: Sequence[int]
) -> tuple[int, int, int]:
    """Return the voxel (axes P, S, R) at a row (upward) and column of `images.slice_of`."""
    return {
        "sagittal": (column, row, index),
        "coronal": (index, row, column),
        "axial": (shape[0] - 1 - row, index, column),
    }[plane]
