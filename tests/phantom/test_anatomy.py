from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ankle_lib.phantom.anatomy import Anatomy, build
from ankle_lib.phantom.motion import Pose
from ankle_lib.phantom.shapes import SKELETON
from ankle_lib.phantom.subjects import SUBJECTS, Recipe, draw_recipe, ideal_poses

JOINTS_OF_THE_ANKLE = (("tibia", "talus"), ("talus", "calcaneus"), ("talus", "fibula"))


@pytest.fixture(scope="module", params=["T03", "E05"])
def subject(request) -> tuple[Recipe, Anatomy]:
    recipe = draw_recipe(request.param, 2020)
    return recipe, build(recipe.child, ideal_poses(recipe), soft_voxel_mm=1.8)


Surface = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def surfaces(subject) -> dict[str, Surface]:
    """Points (N, 3) near each bone's surface, and their signed distances (N,) to it."""
    near = {}
    for name, bone in subject[1].bones.items():
        fine = bone.distance.resampled(0.6)
        close = fine.values[0].abs() < 0.35
        near[name] = (fine.points()[close], fine.values[0][close])
    return near


def gap_mm(anatomy: Anatomy, surface: Surface, pose: Pose, one: str, two: str) -> float:
    """Smallest distance between two bones; ``surface`` is that of the second."""
    fixed, moving = anatomy.bones[one], anatomy.bones[two]
    between = np.linalg.inv(pose.matrix(fixed.group)) @ pose.matrix(moving.group)
    matrix = torch.from_numpy(between).float()
    carried = surface[0] @ matrix[:3, :3].T + matrix[:3, 3]
    inside = ((carried > fixed.distance.origin_mm) & (carried < fixed.distance.high)).all(-1)
    if not inside.any():
        return float("inf")
    # A point outside the second bone lies between the two: what it is off counts.
    return float((fixed.distance.sample(carried[inside])[0] + surface[1][inside]).min())


def test_no_two_bones_touch_anywhere_in_the_range(subject, surfaces):
    recipe, anatomy = subject
    for angle in np.linspace(recipe.lowest_deg - 2, recipe.highest_deg, 4):
        pose = recipe.pose(float(angle))
        for one, two in itertools.combinations(SKELETON, 2):
            gap = gap_mm(anatomy, surfaces[two], pose, one, two)
            assert gap > 1.0, f"{one} and {two} at {angle:.0f}°: {gap:.2f} mm"


def test_joints_do_not_gape(subject, surfaces):
    recipe, anatomy = subject
    for angle in np.linspace(recipe.lowest_deg, recipe.highest_deg, 4):
        pose = recipe.pose(float(angle))
        for one, two in JOINTS_OF_THE_ANKLE:
            assert 1.0 < gap_mm(anatomy, surfaces[two], pose, one, two) < 4.0


def test_every_bone_lies_inside_the_skin(subject):
    _, anatomy = subject
    for name, bone in anatomy.bones.items():
        points = bone.distance.points()[bone.distance.values[0] < 0]
        inside = ((points > anatomy.soft.origin_mm) & (points < anatomy.soft.high)).all(-1)
        assert anatomy.soft.sample(points[inside])[0].min() > 0.99, name


def test_bones_look_bright_within_a_dark_rim(subject):
    _, anatomy = subject
    for name in ("tibia", "talus", "calcaneus"):
        bone = anatomy.bones[name]
        distance = bone.distance.sample(bone.look.points())[0]
        coverage, static, dynamic = bone.look.values
        assert coverage[distance < -1].min() == 1
        for contrast in (static, dynamic):
            marrow = contrast[distance < -4].mean()
            rim = contrast[(distance < -0.4) & (distance > -0.8)].median()
            assert rim < 0.4 * marrow


def test_the_same_child_has_the_same_ankle(subject):
    recipe, anatomy = subject
    again = build(recipe.child, ideal_poses(recipe), soft_voxel_mm=1.8)
    torch.testing.assert_close(again.soft.values, anatomy.soft.values, rtol=0, atol=0)


def test_the_growth_plate_of_the_heel_closes_with_age():
    def heel_plate(age: float) -> float:
        recipe = draw_recipe("T02", 2020)
        child = type(recipe.child)(age_years=age)
        anatomy = build(child, [recipe.pose(-20)], soft_voxel_mm=1.8)
        heel = anatomy.bones["calcaneus"]
        points = heel.look.points()
        core = (points[..., [0, 2]] - torch.tensor([-2.0, -27.0])).abs().amax(-1) < 3
        before, plate, behind = (
            heel.look.values[1][core & ((points[..., 1] - middle).abs() < 0.5)].mean()
            for middle in (-48.0, -50.0, -52.0)
        )
        return float(plate / (before + behind) * 2)

    # in the static scan, marrow is bright
    assert heel_plate(8.0) < 0.95 * heel_plate(14.0)


def test_ranges_of_motion_follow_the_groups():
    for code in SUBJECTS:
        recipe = draw_recipe(code, 2020)
        assert recipe.lowest_deg < recipe.static_dorsiflexion_deg < recipe.highest_deg
        if recipe.group == "equinus":
            assert recipe.highest_deg < 0, "equinus never passes neutral"
    controls = [draw_recipe(code, 2020) for code in SUBJECTS if code.startswith("T")]
    short = next(r for r in controls if r.code == "T03")
    others = [r for r in controls if r.code != "T03"]
    assert short.lowest_deg > max(r.lowest_deg for r in others) + 10
    assert short.static_dorsiflexion_deg > max(r.static_dorsiflexion_deg for r in others) + 10
