from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from ankle_lib.cleaning import clean as clean_module
from ankle_lib.cleaning.clean import Cleaned, clean_cohort, clean_subject
from ankle_lib.cleaning.laterality import (
    side_from_bones,
)
from ankle_lib.geometry import apply, rigid, world_to_voxel
from ankle_lib.manifest.layouts import read_clean_cohort
from ankle_lib.manifest.schema import Cohort, LocalSource, Sequence, Subject
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, flip_left_right, load, read_header, save, to_orientation
from tests.toy_ankle import DYNAMIC_SHAPE, GEOMETRY, ToyAnkle, record

FAR = rigid((12, -8, 20), (25, -30, 15))
"""A world transform that another frame of reference might differ by."""


def clean(ankle: ToyAnkle, folder: Path, side: str | None = "left") -> Cleaned:
    return clean_subject(ankle.write(folder, side=side), GEOMETRY)


def kinds(cleaned: Cleaned) -> list[str]:
    return sorted({correction.kind for correction in cleaned.corrections})


def reason_kinds(cleaned: Cleaned) -> list[str]:
    return [reason.kind for reason in cleaned.reasons]


def moved(volume: Volume, world: np.ndarray) -> Volume:
    return Volume(volume.data, world @ volume.affine)


def flipped_masks(ankle: ToyAnkle) -> dict[str, Volume]:
    return {bone: flip_left_right(mask) for bone, mask in ankle.masks.items()}


# --- nothing to do -------------------------------------------------------------------------------


def test_a_good_subject_is_left_as_it_is(ankle: ToyAnkle, tmp_path: Path) -> None:
    cleaned = clean(ankle, tmp_path)
    assert cleaned.included
    assert cleaned.corrections == []
    assert cleaned.notes == []
    assert cleaned.static is not None
    assert np.array_equal(cleaned.static.volume.data, ankle.static.data)
    for bone in BONES:
        assert np.array_equal(cleaned.masks[bone].data, ankle.masks[bone].data)
    assert cleaned.sequences["active_run-01"].volume.data.shape == (*DYNAMIC_SHAPE, 3)


# --- each correction restores the images ---------------------------------------------------------


def mirrored_image(ankle: ToyAnkle) -> ToyAnkle:
    return replace(ankle, static=flip_left_right(ankle.static))


def mirrored_masks(ankle: ToyAnkle) -> ToyAnkle:
    return replace(ankle, masks=flipped_masks(ankle))


def mirrored_both(ankle: ToyAnkle) -> ToyAnkle:
    return mirrored_image(mirrored_masks(ankle))


def masks_of_255(ankle: ToyAnkle) -> ToyAnkle:
    return replace(
        ankle, masks={b: Volume(m.data * np.uint8(255), m.affine) for b, m in ankle.masks.items()}
    )


def soft_masks(ankle: ToyAnkle) -> ToyAnkle:
    def soften(data: np.ndarray) -> np.ndarray:
        soft = data.astype(np.float32)
        soft[data > 0] -= 0.3 * (np.indices(data.shape).sum(axis=0)[data > 0] % 2)
        soft[~(data > 0)] += 0.0
        return soft

    return replace(
        ankle, masks={b: Volume(soften(m.data), m.affine) for b, m in ankle.masks.items()}
    )


def another_frame(ankle: ToyAnkle) -> ToyAnkle:
    return replace(
        ankle,
        masks={bone: moved(mask, FAR) for bone, mask in ankle.masks.items()},
        sequence=moved(ankle.sequence, FAR),
    )


def masks_in_another_frame(ankle: ToyAnkle) -> ToyAnkle:
    return replace(ankle, masks={bone: moved(mask, FAR) for bone, mask in ankle.masks.items()})


def other_axes(ankle: ToyAnkle) -> ToyAnkle:
    return replace(ankle, masks={b: to_orientation(m, "LPI") for b, m in ankle.masks.items()})


