from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ankle_lib.reconstruction.pairs import SceneSource, channels_of, restored
from ankle_lib.reconstruction.refiner_training import RefineRecipe
from ankle_lib.reconstruction.report import decides
from ankle_lib.reconstruction.scenes import Scene
from ankle_lib.reconstruction.sequence import grid_of_bones
from ankle_lib.reconstruction.trials import TITLES, Trials
from ankle_lib.reconstruction.weighting import LearntWeight, learn_weight
from scipy import ndimage
from torch import Tensor, nn

from ankle_lib import reconstruction
from ankle_lib.files import AnkleError
from ankle_lib.geometry import rigid
from ankle_lib.learning.checkpoints import load_checkpoint
from ankle_lib.learning.losses import compute_loss
from ankle_lib.learning.networks import build
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.metrics import image_scores, intensity_range
from ankle_lib.patches.source import Batch
from ankle_lib.patches.split import Split
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.quality.registered import RegisteredFrame
from ankle_lib.reconstruction.report_pairs import Pairs, patch_items
from ankle_lib.registration.moving import moved, moved_mask
from ankle_lib.volume import Volume, save
from tests.toy_ankle import oblique_affine, toy_ankle

SIZES = replace(
    PRESETS["smoke"].reconstruction,
    pair_frame_step=1,
    pair_steps=2,
    depths=(1, 3),
    n_patches=3,
    pixels=16,
    width=2,
    trial_steps=2,
    final_steps=3,
    slice_step=2,
)
SMALL = RefineRecipe(pixels=16, steps=2, batch_size=2, depth=2, width=2)
FRAME_SHAPE = (56, 56, 6)
POSE = rigid((6, 0, 2), (1, 2, 0), (0, -20, 5))


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A toy foot turned by a pose; the truth is its own static scan in another contrast."""
    return toy_scene("T01")


def toy_scene(code: str, seed: int = 0) -> Scene:
    ankle = toy_ankle(seed)
    static = Volume(ankle.static.data.astype(np.float32), ankle.static.affine)
    poses = dict.fromkeys(ankle.masks, POSE)
    masks = {bone: mask.data > 0 for bone, mask in ankle.masks.items()}
    shape, affine = grid_of_bones(static, masks, [poses])
    sharp = Volume(1500 - 0.8 * static.data, static.affine)
    truth = moved(sharp, POSE, shape, affine, fill=1500.0).data
    frame_affine = oblique_affine(FRAME_SHAPE, (3.0, 3.0, 8.0))
    frame_affine[:3, 3] += POSE[:3, 3]
    frame = moved(sharp, POSE, FRAME_SHAPE, frame_affine, slice_samples=4, fill=1500.0)
    group = "control" if code.startswith("T") else "equinus"
    return reconstruction.make_scene(
        *(code, "active_run-01 frame 2", group, frame, static, ankle.masks, poses, shape, affine),
        truth=truth,
    )


# --- the bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixels", "degrees"), [(32, 64), (20, 25), (16, 16)])
def test_a_patch_has_one_degree_of_freedom_in_sixteen(pixels: int, degrees: int) -> None:
    basis = reconstruction.reachable_basis(pixels)
    assert basis.shape == (pixels**2, degrees)
    np.testing.assert_allclose(basis.T @ basis, np.eye(degrees), atol=1e-12)
    assert np.linalg.matrix_rank(basis) == degrees == reconstruction.degrees_of_freedom(pixels)


@pytest.mark.parametrize(("depth", "factor"), [(3, 4), (2, 2)])
def test_whatever_its_weights_the_resnet_stays_within_reach(depth: int, factor: int) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        network = build("resnet-basic", head="intensity", depth=depth, width=4).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.5)
            outputs = network(torch.randn(4, 1, 32, 32))
        assert float(outputs.std()) > 1e-3
        assert reconstruction.outside_reach(outputs, factor) < 1e-5


def test_all_that_is_within_reach_can_be_given() -> None:
    """The bound is no tighter than the truth: some weights give any element of the basis."""
    coarse = torch.randn(1, 1, 8, 8)
    given = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    assert reconstruction.outside_reach(given) < 1e-6
    torch.testing.assert_close(reconstruction.best_reachable(given), given, atol=1e-5, rtol=0)


def test_other_networks_are_not_so_bound() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = build("unet", head="intensity", width=4).eval()(torch.randn(2, 1, 32, 32))
    assert reconstruction.outside_reach(outputs - outputs.mean()) > 0.1


def test_no_weights_are_better_than_the_projection() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1, 1, 20, 20, generator=generator)
    best = reconstruction.best_reachable(target)
    least = float((best - target).square().mean())
    most = float(np.corrcoef(best.ravel(), target.ravel())[0, 1])
    for _ in range(50):
        coarse = torch.randn(1, 1, 5, 5, generator=generator)
        other = best + 0.3 * nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
        assert float((other - target).square().mean()) > least
        assert float(np.corrcoef(other.ravel(), target.ravel())[0, 1]) < most
    torch.testing.assert_close(reconstruction.best_reachable(target, 1), target)


def test_the_bound_refuses_what_is_no_patch() -> None:
    with pytest.raises(AnkleError, match=r"\(n, 1, h, h\)"):
        reconstruction.best_reachable(torch.zeros(2, 1, 8, 12))


# --- weights -------------------------------------------------------------------------------------


def test_the_reports_weight_is_flat_above_its_selection() -> None:
    assert reconstruction.report_g([0.5])[0] == pytest.approx(0.5)
    found = reconstruction.flatness(np.linspace(0.6, 1.0, 401))
    assert found["g_least"] == pytest.approx(0.731, abs=1e-3)
    assert found["g_high"] < 0.994
    assert found["as_good_as"] > 0.99
    uneven = reconstruction.flatness(np.linspace(0.0, 1.0, 401))  # without the selection
    assert uneven["as_good_as"] < 0.75


class Patches:
    """Pairs whose error grows as their correlation falls."""

    device = torch.device("cpu")

    def draw(self, n: int, generator: torch.Generator) -> Any:
        r = 0.6 + 0.4 * torch.rand(n, generator=generator)
        noise = torch.randn((n, 1, 8, 8), generator=generator)
        target = noise * torch.exp(-4 * (r - 0.6))[:, None, None, None]
        ones = torch.ones((n, 1), dtype=torch.bool)
        return Batch(torch.zeros_like(target), target, ones, r, torch.zeros((n, 3)), str)


def test_a_learnt_weight_is_not_zero_and_follows_the_error(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 400, "batch_size": 32, "learning_rate": 1e-3}
    arguments = {"depth": 1, "width": 1}
    source: Any = Patches()
    fitted, weight = learn_weight(tmp_path, "toy", source, arguments, name="fcn", **options)
    assert weight.slope == pytest.approx(4.0, abs=1.0)
    assert float(weight(1.0)) == 1.0
    assert 0.1 < float(weight(0.6)) < 0.4
    assert np.isfinite(fitted.losses["loss"]).all()
    again, same = learn_weight(tmp_path, "toy", source, arguments, name="fcn", **options)
    assert same == weight
    assert again.folder == fitted.folder


def test_a_better_match_never_counts_less() -> None:
    r = np.linspace(0.6, 1, 50)
    assert (np.diff(LearntWeight(1.0, 0.3)(r)) > 0).all()


# --- losses and first layers ---------------------------------------------------------------------


def test_the_loss_with_gradients_is_the_obvious_one() -> None:
    output, target = torch.randn(2, 3, 1, 6, 7)
    ones, r = torch.ones((3, 1), dtype=torch.bool), torch.ones(3)
    batch = Batch(target, target, ones, r, torch.zeros((3, 4)), str)
    error = (output - target)[:, 0].numpy()
    plain = np.abs(error).mean()
    assert float(compute_loss("l1", output, batch)) == pytest.approx(plain, rel=1e-5)
    edges = np.abs(np.diff(error, axis=1)).mean() + np.abs(np.diff(error, axis=2)).mean()
    assert float(compute_loss("l1+gradient", output, batch)) == pytest.approx(
        plain + edges, rel=1e-5
    )


def test_a_larger_stem_sees_farther() -> None:
    def seen(**sizes: int) -> int:
        torch.manual_seed(0)
        network = build("resnet-basic", head="intensity", depth=1, width=2, **sizes).eval()
        image = torch.zeros(1, 1, 61, 61, requires_grad=True)
        network(image + torch.randn(1, 1, 61, 61))[0, 0, 30, 30].backward()
        return int(np.ptp(np.flatnonzero(image.grad[0, 0].abs().sum(0)))) + 1

    assert seen(stem=7) == seen() + 4 == seen(stem=3) + 4
    for stem in (4, 1, 17, 3.0):
        with pytest.raises(AnkleError, match="odd number"):
            build("resnet-basic", stem=stem)
    with pytest.raises(AnkleError, match="no stem"):
        build("unet", stem=7)


# --- scenes --------------------------------------------------------------------------------------


def test_a_scene_lies_on_one_grid(scene: Scene) -> None:
    assert set(scene.bones) == set(BONES)
    shapes = {array.shape for array in (scene.measured, scene.moved_static, scene.seen)}
    assert shapes == {scene.region.shape}
    for bone, region in scene.regions.items():
        inside = scene.bones[bone] & scene.seen
        assert (region | ~inside).all()
        assert region.sum() > inside.sum()
        assert not (region & ~scene.seen).any()


def test_around_is_measured_in_mm() -> None:
    mask = np.zeros((21, 21, 21), dtype=bool)
    mask[10, 10, 10] = True
    found = reconstruction.scenes.around(mask, (1.0, 2.0, 3.0), 5.0)
    i, j, k = np.indices(mask.shape) - 10
    expected = (i**2 + (2 * j) ** 2 + (3 * k) ** 2) <= 25
    np.testing.assert_array_equal(found, expected)
    assert not reconstruction.scenes.around(mask & False, (1.0, 1.0, 1.0)).any()


def test_the_frame_is_seen_out_to_the_faces_of_its_voxels() -> None:
    frame = Volume(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.diag([1.0, 1.0, 8.0, 1.0]))
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[2, 3] = -6.0
    values, seen = reconstruction.on_grid(frame, (2, 3, 40), affine)
    world = np.arange(40) - 6
    np.testing.assert_array_equal(seen[0, 0], (world >= -4) & (world <= 28))
    expected = np.interp(world, [0, 8, 16, 24], frame.data[1, 2])
    np.testing.assert_allclose(values[1, 2], expected, atol=1e-5)


def test_nearest_bone_moves_every_bone_rigidly() -> None:
    ankle = toy_ankle()
    static = Volume(ankle.static.data.astype(np.float32), ankle.static.affine)
    poses = {"calcaneus": POSE, "talus": rigid((3, 0, 0), (0, 0, 0)), "tibia": np.eye(4)}
    masks = {bone: mask.data > 0 for bone, mask in ankle.masks.items()}
    shape, affine = grid_of_bones(static, masks, [poses])
    found = reconstruction.carried_by_nearest_bone(static, ankle.masks, poses, shape, affine)
    for bone, pose in poses.items():
        there = moved_mask(ankle.masks[bone], pose, shape, affine, slice_samples=1).data
        others = [
            moved_mask(ankle.masks[name], other, shape, affine, slice_samples=1).data
            for name, other in poses.items()
            if name != bone
        ]
        there &= ~np.logical_or.reduce(others)  # moved so far, the toy's bones overlap a little
        alone = moved(static, pose, shape, affine).data
        np.testing.assert_allclose(found[there], alone[there])
        assert there.sum() > 1000


def test_the_fitted_static_scan_is_the_best_line(scene: Scene) -> None:
    noise = np.random.default_rng(0).normal(0, 50, scene.truth.shape)
    noisy = replace(scene, truth=(scene.truth + noise).astype(np.float32))
    fitted = reconstruction.fitted_static(noisy, scene.region)
    rest = (noisy.truth - fitted)[scene.region].astype(np.float64)
    assert abs(rest.mean()) < 1e-2
    assert abs(np.corrcoef(rest, scene.moved_static[scene.region])[0, 1]) < 1e-3


def test_scenes_refuse_what_makes_none(scene: Scene) -> None:
    ankle = toy_ankle()
    frame, static = scene.frame, Volume(ankle.static.data, ankle.static.affine)
    grid = scene.measured.shape, scene.affine
    start = ("T01", "frame", "control", frame, static, ankle.masks)
    with pytest.raises(AnkleError, match="no bone was registered"):
        reconstruction.make_scene(*start, {}, *grid)
    far = {"talus": rigid((0, 0, 0), (500, 0, 0))}
    with pytest.raises(AnkleError, match="no bone lies in the grid"):
        reconstruction.make_scene(*start, far, *grid)
    with pytest.raises(AnkleError, match="no truth"):
        reconstruction.fitted_static(replace(scene, truth=None), scene.region)
    flat = replace(scene, moved_static=np.zeros_like(scene.measured))
    with pytest.raises(AnkleError, match="constant"):
        _ = flat.scales


# --- what a network sees -------------------------------------------------------------------------


def test_normalising_is_undone(scene: Scene) -> None:
    seen = channels_of(scene.measured, scene.moved_static, scene.scales)
    for channel in seen:
        inside = channel[scene.region]
        assert inside.mean() == pytest.approx(0, abs=1e-3)
        assert inside.std() == pytest.approx(1, abs=1e-3)
    back = restored(seen[0], scene.measured, scene.scales, residual=False)
    np.testing.assert_allclose(back, scene.measured, atol=0.01)
    zero = np.zeros_like(seen[0])
    nothing = restored(zero, scene.measured, scene.scales, residual=True)
    np.testing.assert_array_equal(nothing, scene.measured)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("pixels", [16, None])
def test_patches_are_parts_of_the_scene(scene: Scene, pixels: int | None, residual: bool) -> None:
    source = SceneSource([scene], pixels, residual=residual)
    batch = source.draw(12, torch.Generator().manual_seed(0))
    height, width = source.size
    assert batch.image.shape == (12, 2, height, width)
    assert batch.target.shape == (12, 1, height, width)
    seen = channels_of(scene.measured, scene.moved_static, scene.scales)
    mean, sd = scene.scales["measured"]
    wanted = (scene.truth - (scene.measured if residual else mean)) / sd
    box = ndimage.find_objects(scene.region.astype(int))[0]
    for n, (_, k, row, column) in enumerate(batch.where.tolist()):
        i, j, k = row + box[0].start, column + box[1].start, k + box[2].start
        middle = (height // 2, width // 2)
        found = batch.image[n, :, middle[0], middle[1]].numpy()
        np.testing.assert_allclose(found, seen[:, i, j, k], atol=5e-3)
        assert float(batch.target[n, 0][middle]) == pytest.approx(wanted[i, j, k], abs=5e-3)
        if pixels:
            assert scene.region[i, j, k]
    assert "T01 active_run-01 frame 2, slice" in batch.describe(batch.where[0].tolist())


def test_the_same_seed_draws_the_same_patches(scene: Scene) -> None:
    source = SceneSource([scene], 16)
    one, two, other = (source.draw(6, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one.image, two.image)
    assert not torch.equal(one.image, other.image)


def test_a_source_refuses_scenes_without_truth(scene: Scene) -> None:
    with pytest.raises(AnkleError, match="no truth"):
        SceneSource([replace(scene, truth=None)], 16)
    with pytest.raises(AnkleError, match="no scene"):
        SceneSource([], 16)


# --- the refiner ---------------------------------------------------------------------------------


class Contrast(nn.Module):
    """Knows how the toy's contrast comes about: the truth is 1500 - 0.8 x static."""

    in_channels = 2

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.scales = scene.scales

    def forward(self, images: Tensor) -> Tensor:
        (mean, sd), (static_mean, static_sd) = self.scales["measured"], self.scales["static"]
        truth = 1500 - 0.8 * (static_mean + static_sd * images[:, 1:])
        return self.scale * (truth - (mean + sd * images[:, :1])) / sd


