"""Poses are rigid, and other programs move the same points to the same places."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ankle_lib.files import AnkleError
from ankle_lib.geometry import (
    apply,
    compose,
    from_flirt,
    invert,
    is_rigid,
    nearest_rigid,
    rigid,
    rotation_angle_deg,
    same_grid,
    to_flirt,
    to_itk,
)
from ankle_lib.pose_files import read_flirt, write_flirt, write_itk
from ankle_lib.volume import Volume, resample, save

sitk = pytest.importorskip("SimpleITK")

POSE = rigid([11, -17, 23], [4, -6, 9], centre_mm=[10, 20, -30])
vectors = st.tuples(*[st.floats(-60, 60)] * 3)


def grid(shape: tuple[int, int, int], sizes: list[float]) -> tuple[tuple[int, int, int], NDArray]:
    """Oblique grid; a negative size reverses an axis and so the determinant's sign."""
    affine = rigid([5, 9, -14], [-20, 7, 12])
    affine[:3, :3] = affine[:3, :3] @ np.diag(sizes)
    return shape, affine


MOVING = {1: grid((12, 9, 7), [0.6, 0.9, 1.7]), -1: grid((12, 9, 7), [-0.6, 0.9, 1.7])}
FIXED = {1: grid((6, 11, 5), [1.1, 0.8, 8.0]), -1: grid((6, 11, 5), [1.1, -0.8, 8.0])}
signs = pytest.mark.parametrize(("moving_sign", "fixed_sign"), [(1, 1), (1, -1), (-1, 1), (-1, -1)])


@given(vectors, vectors, vectors)
def test_a_pose_is_rigid_and_its_inverse_undoes_it(rotation, translation, centre) -> None:
    pose = rigid(rotation, translation, centre)
    assert is_rigid(pose)
    np.testing.assert_allclose(compose(invert(pose), pose), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(apply(pose, centre), np.add(centre, translation), atol=1e-9)
    assert rotation_angle_deg(pose) == pytest.approx(np.linalg.norm(rotation), abs=1e-5)


@given(vectors, vectors)
def test_the_last_matrix_is_applied_first(rotation, translation) -> None:
    turn, shift = rigid(rotation, [0, 0, 0]), rigid([0, 0, 0], translation)
    point = [3.0, -2.0, 5.0]
    np.testing.assert_allclose(
        apply(compose(shift, turn), point), apply(shift, apply(turn, point)), atol=1e-9
    )


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.diag([1, 1, -1, 1]), np.diag([2, 1, 1, 1]), np.full((4, 4), np.nan)],
)
def test_mirrors_and_scales_are_not_rigid(matrix: NDArray) -> None:
    assert not is_rigid(matrix)
    with pytest.raises(AnkleError, match="not a rigid"):
        invert(matrix)


def test_what_another_program_rounded_becomes_rigid_again() -> None:
    rounded = np.round(POSE, 5)
    found = nearest_rigid(rounded)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(found, POSE, atol=1e-5)
    with pytest.raises(AnkleError, match="not a rigid"):
        nearest_rigid(np.diag([1.01, 1, 1, 1]))


@signs
def test_flirt_maps_scaled_voxels_with_the_first_axis_reversed(moving_sign, fixed_sign) -> None:
    moving, fixed = MOVING[moving_sign], FIXED[fixed_sign]
    flirt = to_flirt(POSE, moving, fixed)

    def flirt_point(voxel, image):  # written out, as FSL's documentation defines it
        shape, affine = image
        sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        i, j, k = voxel
        if np.linalg.det(affine[:3, :3]) > 0:
            i = shape[0] - 1 - i
        return np.array([i * sizes[0], j * sizes[1], k * sizes[2], 1.0])

    for voxel in ([0, 0, 0], [11, 3, 2], [4.5, 8, 6]):
        world = apply(POSE, apply(moving[1], voxel))
        voxel_fixed = apply(np.linalg.inv(fixed[1]), world)
        np.testing.assert_allclose(
            flirt @ flirt_point(voxel, moving), flirt_point(voxel_fixed, fixed), atol=1e-9
        )
    np.testing.assert_allclose(from_flirt(flirt, moving, fixed), POSE, atol=1e-9)


@signs
def test_flirt_agrees_with_the_headers_that_nibabel_writes(
    tmp_path: Path, moving_sign: int, fixed_sign: int
) -> None:
    """FSL reads voxel sizes from pixdim and the side of x from the sform's determinant."""

    def scaled_mm(image: tuple[tuple[int, int, int], NDArray], name: str) -> NDArray:
        """World to FLIRT's mm, from a file's header alone."""
        shape, affine = image
        header = nib.load(save(tmp_path / name, np.zeros(shape, np.int16), affine)).header
        x, y, z = header.get_zooms()
        mm = np.diag([x, y, z, 1.0])
        if np.linalg.det(header.get_sform()) > 0:  # FSL calls this neurological and swaps x
            mm = np.array([[-x, 0, 0, x * (header["dim"][1] - 1)], *mm[1:]])
        return mm @ np.linalg.inv(header.get_sform())

    moving, fixed = MOVING[moving_sign], FIXED[fixed_sign]
    to_fixed, to_moving = scaled_mm(fixed, "fixed.nii"), scaled_mm(moving, "moving.nii")
    expected = to_fixed @ POSE @ np.linalg.inv(to_moving)
    np.testing.assert_allclose(to_flirt(POSE, moving, fixed), expected, atol=1e-4)
    same_file = to_flirt(np.eye(4), moving, moving)
    np.testing.assert_allclose(same_file, np.eye(4), atol=1e-12)


