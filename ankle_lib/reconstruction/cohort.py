"""Scenes of a cohort, from the folders that earlier chapters wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.parallel import run_all
from ankle_lib.quality.registered import RegisteredFrame
from ankle_lib.reconstruction.guided import guided
from ankle_lib.reconstruction.polyrigid import MovingFoot, moved_static
from ankle_lib.reconstruction.scenes import Scene, make_scene
from ankle_lib.reconstruction.thick import scanning
from ankle_lib.registration.every_sequence import sequence_images
from ankle_lib.registration.truth import read_sharp
from ankle_lib.volume import Volume, load, to_orientation

Poses = dict[str, NDArray[np.float64]]


def read_scenes(
    subjects: Sequence[CleanSubject],
    accepted: Sequence[RegisteredFrame],
    truth: Path,
    *,
    most: int | None = None,
    with_guided: bool = False,
    device: str = "cpu",
) -> list[Scene]:
    """Read every frame whose sharp truth is known and whose bones were registered.

    The static scan is moved by the accepted poses, never by the true ones.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    accepted : sequence of RegisteredFrame
        From `quality.read_registered`.
    truth : Path
        Of the simulated cohort; see `registration.truth.read_sharp`.
    most : int, optional
        Scenes per subject; of every sequence in turn.
    with_guided : bool
        Reconstruct each frame without training too, see `guided`.
    device : str
        On which the static scan is moved.

    Returns
    -------
    list of Scene
        Empty for real scans.
    """
    read = partial(
        _scenes_of,
        accepted=accepted,
        truth=truth,
        most=most,
        with_guided=with_guided,
        device=device,
    )
    jobs = None if device == "cpu" else 1  # processes would each hold a part of the GPU's memory
    found = run_all(read, subjects, n_jobs=jobs, progress=False)
    return [scene for scenes in found for scene in scenes]


def _scenes_of(
    subject: CleanSubject,
    *,
    accepted: Sequence[RegisteredFrame],
    truth: Path,
    most: int | None,
    with_guided: bool,
    device: str,
) -> list[Scene]:
    chosen = list(_sharp_frames(subject, accepted, truth))[:most]
    if not chosen:
        return []
    static = to_orientation(load(subject.static))
    masks = {bone: to_orientation(load(path)) for bone, path in subject.masks.items()}
    foot = MovingFoot.prepare(static, {b: m.data > 0 for b, m in masks.items()}, device)
    scenes = []
    for sequence, frame, sharp, poses in chosen:
        found = moved_static(foot, poses, sharp.shape, sharp.affine)
        scene = make_scene(
            subject.code,
            f"{sequence} frame {frame}",
            subject.group,
            to_orientation(load(subject.sequences[sequence][frame])),
            static,
            masks,
            poses,
            sharp.shape,
            sharp.affine,
            truth=sharp.data,
            move=lambda *_, found=found: found.volume.data,
        )
        if with_guided:
            seen = scanning(sequence_images(subject, sequence)[0])
            sure = guided(found, scene.frame, seen=seen, device=device).volume.data
            scene = replace(scene, guided=sure, covered=found.covered, scanning=seen)
        scenes.append(scene)
    return scenes


def _sharp_frames(
    subject: CleanSubject, accepted: Sequence[RegisteredFrame], truth: Path
) -> Iterator[tuple[str, int, Volume, Poses]]:
    """Yield sequence, frame, sharp truth and poses: each sequence's last frame, then the others.

    The last one is the frame of the largest excursion.
    """
    known = {name: read_sharp(truth, subject.code, name) for name in subject.sequences}
    ordered = sorted(
        (-place, name, frame)
        for name, frames in known.items()
        for place, frame in enumerate(sorted(frames))
    )
    for _, name, frame in ordered:
        poses = {
            one.bone: one.pose
            for one in accepted
            if (one.subject, one.sequence, one.frame) == (subject.code, name, frame)
        }
        if poses:
            yield name, frame, known[name][frame], poses
