"""The course's own engine: all frames of a region at once, from coarse to fine, from many starts.

Each region (a bone, or the whole foot) is cut out of the static scan and fitted to all frames as
one batch. Starts are turned about the left-right axis through the region's centre, since the
ankle is nearly a hinge; at the coarsest level they compete, and the best one is refined. Where
too little is explained afterwards, the fit is tried again from a wider grid of starts, and from
the poses of the nearest frames that went well.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ankle_lib.registration.fits import Fits
from ankle_lib.registration.optimiser import minimise, turn_about
from ankle_lib.registration.pyramid import FixedFrames, Level, fixed_frames, moving_region
from ankle_lib.registration.settings import Settings
from ankle_lib.registration.similarity import Fit, Options
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


def fit(
    fixed: Volume,
    moving: Volume,
    weights: Mapping[str, NDArray[Any]],
    start: NDArray[np.float64],
    settings: Settings,
    device: str,
) -> Fits:
    """Fit every region to every frame; arguments as in `register`."""
    begun = time.process_time()
    frames = fixed_frames(fixed, device)
    pyramid = {r.fixed_mm: frames.coarser(r.fixed_mm) for r in settings.resolutions}
    shared = (time.process_time() - begun) / len(weights)
    answers = []
    for number, (name, soft) in enumerate(weights.items()):
        begun = time.process_time()
        inverse = torch.as_tensor(np.linalg.inv(start[:, number]), device=device)
        levels = list(_levels(pyramid, moving, soft, name, settings, device))
        inverse, found = _Search(levels, settings).run(inverse)
        poses = torch.linalg.inv(inverse).cpu().numpy()
        columns = [
            part.cpu().double().numpy() for part in (found.correlation, found.cost, found.seen)
        ]
        spent = (shared + time.process_time() - begun) / len(poses)
        answers.append((poses, *columns, np.full(len(poses), spent)))
    return Fits(*(np.stack(parts, axis=1) for parts in zip(*answers, strict=True)))


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
        """Run the optimiser in batches of bounded memory."""
        reselect = RESELECT if level is self.levels[0] else iterations
        options = Options(shading=self.settings.shading, weighted=self.settings.soft_weights)
        per_fit = level.n_points * level.slice_samples
        at_once = max(1, SAMPLES_AT_ONCE[frame.device.type] // max(1, per_fit))
        parts = [
            minimise(level, f, i, options, iterations=iterations, reselect=reselect)
            for f, i in zip(frame.split(at_once), inverse.split(at_once), strict=True)
        ]
        fits = zip(*(part.__dict__.values() for _, part in parts), strict=True)
        return torch.cat([i for i, _ in parts]), Fit(*(torch.cat(part) for part in fits))


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


def _levels(
    pyramid: Mapping[float, FixedFrames],
    moving: Volume,
    weights: NDArray[Any],
    name: str,
    settings: Settings,
    device: str,
) -> Iterator[Level]:
    """Yield the levels of a region, coarsest first.

    All but the last are searched on a part of their voxels. Levels are left out at which the
    region covers too many; a region for which only the coarsest is left starts on a part of it.
    """
    margin = max(frames.thickness_mm for frames in pyramid.values()) / 2 + 2.0
    region = moving_region(moving, weights, name, margin, device)
    volume = float(region.weights.sum()) * abs(np.linalg.det(region.affine[:3, :3]))
    levels: list[Level] = []
    for resolution in settings.resolutions:
        frames = pyramid[resolution.fixed_mm]
        n_points = int(volume / abs(np.linalg.det(frames.affine[:3, :3])))
        if levels and n_points > settings.most_points:
            break
        samples = resolution.slice_samples if settings.slice_model else 1
        steps = resolution.iterations
        level = Level(frames, region.coarser(resolution.moving_mm), samples, steps, n_points)
        levels.append(level)
    for level in levels[:-1] or levels:
        stride = max(1, level.n_points // settings.search_points)
        yield replace(level, stride=stride, n_points=level.n_points // stride)
    yield levels[-1]
