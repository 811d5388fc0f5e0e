"""The course's own engine: all frames of a region at once, from coarse to fine, from many starts.

Each region (a bone, or the whole foot) is cut out of the static scan and fitted to all frames as
one batch. Starts are turned about the left-right axis through the region's centre, since the
ankle is nearly a hinge; at the coarsest level they compete, and the best one is refined. Where
too little is explained afterwards, the fit is tried again from a wider grid of starts, and from
the poses of the nearest frames that went well. Each fit is a Levenberg-Marquardt search for a
rigid motion.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ankle_lib.registration.engines import Settings
from ankle_lib.registration.pyramid import FixedFrames, Level, fixed_frames, moving_region
from ankle_lib.registration.regions import Fits, Region, cut_region
from ankle_lib.registration.similarity import Fit, Options, evaluate, select_points
from ankle_lib.volume import Volume

LEFT_RIGHT = (1.0, 0.0, 0.0)
SAMPLES_AT_ONCE = {"cpu": 3_000_000, "cuda": 60_000_000}
"""Points x samples across the slice in a batch, which bounds the memory (100 bytes each)."""

ROUNDS = ((3, 8), (3, 2), (6, 1))
"""How many steps the starts make at the coarsest level, and how many of them then go on."""

RETRY_SURVIVORS = 3
"""So many go on to the second level when a fit is tried again."""

RESELECT = 4
"""Steps after which the voxels that take part are chosen anew, at the coarsest level; later, poses
hardly move any more."""

FIRST_DAMPING = 1e-2
SMALLEST_STEP_MM, LARGEST_STEP_MM = 0.02, 10.0
ARM_MM = 25.0
"""Typical distance of a bone's surface from its centre: turns steps in radians into mm."""


def fit(
    fixed: Volume,
    moving: Volume,
    weights: Mapping[str, NDArray[Any]],
    start: NDArray[np.float64],
    settings: Settings,
    device: str,
) -> Fits:
    """Fit every region to every frame; arguments as in `register.register`."""
    begun = time.process_time()
    frames = fixed_frames(fixed, device)
    pyramid = {r.fixed_mm: frames.coarser(r.fixed_mm) for r in settings.resolutions}
    shared = (time.process_time() - begun) / len(weights)
    answers = []
    for number, (name, soft) in enumerate(weights.items()):
        begun = time.process_time()
        inverse = torch.as_tensor(np.linalg.inv(start[:, number]), device=device)
        region = cut_region(moving, soft, name, frames.thickness_mm / 2 + 2.0)
        search = _Search(levels_of(pyramid, region, settings, device), settings)
        inverse, found = search.run(inverse)
        poses = torch.linalg.inv(inverse).cpu().numpy()
        scores = [x.cpu().double().numpy() for x in (found.correlation, found.cost, found.seen)]
        spent = (shared + time.process_time() - begun) / len(poses)
        answers.append((poses, *scores, np.full(len(poses), spent)))
    return Fits(*(np.stack(parts, axis=1) for parts in zip(*answers, strict=True)))


