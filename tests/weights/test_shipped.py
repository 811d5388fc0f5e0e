"""The network of the package is used only if it is the one that came with it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ankle_lib.files import AnkleError
from ankle_lib.learning.prediction import THICKEST_MM, predict, read_segmenter
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES
from ankle_lib.weights import shipped
from ankle_lib.weights.making import FULL, scans_to_learn
from ankle_lib.weights.shipped import checksum_file, named, shipped_network, write_checksum


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bones.ckpt"
    path.write_bytes(b"weights")
    write_checksum(path)
    monkeypatch.setattr(shipped, "SHIPPED", path)
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
def test_the_network_of_the_package_knows_feet_that_it_did_not_learn_from() -> None:
    path = shipped_network()
    assert path.stat().st_size < 6e6
    segmenter = read_segmenter(path)
    assert (segmenter.bones, segmenter.thickest_mm) == (BONES, THICKEST_MM)
    for scan in scans_to_learn(replace(FULL, n_feet=2, n_scans=2), seed=1):
        item = scan.item
        found = predict(item.image, scan.voxel_size_mm, segmenter, foot=item.region)
        scores = [dice(found.mask(bone), item.labels[bone]) for bone in BONES]
        assert min(scores) > 0.7, (scan.group, scan.voxel_size_mm, scores)
