"""The course's own engine: all frames of a region at once, from coarse to fine, from many starts.

Each region (a bone, or the whole foot) is cut out of the static scan and fitted to all frames as
one batch. Starts are turned about the left-right axis through the region's centre, since the
ankle is nearly a hinge; at the coarsest level they compete, and the best one is refined. Where
too little is explained afterwards, the fit is tried again from a wider grid of starts, and from
the poses of the nearest frames that went well. Each fit is a Levenberg-Marquardt search for a
rigid motion.

Where the frames may have any contrast, the body is found first, by its shape alone. It gives one
more start, and curves that bring the static scan to the frames' contrast: of two, the one whose
fits explain more. With it regions are searched as usual, and again from the poses of other regions
in the same frame; at last their layers make the poses fine.
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
from torch.nn import functional

from ankle_lib.registration.engines import Settings
from ankle_lib.registration.pyramid import (
    FixedFrames,
    Level,
    MovingRegion,
    body_and_insides,
    fixed_frames,
    moving_region,
)
from ankle_lib.registration.regions import Fits, Region, cut_region
from ankle_lib.registration.similarity import Fit, Options, evaluate, grey_curve, select_points
from ankle_lib.volume import Volume

LEFT_RIGHT = (1.0, 0.0, 0.0)
SAMPLES_AT_ONCE = {"cpu": 3_000_000, "cuda": 60_000_000}
"""Points x samples across the slice in a batch, which bounds the memory (100 bytes each)."""

ROUNDS = ((3, 8), (3, 2), (6, 1))
"""How many steps the starts make at the coarsest level, and how many of them then go on."""

RETRY_COST = 0.5
"""In any contrast, a fit that leaves more unexplained is tried again in any case."""
RETRY_SURVIVORS = 3
"""So many go on to the second level when a fit is tried again."""

RESELECT = 4
"""Steps after which the voxels that take part are chosen anew, at the coarsest level (later, poses
hardly move any more) and where there are layers (whose weights do not move with the pose)."""

NEIGHBOUR_ANGLES_DEG = (-20.0, 0.0, 20.0)
"""Turns from the pose of another bone in the same frame."""

ALTERNATIVE_MM = 8.0
"""So far away a bone certainly is not, if it is where it was found."""

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
    """Fit every region to every frame; arguments as in `engines.register`."""
    begun = time.process_time()
    frames = fixed_frames(fixed, device)
    pyramid = {r.fixed_mm: frames.coarser(r.fixed_mm) for r in settings.resolutions}
    inverse = torch.as_tensor(np.linalg.inv(start), device=device)
    body, scans = None, [moving]
    if settings.any_contrast:
        body, scans = _in_contrast_of(pyramid, moving, inverse[:, 0], settings, device)
    margin = frames.thickness_mm / 2 + 2.0
    tries = []
    for scan in scans:
        regions = [cut_region(scan, soft, name, margin) for name, soft in weights.items()]
        levels = [levels_of(pyramid, region, settings, device) for region in regions]
        searches = [Search(one, settings) for one in levels]
        tries.append((searches, *_first_tries(searches, inverse, body)))
    searches, found, fits = min(tries, key=lambda one: sum(float(f.cost.sum()) for f in one[2]))
    if settings.retry:
        _try_again(searches, inverse, body, found, fits)
    answers = []
    for number, search in enumerate(searches):
        poses, fit = search.polish(found[number], fits[number])
        told = fit.correlation, fit.cost, fit.seen, search.above_alternatives(poses)
        scores = [x.cpu().double().numpy() for x in told]
        answers.append((torch.linalg.inv(poses).cpu().numpy(), *scores))
    parts = (np.stack(part, axis=1) for part in zip(*answers, strict=True))
    matrices, correlations, costs, seen, above = parts
    seconds = np.full(costs.shape, (time.process_time() - begun) / costs.size)
    return Fits(matrices, correlations, costs, seen, above, seconds)


def _in_contrast_of(
    pyramid: Mapping[float, FixedFrames],
    moving: Volume,
    inverse: Tensor,
    settings: Settings,
    device: str,
) -> tuple[Tensor, list[Volume]]:
    """Find the body in all frames by its shape, and bring the static scan to their contrast.

    A body is seen against air in any contrast. Where it lies on the frames, each grey value of the
    static scan meets some of theirs, which gives one curve from the former to the latter. Dark at
    the skin is half air, dark inside may be cortex: so there are two curves, with and without skin.

    Returns the inverse poses of the body (F, 4, 4), and the static scan with each curve applied.
    """
    coarsest = settings.resolutions[0]
    shape, insides = body_and_insides(moving, coarsest.moving_mm[0], device)
    frames = pyramid[coarsest.fixed_mm]
    n_points = _n_points(frames, shape)
    stride = max(1, n_points // settings.search_points)
    samples = coarsest.slice_samples
    level = Level(frames, shape, samples, coarsest.iterations, n_points // stride, stride)
    search = Search([level], settings)
    frame = torch.arange(len(inverse), device=device)
    starts = search.starts(inverse, settings.start_angles_deg)
    body, _ = search.compete(frame, starts, 1)
    scans = []
    for inside in insides:
        level = replace(level, moving=inside)
        points = select_points(level, frame, body, search.options(level))
        values = np.interp(moving.data, *grey_curve(level, points, body)).astype(np.float32)
        scans.append(Volume(values, moving.affine))
    return body, scans


def levels_of(
    pyramid: Mapping[float, FixedFrames], region: Region, settings: Settings, device: str
) -> list[Level]:
    """Return the levels of a region, coarsest first; ``pyramid`` has the frames by spacing.

    All but the last are searched on a part of their voxels. Levels are left out at which the
    region covers too many; a region for which only the coarsest is left starts on a part of it.
    """
    carried = moving_region(region, device)
    levels: list[Level] = []
    for resolution in settings.resolutions:
        frames = pyramid[resolution.fixed_mm]
        moving = carried.coarser(resolution.moving_mm)
        n_points = _n_points(frames, moving)
        if levels and n_points > settings.most_points:
            break
        samples = resolution.slice_samples if settings.slice_model else 1
        levels.append(Level(frames, moving, samples, resolution.iterations, n_points))
    strides = [max(1, one.n_points // settings.search_points) for one in levels]
    searched = [
        replace(one, stride=stride, n_points=one.n_points // stride)
        for one, stride in zip(levels, strides, strict=True)
    ]
    return [*(searched[:-1] or searched), levels[-1]]


def _n_points(frames: FixedFrames, moving: MovingRegion) -> int:
    volumes = [abs(np.linalg.det(one.affine[:3, :3])) for one in (frames, moving)]
    return int(float(moving.weights.sum()) * volumes[1] / volumes[0])


def _first_tries(
    searches: Sequence[Search], inverse: Tensor, body: Tensor | None
) -> tuple[list[Tensor], list[Fit]]:
    """Find the poses of R regions in all frames; ``inverse`` (F, R, 4, 4) is where to start.

    Returns (F, 4, 4) inverse poses and fits for each region.
    """
    frame = torch.arange(len(inverse), device=inverse.device)
    found: list[Tensor] = []
    best: list[Fit] = []
    for region, search in enumerate(searches):
        starts = search.starts(inverse[:, region], search.settings.start_angles_deg)
        if body is not None:
            starts = torch.cat([starts, body[None]])
        poses, fits = search.compete(frame, starts, 1)
        found.append(poses)
        best.append(fits)
    return found, best


def _try_again(
    searches: Sequence[Search],
    inverse: Tensor,
    body: Tensor | None,
    found: list[Tensor],
    best: list[Fit],
) -> None:
    """Search again where too little is explained; replaces what is improved."""
    settings = searches[0].settings
    # wide first: from neighbours alone, a wrong place that many found would spread
    for step in ("wide", "neighbours", "neighbours"):
        for region, search in enumerate(searches):
            costs = best[region].cost
            usual = _failed_cost(costs) if step == "wide" else _unusual_cost(costs)
            poor = costs > min(usual, RETRY_COST if body is not None else settings.largest_cost)
            places, good = torch.nonzero(poor)[:, 0], torch.nonzero(~poor)[:, 0]
            if step == "wide":
                starts = search.wide_starts(inverse[places, region])
                if body is not None:
                    starts = torch.cat([starts, search.wide_starts(body[places])])
            else:
                others = [] if body is None else found[:region] + found[region + 1 :]
                near = [search.starts(one[places], NEIGHBOUR_ANGLES_DEG) for one in others]
                near += [_neighbours(found[region], places, good)] if len(good) else []
                starts = torch.cat(near) if near else inverse[:0, :0]
            if starts.shape[0] * len(places) == 0:
                continue
            again, fits = search.compete(places, starts, RETRY_SURVIVORS)
            gained = fits.cost < costs[places]
            found[region][places[gained]] = again[gained]
            best[region] = best[region].replaced(places[gained], fits.take(gained))


@dataclass(frozen=True)
class Search:
    """The search for one region in all frames.

    Where any contrast may come, all levels but the last find the region in the translated scan,
    and the last one (`polish`) adds its layers.
    """

    levels: Sequence[Level]
    settings: Settings

    def starts(
        self, inverse: Tensor, angles_deg: Sequence[float], shifts_mm: Sequence[float] = ()
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

    def wide_starts(self, inverse: Tensor) -> Tensor:
        """Return (S, F, 4, 4) starts of a second try."""
        return self.starts(inverse, self.settings.retry_angles_deg, self.settings.retry_shifts_mm)

    def compete(self, frame: Tensor, starts: Tensor, survivors: int) -> tuple[Tensor, Fit]:
        """Improve starts (S, F, 4, 4) until one is left for each frame.

        At the coarsest level the worst go after some steps; of the ``survivors`` the second level
        keeps one. Its cost is the mean of both explanations where any contrast may come: a wrong
        place can satisfy one of them, but hardly both.
        """
        coarsest, *finer = self.levels
        if self.settings.any_contrast:
            finer = finer[:-1]
        rounds = [(coarsest, steps, max(kept, survivors)) for steps, kept in ROUNDS]
        rounds += [(level, level.iterations, 1) for level in finer]
        inverse, n_frames = starts, len(frame)
        for level, steps, kept in rounds:
            repeated = frame.repeat(len(inverse))
            flat, fits = self._minimise(level, repeated, inverse.flatten(0, 1), steps)
            if self.settings.any_contrast and level is not coarsest:
                layered = self._evaluate(_layered(level), repeated, flat)
                fits = fits._replace(cost=(fits.cost + layered.cost) / 2)
            order = fits.cost.reshape(-1, n_frames).argsort(0)[:kept]
            chosen = (order * n_frames + torch.arange(n_frames, device=frame.device)).flatten()
            inverse = flat[chosen].unflatten(0, (-1, n_frames))
        return inverse[0], fits.take(chosen[:n_frames])

    def polish(self, inverse: Tensor, fits: Fit) -> tuple[Tensor, Fit]:
        """Improve poses (F, 4, 4) with layers at the last level, where any contrast may come.

        The cost is then that of the layers; correlation and part seen are those of the region.
        """
        if not self.settings.any_contrast:
            return inverse, fits
        frame, last = torch.arange(len(inverse), device=inverse.device), self.levels[-1]
        found, layered = self._minimise(_layered(last), frame, inverse, last.iterations)
        plain = self._evaluate(last, frame, found)
        return found, layered._replace(correlation=plain.correlation, seen=plain.seen)

    def above_alternatives(self, inverse: Tensor) -> Tensor:
        """Return (F,) by how much the correlation at the poses beats that of the region elsewhere.

        Elsewhere is shifted by 8 mm to and fro along each axis. Counted is the third best of the
        six, since a shaft may be slid along its axis, both ways.
        """
        frame = torch.arange(len(inverse), device=inverse.device)
        level = self.levels[max(0, len(self.levels) - 2)]
        shifts = ALTERNATIVE_MM * torch.cat([torch.eye(3), -torch.eye(3)])
        motions = functional.pad(shifts, (3, 0)).to(inverse)
        away = turn_about(level.moving.centre, motions)[:, None] @ inverse
        there = self._evaluate(level, frame.repeat(len(away)), away.flatten(0, 1)).correlation
        here = self._evaluate(level, frame, inverse).correlation
        return here - there.nan_to_num(-1.0).unflatten(0, (-1, len(frame))).topk(3, 0).values[-1]

    def options(self, level: Level) -> Options:
        """Return what the similarity allows for at a level."""
        return Options(
            shading=self.settings.shading,
            weighted=self.settings.soft_weights,
            positive=self.settings.any_contrast and level.moving.depth is None,
        )

    def _evaluate(self, level: Level, frame: Tensor, inverse: Tensor) -> Fit:
        options = self.options(level)
        return evaluate(level, select_points(level, frame, inverse, options), inverse, options)

    def _minimise(
        self, level: Level, frame: Tensor, inverse: Tensor, iterations: int
    ) -> tuple[Tensor, Fit]:
        """Run `minimise` in batches of bounded memory."""
        fixed = level is not self.levels[0] and level.moving.depth is None
        reselect = iterations if fixed else RESELECT
        options = self.options(level)
        per_fit = level.n_points * level.slice_samples
        at_once = max(1, SAMPLES_AT_ONCE[frame.device.type] // max(1, per_fit))
        parts = [
            minimise(level, f, i, options, iterations=iterations, reselect=reselect)
            for f, i in zip(frame.split(at_once), inverse.split(at_once), strict=True)
        ]
        inverses, fits = zip(*parts, strict=True)
        return torch.cat(inverses), Fit(*map(torch.cat, zip(*fits, strict=True)))


def _layered(level: Level) -> Level:
    moving = level.moving.layered()
    return replace(level, moving=moving, n_points=_n_points(level.fixed, moving) // level.stride)


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
    points = select_points(level, frame, inverse, options)
    best = current = evaluate(level, points, inverse, options)
    for step in range(iterations):
        if step > 0 and step % reselect == 0:
            points = select_points(level, frame[active], inverse[active], options)
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
