"""Levenberg-Marquardt on rigid motions, many fits at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ankle_lib.registration.pyramid import Level
from ankle_lib.registration.similarity import Fit, Options, Points, evaluate, select_points

FIRST_DAMPING = 1e-2
SMALLEST_STEP_MM = 0.02
ARM_MM = 25.0
"""Typical distance of a bone's surface from its centre: turns steps in radians into mm."""


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
    best: Fit | None = None
    points: Points | None = None
    current: Fit | None = None
    for step in range(iterations):
        if step % reselect == 0 or points is None or current is None:
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
        best = current if best is None else best.replaced(active, current)
        length = motion[:, :3].norm(dim=1) * ARM_MM + motion[:, 3:].norm(dim=1)
        moving = (length > SMALLEST_STEP_MM) & (damping[active] < 1e3)
        if not bool(moving.any()):
            break
        if not bool(moving.all()):
            active, points, current = active[moving], points.take(moving), current.take(moving)
    assert best is not None
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
    length = motion[:, :3].norm(dim=1) * ARM_MM + motion[:, 3:].norm(dim=1)
    return motion * (10.0 / length.clamp_min(10.0))[:, None]  # no step beyond 10 mm
