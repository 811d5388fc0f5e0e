from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ankle_lib.figures.reconstruction import (
    consistency_map,
    reconstruction_animation,
    reconstruction_filmstrip,
)
from ankle_lib.files import AnkleError
from ankle_lib.foot.reconstruct import Still
from ankle_lib.geometry import apply, compose, invert, rigid
from ankle_lib.masking.foot import find_foot
from ankle_lib.reconstruction.consistency import consistency
from ankle_lib.reconstruction.guided import guided, with_the_measured
from ankle_lib.reconstruction.polyrigid import MovedScan, MovingFoot, moved_static
from ankle_lib.reconstruction.sequence import grid_of_bones, reconstruct_frames
from ankle_lib.reconstruction.thick import (
    Scanning,
    ThickSlices,
    measured_band,
    noise_sd,
    scanning,
)
from ankle_lib.registration.moving import moved
from ankle_lib.registration.truth import read_sharp
from ankle_lib.volume import Volume, load, resample, save, save_series, to_orientation
from tests.toy_motion import NOISE, Motion, hinge, motion, moved_scan


@pytest.fixture(scope="module")
def scene() -> Motion:
    return motion()


@pytest.fixture(scope="module")
def foot(scene: Motion) -> MovingFoot:
    return MovingFoot.prepare(scene.static, scene.masks)


@pytest.fixture(scope="module")
def carried(scene: Motion) -> MovedScan:
    return moved_scan(scene, 1)


def psnr(image: NDArray, truth: NDArray, region: NDArray[np.bool_]) -> float:
    return float(20 * np.log10(1000 / np.sqrt(np.mean((image - truth)[region] ** 2))))


def around_bones(carried: MovedScan) -> NDArray[np.bool_]:
    return (np.min([*carried.distances_mm.values()], axis=0) < 5) & carried.covered


# --- the moved static scan ---


def test_bones_are_moved_by_their_poses_exactly(scene: Motion) -> None:
    smooth = Volume(ndimage.gaussian_filter(scene.static.data, 2.0), scene.static.affine)
    grid = smooth.shape, smooth.affine
    carried = moved_static(MovingFoot.prepare(smooth, scene.masks), scene.poses[1], *grid)
    points = np.moveaxis(np.indices(smooth.shape), 0, -1)
    for bone, mask in scene.masks.items():
        pose = scene.poses[1][bone]
        inside = moved(Volume(mask.astype(np.float32), grid[1]), pose, *grid).data > 0.99
        assert inside.sum() > 500
        to_static = compose(np.linalg.inv(grid[1]), invert(pose), grid[1])
        exact = ndimage.map_coordinates(
            smooth.data, apply(to_static, points[inside]).T, order=3, mode="mirror"
        )
        assert np.abs(carried.volume.data[inside] - exact).max() < 0.05 * exact.std()
    assert carried.rigidity_mm < 0.05


@pytest.mark.parametrize("angle", [-25.0, 8.0, 25.0])
def test_nothing_folds(scene: Motion, foot: MovingFoot, angle: float) -> None:
    result = moved_static(foot, hinge(angle), scene.static.shape, scene.static.affine)
    assert 0 < result.smallest_jacobian < 1
    assert np.isfinite(result.volume.data).all()


def test_a_common_motion_is_no_deformation(scene: Motion, foot: MovingFoot) -> None:
    points = torch.tensor([[10.0, -40.0, 5.0], [-20.0, 30.0, 60.0]], dtype=torch.float64)
    same = rigid((20, 10, -15), (8, 9, 10))
    home = foot.to_static(points, dict.fromkeys(scene.masks, same))
    np.testing.assert_allclose(home, apply(invert(same), points.numpy()), atol=1e-9)
    extra = {bone: compose(same, pose) for bone, pose in hinge(20).items()}
    one = foot.to_static(points, hinge(20))
    other = foot.to_static(torch.from_numpy(apply(same, points.numpy())), extra)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_bone_without_pose_follows_the_others(foot: MovingFoot) -> None:
    some = {bone: hinge(15)[bone] for bone in ("talus", "tibia")}
    heel = torch.from_numpy(apply(some["talus"], foot.points["calcaneus"]))
    home = foot.to_static(heel, some).numpy()
    # it hangs on the talus, which is nearer than the tibia, but nothing holds it rigid
    assert np.linalg.norm(home - foot.points["calcaneus"], axis=1).mean() < 5


