"""What all views share: rows of controls, one drawing per change, and a sentence for bad input.

What they are given is brought to one orientation, or turned down with a sentence.
"""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.files import AnkleError
from ankle_lib.geometry import corner_distance_mm, same_grid
from ankle_lib.volume import Volume, to_orientation

Mask = NDArray[np.bool_]

SHOWN_BLACK = "shown black"
OUTSIDE = "taken as outside"
"""What a view makes of values that are not finite, in an image and in a mask."""

FURTHER_COLOURS = ("#F0E442", "#CC79A7", "#E69F00", "#0072B2")
"""Okabe-Ito, for what is no bone."""
EMPTY = "&nbsp;"
"""Keeps the height of a line."""


class Message(ipywidgets.HTML):
    """Says in red what is wrong; empty if nothing is."""

    sentences: tuple[str, ...] = ()
    """What it says, as plain text."""

    def say(self, *sentences: str) -> None:
        """Show these sentences, one per line, in place of those before; none is read as HTML."""
        self.sentences = tuple(sentence for sentence in sentences if sentence)
        lines = "<br>".join(html.escape(sentence) for sentence in self.sentences)
        self.value = f'<b style="color: #B00000">{lines}</b>' if lines else ""


class View(ipywidgets.VBox):
    """A view never raises for bad input, since people look at it, not at a traceback.

    A view of its own checks what it is given and builds its controls within ``with
    self.refusals()``, names its rows by `show_rows`, its controls by `watch`, and draws in `draw`.
    """

    def __init__(self) -> None:
        self.message = Message()
        self.notes: list[str] = []
        """Sentences about what the view was given; they stay."""
        self._quiet = False
        super().__init__([self.message])

    def draw(self) -> None:
        """Bring all pictures to what the controls say."""
        raise NotImplementedError

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn an `AnkleError` into the view's only sentence."""
        try:
            yield
        except AnkleError as error:
            self.message.say(str(error))

    def show_rows(self, *rows: ipywidgets.Widget) -> None:
        """Show these widgets, one below the other, and the message below them."""
        self.children = (*rows, self.message)

    def watch(self, *controls: ipywidgets.Widget, work: Callable[[], object] | None = None) -> None:
        """Draw, or do other ``work``, when one of these controls has a new value.

        Not while the view itself sets its controls.
        """
        for control in controls:
            control.observe(lambda _: None if self._quiet else (work or self.draw)(), "value")

    def change(self, controls: Mapping[Any, Any]) -> None:
        """Give several controls their values, and draw once."""
        with self.silence():
            for control, value in controls.items():
                control.value = value
        if not self._quiet:
            self.draw()

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Do not draw while the view itself sets its controls."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before


def button(name: str, work: Callable[[], object], **look: Any) -> ipywidgets.Button:
    """Return a button that does ``work`` when it is pressed."""
    made = ipywidgets.Button(description=name, layout=ipywidgets.Layout(**look))
    made.on_click(lambda _: work())
    return made


def slider(
    name: str, low: float, high: float, value: float | None = None, *, width: int = 270, **look: Any
) -> ipywidgets.IntSlider | ipywidgets.FloatSlider:
    """Return a slider from ``low`` to ``high``, of whole numbers unless it has a ``step``."""
    kind = ipywidgets.FloatSlider if "step" in look else ipywidgets.IntSlider
    start = low if value is None else value
    return kind(
        value=start,
        min=low,
        max=high,
        description=name,
        layout=ipywidgets.Layout(width=f"{width}px"),
        **look,
    )


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name: the bones' own, then others."""
    others = [name for name in names if name not in BONE_COLOURS]
    further = {name: FURTHER_COLOURS[n % len(FURTHER_COLOURS)] for n, name in enumerate(others)}
    return {name: (BONE_COLOURS | further)[name] for name in names}


def legend(colours: Mapping[str, str]) -> ipywidgets.HTML:
    """Return names, each behind a square in its colour."""
    return ipywidgets.HTML(
        "".join(
            f'<span style="color: {colour}; font-size: 18px">■</span> {html.escape(name)} &nbsp; '
            for name, colour in colours.items()
        )
    )


# --- what views are given ---


