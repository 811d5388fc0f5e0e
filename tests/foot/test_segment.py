from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ankle_lib.figures.style import BONE_COLOURS, new_figure
from ankle_lib.files import AnkleError
from ankle_lib.foot.reading import read_image
from ankle_lib.foot.segment import (
    EXPECTED_CM3,
    Segmentation,
    label_description,
    label_files,
    segment_file,
    segment_scan,
    write_labels,
)
from ankle_lib.geometry import apply
from ankle_lib.learning import prediction
from ankle_lib.learning.networks import SliceNetwork, build
from ankle_lib.learning.prediction import Prediction, Segmenter, read_segmenter
from ankle_lib.masking.foot import find_foot
from ankle_lib.metrics import dice
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, load, resample, save, to_orientation
from tests.toy_ankle import oblique_affine
from tests.toy_segmenter import (
    GREY,
    INPUT,
    SHAPE,
    VOXEL_MM,
    by_hand,
    labelled,
    parts,
    rendered,
    written,
)

NAMES = dict(enumerate(BONES, start=1))


@pytest.fixture(scope="module")
def scan() -> Volume:
    return rendered(SHAPE, oblique_affine(SHAPE, VOXEL_MM))


@pytest.fixture(scope="module")
def network(scan: Volume) -> SliceNetwork:
    """Each bone is where the intensity is near that bone's."""
    return by_hand(scan, (700, 1000, 1300, 1600, 1900))


@pytest.fixture(scope="module")
def segmenter(network: SliceNetwork) -> Segmenter:
    return Segmenter(network, BONES, (1.4, 1.4))


@pytest.fixture(scope="module")
def calcaneus() -> Segmenter:
    """Its threshold lies half-way between foot and bone, where averaging leaves the outline."""
    scan = rendered(SHAPE, oblique_affine(SHAPE, VOXEL_MM), 0, ["calcaneus"])
    greys = (GREY["foot"], GREY["calcaneus"], 3000)
    return Segmenter(by_hand(scan, greys), ("calcaneus",), (1.4, 1.4))


@pytest.fixture(scope="module")
def found(scan: Volume, segmenter: Segmenter) -> Segmentation:
    return segment_scan(scan, segmenter)


def least_dice(labels: np.ndarray, truth: np.ndarray) -> float:
    return min(dice(labels == number, truth == number) for number in NAMES)


def test_the_bones_are_found(found: Segmentation) -> None:
    truth = labelled(found.labels.shape, found.labels.affine)
    assert found.labels.data.dtype == np.uint8
    assert least_dice(found.labels.data, truth) > 0.995
    assert found.names == NAMES
    assert found.side == "left"
    assert found.notes == ()
    volumes = found.table.set_index("bone")["volume_cm3"]
    for number, bone in NAMES.items():
        voxels = np.count_nonzero(found.labels.data == number)
        assert volumes[bone] == pytest.approx(voxels * 1.4**2 * 1.6e-3)


@pytest.mark.parametrize("codes", ["LAS", "RPI", "ASL", "IRA", "SLP", "AIL", "RSA"])
def test_the_order_of_the_axes_does_not_matter(
    codes: str, scan: Volume, segmenter: Segmenter, found: Segmentation
) -> None:
    turned = to_orientation(scan, codes)
    again = segment_scan(turned, segmenter).labels
    np.testing.assert_array_equal(again.affine, turned.affine)
    np.testing.assert_array_equal(to_orientation(again).data, found.labels.data)


@pytest.mark.parametrize(
    "voxel_mm", [(0.8, 0.8, 1.6), (1.0, 1.2, 1.5), (2.0, 1.8, 1.4), (1.4, 2.2, 2.4)]
)
def test_the_voxel_size_does_not_matter(
    voxel_mm: tuple[float, float, float], calcaneus: Segmenter
) -> None:
    shape = tuple(round(n * a / b) for n, a, b in zip(SHAPE, VOXEL_MM, voxel_mm, strict=True))
    other = rendered(shape, oblique_affine(shape, voxel_mm), 1, ["calcaneus"])
    found = segment_scan(other, calcaneus).labels
    truth = parts(shape, other.affine)["calcaneus"]
    assert dice(found.data > 0, truth) > 0.97
    # and nothing is moved, by however little
    centres = [apply(other.affine, np.argwhere(mask)).mean(axis=0)
               for mask in (found.data > 0, truth)]  # fmt: skip
    np.testing.assert_allclose(*centres, atol=0.1)


