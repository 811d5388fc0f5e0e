"""An optional view in 3D, with NiiVue in the browser."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.volume import Volume, save
from ankle_lib.widgets.inputs import check_values, colours_of, image_3d, masks_on, not_finite
from ankle_lib.widgets.message import Message
from ankle_lib.widgets.volume_viewer import CROSS_COLOUR

COMMAND = "pip install 'ankle-lib[viewer]'"
RUN_VARIABLE = "ANKLE_CHAPTER"
"""Set in the kernels of `ankle run`, where nobody looks (see `ankle_lib.running.chapter`)."""
LARGEST_MB = 64
"""The browser is sent the whole image, and a notebook that is saved keeps it."""
OPACITY = 0.5
HEIGHT_PX = 500


def volume_3d(
    image: Volume, overlays: Mapping[str, Volume] | None = None, frame: int = 0
) -> Any | None:
    """Return a view of a volume and its masks in 3D, for JupyterLab; None under `ankle run`.

    The whole image travels to the browser, and stays in a notebook that is saved with its
    widgets: look at large ones in a `VolumeViewer`. Bad input is said below the view: masks that
    are empty or on another grid are left out, values that are not finite are black.

    Parameters
    ----------
    image : Volume
        3D, or 4D with frames.
    overlays : mapping of name to Volume, optional
        Masks on the image's grid; of a 4D image, those of the frame that is shown.
    frame : int
        Of a 4D image.

    Returns
    -------
    ipyniivue.NiiVue, ipywidgets.VBox, Message or None
        In a box if there is something to say; a message alone if ipyniivue is not installed, the
        image has more than 64 MB, or there is no such frame.
    """
    if os.environ.get(RUN_VARIABLE):
        return None
    try:
        return _view(image, overlays or {}, frame)
    except AnkleError as error:
        message = Message()
        message.say(str(error))
        return message


def _view(image: Volume, overlays: Mapping[str, Volume], frame: int) -> Any:
    check_values(image, "image")
    shown = image.frame(frame) if image.data.ndim == 4 else image
    size_mb = shown.data.size * 2 / 2**20  # as int16
    if size_mb > LARGEST_MB:
        raise AnkleError(
            f"An image of {shown.shape} has {size_mb:.0f} MB, a view in 3D holds {LARGEST_MB}: "
            "resample it, or look at it in a VolumeViewer."
        )
    turned = image_3d(shown)
    masks, sentences = masks_on(turned, overlays)
    sentences.insert(0, not_finite(turned))
    try:
        niivue = importlib.import_module("ipyniivue")
    except ImportError:
        raise AnkleError(
            f"A view in 3D needs ipyniivue, which is not installed: {COMMAND}"
        ) from None
    there = {name: mask for name, mask in masks.items() if mask.any()}
    view = _constructed(niivue, turned, there, OPACITY)
    message = Message()
    message.show(sentences)
    return ipywidgets.VBox([view, message]) if message.sentences else view


def _constructed(
    niivue: Any, image: Volume, masks: Mapping[str, NDArray[np.bool_]], opacity: float
) -> Any:
    colours = colours_of(list(masks))
    view = niivue.NiiVue(height=HEIGHT_PX)
    view.opts.multiplanar_show_render = niivue.ShowRender.ALWAYS  # the body beside its planes
    view.opts.sagittal_nose_left = True  # toes to the left, as in all other pictures
    view.opts.is_corner_orientation_text = True  # beside the cross, not on it
    view.opts.crosshair_color = (*to_rgb(CROSS_COLOUR), 1.0)
    data = np.nan_to_num(image.data.astype(np.float32))
    volumes = [niivue.Volume(name="image.nii", data=_nifti(data, image.affine), colormap="gray")]
    for name, mask in masks.items():
        one = niivue.Volume(name=f"{name}.nii", data=_nifti(mask, image.affine), opacity=opacity)
        red, green, blue = (round(255 * part) for part in to_rgb(colours[name]))
        one.set_colormap_label({"R": [0, red], "G": [0, green], "B": [0, blue],
                                "A": [0, 255], "I": [0, 1], "labels": ["", name]})  # fmt: skip
        volumes.append(one)
    view.load_volumes(volumes)
    return view


def _nifti(data: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    """Return a NIfTI file's content; it goes to the browser after this call, so no file is left."""
    with tempfile.TemporaryDirectory() as folder:
        scale: Any = None if data.dtype == bool else "auto"
        return save(Path(folder) / "one.nii", data, affine, scale=scale).read_bytes()
