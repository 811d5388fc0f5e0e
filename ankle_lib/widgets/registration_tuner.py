"""A registration by hand: where it starts, how alike the images are there, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ankle_lib.figures.charts import light_grid, log_axis
from ankle_lib.figures.images import Slice, draw_slice, middle_slice, slice_of
from ankle_lib.figures.style import VERDICT_COLOURS, new_figure
from ankle_lib.files import AnkleError
from ankle_lib.geometry import Matrix, apply, compose, is_rigid, part_of, rigid, slice_direction
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.regions import Agreement, agreement, cut_region
from ankle_lib.registration.register import Settings, register
from ankle_lib.registration.truth import bone_points, tre_mm
from ankle_lib.volume import Volume, resample, to_orientation
from ankle_lib.widgets.inputs import check_values, image_3d, masks_on, not_finite
from ankle_lib.widgets.picture import Layer, Panel, brightness_limits, surroundings
from ankle_lib.widgets.view import View, colours_of, slider

SIDE_PX = 340
"""Pictures and controls are seen together at 1280 x 800."""
MOST_TURN_DEG, MOST_SHIFT_MM = 60.0, 20.0
START_COLOUR = "#F0E442"
TURNS = ("left-right", "front-back", "up-down")
"""Axes of turns: world x, y, z (RAS)."""
SHIFTS = ("right", "front", "up")
"""Directions of shifts, likewise."""
TURNS_TRIED_DEG = tuple(range(-60, 61, 10))
SLICE_SAMPLES = 5
"""Across a slice of the frame, for pictures."""

NEEDED = "a registration needs numbers"


@dataclass(frozen=True)
class Run:
    """One registration that was tried."""

    bone: str
    frame: int
    before: float
    """Correlation at the start."""
    after: float
    """Correlation at the end."""
    reason: str
    """Why it failed; empty if it did not."""
    error_mm: float
    """From the truth; NaN if that is unknown."""
    pose: Matrix
    """(4, 4) where it ended."""


class RegistrationTuner(View):
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

    Examples
    --------
    >>> tuner = RegistrationTuner(film, static, masks, weights)
    >>> tuner.turns["left-right"].value = 10.0
    >>> tuner.run()
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
        super().__init__()
        self.runs: list[Run] = []
        self._rows: list[dict[str, Any]] = []  # of the table, the last run on top
        self._similar: tuple[Any, float] = ((), 0.0)
        options = {"settings": settings, "engine": engine, "device": device}
        with self.refusals():
            self._scene = Scene(sequence, static, masks, weights, start, options, truth or {})
            self._build()
            self._show_middle()

    @property
    def pose(self) -> Matrix:
        """Where the sliders put the bone: (4, 4) static world to frame world."""
        return self._pose()

    def run(self) -> Run | None:
        """Register from the sliders' pose; None, and a sentence, if nothing can be compared."""
        turn, shift = self._motion()
        with self.refusals():
            run = self._scene.run(self.bone.value, self.frame.value, self.pose)
            self.runs.append(run)
            row = {
                "bone": run.bone,
                "frame": run.frame,
                "start off by": f"{np.linalg.norm(turn):.0f}°, {np.linalg.norm(shift):.1f} mm",
                "correlation": f"{run.before:.3f} → {run.after:.3f}",
                "error": f"{run.error_mm:.2f} mm" if np.isfinite(run.error_mm) else "",
                "": f"failed: {run.reason}" if run.reason else "",
            }
            self._rows.insert(0, row)
            self.table.value = pd.DataFrame(self._rows).to_html(index=False, border=0)
            self.change({self.side: "end"})
            return run
        return None

    def try_turns(self, turns_deg: Sequence[float]) -> list[Run]:
        """Register from the sliders' pose, turned further about left-right; nothing is listed.

        Raises
        ------
        AnkleError
            If there is nothing to register.
        """
        if not hasattr(self, "_scene"):
            raise AnkleError("; ".join(self.message.sentences))
        place = self.bone.value, self.frame.value
        return [self._scene.run(*place, self._pose(further)) for further in turns_deg]

    def shown(self, pose: Matrix | None = None) -> tuple[Slice, Slice]:
        """Return the frame and the static scan carried there, each with the bone's outline.

        For the sliders' pose or another (4, 4) one.
        """
        place = self.bone.value, self.frame.value, self.slice.value, self._box
        return self._scene.cut(*place, self.pose if pose is None else pose)

    def reset(self) -> None:
        """Put all sliders back to 0."""
        self.change(dict.fromkeys(self._sliders, 0.0) | {self.side: "start"})

    def draw(self) -> None:
        """Show frame and carried scan, the similarity, and where the last run here ended."""
        bone, place = self.bone.value, (self.bone.value, self.frame.value)
        frame, carried = self.shown()
        layers = [Layer(frame.outlines[bone], START_COLOUR)]
        of_carried = layers[0]
        run = next((run for run in self.runs[::-1] if (run.bone, run.frame) == place), None)
        if run is not None:
            end, carried_end = self.shown(run.pose)
            layers.append(Layer(end.outlines[bone], colours_of([bone])[bone]))
            if self.side.value == "end":
                carried, of_carried = carried_end, layers[-1]
        self.panels["frame"].draw(frame, self._limits[0], layers)
        self.panels["static scan, moved"].draw(carried, self._limits[1], [of_carried])
        self.similarity.value = self._in_words(run)
        there = frame.outlines[bone].any()
        self.message.say("" if there else "The bone is not in this slice.")

    def _build(self) -> None:
        scene = self._scene
        wide = ipywidgets.Layout(width="270px")
        self.bone = ipywidgets.Dropdown(
            options=list(scene.weights), description="bone", layout=wide
        )
        self.frame = slider("frame", 0, scene.sequence.n_frames - 1)
        self.slice = slider("slice", 0, scene.sequence.shape[2] - 1)
        look: dict[str, Any] = {
            "width": 290,
            "style": {"description_width": "90px"},
            "readout_format": ".1f",
        }
        turn, shift = MOST_TURN_DEG, MOST_SHIFT_MM
        self.turns = {name: slider(f"{name} °", -turn, turn, 0.0, step=1.0, **look)
                      for name in TURNS}  # fmt: skip
        self.shifts = {name: slider(f"{name} mm", -shift, shift, 0.0, step=0.5, **look)
                       for name in SHIFTS}  # fmt: skip
        self._sliders = (*self.turns.values(), *self.shifts.values())
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
        self.watch(*self._sliders, self.slice, self.side)
        columns = [
            ipywidgets.VBox([self.bone, self.frame, self.slice]),
            ipywidgets.VBox(list(self.turns.values())),
            ipywidgets.VBox(list(self.shifts.values())),
        ]
        self.show_rows(
            ipywidgets.HBox(list(self.panels.values())),
            self.similarity,
            ipywidgets.HBox(columns),
            ipywidgets.HBox([self.runner, self.resetter, self.side]),
            self.table,
        )

    def _motion(self) -> tuple[list[float], list[float]]:
        turns, shifts = ([control.value for control in controls.values()]
                         for controls in (self.turns, self.shifts))  # fmt: skip
        return turns, shifts

    def _pose(self, further_deg: float = 0.0) -> Matrix:
        turn, shift = self._motion()
        turn[0] += further_deg
        return self._scene.pose(self.bone.value, self.frame.value, turn, shift)

    def _show_middle(self) -> None:
        """Choose the slice through the middle of the bone and its surroundings, and draw."""
        mask = self._scene.carried(self.bone.value, self.frame.value, self.pose)
        self._box = surroundings(mask)
        there = bool(mask.data.any())
        self.change({self.slice: middle_slice(mask.data)} if there else {})

    def _in_words(self, run: Run | None) -> str:
        """Say how alike the images are at the sliders' pose, which no slice and no run changes."""
        place = self.bone.value, self.frame.value, self.pose
        now = (*place[:2], place[2].tobytes())
        if self._similar[0] != now:
            self._similar = now, self._scene.agreement(*place).correlation
        correlation = self._similar[1]
        text = f"correlation where the sliders put it: <b>{correlation:.3f}</b>"
        if not np.isfinite(correlation):
            text = "where the sliders put it, the bone is not in the field of view"
        return text + (f"; where the last run ended: <b>{run.after:.3f}</b>" if run else "")


