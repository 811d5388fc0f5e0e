from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.reconstruction.scene_patches import SceneSource, channels_of
from ankle_lib.reconstruction.sharp_scenes import Scene


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