def test_the_static_scan_stays_sharp_when_it_does_not_move(scene: Motion, foot: MovingFoot) -> None:
    still = moved_static(
        foot, dict.fromkeys(scene.masks, np.eye(4)), scene.static.shape, scene.static.affine
    )
    np.testing.assert_allclose(still.volume.data, scene.static.data, atol=0.5)
    assert still.smallest_jacobian == pytest.approx(1, abs=1e-3)


def test_half_a_voxel_costs_little_sharpness(scene: Motion, foot: MovingFoot) -> None:
    half = np.diag([0.5, 0.5, 0.5, 1])
    fine = moved_static(
        foot,
        dict.fromkeys(scene.masks, np.eye(4)),
        (60, 60, 40),
        scene.static.affine @ half,
    ).volume.data
    spline = ndimage.affine_transform(
        scene.static.data, half[:3, :3], output_shape=(60, 60, 40), order=3, mode="mirror"
    )
    np.testing.assert_allclose(fine, spline, atol=1.0)


def test_what_cannot_be_moved_is_refused(scene: Motion, foot: MovingFoot) -> None:
    grid = scene.static.shape, scene.static.affine
    with pytest.raises(AnkleError, match="at least one mask"):
        MovingFoot.prepare(scene.static, {})
    with pytest.raises(AnkleError, match=r"talus has shape \(2, 2, 2\)"):
        MovingFoot.prepare(scene.static, {"talus": np.ones((2, 2, 2), bool)})
    with pytest.raises(AnkleError, match="empty"):
        MovingFoot.prepare(scene.static, {"talus": np.zeros(scene.static.shape, bool)})
    with pytest.raises(AnkleError, match="without any pose"):
        moved_static(foot, {}, *grid)
    with pytest.raises(AnkleError, match="pose of the fibula"):
        moved_static(foot, {"fibula": np.eye(4)}, *grid)
    with pytest.raises(AnkleError, match="not rigid"):
        moved_static(foot, {"talus": np.diag([2.0, 1, 1, 1])}, *grid)
    with pytest.raises(AnkleError, match="not rigid"):
        moved_static(foot, {"talus": np.full((4, 4), np.nan)}, *grid)


# --- thick slices ---


def test_averaging_agrees_with_the_plain_way(scene: Motion) -> None:
    sharp, frame = scene.truth[0], scene.frames.frame(0)
    slices = ThickSlices.between(sharp.shape, sharp.affine, frame)
    found = slices.average(torch.from_numpy(sharp.data)[None])[0].numpy()
    plain = moved(sharp, np.eye(4), frame.shape, frame.affine, slice_samples=12).data
    whole = slices.average(torch.ones(1, *sharp.shape))[0].numpy() > 0.999
    assert whole.mean() > 0.2
    assert np.abs(found - plain[slices.box])[whole].max() < 0.03 * sharp.data.max()


@pytest.mark.parametrize("codes", ["PSR", "RPS", "SLA"])
def test_the_order_of_the_frames_axes_does_not_matter(
    scene: Motion, carried: MovedScan, codes: str
) -> None:
    turned = to_orientation(scene.frames.frame(1), codes)
    result = guided(carried, turned, seen=Scanning((1.0, 1.0), NOISE))
    expected = guided(carried, scene.frames.frame(1), seen=Scanning((1.0, 1.0), NOISE))
    np.testing.assert_allclose(result.volume.data, expected.volume.data, atol=1.0)
    assert result.consistency.ratio == pytest.approx(expected.consistency.ratio, abs=1e-3)


def test_values_spread_over_a_slice_average_back(scene: Motion) -> None:
    sharp, frame = scene.truth[0], scene.frames.frame(0)
    slices = ThickSlices.between(sharp.shape, sharp.affine, frame)
    smooth = ndimage.gaussian_filter(slices.part(frame), (3, 3, 2))
    back = slices.average(slices.spread(torch.from_numpy(smooth))[None])[0].numpy()
    whole = slices.average(torch.from_numpy(slices.reached().astype(np.float32))[None])[0] > 0.999
    error = (back - smooth)[whole.numpy()]
    assert np.sqrt(np.mean(error**2)) < 0.05 * smooth[whole.numpy()].std()