def some_nan(ankle: ToyAnkle) -> ToyAnkle:
    data = ankle.static.data.astype(np.float32)
    data[30:33, 40:43, 20] = np.nan
    return replace(ankle, static=Volume(data, ankle.static.affine))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (mirrored_image, ["image mirrored"]),
        (mirrored_masks, ["masks mirrored"]),
        (mirrored_both, ["image and masks mirrored"]),
        (masks_of_255, ["binarised"]),
        (soft_masks, ["binarised"]),
        (another_frame, ["another reference frame"]),
        (masks_in_another_frame, ["another reference frame"]),
        (other_axes, ["axes reordered"]),
        (some_nan, ["missing voxels"]),
    ],
)
def test_corrections_undo_faults(
    ankle: ToyAnkle, tmp_path: Path, fault: Callable[[ToyAnkle], ToyAnkle], expected: list[str]
) -> None:
    cleaned = clean(fault(ankle), tmp_path)
    assert cleaned.included, cleaned.reasons
    assert kinds(cleaned) == expected
    assert cleaned.static is not None
    good = clean(ankle, tmp_path / "good")
    assert good.static is not None
    if fault is not some_nan:
        assert np.array_equal(cleaned.static.volume.data, good.static.volume.data)
    assert np.isfinite(cleaned.static.volume.data).all()
    np.testing.assert_allclose(cleaned.static.volume.affine, good.static.volume.affine, atol=1e-4)
    for bone in BONES:
        assert np.array_equal(cleaned.masks[bone].data, good.masks[bone].data)
        np.testing.assert_allclose(cleaned.masks[bone].affine, good.masks[bone].affine, atol=1e-4)
    name = "active_run-01"
    np.testing.assert_allclose(
        cleaned.sequences[name].volume.affine, good.sequences[name].volume.affine, atol=1e-2
    )


def test_which_hypothesis_carries_a_sequence_is_decided_by_the_image(
    ankle: ToyAnkle, tmp_path: Path
) -> None:
    moved_too = clean(another_frame(ankle), tmp_path / "a")
    stayed = clean(masks_in_another_frame(ankle), tmp_path / "b")
    files = {c.file for c in moved_too.corrections} - {c.file for c in stayed.corrections}
    assert files == {"T01_active_run-01.nii.gz"}


def test_qform_and_sform_are_settled_by_the_masks(ankle: ToyAnkle, tmp_path: Path) -> None:
    for wrong in ("qform", "sform"):
        subject = ankle.write(tmp_path / wrong)
        set_affine(subject.static[0], wrong, FAR @ ankle.static.affine)
        cleaned = clean_subject(subject, GEOMETRY)
        assert kinds(cleaned) == ["qform and sform disagree"]
        right = {"qform": "sform", "sform": "qform"}[wrong]
        assert f"{right} kept, it agrees with the masks" in cleaned.corrections[0].text
        assert cleaned.static is not None
        np.testing.assert_allclose(cleaned.static.volume.affine, ankle.static.affine, atol=1e-4)


def test_qform_and_sform_are_settled_by_the_sequences_if_masks_cannot(
    ankle: ToyAnkle, tmp_path: Path
) -> None:
    elsewhere = rigid((0, 0, 40), (90, 0, 0))
    masks = {bone: moved(mask, elsewhere) for bone, mask in ankle.masks.items()}
    for wrong in ("qform", "sform"):
        subject = replace(ankle, masks=masks).write(tmp_path / wrong)
        set_affine(subject.static[0], wrong, FAR @ ankle.static.affine)
        cleaned = clean_subject(subject, GEOMETRY)
        assert cleaned.included, cleaned.reasons
        assert "it agrees with the sequences" in cleaned.corrections[0].text
        assert cleaned.static is not None
        np.testing.assert_allclose(cleaned.static.volume.affine, ankle.static.affine, atol=1e-4)


def test_qform_and_sform_without_witness_exclude(ankle: ToyAnkle, tmp_path: Path) -> None:
    subject = ankle.write(tmp_path)
    set_affine(subject.static[0], "qform", FAR @ ankle.static.affine)
    alone = record("T01", "left", subject.static, {}, [])
    cleaned = clean_subject(alone, GEOMETRY)
    assert set(reason_kinds(cleaned)) == {
        "reference frame unclear",
        "bone masks missing",
        "no usable sequence",
    }
    text = " ".join(reason.text for reason in cleaned.reasons)
    assert "qform [[" in text
    assert "sform [[" in text


# --- reasons to exclude --------------------------------------------------------------------------