def oriented(
    volume: Volume, name: str = "image", n_axes: int = 3, like: Volume | None = None
) -> Volume:
    """Return an image with axes P, S, R.

    Parameters
    ----------
    volume : Volume
    name : str
        For the sentence.
    n_axes : int
        3, or 4 for a series.
    like : Volume, optional
        Axes P, S, R; the image must lie on its grid, with as many frames.

    Raises
    ------
    AnkleError
        If it has other axes or frames, or lies on another grid, or as in `check_values`.
    """
    check_values(volume, name)
    if volume.data.ndim != n_axes:
        wanted = "one 3D image is wanted; give one frame, or look at all in a SequencePlayer"
        if n_axes == 4:
            wanted = "a 4D series of frames is wanted; look at one image in a VolumeViewer"
        raise AnkleError(f"The {name} has shape {volume.data.shape}: {wanted}.")
    turned = to_orientation(volume)
    if like is not None and not same_grid(turned.grid, like.grid):
        apart_mm = corner_distance_mm(like.shape, turned.affine, like.affine)
        apart = f", up to {apart_mm:.3g} mm away" if turned.shape == like.shape else ""
        raise AnkleError(
            f"The {name} {turned.shape} is on another grid than its image {like.shape}{apart}: "
            "resample it."
        )
    if like is not None and turned.n_frames != like.n_frames:
        raise AnkleError(f"The {name} has {turned.n_frames} frames, the image {like.n_frames}.")
    return turned


def masks_on(
    like: Volume, masks: Mapping[str, Volume], notes: list[str], missing: str = OUTSIDE
) -> dict[str, Mask]:
    """Return those masks that belong to an image, by name, and note what the others are.

    Parameters
    ----------
    like : Volume
        Axes P, S, R; 3D or 4D.
    masks : mapping of name to Volume
        With as many axes.
    notes : list of str
        Gets the sentences.
    missing : str
        What becomes of values that are not finite.
    """
    if not isinstance(masks, Mapping):
        what = type(masks).__name__
        notes.append(f"Not shown: masks are given by name, as in {{'talus': mask}}, not as {what}.")
        return {}
    found = {}
    for name, mask in masks.items():
        try:
            data = oriented(mask, f"mask of {name}", like.data.ndim, like).data
        except AnkleError as error:
            notes.append(f"Not shown: {error}")
            continue
        notes.append(not_finite(data, f"mask of {name}", missing))
        found[name] = inside(data)
    return found


def inside(mask: NDArray[Any]) -> Mask:
    """Return where a mask is above 0; values that are not finite are outside."""
    return (mask > 0) & np.isfinite(mask) if mask.dtype.kind == "f" else mask > 0


def empty_ones(masks: Mapping[str, Mask]) -> list[str]:
    """Return a sentence for each mask that is empty."""
    return [f"The mask of {name} is empty: no voxel is above 0." for name, mask in masks.items()
            if not mask.any()]  # fmt: skip


def check_values(volume: Any, name: str) -> None:
    """Refuse what is no `Volume`, has no voxels, or values that are no real numbers.

    Raises
    ------
    AnkleError
        In these cases.
    """
    if not isinstance(volume, Volume):
        raise AnkleError(
            f"The {name} is of type {type(volume).__name__}: a Volume is wanted, such as "
            "ankle_lib.volume.load reads from a file."
        )
    if not volume.data.size:
        raise AnkleError(f"The {name} has shape {volume.data.shape}: it has no voxels.")
    if volume.data.dtype.kind not in "biuf":
        raise AnkleError(f"The {name} has values of type {volume.data.dtype}: real numbers are "
                         "wanted.")  # fmt: skip


def not_finite(image: NDArray[Any], name: str = "image", missing: str = SHOWN_BLACK) -> str:
    """Return a sentence if an image holds NaN or infinite values, else an empty one.

    Parameters
    ----------
    image : array
    name, missing : str
        What it is, and what becomes of these voxels, for the sentence.
    """
    count = image.size - np.count_nonzero(np.isfinite(image))
    where = f"In the {name}, voxels are not numbers but NaN or infinite"
    return f"{where}: {missing} ({count})." if count else ""