def filled_with_zeros(share: tuple[float, float], sd: float, size: int = 160) -> NDArray:
    """A disc in noise, of whose k-space only the middle was measured."""
    random = np.random.default_rng(1)
    i, j = np.indices((size, size)) - size / 2
    disc = np.repeat(900.0 * (i**2 + j**2 < (0.3 * size) ** 2)[..., None], 3, axis=2)
    kept = [np.abs(np.fft.fftfreq(size)) <= 0.5 * s for s in share]
    mask = (kept[0][:, None] & kept[1])[..., None]
    noise = random.normal(0, sd / np.sqrt(mask.mean()), (2, *disc.shape))
    spectrum = np.fft.fft2(disc + noise[0] + 1j * noise[1], axes=(0, 1)) * mask
    return np.abs(np.fft.ifft2(spectrum, axes=(0, 1))).astype(np.float32)


@pytest.mark.parametrize("share", [(0.72, 0.72), (0.6, 0.9), (1.0, 1.0)])
def test_noise_and_measured_k_space_are_read_off_the_image(share: tuple[float, float]) -> None:
    image = filled_with_zeros(share, 50.0)
    band = measured_band(image)
    assert band == pytest.approx(share, abs=0.03)
    assert noise_sd(image, band) == pytest.approx(50, rel=0.06)
    found = scanning(Volume(image[..., None].repeat(2, 3), np.diag([1.0, 1, 8, 1])))
    assert found == Scanning(band, pytest.approx(noise_sd(image, band)))  # type: ignore[arg-type]


def test_noise_is_measured_in_tissue_where_the_air_is_zero() -> None:
    image = filled_with_zeros((1.0, 1.0), 50.0)
    image[~find_foot(image)] = 0
    assert noise_sd(image) == pytest.approx(50, rel=0.1)


# --- consistency ---


def test_the_truth_is_consistent_up_to_the_noise(scene: Motion) -> None:
    for number, sharp in enumerate(scene.truth):
        seen = Scanning((1.0, 1.0), NOISE)
        assert consistency(sharp, scene.frames.frame(number), seen).ratio == pytest.approx(
            1, abs=0.1
        )


def test_what_is_not_in_the_frame_shows(scene: Motion) -> None:
    seen, frame = Scanning((1.0, 1.0), NOISE), scene.frames.frame(1)
    bone = scene.masks["calcaneus"]
    wrong = replace(scene.truth[1], data=scene.truth[1].data + np.where(bone, 300, 0))
    assert consistency(wrong, frame, seen).ratio > 1.5
    other = consistency(scene.truth[0], frame, seen)
    assert other.ratio > 1.5
    assert np.count_nonzero(other.residual.data[~other.compared]) == 0
    rms = np.sqrt(np.mean(other.residual.data[other.compared] ** 2))
    assert other.ratio == pytest.approx(rms / NOISE, rel=1e-4)


def test_scans_that_do_not_meet_are_refused(scene: Motion) -> None:
    far = Volume(scene.frames.data[..., 0], rigid((0, 0, 0), (900, 0, 0)) @ scene.frames.affine)
    with pytest.raises(AnkleError, match="hardly overlap"):
        consistency(scene.truth[0], far, Scanning((1.0, 1.0), NOISE))
    with pytest.raises(AnkleError, match="share 0 voxels of tissue"):
        consistency(
            scene.truth[0],
            scene.frames.frame(0),
            Scanning((1.0, 1.0), NOISE),
            covered=np.zeros(scene.truth[0].shape, bool),
        )


# --- guided reconstruction ---


