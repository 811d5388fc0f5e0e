"""What the networks of chapter 07 are trained on, the two to be used, and how all are scored."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ankle_lib.dynamic.frames import CohortPoses, Frame, StaticBones, read_frames, true_poses
from ankle_lib.files import AnkleError, atomic_path
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.networks import ready_to_predict
from ankle_lib.learning.prediction import Segmenter, predict
from ankle_lib.learning.random_scans import random_scans
from ankle_lib.learning.recipes import Recipe
from ankle_lib.learning.scans import (
    FRAME_NOISE,
    Scan,
    coarser,
    factor_for,
    final_recipe,
    read_scans,
    train_on_scans,
)
from ankle_lib.learning.training import WEIGHTS, Trained
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.metrics import dice, over_subjects
from ankle_lib.parallel import run_all
from ankle_lib.patches.rules import DYNAMIC_SEGMENTATION
from ankle_lib.patches.split import Split, report_split
from ankle_lib.presets import DynamicSizes
from ankle_lib.quality.review_sheet import read_registered

BATCH, RATE = 8, 5e-3
"""Of the experiments' trainings; the rate is the largest of a cycle."""

STILL_TIMES = 3
"""So often static scans count: there is one of a subject, and dozens of frames and random scans."""


@dataclass(frozen=True, eq=False, repr=False)
class DynamicStudy:
    """Frames, static scans, the split and the network to start from.

    Attributes
    ----------
    subjects : tuple of CleanSubject
    train, validation : tuple of Frame
        Of the controls, with the pixels that networks see.
    test : tuple of Frame
        Of the other group, on the frames' own grid.
    static_train, static_test : tuple of Scan
        Static scans of the same subjects, on their own grids.
    static : Trained
        The final network of chapter 05, from which trainings start.
    bones : mapping of subject to StaticBones
    poses : mapping of (subject, sequence) to true poses
        Empty for real scans.
    registered : Path
        Results of chapter 03.
    truth : Path, optional
        Of a simulated cohort.
    split : Split
    sizes : DynamicSizes
    folder : Path
        Where trainings are kept.
    device : str
    """

    subjects: tuple[CleanSubject, ...]
    train: tuple[Frame, ...]
    validation: tuple[Frame, ...]
    test: tuple[Frame, ...]
    static_train: tuple[Scan, ...]
    static_test: tuple[Scan, ...]
    static: Trained
    bones: Mapping[str, StaticBones]
    poses: CohortPoses
    registered: Path
    truth: Path | None
    split: Split
    sizes: DynamicSizes
    folder: Path
    device: str = "cpu"

    @property
    def recipe(self) -> Recipe:
        """The final network's recipe of chapter 05, for short trainings on the report's patches."""
        pixels = DYNAMIC_SEGMENTATION.pixels(self.train[0].scan.pixel_mm)
        return final_recipe([(pixels, self.sizes.steps, BATCH, RATE)])

    def few(self, frames: Sequence[Frame]) -> list[Frame]:
        """Return every so-many-th frame of each sequence: those of the experiments."""
        return [frame for frame in frames if frame.number % self.sizes.frame_step == 0]

    def few_test(self) -> list[Scan]:
        """Return the experiments' test frames, with what they are compared with for labels."""
        return [frame.reference for frame in self.few(self.test)]

    def training(
        self, recipe: Recipe, scans: Sequence[Scan], *, scratch: bool = False, **options: Any
    ) -> Callable[[], Trained]:
        """Return a training that starts from the static scans' network, or from scratch."""
        start = None if scratch else self.static.network
        options |= {"start": start, "device": self.device}
        return partial(train_on_scans, recipe, scans, self.folder, **options)

    def score(self, kinds: Iterable[tuple[Mapping[str, Any], Any, Sequence[Scan]]]) -> pd.DataFrame:
        """Score networks on scans.

        Parameters
        ----------
        kinds : iterable of (columns, networks, scans)
            The columns name what is scored; networks are one Trained, or one for each bone.

        Returns
        -------
        DataFrame
            Those columns, bone, dice_mean, dice_low, dice_high over subjects.
        """
        parts = []
        for columns, networks, scans in kinds:
            networks = networks if isinstance(networks, list) else [networks]
            table = scan_dice(networks, scans, self.sizes.pixel_mm).assign(**columns)
            parts.append(over_subjects(table, [*columns, "bone"], ["dice"]))
        return pd.concat(parts, ignore_index=True)


