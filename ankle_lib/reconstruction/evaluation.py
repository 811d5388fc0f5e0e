"""How good a reconstruction is: against the sharp truth about each bone, beside simpler ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.metrics import ImageScores, bootstrap_interval, image_scores, intensity_range
from ankle_lib.parallel import run_all
from ankle_lib.reconstruction.consistency import consistency
from ankle_lib.reconstruction.guided import with_the_measured
from ankle_lib.reconstruction.scenes import Scene, on_grid
from ankle_lib.reconstruction.thick import scanning
from ankle_lib.volume import Volume

Answer = Callable[[Scene], NDArray]
"""Returns a scene's reconstruction on its sharp grid, in the frame's units."""

INTERPOLATIONS = ("nearest", "trilinear", "cubic B-spline")
MOVED_STATIC = "moved static scan"

BASELINES: dict[str, Answer] = {
    "nearest": lambda scene: on_grid(scene.frame, scene.measured.shape, scene.affine, 0)[0],
    "trilinear": lambda scene: scene.measured,
    "cubic B-spline": lambda scene: on_grid(scene.frame, scene.measured.shape, scene.affine, 3)[0],
    MOVED_STATIC: lambda scene: fitted_static(scene, scene.region),
}
"""What a network must beat: interpolations of the frame, and registration alone, whose gain and
offset are fitted to the truth."""

AROUND = 2
"""Voxels around a region that windows and gradients see."""


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
        Score every so-many-th sagittal slice; sharpness is then measured within slices, and
        nothing is shifted.

    Returns
    -------
    DataFrame
        Columns subject, scene, method, bone and those of `ImageScores`.
    """
    rows = []
    for scene in scenes:
        if scene.truth is None:
            raise AnkleError(f"{scene}: there is no truth to compare with")
        data_range = intensity_range(scene.truth, scene.region)
        boxes = {bone: _box(mask, step) for bone, mask in scene.regions.items() if mask.any()}
        posterior, superior, right = scene.voxel_size_mm
        spacing = (posterior, superior, right if step == 1 else math.inf)
        names, tasks = [], []
        for method, answer in answers.items():
            image = answer(scene)
            for bone, box in boxes.items():
                names.append((scene.subject, scene.name, method, bone))
                tasks.append((image[box], scene.truth[box], scene.regions[bone][box]))
        score = partial(_scores, data_range=data_range, spacing=spacing)
        for name, scores in zip(names, run_all(score, tasks, progress=False), strict=True):
            if step > 1:
                scores = scores._replace(shifted_psnr_db=math.nan)
            rows.append((*name, *scores))
    columns = ["subject", "scene", "method", "bone", *ImageScores._fields]
    return pd.DataFrame(rows, columns=columns)


def _scores(
    images: tuple[NDArray, NDArray, NDArray[np.bool_]],
    *,
    data_range: float,
    spacing: tuple[float, float, float],
) -> ImageScores:
    """Score an image beside the truth in a region."""
    image, truth, region = images
    return image_scores(image, truth, region, data_range=data_range, spacing=spacing)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return means and 95 % intervals over subjects, per method and bone.

    Parameters
    ----------
    table : DataFrame
        From `score_scenes`. Scenes of one subject are averaged before subjects are drawn.

    Returns
    -------
    DataFrame
        Columns method, bone (``all`` too: the mean of the bones), those of `ImageScores`, and
        ``<score>_low``, ``<score>_high``.
    """
    rows = []
    for method, of_method in table.groupby("method", sort=False):
        parts = [(str(bone), part) for bone, part in of_method.groupby("bone", sort=False)]
        for bone, part in [*parts, ("all", of_method)]:
            row: dict[str, object] = {"method": method, "bone": bone}
            ends: dict[str, float] = {}
            for score in ImageScores._fields:
                interval = bootstrap_interval(part[score], list(part["subject"]))
                row[score] = interval.mean
                ends |= {f"{score}_low": interval.low, f"{score}_high": interval.high}
            rows.append(row | ends)
    return pd.DataFrame(rows)


def fitted_static(scene: Scene, region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a + b x moved static scan, fitted to the truth in a region by least squares.

    The best that registration alone can do with one gain and one offset: they are told by the
    truth, which no real frame has.
    """
    if scene.truth is None:
        raise AnkleError(f"{scene}: there is no truth to fit the static scan to")
    known = np.column_stack([np.ones(int(region.sum())), scene.moved_static[region]])
    offset, gain = np.linalg.lstsq(known, scene.truth[region].astype(np.float64), rcond=None)[0]
    fitted: NDArray[np.float32] = (offset + gain * scene.moved_static).astype(np.float32)
    return fitted


def agreed(answer: Answer) -> Answer:
    """Return an answer that is brought into agreement with the frame, see `with_the_measured`."""

    def both(scene: Scene) -> NDArray:
        sharp = Volume(answer(scene), scene.affine)
        return with_the_measured(sharp, scene.frame, seen=scene.scanning).volume.data

    return both


def once(answer: Answer) -> Answer:
    """Return an answer that is computed once for every scene."""
    known: dict[Scene, NDArray] = {}

    def remembering(scene: Scene) -> NDArray:
        if scene not in known:
            known[scene] = answer(scene)
        return known[scene]

    return remembering


def consistencies(scenes: Iterable[Scene], answers: Mapping[str, Answer]) -> pd.DataFrame:
    """Average reconstructions over the slices again: is anything invented, or left out?

    Returns
    -------
    DataFrame
        Columns subject, scene, method, ratio: root mean square of what differs from the frame, in
        units of its noise. 1 is noise alone.
    """
    rows = []
    for scene in scenes:
        seen = scene.scanning or scanning(scene.frame)
        for method, answer in answers.items():
            sharp = Volume(answer(scene), scene.affine)
            found = consistency(sharp, scene.frame, seen, covered=scene.covered)
            rows.append((scene.subject, scene.name, method, found.ratio))
    return pd.DataFrame(rows, columns=["subject", "scene", "method", "ratio"])


def gains(
    table: pd.DataFrame,
    method: str,
    others: Sequence[str] = (*INTERPOLATIONS, MOVED_STATIC),
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
    rows = []
    for other in others:
        difference = (wide[method] - wide[other]).reset_index(name="gain")
        bones = [(str(bone), part) for bone, part in difference.groupby("bone", sort=False)]
        for bone, part in [*bones, ("all", difference)]:
            rows.append((other, bone, *bootstrap_interval(part["gain"], list(part["subject"]))))
    return pd.DataFrame(rows, columns=["over", "bone", "gain", "low", "high"])


def _box(mask: NDArray[np.bool_], step: int) -> tuple[slice, slice, slice]:
    """Return the mask's box with a few voxels more, and of its slices every ``step``-th."""
    sides = []
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        filled = np.flatnonzero(mask.any(axis=others))
        more = AROUND if axis < 2 or step == 1 else 0
        sides.append(slice(max(int(filled[0]) - more, 0), int(filled[-1]) + 1 + more))
    rows, columns, slices = sides
    # the same slices of the volume for every bone and method
    first = -(-slices.start // step) * step
    if first >= slices.stop:
        first = slices.start
    return rows, columns, slice(first, slices.stop, step)
