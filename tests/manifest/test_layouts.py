"""Folders as labs, BIDS and the phantom leave them become the same records."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ankle_lib.files import AnkleError
from ankle_lib.manifest.document import manifest_from_folder, save_manifest, verify
from ankle_lib.manifest.layouts import Scan, detect_layout, read_clean_cohort, scan_folder
from ankle_lib.manifest.schema import Subject
from ankle_lib.presets import BONES
from ankle_lib.volume import save

REAL_DATA = os.environ.get("ANKLE_REAL_DATA", "")
SEGMENT = "_static_3DT1_segment_"
PSR = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


def touch(root: Path, *names: str) -> None:
    """Create empty files: layouts go by names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def only(scan: Scan) -> Subject:
    """Return the only subject."""
    (subject,) = scan.subjects
    return subject


def lab_names(sub: str) -> list[str]:
    return [
        f"sourcedata/{sub}/{sub}_static_3DT1.nii.gz",
        f"sourcedata/{sub}/{sub}_MovieClear_active.nii.gz",
        f"sourcedata/{sub}/{sub}_MovieClear_passive_1.nii.gz",
        f"sourcedata/{sub}/{sub}_MovieClear_passive_2.nii.gz",
        *(f"derivatives/{sub}/{sub}{SEGMENT}{bone}.nii.gz" for bone in BONES),
    ]


def test_the_labs_layout(tmp_path: Path) -> None:
    touch(tmp_path, *lab_names("sub_T01"), *lab_names("sub_E02"), "sourcedata/X3/X3_static.nii")
    scan = scan_folder(tmp_path)
    assert scan.layout == "lab"
    assert scan.unrecognised == []
    by_code = {subject.code: subject for subject in scan.subjects}
    groups = {code: subject.group for code, subject in by_code.items()}
    assert groups == {"T01": "control", "E02": "equinus", "X3": "unknown"}
    first = by_code["T01"]
    assert first.side is None
    assert first.static == [Path("sourcedata/sub_T01/sub_T01_static_3DT1.nii.gz")]
    assert list(first.masks) == list(BONES)
    sequences = {sequence.name: (sequence.kind, sequence.path.name) for sequence in first.sequences}
    assert sequences == {
        "active_run-01": ("active", "sub_T01_MovieClear_active.nii.gz"),
        "passive_run-01": ("passive", "sub_T01_MovieClear_passive_1.nii.gz"),
        "passive_run-02": ("passive", "sub_T01_MovieClear_passive_2.nii.gz"),
    }
    assert by_code["X3"].masks == {}


@pytest.mark.parametrize(
    ("variants", "best"),
    [
        (["", "_binarized"], "_binarized"),
        (["_binarized", "_flipped_binarized"], "_flipped_binarized"),
        (["_flipped_binarized", "_flipCorrected"], "_flipCorrected"),
        (["_flipCorrected", "_binarized_flipCorrected"], "_binarized_flipCorrected"),
        (
            ["", "_flipped_binarized", "_binarized_flipCorrected", "_flipCorrected", "_binarized"],
            "_binarized_flipCorrected",
        ),
    ],
)
def test_the_most_processed_mask_is_used_and_noted(
    tmp_path: Path, variants: list[str], best: str
) -> None:
    sub = "sub_T01"
    touch(tmp_path, f"sourcedata/{sub}/{sub}_static_3DT1.nii.gz")
    touch(tmp_path, *(f"derivatives/{sub}/{sub}{SEGMENT}talus{v}.nii.gz" for v in variants))
    scan = scan_folder(tmp_path)
    subject = only(scan)
    assert subject.masks["talus"].name == f"{sub}{SEGMENT}talus{best}.nii.gz"
    (note,) = subject.notes
    assert note.startswith(f"{sub}{SEGMENT}talus{best}.nii.gz is used, not ")
    assert note.count(".nii.gz") == len(variants)
    assert scan.unrecognised == []


def test_a_corrected_static_scan_replaces_the_other(tmp_path: Path) -> None:
    stem = "sourcedata/sub_T01/sub_T01_static_3DT1"
    touch(tmp_path, f"{stem}.nii.gz", f"{stem}_flipCorrected.nii.gz")
    subject = only(scan_folder(tmp_path))
    assert subject.static == [Path(f"{stem}_flipCorrected.nii.gz")]
    assert len(subject.notes) == 1


