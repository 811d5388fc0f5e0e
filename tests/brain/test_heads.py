"""The template, and persons made of it."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.brain.heads import make_head, smooth_noise
from ankle_lib.brain.template import CSF, WM, read_template
from ankle_lib.files import AnkleError


def small_head(seed: int = 0, **options):
    return make_head(np.random.default_rng(seed), 4.0, **options)


def test_the_template_is_alike_on_both_sides_and_its_ventricles_are_lateral() -> None:
    template = read_template()
    assert template.fractions.shape == (3, 197, 233, 189)
    np.testing.assert_array_equal(template.fractions, template.fractions[:, ::-1])
    total = template.fractions.sum(0)
    np.testing.assert_allclose(total[total > 0], 1, atol=1e-5)
    sides = np.argwhere(template.ventricles)[:, 0] + template.affine[0, 3]
    assert (sides != 0).all()
    assert (sides < 0).sum() == (sides > 0).sum()
    assert 10_000 < len(sides) < 30_000  # 10 to 30 ml


def test_a_person_is_not_alike_on_both_sides() -> None:
    head = small_head()
    inside = head.fractions[:, 5:-5]
    mirrored = np.abs(inside - inside[:, ::-1])[:, head.brain[5:-5]].mean()
    assert mirrored > 0.05  # asymmetric: else any lesion would give itself away
    total = head.fractions.sum(0)
    np.testing.assert_allclose(total[head.brain], 1, atol=1e-5)
    assert not total[~head.brain].any()


def test_the_warp_does_not_fold() -> None:
    head = make_head(np.random.default_rng(3), 2.5)
    steps = np.stack([np.stack(np.gradient(axis, 2.5)) for axis in head.template_mm])
    determinant = np.linalg.det(np.moveaxis(steps, (0, 1), (-2, -1)))
    assert determinant.min() > 0.2


def test_people_differ_and_the_seed_decides() -> None:
    first, again, other = small_head(1), small_head(1), small_head(2)
    np.testing.assert_array_equal(first.fractions, again.fractions)
    assert np.abs(first.fractions - other.fractions).mean() > 0.01


def test_a_ventricle_grows_on_its_side_only() -> None:
    plain, grown = (
        make_head(np.random.default_rng(0), 2.0, ventricles=(1.0, factor)) for factor in (1.0, 1.4)
    )
    right = plain.template_mm[0] > 5

    def volume(head, side):
        return ((head.to_ventricles_mm == 0) & side).sum()

    assert volume(grown, right) > 1.3 * volume(plain, right)
    left = plain.template_mm[0] < -5
    assert abs(volume(grown, left) / volume(plain, left) - 1) < 0.15


def test_the_whole_brain_and_wrong_sizes() -> None:
    whole = small_head(z_mm=None)
    assert whole.brain.shape[2] > small_head().brain.shape[2]
    assert whole.brain.sum() * 64 == pytest.approx(1_880_000, rel=0.1)  # mm3
    assert whole.fractions[WM].sum() > whole.fractions[CSF].sum()
    with pytest.raises(AnkleError, match="first height below the second"):
        small_head(z_mm=(60.0, -20.0))
    with pytest.raises(AnkleError, match="no ventricle"):
        small_head(z_mm=(60.0, 80.0))


def test_smooth_noise_has_unit_variance_and_its_grain() -> None:
    rng = np.random.default_rng(0)
    spread = [smooth_noise((60, 60, 60), 2.0, 15.0, rng).std() for _ in range(4)]
    assert np.mean(spread) == pytest.approx(1, abs=0.1)
    one = smooth_noise((60, 60, 60), 2.0, 15.0, rng)
    assert np.abs(np.diff(one, axis=0)).mean() < 0.3  # neighbours are alike