def test_refine_gives_back_the_truth_with_the_right_network(scene: Scene) -> None:
    found = reconstruction.refine(Contrast(scene), scene.measured, scene.moved_static, scene.region)
    known = scene.region & (scene.moved_static > 0)
    np.testing.assert_allclose(found[known], scene.truth[known], atol=0.5)
    empty = ~scene.region.any(axis=(0, 1))
    np.testing.assert_array_equal(found[:, :, empty], scene.measured[:, :, empty])


def test_refine_takes_some_slices_and_leaves_the_network(scene: Scene) -> None:
    network = build("unet", in_channels=2, head="intensity", depth=2, width=2).train()
    whole = reconstruction.refine(network, scene.measured, scene.moved_static, scene.region)
    assert network.training
    k = int(scene.region.sum(axis=(0, 1)).argmax())
    one = reconstruction.refine(
        network, scene.measured, scene.moved_static, scene.region, slices=[k]
    )
    np.testing.assert_array_equal(one[:, :, k], whole[:, :, k])
    np.testing.assert_array_equal(one[:, :, k + 1], scene.measured[:, :, k + 1])


def test_refine_refuses_what_it_cannot_use(scene: Scene) -> None:
    network = Contrast(scene)
    given = [scene.measured, scene.moved_static, scene.region]
    with pytest.raises(AnkleError, match="one grid"):
        reconstruction.refine(network, given[0][1:], *given[1:])
    with pytest.raises(AnkleError, match="no bone lies"):
        reconstruction.refine(network, *given[:2], given[2] & False)
    broken = scene.moved_static.copy()
    broken[scene.region] = np.nan
    with pytest.raises(AnkleError, match="not finite"):
        reconstruction.refine(network, scene.measured, broken, scene.region)
    with pytest.raises(AnkleError, match="constant"):
        reconstruction.refine(network, scene.measured, 0 * broken + 1, given[2] & False | given[2])


