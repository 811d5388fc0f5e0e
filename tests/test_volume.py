"""Files come back as they were written; axes change, world positions do not."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ankle_lib.files import AnkleError
from ankle_lib.geometry import apply, world_to_voxel
from ankle_lib.volume import (
    Volume,
    canonical_voxel_size,
    flip_left_right,
    left_right_axis,
    load,
    read_header,
    resample,
    save,
    to_orientation,
)

OBLIQUE_PSR = np.eye(4)
OBLIQUE_PSR[:3, :3] = Rotation.from_euler("xyz", [4, -9, 6], degrees=True).as_matrix() @ np.array(
    [[0, 0, 8.0], [-0.56, 0, 0], [0, 0.57, 0]]
)
OBLIQUE_PSR[:3, 3] = [-32, 64, -92]
ALL_CODES = [a + b + c for a in "LR" for b in "PA" for c in "IS"]
ALL_CODES += [
    "".join(code[i] for i in order) for code in ALL_CODES for order in ((1, 2, 0), (1, 0, 2))
]


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Small volumes of numbered voxels on oblique grids of any orientation and handedness."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=3, max_size=3)))
    shape += tuple(draw(st.lists(st.integers(2, 3), max_size=1)))
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-40, 40)] * 3)), degrees=True)
    sizes = draw(st.tuples(*[st.floats(0.2, 9)] * 3))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    order = draw(st.permutations(range(3)))
    affine = np.eye(4)
    affine[:3, :3] = turn.as_matrix() @ np.diag(signs)[:, order] @ np.diag(sizes)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Volume(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), affine)


def landmarks(volume: Volume) -> dict[int, NDArray[np.float64]]:
    """World position of every value of the (first frame of the) volume."""
    frame = volume.frame(0).data
    points = apply(volume.affine, np.argwhere(np.ones(frame.shape, dtype=bool)))
    return dict(zip(frame.ravel().tolist(), points, strict=True))


@given(volumes(), st.sampled_from(ALL_CODES))
def test_reorienting_moves_no_voxel_in_the_world(volume: Volume, codes: str) -> None:
    turned = to_orientation(volume, codes)
    assert "".join(turned.axis_codes) == codes
    before, after = landmarks(volume), landmarks(turned)
    assert before.keys() == after.keys()
    for value, point in before.items():
        np.testing.assert_allclose(after[value], point, atol=1e-9)


@given(volumes(), st.sampled_from(ALL_CODES))
def test_reorienting_and_back_is_the_identity(volume: Volume, codes: str) -> None:
    back = to_orientation(to_orientation(volume, codes), "".join(volume.axis_codes))
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)


@given(volumes())
def test_flipping_mirrors_the_array_and_undoes_itself(volume: Volume) -> None:
    once = flip_left_right(volume)
    np.testing.assert_array_equal(once.affine, volume.affine)
    axis = left_right_axis(volume.affine)
    assert volume.axis_codes[axis] in "LR"
    np.testing.assert_array_equal(
        once.data,
        volume.data[
            tuple(
                slice(None, None, -1) if index == axis else slice(None)
                for index in range(volume.data.ndim)
            )
        ],
    )
    np.testing.assert_array_equal(flip_left_right(once).data, volume.data)


@given(volumes(), st.sampled_from(ALL_CODES))
def test_flipping_commutes_with_reorienting(volume: Volume, codes: str) -> None:
    one = to_orientation(flip_left_right(volume), codes)
    other = flip_left_right(to_orientation(volume, codes))
    np.testing.assert_array_equal(one.data, other.data)


@given(volumes())
def test_world_and_voxel_coordinates_are_inverse(volume: Volume) -> None:
    points = np.random.default_rng(0).uniform(-50, 50, (2, 4, 3))
    there = world_to_voxel(volume.affine, apply(volume.affine, points))
    np.testing.assert_allclose(there, points, atol=1e-8)
    homogeneous = np.append(points[1, 2], 1)
    np.testing.assert_allclose(
        apply(volume.affine, points)[1, 2], (volume.affine @ homogeneous)[:3]
    )


@given(volumes())
def test_canonical_voxel_size_is_that_of_the_reoriented_grid(volume: Volume) -> None:
    expected = to_orientation(volume).voxel_size_mm
    np.testing.assert_allclose(canonical_voxel_size(volume.affine), expected)


def test_canonical_orientation_keeps_an_oblique_grid_oblique() -> None:
    volume = Volume(np.zeros((4, 5, 6)), OBLIQUE_PSR)
    assert volume.axis_codes == ("P", "S", "R")
    np.testing.assert_array_equal(to_orientation(volume).affine, OBLIQUE_PSR)


@pytest.mark.parametrize("codes", ["PS", "PSRX", "PPR", "psr", "PAS", "LRS", ""])
def test_impossible_orientations_are_refused(codes: str) -> None:
    with pytest.raises(AnkleError, match="orientation"):
        to_orientation(Volume(np.zeros((2, 2, 2)), np.eye(4)), codes)


def test_frames_are_views_on_the_same_grid() -> None:
    data = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    volume = Volume(data, OBLIQUE_PSR)
    assert (volume.shape, volume.n_frames) == ((2, 3, 4), 5)
    np.testing.assert_array_equal(volume.frame(3).data, data[..., 3])
    assert volume.frame(3).n_frames == 1
    assert np.shares_memory(volume.frame(3).data, data)
    for index in (-1, 5):
        with pytest.raises(AnkleError, match="has 5"):
            volume.frame(index)


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(3),
        np.zeros((4, 4)),
        np.full((4, 4), np.nan),
        np.diag([1, 1, 0, 1]),
        np.diag([1, 1, 1, 2]),
    ],
)
def test_unusable_affines_are_refused(affine: NDArray[np.float64]) -> None:
    with pytest.raises(AnkleError, match="affine"):
        Volume(np.zeros((2, 2, 2)), affine)


def test_a_plane_is_no_volume() -> None:
    with pytest.raises(AnkleError, match=r"shape \(2, 3\)"):
        Volume(np.zeros((2, 3)), np.eye(4))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "dtype", ["bool", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8", ">i2", ">f4"]
)
def test_saving_and_loading_gives_the_same_values(tmp_path: Path, dtype: str, suffix: str) -> None:
    rng = np.random.default_rng(5)
    data = rng.integers(0, 2 if dtype == "bool" else 100, (5, 6, 4, 3)).astype(dtype)
    path = save(tmp_path / f"image{suffix}", data, OBLIQUE_PSR)
    volume = load(path)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, OBLIQUE_PSR, atol=1e-5)
    assert volume.data.dtype.isnative
    if dtype != "bool" and data.dtype.kind in "iu":
        assert volume.data.dtype == data.dtype.newbyteorder("=")
    else:
        assert volume.data.dtype == (np.uint8 if dtype == "bool" else np.float32)


def test_nibabel_reads_what_save_writes(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(-900, 900, (5, 6, 4, 3)).astype(np.int16)
    path = save(tmp_path / "image.nii.gz", data, OBLIQUE_PSR)
    image = nib.load(path)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), data)
    assert image.header["magic"] == b"n+1"
    for affine, code in (image.get_qform(coded=True), image.get_sform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(affine, OBLIQUE_PSR, atol=1e-5)
    assert image.header.get_xyzt_units() == ("mm", "sec")


def test_equal_arrays_give_equal_bytes_without_names_or_times(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 9, (5, 6, 4))
    one = save(tmp_path / "one.nii.gz", data, OBLIQUE_PSR).read_bytes()
    other = save(tmp_path / "other.nii.gz", np.asfortranarray(data), OBLIQUE_PSR).read_bytes()
    assert one == other
    assert one[3] == 0  # no optional field, so no file name
    assert one[4:8] == bytes(4)  # no time


@pytest.mark.parametrize("slope", [1.0, 27.29])
def test_a_given_scale_stores_int16(tmp_path: Path, slope: float) -> None:
    data = np.random.default_rng(1).uniform(-2400, 2400, (5, 6, 4, 2))
    path = save(tmp_path / "image.nii.gz", data, OBLIQUE_PSR, scale=slope)
    header = read_header(path)
    assert (header.dtype, header.slope) == (np.int16, pytest.approx(slope))
    np.testing.assert_allclose(load(path).data, data, atol=slope / 2 + 1e-3)


@given(st.floats(1e-6, 1e6), st.integers(0, 99))
@settings(max_examples=30)
def test_the_automatic_scale_uses_the_whole_range(
    tmp_path_factory: pytest.TempPathFactory, largest: float, seed: int
) -> None:
    data = np.random.default_rng(seed).uniform(-largest, largest, (3, 4, 5))
    data[1, 2, 3] = largest
    path = save(tmp_path_factory.mktemp("scale") / "image.nii", data, OBLIQUE_PSR, scale="auto")
    error = np.abs(load(path).data - data).max()
    assert error <= 0.51 * largest / 32767 + 1e-6 * largest


def test_an_image_of_zeros_can_be_scaled(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii.gz", np.zeros((2, 3, 4)), OBLIQUE_PSR, scale="auto")
    assert not load(path).data.any()


def test_scaled_values_agree_with_nibabel(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for code in ("i2", "u1", "i4", "f4", "f8"):
        image = nib.Nifti1Image(rng.integers(0, 120, (4, 5, 6)).astype(code), OBLIQUE_PSR)
        image.header.set_slope_inter(27.29, -3.5)
        image.to_filename(tmp_path / "image.nii.gz")
        volume = load(tmp_path / "image.nii.gz")
        assert volume.data.dtype == np.float32
        expected = nib.load(tmp_path / "image.nii.gz").get_fdata()
        np.testing.assert_allclose(volume.data, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("data", "scale", "message"),
    [
        (np.full((2, 2, 2), np.nan), "auto", "replace NaN"),
        (np.full((2, 2, 2), 4e4), 1.0, "does not fit"),
        (np.ones((2, 2, 2)), 0.0, "scale"),
        (np.ones((2, 2, 2)), -1.0, "scale"),
        (np.ones((2, 0, 2)), None, "cannot hold shape"),
        (np.full((2, 2, 2), 1e300), None, "beyond the range"),
        (np.ones((2, 2, 2), dtype=complex), None, "complex"),
        (np.full((2, 2, 2), "a"), None, "cannot be saved"),
        (np.ones((40000, 1, 1), dtype=np.uint8), None, "cannot hold shape"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(
    tmp_path: Path, data: NDArray[np.float64], scale: float | None, message: str
) -> None:
    with pytest.raises(AnkleError, match=message):
        save(tmp_path / "image.nii.gz", data, np.eye(4), scale=scale)
    assert not list(tmp_path.iterdir())


def test_nan_voxels_are_kept(tmp_path: Path) -> None:
    data = np.ones((3, 3, 3), dtype=np.float32)
    data[1, 1, 1] = np.nan
    volume = load(save(tmp_path / "image.nii.gz", data, np.eye(4)))
    np.testing.assert_array_equal(volume.data, data)


def test_the_header_tells_both_affines_and_which_is_used(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), dtype=np.int16), np.eye(4))
    shifted = np.array(np.eye(4))
    shifted[0, 3] = 12
    for qcode, scode, source in ((1, 1, "sform"), (1, 0, "qform"), (0, 2, "sform"), (0, 0, "none")):
        image.set_qform(shifted, code=qcode)
        image.set_sform(np.eye(4), code=scode)
        path = tmp_path / f"{qcode}{scode}.nii"
        image.to_filename(path)
        header = read_header(path)
        assert (header.qform_code, header.sform_code) == (qcode, scode)
        assert (header.shape, header.n_frames, header.dtype) == ((3, 4, 5), 1, np.int16)
        assert header.affine_source == source
        if source == "none":
            with pytest.raises(AnkleError, match="where left and right are"):
                load(path)
        else:
            used = header.sform if source == "sform" else header.qform
            np.testing.assert_allclose(load(path, form="sform").affine, used)
            if qcode and scode:
                np.testing.assert_allclose(load(path, form="qform").affine, header.qform)
                with pytest.raises(AnkleError, match="lies in two places, which are 12 mm apart"):
                    load(path)
            else:
                np.testing.assert_allclose(load(path).affine, used)


def test_the_header_is_read_without_the_data(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii.gz", np.ones((9, 9, 9)), np.eye(4))
    path.write_bytes(path.read_bytes()[:-20])
    assert read_header(path).shape == (9, 9, 9)
    with pytest.raises(AnkleError, match="truncated"):
        load(path)


def test_a_gzip_file_of_several_members_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii", np.arange(60).reshape(3, 4, 5), np.eye(4))
    content = path.read_bytes()
    (tmp_path / "parts.nii.gz").write_bytes(
        gzip.compress(content[:400]) + gzip.compress(content[400:])
    )
    np.testing.assert_array_equal(load(tmp_path / "parts.nii.gz").data, load(path).data)


def test_resampling_agrees_with_a_function_of_the_world() -> None:
    def brightness(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points @ np.array([0.5, -0.2, 0.3]) + 7

    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [8, -5, 11], degrees=True).as_matrix() @ np.diag(
        [2, 1.5, 3]
    )
    grid = np.moveaxis(np.indices((20, 24, 14)), 0, -1)
    source = Volume(brightness(apply(turn, grid)), turn)
    target = turn @ np.diag([0.7, 0.8, 0.6, 1]) @ turn_about("z", 4)
    target[:3, 3] += apply(turn, [6, 6, 4])
    result = resample(source, (9, 10, 8), target, order=1)
    small = np.moveaxis(np.indices((9, 10, 8)), 0, -1)
    np.testing.assert_allclose(result.data, brightness(apply(target, small)), rtol=1e-5)
    assert result.data.dtype == np.float32


def turn_about(axis: str, degrees: float) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    return matrix


def test_resampling_labels_keeps_their_type_and_fills_outside() -> None:
    labels = Volume(np.ones((3, 3, 3, 2), dtype=bool), np.eye(4))
    result = resample(labels, (5, 3, 3), np.eye(4), order=0)
    assert result.data.dtype == bool
    assert result.data[:3].all()
    assert not result.data[3:].any()
    image = Volume(np.full((3, 3, 3), 5, dtype=np.int16), np.eye(4))
    assert (resample(image, (5, 3, 3), np.eye(4), fill=-1).data[3:] == -1).all()


@pytest.mark.parametrize("scale", ["auto", 2.0])
def test_the_least_int16_keeps_its_value(tmp_path: Path, scale: float | str) -> None:
    """Its absolute value is itself, so that it seems smaller than all others."""
    data = np.full((2, 3, 4), 32, dtype=np.int16)
    data[0, 0, 0] = -32768
    path = save(tmp_path / "image.nii", data, OBLIQUE_PSR, scale=scale)  # type: ignore[arg-type]
    np.testing.assert_allclose(load(path).data, data, atol=1.01)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_series_keeps_its_time_step(tmp_path: Path, suffix: str) -> None:
    data = np.zeros((3, 4, 5, 2), dtype=np.int16)
    path = save(tmp_path / f"series{suffix}", data, OBLIQUE_PSR, time_step_s=0.35)
    series = load(path)
    assert series.time_step_s == pytest.approx(0.35)
    assert read_header(path).time_step_s == series.time_step_s
    assert to_orientation(series).time_step_s == series.time_step_s
    assert flip_left_right(series).time_step_s == series.time_step_s
    assert resample(series, (2, 2, 2), OBLIQUE_PSR).time_step_s == series.time_step_s
    assert series.frame(1).time_step_s is None
    assert nib.load(path).header.get_zooms()[3] == pytest.approx(0.35)
    assert nib.load(path).header.get_xyzt_units() == ("mm", "sec")


@pytest.mark.parametrize(
    ("unit", "step", "seconds"),
    [("sec", 2, 2), ("msec", 250, 0.25), ("usec", 250, 2.5e-4), ("unknown", 2, 2), ("hz", 2, None),
     ("sec", 0, None), ("sec", np.nan, None), ("sec", -1, None)],
)  # fmt: skip
def test_the_time_step_is_read_in_seconds(
    tmp_path: Path, unit: str, step: float, seconds: float | None
) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5, 2), dtype=np.int16), OBLIQUE_PSR)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = step
    image.to_filename(tmp_path / "series.nii")
    expected = None if seconds is None else pytest.approx(seconds)
    assert load(tmp_path / "series.nii").time_step_s == expected


def test_a_second_version_of_the_format_is_read(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(-900, 900, (5, 6, 4, 3)).astype(np.int16)
    for name, endianness in (("one.nii", "<"), ("two.nii.gz", ">")):
        image = nib.Nifti2Image(data, OBLIQUE_PSR, nib.Nifti2Header(endianness=endianness))
        image.to_filename(tmp_path / name)
        np.testing.assert_array_equal(load(tmp_path / name).data, data)
        np.testing.assert_allclose(load(tmp_path / name).affine, OBLIQUE_PSR)
    content = (tmp_path / "one.nii").read_bytes()
    (tmp_path / "cut.nii").write_bytes(content[:400])
    with pytest.raises(AnkleError, match="too few"):
        load(tmp_path / "cut.nii")


def test_a_pose_carries_an_image_and_a_thick_slice_averages_it() -> None:
    """Against the averages of many thin slices, written out."""
    source = Volume(np.random.default_rng(2).normal(size=(9, 8, 12)), np.eye(4))
    pose = np.eye(4)
    pose[:3, 3] = [1, -2, 3]
    thick = np.diag([1.0, 1.0, 4.0, 1.0])
    thick[:3, 3] = [1, 0, 6]
    found = resample(source, (7, 6, 2), thick, pose=pose, slice_samples=4)
    thin = np.eye(4)
    thin[:3, 3] = [1, 0, 4.5]
    expected = resample(source, (7, 6, 8), thin, pose=pose).data.reshape(7, 6, 2, 4).mean(axis=3)
    np.testing.assert_allclose(found.data, expected, atol=1e-6)
    still = resample(source, (9, 8, 12), pose, pose=pose)
    np.testing.assert_allclose(still.data, source.data, atol=1e-6)


def test_volumes_are_equal_only_to_themselves() -> None:
    one = Volume(np.zeros((2, 2, 2)), np.eye(4))
    assert one == one
    assert one != Volume(np.zeros((2, 2, 2)), np.eye(4))
    assert one in [Volume(np.ones((3, 3, 3)), np.eye(4)), one]
    assert len({one, one}) == 1


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_multiples_of_a_slope_are_written_as_they_are(tmp_path: Path, name: str) -> None:
    data = np.random.default_rng(0).normal(0, 100, (4, 5, 6, 3))
    steps = np.rint(data / 0.5).astype(np.int16)
    one = save(tmp_path / name, steps, OBLIQUE_PSR, slope=0.5)
    other = save(tmp_path / f"whole-{name}", data, OBLIQUE_PSR, scale=0.5)
    assert one.read_bytes() == other.read_bytes()
    np.testing.assert_allclose(load(one).data, data, atol=0.26)


@given(volumes(), st.tuples(*[st.integers(-2, 2)] * 3), st.integers(0, 1))
def test_nothing_is_lost_on_the_same_or_a_shifted_lattice(
    volume: Volume, shift: tuple[int, int, int], order: int
) -> None:
    """Also where files have rounded the affines to float32."""
    ones = Volume(np.ones_like(volume.data), volume.affine.astype(np.float32))
    box = np.eye(4)
    box[:3, 3] = -np.array(shift)
    shape = tuple(n + abs(s) + max(s, 0) for n, s in zip(volume.shape, shift, strict=True))
    target = (volume.affine @ box).astype(np.float32)
    found = resample(ones, shape, target, order=order).data
    there = np.zeros(shape)
    i, j, k = (slice(max(s, 0), max(s + n, 0)) for n, s in zip(volume.shape, shift, strict=True))
    there[i, j, k] = 1
    own = found[..., 0] if found.ndim == 4 else found
    np.testing.assert_allclose(own, there, atol=1e-3)


def test_a_few_outliers_do_not_cost_the_other_grey_levels(tmp_path: Path) -> None:
    data = np.random.default_rng(4).integers(0, 700, (30, 30, 30)).astype(np.float32)
    data[3, 4, 5] = 1e6
    path = save(tmp_path / "image.nii", data, OBLIQUE_PSR, scale="auto")
    np.testing.assert_array_equal(load(path).data, data)
    data[3, 4, 5] = 700
    assert read_header(save(path, data, OBLIQUE_PSR, scale="auto")).dtype == np.int16


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (bytes(128) + b"DICM" + bytes(300), "DICOM: convert the series with dcm2niix"),
        (b"NRRD0004\n" + bytes(500), "NRRD"),
        (b"ObjectType = Image\n" + bytes(500), "MetaImage"),
        (b"\0\0\0\1" + bytes(500), "FreeSurfer MGH"),
        (b"PK\3\4" + bytes(500), "a zip archive: unpack it"),
        (b"Patient: nobody\n" * 30, "something else"),
    ],
)
def test_other_formats_are_called_by_their_names(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / "scan.nii"
    for packed in (content, gzip.compress(content)):
        path.write_bytes(packed)
        with pytest.raises(AnkleError, match=f"not a NIfTI file but {name}"):
            load(path)


@pytest.mark.parametrize(
    ("magic", "name"),
    [(b"ni1\0", "the header of a NIfTI pair"), (b"\0\0\0\0", "an Analyze 7.5 header")],
)
def test_headers_without_their_values_are_called_by_their_names(
    tmp_path: Path, magic: bytes, name: str
) -> None:
    path = save(tmp_path / "image.nii", np.ones((3, 4, 5)), OBLIQUE_PSR)
    content = path.read_bytes()
    path.write_bytes(content[:344] + magic + content[348:])
    with pytest.raises(AnkleError, match=f"it is {name}"):
        load(path)
