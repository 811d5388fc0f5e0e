"""Figures of chapter 00: the ankle in slices, its bones in space, one cycle of movement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.figures.images import PLANES, centre_voxel, draw_slice, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS, GROUP_COLOURS, new_figure, scale_bar
from ankle_lib.files import AnkleError
from ankle_lib.geometry import world_to_voxel
from ankle_lib.volume import Volume

RENDER_MM = 0.5
"""Pixel of a rendering."""

_NORMAL_REACH = 3
"""Pixels to either side over which a surface's slope is measured."""

VIEWS = ("from the left", "from the front", "from above")

LIGHT = (-0.45, 0.55, 0.70)
"""Towards the lamp: to the left of the viewer, above, behind the viewer."""


def orthogonal_slices(static: Volume, masks: Mapping[str, NDArray], title: str = "") -> Figure:
    """Show a static scan in three planes through the middle of its bones.

    Parameters
    ----------
    static : Volume
        3D, axes P, S, R.
    masks : mapping of bone to (I, J, K) array
        On the same grid.
    """
    place = dict(zip(("coronal", "axial", "sagittal"), centre_voxel(masks), strict=True))
    figure = new_figure(10.5, 4.6)
    slices = [slice_of(static, plane, place[plane]) for plane in PLANES]
    widths = [image.size_mm[0] / image.size_mm[1] for image in slices]
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": widths})
    for axes, plane, image in zip(panels, PLANES, slices, strict=True):
        outlines = {
            bone: slice_of(Volume(mask, static.affine), plane, place[plane])
            for bone, mask in masks.items()
        }
        draw_slice(axes, image, limits=window(static.data), outlines=outlines)
        axes.set_title(plane, fontsize=11)
    _bone_legend(figure, masks)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def bone_surfaces(masks: Mapping[str, Volume], title: str = "") -> Figure:
    """Show the surfaces of the bones from three sides, without any 3D library."""
    figure = new_figure(10.0, 4.6)
    fields = _cubic_fields(masks)
    images = [_render(fields, view) for view in VIEWS]
    widths = [image.shape[1] / image.shape[0] for image in images]
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": widths})
    letters = (("A", "P"), ("R", "L"), ("L", "R"))
    for axes, image, view, (left, right) in zip(panels, images, VIEWS, letters, strict=True):
        height, width = image.shape[0] * RENDER_MM, image.shape[1] * RENDER_MM
        axes.imshow(
            image,
            origin="lower",
            extent=(0, width, 0, height),
            aspect="equal",
            interpolation="antialiased",
        )
        axes.set_ylim(-9, height)  # room for the scale bar
        axes.set_axis_off()
        axes.set_title(view, fontsize=11)
        for x, letter, side in ((0.0, left, "left"), (1.0, right, "right")):
            axes.text(x, 0.5, letter, transform=axes.transAxes, ha=side, fontweight="bold")
        scale_bar(axes, width, "black")
    _bone_legend(figure, masks)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def render_bones(masks: Mapping[str, Volume], view: str) -> NDArray[np.float32]:
    """Cast parallel rays at the bones and shade what they hit first.

    Each mask is smoothed and brought to cubic voxels; a ray meets a bone where the smooth mask
    first exceeds one half, and the gradient there is the normal of the surface.

    Parameters
    ----------
    masks : mapping of bone to Volume
        On one grid, axes P, S, R.
    view : str
        One of ``VIEWS``.

    Returns
    -------
    (rows, columns, 3) float array
        Colours from 0 to 1, rows upward, white background, pixels of 0.5 mm.
    """
    if view not in VIEWS:
        raise AnkleError(f"there is no view {view!r}: choose one of {', '.join(VIEWS)}")
    return _render(_cubic_fields(masks), view)