def test_a_saved_refiner_says_how_to_use_it(scene: Scene, tmp_path: Path) -> None:
    recipe = replace(SMALL, channels=("static",), residual=False)
    fitted = reconstruction.fit_refiner(recipe, [scene], tmp_path / "trainings")
    path = reconstruction.save_refiner(tmp_path / "final.ckpt", fitted, recipe, [scene])
    checkpoint = load_checkpoint(path)
    wanted = checkpoint.training["input"]
    assert wanted["channels"] == 1
    assert wanted["voxel_mm"] == pytest.approx(scene.voxel_size_mm)
    refiner = reconstruction.refiner_of(checkpoint)
    assert (refiner.channels, refiner.residual) == (("static",), False)
    found = reconstruction.refine(refiner, scene.measured, scene.moved_static, scene.region)
    expected = reconstruction.refine_scene(fitted, recipe, scene)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    other = replace(checkpoint, training={"input": {"normalisation": "zscore-foot"}})
    with pytest.raises(AnkleError, match="no network for reconstruction"):
        reconstruction.refiner_of(other)


def test_a_training_is_remembered(scene: Scene, tmp_path: Path) -> None:
    recipe = replace(SMALL, steps=3)
    first = reconstruction.fit_refiner(recipe, [scene], tmp_path)
    stamp = (first.folder / "network.ckpt").stat().st_mtime_ns
    again = reconstruction.fit_refiner(recipe, [scene], tmp_path)
    assert (again.folder / "network.ckpt").stat().st_mtime_ns == stamp
    for one, two in zip(first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, two)
    other = reconstruction.fit_refiner(replace(recipe, loss="l1"), [scene], tmp_path)
    assert other.folder != first.folder
    changed = scene.with_static(scene.moved_static + 1)
    assert reconstruction.fit_refiner(recipe, [changed], tmp_path).folder != first.folder
    assert len(first.losses) == 3


