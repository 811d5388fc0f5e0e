"""The frames of a sequence are one motion: poses made consistent over time.

A sequence shows one out-and-back cycle, so a bone's pose follows a smooth curve from frame to
frame, and a frame where the bone was lost lies on that curve too. `smooth_together` fits such
curves to the bones of a leg and first sets aside what they do *together*: a leg that trembles
moves all bones alike, which is motion and not error.

The curve is a smoothing spline (Reinsch, Numer. Math. 1967) through the position of the bone's
centre and through the rotation vectors relative to the mean rotation. Its strength is chosen from
the data by restricted maximum likelihood (Wahba, Ann. Stat. 1985; Speed in Robinson, Stat. Sci.
1991), one for each direction of motion: the flexion keeps its turning point while the other
directions, in which next to nothing moves, are smoothed more. With 15 frames generalised
cross-validation chooses less steadily: at 0.5 mm and 1 degree of noise it leaves 1.4 degrees of a
joint's turn where the likelihood leaves 1.1, from 2.2.
"""

import warnings
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

BONE_RADIUS_MM = 25.0
"""Turns a rotation error into mm at a bone's rim: half the length of a talus."""

LEAST_SCALE_MM = 0.3
"""Typical deviation below which frames are not told apart: no frame within `TUKEY` times this
(1.8 mm) of the curve is ever taken for an outlier."""
TUKEY = 6.0
"""Deviations beyond so many times the median one have no weight (Tukey's biweight). With 4 or 5,
1 or 2 in 84 bones of the phantom's controls lost a true last frame at 0.5 mm and 1 degree of
noise; with 6 none did, and wrong fits were found as well."""

LEVERAGE_POWER = 0.75
"""A deviation is divided by one minus leverage to this power: half way between the studentised
(1/2) and the deleted residual (1). At the first and last frame the former misses outliers and the
latter refuses true turns, on the phantom's controls."""

STRENGTHS: Array = np.logspace(-4, 4, 17)
"""Weights of the bending energy against the squares, frames being the unit of time. At the ends
the curve interpolates, or is a straight line."""

FEWEST_FRAMES = 4
"""A curve through fewer known frames has nothing to smooth: these stay as they are."""

SMALLEST_VARIANCE_MM2 = 1e-8
"""Keeps the likelihood of a bone that does not move at all finite."""

REWEIGHTINGS = 8
PASSES = 6
"""Alternations between what the bones do together and what each does alone. True poses of the
phantom's controls are then changed by 0.005 mm and 0.011 degrees in the median."""


def smooth_together(
    poses: Mapping[str, Array],
    weights: Mapping[str, Array],
    centres_mm: Mapping[str, Array],
) -> dict[str, Array]:
    """Put the poses of a leg's bones on smooth courses, but for what the bones do together.

    A bone's pose is taken as its own smooth course, followed by a motion of the whole leg that
    may be as rough as it likes. That motion is the one rigid motion per frame that explains best
    how far the bones are off their courses; bones that contradict the others have no say in it,
    and a bone alone has none.

    Parameters
    ----------
    poses : mapping of bone to (F, 4, 4) array
        Static world to frame world, RAS mm, in the order of the frames, which are equally spaced.
        Where the weight is 0 a pose may hold anything, NaN too.
    weights : mapping of bone to (F,) array
        How much each frame is trusted, from 0 (unknown, to be filled by the curve) upward; only
        ratios matter.
    centres_mm : mapping of bone to (3,) array
        Centre of the bone in the static scan, world RAS mm.

    Returns
    -------
    dict of bone to (F, 4, 4) array
        Frames that stray from the course of the others (`TUKEY`) are put back on it; at the first
        and last frame, with neighbours on one side only, that works for gross strays at best.
        With fewer than `FEWEST_FRAMES` known frames those are returned as they are and only the
        others are filled. A bone that is known in no frame stays as it is.

    Examples
    --------
    >>> smooth = smooth_together({"talus": poses}, {"talus": np.ones(15)}, {"talus": centre})
    """
    chosen = [bone for bone in poses if np.any(weights[bone])]
    if not chosen:
        return dict(poses)
    observed, trust, centres = (
        np.array([given[bone] for bone in chosen], dtype=np.float64)
        for given in (poses, weights, centres_mm)
    )
    observed[trust == 0] = np.eye(4)
    still = observed
    for _ in range(PASSES):
        courses = np.stack([_smooth(*each) for each in zip(still, trust, centres, strict=True)])
        leg = _common_motion(observed, courses, trust, centres)
        # Without the leg's motion the bones' own courses show more clearly.
        still = np.linalg.inv(leg) @ observed
    return {**poses, **dict(zip(chosen, leg @ courses, strict=True))}


