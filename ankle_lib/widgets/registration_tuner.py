"""A registration by hand: where it starts, how alike the images are there, and where it ends."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ankle_lib.figures.images import middle_slice, slice_of
from ankle_lib.files import AnkleError
from ankle_lib.geometry import Matrix
from ankle_lib.registration.register import Settings
from ankle_lib.volume import Volume
from ankle_lib.widgets.inputs import colours_of
from ankle_lib.widgets.message import Message
from ankle_lib.widgets.panel import Panel
from ankle_lib.widgets.picture import box_around
from ankle_lib.widgets.pixels import Layer, brightness_limits
from ankle_lib.widgets.registration_scene import Cut, Run, Scene

SIDE_PX = 340
"""Pictures and controls are seen together at 1280 x 800."""
MOST_TURN_DEG, MOST_SHIFT_MM = 60.0, 20.0
START_COLOUR = "#F0E442"
TURNS = ("left-right", "front-back", "up-down")
"""Axes of turns: world x, y, z (RAS)."""
SHIFTS = ("right", "front", "up")
"""Directions of shifts, likewise."""


class RegistrationTuner(ipywidgets.VBox):
    """Move the start of a bone's registration, see how alike the images are there, and run it.

    To the left the frame, with the bone's outline where the sliders put it (yellow) and where the
    last run ended (its own colour); to the right the static scan, carried to the one or the other.
    The similarity is the correlation that the gate is about. Bad input is said in the view.

    Parameters
    ----------
    sequence : Volume
        Frames: 3D, or 4D with F frames.
    static : Volume
        The static scan, 3D.
    masks : mapping of bone to Volume
        On the static scan's grid.
    weights : mapping of bone to (I, J, K) array
        For each of these bones, as in `registration.register`.
    start : (4, 4) or (F, 4, 4) array, optional
        Static world to frame world: what the sliders change; the two worlds agree by default.
    settings : Settings, optional
        Of the search.
    engine, device : str
        As in `registration.register`.
    truth : mapping of bone to (F, 4, 4) array, optional
        True poses, to tell the error.
    """

    def __init__(
        self,
        sequence: Volume,
        static: Volume,
        masks: Mapping[str, Volume],
        weights: Mapping[str, NDArray[Any]],
        *,
        start: NDArray[np.float64] | None = None,
        settings: Settings | None = None,
        engine: str = "torch",
        device: str = "cpu",
        truth: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        self.message = Message()
        self.runs: list[Run] = []
        self._starts: list[str] = []  # where each run began, in words
        self._given: Scene | None = None
        self._similar: tuple[Any, float] | None = None
        options = {"settings": settings, "engine": engine, "device": device}
        try:
            self._given = Scene(sequence, static, masks, weights, start, options, truth or {})
        except AnkleError as error:
            self.message.say(str(error))
            super().__init__([self.message])
            return
        super().__init__(self._build())
        self._show_middle()

    # --- what one can do ---

    @property
    def pose(self) -> Matrix:
        """Where the sliders put the bone: (4, 4) static world to frame world."""
        return self._scene.pose(self.bone.value, self.frame.value, *self._motion())

    def run(self) -> Run | None:
        """Register from the sliders' pose; None, and a sentence, if nothing can be compared."""
        turn, shift = self._motion()
        try:
            run = self._scene.run(self.bone.value, self.frame.value, self.pose)
        except AnkleError as error:
            self.message.say(str(error))
            return None
        self.runs.append(run)
        self._starts.append(f"{np.linalg.norm(turn):.0f}°, {np.linalg.norm(shift):.1f} mm")
        self.table.value = self._table()
        self._move({self.side: "end"})
        return run

    def try_turns(self, turns_deg: Sequence[float]) -> list[Run]:
        """Register from the sliders' pose, turned further about left-right; nothing is listed.

        Raises
        ------
        AnkleError
            If there is nothing to register.
        """
        scene = self._scene
        turn, shift = self._motion()
        bone, frame = self.bone.value, self.frame.value
        starts = [scene.pose(bone, frame, (turn[0] + angle, *turn[1:]), shift)
                  for angle in turns_deg]  # fmt: skip
        return [scene.run(bone, frame, start) for start in starts]

    def shown(self, pose: Matrix | None = None) -> Cut:
        """Return what the panels show, for the sliders' pose or another (4, 4) one."""
        place = self.bone.value, self.frame.value, self.slice.value, self._box
        return self._scene.cut(*place, self.pose if pose is None else pose)

    def reset(self) -> None:
        """Put all sliders back to 0."""
        zeros = dict.fromkeys([*self.turns.values(), *self.shifts.values()], 0.0)
        self._move({**zeros, self.side: "start"})

    @property
    def _scene(self) -> Scene:
        if self._given is None:
            raise AnkleError("; ".join(self.message.sentences))
        return self._given

    # --- building ---

    def _build(self) -> list[ipywidgets.Widget]:
        self._quiet = False
        wide = ipywidgets.Layout(width="270px")
        scene = self._scene
        self.bone = ipywidgets.Dropdown(options=list(scene.weights), description="bone")
        self.bone.layout = wide
        last = scene.sequence.n_frames - 1
        self.frame = ipywidgets.IntSlider(0, 0, last, description="frame", layout=wide)
        last = scene.sequence.shape[2] - 1
        self.slice = ipywidgets.IntSlider(0, 0, last, description="slice", layout=wide)
        self.turns = {name: _slider(f"{name} °", MOST_TURN_DEG, 1.0) for name in TURNS}
        self.shifts = {name: _slider(f"{name} mm", MOST_SHIFT_MM, 0.5) for name in SHIFTS}
        choices = [("show the start", "start"), ("show the end", "end")]
        self.side = ipywidgets.ToggleButtons(options=choices)
        self.side.style.button_width = "120px"
        self.runner = ipywidgets.Button(description="Register from here")
        self.resetter = ipywidgets.Button(description="Reset")
        self.similarity, self.table = ipywidgets.HTML(), ipywidgets.HTML()
        self.panels = {name: Panel(name, SIDE_PX) for name in ("frame", "static scan, moved")}
        self._limits = [brightness_limits(image.data) for image in (scene.sequence, scene.static)]
        self.runner.on_click(lambda _: self.run())
        self.resetter.on_click(lambda _: self.reset())
        for control in (self.bone, self.frame):
            control.observe(lambda _: self._show_middle(), "value")
        sliders = (*self.turns.values(), *self.shifts.values())
        for control in (*sliders, self.slice, self.side):
            control.observe(lambda _: self._draw(), "value")
        middle = ipywidgets.Layout(align_items="center")
        columns = [
            ipywidgets.VBox([self.bone, self.frame, self.slice]),
            ipywidgets.VBox(list(self.turns.values())),
            ipywidgets.VBox(list(self.shifts.values())),
        ]
        return [
            ipywidgets.HBox(list(self.panels.values())),
            self.similarity,
            ipywidgets.HBox(columns),
            ipywidgets.HBox([self.runner, self.resetter, self.side], layout=middle),
            self.table,
            self.message,
        ]

    def _motion(self) -> tuple[list[float], list[float]]:
        """Return turns in degrees and shifts in mm."""
        turn = [slider.value for slider in self.turns.values()]
        return turn, [slider.value for slider in self.shifts.values()]

    def _move(self, controls: Mapping[Any, Any]) -> None:
        """Set several controls, and draw once."""
        self._quiet = True
        try:
            for control, value in controls.items():
                control.value = value
        finally:
            self._quiet = False
        self._draw()

    # --- showing ---

    def _show_middle(self) -> None:
        """Choose the slice through the middle of the bone and its surroundings, and draw."""
        mask = self._scene.carried(self.bone.value, self.frame.value, self.pose)
        image = slice_of(mask, "sagittal", 0)
        self._box = slice(0, image.image.shape[0]), slice(0, image.image.shape[1])
        there = bool(mask.data.any())
        if there:
            self._box = box_around(mask, image)
        self._move({self.slice: middle_slice(mask.data)} if there else {})

    def _draw(self) -> None:
        if self._quiet:
            return
        bone, frame = self.bone.value, self.frame.value
        start = self.shown()
        layers, carried = [Layer(start.bone.image, START_COLOUR)], start.carried
        run = next((run for run in self.runs[::-1] if (run.bone, run.frame) == (bone, frame)), None)
        if run is not None:
            end = self.shown(run.pose)
            layers.append(Layer(end.bone.image, colours_of([bone])[bone]))
            carried = end.carried if self.side.value == "end" else carried
        self.panels["frame"].draw(start.frame, self._limits[0], layers)
        of_carried = layers[0] if carried is start.carried else layers[-1]
        self.panels["static scan, moved"].draw(carried, self._limits[1], [of_carried])
        self._tell(self._similarity(), run)
        self.message.say("" if start.bone.image.any() else "The bone is not in this slice.")

    def _similarity(self) -> float:
        """Return the correlation at the sliders' pose, which no slice and no run changes."""
        place = self.bone.value, self.frame.value, self.pose
        seen = place[0], place[1], place[2].tobytes()
        if self._similar is None or self._similar[0] != seen:
            self._similar = seen, self._scene.agreement(*place).correlation
        return self._similar[1]

    def _tell(self, correlation: float, run: Run | None) -> None:
        text = f"correlation where the sliders put it: <b>{correlation:.3f}</b>"
        if not np.isfinite(correlation):
            text = "where the sliders put it, the bone is not in the field of view"
        if run is not None:
            text += f"; where the last run ended: <b>{run.after:.3f}</b>"
        self.similarity.value = text

    def _table(self) -> str:
        """Return the runs as HTML, the last one on top."""
        rows = [("bone", "frame", "start off by", "correlation", "error", "")]
        for run, start in zip(self.runs[::-1], self._starts[::-1], strict=True):
            error = f"{run.error_mm:.2f} mm" if np.isfinite(run.error_mm) else ""
            change = f"{run.before:.3f} → {run.after:.3f}"
            failed = f"failed: {run.reason}" if run.reason else ""
            rows.append((run.bone, str(run.frame), start, change, error, failed))
        cells = ("".join(f'<td style="padding-right: 18px">{html.escape(text)}</td>'
                         for text in row) for row in rows)  # fmt: skip
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _slider(text: str, most: float, step: float) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        0.0,
        min=-most,
        max=most,
        step=step,
        description=text,
        layout=ipywidgets.Layout(width="290px"),
        style={"description_width": "90px"},
        readout_format=".1f",
    )