def test_two_static_scans_are_both_listed(tmp_path: Path) -> None:
    stem = "sourcedata/sub_E12/sub_E12_static_3DT1"
    touch(tmp_path, f"{stem}.nii.gz", f"{stem}_2.nii.gz")
    assert len(only(scan_folder(tmp_path)).static) == 2


def test_what_no_rule_matches_is_named(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *lab_names("sub_T01"),
        "sourcedata/sub_T01/localizer.nii.gz",
        "sourcedata/sub_T01/notes.txt",
        "sourcedata/sub_T01/.partial-x.nii.gz",
        f"derivatives/sub_T01/sub_T01{SEGMENT}fibula.nii.gz",
        *(f"other/{index}.nii.gz" for index in range(30)),
    )
    scan = scan_folder(tmp_path)
    assert len(scan.unrecognised) == 32
    assert "sourcedata/sub_T01/localizer.nii.gz" in scan.unrecognised
    assert f"derivatives/sub_T01/sub_T01{SEGMENT}fibula.nii.gz" in scan.unrecognised
    assert len(scan.notes()) == 21
    assert scan.notes()[-1] == "not recognised: 12 more files"


def test_the_raw_layout_of_the_phantom(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "raw/T01/T01_static_3DT1.nii.gz",
        "raw/T01/T01_MovieClear_active_run-01.nii.gz",
        "raw/T01/T01_MovieClear_passive_run-01.nii.gz",
        "raw/T01/T01_MovieClear_passive_run-03.nii.gz",
        "truth/T01/static_dseg.nii.gz",
        *(f"raw/T01/T01{SEGMENT}{bone}.nii.gz" for bone in BONES),
    )
    scan = scan_folder(tmp_path)
    assert scan.unrecognised == []
    subject = only(scan)
    assert (scan.layout, subject.code, subject.group) == ("raw", "T01", "control")
    names = [sequence.name for sequence in subject.sequences]
    assert names == ["active_run-01", "passive_run-01", "passive_run-03"]
    assert list(subject.masks) == list(BONES)


def write_bids(root: Path, code: str, session: str = "") -> None:
    folder, prefix = root / f"sub-{code}" / session, f"sub-{code}_{session}_".replace("__", "_")
    static, dynamic = PSR @ np.diag([0.28, 0.28, 0.8, 1]), PSR @ np.diag([0.56, 0.56, 8, 1])
    save(folder / f"anat/{prefix}T1w.nii.gz", np.zeros((3, 3, 3), np.int16), static)
    save(folder / f"anat/{prefix}T2w.nii.gz", np.zeros((3, 3, 3), np.int16), static)
    series = np.zeros((3, 3, 2, 15), np.int16)
    save(folder / f"func/{prefix}task-active_run-1_cine.nii.gz", series, dynamic)
    save(folder / f"func/{prefix}task-passive_run-2_cine.nii.gz", series, dynamic)
    save(folder / f"func/{prefix}sbref.nii.gz", np.zeros((3, 3, 2), np.int16), dynamic)
    for bone in BONES:
        mask = np.zeros((3, 3, 3), np.uint8)
        save(root / f"derivatives/r/sub-{code}/{prefix}label-{bone}_mask.nii.gz", mask, static)


def test_a_bids_tree(tmp_path: Path) -> None:
    write_bids(tmp_path, "01")
    write_bids(tmp_path, "E07", "ses-a")
    touch(tmp_path, "derivatives/r/sub-01/sub-01_frame-00_label-talus_mask.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tgroup\tside\n"
        "sub-01\t9\tTypically developing\tR\n"
        "sub-E07\t8\tn/a\tleft\n"
    )
    scan = scan_folder(tmp_path)
    assert scan.layout == "bids"
    first, second = scan.subjects
    assert (first.code, first.group, first.side) == ("01", "typically_developing", "right")
    assert (second.code, second.group, second.side) == ("E07", "equinus", "left")
    assert first.static == [Path("sub-01/anat/sub-01_T1w.nii.gz")]
    assert [s.name for s in second.sequences] == ["active_run-01", "passive_run-02"]
    assert list(second.masks) == list(BONES)
    assert sorted(Path(name).name for name in scan.unrecognised) == [
        "sub-01_T2w.nii.gz",
        "sub-01_frame-00_label-talus_mask.nii.gz",
        "sub-01_sbref.nii.gz",
        "sub-E07_ses-a_T2w.nii.gz",
        "sub-E07_ses-a_sbref.nii.gz",
    ]
    cohort = manifest_from_folder(tmp_path).cohort()
    assert verify(cohort) == []


