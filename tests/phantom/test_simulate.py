from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ankle_lib.manifest.document import load_manifest, verify
from ankle_lib.phantom.faults import FAULTS, IMAGE_FAULTS, RawImage, RawImages, to_bytes
from ankle_lib.phantom.simulate import look_name, simulate, telling_frames
from ankle_lib.phantom.subjects import SUBJECTS, draw_recipe, usable_sequences
from ankle_lib.presets import BONES, PRESETS
from ankle_lib.registration.truth import read_looks
from ankle_lib.volume import load, read_header

TINY = dataclasses.replace(
    PRESETS["smoke"], name="tiny", subjects=("T09", "E02"), n_frames=3, anatomy_voxel_mm=2.0
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    simulate(TINY, folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_subjects_without_faults_pass_verification(cohort):
    assert verify(load_manifest(cohort / "manifest.yaml").cohort()) == []


def test_the_truth_carries_the_static_masks_onto_the_frames(cohort):
    for subject in load_manifest(cohort / "manifest.yaml").cohort().subjects:
        for sequence in subject.sequences:
            truth = cohort / "truth" / subject.code
            frames = json.loads((truth / f"{sequence.name}.json").read_text())["frames"]
            labels = load(truth / f"{sequence.name}_dseg.nii.gz")
            for entry in frames:
                for label, bone in enumerate(BONES, start=1):
                    mask = load(subject.masks[bone])
                    moved = through_slices(mask, labels, np.array(entry["poses"][bone]))
                    true = labels.data[..., entry["frame"]] == label
                    overlap = 2 * (moved & true).sum() / (moved.sum() + true.sum())
                    assert overlap > 0.85, f"{subject.code} {sequence.name} {bone}: {overlap:.2f}"


def test_usable_sequences_have_a_sharp_truth_of_two_frames(cohort):
    for code, names in (
        ("T09", ("active_run-01", "passive_run-01", "passive_run-02")),
        ("E02", ("active_run-01", "passive_run-01")),
    ):
        truth = cohort / "truth" / code
        assert sorted({p.name.split("_frame")[0] for p in truth.glob("*_sharp.nii.gz")}) == [*names]
        static = load(truth / "static_dseg.nii.gz")
        for name in names:
            content = json.loads((truth / f"{name}.json").read_text())
            angles = np.array([entry["dorsiflexion_deg"] for entry in content["frames"]])
            expected = telling_frames(angles, content["static_dorsiflexion_deg"])
            for frame in expected:
                sharp = load(truth / f"{name}_frame-{frame:02d}_sharp.nii.gz")
                start = np.linalg.inv(static.affine) @ sharp.affine
                np.testing.assert_allclose(start[:3, :3], np.eye(3), atol=1e-5)
                np.testing.assert_allclose(start[:3, 3], np.rint(start[:3, 3]), atol=1e-3)
                assert (np.rint(start[:3, 3]) + sharp.shape <= static.shape).all()
                assert 1000 < np.percentile(sharp.data, 95) < 3000
            assert len(list(truth.glob(f"{name}_frame-*_sharp.nii.gz"))) == len(expected)


def test_the_half_way_frame_was_taken_in_other_ways_too(cohort):
    for code, names in (
        ("T09", ("active_run-01", "passive_run-01", "passive_run-02")),
        ("E02", ("active_run-01", "passive_run-01")),
    ):
        truth = cohort / "truth" / code
        expected = set()
        for name in names:
            content = json.loads((truth / f"{name}.json").read_text())
            angles = np.array([entry["dorsiflexion_deg"] for entry in content["frames"]])
            frame = telling_frames(angles, content["static_dorsiflexion_deg"])[-1]
            looks = read_looks(cohort / "truth", code, name)
            assert set(looks) == {(frame, look) for look in ("fat-suppressed", "noisy", "t1")}
            expected |= {look_name(name, frame, look) for _, look in looks}
            series = load(next((cohort / "raw" / code).glob(f"*{name}.nii.gz")))
            header = read_header(truth / look_name(name, frame, "t1"))
            assert header.dtype == np.int16
            assert header.slope == pytest.approx(27.29)
            for volume in looks.values():
                assert volume.shape == series.shape
                np.testing.assert_allclose(volume.affine, series.affine, atol=1e-4)
        assert {path.name for path in truth.glob("*_look-*")} == expected


def test_the_other_ways_differ_in_fat_and_noise(cohort):
    raw = load(next((cohort / "raw" / "T09").glob("*active_run-01.nii.gz")))
    looks = read_looks(cohort / "truth", "T09", "active_run-01")
    frame = next(iter(looks))[0]
    label = load(cohort / "truth" / "T09" / "active_run-01_dseg.nii.gz").data[..., frame]
    bones = ndimage.binary_erosion((label > 0) & (label < 4), np.ones((3, 3, 1)))
    soft = ndimage.binary_erosion(label == 4, np.ones((3, 3, 1)))
    usual, t1, noisy, without_fat = (
        ndimage.gaussian_filter(image, (1.5, 1.5, 0))
        for image in (
            raw.frame(frame).data,
            *(looks[frame, look].data for look in ("t1", "noisy", "fat-suppressed")),
        )
    )
    fat, muscle = soft & (t1 > 1.05 * usual), soft & (t1 < 0.7 * usual)
    assert min(fat.sum(), muscle.sum()) > 100
    assert np.median(without_fat[fat] / usual[fat]) < 0.5
    assert np.median(without_fat[bones] / usual[bones]) < 0.5
    assert np.median(without_fat[muscle] / usual[muscle]) > 0.55
    assert np.median(noisy[bones] / usual[bones]) == pytest.approx(1, abs=0.1)
    rough = [
        (image - ndimage.gaussian_filter(image, (2, 2, 0)))[bones].std()
        for image in (looks[frame, "noisy"].data, raw.frame(frame).data)
    ]
    assert 1.5 < rough[0] / rough[1] < 3


def test_real_scans_were_taken_once(tmp_path):
    assert read_looks(tmp_path, "T01", "active_run-01") == {}


def test_spoilt_sequences_and_excluded_subjects_have_no_sharp_truth():
    assert usable_sequences("T07") == ("active_run-01", "passive_run-01")
    assert usable_sequences("E03") == ("active_run-01", "passive_run-01")
    assert usable_sequences("E06") == ()
    assert sum(len(usable_sequences(code)) for code in SUBJECTS if code.startswith("T")) == 18
    assert sum(len(usable_sequences(code)) for code in SUBJECTS if code.startswith("E")) == 14


def test_the_telling_frames_are_the_farthest_and_one_half_way_out():
    assert telling_frames(np.array([-20.0, -18, -9, 2, 4, -3, -20]), -20.0) == (4, 2)
    assert telling_frames(np.array([5.0, 0, 0]), 0.0) == (0,)


def through_slices(mask, grid, pose) -> np.ndarray:
    """A static mask moved by ``pose`` and averaged across the grid's thick slices."""
    shares = []
    for offset in (-0.375, -0.125, 0.125, 0.375):
        shift = np.eye(4)
        shift[2, 3] = offset
        matrix = np.linalg.inv(mask.affine) @ np.linalg.inv(pose) @ grid.affine @ shift
        shares.append(
            ndimage.affine_transform(
                mask.data.astype(np.float32), matrix, output_shape=grid.shape, order=1
            )
        )
    return np.mean(shares, axis=0) >= 0.5


def test_the_reader_is_close_to_the_truth_but_not_perfect(cohort):
    for subject in load_manifest(cohort / "manifest.yaml").cohort().subjects:
        labels = load(cohort / "truth" / subject.code / "static_dseg.nii.gz").data
        for label, bone in enumerate(BONES, start=1):
            mask, true = load(subject.masks[bone]).data > 0, labels == label
            overlap = 2 * (mask & true).sum() / (mask.sum() + true.sum())
            assert 0.93 < overlap < 1.0


def test_sequences_are_stored_as_the_scanner_does(cohort):
    for path in (cohort / "raw").rglob("*MovieClear*"):
        header = read_header(path)
        assert header.dtype == np.int16
        assert header.slope == pytest.approx(27.29)
        assert nib.aff2axcodes(nib.load(path).affine) == ("P", "S", "R")
        normal = nib.load(path).affine[:3, 2] / 8.0
        assert np.rad2deg(np.arccos(normal[0])) <= 12, "slices stay sagittal"


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(cohort, tmp_path):
    one = dataclasses.replace(TINY, subjects=("E02",))
    simulate(one, tmp_path / "same")
    for part in ("raw/E02", "truth/E02"):
        again, before = files(tmp_path / "same" / part), files(cohort / part)
        for found in (again, before):
            found.pop("done.json", None)  # names the preset
        assert again == before
    simulate(one, tmp_path / "b", seed=7)
    name = "raw/E02/E02_static_3DT1.nii.gz"
    assert files(tmp_path / "b")[name] != files(cohort)[name]


def test_a_cluster_simulates_the_subjects(tmp_path, sent_to_cluster):
    one = dataclasses.replace(TINY, subjects=("T06",), n_frames=2)
    simulate(one, tmp_path)
    assert sent_to_cluster == ["T06"]


def test_only_what_is_missing_is_made_again(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path, dirs_exist_ok=True)
    kept = tmp_path / "raw" / "T09" / "T09_static_3DT1.nii.gz"
    before = kept.stat().st_mtime_ns
    next((tmp_path / "raw" / "E02").glob("*active*")).unlink()
    (tmp_path / "truth" / ".partial-E02").mkdir()
    simulate(TINY, tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert files(tmp_path) == files(cohort)


def test_a_subject_of_another_preset_is_made_again(tmp_path):
    one = dataclasses.replace(TINY, subjects=("T06",), n_frames=2)
    simulate(one, tmp_path)
    simulate(dataclasses.replace(one, n_frames=3), tmp_path)
    series = next((tmp_path / "raw" / "T06").glob("*passive*"))
    assert load(series).n_frames == 3


def test_a_subject_stays_when_the_sizes_of_trainings_change(tmp_path):
    one = dataclasses.replace(TINY, subjects=("T06",), n_frames=2)
    simulate(one, tmp_path)
    record = tmp_path / "truth" / "T06" / "done.json"
    assert record.is_file()
    before = record.stat().st_mtime_ns
    more = dataclasses.replace(one.modality, steps=one.modality.steps + 1)
    simulate(dataclasses.replace(one, modality=more), tmp_path)
    assert record.stat().st_mtime_ns == before


def test_angles_of_the_truth_are_those_between_the_poses(cohort):
    for path in (cohort / "truth").rglob("*run-*.json"):
        content = json.loads(path.read_text())
        for entry in content["frames"]:
            talus, tibia = (np.array(entry["poses"][b])[:3, :3] for b in ("talus", "tibia"))
            angle = np.rad2deg(np.arccos((np.trace(tibia.T @ talus) - 1) / 2))
            turned = entry["dorsiflexion_deg"] - content["static_dorsiflexion_deg"]
            assert angle == pytest.approx(abs(turned), abs=1e-4)


def test_sides_and_ages_vary():
    recipes = [draw_recipe(code, 2020) for code in SUBJECTS]
    assert {r.side for r in recipes} == {"left", "right"}
    ages = [r.child.age_years for r in recipes]
    assert 7 <= min(ages) < 9
    assert 12 < max(ages) <= 14


def images() -> RawImages:
    generator = np.random.default_rng(0)
    affine = np.diag([0.5, 0.5, 0.8, 1.0])
    scan = RawImage(generator.integers(1, 900, (12, 14, 24)).astype(np.int16), affine)
    masks = {}
    for n, bone in enumerate(BONES):
        mask = np.zeros((12, 14, 24), np.uint8)
        mask[3:9, 4:9, 3 + 6 * n : 8 + 6 * n] = 1
        masks[f"s_{bone}.nii.gz"] = RawImage(mask, affine.copy())
    series = RawImage(generator.integers(1, 90, (8, 9, 3, 6)).astype(np.int16), affine.copy())
    return RawImages({"s_static.nii.gz": scan}, masks, {"s_movie.nii.gz": series})


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_every_fault_leaves_its_mark(code):
    clean, spoilt = images(), images()
    FAULTS[code].apply(spoilt, np.random.default_rng(1))
    before = {name: to_bytes(image) for name, image in clean.files().items()}
    after = {name: to_bytes(image) for name, image in spoilt.files().items()}
    assert before != after


def test_faults_of_images_spoil_usable_images_of_usable_subjects_alone():
    for code, part in IMAGE_FAULTS:
        assert part in (*usable_sequences(code), *BONES)
        assert usable_sequences(code)
    in_smoke = [code for code, _ in IMAGE_FAULTS if code in PRESETS["smoke"].subjects]
    assert len(in_smoke) == 1


def test_a_fault_of_an_image_leaves_every_other_byte(tmp_path, monkeypatch):
    codes = ("T01", "T05", "T07", "E08")
    sizes = dataclasses.replace(TINY, subjects=codes, n_frames=5)
    simulate(sizes, tmp_path / "spoilt")
    monkeypatch.setattr("ankle_lib.phantom.simulate.IMAGE_FAULTS", {})
    simulate(sizes, tmp_path / "clean")
    clean, spoilt = files(tmp_path / "clean"), files(tmp_path / "spoilt")
    differ = {name for name in clean if clean[name] != spoilt[name]} - {"manifest.yaml"}
    raw = sorted(name for name in differ if name.startswith("raw"))
    assert [name.split("/")[1] for name in raw] == sorted(code for code, _ in IMAGE_FAULTS)
    parts = dict(IMAGE_FAULTS.keys())
    assert all(name.endswith(f"_{parts[name.split('/')[1]]}.nii.gz") for name in raw)
    truth = {name for name in differ if name.startswith("truth") and "done" not in name}
    truth.discard("truth/T05/motion.csv")  # folding of the tissue, in another field of view
    assert truth
    assert all(name.startswith("truth/T05/passive_run-02_") for name in truth), "poses stay"


def test_a_jerk_shows_two_poses_and_none_if_the_foot_holds_still():
    still = np.zeros((16, 8, 3, 15), np.int16)
    still[4:7, 2:5] = 90
    moving = still.copy()
    moving[..., 11:] = np.roll(still[..., 11:], 6, axis=0)
    jerk = IMAGE_FAULTS["E08", "passive_run-01"].change
    for series in (still, moving):
        before = series.copy()
        jerk(series)
        kept = np.arange(15) != 10
        np.testing.assert_array_equal(series[..., kept], before[..., kept])
        places = [before[..., 8] > 0, before[..., 12] > 0]
        assert min(series[..., 10][place].mean() for place in places) > 30
    assert set(np.unique(still[..., 10])) == {0, 90}


def test_the_bytes_of_an_image_read_back(tmp_path):
    image = next(iter(images().sequences.values()))
    image.slope = 27.29
    (tmp_path / "x.nii.gz").write_bytes(to_bytes(image))
    volume = load(tmp_path / "x.nii.gz")
    np.testing.assert_allclose(volume.data, image.data * np.float32(27.29), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, image.affine)
