"""Pictures of one's own scans: with their labels, as a filmstrip, and as a page for a browser."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from nibabel.nifti1 import Nifti1Image

from ankle_lib.figures.images import AXIS_OF_PLANE, image_grid, in_rows, slice_of, window
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, bounding_box, part_of, same_grid
from ankle_lib.volume import Volume, to_orientation

SLICES = 5
"""Of each plane, spread through the bones of a single scan."""
MOST_FRAMES = 30
"""More are shown in part, spread evenly."""
COLUMNS = 5
MARGIN_MM = 12.0
"""Shown around the bones."""
DARK = 0.1
"""Percentile of the scan that is black."""
FLAGGED = "#E00000"
PAGE_MM = 1.0
"""Smallest voxel in a page for the browser, which holds the whole image."""


def labelled_scan(
    scan: Volume, labels: Volume, table: pd.DataFrame, names: Mapping[int, str]
) -> Figure:
    """Show a scan and the outlines of its labels, closely around the bones.

    Of a single scan slices in three planes are shown. Of a series all frames show one sagittal
    slice, the one that has most of every bone. Below each frame stand the confidences in the
    bones' colours, – for a bone that was not found; what the table notes has a red frame.

    Parameters
    ----------
    scan, labels : Volume
        3D or 4D, on one grid, in any orientation; at least one voxel has a label.
    table : DataFrame
        Columns frame, bone, confidence, volume_cm3, note (see `foot.segment.noted`).
    names : mapping of label to bone
    """
    film, found = to_orientation(scan), to_orientation(labels)
    limits = window(film.data, dark_percentile=DARK)
    box = bounding_box(
        np.any([found.frame(n).data > 0 for n in range(found.n_frames)], axis=0),
        MARGIN_MM / np.array(film.voxel_size_mm),
    )
    assert box is not None
    affine = part_of(box, film.affine)[1]
    shown = np.linspace(0, scan.n_frames - 1, min(scan.n_frames, MOST_FRAMES)).round().astype(int)
    images = [Volume(film.frame(n).data[box], affine) for n in shown]
    marks = [
        {bone: found.frame(n).data[box] == label for label, bone in names.items()} for n in shown
    ]
    legend = [
        Line2D([], [], color=BONE_COLOURS[bone], lw=2.5, label=_volume_in_words(table, bone))
        for bone in names.values()
    ]
    if scan.n_frames == 1:
        filled = np.any([*marks[0].values()], axis=0)
        middles, rows = (np.arange(SLICES) + 0.5) / SLICES, {}
        for plane, axis in AXIS_OF_PLANE.items():
            spots = np.quantile(np.unique(np.nonzero(filled)[axis]), middles, method="nearest")
            rows[plane] = [
                slice_of(images[0], plane, k, marks[0], limits=limits) for k in np.unique(spots)
            ]
        figure = image_grid(rows, width=11.0, marks="rows", legend=False)[0]
        figure.set_layout_engine("constrained")  # planes are of different widths
        figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), frameon=False)
        return figure
    areas = np.array([[m[bone].sum(axis=(0, 1)) for bone in names.values()] for m in marks]).sum(0)
    parts = areas[areas.any(axis=1)]
    best = int((parts / parts.sum(axis=1, keepdims=True)).min(axis=0).argmax())
    columns = min(COLUMNS, len(shown))
    cuts = [
        slice_of(image, "sagittal", best, mark, limits=limits)
        for image, mark in zip(images, marks, strict=True)
    ]
    figure, panels = image_grid(in_rows(cuts, columns), width=11.0 * columns / COLUMNS,
                                legend=False)  # fmt: skip
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.55 * len(panels) + 0.9)  # for texts and legend
    for axes, number in zip(panels.ravel(), shown, strict=False):
        own = table[table["frame"] == number]
        axes.set_title(f"frame {number}", fontsize=10)
        for n, row in enumerate(own.itertuples()):
            text = f"{row.confidence:.2f}" if row.volume_cm3 > 0 else "–"
            axes.text((n + 0.5) / len(own), -0.02, text, color=BONE_COLOURS[str(row.bone)],
                      fontsize=10, fontweight="bold", ha="center", va="top",
                      transform=axes.transAxes)  # fmt: skip
        if (own["note"] != "").any():
            axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, ec=FLAGGED, lw=4,
                                     transform=axes.transAxes, clip_on=False))  # fmt: skip
    handles: list[Line2D | Patch] = [*legend]
    if (table["note"] != "").any():
        handles.append(Patch(fc="none", ec=FLAGGED, lw=2, label="look closer: see the table"))
    n_left = scan.n_frames - len(shown)
    title = "Numbers: confidence, 0 to 1"
    title += f"; {n_left} frames between are not shown" if n_left else ""
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
                  title=title, title_fontsize=10)  # fmt: skip
    return figure


def _volume_in_words(table: pd.DataFrame, bone: str) -> str:
    found = table[(table["bone"] == bone) & (table["volume_cm3"] > 0)]["volume_cm3"]
    return f"no {bone}" if found.empty else f"{bone}, {found.median():.1f} cm³"


def filmstrip(stills: Mapping[int, tuple[Volume, Volume]]) -> Figure:
    """Show frames as measured and as reconstructed, along the thick slices and across them.

    Parameters
    ----------
    stills : mapping of frame to (Volume, Volume)
        Each voxel with the value of the thick one that it lies in, and the reconstruction; on one
        grid with axes P, S, R, of which the middle is shown.
    """
    planes = ("sagittal", "coronal")
    rows = {
        f"frame {number}": [
            slice_of(one, plane, one.shape[AXIS_OF_PLANE[plane]] // 2, limits=window(one.data))
            for plane in planes
            for one in pair
        ]
        for number, pair in stills.items()
    }
    titles = [f"{words},\n{plane}" for plane in planes for words in ("measured", "reconstructed")]
    return image_grid(rows, titles, width=8.0, marks="rows")[0]


def page(scan: Volume, masks: Mapping[str, Volume]) -> Any:
    """Return three linked planes to be clicked through in any browser, without a kernel.

    The page holds the whole image in voxels of at least 1 mm: it stays alive in an executed
    notebook, and ``page(…).save_as_html(path)`` writes it to be sent to somebody.

    Parameters
    ----------
    scan : Volume
        3D, any orientation.
    masks : mapping of bone to Volume
        On its grid.

    Raises
    ------
    AnkleError
        If the masks have no names, or one lies on another grid.
    """
    from nilearn import plotting  # takes seconds, and most commands draw nothing with it

    if not isinstance(masks, Mapping):
        what = type(masks).__name__
        raise AnkleError(f"masks are given by name, as in {{'talus': mask}}, not as {what}")
    for name, mask in masks.items():
        if not same_grid(mask.grid, scan.grid):
            raise AnkleError(f"the mask of {name} is on another grid than the scan: resample it")
    labels = np.zeros(scan.shape, dtype=np.float32)
    for number, mask in enumerate(masks.values(), start=1):
        labels[mask.data > 0] = number
    colours = [BONE_COLOURS.get(name, "white") for name in masks]
    colours += ["white"] * (2 - len(colours))  # nilearn wants two
    return plotting.view_img(
        _coarse_image(Volume(labels, scan.affine)),
        bg_img=_coarse_image(scan),
        threshold=0.5,
        vmin=1,
        vmax=len(colours),
        symmetric_cmap=False,
        cmap=ListedColormap(colours),
        resampling_interpolation="nearest",
        opacity=0.5,
        colorbar=False,
        black_bg=True,
    )


def _coarse_image(volume: Volume) -> Nifti1Image:
    """Return an image that nilearn need not resample: its axes turned to R, A, S, at its place."""
    turned = to_orientation(volume, "RAS")
    step = [max(1, int(PAGE_MM / size)) for size in turned.voxel_size_mm]
    data = turned.data[:: step[0], :: step[1], :: step[2]].astype(np.float32)
    affine = np.diag([*np.multiply(step, turned.voxel_size_mm), 1.0])
    middle = (np.array(data.shape) - 1) / 2
    affine[:3, 3] = apply(turned.affine, middle * step) - apply(affine, middle)
    return Nifti1Image(np.nan_to_num(data), affine)
