"""The course's own engine: all frames of a region at once, from coarse to fine, from many starts.

Each region (a bone, or the whole foot) is cut out of the static scan and fitted to all frames as
one batch. Starts are turned about the left-right axis through the region's centre, since the
ankle is nearly a hinge; at the coarsest level they compete, and the best one is refined. Where
too little is explained afterwards, the fit is tried again from a wider grid of starts, and from
the poses of the nearest frames that went well. Each fit is a Levenberg-Marquardt search for a
rigid motion.

Where the frames may have any contrast, the body is found first, by its shape alone. Near there,
regions are searched by their layers, each with a look of its own. From the fits that beat the
region elsewhere by most, one look is learnt that holds for all regions and frames, and with it
all are searched as usual; where that is not enough, again, from what was found and with the look
that it teaches. At last the layers make the poses fine.
"""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ankle_lib.geometry import voxel_mm3, voxel_size
from ankle_lib.parallel import in_batches
from ankle_lib.registration.engines import Resolution, Settings
from ankle_lib.registration.pyramid import (
    FixedFrames,
    Level,
    MovingRegion,
    body_shape,
    fixed_frames,
    moving_region,
)
from ankle_lib.registration.regions import Fits, cut_region
from ankle_lib.registration.similarity import (
    Fit,
    Look,
    Options,
    evaluate,
    learn_look,
    select_points,
)
from ankle_lib.volume import Volume

LEFT_RIGHT = (1.0, 0.0, 0.0)
SAMPLES_AT_ONCE = {"cpu": 3_000_000, "cuda": 60_000_000}
"""Points x samples across the slice in a batch, which bounds the memory (100 bytes each)."""

ROUNDS = ((3, 8), (3, 2), (6, 1))
"""How many steps the starts make at the coarsest level, and how many of them then go on."""

RETRY_SURVIVORS = 3
"""So many go on to the second level when a fit is tried again, or may have any contrast."""

NEAR_ANGLES_DEG = (-15.0, 0.0, 15.0)
"""Turns from the pose of the body."""
TRUSTED_SHARE, FEWEST_TRUSTED = 1 / 3, 3
"""Of all fits, those from which the first look is learnt."""
LOOKS = 3
"""So many looks are learnt at most, one after the other."""

RESELECT = 4
"""Steps after which the voxels that take part are chosen anew, at the coarsest level (later, poses
hardly move any more) and where there are layers (whose weights do not move with the pose)."""

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
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    frames = fixed_frames(fixed, device)
    spacings = {one.fixed_mm for one in (*settings.resolutions, settings.finest)}
    pyramid = {spacing: frames.coarser(spacing) for spacing in spacings}
    inverse = torch.as_tensor(np.linalg.inv(start), device=device)
    margin = voxel_size(frames.affine)[2] / 2 + 2.0
    regions = [cut_region(moving, soft, name, margin) for name, soft in weights.items()]
    carried = [moving_region(region, device) for region in regions]
    if settings.any_contrast:
        body = _find_body(pyramid, moving, inverse[:, 0], settings, device)
        searches, found = _by_looks(pyramid, carried, inverse, body, settings)
    else:
        searches = [_search(pyramid, one.standardised(), settings) for one in carried]
        found = _by_gain(searches, inverse)
    answers, frame = [], torch.arange(len(inverse), device=device)
    for search, poses in zip(searches, found, strict=True):
        poses, fit = search.polish(poses)
        told = fit.correlation, fit.cost, fit.seen, search.lead(frame, poses)
        scores = [x.cpu().double().numpy() for x in told]
        answers.append((torch.linalg.inv(poses).cpu().numpy(), *scores))
    parts = (np.stack(part, axis=1) for part in zip(*answers, strict=True))
    matrices, correlations, costs, seen, above = parts
    seconds = np.full(costs.shape, (clock() - begun) / costs.size)
    return Fits(matrices, correlations, costs, seen, above, seconds)


