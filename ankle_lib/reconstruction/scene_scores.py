"""How good a reconstruction is: against the sharp truth about each bone, beside simpler ones."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import Box, bounding_box
from ankle_lib.metrics import ImageScores, image_scores, intensity_range, over_subjects
from ankle_lib.parallel import run_all
from ankle_lib.reconstruction.sharp_scenes import Scene, on_grid

Answer = Callable[[Scene], NDArray]
"""Returns a scene's reconstruction on its sharp grid, in the frame's units."""

INTERPOLATIONS = {"nearest": 0, "trilinear": 1, "cubic B-spline": 3}
"""Degrees of splines."""

MOVED_STATIC = "moved static scan"

AROUND = 2
"""Voxels around a region that windows and gradients reach."""


def interpolated(scene: Scene, order: int) -> NDArray[np.float32]:
    """Return the frame on the sharp grid, interpolated by splines of a degree."""
    return on_grid(scene.frame, (scene.measured.shape, scene.affine), order)[0]


def fitted_static(scene: Scene) -> NDArray[np.float32]:
    """Return a + b x moved static scan, fitted to the truth about the bones by least squares.

    The best that registration alone can do with one gain and one offset: they are told by the
    truth, which no real frame has.
    """
    if scene.truth is None:
        raise AnkleError(f"{scene}: there is no truth to fit the static scan to")
    static = scene.moved_static[scene.region]
    known = np.column_stack([np.ones(len(static)), static])
    wanted = scene.truth[scene.region].astype(np.float64)
    offset, gain = np.linalg.lstsq(known, wanted, rcond=None)[0]
    fitted: NDArray[np.float32] = (offset + gain * scene.moved_static).astype(np.float32)
    return fitted


BASELINES: dict[str, Answer] = {
    **{name: partial(interpolated, order=order) for name, order in INTERPOLATIONS.items()},
    MOVED_STATIC: fitted_static,
}
"""What a network must beat: interpolations of the frame, and registration alone, whose gain and
offset are fitted to the truth."""


def score_scenes(
    scenes: Iterable[Scene], answers: Mapping[str, Answer], *, step: int = 1
) -> pd.DataFrame:
    """Score reconstructions within 5 mm of each bone, where the frame has data.

    The data range is that of the truth about all bones of the scene, see `intensity_range`.

    Parameters
    ----------
    scenes : iterable of Scene
        With truth.
    answers : mapping of a method's name to what it does
        See `Answer`.
    step : int
        Score every so-many-th sagittal slice of the volume; sharpness is then measured within
        slices, and nothing is shifted. A bone that lies between these slices is left out.

    Returns
    -------
    DataFrame
        Columns subject, scene, method, bone and those of `ImageScores`.

    Examples
    --------
    >>> score_scenes(scenes, BASELINES | {"network": answer}).groupby("method").mean()
    """
    rows = []
    for scene in scenes:
        if scene.truth is None:
            raise AnkleError(f"{scene}: there is no truth to compare with")
        data_range = intensity_range(scene.truth, scene.region)
        posterior, superior, right = scene.voxel_size_mm
        spacing = (posterior, superior, right if step == 1 else math.inf)
        names, tasks = [], []
        for method, answer in answers.items():
            image = answer(scene)
            for bone, region in scene.regions.items():
                box = _box(region, step)
                if box is not None:
                    names.append((scene.subject, scene.name, method, bone))
                    tasks.append((image[box], scene.truth[box], region[box]))
        score = partial(_scores, data_range=data_range, spacing=spacing)
        for name, scores in zip(names, run_all(score, tasks), strict=True):
            if step > 1:
                scores = scores._replace(shifted_psnr_db=math.nan)
            rows.append((*name, *scores))
    columns = ["subject", "scene", "method", "bone", *ImageScores._fields]
    return pd.DataFrame(rows, columns=columns)


def _scores(
    images: tuple[NDArray, NDArray, NDArray[np.bool_]],
    data_range: float,
    spacing: tuple[float, float, float],
) -> ImageScores:
    """Score an image beside the truth in a region."""
    return image_scores(*images, data_range=data_range, spacing=spacing)


def _box(region: NDArray[np.bool_], step: int) -> Box | None:
    """Return a region's box and a few voxels more, and of the volume's slices every so-many-th.

    None if no such slice shows the region.
    """
    box = bounding_box(region, (AROUND, AROUND, AROUND if step == 1 else 0))
    if box is None:
        return None
    rows, columns, slices = box
    chosen = (rows, columns, slice(slices.start + -slices.start % step, slices.stop, step))
    return chosen if region[chosen].any() else None


def mean_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return means and 95 % intervals over subjects, per method and bone.

    Parameters
    ----------
    table : DataFrame
        From `score_scenes`. Scenes of one subject are averaged before subjects are drawn.

    Returns
    -------
    DataFrame
        Columns method, bone (``all`` too: the mean of the bones) and, of each of `ImageScores`,
        ``<score>``, ``<score>_low``, ``<score>_high``.
    """
    found = over_subjects(_with_all(table, "method"), ["method", "bone"], ImageScores._fields)
    found = found.rename(columns=lambda column: column.removesuffix("_mean"))
    first = ["method", "bone", *ImageScores._fields]
    return found[first + [column for column in found if column not in first]]


def gains(
    table: pd.DataFrame,
    method: str,
    others: Sequence[str] = tuple(BASELINES),
    score: str = "psnr_db",
) -> pd.DataFrame:
    """Return by how much a method is better than others, subject by subject.

    Parameters
    ----------
    table : DataFrame
        From `score_scenes`.
    method : str
    others : sequence of str
    score : str

    Returns
    -------
    DataFrame
        Columns over, bone (``all`` too), gain, low, high.
    """
    wide = table.pivot_table(score, ["subject", "scene", "bone"], "method")
    differences = pd.concat(
        (wide[method] - wide[other]).reset_index(name="gain").assign(over=other) for other in others
    )
    found = over_subjects(_with_all(differences, "over"), ["over", "bone"], ["gain"])
    return found.set_axis(["over", "bone", "gain", "low", "high"], axis=1)


def _with_all(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Repeat the rows of each group as those of the bone ``all``, after its bones."""
    groups = [rows for _, rows in table.groupby(by, sort=False)]
    return pd.concat(part for rows in groups for part in (rows, rows.assign(bone="all")))
