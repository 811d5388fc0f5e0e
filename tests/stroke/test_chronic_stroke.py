from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from ankle_lib.manifest.layouts import scan_folder
from ankle_lib.metrics import dice
from ankle_lib.stroke import chronic_stroke as cs
from ankle_lib.volume import load

COARSE = {"voxel_mm": 4.5, "z_mm": (0.0, 45.0)}


@pytest.fixture(scope="module")
def patients() -> list[cs.StrokePatient]:
    made = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        made.append(cs.make_patient(rng, COARSE["voxel_mm"], COARSE["z_mm"]))
    return made


def test_volumes_and_places_are_those_that_were_asked_for() -> None:
    rng = np.random.default_rng(1)
    people = [cs.draw_strokes(rng) for _ in range(3000)]
    totals = np.array([sum(one.volume_ml for one in own) for own in people])
    assert np.median(totals) == pytest.approx(cs.MEDIAN_ML, rel=0.1)
    inner = np.log(totals[(totals > 0.2) & (totals < 300)])
    assert inner.std() == pytest.approx(1.75, abs=0.15)  # the tails are cut here
    assert cs.SMALLEST_ML <= totals.min()
    assert totals.max() <= cs.LARGEST_ML * 1.01
    assert 0.25 < np.mean([len(own) > 1 for own in people]) < 0.32
    single = [own[0] for own in people if len(own) == 1]
    shares = {t: np.mean([one.territory is t for one in single]) for t in
              (cs.MIDDLE, cs.POSTERIOR, cs.SUBCORTICAL)}  # fmt: skip
    assert shares[cs.MIDDLE] == pytest.approx(0.70, abs=0.05)
    assert shares[cs.POSTERIOR] == pytest.approx(0.10, abs=0.03)
    assert shares[cs.SUBCORTICAL] == pytest.approx(0.20, abs=0.05)
    lacunes = [one for own in people for one in own if one.territory is cs.SUBCORTICAL]
    assert max(one.volume_ml for one in lacunes) < cs.LACUNE_ML
    assert np.mean([one.cavitated for one in lacunes]) == pytest.approx(0.61, abs=0.06)


def test_a_lesion_is_one_piece_in_its_territory(patients) -> None:
    for patient in patients:
        stroke = patient.strokes[0]
        own = cs.outline(patient.head, stroke, np.zeros_like(patient.lesion),
                         np.random.default_rng(3))  # fmt: skip
        assert ndimage.label(own)[1] == 1
        x = patient.head.template_mm[0][own]
        assert (np.sign(x) == stroke.side).all()
        voxel_ml = patient.head.voxel_mm**3 / 1000
        assert voxel_ml / 2 <= own.sum() * voxel_ml <= stroke.volume_ml + voxel_ml


def test_fractions_stay_fractions_and_lesions_are_cavity_and_rim(patients) -> None:
    for patient in patients:
        total = patient.fractions.sum(axis=0)
        assert np.allclose(total[patient.head.brain], 1, atol=1e-4)
        assert len(patient.fractions) == len(patient.tissues)
        last = [n for n, name in enumerate(patient.tissues) if n > 3]
        inside = patient.fractions[last].sum(axis=0) > 0.5
        assert not (inside & ~ndimage.binary_dilation(patient.lesion)).any()


def test_lesions_are_dark_in_white_matter(patients) -> None:
    rng = np.random.default_rng(0)
    large = max(patients, key=lambda one: one.lesion.sum())
    image = cs.scan(large, rng)
    cavity = large.fractions[[n for n, name in enumerate(large.tissues) if name == "cavity"]]
    white = large.head.fractions[0] > 0.9
    assert image[cavity.sum(axis=0) > 0.9].mean() < 0.6 * image[white & ~large.lesion].mean()


def test_the_other_scanner_is_noisier(patients) -> None:
    patient = patients[0]
    own, other = (cs.scan(patient, np.random.default_rng(0), other=one) for one in (False, True))
    deep = (patient.head.fractions[0] > 0.95) & ~patient.lesion

    def roughness(image: np.ndarray) -> float:
        rough = image - ndimage.median_filter(image, 3)
        return float(rough[deep].std() / image[deep].mean())

    assert roughness(other) > 1.5 * roughness(own)


def test_the_second_rater_agrees_more_on_large_lesions() -> None:
    head = SimpleNamespace(brain=np.ones((50, 50, 50), dtype=bool), voxel_mm=1.5)
    away = np.linalg.norm(np.indices(head.brain.shape).T - 24.5, axis=-1).T * head.voxel_mm

    def agreement(radius_mm: float) -> list[float]:
        own = SimpleNamespace(head=head, lesion=away < radius_mm)
        raters = (cs.second_rater(own, np.random.default_rng(seed)) for seed in range(6))
        return [dice(mask, own.lesion) for mask in raters]

    small, large = agreement(4.0), agreement(25.0)
    assert 0.85 < np.mean(large) < 0.99
    assert np.mean(small) < np.mean(large) - 0.1
    assert min(small) == 0  # a ball of 0.3 ml is overlooked by some


def test_files_are_written_once_in_the_layout_of_atlas(tmp_path: Path) -> None:
    cs.simulate_strokes(["s001", "s002"], tmp_path, **COARSE)
    scan = scan_folder(tmp_path)
    assert scan.layout == "atlas"
    assert [one.code for one in scan.subjects] == ["s001ses1", "s001ses2", "s002ses1", "s002ses2"]
    assert all(set(one.images) == {"T1w", "lesions"} for one in scan.subjects)
    assert len(scan.unrecognised) == 2  # of the second rater
    first = cs.file_of(tmp_path, "s001", 1, "T1w")
    before = first.stat().st_mtime_ns
    cs.simulate_strokes(["s001"], tmp_path, **COARSE)
    assert first.stat().st_mtime_ns == before
    content = load(first).data
    first.unlink()
    cs.simulate_strokes(["s001"], tmp_path, **COARSE)
    assert (load(first).data == content).all()
    other = load(cs.file_of(tmp_path, "s002", 1, "T1w"))
    assert not np.array_equal(other.data, content)