def test_a_resampled_copy_has_the_same_bone_in_the_world(calcaneus: Segmenter) -> None:
    scan = rendered(SHAPE, oblique_affine(SHAPE, VOXEL_MM), 0, ["calcaneus"])
    shape, affine = (106, 46, 95), scan.affine.copy()
    # another order of axes, other voxels, moved by a part of one
    affine[:3, :3] = scan.affine[:3, [1, 2, 0]] * [0.95, 1.1, 1.06]
    affine[:3, 3] = apply(scan.affine, (0.3, 2.4, 0.2))
    copy = segment_scan(resample(scan, shape, affine), calcaneus).labels
    there = resample(segment_scan(scan, calcaneus).labels, shape, affine, order=0)
    assert dice(copy.data > 0, there.data > 0) > 0.97


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data * np.float32(1e-3),
        lambda data: data.astype(np.int32) * 100,
        lambda data: data - np.float32(1024),
        lambda data: (data + 30000).astype(np.uint16),
        lambda data: np.where(np.arange(data.size).reshape(data.shape) == 7, 3e8, data),
    ],
    ids=["small", "large", "below zero", "offset", "a hot voxel"],
)
def test_the_unit_of_intensity_does_not_matter(
    change: Callable, scan: Volume, segmenter: Segmenter, found: Segmentation
) -> None:
    other = Volume(change(scan.data), scan.affine)
    assert least_dice(segment_scan(other, segmenter).labels.data, found.labels.data) > 0.999


def test_a_hot_voxel_within_the_foot_does_not_spoil_the_rest(
    scan: Volume, segmenter: Segmenter, found: Segmentation
) -> None:
    data = scan.data.astype(np.float32)
    data[tuple(np.argwhere(found.labels.data == 1)[0])] = 1e7
    labels = segment_scan(Volume(data, scan.affine), segmenter).labels
    assert least_dice(labels.data, found.labels.data) > 0.999


def test_a_mirrored_foot_is_a_right_one(
    scan: Volume, segmenter: Segmenter, found: Segmentation
) -> None:
    mirrored = segment_scan(Volume(scan.data[:, :, ::-1], scan.affine), segmenter, side="left")
    np.testing.assert_array_equal(mirrored.labels.data, found.labels.data[:, :, ::-1])
    assert mirrored.side == "right"
    assert len(mirrored.notes) == 1
    assert "bones are those of a right foot, not of a left one" in mirrored.notes[0]


def test_a_network_of_one_bone_writes_that_bones_number(
    scan: Volume, network: SliceNetwork, found: Segmentation
) -> None:
    talus = build("fcn", depth=1, width=5)
    state = network.state_dict()
    state["last.weight"], state["last.bias"] = state["last.weight"][1:2], state["last.bias"][1:2]
    talus.load_state_dict(state)
    alone = segment_scan(scan, Segmenter(talus.eval(), ("talus",), (1.4, 1.4)), side="right")
    assert set(np.unique(alone.labels.data)) == {0, 2}
    assert dice(alone.labels.data == 2, found.labels.data == 2) > 0.97
    assert alone.names == {2: "talus"}
    assert alone.side is None