def test_guided_is_better_than_interpolation_and_the_moved_scan(
    scene: Motion, carried: MovedScan
) -> None:
    frame, truth = scene.frames.frame(1), scene.truth[1].data
    result = guided(carried, frame)
    region = around_bones(carried) & result.measured
    grid = scene.static.shape, scene.static.affine
    interpolated = max(psnr(resample(frame, *grid, order=n).data, truth, region) for n in (0, 1, 3))
    known = np.column_stack([np.ones(region.sum()), carried.volume.data[region]])
    fitted = known @ np.linalg.lstsq(known, truth[region], rcond=None)[0]
    alone = psnr(fitted, truth[region], np.ones(len(fitted), bool))
    best = psnr(result.volume.data, truth, region)
    assert best > interpolated + 3
    assert best > alone + 3
    assert np.corrcoef(result.volume.data[region], truth[region])[0, 1] > 0.95
    assert 0.8 < result.consistency.ratio < 1.2


def test_the_scale_of_the_intensities_does_not_matter(scene: Motion, carried: MovedScan) -> None:
    frame = scene.frames.frame(1)
    seen = Scanning((1.0, 1.0), NOISE)
    plain = guided(carried, frame, seen=seen)
    bright = Volume(3 * frame.data, frame.affine)
    again = guided(carried, bright, seen=Scanning((1.0, 1.0), 3 * NOISE))
    np.testing.assert_allclose(again.volume.data, 3 * plain.volume.data, atol=1.0)
    assert again.consistency.ratio == pytest.approx(plain.consistency.ratio, rel=1e-3)


def test_a_lost_slice_is_filled_from_the_others(scene: Motion, carried: MovedScan) -> None:
    frame = scene.frames.frame(1)
    data = frame.data.copy()
    data[:, :, 4] = 0
    seen = Scanning((1.0, 1.0), NOISE)
    whole, part = (guided(carried, f, seen=seen) for f in (frame, Volume(data, frame.affine)))
    region = around_bones(carried) & whole.measured
    truth = scene.truth[1].data
    assert psnr(part.volume.data, truth, region) > psnr(whole.volume.data, truth, region) - 2


def test_any_volume_can_be_brought_into_agreement(scene: Motion) -> None:
    frame, seen = scene.frames.frame(1), Scanning((1.0, 1.0), NOISE)
    dull = Volume(0.8 * scene.truth[1].data, scene.truth[1].affine)
    before = consistency(dull, frame, seen).ratio
    result = with_the_measured(dull, frame, seen=seen)
    assert result.consistency.ratio < 0.6 * before
    assert result.volume.data.min() >= 0


# --- sequences and files ---


def test_frames_come_one_by_one_on_the_part_around_the_bones(scene: Motion) -> None:
    poses = [scene.poses[0], {}]
    shape, affine = grid_of_bones(scene.static, scene.masks, poses)
    assert all(a <= b for a, b in zip(shape, scene.static.shape, strict=True))
    asked = []

    def brighter(frame: Volume, moved: MovedScan, sharp: Volume) -> NDArray:
        asked.append(sharp.shape)
        return sharp.data + 100

    plain = list(reconstruct_frames(scene.static, scene.masks, scene.frames, poses))
    refined = list(
        reconstruct_frames(scene.static, scene.masks, scene.frames, poses, refine=brighter)
    )
    assert [one.number for one in plain] == [one.number for one in refined] == [0]
    assert asked == [shape]
    assert plain[0].result.volume.shape == shape
    np.testing.assert_allclose(plain[0].result.volume.affine, affine)
    # what was added without reason has been taken away again
    tissue = plain[0].result.measured & (plain[0].result.volume.data > 300)
    change = (refined[0].result.volume.data - plain[0].result.volume.data)[tissue]
    assert abs(np.median(change)) < 20
    with pytest.raises(AnkleError, match="poses of 1 frames for a sequence of 2"):
        next(reconstruct_frames(scene.static, scene.masks, scene.frames, poses[:1]))
    away = [{bone: rigid((0, 0, 0), (500, 0, 0)) for bone in scene.masks}]
    with pytest.raises(AnkleError, match="out of the static scan's field of view"):
        grid_of_bones(scene.static, scene.masks, away)
    with pytest.raises(AnkleError, match="both a mask and a pose"):
        grid_of_bones(scene.static, scene.masks, [{}])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_series_is_written_frame_by_frame(tmp_path: Path, name: str) -> None:
    data = np.random.default_rng(0).normal(0, 100, (4, 5, 6, 3))
    affine = rigid((5, 6, 7), (1, 2, 3)) @ np.diag([-1.0, 2, 3, 1])
    frames = (data[..., n] for n in range(3))
    save_series(tmp_path / name, frames, (4, 5, 6), 3, affine, scale=0.5)
    save(tmp_path / f"whole-{name}", data, affine, scale=0.5)
    one, other = ((tmp_path / n).read_bytes() for n in (name, f"whole-{name}"))
    unpacked = [gzip.decompress(b) if name.endswith("gz") else b for b in (one, other)]
    assert unpacked[0] == unpacked[1]
    np.testing.assert_allclose(load(tmp_path / name).data, data, atol=0.26)