def _smooth(poses: Array, weights: Array, centre: Array) -> Array:
    known = weights > 0
    rotations = Rotation.from_matrix(poses[:, :3, :3])
    middle = rotations[known].mean(weights[known])
    turned = (middle.inv() * rotations).as_rotvec() * BONE_RADIUS_MM
    course = np.hstack([turned, _places(poses, centre)])
    if known.sum() < FEWEST_FRAMES:  # the known ones stay; between them are lines
        frames, inside = np.arange(len(course)), np.flatnonzero(known)
        smoothed = np.stack([np.interp(frames, inside, y[known]) for y in course.T], axis=1)
    else:
        smoothed = _robust_course(course, weights)
    result = np.tile(np.eye(4), (len(poses), 1, 1))
    back = Rotation.from_rotvec(smoothed[:, :3] / BONE_RADIUS_MM)
    result[:, :3, :3] = (middle * back).as_matrix()
    result[:, :3, 3] = smoothed[:, 3:] - result[:, :3, :3] @ centre
    return result


def _places(poses: Array, centre: Array) -> Array:
    places: Array = poses[..., :3, :3] @ centre + poses[..., :3, 3]
    return places


def _robust_course(course: Array, weights: Array) -> Array:
    """Smooth (F, 6) columns in mm; a frame that strays in one loses its weight in all."""
    trusted = weights / weights.max()
    robust = trusted
    for _ in range(REWEIGHTINGS):
        splines = _splines(robust)
        curves = [_curve(course[:, part], robust, splines) for part in (slice(0, 3), slice(3, 6))]
        strays = np.linalg.norm(np.hstack([strays for _, strays in curves]), axis=1)
        before, robust = robust, trusted * _biweight(strays, trusted > 0)
        if np.allclose(before, robust, atol=0.01):
            break
    return np.hstack([values for values, _ in curves])


def _biweight(deviations: Array, known: NDArray[np.bool_]) -> Array:
    """Weigh by Tukey's function of the deviations over their median."""
    scale = max(float(np.median(deviations[known])), LEAST_SCALE_MM)
    return np.where(known, np.clip(1 - (deviations / (TUKEY * scale)) ** 2, 0, None) ** 2, 0.0)


def _curve(course: Array, weights: Array, splines: tuple[Array, Array]) -> tuple[Array, Array]:
    """Smooth (F, 3) along the principal directions of the movement, each as much as it needs.

    Of each direction's splines the one of greatest restricted likelihood is taken: with s² the
    weighted squares and the bending energy over n - 2, where (n - 2) log s² + complexity is least.

    Returns
    -------
    values : (F, 3) array
    strays : (F, 3) array
        Deviations, enlarged where the frame itself has pulled the curve (`LEVERAGE_POWER`).
    """
    known = weights > 0
    middle = np.average(course, axis=0, weights=weights)
    axes = np.linalg.svd(course[known] - middle, full_matrices=False)[2]
    along = (course - middle) @ axes.T
    influence, complexity = splines
    fitted = influence @ along
    freedom = max(np.count_nonzero(known) - 2, 1)
    # At the minimum both terms together are the product of the data and what is left of them.
    energy = np.clip((weights[:, None] * along * (along - fitted)).sum(axis=1), 0, None)
    likelihood = freedom * np.log(energy / freedom + SMALLEST_VARIANCE_MM2)
    best = np.argmin(likelihood + complexity[:, None], axis=0)
    values = fitted[best, :, np.arange(3)].T
    leverage = np.diagonal(influence, axis1=1, axis2=2)[best].T
    strays = (along - values) / np.clip(1 - leverage, 1e-6, 1) ** LEVERAGE_POWER
    return values @ axes + middle, strays @ axes