def test_what_looks_wrong_is_noted(
    scan: Volume, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = copy.deepcopy(segmenter.network)
    with torch.no_grad():
        network.last.bias[2] = -100
    monkeypatch.setitem(EXPECTED_CM3, "talus", (50.0, 60.0))
    fine = Segmenter(network, BONES, (0.65, 0.65))
    notes = segment_scan(scan, fine).notes
    assert len(notes) == 3
    assert re.search(r"the talus has \d+(\.\d)? cm3, expected 50 to 60 in children", notes[0])
    assert notes[1] == "no tibia was found"
    assert "trained on pixels of 0.65 x 0.65 mm: the outlines are rough" in notes[2]


def test_no_bone_at_all_is_refused(scan: Volume, calcaneus: Segmenter) -> None:
    blind = by_hand(scan, (5000, 6000, 7000))
    with pytest.raises(AnkleError, match="none of calcaneus was found: is this a scan of an ankle"):
        segment_scan(scan, replace(calcaneus, network=blind))


@pytest.mark.parametrize("n_to", [7, 12, 18])
def test_fewer_cells_are_the_averages_of_what_they_cover(n_to: int) -> None:
    values = np.random.default_rng(0).normal(size=36)
    fine = values.repeat(n_to).reshape(n_to, -1).mean(axis=1)  # 36 n_to pieces in n_to groups
    np.testing.assert_allclose(prediction._cells(36, n_to) @ values, fine, atol=1e-5)


@given(n_from=st.integers(1, 40), more=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_more_cells_are_interpolated_as_torch_does(n_from: int, more: int) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=n_from))
    expected = torch.nn.functional.interpolate(
        values[None, None], size=n_from + more, mode="linear", align_corners=False
    )[0, 0]
    found = prediction._cells(n_from, n_from + more) @ values.numpy()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("offset", [-1000.0, 0.0, 5000.0])
def test_the_foot_is_found_at_any_offset(offset: float, scan: Volume) -> None:
    foot = parts(scan.shape, scan.affine)["foot"]
    assert dice(find_foot(scan.data + np.float32(offset)), foot) > 0.98
    silent = np.where(foot, scan.data, 0) + np.float32(offset)  # no noise around the foot
    assert dice(find_foot(silent), foot) > 0.98


def test_no_foot_in_a_constant_image() -> None:
    with pytest.raises(AnkleError, match="no foot in it"):
        find_foot(np.full((4, 4, 4), 3.0))


# files


@pytest.fixture
def checkpoint(network: SliceNetwork, tmp_path: Path) -> Path:
    return written(network, tmp_path / "final.ckpt", {"input": INPUT})


def test_a_checkpoint_becomes_a_segmenter(checkpoint: Path, segmenter: Segmenter) -> None:
    read = read_segmenter(checkpoint)
    assert (read.bones, read.pixel_mm) == (segmenter.bones, segmenter.pixel_mm)
    assert read.thickest_mm == 3.0
    for ours, theirs in zip(
        read.network.state_dict().values(), segmenter.network.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({}, "does not say how its input is made"),
        ({"input": "PSR"}, "does not say how its input is made"),
        ({"input": {**INPUT, "blur": 2}}, "(blur: Extra inputs are not permitted (found 2))"),
        ({"input": {**INPUT, "context_mm": [0.0, 1.0]}}, "sees 1 images at a time, but"),
        (
            {"input": {**INPUT, "normalisation": "minmax"}},
            "(normalisation: Input should be 'zscore-foot' (found 'minmax'))",
        ),
        ({"input": {**INPUT, "axes": "RAS"}}, "(axes: Input should be 'PSR' (found 'RAS'))"),
        (
            {"input": {**INPUT, "side": "both"}},
            "(side: Input should be 'as is' or 'right' (found 'both'))",
        ),
        (
            {"input": {**INPUT, "context_mm": 0.0}},
            "(context_mm: Input should be a valid list (found 0.0))",
        ),
        (
            {"input": {**INPUT, "context_mm": [float("nan")]}},
            "(context_mm[0]: Input should be a finite number (found nan))",
        ),
        (
            {"input": {**INPUT, "voxel_mm": 0.56}},
            "(voxel_mm: Input should be a valid list (found 0.56))",
        ),
        (
            {"input": {**INPUT, "voxel_mm": [0.0, 0.5]}},
            "(voxel_mm[0]: Input should be greater than or equal to 0.05",
        ),
        (
            {"input": {**INPUT, "voxel_mm": [float("nan")] * 2}},
            "(voxel_mm[0]: Input should be a finite number (found nan)",
        ),
        (
            {"input": {**INPUT, "thickest_mm": "3"}},
            "(thickest_mm: Input should be a valid number (found '3'))",
        ),
        (
            {"input": {**INPUT, "thickest_mm": float("nan")}},
            "(thickest_mm: Input should be a finite number (found nan))",
        ),
        (
            {"input": {**INPUT, "thickest_mm": 100}},
            "(thickest_mm: Input should be less than or equal to 20 (found 100))",
        ),
    ],
)
def test_a_checkpoint_must_say_what_it_wants_to_see(
    network: SliceNetwork, tmp_path: Path, training: dict, message: str
) -> None:
    path = written(network, tmp_path / "odd.ckpt", training)
    with pytest.raises(AnkleError, match=re.escape(message)) as refusal:
        read_segmenter(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_other_networks_are_refused(network: SliceNetwork, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"weights": torch.zeros(3)}, foreign)
    with pytest.raises(AnkleError, match="not a checkpoint of ankle_lib"):
        read_segmenter(foreign)
    path = written(
        network, tmp_path / "hand.ckpt", {"input": INPUT}, ["scaphoid", "talus", "tibia"]
    )
    with pytest.raises(AnkleError, match="segments scaphoid, talus, tibia: give a network of"):
        read_segmenter(path)
    intense = build("fcn", depth=1, width=5, head="intensity")
    path = written(intense, tmp_path / "sharp.ckpt", {"input": INPUT}, ["talus"])
    with pytest.raises(AnkleError, match="gives intensities, not labels"):
        read_segmenter(path)
    wide = build("fcn", depth=1, width=5, in_channels=3)
    path = written(wide, tmp_path / "wide.ckpt", {"input": INPUT}, ["talus"])
    with pytest.raises(AnkleError, match=r"sees 3 images at a time, but its input has \[0.0\]"):
        read_segmenter(path)