def tuning_figure(tuner: RegistrationTuner, turns_deg: Sequence[float] = TURNS_TRIED_DEG) -> Figure:
    """Turn the start about the left-right axis, register from each, and show where that ends.

    Left the frame with the bone where the tuner starts (yellow) and where the best of these
    registrations ends; then the static scan, moved there. Right the correlation where each
    registration began and where it ended, and its error, if the truth is known.

    Parameters
    ----------
    tuner : RegistrationTuner
        Its bone, frame and slice are taken; it stays as it is.
    turns_deg : sequence of float
        On top of the tuner's sliders.

    Raises
    ------
    AnkleError
        If the tuner has nothing to register, with the sentence that it shows.
    """
    runs = tuner.try_turns(turns_deg)
    best = max(runs, key=lambda run: np.nan_to_num(run.after, nan=-1.0))
    known = any(np.isfinite(run.error_mm) for run in runs)
    colour = colours_of([best.bone])[best.bone]
    figure = new_figure(12.5, 4.2)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.3, 1))[0]
    (start, _), (end, carried) = tuner.shown(), tuner.shown(best.pose)
    outlines = {"start": start.outlines[best.bone], best.bone: end.outlines[best.bone]}
    shown = Slice(start.image, start.size_mm, start.letters, outlines)
    pictures = left.subplots(1, 2)
    for axes, image, title in zip(
        pictures,
        (shown, carried),
        (f"{best.bone}, frame {best.frame}", "static scan, best end"),
        strict=True,
    ):
        draw_slice(axes, image, colours={"start": START_COLOUR, best.bone: colour})
        axes.set_title(title, fontsize=11)
    panels = right.subplots(2 if known else 1, 1, sharex=True, squeeze=False)[:, 0]
    panels[0].plot(turns_deg, [run.before for run in runs], color="#666666", label="at the start")
    failed = np.array([bool(run.reason) for run in runs])
    turns = np.asarray(turns_deg, dtype=float)
    for axes, name in zip(panels, ("after", "error_mm"), strict=False):
        values = np.array([getattr(run, name) for run in runs])
        axes.plot(turns[~failed], values[~failed], "o", color=colour, label="at the end")
        axes.plot(turns[failed], values[failed], "x", color=VERDICT_COLOURS["rejected"], mew=2,
                  label="at the end, failed")  # fmt: skip
        light_grid(axes, "y")
    panels[0].set_ylabel("correlation")
    if known:
        log_axis(panels[1], "y")
        panels[1].set_ylabel("error (mm)")
    panels[-1].set_xlabel("start, turned about left-right (°)")
    right.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                 frameon=False)  # fmt: skip
    return figure


