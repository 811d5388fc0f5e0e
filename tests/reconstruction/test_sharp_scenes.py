from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.geometry import rigid
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.presets import BONES
from ankle_lib.quality.review_sheet import RegisteredFrame
from ankle_lib.reconstruction.guided import with_the_measured
from ankle_lib.reconstruction.sharp_scenes import (
    Scene,
    SceneSource,
    around,
    channels_of,
    make_scene,
    on_grid,
    read_scenes,
)
from ankle_lib.reconstruction.thick_slices import consistency
from ankle_lib.volume import Volume
from tests.reconstruction.toy_scene import toy_truth
from tests.toy_ankle import toy_ankle


def test_a_scene_lies_on_one_grid(scene: Scene) -> None:
    assert set(scene.bones) == set(BONES)
    shapes = {array.shape for array in (scene.measured, scene.moved_static, scene.reached)}
    assert shapes == {scene.region.shape}
    for bone, region in scene.regions.items():
        inside = scene.bones[bone] & scene.reached
        assert (region | ~inside).all()
        assert region.sum() > inside.sum()
        assert not (region & ~scene.reached).any()


def test_around_is_measured_in_mm() -> None:
    mask = np.zeros((21, 21, 21), dtype=bool)
    mask[10, 10, 10] = True
    found = around(mask, (1.0, 2.0, 3.0), 5.0)
    i, j, k = np.indices(mask.shape) - 10
    expected = (i**2 + (2 * j) ** 2 + (3 * k) ** 2) <= 25
    np.testing.assert_array_equal(found, expected)
    assert not around(mask & False, (1.0, 1.0, 1.0)).any()


def test_the_frame_is_seen_out_to_the_faces_of_its_voxels() -> None:
    frame = Volume(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.diag([1.0, 1.0, 8.0, 1.0]))
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[2, 3] = -6.0
    values, reached = on_grid(frame, ((2, 3, 40), affine))
    world = np.arange(40) - 6
    np.testing.assert_array_equal(reached[0, 0], (world >= -4) & (world <= 28))
    expected = np.interp(world, [0, 8, 16, 24], frame.data[1, 2])
    np.testing.assert_allclose(values[1, 2], expected, atol=1e-5)


def test_scenes_refuse_what_makes_none(scene: Scene) -> None:
    masks = toy_ankle().masks
    carried = Volume(scene.moved_static, scene.affine)
    start = ("T01", "frame", scene.frame, carried, masks)
    far = {"talus": rigid((0, 0, 0), (500, 0, 0))}
    for poses in ({}, far):
        with pytest.raises(AnkleError, match="no bone lies in the grid"):
            make_scene(*start, poses)
    flat = replace(scene, moved_static=np.zeros_like(scene.measured))
    with pytest.raises(AnkleError, match="moved static scan is constant"):
        _ = flat.scales


@pytest.fixture(scope="module")
def read(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[CleanSubject], list[RegisteredFrame], Path]:
    return toy_truth(tmp_path_factory.mktemp("scans"))


def test_scenes_are_read_from_the_largest_excursion_on(read: Any, scene: Scene) -> None:
    found = read_scenes(*read)
    assert [one.name for one in found] == ["active_run-01 frame 3", "active_run-01 frame 1"]
    assert [set(one.bones) for one in found] == [set(BONES), {"calcaneus", "tibia"}]
    for one, number in zip(found, (3, 1), strict=True):
        np.testing.assert_allclose(one.truth, scene.truth + number, atol=1e-3)
        np.testing.assert_allclose(one.affine, scene.affine, atol=1e-4)
    inside = found[0].bones["calcaneus"]
    np.testing.assert_array_equal(inside, scene.bones["calcaneus"])
    alike = np.corrcoef(found[0].moved_static[inside], scene.moved_static[inside])[0, 1]
    assert alike > 0.97  # the same pose; two ways to interpolate
    assert len(read_scenes(*read, most=1)) == 1


def test_real_scans_have_no_scenes(read: Any, tmp_path: Path) -> None:
    subjects, accepted, truth = read
    assert read_scenes(subjects, accepted, tmp_path / "nowhere") == []
    assert read_scenes(subjects, [], truth) == []


def test_the_frame_has_the_last_word(read: Any) -> None:
    (found,) = read_scenes(*read, most=1, with_guided=True)
    assert found.guided is not None
    assert found.guided.shape == found.measured.shape

    wrong = Volume(found.truth + 300, found.affine)
    agreeing = with_the_measured(wrong, found.frame, found.scanning).volume
    sharp = {"wrong": wrong, "consistent": agreeing}
    ratios = {
        name: consistency(one, found.frame, found.scanning, covered=found.covered).ratio
        for name, one in sharp.items()
    }
    assert ratios["consistent"] < 0.5 * ratios["wrong"]
    errors = {name: np.abs(one.data - found.truth)[found.region].mean()
              for name, one in sharp.items()}  # fmt: skip
    assert errors["consistent"] < 0.5 * errors["wrong"]


# --- as a network gets them ---


def test_every_channel_is_normalised_about_the_bones(scene: Scene) -> None:
    for channel in channels_of(scene.measured, scene.moved_static, scene.scales):
        inside = channel[scene.region]
        assert inside.mean() == pytest.approx(0, abs=1e-3)
        assert inside.std() == pytest.approx(1, abs=1e-3)


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
