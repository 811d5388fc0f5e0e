"""Regions and the score that the engines share."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, compose, rigid
from ankle_lib.registration.regions import agreement, cut_region, fit_each
from ankle_lib.volume import Volume
from tests.registration.scene import CENTRE, Scene, scene, turned


@pytest.fixture(scope="module")
def known() -> Scene:
    return scene([turned(8), turned(-5)], static_sign=-1)


def test_a_region_keeps_its_place_and_knows_its_centre(known: Scene) -> None:
    region = cut_region(known.static, known.weights, "bone", 6.0)
    assert region.image.data.size < known.static.data.size
    np.testing.assert_allclose(region.centre, CENTRE, atol=0.2)
    voxel = np.argwhere(region.weights.data > 0.9)[0]
    there = np.linalg.inv(known.static.affine) @ region.image.affine @ [*voxel, 1]
    index = tuple(np.rint(there[:3]).astype(int))
    assert known.static.data[index] == region.image.data[tuple(voxel)]
    assert known.weights[index] == region.weights.data[tuple(voxel)]


def test_weights_without_a_region_are_refused(known: Scene) -> None:
    with pytest.raises(AnkleError, match="weights of talus are empty"):
        cut_region(known.static, np.zeros_like(known.weights), "talus", 6.0)
    with pytest.raises(AnkleError, match=r"weights of talus have shape \(3, 3, 3\)"):
        cut_region(known.static, np.ones((3, 3, 3)), "talus", 6.0)


def test_the_score_is_best_at_the_truth_and_forgives_shading(known: Scene) -> None:
    region = cut_region(known.static, known.weights, "bone", 6.0)
    frame, truth = known.frames.frame(0), known.truth[0]
    correlation, cost, seen = agreement(frame, region, truth)
    assert seen == pytest.approx(1, abs=0.02)
    assert correlation > 0.95
    assert cost < 0.04
    assert cost <= 1 - correlation**2
    for shift in ([2, 0, 0], [0, 2, 0], [0, 0, 2]):
        worse = agreement(frame, region, compose(rigid([0, 0, 0], shift), truth))
        assert worse[0] < correlation - 0.02
        assert worse[1] > cost + 0.02


def test_the_score_does_not_depend_on_the_order_of_axes(known: Scene) -> None:
    region = cut_region(known.static, known.weights, "bone", 6.0)
    frame = known.frames.frame(0)
    turned_frame = Volume(
        frame.data.transpose(2, 0, 1)[::-1].copy(),
        frame.affine @ [[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, frame.shape[2] - 1], [0, 0, 0, 1]],
    )
    np.testing.assert_allclose(
        agreement(turned_frame, region, known.truth[0]),
        agreement(frame, region, known.truth[0]),
        rtol=1e-4,
    )


def test_what_is_not_seen_has_no_score(known: Scene) -> None:
    region = cut_region(known.static, known.weights, "bone", 6.0)
    away = compose(rigid([0, 0, 0], [500, 0, 0]), known.truth[0])
    edge = compose(rigid([0, 0, 0], [0, 60, 0]), known.truth[0])
    black = Volume(np.zeros(known.frames.shape, np.float32), known.frames.affine)
    for frame, pose in ((known.frames.frame(0), away), (known.frames.frame(0), edge)):
        correlation, cost, seen = agreement(frame, region, pose)
        assert np.isnan(correlation)
        assert (cost, seen) == (1, 0)
    nothing = agreement(black, region, known.truth[0])
    assert np.isnan(nothing.correlation)
    assert nothing.cost == 1
    assert nothing.seen > 0.9
    half = compose(rigid([0, 0, 0], [0, 0, 37.0]), known.truth[0])
    assert 0.2 < agreement(known.frames.frame(0), region, half).seen < 0.8


def test_fits_are_returned_in_order(known: Scene) -> None:
    regions = [cut_region(known.static, known.weights, name, 6.0) for name in ("a", "b", "c")]
    poses = {(f, r): rigid([f, r, 0], [0, 0, 0], CENTRE) for f in range(2) for r in range(3)}
    fits = fit_each(known.frames, regions, lambda f, r: (poses[f, r], 10.0 * f + r))
    assert fits.poses.shape == (2, 3, 4, 4)
    assert fits.seconds.tolist() == [[0, 1, 2], [10, 11, 12]]
    for (f, r), pose in poses.items():
        np.testing.assert_array_equal(fits.poses[f, r], pose)
        expected = agreement(known.frames.frame(f), regions[r], pose)
        assert (fits.correlations[f, r], fits.costs[f, r], fits.seen[f, r]) == expected
    assert np.isfinite(apply(fits.poses[0, 0], CENTRE)).all()