class Scene:
    """Frames, static scan and bones; the parameters are those of `RegistrationTuner`.

    Raises
    ------
    AnkleError
        If something is missing, empty, not finite, or on another grid, or a pose is not rigid.
    """

    def __init__(
        self,
        sequence: Volume,
        static: Volume,
        masks: Mapping[str, Volume],
        weights: Mapping[str, NDArray[Any]],
        start: NDArray[np.float64] | None,
        options: Mapping[str, Any],
        truth: Mapping[str, NDArray[np.float64]],
    ) -> None:
        if not weights or set(weights) - set(masks):
            raise AnkleError(
                f"Weights of {list(weights)} and masks of {list(masks)} were given: each bone "
                "needs both."
            )
        given = {"sequence": sequence, "static scan": static}
        given |= {f"mask of {bone}": mask for bone, mask in masks.items()}
        for name, volume in given.items():
            check_values(volume, name)
        turned = image_3d(static, "static scan")
        given |= {f"weights of {bone}": Volume(np.asarray(soft), static.affine)
                  for bone, soft in weights.items()}  # fmt: skip
        sentences = [not_finite(volume, name, NEEDED) for name, volume in given.items()]
        for sentence in (*sentences, *masks_on(turned, masks)[1]):
            if sentence:
                raise AnkleError(sentence)
        self.sequence = to_orientation(sequence)
        self.static = Volume(static.data.astype(np.float32), static.affine)
        self.weights = dict(weights)
        self._options = dict(options)
        self._truth = {bone: _per_frame(known, sequence.n_frames, f"True poses of {bone}")
                       for bone, known in truth.items()}  # fmt: skip
        thickness = slice_direction(sequence.affine).thickness_mm
        self._regions = {bone: cut_region(self.static, soft, bone, thickness)
                         for bone, soft in weights.items()}  # fmt: skip
        self._bones = {bone: cut_to_mask(masks[bone]) for bone in weights}
        self._start = _start(start, sequence.n_frames)

    def pose(
        self, bone: str, frame: int, turn_deg: Sequence[float], shift_mm: Sequence[float]
    ) -> Matrix:
        """Return the start pose of a frame, then turned about the bone's centre and shifted."""
        begin = self._start[frame]
        centre = apply(begin, self._regions[bone].centre)
        return compose(rigid(turn_deg, shift_mm, centre), begin)

    def agreement(self, bone: str, frame: int, pose: Matrix) -> Agreement:
        """Compare a frame with the carried static scan around a bone."""
        return agreement(self.sequence.frame(frame), self._regions[bone], pose)

    def run(self, bone: str, frame: int, pose: Matrix) -> Run:
        """Register one bone to one frame from a pose; raises what `registration.register` does."""
        image = self.sequence.frame(frame)
        found = register(
            image, self.static, {bone: self.weights[bone]}, start=pose, **self._options
        )
        end, error_mm = found.poses[0, 0], float("nan")
        if bone in self._truth:
            points = bone_points(self._bones[bone].data, self._bones[bone].affine)
            error_mm = tre_mm(end, self._truth[bone][frame], points)
        before = self.agreement(bone, frame, pose).correlation
        after, reason = float(found.correlations[0, 0]), str(found.reasons[0, 0])
        return Run(bone, frame, before, after, reason, error_mm, end)

    def carried(self, bone: str, frame: int, pose: Matrix) -> Volume:
        """Return a bone's mask carried onto the whole grid of a frame; it may be empty there."""
        image = self.sequence.frame(frame)
        return moved_mask(self._bones[bone], pose, image.shape, image.affine)

    def cut(
        self, bone: str, frame: int, index: int, box: tuple[slice, slice], pose: Matrix
    ) -> tuple[Slice, Slice]:
        """Return rows and columns of a sagittal slice of a frame, and of what a pose carries there.

        Both come with the outline of the carried bone; the static scan is as thick as the slice.
        """
        image = self.sequence.frame(frame)
        rows, columns = box
        part = columns, rows, slice(index, index + 1)
        shape, affine = part_of(part, image.affine)
        carried = resample(self.static, shape, affine, pose=pose, slice_samples=SLICE_SAMPLES)
        mask = {bone: moved_mask(self._bones[bone], pose, shape, affine)}
        there = Volume(image.data[part], affine)
        return slice_of(there, "sagittal", 0, mask), slice_of(carried, "sagittal", 0, mask)


def _start(start: NDArray[np.float64] | None, n_frames: int) -> NDArray[np.float64]:
    given = np.eye(4) if start is None else np.asarray(start, dtype=np.float64)
    if given.shape == (4, 4):
        given = np.broadcast_to(given, (n_frames, 4, 4))
    poses = _per_frame(given, n_frames, "Start poses")
    for frame, pose in enumerate(poses):
        if not is_rigid(pose):
            raise AnkleError(
                f"The start pose of frame {frame} is no rotation and shift: {pose.tolist()}."
            )
    return poses


def _per_frame(poses: NDArray[Any], n_frames: int, name: str) -> NDArray[np.float64]:
    given = np.asarray(poses, dtype=np.float64)
    if given.shape != (n_frames, 4, 4):
        raise AnkleError(
            f"{name} have shape {given.shape}: one (4, 4) matrix for each of {n_frames} frames is "
            "wanted."
        )
    return given
