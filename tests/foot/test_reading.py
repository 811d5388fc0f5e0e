"""What is given for a scan or a mask is one, or the refusal says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ankle_lib.files import AnkleError
from ankle_lib.foot.reading import is_ct, read_image, read_scans
from ankle_lib.geometry import rigid
from ankle_lib.volume import Volume, flip_left_right, resample, save, to_orientation
from tests.toy_ankle import DYNAMIC_SHAPE, ToyAnkle, toy_ankle

FAR = rigid([0, 0, 0], [900, 0, 0])


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


class Files:
    """The files of one foot; change a volume before they are written."""

    def __init__(self, folder: Path, ankle: ToyAnkle) -> None:
        self.folder = folder
        self.volumes: dict[str, Volume] = {
            "static": ankle.static,
            "dynamic": ankle.sequence,
            **ankle.masks,
        }

    def change(self, name: str, data: Any = None, affine: Any = None) -> Files:
        old = self.volumes[name]
        self.volumes[name] = Volume(
            old.data if data is None else data, old.affine if affine is None else affine
        )
        return self

    def mirror(self, name: str) -> None:
        self.volumes[name] = flip_left_right(self.volumes[name])

    def read(self, bones: tuple[str, ...] = ("calcaneus", "talus", "tibia"), **names: Any) -> Any:
        paths = {
            name: save(self.folder / f"{name}.nii", volume.data, volume.affine)
            for name, volume in self.volumes.items()
        }
        static = paths[names.get("static", "static")]
        dynamic = [paths[name] for name in names.get("dynamic", ["dynamic"])]
        return read_scans(static, dynamic, {bone: paths[bone] for bone in bones})


@pytest.fixture
def files(tmp_path: Path, ankle: ToyAnkle) -> Files:
    return Files(tmp_path, ankle)


def test_a_foot_is_read_as_it_is(files: Files, ankle: ToyAnkle) -> None:
    scans = files.read()
    assert scans.notes == ()
    assert scans.frames.data.shape == ankle.sequence.data.shape
    np.testing.assert_array_equal(scans.static.data, ankle.static.data)
    assert list(scans.masks) == ["calcaneus", "talus", "tibia"]
    np.testing.assert_array_equal(scans.masks["talus"], ankle.masks["talus"].data > 0)


@pytest.mark.parametrize("codes", ["LPI", "RAS", "SRA", "ALS"])
def test_orientation_changes_no_value(files: Files, ankle: ToyAnkle, codes: str) -> None:
    for name in ("static", "dynamic", "talus"):
        files.volumes[name] = to_orientation(files.volumes[name], codes)
    scans = files.read()
    assert scans.notes == ()
    np.testing.assert_array_equal(scans.static.data, ankle.static.data)
    np.testing.assert_allclose(scans.static.affine, ankle.static.affine, atol=1e-4)
    np.testing.assert_array_equal(scans.masks["talus"], ankle.masks["talus"].data > 0)
    assert scans.static_grid[0] == files.volumes["static"].shape
    np.testing.assert_allclose(scans.static_grid[1], files.volumes["static"].affine, atol=1e-4)
    np.testing.assert_allclose(scans.frames.affine, files.volumes["dynamic"].affine, atol=1e-4)


def test_frames_may_be_single_files_and_bones_may_be_few(files: Files, ankle: ToyAnkle) -> None:
    for number in range(3):
        files.volumes[f"frame{number}"] = ankle.sequence.frame(number)
    scans = files.read(bones=("talus",), dynamic=["frame2", "frame0"])
    assert scans.frames.n_frames == 2
    np.testing.assert_array_equal(scans.frames.data[..., 0], ankle.sequence.data[..., 2])
    assert list(scans.masks) == ["talus"]
    assert files.read(dynamic=["frame1"]).frames.data.shape[3] == 1


def test_a_mask_on_another_grid_is_brought_to_the_scan_and_noted(
    files: Files, ankle: ToyAnkle
) -> None:
    mask = ankle.masks["talus"]
    cut = np.zeros(4)
    cut[:3] = [int(n) for n in np.argwhere(mask.data).min(axis=0) - 2]
    affine = mask.affine.copy()
    affine[:, 3] += mask.affine @ cut
    i, j, k = cut[:3].astype(int)
    files.change("talus", mask.data[i:, j:, k:], affine)
    scans = files.read()
    assert scans.notes == (
        "the mask of the talus was brought from its own grid (2 x 2 x 2.5 mm) to the static scan",
    )
    np.testing.assert_array_equal(scans.masks["talus"], mask.data > 0)


def test_a_bone_that_is_seen_in_part_is_noted(files: Files, ankle: ToyAnkle) -> None:
    shift = rigid([0, 0, 0], [0, 0, -70])
    files.change("dynamic", affine=shift @ ankle.sequence.affine)
    notes = files.read(bones=("calcaneus", "tibia")).notes
    assert len(notes) == 1
    assert notes[0].startswith("only ")
    assert notes[0].endswith("% of the tibia lies in the dynamic scan's field of view")


def spoil(name: str, **what: Any) -> Any:
    def change(files: Files) -> None:
        old = files.volumes[name]
        data = what["data"](old.data.copy()) if "data" in what else old.data
        affine = what["affine"](old.affine.copy()) if "affine" in what else old.affine
        files.change(name, data, affine)

    return change


def put(value: float, dtype: type = np.float32) -> Any:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(dtype)
        data[3, 4, 5] = value
        return data

    return change


def scaled(factor: float) -> Any:
    return lambda affine: np.diag([factor, factor, factor, 1]) @ affine


BAD = {
    "two static volumes": (
        spoil("static", data=lambda d: np.stack([d, d], 3)),
        r"static.nii: more than one static volume \(2\)",
    ),
    "a single slice": (
        spoil("static", data=lambda d: d[:, :, :1]),
        "is a single slice",
    ),
    "a dynamic slice": (
        spoil("dynamic", data=lambda d: d[:, :, :1]),
        "dynamic.nii, frame 0: .* is a single slice",
    ),
    "cm for mm": (spoil("dynamic", affine=scaled(0.1)), "another unit than mm"),
    "a tenth of mm": (spoil("static", affine=scaled(10.0)), "another unit than mm"),
    "NaN in the scan": (
        spoil("static", data=lambda d: np.where(np.arange(d.shape[2]) == 5, np.nan, d)),
        r"static.nii: \d+ voxels \([\d.]+%\) are NaN or infinite, more than 1%",
    ),
    "infinity in a frame": (
        spoil("dynamic", data=lambda d: np.where(d > 700, np.inf, d)),
        "dynamic.nii, frame 0: .* NaN or infinite",
    ),
    "a constant scan": (
        spoil("static", data=lambda d: np.full_like(d, 7)),
        "static.nii: every voxel is 7",
    ),
    "a mask for the frames": (
        spoil("dynamic", data=lambda d: (d > 500).astype(np.uint8)),
        "holds only the values 0, 1: a mask was given for a scan",
    ),
    "an empty mask": (
        spoil("talus", data=lambda d: 0 * d),
        "talus.nii: the mask of the talus is empty",
    ),
    "labels": (
        spoil("talus", data=lambda d: d * 4 + (np.indices(d.shape)[0] > 36) * d),
        "talus.nii: the mask of the talus has the labels 4, 5 beside 0: name the one of the talus",
    ),
    "a scan for a mask": (
        spoil("talus", data=lambda d: d.astype(np.int16) - 1000),
        "is it a scan",
    ),
    "time first": (
        spoil("dynamic", data=lambda d: np.moveaxis(d, 3, 0)),
        r"dynamic.nii: shape \(3, 56, 56, 8\) .*: time seems to be the first axis",
    ),
    "masks of the mirror image": (
        lambda files: [files.mirror(bone) for bone in ("calcaneus", "talus", "tibia")],
        "the masks fit the static scan only when mirrored",
    ),
    "frames head for foot": (
        spoil("dynamic", affine=lambda a: rigid([180, 0, 0], [0, -40, 20]) @ a),
        "turned by half a circle",
    ),
    "an inverted mask": (spoil("talus", data=lambda d: 1 - d), "is it inverted"),
    "a NaN mask": (spoil("talus", data=put(np.nan)), "has the values"),
    "a mask of four volumes": (
        spoil("talus", data=lambda d: np.stack([d] * 4, 3)),
        "a mask with 4 volumes",
    ),
    "a mask elsewhere": (
        spoil("talus", affine=lambda a: rigid([0, 0, 0], [60, 0, 0]) @ a),
        "is it the mask of another scan",
    ),
    "no overlap": (
        spoil("dynamic", affine=lambda a: FAR @ a),
        r"the calcaneus lies outside of the dynamic scan's field of view \(R 8",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_registered_is_refused_in_one_line(files: Files, case: str) -> None:
    change, message = BAD[case]
    change(files)
    with pytest.raises(AnkleError, match=message) as refusal:
        files.read()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("factor", "unit"), [(0.001, "unknown"), (0.001, "meter"), (1, "meter")])
def test_metres_are_refused(files: Files, ankle: ToyAnkle, factor: float, unit: str) -> None:
    files.read()
    image = nib.Nifti1Image(ankle.static.data, scaled(factor)(ankle.static.affine))
    image.header.set_xyzt_units(unit)
    path = files.folder / "metres.nii"
    nib.save(image, path)
    with pytest.raises(AnkleError, match=r"metres.nii: .*mm"):
        read_scans(path, [files.folder / "dynamic.nii"], {"talus": files.folder / "talus.nii"})


def test_one_file_for_two_bones_is_refused(files: Files, ankle: ToyAnkle) -> None:
    files.change("talus", ankle.masks["tibia"].data)
    with pytest.raises(AnkleError, match="masks of talus and tibia share 100%"):
        files.read()


def test_swapped_scans_are_noticed(files: Files, ankle: ToyAnkle) -> None:
    with pytest.raises(AnkleError, match="more than one static volume"):
        files.read(static="dynamic", dynamic=["static"])
    fine = ankle.sequence.affine @ np.diag([0.5, 0.5, 0.25, 1])
    files.volumes["dynamic"] = resample(ankle.sequence, (112, 112, 30), fine)
    (note,) = files.read().notes  # frames that were interpolated, beside a coarse static scan
    assert "larger voxels (2 x 2 x 2.5 mm) than the dynamic one (1.5 x 1.5 x 2 mm)" in note
    assert "are the two swapped" in note


def test_frames_of_several_kinds_are_refused(files: Files, ankle: ToyAnkle) -> None:
    files.volumes["one"] = ankle.sequence.frame(0)
    with pytest.raises(AnkleError, match="one of 2 dynamic files, but it holds 3 frames"):
        files.read(dynamic=["one", "dynamic"])
    files.volumes["other"] = Volume(
        ankle.sequence.frame(1).data, rigid([0, 0, 3], [0, 0, 0]) @ ankle.sequence.affine
    )
    with pytest.raises(AnkleError, match=r"other.nii: .* are not the grid of .*one.nii"):
        files.read(dynamic=["one", "other"])


def test_what_is_not_named_is_refused(files: Files, tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="no mask given: name at least one of calcaneus"):
        files.read(bones=())
    with pytest.raises(AnkleError, match="no dynamic scan given"):
        files.read(dynamic=[])
    with pytest.raises(AnkleError, match="there is no bone 'navicular': choose from calcaneus"):
        read_scans(tmp_path / "a", [tmp_path / "b"], {"navicular": tmp_path / "c"})
    with pytest.raises(AnkleError, match=r"none\.nii: no such file"):
        read_scans(tmp_path / "none.nii", [tmp_path / "b"], {"talus": tmp_path / "c"})


# --- two places in one header ---


def place_twice(path: Path, qform: np.ndarray, sform: np.ndarray) -> Path:
    image = nib.load(path)
    image.set_qform(qform, code=1)
    image.set_sform(sform, code=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), None, image.header), path)
    return path


@pytest.mark.parametrize("name", ["static", "dynamic", "talus"])
def test_a_file_that_lies_in_two_places_is_refused(
    files: Files, ankle: ToyAnkle, name: str
) -> None:
    files.read()
    own = files.volumes[name].affine
    place_twice(files.folder / f"{name}.nii", *(FAR_TURN @ own, FAR_TURN @ FAR_TURN @ own))
    paths = [files.folder / f"{one}.nii" for one in ("static", "dynamic", "talus")]
    with pytest.raises(AnkleError, match=rf"{name}\.nii: lies in two places, which are .* mm"):
        read_scans(paths[0], [paths[1]], {"talus": paths[2]})


FAR_TURN = rigid([0, 0, 10], [12, 0, 0])


@pytest.mark.parametrize("wrong", ["qform", "sform"])
def test_a_mask_on_one_of_its_two_grids_is_recognised(
    files: Files, ankle: ToyAnkle, wrong: str
) -> None:
    files.read()
    own = ankle.masks["talus"].affine
    forms = {"qform": own, "sform": own, wrong: FAR_TURN @ own}
    place_twice(files.folder / "talus.nii", **forms)
    paths = [files.folder / f"{one}.nii" for one in ("static", "dynamic", "talus")]
    scans = read_scans(paths[0], [paths[1]], {"talus": paths[2]})
    assert scans.notes == ()
    np.testing.assert_array_equal(scans.masks["talus"], ankle.masks["talus"].data > 0)


# --- labels and soft masks ---


def labels_of(ankle: ToyAnkle, numbers: dict[str, float]) -> np.ndarray:
    parts = [ankle.masks[bone].data * np.float32(n) for bone, n in numbers.items()]
    return np.max(parts, axis=0)


@pytest.mark.parametrize("drift", [0.0, 1e-3])
def test_labels_of_segment_are_masks(files: Files, ankle: ToyAnkle, drift: float) -> None:
    found = labels_of(ankle, {"calcaneus": 1 + drift, "talus": 2 - drift, "tibia": 3})
    for bone in ankle.masks:
        files.change(bone, found)
    scans = files.read()
    for number, (bone, mask) in enumerate(scans.masks.items(), start=1):
        np.testing.assert_array_equal(mask, np.rint(found) == number)
        assert f"{bone}.nii: label {number} is taken for the {bone}" in " ".join(scans.notes)


def test_one_bone_of_segment_is_not_taken_for_another(files: Files, ankle: ToyAnkle) -> None:
    files.change("talus", labels_of(ankle, {"calcaneus": 1}))
    files.read(bones=("talus",))  # a mask of ones says nothing
    (files.folder / "talus_labels.txt").write_text("# written by `ankle segment`\n")
    with pytest.raises(AnkleError, match="has no label 2 for the talus, but 1"):
        files.read(bones=("talus",))


def test_a_label_is_named_behind_a_colon(files: Files, ankle: ToyAnkle) -> None:
    files.change("talus", labels_of(ankle, {"calcaneus": 40, "talus": 7})).read(("calcaneus",))
    paths = [files.folder / f"{one}.nii" for one in ("static", "dynamic")]
    mask = Path(f"{files.folder}/talus.nii:7")
    scans = read_scans(paths[0], [paths[1]], {"talus": mask})
    assert scans.notes == ()
    assert scans.masks["talus"].sum() == np.count_nonzero(files.volumes["talus"].data == 7)
    with pytest.raises(AnkleError, match="has no label 9 for the talus, but 7, 40"):
        read_scans(paths[0], [paths[1]], {"talus": mask.with_name("talus.nii:9")})


@pytest.mark.parametrize(("largest", "cut"), [(1.0, 0.5), (255.0, 127.5)])
def test_soft_masks_are_cut_at_half(
    files: Files, ankle: ToyAnkle, largest: float, cut: float
) -> None:
    soft = ndimage.gaussian_filter(ankle.masks["talus"].data.astype(np.float32), 1.0)
    soft *= largest / soft.max()
    scans = files.change("talus", soft).read()
    np.testing.assert_array_equal(scans.masks["talus"], soft > cut)
    (note,) = scans.notes
    assert f"talus.nii: the mask of the talus was binarised at {cut:g}: " in note


# --- what was not measured ---


def test_padding_and_offsets_change_nothing(files: Files, ankle: ToyAnkle) -> None:
    plain = files.read()
    p, s = np.indices(DYNAMIC_SHAPE)[:2] - 27.5
    corners = p**2 + s**2 > 27.5**2
    series = ankle.sequence.data.copy()
    series[corners] = 0
    expected = files.change("dynamic", series).read()
    assert expected.notes == plain.notes == ()
    raised = series - 1024
    raised[corners] = -3024
    files.change("static", ankle.static.data - np.int16(1024))
    scans = files.change("dynamic", raised).read()
    np.testing.assert_array_equal(scans.static.data, plain.static.data)
    assert np.abs(scans.frames.data - expected.frames.data).max() < 0.02 * series.max()
    assert not scans.frames.data[corners].any()
    told = " ".join(scans.notes)
    assert "static.nii: an offset of all intensities, -1024, was taken off" in told
    assert "% of the voxels, all -3024, were not measured: now 0" in told


def test_a_scan_to_be_segmented_is_read_like_all_others(tmp_path: Path, ankle: ToyAnkle) -> None:
    data = ankle.static.data - np.int16(1024)
    data[:4] = -3024
    path, notes = save(tmp_path / "scan.nii", data, ankle.static.affine), []
    scan = read_image(path, notes=notes)
    assert not scan.data[:4].any()
    np.testing.assert_array_equal(scan.data[4:], ankle.static.data[4:])
    told = " ".join(notes)
    assert "scan.nii: an offset of all intensities, -1024, was taken off" in told
    assert "% of the voxels, all -3024, were not measured: now 0" in told
    place_twice(path, ankle.static.affine, FAR_TURN @ ankle.static.affine)
    with pytest.raises(AnkleError, match=r"scan\.nii: lies in two places, which are .* mm apart"):
        read_image(path)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_bad_frame_is_left_out_and_told(files: Files, ankle: ToyAnkle, value: float) -> None:
    data = ankle.sequence.data.copy()
    data[..., 2] = value
    scans = files.change("dynamic", data).read()
    assert scans.bad_frames == (2,)
    assert not scans.frames.data[..., 2].any()
    np.testing.assert_array_equal(scans.frames.data[..., :2], data[..., :2])
    (note,) = scans.notes
    assert "dynamic.nii, frame 2: " in note
    assert note.endswith(": this frame is rejected")


def test_few_missing_voxels_are_filled_and_told(files: Files, ankle: ToyAnkle) -> None:
    static = ankle.static.data.astype(np.float32)
    static[3, 4, 5] = np.nan
    series = ankle.sequence.data.astype(np.float32)
    series[3, 4, 2, 1] = np.inf
    scans = files.change("static", static).change("dynamic", series).read()
    first, second = scans.notes
    assert "static.nii: 1 voxels (0.00%) are NaN or infinite: filled from their" in first
    assert "dynamic.nii, frame 1: 1 voxels" in second
    assert scans.bad_frames == ()
    neighbours = series[2:5, 3:6, 1:4, 1]
    expected = neighbours[np.isfinite(neighbours)].mean()
    np.testing.assert_allclose(scans.frames.data[3, 4, 2, 1], expected, rtol=1e-5)
    assert np.isfinite(scans.static.data).all()


def test_a_foot_that_lies_as_none_can_is_told(files: Files) -> None:
    turn = np.diag([-1.0, 1, -1, 1])
    for name, volume in files.volumes.items():
        files.change(name, affine=turn @ volume.affine)
    (note,) = files.read().notes
    assert note.startswith("by its bones, the sole lies above: is the patient's position wrong")


def toy_values(of_tissues: dict[str, tuple[float, float]], air: float, noise: float) -> np.ndarray:
    """A block of fat and muscle with bones in it, each with its value and spread, in noisy air."""
    random = np.random.default_rng(0)
    image = air + random.normal(0, noise, (60, 60, 24))
    places = {"fat": slice(10, 50), "muscle": slice(16, 46), "bone": slice(24, 36)}
    for tissue, place in places.items():
        value, spread = of_tissues[tissue]
        image[place, place, 3:21] = random.normal(value, spread, image[place, place, 3:21].shape)
    return ndimage.gaussian_filter(image, 0.5)


CT_VALUES = {"fat": (-100, 40), "muscle": (50, 40), "bone": (500, 250)}
MR_VALUES = {"fat": (1000, 150), "muscle": (400, 80), "bone": (900, 300)}


def test_hounsfield_units_are_recognised(tmp_path: Path) -> None:
    image = toy_values(CT_VALUES, -1000, 25)
    assert is_ct(image)
    assert is_ct(image.clip(-1024, 3071).astype(np.int16))
    padded = image.copy()
    padded[:5] = -3024
    assert is_ct(padded)
    notes: list[str] = []
    read_image(save(tmp_path / "ct.nii", image.astype(np.int16), np.diag([1.5, 1.5, 1.5, 1])),
               notes=notes)  # fmt: skip
    assert any("Hounsfield units, but the package's networks learnt from MRI" in n for n in notes)


@pytest.mark.parametrize("offset", [0, -1000, -1024])
def test_no_mri_is_taken_for_a_ct(tmp_path: Path, offset: float) -> None:
    image = np.abs(toy_values(MR_VALUES, 0, 20))
    for scale in np.geomspace(0.1, 10, 40):
        assert not is_ct(scale * image + offset)
    notes: list[str] = []
    read_image(save(tmp_path / "mr.nii", (image + offset).astype(np.int16),
                    np.diag([1.5, 1.5, 1.5, 1])), notes=notes)  # fmt: skip
    assert not any("Hounsfield" in note for note in notes)


def test_nothing_but_air_or_body_is_no_ct(ankle: ToyAnkle) -> None:
    assert not is_ct(np.full((4, 4, 4), -1000.0))
    assert not is_ct(np.full((4, 4, 4), 50.0))
    assert not is_ct(ankle.static.data)
