"""Galleries of patches: what a network sees, and what it is to learn from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, draw_slice
from ankle_lib.figures.patches import SHOWN_SD, row_name
from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.patches.source import Batch

PATCH_LETTERS = ("A", "P", "I", "S")
UNKNOWN_COLOUR = "#D55E00"


def label_gallery(
    batch: Batch, labels: Sequence[str], pixel_mm: float, *, upright: bool = True
) -> Figure:
    """Show patches above what is to be learnt from them (report, Figs 6.5 and 6.20).

    Parameters
    ----------
    batch : Batch
        With one channel per label.
    labels : sequence of str
        Names of the channels.
    pixel_mm : float
    upright : bool
        Whether letters and scale bar hold; not so for patches that were turned and scaled.
    """
    images = batch.image[:, 0].cpu().numpy()
    targets, valid = batch.target.cpu().numpy(), batch.valid.cpu().numpy()
    figure, panels = _gallery(len(images))
    for number, (column, image) in enumerate(zip(panels.T, images, strict=True)):
        upper, lower = column
        first = upright and number == 0
        draw_slice(upper, _patch(image, pixel_mm), limits=SHOWN_SD, letters=first, bar=first)
        coloured = np.zeros((*image.T.shape, 3))
        for label, mask in zip(labels, targets[number], strict=True):
            coloured[mask.T > 0.5] = to_rgb(BONE_COLOURS.get(label, "white"))
        unknown = [name for name, known in zip(labels, valid[number], strict=True) if not known]
        lower.imshow(coloured, origin="lower", interpolation="nearest")
        lower.set_axis_off()
        if unknown:
            lower.set_title("unknown: " + "\n".join(unknown), fontsize=8, color=UNKNOWN_COLOUR)
        upper.set_title(_name(batch, number), fontsize=8)
    _name_rows(panels, "image (X)", "labels (Y)")
    handles = [Patch(color=BONE_COLOURS.get(name, "white"), label=name) for name in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def pair_gallery(batch: Batch, pixel_mm: float) -> Figure:
    """Show patches of frames above their sharp partners, by correlation (report, Fig. 6.14).

    Parameters
    ----------
    batch : Batch
        With intensities as target.
    pixel_mm : float
    """
    order = torch.argsort(batch.correlation).tolist()
    figure, panels = _gallery(len(order))
    for place, (column, number) in enumerate(zip(panels.T, order, strict=True)):
        for axes, values in zip(column, (batch.image, batch.target), strict=True):
            draw_slice(axes, _patch(values[number, 0].cpu().numpy(), pixel_mm), limits=SHOWN_SD,
                       letters=place == 0 and axes is column[0],
                       bar=place == 0 and axes is column[0])  # fmt: skip
        column[0].set_title(_name(batch, number), fontsize=8)
        column[1].set_title(f"r = {float(batch.correlation[number]):.2f}", fontsize=10)
    _name_rows(panels, "frame (X)", "static scan,\nmoved (Y)")
    return figure


def _gallery(n: int) -> tuple[Figure, NDArray]:
    figure = new_figure(1.6 * n + 0.4, 4.1)
    return figure, figure.subplots(2, n, squeeze=False)


def _name_rows(panels: NDArray, *names: str) -> None:
    for axes, name in zip(panels[:, 0], names, strict=True):
        row_name(axes, name)


def _patch(values: NDArray, pixel_mm: float) -> Slice:
    """Return a patch (posterior, superior) as a slice to be drawn."""
    size = (values.shape[0] * pixel_mm, values.shape[1] * pixel_mm)
    return Slice(values.T, size, PATCH_LETTERS)


def _name(batch: Batch, number: int) -> str:
    """Return subject and image on one line, bone and slice on the next."""
    image, place, *_ = batch.describe(batch.where[number].tolist()).split(", ")
    words = image.split()
    bone = words.pop() if words[-1] in BONE_COLOURS else ""
    return " ".join(words).replace(" frame", "\nframe") + f"\n{bone} {place}".replace("\n ", "\n")