def test_a_trained_refiner_is_better_than_the_frame(scene: Scene, tmp_path: Path) -> None:
    recipe = replace(SMALL, pixels=24, steps=80, batch_size=4, learning_rate=1e-2, width=8)
    fitted = reconstruction.fit_refiner(recipe, [scene], tmp_path)
    answers = reconstruction.BASELINES | {"network": reconstruction.answer_of(fitted, recipe)}
    table = reconstruction.score_scenes([scene], answers)
    gain = reconstruction.gains(table, "network", reconstruction.INTERPOLATIONS)
    assert (gain.loc[gain["bone"] == "all", "gain"] > 1).all()


# --- scores --------------------------------------------------------------------------------------


def test_scores_are_those_of_the_region(scene: Scene) -> None:
    noisy = scene.truth + np.random.default_rng(0).normal(0, 30, scene.truth.shape)
    table = reconstruction.score_scenes([scene], {"noisy": lambda _: noisy})
    region = scene.regions["talus"]
    data_range = intensity_range(scene.truth, scene.region)
    expected = image_scores(
        noisy, scene.truth, region, data_range=data_range, spacing=scene.voxel_size_mm
    )
    row = table[table["bone"] == "talus"].iloc[0]
    for name, value in expected._asdict().items():
        assert row[name] == pytest.approx(value, rel=0.02), name
    sparse = reconstruction.score_scenes([scene], {"noisy": lambda _: noisy}, step=3)
    assert sparse["psnr_db"].mean() == pytest.approx(table["psnr_db"].mean(), abs=0.5)
    assert sparse["shifted_psnr_db"].isna().all()


