"""Poses over time, joint angles and helical axes: `dynamic.over_time`, `dynamic.kinematics`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ankle_lib.dynamic.kinematics import (
    ANGLES,
    JOINTS,
    AnatomicalFrame,
    anatomical_frame,
    helical_axis,
    joint_angles_deg,
    joint_motion,
    tibiocalcaneal_deg,
)
from ankle_lib.dynamic.motion_tables import (
    angle_table,
    cycle_ends,
    helical_table,
    range_of_motion,
    range_summary,
)
from ankle_lib.dynamic.over_time import smooth_poses, smooth_together
from ankle_lib.figures.kinematics import joint_motion_chart
from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, compose, invert, is_rigid, rigid, rotation_angle_deg
from ankle_lib.phantom.motion import cycle
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume

Array = NDArray[np.float64]

FRAMES = 15
CENTRES = {
    "tibia": np.array([0.0, 0.0, 30.0]),
    "talus": np.array([2.0, 15.0, -10.0]),
    "calcaneus": np.array([-5.0, -10.0, -30.0]),
}
HINGE_MM = np.array([0.0, 8.0, -18.0])
EVERY = dict.fromkeys(BONES, np.ones(FRAMES))


def flexion_deg(seed: int = 0, active: bool = False) -> Array:
    return cycle(
        np.arange(FRAMES) / (FRAMES - 1),
        lowest_deg=-22,
        highest_deg=5,
        active=active,
        generator=np.random.default_rng(seed),
    )


def foot_cycle(seed: int = 0, tremble: float = 0.0) -> dict[str, Array]:
    """Poses of a right foot: a hinge about the right-left axis; the calcaneus follows the talus."""
    random = np.random.default_rng(seed)
    poses: dict[str, list[Array]] = {bone: [] for bone in BONES}
    for angle in flexion_deg(seed):
        leg = rigid(random.normal(0, tremble, 3), random.normal(0, tremble, 3), CENTRES["tibia"])
        talus = compose(leg, rigid([angle, 0, 0], [0, 0, 0], HINGE_MM))
        turned = rigid([0.0, 0.15 * angle, 0.0], [0, 0, 0], HINGE_MM)
        for bone, pose in (("tibia", leg), ("talus", talus), ("calcaneus", talus @ turned)):
            poses[bone].append(pose)
    return {bone: np.stack(found) for bone, found in poses.items()}


def disturbed(poses: Array, centre: Array, mm: float, degrees: float, seed: int = 1) -> Array:
    random = np.random.default_rng(seed)
    noisy = []
    for pose in poses:
        shift, turn = random.normal(0, mm, 3), random.normal(0, degrees, 3)
        noisy.append(rigid(turn, shift, apply(pose, centre)) @ pose)
    return np.stack(noisy)


def errors(poses: Array, truth: Array, centre: Array) -> tuple[Array, Array]:
    """Millimetres at the centre and degrees, for each frame."""
    mm = [
        np.linalg.norm(apply(p, centre) - apply(t, centre))
        for p, t in zip(poses, truth, strict=True)
    ]
    degrees = [rotation_angle_deg(p @ invert(t)) for p, t in zip(poses, truth, strict=True)]
    return np.array(mm), np.array(degrees)


def blown(pose: Array, centre: Array) -> Array:
    """A wrong fit: 10 mm and 15 degrees off."""
    return rigid([0, 9, 12], [6, 8, 0], apply(pose, centre)) @ pose


# --- one bone over time ---


@pytest.mark.parametrize("seed", range(4))
def test_exact_poses_are_not_harmed(seed: int) -> None:
    truth = foot_cycle(seed)["calcaneus"]
    mm, degrees = errors(
        smooth_poses(truth, np.ones(FRAMES), CENTRES["calcaneus"]), truth, CENTRES["calcaneus"]
    )
    assert mm.max() < 0.05
    assert degrees.max() < 0.05


def test_noise_is_reduced() -> None:
    before, after = [], []
    for seed in range(6):
        truth = foot_cycle(seed)["talus"]
        noisy = disturbed(truth, CENTRES["talus"], 0.5, 1.0, seed + 10)
        smooth = smooth_poses(noisy, np.ones(FRAMES), CENTRES["talus"])
        before.append(errors(noisy, truth, CENTRES["talus"]))
        after.append(errors(smooth, truth, CENTRES["talus"]))
    assert (np.median(after, axis=(0, 2)) < 0.7 * np.median(before, axis=(0, 2))).all()


@pytest.mark.parametrize("frame", [3, 7, 12])
def test_an_outlier_is_repaired_and_its_neighbours_kept(frame: int) -> None:
    truth = foot_cycle()["talus"]
    poses = disturbed(truth, CENTRES["talus"], 0.1, 0.3)
    poses[frame] = blown(truth[frame], CENTRES["talus"])
    mm, degrees = errors(
        smooth_poses(poses, np.ones(FRAMES), CENTRES["talus"]), truth, CENTRES["talus"]
    )
    assert mm.max() < 0.8
    assert degrees.max() < 1.6


def test_unknown_frames_are_filled_whatever_they_hold() -> None:
    truth = foot_cycle()["talus"]
    poses, weights = truth.copy(), np.ones(FRAMES)
    poses[[0, 5, 6]], weights[[0, 5, 6]] = np.nan, 0
    mm, degrees = errors(smooth_poses(poses, weights, CENTRES["talus"]), truth, CENTRES["talus"])
    assert mm.max() < 1.0
    assert degrees.max() < 2.0


def test_the_world_does_not_matter() -> None:
    poses = disturbed(foot_cycle()["talus"], CENTRES["talus"], 0.3, 0.5)
    other = rigid([20, 100, -50], [30, -200, 10])
    moved = other @ poses @ invert(other)
    smooth = smooth_poses(poses, np.ones(FRAMES), CENTRES["talus"])
    again = smooth_poses(moved, np.ones(FRAMES), apply(other, CENTRES["talus"]))
    np.testing.assert_allclose(again, other @ smooth @ invert(other), atol=1e-6)


def test_few_frames_stay_and_their_gaps_are_bridged() -> None:
    truth = foot_cycle()["tibia"][:3]
    np.testing.assert_allclose(smooth_poses(truth, np.ones(3), [0, 0, 0]), truth, atol=1e-9)
    poses = np.stack([rigid([0, 0, 0], [x, 0, 0]) for x in (0.0, np.nan, 4.0)])
    middle = smooth_poses(poses, [1, 0, 1], [0, 0, 0])[1]
    np.testing.assert_allclose(middle, rigid([0, 0, 0], [2, 0, 0]), atol=1e-9)
    alone = smooth_poses(truth, [0, 1, 0], [0, 0, 0])
    np.testing.assert_allclose(alone, truth[[1, 1, 1]], atol=1e-9)


@pytest.mark.parametrize("count", [4, 5])
def test_a_short_sequence_with_wrong_frames_stays_finite(count: int) -> None:
    poses = foot_cycle()["talus"][:count]
    poses[[0, 2]] = [blown(pose, CENTRES["talus"]) for pose in poses[[0, 2]]]
    smooth = smooth_poses(poses, np.ones(count), CENTRES["talus"])
    assert all(is_rigid(pose) for pose in smooth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poses": np.eye(4)}, "expected"),
        ({"weights": np.ones(3)}, "one weight a frame"),
        ({"weights": np.zeros(FRAMES)}, "no frame has a weight"),
        ({"weights": -np.ones(FRAMES)}, "not usable"),
        ({"centre_mm": [0, np.nan, 0]}, "not usable"),
        ({"poses": np.full((FRAMES, 4, 4), 2.0)}, "frame 0 is not rigid"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "poses": foot_cycle()["talus"], "weights": np.ones(FRAMES), "centre_mm": [0, 0, 0],
    }  # fmt: skip
    with pytest.raises(AnkleError, match=message):
        smooth_poses(**(given | change))


# --- the bones of a leg together ---


def test_trembling_of_the_leg_is_kept() -> None:
    truth = foot_cycle(tremble=0.5)
    alone = smooth_poses(truth["talus"], np.ones(FRAMES), CENTRES["talus"])
    together = smooth_together(truth, EVERY, CENTRES)
    for bone in BONES:
        mm, degrees = errors(together[bone], truth[bone], CENTRES[bone])
        assert np.median(mm) < 0.05
        assert np.median(degrees) < 0.08
    assert np.median(errors(alone, truth["talus"], CENTRES["talus"])[0]) > 0.2


def test_noise_and_outliers_of_one_bone_are_removed() -> None:
    truth = foot_cycle(tremble=0.4)
    poses = {b: disturbed(truth[b], CENTRES[b], 0.3, 0.8, n) for n, b in enumerate(BONES)}
    noise = np.mean([errors(poses[b], truth[b], CENTRES[b])[1] for b in BONES])
    poses["talus"][5] = blown(truth["talus"][5], CENTRES["talus"])
    weights = {bone: np.ones(FRAMES) for bone in BONES}
    weights["tibia"][9], poses["tibia"][9] = 0, np.nan
    smooth = smooth_together(poses, weights, CENTRES)
    found = {bone: errors(smooth[bone], truth[bone], CENTRES[bone]) for bone in BONES}
    assert np.mean([degrees for _, degrees in found.values()]) < 0.8 * noise
    assert found["talus"][0][5] < 1.2
    assert found["tibia"][0][9] < 2.0  # the leg moved it, as talus and calcaneus tell


def test_a_start_of_the_whole_leg_is_motion() -> None:
    truth = foot_cycle()
    jerk = rigid([0, 3, 4], [3, 4, 0], CENTRES["talus"])
    for bone in BONES:
        truth[bone][7] = jerk @ truth[bone][7]
    for bone, poses in smooth_together(truth, EVERY, CENTRES).items():
        mm, degrees = errors(poses, truth[bone], CENTRES[bone])
        assert mm[7] < 0.3
        assert degrees[7] < 0.5


def test_bones_must_fit_together() -> None:
    poses = foot_cycle()
    with pytest.raises(AnkleError, match="give all three"):
        smooth_together(poses, {"talus": np.ones(FRAMES)}, CENTRES)
    short = poses | {"talus": poses["talus"][:5]}
    with pytest.raises(AnkleError, match="numbers of frames differ"):
        smooth_together(short, EVERY | {"talus": np.ones(5)}, CENTRES)


# --- anatomical axes and angles ---


def box(low: tuple[int, ...], high: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros((40, 60, 60), dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
MASKS = {
    "tibia": box((14, 20, 32), (26, 32, 58)),
    "talus": box((14, 20, 24), (26, 42, 31)),
    "calcaneus": box((14, 8, 10), (26, 36, 22)),
}
RIGHT = anatomical_frame(MASKS, AFFINE, "right")


def mirrored(poses: Array) -> Array:
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 2 * 39  # the grid's middle plane
    moved: Array = flip @ poses @ flip
    return moved


LEFT = anatomical_frame({b: m[::-1] for b, m in MASKS.items()}, AFFINE, "left")


def test_axes_of_an_upright_foot() -> None:
    np.testing.assert_allclose(RIGHT.matrix[:3, :3], [[0, 1, 0], [0, 0, 1], [1, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(LEFT.matrix[:3, :3], [[0, 1, 0], [0, 0, 1], [-1, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(RIGHT.calcaneus_axis, [1, 0, 0], atol=1e-9)
    above = RIGHT.centres_mm["talocrural"] - RIGHT.centres_mm["subtalar"]
    assert above[1] == pytest.approx(2 * (31.0 - 22.5), abs=1.5)  # the middles of the two gaps
    np.testing.assert_allclose(RIGHT.centres_mm["talocrural"][2], 0, atol=1e-9)


def test_axes_follow_a_turned_leg() -> None:
    turn = rigid([10, -8, 0], [30, -5, 7])
    frame = anatomical_frame(MASKS, turn @ AFFINE, "right")
    np.testing.assert_allclose(frame.matrix[1, :3], turn[:3, 2], atol=1e-9)
    for joint, centre in RIGHT.centres_mm.items():
        # the axis may have turned the foot about the shaft, where the world tells what is lateral
        assert frame.centres_mm[joint][1] == pytest.approx(centre[1], abs=0.2)


@pytest.mark.parametrize(
    ("turn_deg", "expected"),
    [([12, 0, 0], (12, 0, 0)), ([0, 7, 0], (0, 7, 0)), ([0, 0, 9], (0, 0, 9))],
)
def test_signs_are_clinical_on_both_sides(
    turn_deg: list[float], expected: tuple[float, ...]
) -> None:
    """A right foot: toes up, sole inwards, toes inwards, from rotations about R, A and S."""
    still, moved = np.eye(4)[None], rigid(turn_deg, [1, 2, 3])[None]
    toes, sole = moved[0, :3, :3] @ [0, 1, 0], moved[0, :3, :3] @ [0, 0, -1]
    assert toes[2] > 0 or sole[0] < 0 or toes[0] < 0
    angles = joint_angles_deg(joint_motion(still, moved), RIGHT)
    np.testing.assert_allclose(angles, [expected], atol=1e-6)
    other = joint_angles_deg(joint_motion(mirrored(still), mirrored(moved)), LEFT)
    np.testing.assert_allclose(other, [expected], atol=1e-6)


def test_angles_are_those_of_grood_and_suntay() -> None:
    first, second, third = 20.0, -6.0, 9.0
    lateral, anterior, superior = np.eye(3)
    turn = (
        Rotation.from_rotvec(first * lateral, degrees=True)
        * Rotation.from_rotvec(second * anterior, degrees=True)
        * Rotation.from_rotvec(third * superior, degrees=True)
    )
    pose = np.eye(4)
    pose[:3, :3] = turn.as_matrix()
    np.testing.assert_allclose(joint_angles_deg(pose[None], RIGHT), [[first, second, third]])


def test_motion_of_the_leg_does_not_count() -> None:
    poses = foot_cycle(tremble=3.0)
    angles = joint_angles_deg(joint_motion(poses["tibia"], poses["talus"]), RIGHT)
    np.testing.assert_allclose(angles[:, 0], flexion_deg(), atol=1e-6)
    np.testing.assert_allclose(angles[:, 1:], 0, atol=1e-6)
    subtalar = joint_angles_deg(joint_motion(poses["talus"], poses["calcaneus"]), RIGHT)
    np.testing.assert_allclose(subtalar[:, 1], 0.15 * flexion_deg(), atol=1e-6)


def test_an_unknown_frame_has_no_angle() -> None:
    poses = foot_cycle()
    poses["talus"][4] = np.nan
    angles = joint_angles_deg(joint_motion(poses["tibia"], poses["talus"]), RIGHT)
    assert np.isnan(angles[4]).all()
    assert np.isfinite(np.delete(angles, 4, axis=0)).all()


def test_tibiocalcaneal_angle() -> None:
    motion = np.stack([np.eye(4), rigid([15, 0, 0], [0, 0, 0])])
    np.testing.assert_allclose(tibiocalcaneal_deg(motion, RIGHT), [90, 75], atol=1e-6)


@pytest.mark.parametrize(
    ("masks", "affine", "side", "message"),
    [
        (MASKS, AFFINE, None, "side None"),
        ({b: MASKS[b] for b in ("tibia", "talus")}, AFFINE, "right", "no voxel of calcaneus"),
        (MASKS | {"tibia": box((14, 20, 32), (26, 32, 44))}, AFFINE, "right", "times as long"),
        (MASKS, rigid([0, 80, 0], [0, 0, 0]) @ AFFINE, "right", "across than along"),
    ],
)
def test_no_axes(masks: Any, affine: Array, side: str | None, message: str) -> None:
    with pytest.raises(AnkleError, match=message):
        anatomical_frame(masks, affine, side)


# --- helical axes ---


@pytest.mark.parametrize("frame", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("angle", [3.0, 25.0, 120.0])
def test_helical_axis_of_a_known_screw(frame: AnatomicalFrame, angle: float) -> None:
    line = np.array([0.3, 0.2, 0.93]) / np.linalg.norm([0.3, 0.2, 0.93])
    on_it = frame.centres_mm["subtalar"] + np.cross(line, [1.0, 0, 0]) * 12
    screw = rigid(angle * line, 2.5 * line, on_it)
    first = rigid([3, 5, -7], [1, 2, 3])
    second = invert_any(frame.matrix) @ screw @ frame.matrix @ first
    found = helical_axis(first, second, frame, "subtalar")
    assert found.rotation_deg == pytest.approx(angle)
    assert found.shift_mm == pytest.approx(2.5)
    np.testing.assert_allclose(found.direction, line, atol=1e-9)
    np.testing.assert_allclose(found.point_mm, on_it, atol=1e-6)


def invert_any(matrix: Array) -> Array:
    """Inverse of a matrix that may mirror."""
    return np.asarray(np.linalg.inv(matrix))


def test_small_turns_and_unknown_poses_have_no_axis() -> None:
    small = helical_axis(np.eye(4), rigid([1.5, 0, 0], [3, 0, 0]), RIGHT, "talocrural")
    assert small.rotation_deg == pytest.approx(1.5)
    assert np.isnan([small.shift_mm, *small.direction, *small.point_mm]).all()
    unknown = helical_axis(np.eye(4), np.full((4, 4), np.nan), RIGHT, "talocrural")
    assert np.isnan(unknown.rotation_deg)


# --- tables and the figure ---


def cohort(table: Any) -> pd.DataFrame:
    parts = []
    for number, (subject, group) in enumerate((("T01", "control"), ("T02", "control"),
                                               ("E01", "equinus"))):  # fmt: skip
        for sequence in ("active_run-01", "passive_run-01"):
            parts.append(table(foot_cycle(number), RIGHT, subject, sequence, group))
    return pd.concat(parts, ignore_index=True)


def test_angle_table() -> None:
    table = angle_table(foot_cycle(), RIGHT, "T01", "active_run-01", "control")
    names = ["subject", "sequence", "group", "kind", "frame", "joint", *ANGLES]
    assert list(table) == [*names, "tibiocalcaneal_deg"]
    assert len(table) == len(JOINTS) * FRAMES
    assert set(table["kind"]) == {"active"}
    assert table["tibiocalcaneal_deg"].notna().equals(table["joint"] == "hindfoot")


def test_helical_table_runs_from_end_to_end_of_the_cycle() -> None:
    poses = foot_cycle()
    table = helical_table(poses, RIGHT, "T01", "active_run-01", "control").set_index("joint")
    assert cycle_ends(poses, RIGHT) == (table["first_frame"].iloc[0], table["last_frame"].iloc[0])
    hinge = table.loc["talocrural"]
    assert hinge["rotation_deg"] == pytest.approx(np.ptp(flexion_deg()))
    assert hinge["lateral"] == pytest.approx(1)
    assert hinge["deviation_deg"] == pytest.approx(90)
    at = apply(RIGHT.matrix, HINGE_MM)
    assert hinge[["point_anterior_mm", "point_superior_mm"]].tolist() == pytest.approx(list(at[:2]))
    subtalar = table.loc["subtalar"]
    assert subtalar["anterior"] == pytest.approx(1)  # the toy inverts with dorsiflexion
    assert subtalar["inclination_deg"] == pytest.approx(0, abs=1e-6)
    lost = {bone: np.full((FRAMES, 4, 4), np.nan) for bone in BONES}
    with pytest.raises(AnkleError, match="0 frames with tibia and calcaneus"):
        cycle_ends(lost, RIGHT)


def test_ranges_and_their_summary() -> None:
    ranges = range_of_motion(cohort(angle_table))
    chosen = (ranges["joint"] == "talocrural") & (ranges["angle"] == "dorsiflexion_deg")
    t01 = ranges[chosen & (ranges["subject"] == "T01")]["range_deg"]
    np.testing.assert_allclose(t01, np.ptp(flexion_deg()))
    summary = range_summary(ranges).set_index(["joint", "angle", "group", "kind"])
    control = summary.loc[("talocrural", "dorsiflexion_deg", "control", "active")]
    expected = np.mean([np.ptp(flexion_deg(0)), np.ptp(flexion_deg(1))])
    assert control["mean_deg"] == pytest.approx(expected)
    assert control["subjects"] == 2
    difference = summary.loc[("subtalar", "inversion_deg", "control", "active - passive")]
    assert difference["mean_deg"] == pytest.approx(0)
    alone = summary.loc[("subtalar", "inversion_deg", "equinus", "passive")]
    assert np.isnan(alone["low_deg"])


def test_chart() -> None:
    bones = {bone: Volume(mask.astype(np.uint8), AFFINE) for bone, mask in MASKS.items()}
    angles, axes = cohort(angle_table), cohort(helical_table)
    figure = joint_motion_chart(angles, axes, bones, RIGHT, truth=angles)
    panels = figure.axes
    assert len(panels) == 1 + 2 * 3 + 2
    highest = max(np.max(line.get_ydata()) for line in panels[1].lines)
    assert highest == pytest.approx(flexion_deg().max(), abs=1.5)
    low, high = panels[0].get_ylim()
    assert low > high  # dorsiflexion is up, where the angle is smaller
    with pytest.raises(AnkleError, match="no angle"):
        joint_motion_chart(angles.iloc[:0], axes, bones, RIGHT)
