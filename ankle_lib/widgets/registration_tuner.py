"""A registration by hand: where it starts, how alike the images are there, and where it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.figures.images import Slice, middle_slice, slice_of
from ankle_lib.files import AnkleError
from ankle_lib.geometry import Matrix, apply, compose, is_rigid, part_of, rigid, slice_direction
from ankle_lib.registration.engines import Settings, register
from ankle_lib.registration.moving import cut_to_mask, moved_mask
from ankle_lib.registration.regions import agreement, cut_region
from ankle_lib.registration.truth import bone_points, tre_mm
from ankle_lib.volume import Volume, resample, to_orientation
from ankle_lib.widgets.picture import Layer, Panel, brightness_limits, surroundings
from ankle_lib.widgets.view import (
    View,
    button,
    check_values,
    colours_of,
    empty_ones,
    masks_on,
    not_finite,
    oriented,
    slider,
)

SIDE_PX = 340
"""Pictures and controls are seen together at 1280 x 800."""
MOST_TURN_DEG, MOST_SHIFT_MM = 60.0, 20.0
START_COLOUR = "#F0E442"
TURNS = ("left-right", "front-back", "up-down")
"""Axes of turns: world x, y, z (RAS)."""
SHIFTS = ("right", "front", "up")
"""Directions of shifts, likewise."""
SLICE_SAMPLES = 5
"""Across a slice of the frame, for pictures."""

NEEDED = "a registration needs numbers"


@dataclass(frozen=True)
class Run:
    """One registration that was tried."""

    bone: str
    frame: int
    start: str
    """Turn and shift from the pose where the sliders are 0."""
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
        For each of these bones, as in `registration.engines.register`.
    start : (4, 4) or (F, 4, 4) array, optional
        Static world to frame world: what the sliders change; the two worlds agree by default.
    settings : Settings, optional
        Of the search.
    engine, device : str
        As in `registration.engines.register`.
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
        self._similar: tuple[Any, float] = ((), 0.0)
        self._options: dict[str, Any] = {"settings": settings, "engine": engine, "device": device}
        with self.refusals():
            _check(sequence, static, masks, weights)
            self._sequence = to_orientation(sequence)
            self._static = Volume(static.data.astype(np.float32), static.affine)
            self._weights = dict(weights)
            poses = np.eye(4) if start is None else np.asarray(start, dtype=np.float64)
            if poses.shape == (4, 4):
                poses = np.repeat(poses[None], sequence.n_frames, axis=0)
            self._start = _per_frame(poses, sequence.n_frames, "Start poses")
            for frame, pose in enumerate(self._start):
                if not is_rigid(pose):
                    raise AnkleError(f"The start pose of frame {frame} is no rotation and shift: "
                                     f"{pose.tolist()}.")  # fmt: skip
            self._truth = {bone: _per_frame(known, sequence.n_frames, f"True poses of {bone}")
                           for bone, known in (truth or {}).items()}  # fmt: skip
            thickness = slice_direction(sequence.affine).thickness_mm
            self._regions = {bone: cut_region(self._static, soft, bone, thickness)
                             for bone, soft in weights.items()}  # fmt: skip
            self._bones = {bone: cut_to_mask(masks[bone]) for bone in weights}
            self._build()
            self._show_middle()

    @property
    def pose(self) -> Matrix:
        """Where the sliders put the bone: (4, 4) static world to frame world."""
        return self._pose(*self._motion())

    def run(self) -> Run | None:
        """Register from the sliders' pose; None, and a sentence, if nothing can be compared."""
        with self.refusals():
            run = self._register(*self._motion())
            self.runs.append(run)
            rows = [
                {
                    "bone": run.bone,
                    "frame": run.frame,
                    "start off by": run.start,
                    "correlation": f"{run.before:.3f} → {run.after:.3f}",
                    "error": f"{run.error_mm:.2f} mm" if np.isfinite(run.error_mm) else "",
                    "": f"failed: {run.reason}" if run.reason else "",
                }
                for run in self.runs[::-1]
            ]
            self.table.value = pd.DataFrame(rows).to_html(index=False, border=0)
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
        if len(self.children) == 1:  # the message alone
            raise AnkleError("; ".join(self.message.sentences))
        turn, shift = self._motion()
        return [self._register([turn[0] + further, *turn[1:]], shift) for further in turns_deg]

    def shown(self, pose: Matrix | None = None) -> tuple[Slice, Slice]:
        """Return the frame and the static scan carried there, each with the bone's outline.

        For the sliders' pose or another (4, 4) one; the static scan is as thick as the slice.
        """
        pose = self.pose if pose is None else pose
        rows, columns = self._box
        part = columns, rows, slice(self.slice.value, self.slice.value + 1)
        shape, affine = part_of(part, self._image.affine)
        carried = resample(self._static, shape, affine, pose=pose, slice_samples=SLICE_SAMPLES)
        mask = {self.bone.value: moved_mask(self._bones[self.bone.value], pose, shape, affine)}
        there = Volume(self._image.data[part], affine)
        return slice_of(there, "sagittal", 0, mask), slice_of(carried, "sagittal", 0, mask)

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

    @property
    def _image(self) -> Volume:
        return self._sequence.frame(self.frame.value)

    def _build(self) -> None:
        wide = ipywidgets.Layout(width="270px")
        self.bone = ipywidgets.Dropdown(
            options=list(self._weights), description="bone", layout=wide
        )
        self.frame = slider("frame", 0, self._sequence.n_frames - 1)
        self.slice = slider("slice", 0, self._sequence.shape[2] - 1)
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
        self.side = ipywidgets.ToggleButtons(options=choices, style={"button_width": "120px"})
        self.runner = button("Register from here", self.run)
        self.resetter = button("Reset", self.reset)
        self.similarity, self.table = ipywidgets.HTML(), ipywidgets.HTML()
        self.panels = {name: Panel(name, SIDE_PX) for name in ("frame", "static scan, moved")}
        self._limits = [brightness_limits(image.data) for image in (self._sequence, self._static)]
        self.watch(self.bone, self.frame, work=self._show_middle)
        self.watch(*self._sliders, self.slice, self.side)
        columns = [[self.bone, self.frame, self.slice], self._sliders[:3], self._sliders[3:]]
        self.show_rows(
            ipywidgets.HBox(list(self.panels.values())),
            self.similarity,
            ipywidgets.HBox([ipywidgets.VBox(list(column)) for column in columns]),
            ipywidgets.HBox([self.runner, self.resetter, self.side]),
            self.table,
        )

    def _motion(self) -> tuple[list[float], list[float]]:
        values = [control.value for control in self._sliders]
        return values[:3], values[3:]

    def _pose(self, turn_deg: Sequence[float], shift_mm: Sequence[float]) -> Matrix:
        """Return the frame's start pose, then turned about the bone's centre and shifted."""
        begin = self._start[self.frame.value]
        centre = apply(begin, self._regions[self.bone.value].centre)
        return compose(rigid(turn_deg, shift_mm, centre), begin)

    def _correlation(self, pose: Matrix) -> float:
        return agreement(self._image, self._regions[self.bone.value], pose).correlation

    def _register(self, turn_deg: Sequence[float], shift_mm: Sequence[float]) -> Run:
        bone, frame, pose = self.bone.value, self.frame.value, self._pose(turn_deg, shift_mm)
        weights = {bone: self._weights[bone]}
        found = register(self._image, self._static, weights, start=pose, **self._options)
        end, error_mm = found.poses[0, 0], float("nan")
        if bone in self._truth:
            points = bone_points(self._bones[bone].data, self._bones[bone].affine)
            error_mm = tre_mm(end, self._truth[bone][frame], points)
        start = f"{np.linalg.norm(turn_deg):.0f}°, {np.linalg.norm(shift_mm):.1f} mm"
        after, reason = float(found.correlations[0, 0]), str(found.reasons[0, 0])
        return Run(bone, frame, start, self._correlation(pose), after, reason, error_mm, end)

    def _show_middle(self) -> None:
        """Choose the slice through the middle of the bone and its surroundings, and draw."""
        image, bone = self._image, self._bones[self.bone.value]
        mask = moved_mask(bone, self.pose, image.shape, image.affine)
        self._box = surroundings(mask)
        there = bool(mask.data.any())
        self.change({self.slice: middle_slice(mask.data)} if there else {})

    def _in_words(self, run: Run | None) -> str:
        """Say how alike the images are at the sliders' pose, which no slice and no run changes."""
        now = self.bone.value, self.frame.value, self.pose.tobytes()
        if self._similar[0] != now:
            self._similar = now, self._correlation(self.pose)
        correlation = self._similar[1]
        text = f"correlation where the sliders put it: <b>{correlation:.3f}</b>"
        if not np.isfinite(correlation):
            text = "where the sliders put it, the bone is not in the field of view"
        return text + (f"; where the last run ended: <b>{run.after:.3f}</b>" if run else "")


