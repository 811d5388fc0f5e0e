"""The ankle in three planes, in a page that needs no kernel, and its bones in space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LightSource, ListedColormap
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes

from ankle_lib.figures.style import BONE_COLOURS, legend_below, new_figure
from ankle_lib.geometry import bounding_box
from ankle_lib.volume import Volume, to_orientation

if TYPE_CHECKING:
    from nilearn.plotting.html_document import HTMLDocument  # slow to import

PAGE_MM = 1.0
"""Smallest voxel in a page for the browser, which holds the whole image."""
SURFACE_MM = 1.0
BAR_MM = 20.0

VIEWS = {"from the left": (0, 180), "from the front": (0, 90), "from above": (90, -90)}
"""Elevation and azimuth in degrees of who looks at the bones."""


def page(scan: Volume, masks: Mapping[str, Volume]) -> HTMLDocument:
    """Return three linked planes to be clicked through in any browser, without a kernel.

    The page holds the whole image in voxels of at least 1 mm: it stays alive in an executed
    notebook, and ``page(…).save_as_html(path)`` writes it to be sent to somebody.

    Parameters
    ----------
    scan : Volume
        3D, any orientation.
    masks : mapping of bone to Volume
        On its grid.
    """
    from nilearn import plotting  # takes seconds, and most commands draw nothing with it

    labels = np.zeros(scan.shape, dtype=np.float32)
    for number, mask in enumerate(masks.values(), start=1):
        labels[mask.data > 0] = number
    step = [slice(None, None, max(1, int(PAGE_MM / size))) for size in scan.voxel_size_mm]
    image, regions = (
        _along_axes(Volume(data[tuple(step)], scan.affine @ np.diag([*(s.step for s in step), 1])))
        for data in (scan.data, labels)
    )
    return plotting.view_img(
        regions,
        bg_img=image,
        threshold=0.5,
        vmin=1,
        vmax=max(len(masks), 2),
        symmetric_cmap=False,
        cmap=ListedColormap([BONE_COLOURS.get(name, "white") for name in masks]),
        resampling_interpolation="nearest",
        opacity=0.5,
        colorbar=False,
        black_bg=True,
    )


def bone_surfaces(masks: Mapping[str, Volume], title: str = "") -> Figure:
    """Show the surfaces of the bones from three sides.

    Parameters
    ----------
    masks : mapping of bone to Volume
        On one grid, axes P, S, R.
    """
    triangles, colours = [], []
    for bone, mask in masks.items():
        corners = _surface(mask)
        triangles.append(corners)
        colours += [BONE_COLOURS[bone]] * len(corners)
    everything = np.concatenate(triangles)
    low, high = everything.min(axis=(0, 1)), everything.max(axis=(0, 1))
    figure = new_figure(10.0, 4.6)
    for number, (name, (elevation, azimuth)) in enumerate(VIEWS.items(), start=1):
        axes: Any = figure.add_subplot(1, 3, number, projection="3d", proj_type="ortho")
        light = LightSource(azdeg=azimuth - 40, altdeg=50)
        axes.add_collection3d(
            Poly3DCollection(
                everything,
                facecolors=colours,
                shade=True,
                lightsource=light,
                linewidths=0,
                rasterized=True,
            )
        )
        axes.view_init(elevation, azimuth)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2] - 6, high[2]))
        axes.set_box_aspect((*(high - low)[:2], high[2] - low[2] + 6), zoom=1.15)
        axes.set_axis_off()
        axes.set_title(f"{name} (bar: {BAR_MM:.0f} mm)", fontsize=11)
        along = 0 if name == "from the front" else 1
        ends = np.stack([[low[0], low[1], low[2] - 5]] * 2)
        ends[1, along] += BAR_MM
        axes.plot(*ends.T, color="black", lw=3, clip_on=False)
    legend_below(figure, {bone: BONE_COLOURS[bone] for bone in masks})
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _surface(mask: Volume) -> NDArray[np.float64]:
    """Return triangles (n, 3 corners, 3) in mm right, anterior, superior of the grid's axes."""
    inside = np.pad(mask.data > 0, 2)  # a bone that leaves the grid ends in a flat cut
    size = np.array(mask.voxel_size_mm)
    part = bounding_box(inside, 4)
    assert part is not None
    soft = ndimage.gaussian_filter(inside[part].astype(np.float32), SURFACE_MM / size)
    soft = ndimage.zoom(soft, np.minimum(size / SURFACE_MM, 1.0), order=1)  # none is made finer
    points, faces, *_ = marching_cubes(soft, 0.5)
    scale = np.array(inside[part].shape) / np.array(soft.shape) * size
    first = np.array([one.start - 2 for one in part]) * size
    posterior, superior, right = (points * scale + first).T
    return np.stack([right, -posterior, superior], axis=1)[faces]


def _along_axes(volume: Volume) -> Nifti1Image:
    """Return an image that nilearn need not resample: its axes turned to R, A, S, at its place."""
    turned = to_orientation(volume, "RAS")
    affine = np.diag([*turned.voxel_size_mm, 1.0])
    half = (np.array(turned.shape[:3]) - 1) / 2
    affine[:3, 3] = (turned.affine @ [*half, 1])[:3] - affine[:3, :3] @ half
    return Nifti1Image(np.nan_to_num(turned.data.astype(np.float32)), affine)
