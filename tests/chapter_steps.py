"""A small step of every chapter: its own work and writers, on toys, into any folder.

``python -m tests.chapter_steps N`` does the step that it is given on standard input, and is killed
at its N-th file.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from ankle_lib.cleaning.clean import clean_cohort
from ankle_lib.dynamic.contest import hold_contest
from ankle_lib.files import write_csv
from ankle_lib.learning.prediction import save_segmenter
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import train_on_scans
from ankle_lib.learning.training import Trained
from ankle_lib.masking.mask_images import mask_cohort
from ankle_lib.patches.counting import count_cohort
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.quality.gate import fit_gate
from ankle_lib.reconstruction import refiner
from ankle_lib.reconstruction.scene_scores import BASELINES, score_scenes
from ankle_lib.reconstruction.sharp_scenes import read_scenes
from ankle_lib.registration.engines import Resolution, Settings
from ankle_lib.registration.every_sequence import Variant, judge, register_cohort
from ankle_lib.segmentation.study import read_study, score_final, train_final
from ankle_lib.volume import save
from tests.cleaning.test_clean import cohort_of
from tests.dynamic.toy_frames import courses, static_bones, toy_frames, written_ankle
from tests.reconstruction.toy_scene import toy_truth
from tests.toy_ankle import toy_ankle
from tests.toy_motion import motion
from tests.toy_scans import SIZES, Reader, small_recipe, written

Step = Callable[[Path], Any]
"""Works and writes into a folder; what was finished there is not done again."""


def clean(given: Path) -> Step:
    people = [toy_ankle().write(given, code) for code in ("T01", "T02")]
    return partial(clean_cohort, cohort_of(*people))


def mask(given: Path) -> Step:
    person, _ = written_ankle(motion((0.0, 8.0)), given)
    return partial(mask_cohort, [person])


def register(given: Path) -> Step:
    ankle = motion((0.0, 8.0))
    person, _ = written_ankle(ankle, given)
    foot = given / "sub-E01" / "sub-E01_static_desc-foot_mask.nii.gz"
    save(foot, ankle.static.data > 100, ankle.static.affine)
    return partial(_register, person, given)


def _register(person: Any, masked: Path, out: Path) -> None:
    coarse = Settings(resolutions=(Resolution(3.0, (3.0, 3.0), 3, 6),))
    table = register_cohort([person], out, masked=masked, variant=Variant(settings=coarse))
    judge(table, {"bone": fit_gate(table["correlation"], table["dice"])}, out)


def count(given: Path) -> Step:
    return partial(_count, [written(given, code) for code in ("T01", "E01")], given)


def _count(people: Any, masked: Path, out: Path) -> None:
    found = count_cohort(people, masked, [])
    write_csv(out / "tables" / "images.csv", found.images)
    write_csv(out / "tables" / "patches.csv", found.images.groupby("bone").sum().reset_index())


def segment(given: Path) -> Step:
    people = [written(given, code) for code in ("T01", "T02", "T03", "E01")]
    return partial(_segment, people, given)


def _segment(people: Any, masked: Path, out: Path) -> None:
    study = read_study(people, masked, SIZES, out / "trainings")
    final = train_final(study)
    checkpoint = out / "networks" / "final.ckpt"
    save_segmenter(checkpoint, final, study.final_pixel_mm, study.split.train)
    write_csv(out / "tables" / "final.csv", score_final(final, study))


def sharpen(given: Path) -> Step:
    return partial(_sharpen, *toy_truth(given))


def _sharpen(people: Any, accepted: Any, truth: Path, out: Path) -> None:
    scenes = read_scenes(people, accepted, truth, most=1)
    sizes = replace(PRESETS["smoke"].reconstruction, pixels=16, width=2)
    final = refiner.train_refiner(refiner.refine_recipe(sizes, 2), scenes, out / "trainings")
    refiner.save_refiner(out / "networks" / "final.ckpt", final, scenes)
    answers = BASELINES | {"network": refiner.refined_by(refiner.refiner_of(final), 4)}
    write_csv(out / "tables" / "reconstruction.csv", score_scenes(scenes, answers, step=4))


def follow(given: Path) -> Step:
    ankle = motion((0.0, 8.0))
    person, registered = written_ankle(ankle, given)
    frames = toy_frames(ankle, static_bones(ankle))
    (given / "network.ckpt").write_bytes(b"weights")
    nothing, network = pd.DataFrame(), Reader()
    trained = Trained(network, Recipe((Stage(16, 1),)), nothing, nothing, given)  # type: ignore
    study = SimpleNamespace(
        subjects=[person], test=frames, registered=registered, device="cpu",
        poses={("E01", "active_run-01"): courses(ankle)}, sizes=SimpleNamespace(pixel_mm=2.0),
    )  # fmt: skip
    return partial(_follow, study, trained)


def _follow(study: Any, trained: Trained, out: Path) -> None:
    scans = [frame.scan for frame in study.test]
    final = train_on_scans(small_recipe(labels=BONES), scans, out / "trainings")
    save_segmenter(out / "networks" / "final.ckpt", final, 2.0, ["E01"])
    write_csv(out / "tables" / "frames.csv", hold_contest(study, trained, out / "contest").scores)


STEPS: dict[str, Callable[[Path], Step]] = {
    "01_data_cleaning": clean,
    "02_masking": mask,
    "03_registration": register,
    "04_patch_extraction": count,
    "05_static_segmentation": segment,
    "06_hr_reconstruction": sharpen,
    "07_dynamic_segmentation": follow,
}
"""Of each chapter: writes what its step reads, and returns the step, which can be pickled."""


def killed_at(number: int, step: Step, out: Path) -> None:
    """Do a step, with ``kill -9`` when its file of this number is to get its name."""
    renamed = itertools.count(1)

    def watch(event: str, arguments: Any) -> None:
        if event == "os.rename" and next(renamed) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "open" and _is_final(*arguments, out):
            os._exit(1)  # it would be there when it is half written

    sys.addaudithook(watch)
    step(out)


def _is_final(path: Any, mode: Any, flags: int, out: Path) -> bool:
    """Tell whether a file in a folder is opened for writing under a name that others read."""
    place = Path(str(path))  # or a number
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    return bool(writes) and place.is_relative_to(out) and not place.name.startswith(".")


if __name__ == "__main__":
    killed_at(int(sys.argv[1]), *pickle.load(sys.stdin.buffer))
