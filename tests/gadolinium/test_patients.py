"""Simulated patients as files, and the same patients as if they were a real data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ankle_lib.brain.ms_patients import POST, Patient, World, simulate_patient
from ankle_lib.files import AnkleError
from ankle_lib.gadolinium import lesion_crops, patients
from ankle_lib.gadolinium.patients import view_of
from ankle_lib.manifest.document import manifest_from_folder
from ankle_lib.volume import load, save

WORLD = World(3.0, seed=1, z_mm=(-6.0, 40.0))
ROLES = {"T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR", POST: "GADO"}


@pytest.fixture(scope="module")
def patient() -> Patient:
    found = (simulate_patient(WORLD, f"A{number}") for number in range(12))
    return next(one for one in found if any(lesion.active for lesion in one.lesions))


def test_seed_and_code_decide(patient: Patient) -> None:
    again = simulate_patient(WORLD, patient.code)
    np.testing.assert_array_equal(again.images["FLAIR"], patient.images["FLAIR"])
    assert again.lesions == patient.lesions
    other = simulate_patient(WORLD, "B1")
    assert other.scanner != patient.scanner


def test_only_active_lesions_light_up(patient: Patient) -> None:
    numbers = patient.outlines()
    grown = patient.images[POST] - patient.images["T1w"]
    noise = patient.scanner.noise_level("T1w")
    assert abs(np.median(grown[patient.head.brain])) < 0.2 * noise
    for number, lesion in enumerate(patient.lesions, 1):
        inside = numbers == number
        if lesion.active and lesion.form == "even" and inside.sum() > 3:
            assert grown[inside].mean() > 2 * noise
        if not lesion.active and inside.sum() > 10:
            assert abs(grown[inside].mean()) < 2 * noise


def test_the_observer_sees_no_other_lesion(patient: Patient) -> None:
    view = view_of(patient, 0)
    assert set(view.seen) == {"T1w", "T2w", "FLAIR"}
    assert view.halos.shape == (19, len(view.core))
    clean = patient.shapes[0].core.sum() * WORLD.voxel_mm**3
    assert clean == pytest.approx(patient.lesions[0].volume_mm3, rel=0.5)


def test_a_cohort_is_written_once_and_read(tmp_path: Path, patient: Patient) -> None:
    patients.simulate_cohort(WORLD, [patient.code], tmp_path, observed=True)
    image = tmp_path / "raw" / patient.code / f"{patient.code}_FLAIR.nii.gz"
    stored, written = load(image), image.stat().st_mtime_ns
    apart = np.abs(stored.data - patient.images["FLAIR"]).max()
    assert apart < patient.scanner.noise_level("FLAIR")
    patients.simulate_cohort(WORLD, [patient.code], tmp_path, observed=True)
    assert image.stat().st_mtime_ns == written
    lesions = lesion_crops.read_simulated(tmp_path, [patient.code], 8)
    truth = [patient.lesions[number - 1].active for number in lesions.table["lesion"]]
    assert lesions.active.tolist() == truth
    assert all(set(one) == set(lesions.table["log_odds"][0]) for one in lesions.table["log_odds"])


def test_a_tree_of_real_patients_is_read_alike(tmp_path: Path, patient: Patient) -> None:
    folder = tmp_path / "Center_01" / "Patient_01"
    for role, name in ROLES.items():
        path = folder / "Preprocessed_Data" / f"{name}_preprocessed.nii.gz"
        save(path, patient.images[role], patient.head.affine)
    save(folder / "Masks" / "Consensus.nii.gz", patient.outlines() > 0, patient.head.affine)
    (subject,) = manifest_from_folder(tmp_path).cohort().subjects
    found = lesion_crops.read_real({subject.code: subject.images}, WORLD.voxel_mm, 8)
    assert 0.6 * len(patient.lesions) < len(found) <= len(patient.lesions)
    assert found.active.any()
    assert set(found.table["patient"]) == {"Center01Patient01"}
    without = {role: path for role, path in subject.images.items() if role != POST}
    with pytest.raises(AnkleError, match="has no T1w_post: this chapter needs images before and"):
        lesion_crops.read_real({subject.code: without}, WORLD.voxel_mm, 8)


def test_a_skull_is_taken_off_by_a_mask(tmp_path: Path, patient: Patient) -> None:
    paths = {}
    for role in ROLES:
        full = patient.images[role] + 10 * float(patient.images[role].max()) * ~patient.head.brain
        paths[role] = save(tmp_path / f"{role}.nii.gz", full, patient.head.affine)
    for role, mask in (("lesions", patient.outlines()), ("brain", patient.head.brain)):
        paths[role] = save(tmp_path / f"{role}.nii.gz", mask, patient.head.affine)
    found = lesion_crops.read_real({"A": paths}, WORLD.voxel_mm, 8)
    assert len(found) > 0
    del paths["brain"]
    with pytest.raises(AnkleError, match="take the skull off"):
        lesion_crops.read_real({"A": paths}, WORLD.voxel_mm, 8)