def test_an_answer_is_computed_once_for_every_scene(scene: Scene) -> None:
    asked = []

    def answer(one: Scene) -> np.ndarray:
        asked.append(one)
        return one.measured

    remembering = reconstruction.once(answer)
    other = replace(scene)
    for one in (scene, scene, other):
        np.testing.assert_array_equal(remembering(one), scene.measured)
    assert asked == [scene, other]


def test_intervals_are_over_subjects() -> None:
    rows = []
    for number, subject in enumerate(("E01", "E02", "E03")):
        for scene in ("a", "b"):
            for bone in BONES:
                for method, better in (("one", 0.0), ("two", 4.0)):
                    scores = dict.fromkeys(reconstruction.evaluation.ImageScores._fields, 0.5)
                    scores |= {"psnr_db": 20.0 + number + better}
                    rows.append({"subject": subject, "scene": scene, "method": method,
                                 "bone": bone} | scores)  # fmt: skip
    table = pd.DataFrame(rows)
    found = reconstruction.summary(table).set_index(["method", "bone"])
    assert found.loc[("two", "all"), "psnr_db"] == pytest.approx(25.0)
    assert 24 <= found.loc[("two", "talus"), "psnr_db_low"] < 25
    gain = reconstruction.gains(table, "two", ["one"])
    np.testing.assert_allclose(gain[["gain", "low", "high"]], 4.0)