def test_an_unreadable_series_is_listed_for_the_cleaning_to_report(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/func/sub-01_task-active_cine.nii.gz")
    assert [s.kind for s in only(scan_folder(tmp_path)).sequences] == ["active"]


def test_files_of_one_subject_are_not_taken_for_another(tmp_path: Path) -> None:
    write_bids(tmp_path, "1")
    write_bids(tmp_path, "10")
    for subject in scan_folder(tmp_path).subjects:
        assert all(f"sub-{subject.code}_" in path.name for _, path in subject.files())


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    scans, outside = tmp_path / "scans", tmp_path / "outside.nii.gz"
    touch(scans, *lab_names("sub_T01"))
    outside.touch()
    static = scans / lab_names("sub_T01")[0]
    static.unlink()
    static.symlink_to(outside)
    scan = scan_folder(scans)
    assert only(scan).static == []
    (told,) = scan.unrecognised
    assert told.startswith(f"{lab_names('sub_T01')[0]} (a link that leads out of the folder")


def test_unknown_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnkleError, match="no such folder"):
        scan_folder(tmp_path / "none")
    with pytest.raises(AnkleError, match="sourcedata"):
        detect_layout(tmp_path)
    (tmp_path / "sub-01").mkdir()
    with pytest.raises(AnkleError, match="no subject found"):
        scan_folder(tmp_path, "lab")


@given(st.permutations(lab_names("sub_T01") + lab_names("sub_E02")))
@settings(max_examples=20)
def test_the_order_of_files_on_disk_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("lab")
    touch(root, *names)
    assert [subject.code for subject in scan_folder(root).subjects] == ["E02", "T01"]
    assert [s.name for s in scan_folder(root).subjects[1].sequences][-1] == "passive_run-02"


def write_clean(root: Path) -> None:
    for code in ("T01", "E02"):
        stem = f"sub-{code}/sub-{code}_"
        touch(root, f"{stem}static.nii.gz")
        touch(root, *(f"{stem}static_label-{bone}_mask.nii.gz" for bone in BONES))
        for sequence in ("active_run-01", "passive_run-10", "passive_run-02"):
            touch(root, *(f"{stem}task-{sequence}_frame-{i:02d}.nii.gz" for i in range(12)))
    (root / "participants.tsv").write_text(
        "participant_id\tgroup\tside\nsub-T01\tcontrol\tleft\nsub-E02\tequinus\tright\n"
    )


def test_a_clean_cohort_is_indexed(tmp_path: Path) -> None:
    write_clean(tmp_path)
    touch(tmp_path, "sub-T01/.partial-1-sub-T01_task-active_run-01_frame-12.nii.gz")
    first, second = read_clean_cohort(tmp_path)
    assert (first.code, first.group, first.side) == ("T01", "control", "left")
    assert (second.code, second.group, second.side) == ("E02", "equinus", "right")
    assert list(first.sequences) == ["active_run-01", "passive_run-02", "passive_run-10"]
    frames = first.sequences["active_run-01"]
    assert [frame.name[-9:-7] for frame in frames] == [f"{i:02d}" for i in range(12)]
    assert list(first.masks) == list(BONES)
    assert all(path.is_absolute() for path in (first.static, *first.masks.values(), *frames))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("participants.tsv", "run chapter 01 first"),
        ("sub-T01/sub-T01_static.nii.gz", r"lacks sub-T01_static\.nii\.gz"),
        ("sub-E02/sub-E02_static_label-talus_mask.nii.gz", "lacks .*talus"),
        ("sub-E02/sub-E02_task-active_run-01_frame-03.nii.gz", "active_run-01 lacks frame 3"),
    ],
)
def test_an_incomplete_clean_cohort_is_refused(tmp_path: Path, removed: str, message: str) -> None:
    write_clean(tmp_path)
    (tmp_path / removed).unlink()
    with pytest.raises(AnkleError, match=message):
        read_clean_cohort(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "code\tgroup\nT01\tcontrol\n", "participant_id\n", "\0\xff"]
)
def test_a_broken_table_of_participants_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "participants.tsv").write_text(content, encoding="latin-1")
    with pytest.raises(AnkleError, match=r"participants\.tsv"):
        read_clean_cohort(tmp_path)


