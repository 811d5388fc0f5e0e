"""A subject before and after cleaning, for pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ankle_lib.cleaning.placing import affines_of, corner_distance_mm
from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.manifest.schema import Subject
from ankle_lib.volume import Volume, load, read_header, to_orientation


@dataclass(frozen=True)
class Scene:
    """Images of one subject, each where its own header places it, axes as in the course."""

    static: Volume
    masks: dict[str, Volume]
    """Values as they are in the files."""
    movie: Volume | None
    """Mean of a sequence over time."""


def raw_scene(subject: Subject, cleaned: CleanSubject) -> Scene:
    """Return the raw images of a subject that could be cleaned.

    Where a header's qform and sform disagree, the image is placed by the wrong one: the one that
    is farther from the clean scan.
    """
    right = load(cleaned.static).affine
    movie = None
    for sequence in subject.sequences:
        if sequence.name in cleaned.sequences and movie is None:
            movie = to_orientation(_time_mean(load(sequence.path)))
    return Scene(
        to_orientation(_wrongly_placed(subject.static[0], right)),
        {bone: to_orientation(load(path)) for bone, path in subject.masks.items()},
        movie,
    )


def clean_scene(cleaned: CleanSubject) -> Scene:
    """Return the clean images of a subject."""
    first = next(iter(cleaned.sequences.values()))
    frames = [load(path) for path in first]
    mean = np.stack([frame.data for frame in frames]).mean(axis=0, dtype=np.float32)
    masks = {bone: load(path) for bone, path in cleaned.masks.items()}
    return Scene(load(cleaned.static), masks, Volume(mean, frames[0].affine))


def frame_means(subjects: Iterable[Subject]) -> dict[str, list[float]]:
    """Return the mean intensity of every frame of every readable raw sequence.

    Labels are as in ``"T01 active_run-01"``.
    """
    means = {}
    for subject in subjects:
        for sequence in subject.sequences:
            try:
                series = load(sequence.path)
            except AnkleError:
                continue
            means[f"{subject.code} {sequence.name}"] = [
                float(series.frame(index).data.mean()) for index in range(series.n_frames)
            ]
    return means


def _wrongly_placed(path: Path, right: NDArray[np.float64]) -> Volume:
    volume = load(path)
    affines = affines_of(read_header(path)).values()
    wrong = max(affines, key=lambda affine: corner_distance_mm(volume.shape, affine, right))
    return Volume(volume.data, wrong)


def _time_mean(series: Volume) -> Volume:
    data = series.data if series.data.ndim == 3 else series.data.mean(axis=3, dtype=np.float32)
    return Volume(data, series.affine)