def test_scenes_without_truth_cannot_be_scored(scene: Scene) -> None:
    with pytest.raises(AnkleError, match="no truth"):
        reconstruction.score_scenes([replace(scene, truth=None)], reconstruction.BASELINES)


# --- trials --------------------------------------------------------------------------------------


def test_trials_differ_in_one_thing_and_are_scored(tmp_path: Path) -> None:
    scenes = (toy_scene("T01"), toy_scene("T02", 1))
    trials = Trials(scenes, Split(("T01",), ("T02",), ("E01",)), SIZES, tmp_path)
    recipes = reconstruction.trial_recipes(trials)
    assert list(recipes) == list(TITLES)
    usual = recipes["both"]
    for name, recipe in recipes.items():
        changed = [key for key, value in vars(recipe).items() if value != getattr(usual, key)]
        assert len(changed) == (0 if name == "both" else 2 if recipe.pixels is None else 1), name
    table, answers = reconstruction.compare_trials(trials)
    assert set(table["method"]) == {*reconstruction.BASELINES, *recipes}
    assert set(table["subject"]) == {"T02"}
    assert table["psnr_db"].notna().all()
    assert answers["both"](scenes[1]).shape == scenes[1].measured.shape
    with pytest.raises(AnkleError, match="no sharp scene of the test part"):
        trials.part("test")


# --- the report's experiments --------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy_cohort(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[CleanSubject], list[RegisteredFrame]]:
    """Two controls and one test subject with one frame each, large bones for whole patches."""
    folder = tmp_path_factory.mktemp("cohort")
    shape, size = (88, 88, 4), (0.9, 0.9, 8.0)
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -size[0], size[1], size[2], 1
    subjects, accepted = [], []
    for number, code in enumerate(("T01", "T02", "E01")):
        random = np.random.default_rng(number)
        image = ndimage.gaussian_filter(random.normal(size=shape), (1.5, 1.5, 0)) * 400 + 900
        frame = ndimage.gaussian_filter(image, (1.2, 1.2, 0)) + random.normal(0, 8, shape)
        paths = {name: folder / f"{code}_{name}.nii.gz" for name in ("static", "frame")}
        save(paths["static"], image.astype(np.float32), affine)
        save(paths["frame"], frame.astype(np.float32), affine)
        for bone, corner in zip(BONES, ((2, 2), (2, 46), (46, 2)), strict=True):
            mask = np.zeros(shape, dtype=np.uint8)
            mask[corner[0] : corner[0] + 40, corner[1] : corner[1] + 40] = 1
            path = folder / f"{code}_{bone}.nii.gz"
            save(path, mask, affine)
            accepted.append(
                RegisteredFrame(
                    code, "active_run-01", 0, bone, np.eye(4), 0.9, path, paths["static"]
                )
            )
        group = "control" if code.startswith("T") else "equinus"
        frames = {"active_run-01": [paths["frame"]]}
        subjects.append(CleanSubject(code, group, "left", paths["static"], {}, frames))
    return subjects, accepted