def small(shape: tuple[int, ...] = (30, 30, 30)) -> np.ndarray:
    return np.random.default_rng(0).normal(500, 100, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("data", "voxel_mm", "message"),
    [
        (small((30, 30, 1)), (2, 2, 2), "is a single slice"),
        (small((30, 30)), (2, 2, 2), "is not that of a 3D image"),
        (np.where(small() > 700, np.nan, small()), (2, 2, 2), "are NaN or infinite, more than 1%"),
        (np.where(small() > 700, np.inf, small()), (2, 2, 2), "are NaN or infinite, more than 1%"),
        (np.full((30, 30, 30), 5), (2, 2, 2), "every voxel is 5: there is no image in it"),
        (small() > 500, (2, 2, 2), "holds only the values 0, 1: a mask was given for a scan"),
        (small(), (2, 2, 3.5), "beyond 3 mm a voxel mixes bone with what lies beside it"),
        (small(), (2, 3.5, 2), "beyond 3 mm"),
        (small(), (3.5, 2, 2), "sagittal slices of 3.5 mm, the network was trained for at most 3"),
        (small((30, 30, 30, 4)), (3.5, 2, 2), "use the package's network or one of chapter 07"),
        (np.where(small((30, 30, 30, 2)) > 700, np.nan, 1), (2, 2, 2), "are NaN or infinite"),
        (small(), (0.2, 0.2, 0.2), "is the header in another unit than mm?"),
    ],
)
def test_what_is_no_scan_is_refused(
    tmp_path: Path, data: np.ndarray, voxel_mm: tuple[float, float, float], message: str
) -> None:
    path = tmp_path / "scan.nii"
    stored = data.astype(np.uint8) if data.dtype == bool else data
    stored = stored.astype(np.int16) if stored.dtype == np.int64 else stored
    nib.save(nib.Nifti1Image(stored, np.diag([*voxel_mm, 1.0])), path)
    with pytest.raises(AnkleError, match=re.escape(message)) as refusal:
        read_image(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_a_scan_keeps_the_orientation_of_its_file(tmp_path: Path, scan: Volume) -> None:
    turned = to_orientation(scan, "LSA")
    read = read_image(save(tmp_path / "scan.nii.gz", turned.data, turned.affine))
    assert read.axis_codes == ("L", "S", "A")
    np.testing.assert_array_equal(read.data, turned.data)


def test_bones_taken_for_each_other_are_no_result(
    tmp_path: Path, scan: Volume, network: SliceNetwork
) -> None:
    path = save(tmp_path / "scan.nii.gz", scan.data, scan.affine)
    wrong = ("talus", "calcaneus", "tibia")
    checkpoint = written(network, tmp_path / "net.ckpt", {"input": INPUT}, wrong)
    told = segment_file(path, checkpoint, tmp_path / "seg.nii.gz")
    assert told.problem == (
        f"{path}: the talus: taken for the calcaneus, and that for it: see {told.files[-1]}"
    )
    table = pd.read_csv(told.files[2], keep_default_na=False).set_index("bone")
    assert "taken for the calcaneus" in table.loc["talus", "note"]
    assert load(told.files[0]).data.max() == 3  # to look at


def test_outputs_lie_beside_each_other(tmp_path: Path) -> None:
    outputs = label_files(tmp_path / "new" / "sub.01.nii.gz", tmp_path / "scan.nii")
    assert [path.name for path in outputs] == [
        "sub.01.nii.gz",
        "sub.01_labels.txt",
        "sub.01_confidence.csv",
        "sub.01_overlay.png",
    ]
    assert not (tmp_path / "new").exists()


def test_outputs_never_replace_what_is_not_theirs(tmp_path: Path) -> None:
    scan, checkpoint = tmp_path / "scan.nii.gz", tmp_path / "net.nii"
    for path in (scan, checkpoint):
        path.write_bytes(b"precious")
    alias = tmp_path / "alias.nii.gz"
    alias.symlink_to(scan)
    for name, message in {
        "scan.nii.gz": "is what is read: name another file",
        "net.nii": "is what is read",
        "alias.nii.gz": "is what is read",
        "seg.mha": "name a file .nii.gz or .nii",
        ".nii.gz": "name a file",
        "scan.nii.gz/seg.nii": "scan.nii.gz is a file: name a folder",
    }.items():
        with pytest.raises(AnkleError, match=re.escape(message)):
            label_files(tmp_path / name, scan, checkpoint)
    with pytest.raises(AnkleError, match="is a folder: name the file to write"):
        label_files(tmp_path, scan, checkpoint)
    by_hand = tmp_path / "reader.nii.gz"
    by_hand.write_bytes(b"hours of work")
    (tmp_path / "reader_labels.txt").write_text(label_description({1: "calcaneus"})
                                                .replace("# written by", "# not by"))  # fmt: skip
    with pytest.raises(AnkleError, match="exists and is no result of `ankle segment`"):
        label_files(by_hand, scan, checkpoint)


def test_geometry_of_the_labels_is_that_of_the_scan(
    tmp_path: Path, scan: Volume, segmenter: Segmenter
) -> None:
    path = tmp_path / "scan.nii.gz"
    turned = to_orientation(scan, "SLA")
    image = nib.Nifti1Image(turned.data, turned.affine)
    image.set_qform(turned.affine, 1)
    image.set_sform(turned.affine, 2)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    outputs = label_files(tmp_path / "out" / "seg.nii.gz", path)
    result = segment_scan(read_image(path), segmenter)
    write_labels(outputs, result, new_figure(1, 1))

    labels = nib.load(outputs[0])
    assert labels.get_data_dtype() == np.uint8
    assert labels.shape == image.shape
    np.testing.assert_array_equal(labels.header.get_sform(), image.header.get_sform())
    np.testing.assert_allclose(labels.header.get_qform(), image.header.get_qform(), atol=1e-5)
    for ours, theirs in ((sitk.ReadImage(str(outputs[0])), sitk.ReadImage(str(path))),):
        assert ours.GetSize() == theirs.GetSize()
        np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(ours.GetSpacing(), theirs.GetSpacing(), atol=1e-5)
        np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)
    truth = labelled(labels.shape, labels.affine)
    assert least_dice(np.asarray(labels.dataobj), truth) > 0.995
    assert outputs[3].read_bytes().startswith(b"\x89PNG")
    names = sorted(one.name for one in outputs[0].parent.iterdir())
    assert names == ["seg.nii.gz", "seg_confidence.csv", "seg_labels.txt", "seg_overlay.png"]


