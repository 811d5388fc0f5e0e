from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from ankle_lib import cli
from ankle_lib.figures.style import new_figure
from ankle_lib.files import AnkleError
from ankle_lib.foot.reading import read_image
from ankle_lib.foot.segment import (
    EXPECTED_CM3,
    Segmentation,
    label_files,
    noted,
    notes_of,
    segment_scan,
    write_labels,
)
from ankle_lib.geometry import apply
from ankle_lib.learning import prediction
from ankle_lib.learning.networks import SliceNetwork, build
from ankle_lib.learning.prediction import Segmenter, predict, read_segmenter
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, load, save, to_orientation
from tests.toy_ankle import oblique_affine
from tests.toy_segmenter import INPUT, by_hand, labelled, rendered, written

SHAPE, VOXEL_MM = (70, 76, 10), (2.0, 2.0, 8.0)
GREYS = (700, 1000, 1300, 1600, 1900)
NAMES = dict(enumerate(BONES, start=1))
THICK = {**INPUT, "voxel_mm": [2.0, 2.0], "thickest_mm": 10.0}


def moved(frame: int) -> np.ndarray:
    """The grid of a frame, moved by a few voxels: the foot moves the other way."""
    affine = oblique_affine(SHAPE, VOXEL_MM)
    affine[:3, 3] = apply(affine, (2.0 * frame, -1.5 * frame, 0))
    return affine


def film(frames: Sequence[int] = (0, 1, 2), gains: Sequence[float] = (1.0, 0.9, 1.1)) -> Volume:
    """A foot that moves through thick slices, each frame with a gain of its own."""
    images = [
        rendered(SHAPE, moved(n), seed=n).data * gain for n, gain in zip(frames, gains, strict=True)
    ]
    return Volume(np.stack(images, axis=3).astype(np.float32), oblique_affine(SHAPE, VOXEL_MM))


def blanked(series: Volume, frame: int) -> Volume:
    data = series.data.copy()
    data[..., frame] = 0
    return Volume(data, series.affine)


@pytest.fixture(scope="module")
def series() -> Volume:
    return film()


@pytest.fixture(scope="module")
def network(series: Volume) -> SliceNetwork:
    return by_hand(rendered(SHAPE, series.affine), GREYS)


@pytest.fixture(scope="module")
def segmenter(network: SliceNetwork) -> Segmenter:
    return Segmenter(network, BONES, (2.0, 2.0), thickest_mm=10.0)


@pytest.fixture(scope="module")
def found(series: Volume, segmenter: Segmenter) -> Segmentation:
    return segment_scan(series, segmenter)


def test_the_bones_of_every_frame_are_found(series: Volume, found: Segmentation) -> None:
    assert found.labels.data.shape == (*SHAPE, 3)
    assert found.labels.data.dtype == np.uint8
    np.testing.assert_array_equal(found.labels.affine, series.affine)
    for n in range(3):
        truth = labelled(SHAPE, moved(n))
        for number in NAMES:
            assert dice(found.labels.frame(n).data == number, truth == number) > 0.98
    assert found.names == NAMES
    assert found.side == "left"
    assert found.notes == ()


def test_each_frame_is_segmented_as_if_alone(
    series: Volume, segmenter: Segmenter, found: Segmentation
) -> None:
    for n in range(3):
        alone = segment_scan(series.frame(n), segmenter)
        np.testing.assert_array_equal(alone.labels.data, found.labels.frame(n).data)
        rows = found.table[found.table["frame"] == n].reset_index(drop=True)
        columns = ["bone", "confidence", "volume_cm3"]
        pd.testing.assert_frame_equal(alone.table[columns], rows[columns])


@pytest.mark.parametrize("codes", ["LAS", "SRP", "IRA"])
def test_the_order_of_the_axes_does_not_matter(
    codes: str, series: Volume, segmenter: Segmenter, found: Segmentation
) -> None:
    turned = to_orientation(series, codes)
    again = segment_scan(turned, segmenter).labels
    np.testing.assert_array_equal(again.affine, turned.affine)
    np.testing.assert_array_equal(to_orientation(again).data, found.labels.data)


