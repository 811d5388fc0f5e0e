"""One call for every registration: whole feet and single bones, by any of the engines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import is_rigid, weighted_centre
from ankle_lib.registration.regions import Fits
from ankle_lib.volume import Volume

ENGINES = ("torch", "simpleitk", "flirt")

LEAST_OF_USUAL = 0.75
"""A frame of which less than this part of the usual is explained has failed."""

LEAST_PASSED = 0.25
"""Where a smaller part of the fits pass, those few may do so by chance, and are not believed."""

FEWEST_IN_LINE = 7
"""With fewer frames, steps are too long to say what is usual."""
USUAL_JUMP = 4.0
"""A frame out of line with its neighbours by this many times the usual is suspicious,"""
JUMP_MM = (5.0, 10.0)
"""but not below the first and in any case above the second; fast feet are out of line by 6 mm."""


@dataclass(frozen=True)
class Resolution:
    """One level of the search, from coarse to fine."""

    fixed_mm: float
    """Spacing within the slices of the frames."""
    moving_mm: tuple[float, float]
    """Spacing of the static scan: along its thin axes, along its thickest."""
    slice_samples: int
    """Samples across a slice of the frames."""
    iterations: int


@dataclass(frozen=True)
class Settings:
    """How the engines search. The defaults serve children's ankles in slices of about 8 mm."""

    resolutions: tuple[Resolution, ...] = (
        Resolution(3.0, (3.0, 3.0), 3, 6),
        Resolution(1.2, (1.2, 1.6), 5, 5),
        Resolution(1.2, (0.6, 0.8), 7, 10),
    )
    finest: Resolution = Resolution(0.6, (0.6, 0.8), 7, 10)
    """The last level where any contrast may come, instead of that of ``resolutions``."""
    start_angles_deg: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    """Starts about the left-right axis, relative to ``start``."""
    retry: bool = True
    """Try again, from more starts, where too little is explained."""
    retry_angles_deg: tuple[float, ...] = (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0)
    retry_shifts_mm: tuple[float, ...] = (-8.0, 8.0)
    """Shifts along A-P and S-I of the wider starts."""
    any_contrast: bool = False
    """Do not count on bright staying bright. The torch engine then finds the body by its shape,
    learns near there how the frames show bones, searches with that look, and at last explains a
    frame by layers (see `search` and `similarity`)."""
    slice_model: bool = True
    """Average the static scan across the thick slice; otherwise sample its middle."""
    soft_weights: bool = True
    """Weights that fade out and move with the pose; otherwise a plain mask."""
    shading: bool = True
    """Allow for gain that varies linearly in space (coil shading)."""
    largest_cost: float = 0.75
    """A fit that leaves more of the variance unexplained has failed."""
    least_above: float = 0.36
    """In any contrast, a fit has failed whose correlation does not beat that of the region shifted
    by 8 mm by so much, whatever the correlation is. On two controls of a phantom whose marrow had
    a texture of its own in each contrast, wrong fits had at most 0.22, and right ones at least 0.45
    but where fat is suppressed: there it is 0.29 and more, and those below 0.36 are off by up to
    1 mm."""
    least_correlation: float = 0.4
    """A fit with a lower correlation has failed, whatever gain and shading explain."""
    least_seen: float = 0.5
    """A region of which less lies in the field of view has failed."""
    search_points: int = 1_500
    """Voxels of a frame, about, that take part before the last level."""
    finest_points: int = 6_000
    """Voxels of a frame, at most about, that take part at ``finest``."""
    largest_cm3: float = 150.0
    """Larger regions, such as a whole foot, are searched at the coarsest level alone."""


