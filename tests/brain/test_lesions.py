"""Lesions: their numbers, sizes and places are those measured; their parts fit together."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.brain import lesions
from ankle_lib.brain.heads import make_head
from ankle_lib.brain.lesions import Lesion
from ankle_lib.brain.template import CSF


@pytest.fixture(scope="module")
def head():
    return make_head(np.random.default_rng(5), 2.0)


@pytest.fixture(scope="module")
def drawn(head):
    rng = np.random.default_rng(0)
    return [lesions.draw_lesions(head, rng, smallest_mm3=0.0) for _ in range(80)]


def one_lesion(form: str = "even", active: bool = True, **changes) -> Lesion:
    values = {"centre": (40, 50, 20), "volume_mm3": 600.0, "side": 0, "scatter": (0.0, 0.0)}
    values |= {"halo_mm": 1.5, "agent": 0.15} | changes
    return Lesion(active=active, form=form, **values)


def test_numbers_and_volumes_are_those_measured(drawn) -> None:
    counts = [len(one) for one in drawn]
    for share, low, high in ((25, 17, 39), (50, 58, 92), (75, 92, 122)):
        assert low < np.percentile(counts, share) < high
    volumes = np.log([lesion.volume_mm3 for one in drawn for lesion in one])
    assert volumes.mean() == pytest.approx(3.27, abs=0.1)
    assert volumes.std() == pytest.approx(1.37, abs=0.1)


def test_the_load_lies_about_the_ventricles(drawn, head) -> None:
    every = [lesion for one in drawn for lesion in one]
    distance = np.array([head.to_ventricles_mm[lesion.centre] for lesion in every])
    load = np.array([lesion.volume_mm3 for lesion in every])
    for within, share in ((5, 0.29), (10, 0.56), (20, 0.92)):
        assert load[distance <= within].sum() / load.sum() == pytest.approx(share, abs=0.1)


def test_a_seventh_is_active_and_patients_differ(drawn) -> None:
    rates = [np.mean([lesion.active for lesion in one]) for one in drawn]
    assert lesions.PREVALENCE == pytest.approx(0.15)
    assert np.mean(rates) == pytest.approx(0.15, abs=0.06)
    assert np.std(rates) > 0.12  # Beta(.45, 2.55): many have none, some have many


def test_halos_do_not_touch(drawn, head) -> None:
    for one in drawn[:10]:
        centres = np.array([lesion.centre for lesion in one]) * head.voxel_mm
        radii = np.array([lesion.radius_mm for lesion in one])
        apart = np.linalg.norm(centres[:, None] - centres, axis=-1) - radii[:, None] - radii
        assert apart[np.triu_indices(len(one), 1)].min() > lesions.GAP_MM


def test_scatter_has_its_covariance() -> None:
    rng = np.random.default_rng(1)
    made = [lesions.draw_lesion(rng, (0, 0, 0), 50.0, True) for _ in range(3000)]
    found = np.cov(np.array([one.scatter for one in made]).T)
    np.testing.assert_allclose(found, lesions.scatter_covariance(), rtol=0.12)
    shares = {form: np.mean([one.form == form for one in made]) for form in lesions.FORMS}
    assert shares["ring"] == pytest.approx(0.23, abs=0.03)
    assert shares["hollow"] == 0


@pytest.mark.parametrize("form", lesions.FORMS)
def test_parts_of_a_lesion_fit_together(head, form: str) -> None:
    lesion = one_lesion(form)
    shape = lesions.shape_of(head, lesion, np.random.default_rng(2))
    parts = [amount for amount, _ in lesions.parts_of(shape, lesion)]
    for amount in parts:
        assert amount.min() > -1e-6
    total = np.sum(parts, axis=0)
    assert total.max() < 1 + 1e-5
    np.testing.assert_allclose(parts[0] + parts[1], shape.core, atol=1e-6)
    if form == "even":
        np.testing.assert_allclose(parts[0], shape.core)
    else:
        assert 0.03 < parts[0].sum() / shape.core.sum() < 0.9
    assert parts[2].sum() > 0
    assert not total[head.fractions[CSF][shape.box] == 1].any()  # none in the ventricle


def test_a_ring_is_outside_and_a_hollow_inside(head) -> None:
    shape = lesions.shape_of(head, one_lesion(volume_mm3=2000.0), np.random.default_rng(2))
    middle = shape.depth_mm < 0.6 * shape.depth_mm.min()
    assert shape.activated("ring")[middle].max() == 0
    np.testing.assert_allclose(shape.activated("hollow")[middle], shape.core[middle])
    arcs = [shape.activated("arc", side).sum() for side in range(6)]
    ring = shape.activated("ring").sum()
    assert all(0.25 * ring < arc < 0.75 * ring for arc in arcs)
    assert arcs[0] + arcs[1] == pytest.approx(ring, rel=0.02)  # opposite sides


def test_an_outline_has_about_its_volume(head) -> None:
    rng = np.random.default_rng(4)
    wanted = 300.0
    shapes = [lesions.shape_of(head, one_lesion(volume_mm3=wanted), rng) for _ in range(20)]
    found = [shape.core.sum() * head.voxel_mm**3 for shape in shapes]
    assert np.mean(found) == pytest.approx(wanted, rel=0.15)


def test_tissue_of_an_even_lesion() -> None:
    active, chronic = one_lesion(), one_lesion(active=False, scatter=(0.1, 0.2))
    assert np.exp(active.ln_times) == pytest.approx((1.33, 130))
    assert np.exp(chronic.ln_times) == pytest.approx((1.18 * np.exp(0.1), 110 * np.exp(0.2)))
