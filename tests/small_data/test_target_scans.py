from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ankle_lib.geometry import rigid
from ankle_lib.presets import BONES
from ankle_lib.small_data.target_scans import TargetChild
from ankle_lib.volume import Volume


@pytest.fixture
def child() -> TargetChild:
    static, frames = np.arange(24.0).reshape(2, 3, 4), np.arange(48.0).reshape(2, 3, 4, 2)
    labels = [(one % 4).astype(np.uint8) for one in (static, frames)]
    images = (Volume(static, np.eye(4)), Volume(frames, np.diag([1.0, 1, 8, 1])))
    poses = [dict.fromkeys(BONES, np.eye(4)) for _ in range(2)]
    return TargetChild("C01", *images, *labels, poses, {})


def test_a_checksum_notices_all_that_is_scored(child: TargetChild) -> None:
    """Scores in mm, and of poses, are remembered by it."""
    larger, static, frames = np.diag([2.0, 2, 2, 1]), child.static, child.frames
    turned = [child.poses[0], child.poses[1] | {"talus": rigid((5, 0, 0), (0, 0, 0))}]
    others = [
        replace(child, code="C02"),
        replace(child, static=Volume(static.data + 1, static.affine)),
        replace(child, static=Volume(static.data, larger)),
        replace(child, frames=Volume(frames.data + 1, frames.affine)),
        replace(child, frames=Volume(frames.data, larger)),
        replace(child, static_labels=3 - child.static_labels),
        replace(child, frame_labels=3 - child.frame_labels),
        replace(child, poses=turned),
    ]
    digests = {one.checksum for one in (child, *others)}
    assert len(digests) == 1 + len(others)
    assert replace(child).checksum == child.checksum