def filmstrip(
    frames: Sequence[Volume],
    index: int,
    *,
    columns: int = 5,
    title: str = "",
    seconds_per_frame: float | None = None,
) -> Figure:
    """Show one sagittal slice of every frame of a sequence, cropped to the foot, in one window.

    Parameters
    ----------
    frames : sequence of Volume
        3D, axes P, S, R, on one grid.
    index : int
        Which slice, from the left.
    """
    slices = [slice_of(frame, "sagittal", index) for frame in frames]
    limits = window(np.stack([image.image for image in slices]))
    brightest = np.max([image.image for image in slices], axis=0)
    box = _box(brightest > 0.15 * limits[1])
    slices = [image.crop((box[0], box[1])) for image in slices]
    rows = -(-len(frames) // columns)
    width, height = slices[0].size_mm
    figure = new_figure(10.0, 10.0 / columns * height / width * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(frames) :]:
        axes.set_axis_off()
    for number, (axes, image) in enumerate(zip(panels, slices, strict=False)):
        draw_slice(axes, image, limits=limits, bar=number == 0, letters=number == 0)
        label = f"{number}"
        if seconds_per_frame is not None:
            label += f"  ({number * seconds_per_frame:.1f} s)"
        axes.text(0.97, 0.97, label, color="white", fontsize=9, ha="right", va="top",
                  transform=axes.transAxes)  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def static_beside_frame(static: Volume, frame: Volume, place: Sequence[float]) -> Figure:
    """Show one place of the foot in the sharp static scan and in a thick dynamic slice.

    Parameters
    ----------
    static, frame : Volume
        3D, axes P, S, R, in one world.
    place : (3,) floats
        World position in mm that both sagittal slices go through.
    """
    figure = new_figure(9.5, 4.8)
    panels = figure.subplots(1, 2)
    for axes, image, name in zip(panels, (static, frame), ("static", "dynamic"), strict=True):
        index = int(np.rint(world_to_voxel(image.affine, place)[2]).clip(0, image.shape[2] - 1))
        draw_slice(axes, slice_of(image, "sagittal", index), limits=window(image.data))
        size = " × ".join(f"{length:.2f}" for length in image.voxel_size_mm)
        axes.set_title(f"{name}: voxels of {size} mm", fontsize=11)
    return figure


def joint_angles(angles: pd.DataFrame) -> Figure:
    """Show the dorsiflexion of every sequence over its cycle, one panel a group.

    Parameters
    ----------
    angles : DataFrame
        Columns group, subject, sequence, frame, dorsiflexion_deg.
    """
    groups = list(dict.fromkeys(angles["group"]))
    figure = new_figure(9.5, 3.8)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        for (_, name), part in angles[angles["group"] == group].groupby(["subject", "sequence"]):
            style = "-" if name.startswith("passive") else ":"
            axes.plot(
                part["frame"], part["dorsiflexion_deg"], style, lw=1.2, color=GROUP_COLOURS[group]
            )
        axes.axhline(0, color="0.6", lw=1)
        axes.set_xlabel("frame")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(group, fontsize=11)
    panels[0].set_ylabel("dorsiflexion (°)")
    handles = [
        Line2D([], [], color="0.3", ls=style, label=kind)
        for kind, style in (("passive", "-"), ("active", ":"))
    ]
    panels[-1].legend(handles=handles, frameon=False, loc="upper right")
    return figure


def _bone_legend(figure: Figure, masks: Mapping[str, object]) -> None:
    handles = [Line2D([], [], color=BONE_COLOURS[bone], lw=3, label=bone) for bone in masks]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _cubic_fields(masks: Mapping[str, Volume]) -> dict[str, NDArray[np.float32]]:
    """Return the smoothed masks on cubic voxels of 0.5 mm, cropped to the bones."""
    volumes = list(masks.values())
    anything = np.any([volume.data > 0 for volume in volumes], axis=0)
    box = _box(anything, margin=0)
    size = np.array(volumes[0].voxel_size_mm)
    fields = {}
    for bone, volume in masks.items():
        # The border lets a bone that leaves the grid end in a flat cut.
        part = np.pad((volume.data[box] > 0).astype(np.float32), 4)
        # A little blur hides the steps between slices.
        part = ndimage.gaussian_filter(part, np.maximum(0.8, 1.2 / size))
        fields[bone] = ndimage.zoom(part, size / RENDER_MM, order=1, grid_mode=True, mode="nearest")
    return fields


def _render(fields: Mapping[str, NDArray[np.float32]], view: str) -> NDArray[np.float32]:
    turned = {bone: _towards_viewer(field, view) for bone, field in fields.items()}
    shape = next(iter(turned.values())).shape
    picture = np.ones((*shape[1:], 3), dtype=np.float32)
    nearest = np.full(shape[1:], np.inf)
    for bone, field in turned.items():
        depth, shade = _first_hit(field)
        visible = depth < nearest
        nearest[visible] = depth[visible]
        colour = np.array(to_rgb(BONE_COLOURS[bone]))
        picture[visible] = shade[visible, None] * colour + 0.2 * shade[visible, None] ** 8
    return np.clip(picture, 0.0, 1.0)


def _towards_viewer(field: NDArray[np.float32], view: str) -> NDArray[np.float32]:
    """Order axes P, S, R as depth (away from the viewer), up, right."""
    if view == "from the front":  # the child's right is on the viewer's left
        return field[:, :, ::-1]
    if view == "from the left":  # the toes point to the viewer's left, as in sagittal slices
        return field.transpose(2, 1, 0)
    return field.transpose(1, 0, 2)[::-1, ::-1, :]


def _first_hit(field: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
    """Return depth (infinite where nothing is hit) and shade (0 to 1) of a field's surface."""
    inside = field > 0.5
    hit = inside.any(axis=0)
    first = inside.argmax(axis=0)
    depth = np.where(hit, first.astype(float), np.inf)
    rows, columns = np.nonzero(hit)
    away, up, right = _gradient(field, first[hit], rows, columns)
    # The field falls outwards; the lamp's third coordinate points to the viewer.
    normal = np.stack([-right, -up, away])
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
    lamp = np.array(LIGHT) / np.linalg.norm(LIGHT)
    diffuse = np.clip(lamp @ normal, 0, 1)
    shade = np.zeros(first.shape)
    shade[hit] = (0.42 + 0.65 * diffuse) * (1.0 - 0.25 * first[hit] / len(field))
    return depth, shade


def _gradient(field: NDArray[np.float32], *where: NDArray[np.int_]) -> list[NDArray]:
    """Return central differences over a few voxels, which also smooths, along each axis."""
    slopes = []
    for axis in range(3):
        before, after = list(where), list(where)
        before[axis] = np.maximum(where[axis] - _NORMAL_REACH, 0)
        after[axis] = np.minimum(where[axis] + _NORMAL_REACH, field.shape[axis] - 1)
        slopes.append(field[tuple(after)] - field[tuple(before)])
    return slopes


def _box(mask: NDArray[np.bool_], margin: int = 2) -> tuple[slice, ...]:
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return tuple(slice(0, n) for n in mask.shape)
    return tuple(
        slice(max(part.start - margin, 0), min(part.stop + margin, n))
        for part, n in zip(found[0], mask.shape, strict=True)
    )