def test_every_reason_is_listed(ankle: ToyAnkle, tmp_path: Path) -> None:
    subject = ankle.write(tmp_path)
    header = bytearray(gzip.decompress(subject.static[0].read_bytes()))
    subject.static[0].write_bytes(gzip.compress(bytes(header[: len(header) // 2])))
    movie = ankle.sequence.data[..., :2]
    save(subject.sequences[0].path, movie, ankle.sequence.affine)
    without_talus = {bone: path for bone, path in subject.masks.items() if bone != "talus"}
    broken = record("T01", "left", subject.static, without_talus, [subject.sequences[0].path])
    cleaned = clean_subject(broken, GEOMETRY)
    assert reason_kinds(cleaned) == [
        "static scan unreadable",
        "bone masks missing",
        "no usable sequence",
    ]
    assert "2 frames, expected 3" in cleaned.reasons[2].text
    assert str(tmp_path) not in " ".join(reason.text for reason in cleaned.reasons)


def test_two_static_scans_exclude(ankle: ToyAnkle, tmp_path: Path) -> None:
    subject = ankle.write(tmp_path)
    twice = record("T01", "left", subject.static * 2, subject.masks, [subject.sequences[0].path])
    assert reason_kinds(clean_subject(twice, GEOMETRY)) == ["several static scans"]
    none = record("T01", "left", [], subject.masks, [subject.sequences[0].path])
    assert reason_kinds(clean_subject(none, GEOMETRY)) == ["no static scan"]


def test_no_masks_exclude(ankle: ToyAnkle, tmp_path: Path) -> None:
    subject = ankle.write(tmp_path)
    bare = record("T01", "left", subject.static, {}, [subject.sequences[0].path])
    cleaned = clean_subject(bare, GEOMETRY)
    assert [reason.text for reason in cleaned.reasons] == ["no mask of any bone"]


def test_wrong_resolution_excludes(ankle: ToyAnkle, tmp_path: Path) -> None:
    subject = ankle.write(tmp_path)
    geometry = GEOMETRY.model_copy(update={"static_voxel_mm": (1.0, 2.0, 2.5)})
    cleaned = clean_subject(subject, geometry)
    assert reason_kinds(cleaned) == ["wrong resolution"]
    assert "voxels of 2 x 2 x 2.5 mm, expected 1 x 2 x 2.5 mm" in cleaned.reasons[0].text


def test_many_missing_voxels_exclude(ankle: ToyAnkle, tmp_path: Path) -> None:
    data = ankle.static.data.astype(np.float32)
    data[:20, :20, :10] = np.nan
    cleaned = clean(replace(ankle, static=Volume(data, ankle.static.affine)), tmp_path)
    assert reason_kinds(cleaned) == ["missing voxels"]
    assert "4000 voxels (2.03%)" in cleaned.reasons[0].text


def test_empty_mask_excludes(ankle: ToyAnkle, tmp_path: Path) -> None:
    talus = ankle.masks["talus"]
    masks = {**ankle.masks, "talus": Volume(np.zeros_like(talus.data), talus.affine)}
    cleaned = clean(replace(ankle, masks=masks), tmp_path)
    assert [reason.text for reason in cleaned.reasons] == ["talus mask is empty"]


def test_bone_outside_the_image_excludes(ankle: ToyAnkle, tmp_path: Path) -> None:
    data = ankle.static.data.copy()
    data[45:] = 0
    cleaned = clean(replace(ankle, static=Volume(data, ankle.static.affine)), tmp_path)
    assert reason_kinds(cleaned) == ["bone not visible"]
    assert "of the calcaneus lies where the image is 0" in cleaned.reasons[0].text


def test_bone_cut_by_the_border_excludes(ankle: ToyAnkle, tmp_path: Path) -> None:
    def cut(volume: Volume) -> Volume:
        return Volume(volume.data[:50], volume.affine)

    masks = {bone: cut(mask) for bone, mask in ankle.masks.items()}
    cleaned = clean(replace(ankle, static=cut(ankle.static), masks=masks), tmp_path)
    assert "calcaneus is cut off by the image's border" in cleaned.reasons[0].text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[..., :2], "2 frames, expected 3"),
        (lambda data: data * [1, 0, 1], "only 0 in frame 1"),
        (
            lambda data: np.where(np.arange(data[0].size).reshape(data[0].shape) % 9, data, np.nan),
            "are NaN or infinite, more than 1%",
        ),
    ],
)
def test_bad_sequence_is_dropped_but_the_subject_stays(
    ankle: ToyAnkle, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    subject = ankle.write(tmp_path)
    bad = tmp_path / "bad.nii.gz"
    save(bad, change(ankle.sequence.data).astype(np.float32), ankle.sequence.affine)
    both = record("T01", "left", subject.static, subject.masks, [bad, subject.sequences[0].path])
    cleaned = clean_subject(both, GEOMETRY)
    assert cleaned.included
    assert list(cleaned.sequences) == ["active_run-02"]
    assert kinds(cleaned) == ["sequence dropped"]
    assert expected in cleaned.corrections[0].text
    only = record("T01", "left", subject.static, subject.masks, [bad])
    cleaned = clean_subject(only, GEOMETRY)
    assert reason_kinds(cleaned) == ["no usable sequence"]
    assert expected in cleaned.reasons[0].text


def test_sequence_of_another_place_is_dropped(ankle: ToyAnkle, tmp_path: Path) -> None:
    away = moved(ankle.sequence, rigid((0, 0, 0), (0, 120, 0)))
    cleaned = clean(replace(ankle, sequence=away), tmp_path)
    assert "its foot overlaps the static one by" in cleaned.reasons[0].text


def test_mask_on_another_grid_excludes(ankle: ToyAnkle, tmp_path: Path) -> None:
    talus = ankle.masks["talus"]
    for other, what in (
        (Volume(talus.data[2:], talus.affine), "(70, 76, 36) voxels, static scan (72, 76, 36)"),
        (Volume(talus.data, talus.affine @ np.diag([1, 1, 1.5, 1])), "no rigid motion"),
    ):
        cleaned = clean(replace(ankle, masks={**ankle.masks, "talus": other}), tmp_path)
        assert reason_kinds(cleaned) == ["mask on another grid"]
        assert what in cleaned.reasons[0].text


def test_side_that_is_not_documented_is_taken_from_the_bones(
    ankle: ToyAnkle, tmp_path: Path
) -> None:
    cleaned = clean(ankle, tmp_path, side=None)
    assert cleaned.side == "left"
    assert cleaned.notes == ["no side is documented: left, from the bones"]


# --- files ---------------------------------------------------------------------------------------


def cohort_of(*subjects: Subject) -> Cohort:
    source = LocalSource.model_construct(type="local", root=".", layout=None, sha256={})
    return Cohort.model_construct(
        name="toy",
        description="",
        licence="none",
        source=source,
        geometry=GEOMETRY,
        subjects=list(subjects),
        notes=[],
    )


def test_clean_cohort_writes_images_and_tables(ankle: ToyAnkle, tmp_path: Path) -> None:
    good = ankle.write(tmp_path / "raw", "T01")
    corrected = mirrored_both(ankle).write(tmp_path / "raw", "E02")
    excluded = record("E03", None, [], {}, [])
    out = tmp_path / "clean"
    _, written = clean_cohort(cohort_of(good, corrected, excluded), out)

    inclusion = pd.read_csv(out / "tables" / "inclusion.csv")
    assert list(inclusion.columns[:5]) == ["subject", "group", "side", "included", "reasons"]
    assert inclusion["included"].tolist() == [True, True, False]
    assert inclusion["reasons"][2].count(";") == 2
    corrections = pd.read_csv(out / "tables" / "corrections.csv")
    assert list(corrections.columns[:3]) == ["subject", "file", "correction"]
    assert set(corrections["subject"]) == {"E02"}
    assert len(written) == len(corrections) == 4

    first, second = read_clean_cohort(out)
    assert (first.code, first.group, first.side) == ("T01", "control", "left")
    assert (second.code, second.side) == ("E02", "left")
    assert not (out / "sub-E03").exists()
    assert np.array_equal(load(second.static).data, ankle.static.data)
    assert load(second.masks["talus"]).data.dtype == np.uint8
    frames = second.sequences["active_run-01"]
    assert [path.name for path in frames][2] == "sub-E02_task-active_run-01_frame-02.nii.gz"
    raw = load(corrected.sequences[0].path)
    assert np.array_equal(load(frames[1]).data, raw.frame(1).data)
    assert read_header(frames[1]).dtype == np.int16


def test_landmarks_keep_their_world_position(ankle: ToyAnkle, tmp_path: Path) -> None:
    """Whatever the axes' order on disk, a bright voxel stays where it was in the world."""
    static = Volume(ankle.static.data.copy(), ankle.static.affine)
    landmark = (20, 50, 12)
    static.data[landmark] = 3000
    world = apply(static.affine, landmark)
    turned = replace(
        ankle,
        static=to_orientation(static, "LIA"),
        masks={bone: to_orientation(mask, "LIA") for bone, mask in ankle.masks.items()},
        sequence=to_orientation(ankle.sequence, "SRP"),
    )
    cleaned = clean(turned, tmp_path)
    assert cleaned.included, cleaned.reasons
    assert cleaned.static is not None
    clean_static = cleaned.static.volume
    assert clean_static.axis_codes == ("P", "S", "R")
    where = np.unravel_index(clean_static.data.argmax(), clean_static.shape)
    np.testing.assert_allclose(apply(clean_static.affine, where), world, atol=1e-3)
    sequence = cleaned.sequences["active_run-01"].volume
    assert sequence.axis_codes == ("P", "S", "R")
    np.testing.assert_allclose(sequence.affine, ankle.sequence.affine, atol=1e-3)
    np.testing.assert_allclose(world_to_voxel(clean_static.affine, world), landmark, atol=1e-3)


def test_a_second_call_does_not_repeat_what_is_done(
    ankle: ToyAnkle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [ankle.write(tmp_path / "raw", code) for code in ("T01", "T02")]
    out = tmp_path / "clean"
    first, _ = clean_cohort(cohort_of(*subjects), out)
    tables = {path.name: path.read_bytes() for path in (out / "tables").iterdir()}

    done: list[str] = []
    original = clean_module.clean_subject

    def counted(subject: Subject, *rest: object) -> Cleaned:
        done.append(subject.code)
        return original(subject, *rest)

    monkeypatch.setattr(clean_module, "clean_subject", counted)
    again, _ = clean_cohort(cohort_of(*subjects), out)
    assert done == []
    assert again.equals(first)
    assert {path.name: path.read_bytes() for path in (out / "tables").iterdir()} == tables

    (out / ".records" / "T02.json").write_text("{half")  # as if killed before it was complete
    clean_cohort(cohort_of(*subjects), out)
    assert done == ["T02"]
    os.utime(subjects[0].static[0], ns=(1, 1))  # copied: another time, the same content
    clean_cohort(cohort_of(*subjects), out)
    assert done == ["T02"]
    static = load(subjects[0].static[0])
    save(subjects[0].static[0], static.data + 1, static.affine)
    clean_cohort(cohort_of(*subjects), out)
    assert done == ["T02", "T01"]


def test_a_cluster_cleans_the_subjects(
    ankle: ToyAnkle, tmp_path: Path, sent_to_cluster: list[Subject]
) -> None:
    subjects = [ankle.write(tmp_path / "raw", code) for code in ("T01", "T02")]
    inclusion, _ = clean_cohort(cohort_of(*subjects), tmp_path / "clean")
    assert [subject.code for subject in sent_to_cluster] == ["T01", "T02"]
    assert inclusion["included"].all()


def test_a_subject_that_is_no_longer_usable_leaves_no_images(
    ankle: ToyAnkle, tmp_path: Path
) -> None:
    subject = ankle.write(tmp_path / "raw")
    out = tmp_path / "clean"
    clean_cohort(cohort_of(subject), out)
    assert (out / "sub-T01").exists()
    subject.masks["talus"].unlink()
    inclusion, _ = clean_cohort(cohort_of(subject), out)
    assert not inclusion["included"].any()
    assert not (out / "sub-T01").exists()


@pytest.mark.skipif("ANKLE_REAL_DATA" not in os.environ, reason="ANKLE_REAL_DATA names no folder")
def test_real_files_are_excluded_with_the_right_reasons(tmp_path: Path) -> None:
    """Real masks without their scan, and a scan of a knee: nothing crashes, reasons are right."""
    folder = Path(os.environ["ANKLE_REAL_DATA"])
    masks = {bone: folder / "latim_td_template" / f"{bone}.nii.gz" for bone in BONES}
    knee = folder / "knee_mese" / "knee_mese_4echo.nii.gz"
    sequence = Sequence.model_construct(name="unknown_run-01", kind="unknown", path=knee)
    echo = tmp_path / "echo.nii.gz"
    first = load(knee).frame(0)
    save(echo, first.data, first.affine)
    subjects = []
    for code, static in (("A1", []), ("A2", [echo])):
        subject = record(code, "left", static, masks, [])
        subjects.append(subject.model_copy(update={"sequences": [sequence]}))
    inclusion, _ = clean_cohort(
        cohort_of(*subjects).model_copy(update={"geometry": GEOMETRY}), tmp_path
    )
    assert not inclusion["included"].any()
    assert inclusion["kinds"].tolist() == [
        "no static scan; no usable sequence",
        "wrong resolution; mask on another grid; no usable sequence",
    ]
    template = {bone: load(path) for bone, path in masks.items()}
    affine = template["talus"].affine
    bones = {bone: volume.data > 0.5 for bone, volume in template.items()}
    assert side_from_bones(bones, affine).side == "left"


def set_affine(path: Path, which: str, affine: np.ndarray) -> None:
    """Overwrite one of both affines in a header, as a converter with a fault would leave it."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    if which == "sform":
        content[280:328] = affine[:3].astype("<f4").tobytes()
    else:
        header = nib.Nifti1Header(bytes(content[:348]))
        header.set_qform(affine, code=1)
        content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))
