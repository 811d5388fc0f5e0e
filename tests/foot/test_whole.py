"""From scans of a foot to its page, on an ankle made of ellipsoids that moves as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from ankle_lib.dynamic.kinematics import ANGLES
from ankle_lib.files import AnkleError
from ankle_lib.foot import whole
from ankle_lib.foot.results import Outcome
from ankle_lib.foot.whole import foot_files
from ankle_lib.geometry import rigid
from ankle_lib.quality.review_sheet import ReviewSheet
from ankle_lib.volume import Volume, load, resample, save
from ankle_lib.weights import shipped
from tests.toy_ankle import ToyAnkle, toy_ankle

MIDDLE = np.array([5.0, -20.0, 10.0])
POSES = [rigid([turn, 0, 0], [1, 0, 0], MIDDLE) for turn in (3, 0, -3, -6)]


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


@pytest.fixture(scope="module")
def files(ankle: ToyAnkle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scans")
    shape, place = (58, 58, 14), ankle.sequence.affine @ np.diag([1, 1, 0.75, 1])
    frames = [
        resample(ankle.static, shape, place, pose=pose, slice_samples=7).data * 0.7 + 20
        for pose in POSES
    ]
    noise = np.random.default_rng(3).normal(0, 8, (*shape, len(frames)))
    paths = {"static": save(folder / "static.nii.gz", ankle.static.data, ankle.static.affine)}
    paths["movie"] = save(folder / "active.nii.gz", np.stack(frames, 3) + noise, place)
    for bone, mask in ankle.masks.items():
        paths[bone] = save(folder / f"{bone}.nii.gz", mask.data, mask.affine)
    return paths


@pytest.fixture(scope="module")
def out(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, said = tmp_path_factory.mktemp("foot") / "out", []
    masks = {bone: files[bone] for bone in ("calcaneus", "talus", "tibia")}
    found = foot_files(files["static"], [files["movie"]], folder, masks=masks, tell=said.append)
    assert found.files == [folder / "report.html"]
    assert not found.problem
    assert said == ["active: following the bones", "active: joints"]
    return folder


def test_joints_of_a_foot_that_moves_as_one_do_not_move(out: Path) -> None:
    angles = pd.read_csv(out / "active" / "angles.csv")
    assert set(angles["joint"]) == {"talocrural", "subtalar", "hindfoot"}
    assert len(angles) == 3 * len(POSES)
    assert angles[list(ANGLES)].abs().to_numpy().max() < 2.0
    gaps = pd.read_csv(out / "active" / "joint_gaps.csv").pivot_table(
        index="joint", values="gap_mm", aggfunc=["min", "max"]
    )
    assert (gaps["max"] - gaps["min"]).to_numpy().max() < 1.5
    assert {"transforms.json", "contact_sheet.png", "helical_axes.csv"} <= {
        path.name for path in (out / "active").iterdir()
    }


def test_the_page_names_no_folder(out: Path, files: dict[str, Path]) -> None:
    page = (out / "report.html").read_text(encoding="utf-8")
    assert str(files["static"].parent) not in page
    assert "<h1>static</h1>" in page


def done_again(*_: object, **__: object) -> Outcome:
    raise AssertionError("done again")


def test_what_is_done_is_not_done_again(
    out: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = {bone: files[bone] for bone in ("calcaneus", "talus", "tibia")}
    again = {"masks": masks, "tell": lambda line: None}
    (out / "report.html").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(whole, "register_files", done_again)
        foot_files(files["static"], [files["movie"]], out, **again)
        assert (out / "report.html").exists()
        (out / "active" / "transforms.json").unlink()
        with pytest.raises(AssertionError, match="done again"):  # now it has to be
            foot_files(files["static"], [files["movie"]], out, **again)
    foot_files(files["static"], [files["movie"]], out, **again)
    assert (out / "active" / "transforms.json").exists()


def test_a_verdict_in_the_sheet_counts_in_the_next_run(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = {bone: files[bone] for bone in ("calcaneus", "talus", "tibia")}
    scans, options = (files["static"], [files["movie"]], tmp_path), {"masks": masks, "sharp": True}
    foot_files(*scans, **options, tell=lambda line: None)
    folder, sharp = tmp_path / "active", load(tmp_path / "active" / "sharp.nii.gz").data
    assert "was refused in" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    before = pd.read_csv(folder / "joint_gaps.csv")
    sheet = ReviewSheet(folder / "qc_sheet.csv")
    assert set(sheet.table()["verdict"]) == {"accepted"}
    for bone in masks:
        sheet.judge("static.nii.gz", "active", 2, bone, "rejected", "Ada")
    monkeypatch.setattr(whole, "register_files", done_again)
    foot_files(*scans, **options, tell=lambda line: None)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the talus was refused in frame 2: its angles there follow its other frames" in page
    gaps = pd.read_csv(folder / "joint_gaps.csv")
    assert set(before["frame"]) - set(gaps.dropna()["frame"]) == {2}
    again = load(folder / "sharp.nii.gz").data
    assert not again[..., 2].any()
    assert sharp[..., 2].any()
    assert list(sheet.table()["reviewer"]).count("Ada") == 3


def test_without_masks_the_network_of_the_package_is_taken(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tmp_path / "bones.ckpt"
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path)
    scans = files["static"], [files["movie"]], tmp_path / "out"
    with pytest.raises(AnkleError, match="the package's network is missing or another file"):
        foot_files(*scans, tell=lambda line: None)
    network.write_bytes(b"weights")
    shipped.write_checksum(network)
    asked = []

    def segments(image: Path, checkpoint: Path, out: Path, **_: object) -> Outcome:
        asked.append((image, checkpoint))
        return Outcome([out], [], [], "no talus found")

    monkeypatch.setattr(whole, "segment_file", segments)
    with pytest.raises(AnkleError, match="no talus found; give masks with --mask"):
        foot_files(*scans, tell=lambda line: None)
    assert asked == [(files["static"], network)]


def test_what_cannot_be_done_is_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="two sequences are called"):
        foot_files(
            files["static"], [files["movie"]] * 2, tmp_path / "out", masks={"talus": files["talus"]}
        )


def test_a_bone_alone_has_poses_but_no_angles(files: dict[str, Path], tmp_path: Path) -> None:
    talus = load(files["talus"])
    soft = ndimage.gaussian_filter(talus.data.astype(np.float32), 1.0)
    masks = {"talus": save(tmp_path / "soft.nii.gz", soft, talus.affine)}
    out = tmp_path / "out"
    foot_files(files["static"], [files["movie"]], out, masks=masks, tell=lambda line: None)
    assert pd.read_csv(out / "active" / "angles.csv").empty
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "no joint angles" in page
    assert "the mask of the talus was binarised at" in page  # like all that is odd in the files
    moved = load(next((out / "active" / "masks").glob("*talus*")))
    assert isinstance(moved, Volume)
    assert moved.data.any()
