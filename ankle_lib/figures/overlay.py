"""The overlay of `ankle segment`: labels on their scan, to be looked at before they are used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ankle_lib.figures.images import PLANES, Slice, centre_voxel, draw_slice, slice_of
from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.volume import Volume, to_orientation

N_SAGITTAL = 5
MARGIN_MM = 12.0
"""Shown around the bones in the lower row."""
DARK_BRIGHT = (0.1, 99.7)
"""Percentiles of the scan shown as black and white."""
WIDTH, ROOM = 11.0, 1.3
"""Inches: of the figure, and of what its titles take."""


def segmentation_overlay(
    scan: Volume, labels: Volume, volumes_cm3: Mapping[str, float], names: Mapping[int, str]
) -> Figure:
    """Show a scan with the outlines of its labels in three planes and five sagittal slices.

    The planes above go through the middle of the bones; the slices below are spread evenly
    through them, from left to right, and show their surroundings only.

    Parameters
    ----------
    scan, labels : Volume
        3D, on one grid, in any orientation.
    volumes_cm3 : mapping of bone to cm3
        For the legend.
    names : mapping of label to bone
    """
    image, found = to_orientation(scan), to_orientation(labels)
    masks = {name: found.data == number for number, name in names.items()}
    limits = _limits(image.data)
    centre = dict(zip(("coronal", "axial", "sagittal"), centre_voxel(masks), strict=True))
    planes = [slice_of(image, plane, centre[plane]) for plane in PLANES]
    places = _spread(found.data > 0)
    box = _crop(found, MARGIN_MM)
    details = [slice_of(image, "sagittal", place).crop(box) for place in places]

    heights = [_row_height(planes), _row_height(details)]
    figure = new_figure(WIDTH, sum(heights) + ROOM)
    ratios = [height + ROOM / 2 for height in heights]
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
    panels = above.subplots(1, 3, gridspec_kw={"width_ratios": [_aspect(one) for one in planes]})
    for axes, plane, shown in zip(panels, PLANES, planes, strict=True):
        draw_slice(axes, shown, limits=limits, outlines=_outlines(masks, image, plane, centre))
        axes.set_title(plane, fontsize=11)
    panels = below.subplots(1, len(places), squeeze=False)[0]
    for axes, place, shown in zip(panels, places, details, strict=True):
        outlines = _outlines(masks, image, "sagittal", {"sagittal": place})
        cropped = {name: outline.crop(box) for name, outline in outlines.items()}
        draw_slice(axes, shown, limits=limits, outlines=cropped, letters=place == places[0],
                   bar=place == places[0])  # fmt: skip
        away_mm = round((place - centre["sagittal"]) * image.voxel_size_mm[2])
        where = f"{abs(away_mm)} mm to the {'right' if away_mm > 0 else 'left'}"
        axes.set_title(where if away_mm else "middle", fontsize=10)
    handles = [
        Line2D(
            [], [], color=BONE_COLOURS[name], lw=2.5, label=f"{name}, {volumes_cm3[name]:.1f} cm³"
        )
        for name in names.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _outlines(
    masks: Mapping[str, NDArray[np.bool_]], image: Volume, plane: str, place: Mapping[str, int]
) -> dict[str, Slice]:
    return {
        name: slice_of(Volume(mask, image.affine), plane, place[plane])
        for name, mask in masks.items()
    }


def _limits(data: NDArray) -> tuple[float, float]:
    """Return what is shown as black and white, also for scans with an offset."""
    dark, bright = np.percentile(data.ravel(order="K")[:: data.size // 1_000_000 + 1], DARK_BRIGHT)
    return float(dark), float(max(bright, np.nextafter(dark, np.inf)))


def _spread(bones: NDArray[np.bool_]) -> list[int]:
    """Return sagittal slices in the middle of equal parts of the bones' extent."""
    filled = np.flatnonzero(bones.any(axis=(0, 1)))
    low, high = int(filled[0]), int(filled[-1]) + 1
    middles = low + (np.arange(N_SAGITTAL) + 0.5) / N_SAGITTAL * (high - low) - 0.5
    return sorted({round(float(middle)) for middle in middles})


def _crop(labels: Volume, margin_mm: float) -> tuple[slice, slice]:
    """Return rows and columns of sagittal slices around all bones."""
    shadow = np.max(labels.data > 0, axis=2)
    posterior, superior = (
        _reach(np.max(shadow, axis=1 - axis), margin_mm / labels.voxel_size_mm[axis])
        for axis in (0, 1)
    )
    return superior, posterior


def _reach(filled: NDArray[np.bool_], margin: float) -> slice:
    places = np.flatnonzero(filled)
    low, high = int(places[0] - margin), int(places[-1] + margin) + 2
    return slice(max(low, 0), min(high, len(filled)))


def _aspect(shown: Slice) -> float:
    return shown.size_mm[0] / shown.size_mm[1]


def _row_height(row: list[Slice]) -> float:
    """Return the height in inches of slices of one height that fill the figure's width."""
    return WIDTH / sum(_aspect(one) for one in row)