@signs
def test_flirt_files_come_back(tmp_path: Path, moving_sign, fixed_sign) -> None:
    moving, fixed = MOVING[moving_sign], FIXED[fixed_sign]
    path = write_flirt(tmp_path / "pose.mat", POSE, moving, fixed)
    assert len(path.read_text().splitlines()) == 4
    np.testing.assert_allclose(read_flirt(path, moving, fixed), POSE, atol=1e-8)


def sitk_image(image: tuple[tuple[int, int, int], NDArray], values: NDArray):
    """An ITK image of this grid: world LPS, axes of the array in reverse order."""
    lps = np.diag([-1, -1, 1, 1]) @ image[1]
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    result = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    result.SetSpacing(sizes.tolist())
    result.SetOrigin(lps[:3, 3].tolist())
    result.SetDirection((lps[:3, :3] / sizes).ravel().tolist())
    return result


@signs
def test_simpleitk_resamples_with_an_exported_pose(tmp_path: Path, moving_sign, fixed_sign) -> None:
    """A linear function of the world, moved by ITK, is that function of moved points."""
    moving = grid((40, 44, 42), [moving_sign * 3.0, 3.5, 4.0])
    moving[1][:3, 3] -= apply(moving[1], [20, 22, 21])  # so that the fixed grid lies inside
    fixed = FIXED[fixed_sign]

    def brightness(points):
        return points @ np.array([1.0, 2.0, -3.0]) + 500

    indices = np.moveaxis(np.indices(moving[0]), 0, -1)
    image = sitk_image(moving, brightness(apply(moving[1], indices)))
    transform = sitk.ReadTransform(str(write_itk(tmp_path / "pose.tfm", POSE)))
    reference = sitk_image(fixed, np.zeros(fixed[0]))
    result = sitk.GetArrayFromImage(
        sitk.Resample(image, reference, transform, sitk.sitkLinear, -1.0)
    )
    world = apply(fixed[1], np.moveaxis(np.indices(fixed[0]), 0, -1))
    expected = brightness(apply(invert(POSE), world))
    values = result.transpose(2, 1, 0)
    assert (values != -1).all()
    np.testing.assert_allclose(values, expected, atol=1e-6)


@signs
def test_simpleitk_and_scipy_move_an_image_alike(
    tmp_path: Path, moving_sign: int, fixed_sign: int
) -> None:
    """Any image, not only a smooth one: ours inside the library is what ITK does with the file."""
    moving, fixed = grid((24, 20, 16), [moving_sign * 2.0, 2.5, 3.0]), FIXED[fixed_sign]
    values = np.random.default_rng(1).normal(500, 100, moving[0]).astype(np.float32)
    moving[1][:3, 3] -= apply(moving[1], [12, 10, 8])
    pose = compose(rigid([0, 0, 0], apply(fixed[1], [3, 5, 2])), rigid([11, -17, 23], [0, 0, 0]))
    transform = sitk.ReadTransform(str(write_itk(tmp_path / "pose.tfm", pose)))
    reference = sitk_image(fixed, np.zeros(fixed[0], np.float32))
    theirs = sitk.Resample(sitk_image(moving, values), reference, transform, sitk.sitkLinear, -1.0)
    theirs = sitk.GetArrayFromImage(theirs).transpose(2, 1, 0)
    ours = resample(Volume(values, moving[1]), *fixed, pose=pose, fill=-1.0).data
    inside = (theirs != -1) & (ours > 0)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=1e-4, atol=1e-2)


def test_the_matrix_of_itk_is_lps_and_maps_fixed_to_moving() -> None:
    matrix = to_itk(POSE)
    fixed_ras = np.array([12.0, -8.0, 30.0])
    moving_lps = apply(matrix, fixed_ras * [-1, -1, 1])
    np.testing.assert_allclose(apply(POSE, moving_lps * [-1, -1, 1]), fixed_ras, atol=1e-9)
    np.testing.assert_allclose(to_itk(matrix), POSE, atol=1e-12)


def test_simpleitk_reads_from_a_file_the_pose_that_was_written(tmp_path: Path) -> None:
    theirs = sitk.ReadTransform(str(write_itk(tmp_path / "p.tfm", POSE)))
    fixed_ras = np.array([12.0, -8.0, 30.0])
    moving_lps = np.array(theirs.TransformPoint((fixed_ras * [-1, -1, 1]).tolist()))
    np.testing.assert_allclose(apply(POSE, moving_lps * [-1, -1, 1]), fixed_ras, atol=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "\0\1\2",
        "1 2 3\n4 5 6\n",
        "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 nan\n",
        "1 0 0 0\n0 0 0 0\n0 0 1 0\n0 0 0 1\n",
    ],
)
def test_files_that_hold_no_pose_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pose.txt"
    path.write_text(text)
    with pytest.raises(AnkleError, match=r"pose\.txt"):
        read_flirt(path, MOVING[1], FIXED[1])


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnkleError):
        read_flirt(tmp_path / "none.mat", MOVING[1], FIXED[1])


def test_grids_are_the_same_to_a_tenth_of_a_voxel() -> None:
    shape, affine = (30, 40, 6), rigid((4, -9, 11), (5, 6, 7)) @ np.diag([0.5, 0.6, 8, 1])
    grid = shape, affine
    for shift, same in ((3.5e-3, True), (0.04, True), (0.06, False), (12.0, False)):
        assert same_grid(grid, (shape, rigid((0, 0, 0), (shift, 0, 0)) @ affine)) is same
    assert not same_grid(grid, ((30, 40, 7), affine))
    assert not same_grid(grid, (shape, rigid((0, 0, 1), (0, 0, 0)) @ affine))