def read_dynamic_study(
    subjects: Sequence[CleanSubject],
    masked: Path,
    registered: Path,
    static_checkpoint: Path,
    sizes: DynamicSizes,
    folder: Path,
    *,
    truth: Path | None = None,
    device: str = "cpu",
) -> DynamicStudy:
    """Read frames and static scans of all subjects, split as the report did.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    masked, registered : Path
        Results of chapters 02 and 03.
    static_checkpoint : Path
        The final network of chapter 05.
    sizes : DynamicSizes
    folder : Path
        Where trainings are kept.
    truth : Path, optional
        Of a simulated cohort; read to evaluate, and for the experiment on labels.
    device : str
        "cpu" or "cuda".

    Raises
    ------
    AnkleError
        If nobody is left to test on, or no frame of a control has an accepted bone.
    """
    split = report_split(subjects, tested=True)
    train, validation, test = (split.pick(subjects, p) for p in ("train", "validation", "test"))
    given, pixel_mm = (masked, read_registered(registered), truth), sizes.pixel_mm
    frames = tuple(one.with_pixels(pixel_mm) for one in read_frames(train, *given, to_learn=True))
    if not any(frame.scan.item.labels for frame in frames):
        raise AnkleError(
            "no registration of a control was accepted, so there is no label to learn from: look "
            "at the review sheet of chapter 03"
        )
    return DynamicStudy(
        tuple(subjects),
        frames,
        tuple(one.with_pixels(pixel_mm) for one in read_frames(validation, *given)),
        tuple(read_frames(test, *given)),
        read_scans(train, masked),
        read_scans(test, masked),
        _static(static_checkpoint, folder / "static", device),
        {one.code: StaticBones.read(one) for one in subjects},
        true_poses(subjects, truth) if truth else {},
        registered,
        truth,
        split,
        sizes,
        folder,
        device,
    )


def _static(checkpoint: Path, folder: Path, device: str) -> Trained:
    """Return the network of chapter 05; a copy of it lies where its scores are remembered."""
    with atomic_path(folder / WEIGHTS) as copy:
        shutil.copyfile(checkpoint, copy)
    nothing = pd.DataFrame({"step": []})
    network = ready_to_predict(load_checkpoint(checkpoint).network, device)
    return Trained(network, final_recipe([]), nothing, nothing, folder)


def scan_dice(networks: Sequence[Trained], scans: Sequence[Scan], pixel_mm: float) -> pd.DataFrame:
    """Score a network for all bones, or one for each, on scans; done once per network.

    Parameters
    ----------
    networks : sequence of Trained
    scans : sequence of Scan
        On their own grids, with the labels to compare with.
    pixel_mm : float
        Pixels that images are brought to, as `ankle segment` does; the networks were trained on
        whole multiples of each scan's own, about as large.

    Returns
    -------
    DataFrame
        Columns subject, bone, dice: means over the subject's scans in which the bone is known.
    """
    segmenter = Segmenter.of(*networks, pixel_mm=pixel_mm)

    def work() -> pd.DataFrame:
        rows = []
        for scan in scans:
            item = scan.item
            found = predict(item.image, scan.voxel_size_mm, segmenter, foot=item.region)
            rows += [(scan.code, b, dice(found.mask(b), mask)) for b, mask in item.labels.items()]
        table = pd.DataFrame(rows, columns=["subject", "bone", "dice"])
        return table.groupby(["subject", "bone"], sort=False, as_index=False).mean()

    others = [one.folder.name for one in networks[1:]]
    settings = [pixel_mm, others, [[scan.code, scan.checksum] for scan in scans]]
    return networks[0].remembered("dice", work, settings)


def paint_anew(study: DynamicStudy, seed: int = 0) -> list[Scan]:
    """Return random scans made from the static scans of the training subjects."""
    made = run_all(
        partial(_painted, study.sizes, seed),
        list(enumerate(study.static_train)),
        desc="making random scans",
    )
    return [scan for scans in made for scan in scans]


def _painted(sizes: DynamicSizes, seed: int, numbered: tuple[int, Scan]) -> list[Scan]:
    number, scan = numbered
    rng = np.random.default_rng([seed, number])
    return random_scans(scan, sizes.n_random, rng, pixel_mm=sizes.pixel_mm)


def train_final(study: DynamicStudy, random: Sequence[Scan]) -> tuple[Trained, Trained]:
    """Train the network for everything, and the specialist for frames.

    Both start from the static scans' network. The one learns from frames, static scans and random
    scans; the static scans, of which there are few, count three times. The specialist learns from
    frames only, in a third of the steps: no fewer frames than the other is shown.

    Parameters
    ----------
    study : DynamicStudy
    random : sequence of Scan
        From `paint_anew`.

    Returns
    -------
    one, specialist : Trained
    """
    pixel_mm = study.sizes.pixel_mm
    still = [coarser(s, factor_for(s, pixel_mm), to_learn=True) for s in study.static_train]
    frames = [frame.scan for frame in study.train if frame.scan.item.labels]
    recipe = final_recipe(study.sizes.final_stages, noise=FRAME_NOISE)
    third = tuple(replace(one, steps=max(1, one.steps // 3)) for one in recipe.stages)
    one = study.training(recipe, [*frames, *still * STILL_TIMES, *random])
    specialist = study.training(replace(recipe, stages=third), frames)
    return one(), specialist()