def test_a_failed_write_leaves_the_earlier_result(tmp_path: Path, found: Segmentation) -> None:
    outputs = label_files(tmp_path / "seg.nii.gz")
    write_labels(outputs, found, new_figure(1, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class Broken(Figure):
        def savefig(self, *_: Any, **__: Any) -> None:
            raise OSError("No space left on device")

    other = replace(found, labels=Volume(0 * found.labels.data, found.labels.affine))
    with pytest.raises(OSError, match="No space left"):
        write_labels(label_files(tmp_path / "seg.nii.gz"), other, Broken())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(OSError, match="No space left"):
        write_labels(label_files(tmp_path / "new.nii.gz"), other, Broken())
    assert {path.name for path in tmp_path.iterdir()} == set(before)
    write_labels(label_files(tmp_path / "seg.nii.gz"), other, new_figure(1, 1))
    assert not load(tmp_path / "seg.nii.gz").data.any()


def test_itk_snap_reads_the_description() -> None:
    text = label_description(NAMES)
    # as ITK-SNAP does: comments away, eight fields, the last one quoted
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    fields = [re.fullmatch(r"\s*(\d+)" + r"\s+([\d.]+)" * 6 + r'\s+"(.+)"', one) for one in lines]
    read = {
        int(f[1]): (tuple(map(int, f.group(2, 3, 4))), f[8], f.group(5, 6, 7)) for f in fields if f
    }
    assert len(read) == len(lines) == 4
    assert read[0] == ((0, 0, 0), "Clear Label", ("0", "0", "0"))
    for number, bone in NAMES.items():
        rgb, name, shown = read[number]
        assert name == bone
        assert to_hex(np.array(rgb) / 255).upper() == BONE_COLOURS[bone]
        assert shown == ("1", "1", "1")


@pytest.mark.slow
def test_a_scan_of_the_reports_size_needs_less_than_4_gb(
    tmp_path: Path, network: SliceNetwork
) -> None:
    checkpoint = written(network, tmp_path / "net.ckpt",
                         {"input": {**INPUT, "voxel_mm": [0.28, 0.28]}})  # fmt: skip
    code = f"""
import resource, sys, numpy as np, torch
torch.set_num_threads(1)
from pathlib import Path
from ankle_lib.foot.segment import segment_scan
from ankle_lib.learning.prediction import read_segmenter
from tests.toy_ankle import oblique_affine
from tests.toy_segmenter import rendered
shape, mm = (576, 576, 120), (0.28, 0.28, 0.8)
scan = np.zeros(shape, np.int16)
affine = oblique_affine(shape, mm)
for k in range(0, 120, 10):  # little by little: the scan itself must not be the peak
    part = affine.copy()
    part[:3, 3] += k * affine[:3, 2]
    scan[:, :, k : k + 10] = rendered((576, 576, 10), part).data
from ankle_lib.volume import Volume
found = segment_scan(Volume(scan, affine), read_segmenter(Path({str(checkpoint)!r})))
print(sorted(found.names), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 4.0


# --- the patient's position wrong in the header ---


@pytest.mark.parametrize(
    ("signs", "text"),
    [
        ((-1, -1, 1), "the toes point backwards"),
        ((-1, 1, -1), "the sole lies above"),
        ((1, -1, -1), "the toes point backwards and the sole lies above"),
    ],
)
def test_a_foot_that_the_header_turns_is_known_and_told(
    scan: Volume,
    segmenter: Segmenter,
    found: Segmentation,
    monkeypatch: pytest.MonkeyPatch,
    signs: tuple[int, int, int],
    text: str,
) -> None:
    """The stand-in for a trained network is sure of a foot only as it usually lies."""

    def upright_only(image: np.ndarray, *arguments: Any, **options: Any) -> Prediction:
        answer = prediction.predict(image, *arguments, **options)
        if np.array_equal(image, to_orientation(scan).data):
            return answer
        return replace(answer, confidence=dict.fromkeys(BONES, 0.3))

    monkeypatch.setattr("ankle_lib.foot.segment.predict", upright_only)
    turned = Volume(scan.data, np.diag([*signs, 1]) @ scan.affine)
    result = segment_scan(turned, segmenter)
    np.testing.assert_array_equal(result.labels.data, found.labels.data)
    assert result.notes[0].startswith(f"by its bones, {text}: is the patient's position wrong")
    assert "the network knew the bones only after half a turn of the scan" in result.notes
    assert (result.table["confidence"] > 0.85).all()
