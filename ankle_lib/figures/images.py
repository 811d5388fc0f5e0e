"""Slices of scans in true proportions, with outlines of masks; and grids of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ankle_lib.figures.style import BONE_COLOURS, DARK_EDGE, legend_below, new_figure
from ankle_lib.files import AnkleError
from ankle_lib.volume import CANONICAL_CODES, Volume

AXIS_OF_PLANE = {"sagittal": 2, "coronal": 0, "axial": 1}
PLANES = tuple(AXIS_OF_PLANE)
PATCH_LETTERS = ("A", "P", "I", "S")
"""Of a sagittal slice."""

TITLE_INCHES = 0.32
LEGEND_INCHES = 0.35


@dataclass(frozen=True)
class Slice:
    """One slice ready to be shown with its first row at the bottom."""

    image: NDArray[Any]
    """(rows, columns), rows upward; (rows, columns, 3) are colours from 0 to 1."""
    size_mm: tuple[float, float]
    """Width and height."""
    letters: tuple[str, ...] = PATCH_LETTERS
    """What lies to the left, right, bottom and top."""
    outlines: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Masks of the same extent, drawn as lines at half of their maximum."""
    limits: tuple[float, float] | None = None
    """Intensities shown as black and white; `window` of the image by default."""
    cmap: str = "gray"
    origin_mm: tuple[float, float] = (0.0, 0.0)
    """Left and bottom, on the slice that this one was cropped from."""

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Width and height of a pixel."""
        rows, columns = self.image.shape[:2]
        return self.size_mm[0] / columns, self.size_mm[1] / rows

    def crop(self, box: tuple[slice, slice]) -> Self:
        """Return the part in ``box`` (rows, columns); it remembers where it was in mm."""
        rows, columns = self.image.shape[:2]
        across, up = self.pixel_mm
        part = self.image[box]
        first = (box[0].indices(rows)[0], box[1].indices(columns)[0])
        return replace(
            self,
            image=part,
            size_mm=(part.shape[1] * across, part.shape[0] * up),
            outlines={name: mask[box] for name, mask in self.outlines.items()},
            origin_mm=(self.origin_mm[0] + first[1] * across, self.origin_mm[1] + first[0] * up),
        )


def slice_of(
    volume: Volume,
    plane: str,
    index: int,
    masks: Mapping[str, Volume | NDArray[Any]] | None = None,
    **look: Any,
) -> Slice:
    """Cut a canonical volume (axes P, S, R) in one plane.

    Sagittal slices show anterior on the left and superior up; coronal ones are seen from behind
    and axial ones from above, so the child's right is on the right in both.

    Parameters
    ----------
    masks : mapping of name to volume or (I, J, K) array, optional
        On the same grid; their outlines come with the slice.
    **look
        Other fields of `Slice`: ``limits``, ``cmap``.

    Raises
    ------
    AnkleError
        If the axes are not posterior, superior, right, or the plane is unknown.

    Examples
    --------
    >>> bones = slice_of(static, "sagittal", middle_slice(talus), {"talus": talus})
    >>> figure, panels = image_grid([[bones, bones.crop(box_around(bones))]], ["all", "near"])
    """
    if "".join(volume.axis_codes) != CANONICAL_CODES:
        raise AnkleError(f"axes {volume.axis_codes}: bring the image to {CANONICAL_CODES} first")
    if plane not in AXIS_OF_PLANE:
        raise AnkleError(f"there is no plane {plane!r}: choose one of {', '.join(PLANES)}")

    def oriented(data: NDArray[Any]) -> NDArray[Any]:
        # a view: np.take would first copy a whole array that is not in C order
        part = np.moveaxis(data, AXIS_OF_PLANE[plane], 0)[index]
        return {"sagittal": part.T, "coronal": part, "axial": part[::-1]}[plane]

    posterior, superior, right = (
        n * size for n, size in zip(volume.shape, volume.voxel_size_mm, strict=True)
    )
    size_mm, letters = {
        "sagittal": ((posterior, superior), PATCH_LETTERS),
        "coronal": ((right, superior), ("L", "R", "I", "S")),
        "axial": ((right, posterior), ("L", "R", "P", "A")),
    }[plane]
    outlines = {
        name: oriented(mask.data if isinstance(mask, Volume) else mask)
        for name, mask in (masks or {}).items()
    }
    return Slice(oriented(volume.data), size_mm, letters, outlines, **look)


def as_slice(
    image: NDArray[Any],
    pixel_mm: Sequence[float],
    masks: Mapping[str, NDArray[Any]] | None = None,
    **look: Any,
) -> Slice:
    """Return an array (axes posterior, superior), such as a patch, as a sagittal slice.

    Parameters
    ----------
    image : (I, J) array, or (I, J, 3) array of colours
    pixel_mm : two or three floats
        Size along posterior and superior.
    masks : mapping of name to (I, J) array, optional
        Their outlines come with the slice.
    **look
        As for `slice_of`.
    """
    size_mm = (image.shape[0] * pixel_mm[0], image.shape[1] * pixel_mm[1])
    outlines = {name: mask.T for name, mask in (masks or {}).items()}
    return Slice(image.swapaxes(0, 1), size_mm, outlines=outlines, **look)


def draw_slice(
    axes: Axes,
    image: Slice,
    *,
    colours: Mapping[str, str] = BONE_COLOURS,
    marked: bool = True,
) -> None:
    """Show a slice in true proportions, in mm, with its outlines.

    A slice that is ``marked`` has the letters of its sides and a scale bar.
    """
    (width, height), (left, bottom) = image.size_mm, image.origin_mm
    low, high = image.limits or window(image.image)
    axes.imshow(
        image.image,
        cmap=image.cmap,
        vmin=low,
        vmax=high,
        origin="lower",
        extent=(left, left + width, bottom, bottom + height),
        interpolation="nearest",
        aspect="equal",
    )
    for name, mask in image.outlines.items():
        if (top := float(np.max(mask))) > 0:
            rows, columns = mask.shape
            axes.contour(left + (np.arange(columns) + 0.5) * width / columns,
                         bottom + (np.arange(rows) + 0.5) * height / rows, mask.astype(float),
                         levels=[top / 2], colors=[colours.get(name, "white")],
                         linewidths=1.5)  # fmt: skip
    axes.set_xlim(left, left + width)
    axes.set_ylim(bottom, bottom + height)
    axes.set_axis_off()
    if marked:
        places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.02), (0.5, 0.98))
        sides = (("left", "center"), ("right", "center"), ("center", "bottom"), ("center", "top"))
        for letter, (x, y), (ha, va) in zip(image.letters, places, sides, strict=True):
            axes.text(left + x * width, bottom + y * height, letter, color="#F0E442", fontsize=9,
                      fontweight="bold", ha=ha, va=va, path_effects=DARK_EDGE)  # fmt: skip
        _scale_bar(axes, width, height)


def _scale_bar(axes: Axes, width_mm: float, height_mm: float) -> None:
    """Draw a bar of 5 to 50 mm at the lower left of axes that are in mm, of this extent."""
    length = bar_mm(width_mm) or 5
    x = axes.get_xlim()[0] + 0.04 * width_mm
    y = axes.get_ylim()[0] + 0.05 * height_mm
    look: dict[str, Any] = {"color": "white", "path_effects": DARK_EDGE}
    axes.plot([x, x + length], [y, y], lw=2.5, solid_capstyle="butt", **look)
    axes.text(x, y + 0.015 * height_mm, f"{length} mm", fontsize=8, va="bottom", **look)


def bar_mm(width_mm: float) -> int:
    """Return the length of the scale bar of a picture ``width_mm`` wide; 0 if none fits."""
    return max((n for n in (5, 10, 20, 50) if n <= 0.4 * width_mm), default=0)


def image_grid(
    rows: Mapping[str, Sequence[Slice | None]] | Sequence[Sequence[Slice | None]],
    titles: Sequence[str] = (),
    *,
    width: float = 10.0,
    marks: str = "first",
    colours: Mapping[str, str] = BONE_COLOURS,
    legend: bool = True,
) -> tuple[Figure, NDArray[Any]]:
    """Show slices in rows and columns, all at one scale.

    Parameters
    ----------
    rows : mapping of name to slices, or slices of each row
        None leaves a place empty, and so do rows that are shorter than the longest.
    titles : sequence of str
        Above the columns.
    width : float
        Of the figure, in inches; the height follows from the slices.
    marks : str
        Which slices have letters and a scale bar: the "first", the first of each row ("rows"),
        "all" or "none".
    colours : mapping of name to colour
        Of the outlines.
    legend : bool
        Whether the outlines' names stand below.

    Returns
    -------
    Figure, (rows, columns) array of Axes
        In mm of the slices, so that more can be drawn.
    """
    names = list(rows) if isinstance(rows, Mapping) else []
    lines = [list(row) for row in (rows.values() if isinstance(rows, Mapping) else rows)]
    n_columns = max((len(line) for line in lines), default=0)
    lines = [line + [None] * (n_columns - len(line)) for line in lines]
    shown = [image for line in lines for image in line if image is not None]
    if not shown:
        raise AnkleError("a grid of images needs at least one image")
    heights, widths = (
        [max((one.size_mm[side] for one in line if one), default=1.0) for line in stack]
        for side, stack in ((1, lines), (0, list(zip(*lines, strict=True))))
    )
    found = {name: colours[name] for one in shown for name in one.outlines if name in colours}
    room = (TITLE_INCHES if titles else 0) + (LEGEND_INCHES if legend and found else 0)
    figure = new_figure(width, width * sum(heights) / sum(widths) + room)
    panels = figure.subplots(
        len(lines), n_columns, squeeze=False, height_ratios=heights, width_ratios=widths
    )
    for axes, image in zip(panels.ravel(), [one for line in lines for one in line], strict=True):
        place = axes.get_subplotspec()
        first = place.is_first_col() and (marks == "rows" or place.is_first_row())
        if image is None:
            axes.set_axis_off()
        else:
            marked = marks != "none" and (first or marks == "all")
            draw_slice(axes, image, colours=colours, marked=marked)
            # every panel spans as many mm as its row and column, or smaller slices look larger
            for side, span in enumerate(
                (widths[place.colspan.start], heights[place.rowspan.start])
            ):
                low, rest = image.origin_mm[side], (span - image.size_mm[side]) / 2
                ends = (low - rest, low + image.size_mm[side] + rest)
                (axes.set_ylim if side else axes.set_xlim)(ends)
    for axes, title in zip(panels[0], titles, strict=False):
        axes.set_title(title, fontsize=10)
    for axes, name in zip(panels[:, 0], names, strict=False):
        axes.text(-0.04, 0.5, name, transform=axes.transAxes, rotation=90, ha="right", va="center",
                  multialignment="center")  # fmt: skip
    if legend and found:
        legend_below(figure, found)
    return figure, panels


def in_rows(images: Sequence[Slice], columns: int) -> list[list[Slice | None]]:
    """Return images as rows of ``columns`` for `image_grid`; the last row may be shorter."""
    return [list(images[start : start + columns]) for start in range(0, len(images), columns)]


def box_around(
    image: Slice, margin_mm: float = 8.0, *, square: bool = False
) -> tuple[slice, slice]:
    """Return rows and columns around all outlines of a slice; all of it if there is none.

    Parameters
    ----------
    margin_mm : float
        Left around them.
    square : bool
        Whether the box is as wide as it is high, unless the slice ends before.
    """
    filled = np.any([mask > 0 for mask in image.outlines.values()], axis=0)
    if not np.any(filled):
        return slice(None), slice(None)
    sizes = image.pixel_mm[::-1]
    spans = [(int(found.min()), int(found.max()) + 1) for found in np.nonzero(filled)]
    halves = [(b - a) * mm / 2 + margin_mm for (a, b), mm in zip(spans, sizes, strict=True)]
    halves = [max(halves)] * 2 if square else halves
    rows, columns = (
        slice(max(round((a + b) / 2 - half / mm), 0), round((a + b) / 2 + half / mm))
        for (a, b), half, mm in zip(spans, halves, sizes, strict=True)
    )
    return rows, columns


def window(image: NDArray[Any], dark_percentile: float | None = None) -> tuple[float, float]:
    """Return intensities to show as black and white: 0 and the 99.5th percentile of the rest.

    ``dark_percentile`` of all intensities is black instead of 0 for scans with an offset.
    """
    values = image.ravel(order="K")[:: image.size // 1_000_000 + 1]
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    bright = values[values > 0] if dark_percentile is None else values
    dark = 0.0 if dark_percentile is None else float(np.percentile(values, dark_percentile))
    high = float(np.percentile(bright, 99.5)) if bright.size else 1.0
    return dark, float(max(high, np.nextafter(dark, np.inf)))


def centre_voxel(masks: Mapping[str, NDArray[Any]]) -> tuple[int, int, int]:
    """Return the voxel in the middle of all masks together."""
    centres = [np.argwhere(mask).mean(axis=0) for mask in masks.values() if np.any(mask)]
    if not centres:
        raise AnkleError("the middle of the bones was asked for, but every mask is empty")
    i, j, k = np.rint(np.mean(centres, axis=0)).astype(int)
    return int(i), int(j), int(k)


def middle_slice(mask: NDArray[Any]) -> int:
    """Return the sagittal slice that halves a mask; it always holds a part of the mask.

    Raises
    ------
    AnkleError
        If the mask is empty.
    """
    areas = (mask > 0).sum(axis=(0, 1))
    if not areas.any():
        raise AnkleError("the middle of a mask was asked for, but it is empty")
    return int(np.searchsorted(np.cumsum(areas), areas.sum() / 2))
