"""Planted names are told, and are in nothing that is written."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ankle_lib.cleaning.clean import clean_cohort
from ankle_lib.manifest.schema import Cohort, LocalSource
from ankle_lib.privacy import header_note, header_texts, told_by, without_folders
from ankle_lib.running import course as courses
from ankle_lib.volume import load, read_header, save
from tests.course import OPEN, WRITE_TABLE, execute_here, write_course
from tests.test_cli import ankle, own_scans
from tests.toy_ankle import GEOMETRY, toy_ankle

SECRETS = {"descrip": "Doe Jane 1980", "aux_file": "St Elsewhere", "db_name": "MRN 4711",
           "extension": "Jane Doe, born 1980-02-03"}  # fmt: skip


def plant(path: Path) -> Path:
    """Write names of a person wherever a header can hold them."""
    image = nib.load(path)
    header = nib.Nifti1Header(image.header.binaryblock)
    for field in ("descrip", "aux_file", "db_name"):
        header[field] = SECRETS[field].encode()
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRETS["extension"].encode()))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), None, header), path)
    return path


def leaks(folder: Path) -> list[str]:
    """Return the files below a folder that hold a planted text."""
    words = [re.escape(text.encode()) for text in SECRETS.values()]
    words += [b"Jane", rb"(?<!\d)4711(?!\d)", b"Elsewhere"]  # digits of a pose are no number

    def content(path: Path) -> bytes:
        packed = path.read_bytes()
        return gzip.decompress(packed) if path.suffix == ".gz" else packed

    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(re.search(word, content(path)) for word in words)]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    made = toy_ankle().static
    return save(tmp_path / "scan.nii", made.data, made.affine)


def test_texts_of_people_are_told_by_field(scan: Path) -> None:
    assert header_note(scan) == ""
    plant(scan)
    texts = header_texts(scan)
    assert {field: texts[field].rstrip() for field in texts} == SECRETS
    note = header_note(scan)
    assert "free text (db_name, descrip, aux_file, extension)" in note
    assert not any(text in note for text in SECRETS.values())


@pytest.mark.parametrize("text", [b"TE=1.78;Time=134808.242;phase=1", b"FSL5.0", b"6.0.5:9e026117"])
def test_what_converters_write_is_no_persons(scan: Path, text: bytes) -> None:
    image = nib.load(scan)
    image.header["descrip"] = text
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), image.affine, image.header), scan)
    assert read_header(scan).texts
    assert header_texts(scan) == {}


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nothing_of_it_is_written_again(scan: Path, tmp_path: Path, suffix: str) -> None:
    volume = load(plant(scan))
    out = save(tmp_path / f"out.{suffix}", volume.data, volume.affine)
    assert read_header(out).texts == {}


@pytest.mark.parametrize(
    ("name", "person"),
    [("DOE^JANE.nii", True), ("Jane_Doe.nii.gz", True), ("DOE_JANE_static.nii", True),
     ("scan_19800203.nii", True), ("2014-11-30.nii", True), ("sub_T01_static_3DT1.nii.gz", False),
     ("T01_MovieClear_active_run-01.nii", False), ("frame-07_label-talus_mask.nii", False),
     ("sub-01_ses-02_T1w.nii", False)],
)  # fmt: skip
def test_names_that_look_like_people_are_told(tmp_path: Path, name: str, person: bool) -> None:
    path = tmp_path / name
    path.touch()
    assert any("looks like a person" in told for told in told_by(path)) is person


def test_sidecars_and_tables_are_looked_at(tmp_path: Path) -> None:
    sidecar = {"PatientName": "x", "PatientPosition": "HFS", "ProtocolName": "T1", "EchoTime": 1,
               "InstitutionName": "y", "PatientBirthDate": "z"}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    assert told_by(tmp_path / "a.json") == [
        "field PatientName", "field InstitutionName", "field PatientBirthDate"
    ]  # fmt: skip
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tlast_name\tage\tbirth_date\n1\tx\t9\t2\n"
    )
    assert told_by(tmp_path / "participants.tsv") == ["field last_name", "field birth_date"]
    (tmp_path / "b.json").write_text("{")
    assert told_by(tmp_path / "b.json") == []


def test_folders_of_this_machine_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/jane"))
    text = 'x "/data/study of jane/results/laptop" /data/study of jane/x /home/jane/.venv /homes'
    folders = {Path("/data/study of jane"): ".", Path("/data/study of jane/results"): "results"}
    assert without_folders(text, folders) == 'x "results/laptop" ./x ~/.venv /homes'
    odd = Path("/data/a\\b {c}")
    there = json.dumps({"at": str(odd / "x")})
    assert json.loads(without_folders(there, {odd: "b\\c"})) == {"at": "b\\c/x"}


def test_register_tells_them_and_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    options, out = own_scans(folder, bones=("talus",)), tmp_path / "out"
    for name in ("static", "movie", "talus"):
        plant(folder / f"{name}.nii")
    status, shown, errors = ankle(
        monkeypatch, capsys, "register", *options, "--out", str(out), "--no-high-resolution"
    )
    assert status == 0, errors
    assert shown.count("the header holds free text (db_name, descrip, aux_file, extension)") == 3
    assert leaks(out) == []
    assert str(tmp_path) not in (out / "register.json").read_text()


def test_cleaning_tells_them_and_keeps_none(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    subject = toy_ankle().write(raw)
    plant(subject.static[0])
    cohort = Cohort(name="mine", licence="none", geometry=GEOMETRY, subjects=[],
                    source=LocalSource(type="local", root=str(raw)))  # fmt: skip
    inclusion, _ = clean_cohort(cohort.model_copy(update={"subjects": [subject]}), out)
    assert inclusion["included"].all()
    assert "the header holds free text (db_name, descrip" in inclusion["notes"][0]
    assert leaks(out) == []


def test_verify_tells_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_course(tmp_path / "course", {"01_first": []})
    monkeypatch.chdir(root)
    (root / "scans" / "Doe_Jane.txt").write_text("x")
    plant(save(root / "scans" / "a.nii", np.ones((3, 4, 5), np.int16), np.eye(4)))

    def verify(*options: str) -> tuple[int, str, str]:
        return ankle(monkeypatch, capsys, "data", "verify", *options)

    assert "Doe" not in verify()[1]
    status, shown, _ = verify("--privacy")
    assert status == 1
    assert "toy: Doe_Jane.txt: its name looks like a person or a date" in shown
    assert "toy: a.nii: header, descrip: 'Doe Jane 1980'" in shown
    assert "toy: a.nii: header, extension: 'Jane Doe, born" in shown


def test_a_run_writes_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def executed(notebook: Path, output: Path, parameters: dict[str, Any], **options: Any) -> Any:
        done = execute_here(notebook, output, parameters, **options)
        told = output.read_text().replace(
            '"nbformat"', f'"told": {json.dumps(str(output))},"nbformat"'
        )
        output.write_text(told)
        return done

    monkeypatch.setattr("ankle_lib.running.execution.execute_notebook", executed)
    cells = [OPEN.format(name="01_first"), WRITE_TABLE]
    root = write_course(tmp_path / "Jane Doe", {"01_first": cells, "02_second": ["1 / 0"]})
    with pytest.raises(Exception, match="02_second failed"):
        courses.run("smoke", root=root, cohort="toy", device="cpu")
    folder = root / "results" / "smoke-toy"
    record = json.loads((folder / "01_first" / "run.json").read_text())
    assert record["parameters"]["results"] == "results"
    written = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    assert {p.name for p in written} >= {"notebook.ipynb", "notebook.failed.ipynb", "run.json"}
    for path in written:
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
        assert b"Jane" not in path.read_bytes(), path.name
