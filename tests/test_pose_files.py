"""Poses in files come back as they were; what is no list of poses is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import (
    rigid,
)
from ankle_lib.pose_files import (
    CONVENTION,
    FramePose,
    read_transforms,
    write_transforms,
)

POSE = rigid([11, -17, 23], [4, -6, 9], centre_mm=[10, 20, -30])

POSES = [
    FramePose(0, "whole", np.eye(4), 0.91, True),
    FramePose(0, "talus", POSE, 1 / 3, True),
    FramePose(7, "talus", rigid([0, 0, 0.1], [1e-7, 2, 3]), None, False),
]


def test_transforms_come_back_with_every_digit(tmp_path: Path) -> None:
    path = write_transforms(tmp_path / "transforms.json", POSES)
    document = json.loads(path.read_text())
    assert document["convention"] == "world RAS mm, static to frame" == CONVENTION
    assert list(document["transforms"][0]) == ["frame", "bone", "matrix", "correlation", "accepted"]
    for found, written in zip(read_transforms(path), POSES, strict=True):
        assert (found.frame, found.bone, found.correlation, found.accepted) == (
            *(written.frame, written.bone, written.correlation, written.accepted),
        )
        np.testing.assert_array_equal(found.matrix, written.matrix)
        assert found.matrix.dtype == np.float64


def test_a_correlation_that_could_not_be_computed_is_null(tmp_path: Path) -> None:
    pose = FramePose(0, "talus", np.eye(4), float("nan"), False)
    path = write_transforms(tmp_path / "t.json", [pose])
    assert json.loads(path.read_text())["transforms"][0]["correlation"] is None
    assert read_transforms(path)[0].correlation is None


def test_keys_that_others_add_are_passed_over(tmp_path: Path) -> None:
    path = write_transforms(tmp_path / "t.json", POSES[:1])
    document = json.loads(path.read_text())
    document["software"] = "other"
    document["transforms"][0]["cost"] = 0.1
    path.write_text(json.dumps(document))
    assert read_transforms(path)[0].bone == "whole"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("convention",),
            "world LPS mm, static to frame",
            r"convention: Input should be 'world RAS",
        ),
        (("transforms",), None, "transforms: Input should be a valid"),
        (("transforms", 0, "frame"), -1, r"transforms\[0\]\.frame"),
        (("transforms", 0, "frame"), 1.5, r"transforms\[0\]\.frame"),
        (("transforms", 0, "frame"), 7, "frame 7, talus: found twice"),
        (("transforms", 0, "bone"), "../talus", r"transforms\[0\]\.bone"),
        (("transforms", 0, "correlation"), float("nan"), r"transforms\[0\]\.correlation"),
        (("transforms", 0, "correlation"), 93, r"transforms\[0\]\.correlation"),
        (("transforms", 0, "accepted"), "yes", r"transforms\[0\]\.accepted"),
        (("transforms", 0, "matrix"), np.eye(3).tolist(), r"transforms\[0\]\.matrix"),
        (("transforms", 0, "matrix"), "eye", r"transforms\[0\]\.matrix"),
        (
            ("transforms", 0, "matrix"),
            np.diag([2.0, 1, 1, 1]).tolist(),
            "frame 0, talus: not a rigid",
        ),
        (("transforms", 0, "matrix"), np.diag([1.0, 1, -1, 1]).tolist(), "not a rigid"),
        (("transforms", 0, "matrix", 1, 3), float("nan"), r"\.matrix\[1\]\[3\]: Input should be"),
        (("transforms", 0, "matrix", 1, 3), float("inf"), r"\.matrix\[1\]\[3\]: Input should be"),
        (("transforms", 0, "matrix", 1, 3), "4", r"\.matrix\[1\]\[3\]: Input should be"),
    ],
)
def test_what_is_no_list_of_poses_is_refused(
    tmp_path: Path, place: tuple[Any, ...], value: Any, message: str
) -> None:
    path = write_transforms(tmp_path / "t.json", POSES[1:])
    document = json.loads(path.read_text())
    inner = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(AnkleError, match=message) as refusal:
        read_transforms(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"convention": 1' + b"0" * 10_000, b"null"],
)
def test_damaged_transforms_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(AnkleError, match=r"t\.json: ") as refusal:
        read_transforms(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500 + len(str(path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="cannot be read"):
        read_transforms(tmp_path)


@pytest.mark.parametrize("matrix", [np.diag([1, 1, -1, 1]), np.eye(3), np.full((4, 4), np.nan)])
def test_what_could_not_be_read_is_not_written(tmp_path: Path, matrix: NDArray) -> None:
    with pytest.raises(AnkleError):
        write_transforms(tmp_path / "t.json", [FramePose(0, "talus", matrix, 0.5, True)])
    assert not (tmp_path / "t.json").exists()
