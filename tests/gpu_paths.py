"""Small pieces of every chapter on the device "cuda", for tests with a pretended one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from ankle_lib.dynamic.contest import hold_contest, poses_from_masks
from ankle_lib.foot.reading import Scans
from ankle_lib.foot.reconstruct import reconstruct
from ankle_lib.foot.register import register_scans
from ankle_lib.foot.segment import segment_scan
from ankle_lib.gadolinium import lesion_networks
from ankle_lib.learning.networks import ready_to_predict
from ankle_lib.learning.prediction import Segmenter
from ankle_lib.learning.recipes import Recipe, Stage
from ankle_lib.learning.scans import draw_patches, patch_source, train_on_scans
from ankle_lib.learning.training import Trained
from ankle_lib.modalities import arms, synthesis
from ankle_lib.modalities.unpaired_scans import Regime
from ankle_lib.patches.counting import count_cohort
from ankle_lib.patches.source import Augmentation
from ankle_lib.phantom.simulate import simulate
from ankle_lib.phantom.tomography import simulate_pairs
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.reconstruction import refiner, report_networks
from ankle_lib.reconstruction.report_pairs import IN_2020, read_pairs, unselected_pairs
from ankle_lib.reconstruction.scene_scores import BASELINES, score_scenes
from ankle_lib.reconstruction.sharp_scenes import read_scenes
from ankle_lib.registration.engines import Resolution, Settings
from ankle_lib.registration.every_sequence import Variant, register_cohort
from ankle_lib.segmentation.study import read_study, score_final, train_final
from ankle_lib.small_data import constraints
from ankle_lib.small_data.adaptation import least_entropy
from ankle_lib.small_data.implicit import fit_sequence
from ankle_lib.stroke import fair_trials
from ankle_lib.volume import save
from tests.dynamic.toy_frames import courses, perfect, static_bones, toy_frames, written_ankle
from tests.gadolinium.test_lesion_networks import toy_lesions
from tests.modalities.toy_children import toy_study
from tests.reconstruction.toy_scene import toy_pairs, toy_truth
from tests.small_data.toy_target import blocks
from tests.stroke import toy_heads
from tests.toy_ankle import oblique_affine
from tests.toy_motion import motion
from tests.toy_scans import SIZES, Reader, written
from tests.toy_segmenter import GREY, SHAPE, VOXEL_MM, by_hand, rendered

GPU = "cuda"


def on_gpu(network: Any) -> bool:
    return next(network.parameters()).device.type == GPU


def simulate_a_subject(folder: Path) -> None:
    shape, voxel_mm = (48, 48, 20), (3.4, 3.4, 4.3)
    tiny = dataclasses.replace(
        PRESETS["smoke"], subjects=("T09",), n_frames=2, anatomy_voxel_mm=4.0,
        static_shape=shape, static_voxel_mm=voxel_mm,
    )  # fmt: skip
    simulate(tiny, folder / "cohort", device=GPU)


def compare_modalities(folder: Path) -> None:
    shape, voxel_mm = (40, 40, 20), (4.0, 4.0, 4.0)
    tiny = dataclasses.replace(
        PRESETS["smoke"], static_shape=shape, static_voxel_mm=voxel_mm, anatomy_voxel_mm=4.0
    )
    simulate_pairs(tiny, 4.0, ["T31"], folder / "pairs", device=GPU)
    study = dataclasses.replace(toy_study(folder / "trainings"), device=GPU)
    regime = Regime(1, 2)
    runs = [arms.Run(arm, regime) for arm in (arms.ALONE, arms.DISTILLED, arms.BOTH)]
    fitted = study.fit_all([*runs, arms.Run(arms.CONTRASTED, regime)])
    assert on_gpu(fitted[runs[1]]["mr"].network)
    arms.scores_of(study, fitted)
    arms.relations_of(study, fitted[runs[1]]["mr"])
    seen = regime.children(study.train)
    made = synthesis.make_all(study, seen["ct"], seen)
    synthesis.judge_synthesis(study, made, fitted[runs[0]])


def segment_strokes(folder: Path) -> None:
    study = dataclasses.replace(toy_heads.toy_study(folder / "trainings"), device=GPU)
    runs = [fair_trials.Run(arm, 2, 1) for arm in (fair_trials.MIRROR, fair_trials.OWN_TRANSFORMER)]
    fitted = study.fit_all(runs)
    assert all(on_gpu(trained.network) for trained in fitted.values())
    fair_trials.scores_of(study, fitted)


def register_frames(folder: Path) -> None:
    ankle = motion((0.0, 8.0))
    person, _ = written_ankle(ankle, folder)
    foot = folder / "02" / "sub-E01" / "sub-E01_static_desc-foot_mask.nii.gz"
    save(foot, ankle.static.data > 100, ankle.static.affine)
    coarse = Settings(resolutions=(Resolution(3.0, (3.0, 3.0), 3, 6),))
    options: Any = {"masked": folder / "02", "device": GPU}
    register_cohort([person], folder / "03", variant=Variant(settings=coarse), **options)


def count_patches(folder: Path) -> None:
    people = [written(folder, code) for code in ("T01", "E01")]
    count_cohort(people, folder, [], device=GPU)


def segment_static_scans(folder: Path) -> None:
    people = [written(folder, code) for code in ("T01", "T02", "T03", "E01")]
    study = read_study(people, folder, SIZES, folder / "trainings", device=GPU)
    small: Any = {"depth": 2, "width": 4, "n_validation": 4, "keep_best": True}
    recipe = study.report_recipe("unet", "talus", **small)
    (trained,) = study.fit_all([recipe]).values()
    assert on_gpu(trained.network)
    for as_2020 in (True, False):
        study.patch_scores(trained, "test", batchnorm_training=as_2020)
        study.volume_scores(trained, batchnorm_training=as_2020, tile=16)
    draw_patches(study.scans[0], BONES, 16, 4, device=GPU)
    score_final(train_final(study), study)


def reconstruct_as_the_report(folder: Path) -> None:
    people, accepted = toy_pairs(folder)
    sizes = dataclasses.replace(PRESETS["smoke"].reconstruction, pair_frame_step=1, n_patches=3)
    pairs = read_pairs(people, accepted, sizes, folder / "trainings", device=GPU)
    recipe = report_networks.report_recipe(2, depth=1, width=2)
    trained = report_networks.train_on_pairs(pairs, recipe)
    answers = {"any": report_networks.any_weights()}
    answers |= {"trained": report_networks.answer_of(trained.network)}
    report_networks.score_patches(pairs, answers)
    network, _ = report_networks.learn_weight(pairs, recipe)
    assert on_gpu(network)
    unselected_pairs(people, accepted, pairs, {"as in 2020": IN_2020}, n_patches=3)


def reconstruct_sharp_frames(folder: Path) -> None:
    scenes = read_scenes(*toy_truth(folder), most=1, with_guided=True, device=GPU)
    sizes = dataclasses.replace(
        PRESETS["smoke"].reconstruction, pixels=16, width=2, trial_steps=1, slice_step=4
    )
    trained = refiner.train_refiner(
        refiner.refine_recipe(sizes, sizes.trial_steps), scenes, folder / "trainings", GPU
    )
    answer = refiner.refined_by(refiner.refiner_of(trained), sizes.slice_step)
    score_scenes(scenes, BASELINES | {"network": answer}, step=sizes.slice_step)
    path = refiner.save_refiner(folder / "final.ckpt", trained, scenes)
    network = refiner.read_refiner(path, GPU)
    assert on_gpu(network.network)
    ankle = motion((12.0,))
    scans = Scans(ankle.static, ankle.static.grid, ankle.frames, ankle.masks, ())
    files = [folder / name for name in ("sharp.nii", "table.csv", "residual.nii", "film.png")]
    reconstruct(scans, ankle.poses, files, refiner=network, device=GPU)


def segment_frames(folder: Path) -> None:
    ankle = motion((0.0, 8.0))
    person, registered = written_ankle(ankle, folder)
    bones = static_bones(ankle)
    frames = toy_frames(ankle, bones)
    network: Any = ready_to_predict(Reader(), GPU)
    (folder / "network.ckpt").write_bytes(b"weights")
    nothing = pd.DataFrame()
    trained = Trained(network, Recipe((Stage(16, 1),)), nothing, nothing, folder)
    study: Any = SimpleNamespace(
        subjects=[person], test=frames, registered=registered, device=GPU,
        poses={("E01", "active_run-01"): courses(ankle)}, sizes=SimpleNamespace(pixel_mm=2.0),
    )  # fmt: skip
    hold_contest(study, trained, folder / "contest")
    # the network knows no bones in these frames, so poses are found from what it should have seen
    poses_from_masks([perfect(one) for one in frames], frames[0].affine, bones, GPU)


def segment_own_scan(folder: Path) -> None:
    scan = rendered(SHAPE, oblique_affine(SHAPE, VOXEL_MM))
    network = by_hand(scan, [*GREY.values(), 1900])
    segmenter = Segmenter(ready_to_predict(network, GPU), BONES, VOXEL_MM[:2])
    assert segment_scan(scan, segmenter, device=GPU).table["volume_cm3"].all()


def register_own_scan(folder: Path) -> None:
    ankle = motion((0.0, 8.0))
    talus = {"talus": ankle.masks["talus"]}
    scans = Scans(ankle.static, ankle.static.grid, ankle.frames, talus, ())
    register_scans(scans, folder, device=GPU, high_resolution=False)


def know_anatomy(folder: Path) -> None:
    scan = blocks(2)
    shape, _ = constraints.learn_shapes([scan], 16, 1, Augmentation(), folder / "shapes.json")
    recipe = Recipe((Stage(16, 1, 2),), depth=2, width=2, loss="dice+bce", min_fraction=0.2)
    known = (constraints.GapPenalty(1), shape)
    trained = train_on_scans(recipe, [scan], folder / "trainings", penalties=known, device=GPU)
    source = patch_source([scan], BONES, 16, 0.2, GPU)
    assert on_gpu(least_entropy(trained.network, source, 1))
    ankle = motion((0.0, 8.0))
    sequence = fit_sequence(ankle.frames, 1, device=GPU)
    assert on_gpu(sequence)
    sequence.at(0, ankle.static.grid)


def rate_lesions(folder: Path) -> None:
    lesions = toy_lesions(8)
    plan = lesion_networks.Plan(steps=2, width=2, dropout="fixed", modality_dropout=True)
    network = lesion_networks.train_once(plan, lesions, folder, GPU)
    assert on_gpu(network)
    lesion_networks.scores(network, lesions, draws=2, device=GPU)
    lesion_networks.rate_trials(plan, toy_lesions(48), folder, GPU)


PATHS = (
    simulate_a_subject,
    compare_modalities,
    segment_strokes,
    register_frames,
    count_patches,
    segment_static_scans,
    reconstruct_as_the_report,
    reconstruct_sharp_frames,
    segment_frames,
    segment_own_scan,
    register_own_scan,
    know_anatomy,
    rate_lesions,
)
