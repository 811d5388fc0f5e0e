"""The network of the package is used only if it is the one that came with it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ankle_lib.files import AnkleError
from ankle_lib.learning.prediction import THICKEST_MM, THIN_MM, predict, read_segmenter
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES
from ankle_lib.weights import shipped
from ankle_lib.weights.making import FULL, scans_to_learn
from ankle_lib.weights.shipped import (
    FRAMES,
    STATIC,
    checksum_file,
    named,
    shipped_network,
    write_checksum,
)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "weights" / "bones.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    write_checksum(path)
    monkeypatch.setattr(shipped, "SHIPPED", path.parent)
    return path


def test_the_file_that_came_with_the_package_is_taken(network: Path, tmp_path: Path) -> None:
    assert shipped_network() == network
    assert named(network) == "bones.ckpt (of the package, sha256 9a129038d9a0)"
    own = tmp_path / "own.ckpt"
    own.write_bytes(b"weights")
    assert named(own) == "own.ckpt (sha256 9a129038d9a0)"


def test_other_programs_check_it_too(network: Path) -> None:
    command = ["sha256sum", "--check", checksum_file(network).name]
    done = subprocess.run(command, cwd=network.parent, capture_output=True, text=True)
    assert done.stdout == "bones.ckpt: OK\n"


@pytest.mark.parametrize("lost", ["bones.ckpt", "bones.ckpt.sha256", ""])
def test_a_missing_or_another_file_is_refused(network: Path, lost: str) -> None:
    if lost:
        (network.parent / lost).unlink()
    else:
        network.write_bytes(b"other weights")
    message = r"is missing or another file \(sha256 .*\): .* `ankle networks train --out DIR`"
    with pytest.raises(AnkleError, match=message):
        shipped_network()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "slice_mm"), [(STATIC, 1.0), (FRAMES, 8.0)])
def test_networks_of_the_package_know_feet_that_they_did_not_learn_from(
    name: str, slice_mm: float
) -> None:
    path = shipped_network(slice_mm)
    assert path.name == name
    assert sum(one.stat().st_size for one in path.parent.glob("*.ckpt")) < 6e6
    segmenter = read_segmenter(path)
    assert (segmenter.bones, segmenter.thickest_mm) == (BONES, THICKEST_MM)
    lesson = replace(FULL.lessons[name][-1], n_feet=2, n_scans=2)
    lesson = replace(lesson, ranges=replace(lesson.ranges, thick=float(slice_mm > THIN_MM)))
    scores = []
    for scan in scans_to_learn(replace(FULL, lessons={name: (lesson,)}), name, seed=1):
        item = scan.item
        found = predict(item.image, scan.voxel_size_mm, segmenter, foot=item.region)
        scores += [dice(found.mask(bone), item.labels[bone]) for bone in BONES]
    assert np.mean(scores) > 0.6, scores  # some looks hide a bone