def _check(
    sequence: Volume,
    static: Volume,
    masks: Mapping[str, Volume],
    weights: Mapping[str, NDArray[Any]],
) -> None:
    """Refuse what is missing, empty, not finite, or on another grid."""
    if not (isinstance(weights, Mapping) and isinstance(masks, Mapping)):
        raise AnkleError("Weights and masks are given by the names of bones: {'talus': mask}.")
    if not weights or set(weights) - set(masks):
        raise AnkleError(
            f"Weights of {list(weights)} and masks of {list(masks)} were given: each bone needs "
            "both."
        )
    check_values(sequence, "sequence")
    turned = oriented(static, "static scan")
    given = {"sequence": sequence.data, "static scan": static.data}
    given |= {f"weights of {bone}": np.asarray(soft) for bone, soft in weights.items()}
    sentences = [not_finite(data, name, NEEDED) for name, data in given.items()]
    sentences += empty_ones(masks_on(turned, masks, sentences, NEEDED))
    for sentence in filter(None, sentences):
        raise AnkleError(sentence)


def _per_frame(poses: NDArray[Any], n_frames: int, name: str) -> NDArray[np.float64]:
    given = np.asarray(poses, dtype=np.float64)
    if given.shape != (n_frames, 4, 4):
        raise AnkleError(
            f"{name} have shape {given.shape}: one (4, 4) matrix for each of {n_frames} frames is "
            "wanted."
        )
    return given
