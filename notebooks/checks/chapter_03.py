"""Checks of the exercises of chapter 03."""

import numpy as np

from ankle_lib.figures.images import middle_slice
from ankle_lib.geometry import apply, compose, invert, rigid, rotation_angle_deg
from ankle_lib.quality.gate import fit_gate
from ankle_lib.running.answers import exercise, expect, expect_function


@exercise
def exercise_1(tre):
    """Check a function that measures the target registration error."""

    def right(pose, truth, points, *, way="mean"):
        if way == "shift":
            return float(np.linalg.norm(np.subtract(pose, truth)[:3, 3]))
        apart = apply(pose, points) - apply(truth, points)
        if way == "middle":
            return float(np.linalg.norm(apart.mean(axis=0)))
        distances = np.linalg.norm(apart, axis=1)
        ways = {"mean": np.mean, "max": np.max, "rms": lambda one: np.sqrt(np.mean(one**2))}
        return float(ways[way](distances))

    points = np.random.default_rng(0).normal((10, -40, 60), (9, 20, 12), (500, 3))
    truth = rigid((10, 0, 5), (1, -2, 3), points.mean(axis=0))
    cases = {
        "where the pose is right": (truth, truth, points),
        "where the pose is shifted by 2 mm": (rigid((0, 0, 0), (0, 2, 0)) @ truth, truth, points),
        "where the pose is turned about the bone's middle": (
            truth @ rigid((0, 8, 0), (0, 0, 0), points.mean(axis=0)),
            truth,
            points,
        ),
    }
    mistakes = {
        "it compares the middles of the bone, which a turn leaves in place; take every point": {
            "way": "middle"
        },
        "it compares the last columns of the poses, which depend on where the world begins": {
            "way": "shift"
        },
        "that is the root mean square; the mean distance is asked for": {"way": "rms"},
        "that is the largest distance; the mean is asked for": {"way": "max"},
    }
    expect_function("tre", tre, right, cases, mistakes=mistakes)
    return "One number in mm for three angles and three shifts, and it depends on the bone."


@exercise
def exercise_2(turned_deg, *, poses, n_frames):
    """Check by how much the talus has turned against the tibia since frame 0."""

    def right(pose_of):
        return np.array(
            [
                rotation_angle_deg(compose(invert(pose_of(0)), pose_of(frame)))
                for frame in range(n_frames)
            ]
        )

    def joint(frame):
        return compose(invert(poses[frame, "tibia"]), poses[frame, "talus"])

    mistakes = {
        "that is the talus in the scanner; the tibia moves, too": lambda: right(
            lambda frame: poses[frame, "talus"]
        ),
        "that is the tibia in the scanner": lambda: right(lambda frame: poses[frame, "tibia"]),
        "these are turns since the static scan; begin at frame 0": lambda: np.array(
            [rotation_angle_deg(joint(frame)) for frame in range(n_frames)]
        ),
        "the tibia's pose is to be undone (inverted) first": lambda: right(
            lambda frame: compose(poses[frame, "tibia"], poses[frame, "talus"])
        ),
        "these are radians": lambda: np.deg2rad(right(joint)),
    }
    given = np.array(turned_deg) if isinstance(turned_deg, list | tuple) else turned_deg
    expect("turned_deg", given, right(joint), mistakes=mistakes)
    return f"{right(joint).max():.0f}° at most, and it needed two poses in every frame."


@exercise
def exercise_3(thresholds, *, of_whole):
    """Check the gates that can be read from single sequences."""
    gates = [
        fit_gate(rows["correlation"], rows["dice"])
        for _, rows in of_whole.groupby(["subject", "sequence"])
    ]
    read = sorted(gate.correlation_threshold for gate in gates if gate.method == "fit")
    everything = sorted(gate.correlation_threshold for gate in gates)
    together = fit_gate(of_whole["correlation"], of_whole["dice"]).correlation_threshold
    mistakes = {
        "some could not be read, and hold the report's value instead: leave them out (method)": (
            np.array(everything)
        ),
        "these could not be read": np.array(
            sorted(gate.correlation_threshold for gate in gates if gate.method != "fit")
        ),
        "that is the gate of all together; fit each sequence alone": np.array([together]),
    }
    given = thresholds
    if isinstance(thresholds, list | tuple | np.ndarray):
        given = np.sort(np.array(thresholds, dtype=float))
    expect("thresholds", given, np.array(read), mistakes=mistakes)
    spread = f", from {read[0]:.2f} to {read[-1]:.2f}" if read else ""
    return f"{len(read)} of {len(gates)} sequences give a gate{spread}: one is not enough."


@exercise
def exercise_4(lost, *, frames, talus):
    """Check frames of which a part of the slice through the talus is lost."""
    middle, places = middle_slice(talus), np.argwhere(talus)
    back, below = (int(places[:, axis].mean()) for axis in (0, 1))

    def right(where):
        data = frames.data.copy()
        data[where] = 0
        return data

    mistakes = {
        "nothing is lost": frames.data,
        "the upper half is lost; lower is where the second index is small": lambda: right(
            np.s_[:, below:, middle]
        ),
        "the whole slice is lost": lambda: right(np.s_[:, :, middle]),
        "all slices have lost their lower half; only the one through the talus shall": (
            lambda: right(np.s_[:, :below])
        ),
        "only frame 0 has lost it": lambda: right(np.s_[:, :below, middle, 0]),
        "the posterior part is lost; from below to above counts the second axis": lambda: right(
            np.s_[back:, :, middle]
        ),
        "the anterior part is lost; from below to above counts the second axis": lambda: right(
            np.s_[:back, :, middle]
        ),
    }
    expect("lost", lost, right(np.s_[:, :below, middle]), within=1e-6, mistakes=mistakes)
    return "To the registration these zeros are dark tissue."