@dataclass(frozen=True)
class Registration(Fits):
    """Poses of R regions in F frames, and how far to trust them."""

    regions: tuple[str, ...]
    reasons: NDArray[np.str_]
    """(F, R) why a fit failed; empty where it did not."""
    engine: str

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Fits (F, R) that must not be used."""
        return self.reasons != ""

    def region(self, name: str) -> NDArray[np.float64]:
        """Return the poses (F, 4, 4) of one region."""
        return self.poses[:, self.regions.index(name)]


def register(
    fixed: Volume,
    moving: Volume,
    weights: Mapping[str, NDArray[Any]],
    *,
    start: ArrayLike | None = None,
    engine: str = "torch",
    device: str = "cpu",
    settings: Settings | None = None,
) -> Registration:
    """Find the rigid pose that carries each region of the static scan onto each frame.

    Parameters
    ----------
    fixed : Volume
        The frames: 3D, or 4D with F frames; any orientation. The axis with the largest voxel is
        the one across the slices.
    moving : Volume
        The static scan, 3D.
    weights : mapping of name to (I, J, K) array
        For each region a weight in [0, 1] on the grid of ``moving``, such as
        `masking.mask_images`; only what is above 0 is compared.
    start : (4, 4), (F, 4, 4) or (F, R, 4, 4) array, optional
        Where to begin; the two scans' worlds agree by default.
    engine : str
        ``"torch"`` (the course's own), ``"simpleitk"`` or ``"flirt"`` (needs FSL).
    device : str
        ``"cpu"`` or ``"cuda"``, for the course's own engine.
    settings : Settings, optional

    Raises
    ------
    AnkleError
        If there is nothing to compare: no region, empty weights, constant or non-finite images,
        one slice only, no common field of view; or if the engine is unknown or not installed.

    Examples
    --------
    >>> found = register(frames, static, weights_of(masks), start=whole.poses[:, 0])
    >>> found.region("talus")[7]  # (4, 4), where the talus is in frame 7
    """
    settings = settings or Settings()
    if settings.any_contrast and engine != "torch":
        raise AnkleError(f"frames of any contrast are for the torch engine, not for {engine!r}")
    _check(fixed, moving, weights)
    begin = _start_poses(start, fixed.n_frames, len(weights))
    if engine == "torch":
        from ankle_lib.registration import search

        found = search.fit(fixed, moving, weights, begin, settings, device)
    elif engine == "simpleitk":
        from ankle_lib.registration import simpleitk

        found = simpleitk.fit(fixed, moving, weights, begin, settings)
    elif engine == "flirt":
        from ankle_lib.registration import flirt

        found = flirt.fit(fixed, moving, weights, begin)
    else:
        raise AnkleError(f"there is no engine {engine!r}: choose one of {', '.join(ENGINES)}")
    centres = [weighted_centre(soft, moving.affine) for soft in weights.values()]
    reasons = _reasons(found, centres, settings)
    return Registration(**vars(found), regions=tuple(weights), reasons=reasons, engine=engine)


def _check(fixed: Volume, moving: Volume, weights: Mapping[str, NDArray[Any]]) -> None:
    if moving.data.ndim != 3:
        raise AnkleError(f"the static scan has shape {moving.data.shape}: one 3D image is expected")
    if not weights:
        raise AnkleError("nothing to register: no region with weights was given")
    for volume, name in ((fixed, "dynamic image"), (moving, "static scan")):
        if min(volume.shape) < 2:
            raise AnkleError(
                f"the {name} has shape {volume.shape}: a single slice cannot say where a bone is "
                "in 3D, at least 2 along each axis are needed"
            )


def _start_poses(start: ArrayLike | None, n_frames: int, n_regions: int) -> NDArray[np.float64]:
    given = np.asarray(np.eye(4) if start is None else start, dtype=np.float64)
    spread = given[:, None] if given.ndim == 3 else given
    try:
        poses = np.broadcast_to(spread, (n_frames, n_regions, 4, 4)).copy()
    except ValueError:
        raise AnkleError(
            f"start poses have shape {given.shape}: expected (4, 4), ({n_frames}, 4, 4) or "
            f"({n_frames}, {n_regions}, 4, 4)"
        ) from None
    for pose in poses.reshape(-1, 4, 4):
        if not is_rigid(pose):
            raise AnkleError(f"a start pose is not rigid: {pose.tolist()}")
    return poses


def _reasons(
    found: Fits, centres: Sequence[NDArray[np.float64]], settings: Settings
) -> NDArray[np.str_]:
    """Return why each fit (F, R) failed; empty where it did not."""
    hidden = found.seen < settings.least_seen
    reasons = np.full(found.costs.shape, "", dtype="<U60")
    for region, centre in enumerate(centres):
        explained = 1 - found.costs[:, region]
        enough = max(1 - settings.largest_cost, LEAST_OF_USUAL * float(np.median(explained)))
        reasons[explained < enough, region] = "the static scan explains too little of the frame"
        if settings.any_contrast:
            unlike = found.above[:, region] < settings.least_above
            reasons[unlike, region] = "it would fit as well in other places"
        else:
            unlike = ~(found.correlations[:, region] >= settings.least_correlation)
            reasons[unlike, region] = "frame and static scan are not alike there"
        reasons[hidden[:, region], region] = "too little of it in the frame's field of view"
        trusted = np.flatnonzero(reasons[:, region] == "")
        jumps = trusted[_out_of_line(found.poses[trusted, region], trusted, centre)]
        reasons[jumps, region] = "out of line with its neighbours in time"
    for few in (slice(None), *range(len(centres))):  # of all regions, and of each
        passed = (reasons == "")[:, few]
        if passed.sum() < LEAST_PASSED * (~hidden[:, few]).sum():
            reasons[:, few][passed] = "hardly any other frame fits"
    return reasons


def _out_of_line(
    poses: NDArray[np.float64], times: NDArray[np.int_], centre: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell which poses (T, 4, 4) lie far from the line between their neighbours in time.

    The worst goes first, and the others are looked at again without it: a single wrong pose makes
    its neighbours look wrong, too.
    """
    reach = 25.0 * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)]) + centre
    points = np.einsum("fij,pj->fpi", poses[:, :3, :3], reach) + poses[:, None, :3, 3]
    wrong = np.zeros(len(poses), dtype=bool)
    while np.count_nonzero(~wrong) >= FEWEST_IN_LINE:
        kept = np.flatnonzero(~wrong)
        jump = _jumps(points[kept], times[kept])
        usual = USUAL_JUMP * float(np.percentile(jump, 25))
        if jump.max() <= np.clip(usual, *JUMP_MM):
            break
        wrong[kept[np.argmax(jump)]] = True
    return wrong


def _jumps(points: NDArray[np.float64], times: NDArray[np.int_]) -> NDArray[np.float64]:
    """Mean distance (T,) of points (T, P, 3) from the line between their neighbours in time."""
    i = np.array([1, *range(len(points) - 2), len(points) - 3])  # two others, for the ends too
    j = np.array([2, *range(2, len(points)), len(points) - 2])
    part = (times - times[i]) / (times[j] - times[i])
    line = points[i] + part[:, None, None] * (points[j] - points[i])
    jump = np.linalg.norm(points - line, axis=2).mean(axis=1)
    jump[[0, -1]] /= 2  # extrapolated
    return np.asarray(jump)