@pytest.fixture(scope="module")
def pairs(
    toy_cohort: tuple[list[CleanSubject], list[RegisteredFrame]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pairs:
    return reconstruction.read_pairs(*toy_cohort, SIZES, tmp_path_factory.mktemp("trainings"))


def test_pairs_follow_the_split(pairs: Pairs) -> None:
    assert pairs.pixels == 20
    for source in pairs.sources.values():
        assert source.subjects == ("T01",)
    for (part, _, bone), batch in pairs.scored.items():
        code = "T01" if part == "train" else "T02"
        assert code in batch.describe(batch.where[0].tolist())
        assert bone in batch.describe(batch.where[0].tolist())
        assert float(batch.correlation.min()) > 0.6


def test_targets_with_and_without_profile_differ(
    toy_cohort: tuple[list[CleanSubject], list[RegisteredFrame]],
) -> None:
    subjects, accepted = toy_cohort
    averaged, sampled = (
        next(iter(patch_items(subjects[:1], accepted[:1], target)))
        for target in ("averaged", "sampled")
    )
    np.testing.assert_array_equal(averaged.image, sampled.image)
    np.testing.assert_allclose(averaged.target, sampled.target, atol=1e-4)  # same file, same grid
    moved_on_purpose = next(iter(patch_items(subjects[:1], accepted[:1], "sampled", (0, 0.9, 0))))
    inside = slice(5, 38), slice(5, 38), slice(None)
    before = slice(6, 39), slice(5, 38), slice(None)
    np.testing.assert_allclose(moved_on_purpose.target[inside], sampled.target[before], atol=0.05)


def test_distances_depths_and_bounds(pairs: Pairs) -> None:
    table, networks = reconstruction.compare_distances(pairs)
    assert set(zip(table["method"], table["part"], strict=True)) == {
        (m, p) for m in ("L1", "L2") for p in ("train", "validation")
    }
    assert table.loc[table["part"] == "validation", "report_correlation"].tolist() == [0.71] * 6
    reach = reconstruction.within_reach(pairs, networks["L1"])
    assert (reach["degrees"], reach["pixels"]) == (25, 400)
    assert reach["outside"] < 1e-5
    most = reconstruction.bounds(pairs, networks).set_index(["method", "part", "bone"])
    for key, row in most.loc["ResNet, L1"].iterrows():
        assert row["correlation"] <= most.loc[("any weights", *key), "correlation"]
        assert row["psnr_db"] <= most.loc[("any weights", *key), "psnr_db"]
    depths = reconstruction.vary_depth(pairs)
    assert depths["factor"].tolist() == [1, 1, 4, 4]
    assert depths.loc[depths["factor"] == 1, "bound"].tolist() == pytest.approx([1.0, 1.0])
    assert (depths["correlation"] <= depths["bound"] + 1e-6).all()
    shown = reconstruction.shown_patches(pairs, networks["L1"])
    assert shown["difference"].shape == (6, 20, 20)
    np.testing.assert_allclose(shown["network"] - shown["target"], shown["difference"])


def test_proposals_and_what_the_weights_know(
    pairs: Pairs,
    toy_cohort: tuple[list[CleanSubject], list[RegisteredFrame]],
    tmp_path: Path,
) -> None:
    table, weight, networks = reconstruction.compare_proposals(pairs)
    assert set(table["method"]) == {"as it was", "g learnt", "7x7 stem", "U-Net", "FCN"}
    assert weight.slope > 0
    assert networks["7x7 stem"].network.stem[0].kernel_size == (7, 7)
    (tmp_path / "tables").mkdir()
    rows = [("T01", "active_run-01", 0, bone, 0.2 + n) for n, bone in enumerate(BONES)]
    columns = ["subject", "sequence", "frame", "bone", "tre_mm"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "tables" / "registration.csv")
    known = reconstruction.weights_and_truth(pairs, weight, tmp_path)
    assert known.loc[known["bone"] == "talus", "tre_mm"].unique().tolist() == [1.2]
    np.testing.assert_allclose(
        known["report_g"], 1 / (1 + np.exp(-10 * (known["correlation"] - 0.5)))
    )
    flat = reconstruction.flat_weights(pairs)
    assert (flat["g_least"] > 0.73).all()
    shifts = reconstruction.what_a_shift_costs(*toy_cohort, pairs, (0.0, 3.0), n_patches=10)
    mean = shifts.groupby("shift_mm")["correlation"].mean()
    assert mean[0.0] > mean[3.0] + 0.3
    price = reconstruction.price_of_no_profile(*toy_cohort, pairs, n_patches=10)
    assert set(price["target"]) == {"sampled", "averaged"}


def test_a_recipe_decides_its_training(pairs: Pairs) -> None:
    recipe = reconstruction.ReportRecipe(steps=2)
    assert recipe.factor == 4
    assert replace(recipe, network="unet").factor == 1
    assert decides(pairs, recipe) != decides(pairs, replace(recipe, loss="weighted-l2"))
    assert math.isclose(recipe.learning_rate, 1e-3)
    assert recipe.batch_size == 16


# --- a cohort on disk ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy_truth(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[CleanSubject], list[RegisteredFrame], Path]:
    """One control with four frames of a noisy sequence, of which two have a sharp truth."""
    folder = tmp_path_factory.mktemp("scans")
    ankle, scene = toy_ankle(), toy_scene("T01")
    random = np.random.default_rng(0)
    static = save(folder / "static.nii.gz", ankle.static.data, ankle.static.affine)
    masks = {
        bone: save(folder / f"{bone}.nii.gz", mask.data, mask.affine)
        for bone, mask in ankle.masks.items()
    }
    frames = [
        save(
            folder / f"frame-{n}.nii.gz",
            np.abs(scene.frame.data + random.normal(0, 20, FRAME_SHAPE)).astype(np.float32),
            scene.frame.affine,
        )
        for n in range(4)
    ]
    for n in (1, 3):
        place = folder / "truth" / "T01" / f"active_run-01_frame-{n:02d}_sharp.nii.gz"
        save(place, scene.truth + n, scene.affine)
    accepted = [
        RegisteredFrame("T01", "active_run-01", n, bone, POSE, 0.9, masks[bone], static)
        for n in (0, 1, 3)
        for bone in BONES
        if (n, bone) != (1, "talus")
    ]
    subject = CleanSubject("T01", "control", "left", static, masks, {"active_run-01": frames})
    return [subject], accepted, folder / "truth"


def test_scenes_are_read_from_the_largest_excursion_on(toy_truth: Any, scene: Scene) -> None:
    found = reconstruction.read_scenes(*toy_truth)
    assert [one.name for one in found] == ["active_run-01 frame 3", "active_run-01 frame 1"]
    assert [set(one.bones) for one in found] == [set(BONES), {"calcaneus", "tibia"}]
    for one, number in zip(found, (3, 1), strict=True):
        np.testing.assert_allclose(one.truth, scene.truth + number, atol=1e-3)
        np.testing.assert_allclose(one.affine, scene.affine, atol=1e-4)
    inside = found[0].bones["calcaneus"]
    np.testing.assert_array_equal(inside, scene.bones["calcaneus"])
    alike = np.corrcoef(found[0].moved_static[inside], scene.moved_static[inside])[0, 1]
    assert alike > 0.97  # the same pose; two ways to interpolate
    assert len(reconstruction.read_scenes(*toy_truth, most=1)) == 1


def test_real_scans_have_no_scenes(toy_truth: Any, tmp_path: Path) -> None:
    subjects, accepted, truth = toy_truth
    assert reconstruction.read_scenes(subjects, accepted, tmp_path / "nowhere") == []
    assert reconstruction.read_scenes(subjects, [], truth) == []


def test_the_frame_has_the_last_word(toy_truth: Any) -> None:
    (found,) = reconstruction.read_scenes(*toy_truth, most=1, with_guided=True)
    assert found.guided is not None
    assert found.guided.shape == found.measured.shape

    def wrong(scene: Scene) -> np.ndarray:
        return scene.truth + 300

    answers = {"wrong": wrong, "agreed": reconstruction.agreed(wrong)}
    ratios = reconstruction.consistencies([found], answers).set_index("method")["ratio"]
    assert ratios["agreed"] < 0.5 * ratios["wrong"]
    errors = {name: np.abs(answer(found) - found.truth)[found.region].mean()
              for name, answer in answers.items()}  # fmt: skip
    assert errors["agreed"] < 0.5 * errors["wrong"]
