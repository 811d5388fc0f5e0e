from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.metrics import ImageScores, image_scores, intensity_range
from ankle_lib.presets import BONES
from ankle_lib.reconstruction.scene_scores import (
    BASELINES,
    fitted_static,
    gains,
    mean_scores,
    score_scenes,
)
from ankle_lib.reconstruction.sharp_scenes import Scene


def test_the_fitted_static_scan_is_the_best_line(scene: Scene) -> None:
    noise = np.random.default_rng(0).normal(0, 50, scene.truth.shape)
    noisy = replace(scene, truth=(scene.truth + noise).astype(np.float32))
    fitted = fitted_static(noisy)
    rest = (noisy.truth - fitted)[scene.region].astype(np.float64)
    assert abs(rest.mean()) < 1e-2
    assert abs(np.corrcoef(rest, scene.moved_static[scene.region])[0, 1]) < 1e-3
    with pytest.raises(AnkleError, match="no truth"):
        fitted_static(replace(scene, truth=None))


def test_scores_are_those_of_the_region(scene: Scene) -> None:
    noisy = scene.truth + np.random.default_rng(0).normal(0, 30, scene.truth.shape)
    table = score_scenes([scene], {"noisy": lambda _: noisy})
    region = scene.regions["talus"]
    data_range = intensity_range(scene.truth, scene.region)
    expected = image_scores(
        noisy, scene.truth, region, data_range=data_range, spacing=scene.voxel_size_mm
    )
    row = table[table["bone"] == "talus"].iloc[0]
    for name, value in expected._asdict().items():
        assert row[name] == pytest.approx(value, rel=0.02), name
    sparse = score_scenes([scene], {"noisy": lambda _: noisy}, step=3)
    assert sparse["psnr_db"].mean() == pytest.approx(table["psnr_db"].mean(), abs=0.5)
    assert sparse["shifted_psnr_db"].isna().all()


def test_nothing_is_compared_across_slices_that_are_not_scored(scene: Scene) -> None:
    blurred, step = ndimage.gaussian_filter(scene.truth, 1.0), 3
    row = score_scenes([scene], {"blurred": lambda _: blurred}, step=step).set_index("bone")
    alike, energy = 0.0, 0.0  # of what a blur within a slice takes away, one slice by itself
    for k in range(0, scene.truth.shape[2], step):
        inside = scene.regions["talus"][:, :, k]
        one, two = (image[:, :, k].astype(float) for image in (blurred, scene.truth))
        one, two = ((image - ndimage.gaussian_filter(image, 1.0))[inside] for image in (one, two))
        alike, energy = alike + float(one @ two), energy + float(two @ two)
    assert row.at["talus", "detail"] == pytest.approx(alike / energy, abs=0.01)


def test_a_bone_between_the_scored_slices_is_left_out(scene: Scene) -> None:
    """A network computed every fourth slice: no other one may be scored in their place."""
    few, step = replace(scene), 4
    k = next(k for k in range(9, 99, step) if scene.regions["talus"][:, :, k].any())
    thin = np.zeros_like(scene.regions["talus"])
    thin[:, :, k] = scene.regions["talus"][:, :, k]
    vars(few)["regions"] = {"calcaneus": scene.regions["calcaneus"], "talus": thin}
    computed = np.full_like(few.truth, np.nan)
    computed[:, :, ::step] = few.truth[:, :, ::step]
    table = score_scenes([few], {"one": lambda _: computed}, step=step)
    assert table["bone"].tolist() == ["calcaneus"]
    assert np.isinf(table["psnr_db"]).all()


def test_intervals_are_over_subjects() -> None:
    rows = []
    for number, subject in enumerate(("E01", "E02", "E03")):
        for scene in ("a", "b"):
            for bone in BONES:
                for method, better in (("one", 0.0), ("two", 4.0)):
                    scores = dict.fromkeys(ImageScores._fields, 0.5)
                    scores |= {"psnr_db": 20.0 + number + better}
                    rows.append({"subject": subject, "scene": scene, "method": method,
                                 "bone": bone} | scores)  # fmt: skip
    table = pd.DataFrame(rows)
    found = mean_scores(table).set_index(["method", "bone"])
    assert found.loc[("two", "all"), "psnr_db"] == pytest.approx(25.0)
    assert 24 <= found.loc[("two", "talus"), "psnr_db_low"] < 25
    gain = gains(table, "two", ["one"])
    np.testing.assert_allclose(gain[["gain", "low", "high"]], 4.0)


def test_scenes_without_truth_cannot_be_scored(scene: Scene) -> None:
    with pytest.raises(AnkleError, match="no truth"):
        score_scenes([replace(scene, truth=None)], BASELINES)