def test_a_series_is_whole_or_not_there(tmp_path: Path) -> None:
    out = tmp_path / "a.nii.gz"
    frame = np.zeros((4, 5, 6))
    for frames, message in (
        ([frame], "1 frames were given, 2 announced"),
        ([frame, frame[1:]], r"frame 1 has shape \(3, 5, 6\)"),
        ([frame, frame * np.nan], "frame 1"),
    ):
        with pytest.raises(AnkleError, match=message):
            save_series(out, frames, (4, 5, 6), 2, np.eye(4), scale=1.0)
    with pytest.raises(AnkleError, match="scale"):
        save_series(out, [frame], (4, 5, 6), 1, np.eye(4), scale=0.0)
    assert list(tmp_path.iterdir()) == []


def test_the_sharp_truth_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert read_sharp(tmp_path, "T01", "active_run-01") == {}
    affine = np.diag([2.0, 3, 4, 1])
    data = np.arange(24).reshape(2, 3, 4)
    for name in ("active_run-01_frame-07", "active_run-01_frame-12", "active_run-011_frame-03"):
        save(tmp_path / "T01" / f"{name}_sharp.nii.gz", data.astype(np.int16), affine)
    found = read_sharp(tmp_path, "T01", "active_run-01")
    assert sorted(found) == [7, 12]
    assert "".join(found[7].axis_codes) == "PSR"


# --- figures ---


@pytest.fixture(scope="module")
def stills(scene: Motion) -> list[Still]:
    return [
        Still(n, resample(scene.frames.frame(n), sharp.shape, sharp.affine, order=0), sharp)
        for n, sharp in enumerate(scene.truth)
    ]


def test_the_filmstrip_shows_both_planes_of_both(stills: list[Still]) -> None:
    figure = reconstruction_filmstrip(stills)
    assert len(figure.axes) == 4 * len(stills)
    assert figure.axes[0].get_title() == "frame 0"
    shown = [axes.images[0].get_array() for axes in figure.axes]
    k = stills[0].sharp.shape[2] // 2
    np.testing.assert_array_equal(shown[0], stills[0].measured.data[:, :, k].T)
    np.testing.assert_array_equal(shown[3], stills[1].sharp.data[:, :, k].T)
    with pytest.raises(AnkleError, match="found none"):
        reconstruction_filmstrip([])


def test_the_consistency_map_shows_the_residual(scene: Motion) -> None:
    frame = scene.frames.frame(1)
    judged = consistency(scene.truth[1], frame, Scanning((1.0, 1.0), NOISE))
    residual = Volume(judged.residual.data / NOISE, judged.residual.affine)
    figure = consistency_map(frame, residual, judged.ratio)
    assert f"{judged.ratio:.2f}" in figure.axes[1].get_title()
    k = int(np.argmax(np.count_nonzero(residual.data, axis=(0, 1))))
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), residual.data[:, :, k].T)


def test_the_animation_is_small_and_runs(tmp_path: Path, stills: list[Still]) -> None:
    from PIL import Image

    path = reconstruction_animation(tmp_path / "a.gif", stills)
    with Image.open(path) as film:
        assert film.n_frames == 2  # type: ignore[attr-defined]
        assert film.info["loop"] == 0
        assert film.size[0] > film.size[1] / 2
    assert path.stat().st_size < 300_000
    with pytest.raises(AnkleError, match="at least one frame"):
        reconstruction_animation(tmp_path / "b.gif", [])