def levels_of(
    pyramid: Mapping[float, FixedFrames], region: Region, settings: Settings, device: str
) -> list[Level]:
    """Return the levels of a region, coarsest first; ``pyramid`` has the frames by spacing.

    All but the last are searched on a part of their voxels. Levels are left out at which the
    region covers too many; a region for which only the coarsest is left starts on a part of it.
    """
    carried = moving_region(region, device)
    volume = float(carried.weights.sum()) * abs(np.linalg.det(carried.affine[:3, :3]))
    levels: list[Level] = []
    for resolution in settings.resolutions:
        frames = pyramid[resolution.fixed_mm]
        n_points = int(volume / abs(np.linalg.det(frames.affine[:3, :3])))
        if levels and n_points > settings.most_points:
            break
        samples = resolution.slice_samples if settings.slice_model else 1
        coarser = carried.coarser(resolution.moving_mm)
        levels.append(Level(frames, coarser, samples, resolution.iterations, n_points))
    strides = [max(1, one.n_points // settings.search_points) for one in levels]
    searched = [
        replace(one, stride=stride, n_points=one.n_points // stride)
        for one, stride in zip(levels, strides, strict=True)
    ]
    return [*(searched[:-1] or searched), levels[-1]]


@dataclass(frozen=True)
class _Search:
    levels: Sequence[Level]
    settings: Settings

    def run(self, inverse: Tensor) -> tuple[Tensor, Fit]:
        """Find the pose of every frame; ``inverse`` (F, 4, 4) is where to start."""
        frame = torch.arange(len(inverse), device=inverse.device)
        near = self._starts(inverse, self.settings.start_angles_deg, (0.0,))
        found, best = self._compete(frame, near, 1)
        if not self.settings.retry:
            return found, best
        angles, shifts = self.settings.retry_angles_deg, self.settings.retry_shifts_mm
        # wide first: from neighbours alone, a wrong place that many found would spread
        for step in ("wide", "neighbours", "neighbours"):
            usual = _failed_cost(best.cost) if step == "wide" else _unusual_cost(best.cost)
            poor = best.cost > min(usual, self.settings.largest_cost)
            places = torch.nonzero(poor)[:, 0]
            if len(places) == 0 or (step == "neighbours" and bool(poor.all())):
                break
            if step == "wide":
                starts = self._starts(inverse[places], angles, shifts)
            else:
                starts = _neighbours(found, places, torch.nonzero(~poor)[:, 0])
            again, fits = self._compete(places, starts, RETRY_SURVIVORS)
            gained = fits.cost < best.cost[places]
            found[places[gained]] = again[gained]
            best = best.replaced(places[gained], fits.take(gained))
        return found, best

    def _starts(
        self, inverse: Tensor, angles_deg: Sequence[float], shifts_mm: Sequence[float]
    ) -> Tensor:
        """Return (S, F, 4, 4) starts: turned about left-right, shifted along A-P and S-I."""
        shifts = [(0.0, 0.0)]
        shifts += [pair for s in shifts_mm if s for pair in ((s, 0.0), (0.0, s))]
        rows = [
            [np.deg2rad(angle) * axis for axis in LEFT_RIGHT] + [0.0, *shift]
            for angle, shift in itertools.product(angles_deg, shifts)
        ]
        motions = torch.tensor(rows, dtype=torch.float64, device=inverse.device)
        return turn_about(self.levels[0].moving.centre, motions)[:, None] @ inverse

    def _compete(self, frame: Tensor, starts: Tensor, survivors: int) -> tuple[Tensor, Fit]:
        """Improve starts (S, F, 4, 4) until one is left for each frame.

        At the coarsest level the worst go after some steps; of the ``survivors`` the second level
        keeps one.
        """
        coarsest, *finer = self.levels
        rounds = [(coarsest, steps, max(kept, survivors)) for steps, kept in ROUNDS]
        rounds += [(level, level.iterations, 1) for level in finer]
        inverse, n_frames = starts, len(frame)
        for level, steps, kept in rounds:
            repeated = frame.repeat(len(inverse))
            flat, fits = self._minimise(level, repeated, inverse.flatten(0, 1), steps)
            order = fits.cost.reshape(-1, n_frames).argsort(0)[:kept]
            chosen = (order * n_frames + torch.arange(n_frames, device=frame.device)).flatten()
            inverse = flat[chosen].unflatten(0, (-1, n_frames))
        return inverse[0], fits.take(chosen[:n_frames])

    def _minimise(
        self, level: Level, frame: Tensor, inverse: Tensor, iterations: int
    ) -> tuple[Tensor, Fit]:
        """Run `minimise` in batches of bounded memory."""
        reselect = RESELECT if level is self.levels[0] else iterations
        options = Options(shading=self.settings.shading, weighted=self.settings.soft_weights)
        per_fit = level.n_points * level.slice_samples
        at_once = max(1, SAMPLES_AT_ONCE[frame.device.type] // max(1, per_fit))
        parts = [
            minimise(level, f, i, options, iterations=iterations, reselect=reselect)
            for f, i in zip(frame.split(at_once), inverse.split(at_once), strict=True)
        ]
        inverses, fits = zip(*parts, strict=True)
        return torch.cat(inverses), Fit(*map(torch.cat, zip(*fits, strict=True)))


def _neighbours(found: Tensor, places: Tensor, good: Tensor) -> Tensor:
    """Return (2, P, 4, 4): the poses of the nearest good frames before and after some places."""
    distance = (good[None] - places[:, None]).float()
    before = torch.where(distance < 0, -distance, torch.inf).argmin(1)
    after = torch.where(distance > 0, distance, torch.inf).argmin(1)
    return torch.stack([found[good[before]], found[good[after]]])


def _failed_cost(costs: Tensor) -> float:
    """Cost above which a fit has probably gone astray: far less is explained than in others."""
    median = float(costs.median())
    return median + 0.25 * (1 - median)


def _unusual_cost(costs: Tensor) -> float:
    """Cost that is out of line with the other frames."""
    median = costs.median()
    three_sd = 3 * 1.4826 * (costs - median).abs().median()
    return float(median + torch.minimum(three_sd + 0.02, 0.15 * (1 - median)))


def minimise(
    level: Level,
    frame: Tensor,
    inverse: Tensor,
    options: Options,
    *,
    iterations: int,
    reselect: int,
) -> tuple[Tensor, Fit]:
    """Improve poses by damped Gauss-Newton steps; each of the N fits has its own damping.

    Parameters
    ----------
    frame : (N,) int tensor
    inverse : (N, 4, 4) double tensor
        Frame world to static world, where to start.
    iterations : int
        Steps at most; a fit stops when its step is shorter than 0.02 mm on the bone.
    reselect : int
        Steps after which the voxels that take part are chosen anew.

    Returns
    -------
    inverse : (N, 4, 4) double tensor
    fit : Fit
    """
    inverse = inverse.clone()
    active = torch.arange(len(frame), device=frame.device)
    damping = torch.full((len(frame),), FIRST_DAMPING, device=frame.device, dtype=torch.float64)
    points = select_points(level, frame, inverse)
    best = current = evaluate(level, points, inverse, options)
    for step in range(iterations):
        if step > 0 and step % reselect == 0:
            points = select_points(level, frame[active], inverse[active])
            current = evaluate(level, points, inverse[active], options)
        motion = _step(current, damping[active])
        trial = turn_about(level.moving.centre, motion) @ inverse[active]
        tried = evaluate(level, points, trial, options)
        gained = tried.cost < current.cost
        inverse[active[gained]] = trial[gained]
        current = current.replaced(gained, tried.take(gained))
        factor = torch.where(gained, 0.2, 8.0).double()
        damping[active] = (damping[active] * factor).clamp(1e-7, 1e4)
        best = best.replaced(active, current)
        moving = (_length_mm(motion) > SMALLEST_STEP_MM) & (damping[active] < 1e3)
        if not bool(moving.any()):
            break
        if not bool(moving.all()):
            active, points, current = active[moving], points.take(moving), current.take(moving)
    return inverse, best


def turn_about(centre: object, motion: Tensor) -> Tensor:
    """Return (N, 4, 4) matrices that turn about ``centre`` and then shift.

    ``motion`` is (N, 6): a rotation vector in radians and a shift in mm.
    """
    middle = torch.as_tensor(centre, dtype=torch.float64, device=motion.device)
    vector, shift = motion[:, :3].double(), motion[:, 3:].double()
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    rotation = torch.linalg.matrix_exp(torch.stack(rows, -1).reshape(-1, 3, 3))
    result = torch.eye(4, dtype=torch.float64, device=motion.device).repeat(len(motion), 1, 1)
    result[:, :3, :3] = rotation
    result[:, :3, 3] = middle + shift - rotation @ middle
    return result


def _step(fit: Fit, damping: Tensor) -> Tensor:
    hessian = fit.hessian.double()
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    floor = diagonal.amax(-1, keepdim=True) * 1e-9 + 1e-12
    damped = hessian + torch.diag_embed(diagonal * damping[:, None] + floor)
    motion = torch.linalg.solve(damped, fit.descent.double())
    return motion * (LARGEST_STEP_MM / _length_mm(motion).clamp_min(LARGEST_STEP_MM))[:, None]


def _length_mm(motion: Tensor) -> Tensor:
    """Return how far (N,) motions (N, 6) move the surface of a bone, about."""
    return motion[:, :3].norm(dim=1) * ARM_MM + motion[:, 3:].norm(dim=1)