def test_the_table_has_each_frame_and_bone(found: Segmentation) -> None:
    table = found.table
    assert tuple(table.columns) == ("frame", "bone", "confidence", "volume_cm3", "note")
    assert list(table["frame"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(table["bone"]) == 3 * list(BONES)
    assert table["confidence"].between(0.95, 1).all()
    for row in table.itertuples():
        voxels = np.count_nonzero(found.labels.frame(row.frame).data == BONES.index(row.bone) + 1)
        assert row.volume_cm3 == pytest.approx(voxels * np.prod(VOXEL_MM) / 1000)


@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_an_empty_frame_does_not_stop_the_others(
    fill: str, series: Volume, segmenter: Segmenter, found: Segmentation
) -> None:
    empty = blanked(series, 1)
    if fill == "noise":
        noise = np.random.default_rng(0).normal(0, 15, (2, *SHAPE))
        empty.data[..., 1] = np.hypot(*noise)
    result = segment_scan(empty, segmenter)
    np.testing.assert_array_equal(result.labels.data[..., [0, 2]], found.labels.data[..., [0, 2]])
    rows = result.table[result.table["frame"] == 1]
    assert (rows["volume_cm3"] == 0).sum() == len(BONES) or fill == "noise"
    lost = rows[rows["volume_cm3"] == 0]
    assert (lost["confidence"] == 0).all()
    assert lost["note"].str.startswith("not found").all()
    assert (rows["note"] != "").all()
    assert any("in frame 1: look at the picture" in note for note in result.notes)
    if fill == "zeros":
        assert "no foot in it" in rows["note"].iloc[0]
        assert result.notes[0] == "the calcaneus: not found in frame 1: look at the picture"


def test_a_series_without_any_bone_is_refused(series: Volume, segmenter: Segmenter) -> None:
    nothing = Volume(np.zeros_like(series.data), series.affine)
    with pytest.raises(AnkleError, match=r"none of .* was found in any of the 3 frames"):
        segment_scan(nothing, segmenter)
    with pytest.raises(AnkleError, match="no foot in it"):
        segment_scan(nothing.frame(0), segmenter)


def mirrored(series: Volume, frames: Sequence[int]) -> Volume:
    data = series.data.copy()
    for frame in frames:
        data[..., frame] = data[:, :, ::-1, frame]
    return Volume(data, series.affine)


def test_most_frames_tell_the_side(series: Volume, segmenter: Segmenter) -> None:
    assert segment_scan(mirrored(series, [1]), segmenter).side == "left"
    result = segment_scan(mirrored(series, [0, 2]), segmenter, side="left")
    assert result.side == "right"
    assert "bones are those of a right foot, not of a left one" in result.notes[-1]
    even = Volume(mirrored(series, [1]).data[..., :2], series.affine)
    assert segment_scan(even, segmenter, side="left").side is None


def three_slices(network: SliceNetwork, channel: int) -> SliceNetwork:
    """The same network, which sees three slices and looks at one of them."""
    wide = build("fcn", in_channels=3, out_channels=3, depth=1, width=5)
    state = network.state_dict()
    for name, weights in state.items():
        if weights.ndim == 4 and weights.shape[1] == 1:
            first = torch.zeros(weights.shape[0], 3, *weights.shape[2:])
            first[:, channel] = weights[:, 0]
            state[name] = first
    wide.load_state_dict(state)
    return wide.eval()


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_beside_a_thick_slice_lie_its_neighbours(
    channel: int, series: Volume, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "tidy_labels", lambda labels: labels)
    image = series.frame(0)
    single = predict(image.data, image.voxel_size_mm, segmenter).labels
    wide = replace(
        segmenter,
        network=three_slices(segmenter.network, channel),
        context_mm=(-1.6, 0.0, 1.6),
    )
    seen = predict(image.data, image.voxel_size_mm, wide).labels
    filled = np.flatnonzero(single.any(axis=(0, 1)))
    within = slice(filled[0] + 1, filled[-1])
    from_there = np.roll(single, 1 - channel, axis=2)
    np.testing.assert_array_equal(seen[:, :, within], from_there[:, :, within])


def test_confidence_is_the_dice_that_the_probabilities_expect(
    series: Volume, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = np.zeros((3, *SHAPE), dtype=np.float32)
    probability[0, 30:40, 30:40, 5] = 0.875
    probability[0, 30:40, 40:45, 5] = 0.25  # not labelled: the bone may go on there
    probability[1, 10:15, 10:14, 4:7] = 0.75
    probability[1, 12, 12, 5] = 0.5  # a hole, which is filled
    monkeypatch.setattr(prediction, "whole_slices", lambda *_, **__: probability)
    result = predict(series.frame(0).data, series.voxel_size_mm, segmenter)
    assert np.bincount(result.labels.ravel()).tolist()[1:] == [100, 60]
    assert result.confidence == {
        "calcaneus": pytest.approx(2 * 87.5 / (87.5 + 12.5 + 100)),
        "talus": pytest.approx(2 * 44.25 / (44.25 + 0.5 + 60)),
        "tibia": 0.0,
    }


def test_bones_in_two_pieces_are_marked_and_small_pieces_told(
    series: Volume, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability = np.zeros((3, *SHAPE), dtype=np.float32)
    probability[0, 30:40, 30:40, 3:7] = 1
    probability[0, 50:55, 50:60, 4] = 1  # 50 of 400 voxels
    probability[1, 10:20, 40:50, 5] = 1
    probability[1, 10:20, 60:66, 5] = 1  # 60 of 100
    probability[2, 30:60, 10:20, 2:8] = 1
    probability[2, 0, 0, 0] = 1  # a speck
    monkeypatch.setattr(prediction, "whole_slices", lambda *_, **__: probability)
    frame = series.frame(0)
    made = predict(frame.data, frame.voxel_size_mm, segmenter)
    assert made.apart == {"calcaneus": 0.125, "talus": 0.6, "tibia": pytest.approx(1 / 1800)}
    result = segment_scan(frame, segmenter)
    assert np.bincount(result.labels.data.ravel()).tolist()[1:] == [400, 100, 1800]
    notes = result.table.set_index("bone")["note"]
    assert "a piece apart removed" in notes["calcaneus"]
    assert "in two pieces" in notes["talus"]
    assert "piece" not in notes["tibia"]
    assert "the talus: in two pieces: look at the picture" in result.notes


def listed(
    *volumes: float, confidence: float = 0.9, note: str = "", bone: str = "talus"
) -> pd.DataFrame:
    """One bone in one frame after the other, as `noted` takes it."""
    rows = {"bone": bone, "confidence": confidence, "volume_cm3": volumes, "note": note}
    return pd.DataFrame({"frame": range(len(volumes)), **rows})


def joined(*tables: pd.DataFrame) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    return noted(table.assign(frame=range(len(table))))


def test_what_is_odd_in_a_frame_is_noted() -> None:
    unsure, dark = listed(20.0, confidence=0.5), listed(0.0, note="dark")
    table = joined(listed(20, 21, 14, 19.5, 27), unsure, dark)
    assert list(table["note"]) == [
        *("", "", "unusual volume", "", "unusual volume", "low confidence", "not found: dark")
    ]
    assert notes_of(table) == [
        "the talus: not found in frame 6: look at the picture",
        "the talus: low confidence in frame 5: look at the picture",
        "the talus: unusual volume in frames 2, 4: look at the picture",
    ]
    table = joined(listed(20, 21, 22), listed(9, confidence=0.1))
    assert table["note"].iloc[-1] == "low confidence; implausible volume; unusual volume"
    huge = joined(listed(90, 91, 92))
    assert set(huge["note"]) == {"implausible volume"}
    assert len(notes_of(huge)) == 1
    assert notes_of(huge)[0].startswith("the talus has 91 cm3, expected 12 to 45")


def test_two_frames_do_not_say_which_is_odd() -> None:
    assert notes_of(joined(listed(20, 40))) == []
    one = noted(pd.concat([listed(20, confidence=0.3), listed(0, bone="tibia")], ignore_index=True))
    assert notes_of(one) == ["the talus: low confidence: look at the picture", "no tibia was found"]


# files


def test_thick_slices_need_a_network_for_them(
    tmp_path: Path, series: Volume, network: SliceNetwork
) -> None:
    path = save(tmp_path / "film.nii", series.data, series.affine)
    old = read_segmenter(written(network, tmp_path / "old.ckpt", {"input": INPUT}))
    with pytest.raises(
        AnkleError,
        match=re.escape(
            f"{path}: sagittal slices of 8 mm, the network was trained for at most 3 mm: use the "
            "package's network or one of chapter 07"
        ),
    ):
        read_image(path, old.thickest_mm)
    new = read_segmenter(written(network, tmp_path / "new.ckpt", {"input": THICK}))
    np.testing.assert_array_equal(read_image(path, new.thickest_mm).data, series.data)
    with pytest.raises(AnkleError, match=r"at most 5 mm: give thinner ones"):
        read_image(path, 5.0)


@pytest.mark.parametrize("codes", ["PSR", "RPS", "LIA"])
def test_only_sagittal_slices_may_be_thick(tmp_path: Path, codes: str) -> None:
    data = np.random.default_rng(0).normal(500, 100, (30, 30, 30)).astype(np.float32)
    for axis, voxel_mm in enumerate([(8.0, 2.0, 2.0), (2.0, 8.0, 2.0), (2.0, 2.0, 8.0)]):
        scan = to_orientation(Volume(data, oblique_affine((30, 30, 30), voxel_mm)), codes)
        path = save(tmp_path / "scan.nii", scan.data, scan.affine)
        if axis == 2:
            assert "".join(read_image(path, 10.0).axis_codes) == codes
        else:
            with pytest.raises(AnkleError, match=r"beyond 3 mm .* give sagittal slices"):
                read_image(path, 10.0)


def stored(path: Path, series: Volume, codes: str, order: str = "<") -> nib.Nifti1Image:
    """Write a series as a scanner would: stored integers with a slope, and a time step."""
    turned = to_orientation(series, codes)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(np.asarray(turned.data), turned.affine, header)
    image.set_qform(turned.affine, 1)
    image.set_sform(turned.affine, 1)
    image.header.set_zooms((*image.header.get_zooms()[:3], 0.0207))
    image.header.set_xyzt_units("mm", "msec")
    content = image.to_bytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return nib.Nifti1Image.from_bytes(content)


@pytest.mark.parametrize(
    ("name", "codes", "order"), [("film.nii.gz", "LSA", "<"), ("film.nii", "PSR", ">")]
)
def test_geometry_and_time_step_are_kept(
    tmp_path: Path, series: Volume, segmenter: Segmenter, name: str, codes: str, order: str
) -> None:
    source = stored(tmp_path / name, series, codes, order)
    scan = read_image(tmp_path / name, segmenter.thickest_mm)
    result = segment_scan(scan, segmenter)
    outputs = label_files(tmp_path / "out" / "seg.nii.gz")
    write_labels(outputs, result, new_figure(1, 1))

    labels = nib.load(outputs[0])
    assert labels.shape == source.shape
    assert labels.get_data_dtype() == np.uint8
    *sizes, step_ms = source.header.get_zooms()
    np.testing.assert_allclose(labels.header.get_zooms(), [*sizes, step_ms / 1000], rtol=1e-6)
    assert labels.header.get_xyzt_units() == ("mm", "sec")
    for form in ("get_qform", "get_sform"):
        ours, theirs = (getattr(one.header, form)(coded=True) for one in (labels, source))
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
        assert ours[1] == theirs[1]
    np.testing.assert_array_equal(load(outputs[0]).data, result.labels.data)
    table = pd.read_csv(outputs[2], keep_default_na=False)
    pd.testing.assert_frame_equal(table, result.table, rtol=1e-5)
    before = outputs[0].read_bytes()
    write_labels(outputs, result, new_figure(1, 1))
    assert outputs[0].read_bytes() == before


def test_a_series_of_one_frame_is_a_scan(
    tmp_path: Path, series: Volume, segmenter: Segmenter, found: Segmentation
) -> None:
    one = Volume(series.data[..., :1], series.affine)
    path = save(tmp_path / "one.nii", one.data, one.affine)
    result = segment_scan(read_image(path, segmenter.thickest_mm), segmenter)
    np.testing.assert_array_equal(result.labels.data, found.labels.frame(0).data)


def test_a_failed_write_leaves_the_earlier_result(
    tmp_path: Path, series: Volume, found: Segmentation
) -> None:
    path = tmp_path / "film.nii"
    stored(path, series, "PSR")
    outputs = label_files(tmp_path / "out" / "seg.nii.gz", path)
    write_labels(outputs, found, new_figure(1, 1))
    before = {one.name: one.read_bytes() for one in outputs[0].parent.iterdir()}
    assert len(before) == 4

    class Broken(Figure):
        def savefig(self, *_: Any, **__: Any) -> None:
            raise OSError("No space left on device")

    other = replace(found, labels=Volume(0 * found.labels.data, series.affine), names={})
    for name in ("seg.nii.gz", "new.nii.gz"):
        again = label_files(tmp_path / "out" / name, path)
        with pytest.raises(OSError, match="No space left"):
            write_labels(again, other, Broken())
        now = {one.name: one.read_bytes() for one in outputs[0].parent.iterdir()}
        assert now == before


# the command


def test_the_command_segments_a_series(
    tmp_path: Path,
    series: Volume,
    network: SliceNetwork,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(image: Path, out: Path) -> tuple[int, str, str]:
        words = ["ankle", "segment", image, "--checkpoint", checkpoint, "--out", out]
        monkeypatch.setattr(sys, "argv", [*map(str, words), "--device", "cpu"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return (int(end.value.code or 0), *capsys.readouterr())

    checkpoint = written(network, tmp_path / "final.ckpt", {"input": THICK})
    whole, empty, out = tmp_path / "whole.nii", tmp_path / "empty.nii", tmp_path / "seg.nii.gz"
    stored(whole, series, "PSR")
    stored(empty, blanked(series, 1), "PSR")
    status, shown, errors = run(whole, out)
    assert (status, errors) == (0, "")
    lines = shown.splitlines()
    for line, bone in zip(lines, BONES, strict=False):
        assert re.fullmatch(
            rf"{bone}: \d+\.\d cm3 in 3 of 3 frames, confidence [01]\.\d\d, at least [01]\.\d\d "
            r"\(frame [012]\)",
            line,
        )
    assert lines[3] == "a left foot, by the shape of its bones"
    names = ["seg.nii.gz", "seg_labels.txt", "seg_confidence.csv", "seg_overlay.png"]
    assert re.fullmatch(r"network: final\.ckpt \(sha256 [0-9a-f]{12}\)", lines[4])
    assert lines[4][9:] in (tmp_path / "seg_labels.txt").read_text(encoding="utf-8")
    assert lines[5:] == [str(tmp_path / name) for name in names]

    status, shown, errors = run(empty, out)
    assert status == 1  # not all that was asked for; what was found is written all the same
    assert "tibia: " in shown
    assert errors == (
        f"ankle: {empty}: no calcaneus and no talus and no tibia found in frame 1: see "
        f"{tmp_path}/seg_overlay.png\n"
    )
    assert not load(out).data[..., 1].any()
    assert load(out).data[..., 0].any()


def test_bones_of_an_unlikely_size_are_noted(
    series: Volume, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPECTED_CM3, "talus", (50.0, 60.0))
    result = segment_scan(series, segmenter)
    assert len(result.notes) == 1
    assert re.search(r"the talus has \d+ cm3, expected 50 to 60 in children", result.notes[0])
    noted = result.table[result.table["note"] == "implausible volume"]
    assert list(noted["bone"]) == ["talus"] * 3