@pytest.mark.skipif(not REAL_DATA, reason="ANKLE_REAL_DATA names no folder")
@pytest.mark.parametrize("layout", ["lab", "bids"])
def test_real_scans_of_another_kind_are_listed_with_the_right_findings(
    tmp_path: Path, layout: str
) -> None:
    template, knee = Path(REAL_DATA, "latim_td_template"), Path(REAL_DATA, "knee_mese")
    names = {
        "lab": (
            "sourcedata/sub_T01/sub_T01_static_3DT1.nii.gz",
            "sourcedata/sub_T01/sub_T01_MovieClear_active.nii.gz",
            "derivatives/sub_T01/sub_T01_static_3DT1_segment_{}.nii.gz",
        ),
        "bids": (
            "sub-T01/anat/sub-T01_T1w.nii.gz",
            "sub-T01/dyn/sub-T01_task-active_run-01.nii.gz",
            "derivatives/masks/sub-T01/sub-T01_label-{}_mask.nii.gz",
        ),
    }[layout]
    files = {names[0]: template / "talus.nii.gz", names[1]: knee / "knee_mese_4echo.nii.gz"}
    files |= {names[2].format(bone): template / f"{bone}.nii.gz" for bone in BONES}
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(source.read_bytes())
    path = save_manifest(tmp_path / "m.yaml", manifest_from_folder(tmp_path))
    assert path.is_file()
    cohort = manifest_from_folder(tmp_path).cohort()
    assert len(cohort.subjects[0].files()) == 5
    problems = {finding.file: finding.problem for finding in verify(cohort)}
    assert set(problems) == set(names[:2])
    assert "0.5 x 0.5 x 0.5 mm" in problems[names[0]]
    assert "0.625 x 0.625 x 4 mm" in problems[names[1]]


def test_sessions_and_feet_are_not_merged(tmp_path: Path) -> None:
    for session in ("01", "02"):
        stem = f"sub-01_ses-{session}"
        touch(tmp_path, f"sub-01/ses-{session}/anat/{stem}_acq-3D_T1w.nii.gz")
        touch(tmp_path, *(f"sub-01/ses-{session}/func/{stem}_acq-FFE_task-active_run-0{n}_bold.nii"
                          for n in (1, 2)))  # fmt: skip
        touch(tmp_path, *(f"derivatives/seg/sub-01/{stem}_label-{bone}_mask.nii" for bone in BONES))
    touch(tmp_path, "derivatives/seg/sub-01/sub-01_label-talus_mask.nii")
    for side in "LR":
        stem = f"sub-02_hemi-{side}"
        touch(tmp_path, f"sub-02/anat/{stem}_T1w.nii", f"sub-02/func/{stem}_task-passive_bold.nii")
        touch(tmp_path, *(f"derivatives/seg/{stem}_label-{bone}_mask.nii" for bone in BONES))
    scan = scan_folder(tmp_path)
    names = {subject.code: {path.name for _, path in subject.files()} for subject in scan.subjects}
    assert list(names) == ["01ses01", "01ses02", "02hemiL", "02hemiR"]
    for code, files in names.items():
        assert len(files) == (6 if code.startswith("01") else 5)
        shared = f"{code[2:5]}-{code[5:]}" if code.startswith("01") else f"hemi-{code[-1]}"
        assert all(shared in name for name in files)
    assert [subject.side for subject in scan.subjects] == [None, None, "left", "right"]
    (told,) = scan.unrecognised
    assert told == (
        "derivatives/seg/sub-01/sub-01_label-talus_mask.nii (ses is one of 01, 02 for others: "
        "which does it belong to?)"
    )


def test_a_session_without_a_static_scan_does_not_borrow_one(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii")
    touch(tmp_path, *(f"sub-01/ses-{n}/func/sub-01_ses-{n}_task-active_bold.nii" for n in (1, 2)))
    first, second = scan_folder(tmp_path).subjects
    assert (len(first.static), len(second.static)) == (1, 0)
    assert second.sequences[0].path.name == "sub-01_ses-2_task-active_bold.nii"


def test_two_static_scans_of_one_foot_stay_with_it(tmp_path: Path) -> None:
    touch(tmp_path, *(f"sub-01/anat/sub-01_{one}_T1w.nii" for one in ("run-1", "run-2")))
    touch(tmp_path, *(f"sub-01/func/sub-01_task-active_run-{n}_bold.nii" for n in (1, 2)))
    subject = only(scan_folder(tmp_path))
    assert (len(subject.static), len(subject.sequences)) == (2, 2)