def _search(
    pyramid: Mapping[float, FixedFrames],
    moving: MovingRegion,
    settings: Settings,
    finest: Level | None = None,
    *,
    layers: bool = False,
) -> "Search":
    """Return the search for a region.

    All levels but the last one of all are searched on a part of their voxels. A large region has
    the coarsest level alone, on a part of its voxels and then on all.

    Parameters
    ----------
    pyramid : mapping of spacing to FixedFrames
    moving : MovingRegion
    settings : Settings
    finest : Level, optional
        Instead of the last one, see `Search.polish`.
    layers : bool
        Whether levels explain frames by layers.
    """
    resolutions = settings.resolutions
    if moving.volume_mm3 / 1000 > settings.largest_cm3:
        resolutions = resolutions[:1] * 2
    elif finest is not None:
        resolutions = resolutions[:-1]
    levels = []
    for number, one in enumerate(resolutions, 1):
        coarser = moving.coarser(one.moving_mm)
        is_last = finest is None and number == len(resolutions)
        most = math.inf if is_last else settings.search_points
        shown = coarser.layered if layers else coarser
        levels.append(_level(pyramid, shown, one, settings, most))
    return Search(levels, finest, settings)


def _level(
    pyramid: Mapping[float, FixedFrames],
    moving: MovingRegion,
    one: Resolution,
    settings: Settings,
    most_points: float,
) -> Level:
    frames = pyramid[one.fixed_mm]
    n_points = int(moving.volume_mm3 / voxel_mm3(frames.affine))
    stride = max(1, round(n_points / most_points))
    samples = one.slice_samples if settings.slice_model else 1
    return Level(frames, moving, samples, one.iterations, n_points // stride, stride)


def _by_gain(searches: Sequence["Search"], inverse: Tensor) -> list[Tensor]:
    """Find R regions in all frames; ``inverse`` (F, R, 4, 4) is where to start.

    Returns the inverse poses (F, 4, 4) of each region.
    """
    frame = torch.arange(len(inverse), device=inverse.device)
    found, merits = [], []
    for number, search in enumerate(searches):
        starts = search.starts(inverse[:, number], search.settings.start_angles_deg)
        poses, merit = search.compete(frame, starts, 1)
        found.append(poses)
        merits.append(merit)
    # wide first: from neighbours alone, a wrong place that many found would spread
    for step in ("wide", "neighbours", "neighbours") if searches[0].settings.retry else ():
        for region, search in enumerate(searches):
            costs = -merits[region]
            usual = _failed_cost(costs) if step == "wide" else _unusual_cost(costs)
            poor = costs > min(usual, search.settings.largest_cost)
            places, good = torch.nonzero(poor)[:, 0], torch.nonzero(~poor)[:, 0]
            if step == "wide":
                starts = search.wide_starts(inverse[places, region])
            elif len(good):
                starts = _neighbours(found[region], places, good)
            if len(places) and (step == "wide" or len(good)):
                again = search.compete(places, starts, RETRY_SURVIVORS)
                _take_better(found[region], merits[region], places, *again)
    return found


def _take_better(
    found: Tensor, merits: Tensor, places: Tensor, again: Tensor, reached: Tensor
) -> None:
    """Replace poses (F, 4, 4) and their merits (F,) in some places where others are better."""
    better = reached > merits[places]
    found[places[better]] = again[better]
    merits[places[better]] = reached[better]


# --- any contrast ---


def _find_body(
    pyramid: Mapping[float, FixedFrames],
    moving: Volume,
    inverse: Tensor,
    settings: Settings,
    device: str,
) -> Tensor:
    """Return the inverse poses (F, 4, 4) of the body: against air it is seen in any contrast."""
    coarsest = settings.resolutions[0]
    shape = body_shape(moving, coarsest.moving_mm[0], device)
    level = _level(pyramid, shape, coarsest, settings, settings.search_points)
    search = Search([level], None, settings)
    frame = torch.arange(len(inverse), device=device)
    return search.compete(frame, search.starts(inverse, settings.start_angles_deg), 1)[0]


def _by_looks(
    pyramid: Mapping[float, FixedFrames],
    regions: Sequence[MovingRegion],
    inverse: Tensor,
    body: Tensor,
    settings: Settings,
) -> tuple[list["Search"], list[Tensor]]:
    """Find R regions in all frames without knowing how these show them.

    Parameters
    ----------
    pyramid : mapping of spacing to FixedFrames
    regions : sequence of R MovingRegion
    inverse : (F, R, 4, 4) tensor
        Where to start.
    body : (F, 4, 4) tensor
        Inverse poses of the body.
    settings : Settings

    Returns
    -------
    searches, found : lists
        Of each region: the last search, and (F, 4, 4) inverse poses.
    """
    frame = torch.arange(len(body), device=body.device)
    layered = [_layered_search(pyramid, region, settings) for region in regions]
    starts = [search.starts(body, NEAR_ANGLES_DEG) for search in layered]
    first = [one.compete(frame, near, 1) for one, near in zip(layered, starts, strict=True)]
    found, merits = [poses for poses, _ in first], torch.stack([merit for _, merit in first])
    count = min(merits.numel(), max(FEWEST_TRUSTED, round(TRUSTED_SHARE * merits.numel())))
    trusted = merits >= merits.flatten().topk(count).values[-1]
    merits = torch.full_like(merits, -torch.inf)
    for attempt in range(LOOKS if settings.retry else 1):
        look = _look_of(layered, found, trusted)
        searches = [
            _search(pyramid, look.of((one.finest or one.levels[-1]).moving), settings, one.finest)
            for one in layered
        ]
        if attempt > 0:
            leads = [one.lead(frame, poses) for one, poses in zip(searches, found, strict=True)]
            merits = torch.stack(leads)
        wanting, others = merits < settings.least_above, torch.stack(found)
        for number, search in enumerate(searches):
            poor = torch.nonzero(wanting[number])[:, 0]
            if len(poor) == 0:
                continue
            far = search.starts(inverse[poor, number], settings.start_angles_deg)
            near = [far, starts[number][:, poor], others[:, poor]]
            good = torch.nonzero(~wanting[number])[:, 0]
            if attempt > 0:
                near.append(search.wide_starts(body[poor]))
                near += [_neighbours(found[number], poor, good)] if len(good) else []
            again = search.compete(poor, torch.cat(near), RETRY_SURVIVORS)
            _take_better(found[number], merits[number], poor, *again)
        trusted = merits >= settings.least_above
        if bool(trusted.all()) or int(trusted.sum()) < FEWEST_TRUSTED:
            break
    return searches, found


def _layered_search(
    pyramid: Mapping[float, FixedFrames], region: MovingRegion, settings: Settings
) -> "Search":
    """Return the search for a region by its layers, in a scan as it is."""
    one, finest = settings.finest, None
    if region.volume_mm3 / 1000 <= settings.largest_cm3:
        layers = region.coarser(one.moving_mm).layered
        finest = _level(pyramid, layers, one, settings, settings.finest_points)
    return _search(pyramid, region, settings, finest, layers=True)


def _look_of(layered: Sequence["Search"], found: Sequence[Tensor], trusted: Tensor) -> Look:
    """Learn the look of all regions from their trusted fits (R, F)."""
    places = []
    for search, poses, chosen in zip(layered, found, trusted, strict=True):
        frame = torch.nonzero(chosen)[:, 0]
        if len(frame):
            level = search.levels[-1]
            points = select_points(level, frame, poses[frame], search.options(level))
            places.append((level, points, poses[frame]))
    return learn_look(places)


@dataclass(frozen=True)
class Search:
    """The search for one region in all frames.

    Where any contrast may come, the levels show the region as the frames do, and the finest one
    (`polish`) the scan as it is, with its layers.
    """

    levels: Sequence[Level]
    finest: Level | None
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

    def compete(self, frame: Tensor, starts: Tensor, survivors: int) -> tuple[Tensor, Tensor]:
        """Improve starts (S, N, 4, 4) until one is left for each of N frames.

        At the coarsest level the worst go after some steps. The second level has ``survivors``; it
        keeps the one of lowest cost, or where any contrast may come, of the largest `lead`: a
        wrong place may explain much, but then others do so, too.

        Returns the poses (N, 4, 4) and their merit (N,), minus the cost or the lead.
        """
        coarsest, *finer = self.levels
        rounds = [(coarsest, steps, max(kept, survivors)) for steps, kept in ROUNDS]
        last = survivors if self.settings.any_contrast else 1
        rounds += [(level, level.iterations, last) for level in finer]
        inverse, n_frames = starts, len(frame)
        index = torch.arange(n_frames, device=frame.device)
        for level, steps, kept in rounds:
            repeated = frame.repeat(len(inverse))
            flat, fits = self._minimise(level, repeated, inverse.flatten(0, 1), steps)
            order = fits.cost.reshape(-1, n_frames).argsort(0)[:kept]
            chosen = (order * n_frames + index).flatten()
            inverse, merit = flat[chosen].unflatten(0, (-1, n_frames)), -fits.cost[chosen]
        if self.settings.any_contrast:
            merit = self.lead(frame.repeat(len(inverse)), inverse.flatten(0, 1))
        best = merit.unflatten(0, (-1, n_frames)).argmax(0) * n_frames + index
        return inverse.flatten(0, 1)[best], merit[best]

    def polish(self, inverse: Tensor) -> tuple[Tensor, Fit]:
        """Return the poses (F, 4, 4) and how they fit; improved, where any contrast may come.

        The cost is then that of the layers; correlation and part seen are those of the region.
        """
        frame = torch.arange(len(inverse), device=inverse.device)
        if self.finest is None:
            return inverse, self.evaluate(frame, inverse)
        found, layered = self._minimise(self.finest, frame, inverse, self.finest.iterations)
        return found, self.evaluate(frame, found)._replace(cost=layered.cost)

    def lead(self, frame: Tensor, inverse: Tensor) -> Tensor:
        """Return (N,) by how much the likeness at poses beats that of the region elsewhere.

        Likeness is the correlation, or the part explained where there are layers.
        Elsewhere is shifted by 8 mm to and fro along each axis. Counted is the third best of the
        six, since a shaft may be slid along its axis, both ways.
        """
        level = self.levels[-1]
        shifts = ALTERNATIVE_MM * torch.cat([torch.eye(3), -torch.eye(3)])
        motions = functional.pad(shifts, (3, 0)).to(inverse)
        away = turn_about(level.moving.centre, motions)[:, None] @ inverse
        there = self.evaluate(frame.repeat(len(away)), away.flatten(0, 1))
        here = self.evaluate(frame, inverse)
        if level.moving.depth is None:
            likeness = [one.correlation.nan_to_num(-1.0) for one in (here, there)]
        else:
            likeness = [1 - one.cost for one in (here, there)]
        return likeness[0] - likeness[1].unflatten(0, (-1, len(frame))).topk(3, 0).values[-1]

    def options(self, level: Level) -> Options:
        """Return what the similarity allows for at a level."""
        return Options(
            shading=self.settings.shading,
            weighted=self.settings.soft_weights,
            positive=self.settings.any_contrast and level.moving.depth is None,
        )

    def evaluate(self, frame: Tensor, inverse: Tensor) -> Fit:
        """Return the fits (N,) of poses at the last level of the search."""
        level = self.levels[-1]
        options = self.options(level)
        points = select_points(level, frame, inverse, options)
        return evaluate(level, points, inverse, options, slopes=False)

    def _minimise(
        self, level: Level, frame: Tensor, inverse: Tensor, iterations: int
    ) -> tuple[Tensor, Fit]:
        """Run `minimise` in batches of bounded memory."""
        fixed = level is not self.levels[0] and level.moving.depth is None
        reselect = iterations if fixed else RESELECT
        how: Any = {"options": self.options(level), "iterations": iterations, "reselect": reselect}
        per_fit = level.n_points * level.slice_samples
        at_once = max(1, SAMPLES_AT_ONCE[frame.device.type] // max(1, per_fit))
        parts = in_batches(partial(minimise, level, **how), frame, inverse, at_once=at_once)
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
    cross = torch.stack(rows, -1).reshape(-1, 3, 3)
    half = (vector.norm(dim=-1) / (2 * torch.pi))[:, None, None]  # Rodrigues' formula
    rotation = torch.eye(3, dtype=torch.float64, device=motion.device)
    rotation = rotation + torch.sinc(2 * half) * cross + torch.sinc(half) ** 2 / 2 * cross @ cross
    result = torch.eye(4, dtype=torch.float64, device=motion.device).repeat(len(motion), 1, 1)
    result[:, :3, :3] = rotation
    result[:, :3, 3] = middle + shift - rotation @ middle
    return result


def _step(fit: Fit, damping: Tensor) -> Tensor:
    hessian = fit.hessian.double()
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    floor = diagonal.amax(-1, keepdim=True) * 1e-9 + 1e-12
    damped = hessian + torch.diag_embed(diagonal * damping[:, None] + floor)
    motion = torch.linalg.solve_ex(damped, fit.descent.double())[0]
    return motion * (LARGEST_STEP_MM / _length_mm(motion).clamp_min(LARGEST_STEP_MM))[:, None]


def _length_mm(motion: Tensor) -> Tensor:
    """Return how far (N,) motions (N, 6) move the surface of a bone, about."""
    return motion[:, :3].norm(dim=1) * ARM_MM + motion[:, 3:].norm(dim=1)
