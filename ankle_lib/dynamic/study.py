"""What all experiments of chapter 07 share: frames, static scans, the split, first weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd

from ankle_lib.dynamic.frames import Frame, read_frames
from ankle_lib.files import AnkleError, atomic_path
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.networks import ready_to_predict
from ankle_lib.learning.scans import Scan, final_recipe, read_scans, train_on_scans
from ankle_lib.learning.training import Recipe, Trained, train_side_by_side
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.patches.split import Split, report_split
from ankle_lib.patches.tasks import DYNAMIC_SEGMENTATION
from ankle_lib.presets import BONES, DynamicSizes
from ankle_lib.quality.registered import RegisteredFrame

BATCH, RATE = 8, 5e-3
"""Of the experiments' trainings; the rate is the largest of a cycle."""

MORE_NOISE = 0.35
"""For frames of other scanners, see `patches.Augmentation`."""


@dataclass(frozen=True)
class DynamicStudy:
    """Everything but the recipe.

    Attributes
    ----------
    train, validation : tuple of Frame
        Of the controls, with the pixels that networks see.
    test : tuple of Frame
        Of the other group, on the frames' own grid.
    static_train, static_test : tuple of Scan
        Static scans of the same subjects, on their own grids.
    static : Trained
        The final network of chapter 05, from which trainings start.
    split : Split
    sizes : DynamicSizes
    folder : Path
        Where trainings are kept.
    device : str
    progress : bool
    """

    train: tuple[Frame, ...]
    validation: tuple[Frame, ...]
    test: tuple[Frame, ...]
    static_train: tuple[Scan, ...]
    static_test: tuple[Scan, ...]
    static: Trained = field(repr=False)
    split: Split
    sizes: DynamicSizes
    folder: Path
    device: str = "cpu"
    progress: bool = False

    @property
    def labelled(self) -> list[Scan]:
        """Training frames with at least one accepted bone; the others' labels are unknown."""
        return [frame.scan for frame in self.train if frame.scan.item.labels]

    def few(self, frames: Sequence[Frame]) -> list[Frame]:
        """Return every so-many-th frame of each sequence: those of the experiments."""
        return [frame for frame in frames if frame.number % self.sizes.frame_step == 0]

    @property
    def recipe(self) -> Recipe:
        """The final network's recipe of chapter 05, for short trainings on the report's patches."""
        pixels = DYNAMIC_SEGMENTATION.pixels(self.train[0].scan.pixel_mm)
        return final_recipe([(pixels, self.sizes.steps, BATCH, RATE)])

    @property
    def long_recipe(self) -> Recipe:
        """The same for the network that is to be used, for other scanners' frames too."""
        recipe = final_recipe(self.sizes.final_stages)
        return replace(recipe, augmentation=replace(recipe.augmentation, noise=MORE_NOISE))

    def task(
        self, recipe: Recipe, scans: Sequence[Scan], *, scratch: bool = False
    ) -> Callable[[], Trained]:
        """Return a training that starts from the static scans' network, or from scratch."""
        return partial(
            train_on_scans,
            recipe,
            scans,
            self.folder,
            start=None if scratch else self.static.network,
            device=self.device,
            progress=self.progress,
        )

    def fit_all(
        self, tasks: Sequence[Callable[[], Trained]], *, side_by_side: bool = True
    ) -> list[Trained]:
        """Train networks, or read what was trained before.

        Side by side, each on a core, is faster for short trainings of small networks; one after
        the other for a few of which one takes longest. A GPU does one after the other.
        """
        if side_by_side:
            return train_side_by_side(tasks, device=self.device, progress=self.progress)
        return [task() for task in tasks]


def read_dynamic_study(
    subjects: Sequence[CleanSubject],
    masked: Path,
    accepted: Sequence[RegisteredFrame],
    static_checkpoint: Path,
    sizes: DynamicSizes,
    folder: Path,
    *,
    truth: Path | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> DynamicStudy:
    """Read frames and static scans of all subjects, split as the report did.

    Parameters
    ----------
    subjects : sequence of CleanSubject
    masked : Path
        Results of chapter 02.
    accepted : sequence of RegisteredFrame
        From `quality.read_registered`.
    static_checkpoint : Path
        The final network of chapter 05.
    sizes : DynamicSizes
    folder : Path
        Where trainings are kept.
    truth : Path, optional
        Of a simulated cohort; read to evaluate, and for the experiment on labels.
    device : str
        "cpu" or "cuda".
    progress : bool
        Show bars.

    Raises
    ------
    AnkleError
        If nobody is left to test on, or no frame of a control has an accepted bone.
    """
    split = report_split(subjects, tested=True)
    train, validation, test = (split.pick(subjects, p) for p in ("train", "validation", "test"))
    folders = (masked, accepted, truth)
    study = DynamicStudy(
        tuple(read_frames(train, *folders, pixel_mm=sizes.pixel_mm, to_learn=True)),
        tuple(read_frames(validation, *folders, pixel_mm=sizes.pixel_mm)),
        tuple(read_frames(test, *folders)),
        read_scans(train, masked),
        read_scans(test, masked),
        _static(static_checkpoint, folder / "static", device),
        split,
        sizes,
        folder,
        device,
        progress,
    )
    if not study.labelled:
        raise AnkleError(
            "no registration of a control was accepted, so there is no label to learn from: look "
            "at the review sheet of chapter 03"
        )
    return study


def _static(checkpoint: Path, folder: Path, device: str) -> Trained:
    """Return the network of chapter 05; a copy of it lies where its scores are remembered."""
    copy = folder / "network.ckpt"
    if not copy.exists() or copy.read_bytes() != checkpoint.read_bytes():
        with atomic_path(copy) as new:
            new.write_bytes(checkpoint.read_bytes())
    read = load_checkpoint(copy)
    recipe = replace(final_recipe([]), labels=tuple(read.labels))
    context = read.training.get("input", {}).get("context_mm")
    if tuple(read.labels) != BONES or list(context or ()) != list(recipe.context_mm):
        raise AnkleError(
            f"{checkpoint}: segments {', '.join(read.labels)} with slices at {context} mm, "
            f"expected {', '.join(BONES)} at {recipe.context_mm}: use the final network of "
            "chapter 05"
        )
    nothing = pd.DataFrame({"step": []})
    network = ready_to_predict(read.network, device)
    return Trained(network, recipe, nothing, nothing, folder)