def _splines(weights: Array) -> tuple[Array, Array]:
    """Minimise sum w (data - f)² + strength · integral of f''² for every strength.

    Returns
    -------
    influence : (S, F, F) array
        From data to values on the curve.
    complexity : (S,) array
        The part of the restricted likelihood that the data do not enter.
    """
    count = len(weights)
    system = np.diag(weights) + STRENGTHS[:, None, None] * _bending(count)
    complexity = np.linalg.slogdet(system)[1] - (count - 2) * np.log(STRENGTHS)
    return np.linalg.inv(system) * weights, complexity


@lru_cache(maxsize=32)
def _bending(count: int) -> Array:
    """Return K (F, F) with f K f = integral of f''² of the natural cubic spline through f."""
    second = np.diff(np.eye(count), 2, axis=0).T
    inner = count - 2
    mass = np.eye(inner) * 2 / 3 + (np.eye(inner, k=1) + np.eye(inner, k=-1)) / 6
    matrix: Array = second @ np.linalg.solve(mass, second.T)
    return matrix


def _common_motion(observed: Array, courses: Array, trust: Array, centres: Array) -> Array:
    """Return the leg's motion (F, 4, 4) that best explains how far bones are off their courses.

    Turn ω about, and shift v of, a pivot amid the bones move a bone's centre at x from the pivot
    by v + ω × x and turn it by ω: six equations a bone and frame, in mm (turns at the rim).
    """
    places = np.stack([_places(p, c) for p, c in zip(courses, centres, strict=True)])
    pivot = places.mean(axis=0)
    turned = (observed @ np.linalg.inv(courses))[..., :3, :3].reshape(-1, 3, 3)
    turns = Rotation.from_matrix(turned).as_rotvec().reshape(places.shape) * BONE_RADIUS_MM
    shifts = np.stack([_places(p, c) for p, c in zip(observed, centres, strict=True)]) - places
    off = np.concatenate([turns, shifts], axis=-1)
    effect = np.tile(np.eye(6), (*off.shape[:2], 1, 1))
    # (..., 3, 3) with which a cross product is one of matrix and vector
    effect[..., 3:, :3] = -np.cross(np.eye(3), (places - pivot)[..., None, :]) / BONE_RADIUS_MM

    weights = trust * _agreement(off, effect, trust)
    weights[:, np.count_nonzero(weights, axis=0) < 2] = 0  # one bone alone tells nothing common
    across = effect.swapaxes(-1, -2) * weights[..., None, None]
    system, right = (across @ effect).sum(axis=0), (across @ off[..., None]).sum(axis=0)
    common = (np.linalg.pinv(system, hermitian=True) @ right)[..., 0]
    leg = np.tile(np.eye(4), (len(common), 1, 1))
    leg[:, :3, :3] = Rotation.from_rotvec(common[:, :3] / BONE_RADIUS_MM).as_matrix()
    leg[:, :3, 3] = common[:, 3:] + pivot - (leg[:, :3, :3] @ pivot[..., None])[..., 0]
    return leg


def _agreement(off: Array, effect: Array, trust: Array) -> Array:
    """Weigh bones (B, F) by how near they are to the frame's median motion of the leg."""
    each = np.linalg.solve(effect, off[..., None])[..., 0]
    each[trust == 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # frames without any bone
        middle = np.nan_to_num(np.nanmedian(each, axis=0))
    apart = np.linalg.norm(off - (effect @ middle[..., None])[..., 0], axis=-1)
    return _biweight(apart, trust > 0)
