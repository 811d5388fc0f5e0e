from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ankle_lib.phantom import shapes
from ankle_lib.phantom.shapes import SKELETON, Ellipsoid, smooth_union
from ankle_lib.presets import BONES

STEP_MM = 1.0
VOLUME_CM3 = {"calcaneus": 44.8, "talus": 24.0}  # of the children's template


@pytest.fixture(scope="module")
def grid() -> torch.Tensor:
    axes = [torch.arange(a, b, STEP_MM) for a, b in ((-28, 38), (-70, 40), (-62, 60))]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


@pytest.fixture(scope="module")
def distances(grid: torch.Tensor) -> dict[str, np.ndarray]:
    return {bone: smooth_union(grid, SKELETON[bone]).numpy() for bone in BONES}


def test_a_ball_has_its_exact_distance() -> None:
    points = torch.randn(200, 3, dtype=torch.float64) * 20
    ball = Ellipsoid((1.0, -2.0, 3.0), (7.0, 7.0, 7.0))
    expected = torch.linalg.norm(points - torch.tensor([1.0, -2.0, 3.0]), dim=-1) - 7
    torch.testing.assert_close(smooth_union(points, [ball]), expected)


def test_the_centre_of_an_ellipsoid_is_inside() -> None:
    ellipsoid = Ellipsoid((1.0, 2.0, 3.0), (3.0, 5.0, 9.0), (10, 20, 30))
    centre = torch.tensor([ellipsoid.centre_mm])
    assert smooth_union(centre, [ellipsoid]).item() == pytest.approx(-3.0, abs=1e-4)


def test_rotation_vectors_turn_the_ellipsoids_own_axes() -> None:
    rotation_deg = (30.0, -50.0, 110.0)
    turn = Rotation.from_rotvec(rotation_deg, degrees=True)
    matrix = shapes.rotation_matrix(torch.tensor(rotation_deg, dtype=torch.float64))
    np.testing.assert_allclose(matrix, turn.as_matrix(), atol=1e-12)
    poles = torch.from_numpy(turn.apply(np.diag([4.0, 6.0, 11.0]))) + 5.0
    ellipsoid = Ellipsoid((5.0, 5.0, 5.0), (4.0, 6.0, 11.0), rotation_deg)
    np.testing.assert_allclose(smooth_union(poles, [ellipsoid]), 0, atol=1e-9)


def test_union_of_equal_distances_moves_out_by_the_blend() -> None:
    ball = Ellipsoid((0.0, 0.0, 0.0), (5.0, 5.0, 5.0))
    point = torch.tensor([[8.0, 0.0, 0.0]])
    moved = smooth_union(point, [ball, ball], blend_mm=2.0).item()
    assert moved == pytest.approx(3.0 - 2.0 * np.log(2), abs=1e-5)


def test_chunks_and_shapes_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(3, 5, 7, 3) * 30
    whole = smooth_union(points, SKELETON["talus"])
    monkeypatch.setattr(shapes, "CHUNK_POINTS", 10)
    assert whole.shape == (3, 5, 7)
    torch.testing.assert_close(smooth_union(points, SKELETON["talus"]), whole)
    assert smooth_union(points[:0], SKELETON["talus"]).shape == (0, 5, 7)


def test_far_points_stay_finite_and_outside() -> None:
    far = torch.tensor([[1e4, 0.0, 0.0], [0.0, -500.0, 0.0]])
    values = smooth_union(far, SKELETON["calcaneus"])
    assert torch.isfinite(values).all()
    assert (values > 100).all()


@pytest.mark.parametrize("bone", BONES)
def test_a_bone_is_one_piece_without_holes(bone: str, distances: dict[str, np.ndarray]) -> None:
    inside = distances[bone] < 0
    assert ndimage.label(inside)[1] == 1
    assert ndimage.label(~inside)[1] == 1


@pytest.mark.parametrize("bone", BONES)
def test_distance_is_honest_near_the_surface(bone: str, distances: dict[str, np.ndarray]) -> None:
    gradient = np.linalg.norm(np.gradient(distances[bone], STEP_MM), axis=0)
    near = np.abs(distances[bone]) < 1.5
    low, median, high = np.percentile(gradient[near], [5, 50, 99])
    assert low > 0.7
    assert 0.9 < median < 1.02
    assert high < 1.15


@pytest.mark.parametrize("bone", VOLUME_CM3)
def test_volumes_are_the_templates(bone: str, distances: dict[str, np.ndarray]) -> None:
    volume = (distances[bone] < 0).sum() * STEP_MM**3 / 1000
    assert volume == pytest.approx(VOLUME_CM3[bone], rel=0.03)


def test_bones_keep_apart(distances: dict[str, np.ndarray]) -> None:
    for a, b in (("talus", "tibia"), ("talus", "calcaneus"), ("calcaneus", "tibia")):
        outside = (distances[a] > 0) & (distances[b] > 0)
        assert not ((distances[a] < 0) & (distances[b] < 0)).any()
        # Along the shortest way across a gap the two distances add up to its width.
        assert np.min((distances[a] + distances[b])[outside]) > 1.5


def test_landmarks_lie_where_anatomy_says(
    grid: torch.Tensor, distances: dict[str, np.ndarray]
) -> None:
    inside = {bone: grid.numpy()[values < 0] for bone, values in distances.items()}
    malleolus = inside["tibia"][inside["tibia"][:, 2].argmin()]
    heel = inside["calcaneus"][inside["calcaneus"][:, 1].argmin()]
    head = inside["talus"][inside["talus"][:, 1].argmax()]
    sustentaculum = inside["calcaneus"][inside["calcaneus"][:, 0].argmax()]
    assert malleolus[0] > 15  # medially
    assert malleolus[2] < -5  # below the top of the dome
    assert heel[1] < -55
    assert head[1] > 20
    assert head[2] < -15
    assert sustentaculum[0] > 14
    assert abs(inside["talus"][:, 2].max()) <= 1


def test_the_shaft_goes_on_100_mm_above_the_plafond() -> None:
    axes = [torch.arange(-30.0, 40.0), torch.arange(-30.0, 30.0), torch.tensor([60.0, 105.0, 140])]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    area_mm2 = (smooth_union(points, SKELETON["tibia"]) < 0).sum((0, 1)).numpy()
    thickness_mm = 2 * np.sqrt(area_mm2 / np.pi)
    assert ((thickness_mm > 20) & (thickness_mm < 24)).all()
