"""Static scans painted anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ankle_lib.learning.random_scans import (
    JOINT,
    N_SOFT,
    Contrast,
    ScanRanges,
    Tissues,
    draw_contrast,
    painted,
    random_scans,
    take,
    tissues_of,
)
from ankle_lib.learning.scans import Scan
from ankle_lib.presets import BONES
from tests.dynamic.ellipsoid_foot import ELLIPSOIDS, ellipsoid, ellipsoid_foot, volume_cm3

PLAIN = ScanRanges(
    ankle_deg=0,
    bone_deg=0,
    bone_mm=0,
    tilt_deg=0,
    shift_mm=0,
    scale=1,
    mirrored=0,
    cut=0,
    thick=0,
    thin_mm=(1.5, 1.5),
    smooth_profile=0,
    sharpness=(1, 1),
    shading=(0, 0),
    noise=(0, 0),
    black_air=0,
)
NAMES = ("T01", "control", "random")
FLAT = Contrast((0.5,) * N_SOFT, 0.5, (0.5,) * 3, 0.5, 0, 0, 0)


@pytest.fixture(scope="module")
def scan() -> Scan:
    return ellipsoid_foot()


def test_scans_are_normalised_and_the_same_from_the_same_seed(scan):
    made = [random_scans(scan, 4, np.random.default_rng(3), pixel_mm=2.5) for _ in range(2)]
    for one, again in zip(*made, strict=True):
        assert one.checksum == again.checksum
        assert one.group == "control"
        assert one.code == "T01"
        assert one.pixel_mm == 2.5
        assert set(one.item.labels) == set(BONES)
        inside = one.item.image[one.item.region]
        assert inside.mean() == pytest.approx(0, abs=1e-4)
        assert inside.std() == pytest.approx(1, abs=1e-3)
    assert len({one.checksum for one in made[0]}) == 4
    assert len({one.voxel_size_mm[2] for one in made[0]}) == 4


def test_without_any_change_bones_stay_where_they_were(scan):
    made = random_scans(scan, 1, np.random.default_rng(0), pixel_mm=1.5, ranges=PLAIN)[0]
    for bone, (middle, _) in ELLIPSOIDS.items():
        found = np.argwhere(made.item.labels[bone]).mean(axis=0) * 1.5
        # the grid starts within half a voxel of the static scan's
        assert np.abs(found - middle).max() < 1.2
        assert volume_cm3(made, bone) == pytest.approx(volume_cm3(scan, bone), rel=0.03)


def test_bones_are_rigid_in_a_bent_ankle(scan):
    bent = replace(PLAIN, ankle_deg=25, bone_deg=4, tilt_deg=15)
    rng = np.random.default_rng(1)
    for made in random_scans(scan, 3, rng, pixel_mm=1.5, ranges=bent):
        for bone in BONES:
            assert volume_cm3(made, bone) == pytest.approx(volume_cm3(scan, bone), rel=0.05)
            spread = np.linalg.eigvalsh(np.cov(np.argwhere(made.item.labels[bone]).T)) ** 0.5 * 1.5
            expected = np.sort(ELLIPSOIDS[bone][1]) / 5**0.5
            np.testing.assert_allclose(spread, expected, rtol=0.06)


def test_the_ankle_bends_as_far_as_allowed(scan):
    def heel_angle(made: Scan) -> float:
        talus, calcaneus = (
            np.argwhere(made.item.labels[b]).mean(axis=0) for b in ("talus", "calcaneus")
        )
        along = calcaneus - talus
        return float(np.rad2deg(np.arctan2(along[1], along[0])))

    rest = heel_angle(scan)
    bent = replace(PLAIN, ankle_deg=25)
    made = random_scans(scan, 12, np.random.default_rng(2), pixel_mm=2.5, ranges=bent)
    turns = np.array([heel_angle(one) - rest for one in made])
    assert np.abs(turns).max() < 27
    assert turns.max() > 8
    assert turns.min() < -8


def slanted() -> Tissues:
    """Foot on one side of a plane at 45 degrees to the slices, three small bones within it."""
    points = np.moveaxis(np.indices((60, 20, 60)), 0, -1) * 1.0
    foot = points[..., 0] < points[..., 2]
    bones = {
        bone: ellipsoid(points, (8 + 6 * n, 10, 50), (2.5, 5, 5)) for n, bone in enumerate(BONES)
    }
    empty = np.zeros(foot.shape, np.float32)
    return Tissues((1.0, 1.0, 1.0), foot.astype(np.uint8), empty, empty - 1, bones, foot, 0)


@pytest.mark.parametrize(
    ("thickness", "smooth", "low", "high"),
    [(1.0, 0, 0.5, 2.5), (8.0, 0, 5.4, 7.4), (8.0, 1, 7.7, 9.7)],
)
def test_slices_are_means_over_their_thickness(thickness, smooth, low, high):
    ranges = replace(PLAIN, thick=1, thick_mm=(thickness, thickness), smooth_profile=smooth)
    made = take(slanted(), FLAT, ranges, np.random.default_rng(0), 1.0, NAMES)
    assert made.voxel_size_mm == (1.0, 1.0, thickness)
    middle = made.item.image[:, 10, :]
    share = (middle - middle.min()) / (middle.max() - middle.min())
    inner = share[:, np.abs((share > 0.5).mean(axis=0) - 0.5) < 0.2]
    assert inner.shape[1] > 1
    # of an edge at 45 degrees, a box shows the part from 0.1 to 0.9 over 0.8 thicknesses
    width = ((inner > 0.1) & (inner < 0.9)).sum(axis=0).mean()
    assert low < width < high


def test_half_of_the_feet_are_of_the_other_side(scan):
    def medial(made: Scan) -> float:
        talus, calcaneus = (
            np.argwhere(made.item.labels[b]).mean(axis=0) for b in ("talus", "calcaneus")
        )
        return float((talus - calcaneus)[2])

    assert medial(scan) > 0
    other = random_scans(
        scan, 1, np.random.default_rng(0), pixel_mm=2.5, ranges=replace(PLAIN, mirrored=1)
    )
    assert medial(other[0]) < 0


def test_noise_and_shading_are_those_asked_for(scan):
    tissues = tissues_of(scan)

    def image(**changes) -> np.ndarray:
        ranges, rng = replace(PLAIN, **changes), np.random.default_rng(0)
        item = take(tissues, replace(FLAT, soft=(0.4,) * N_SOFT), ranges, rng, 1.5, NAMES).item
        shown = item.image - item.image.min()
        return (shown / shown[item.region].mean())[20:60, 20:60, 20:40]

    noise = image(noise=(0.1, 0.1)) - image()
    assert noise.std() == pytest.approx(0.1, rel=0.2)
    plain = image()
    shading = image(shading=(0.5, 0.5))[plain > 0.5] / plain[plain > 0.5]
    assert shading.max() / shading.min() > 1.3
    blurred = np.abs(np.diff(image(sharpness=(0.5, 0.5)), axis=0)).max()
    assert blurred < 0.9 * np.abs(np.diff(image(), axis=0)).max()


def test_what_a_threshold_left_out_belongs_to_the_foot(scan):
    middle, axes = ELLIPSOIDS["talus"]
    points = np.moveaxis(np.indices(scan.item.image.shape), 0, -1) * 1.5
    shell = ellipsoid(points, middle, axes) & ~ellipsoid(points, middle, np.array(axes) - 3)
    tendon = np.abs(points[..., 0] - 70) < 2
    thresholded = replace(scan.item, region=scan.item.region & ~shell & ~tendon)
    tissues = tissues_of(replace(scan, item=thresholded))
    assert tissues.foot[scan.item.region].mean() > 0.99
    assert tissues.foot.sum() < 1.02 * scan.item.region.sum()
    item = take(tissues, FLAT, PLAIN, np.random.default_rng(0), 1.5, NAMES).item
    assert item.region.sum() == pytest.approx(scan.item.region.sum(), rel=0.05)


def test_the_region_is_what_is_brighter_than_a_threshold(scan):
    tissues = tissues_of(scan)
    dark = replace(FLAT, bones=(0.5, 0.0, 0.5))
    item = take(tissues, dark, PLAIN, np.random.default_rng(0), 1.5, NAMES).item
    inside = {bone: item.region[mask].mean() for bone, mask in item.labels.items()}
    assert inside["talus"] < 0.2
    assert min(inside["calcaneus"], inside["tibia"]) > 0.95


def test_bones_are_drawn_by_their_cortex_where_all_is_alike():
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = draw_contrast(ScanRanges(alike=1, same_marrow=1), 3, rng)
        assert drawn.cortex <= 0.2
        assert drawn.cortex_mm >= 0.8
        np.testing.assert_allclose(drawn.bones, drawn.soft[2], rtol=0.8)
    free = [draw_contrast(ScanRanges(alike=0, same_marrow=0), 3, rng) for _ in range(50)]
    darker = [one.bones[0] < one.soft[2] for one in free]
    assert 10 < sum(darker) < 40


def test_attenuation_makes_cortex_brightest_and_fat_darkest():
    rng = np.random.default_rng(0)
    drawn = [draw_contrast(ScanRanges(ct=1, same_marrow=0), 3, rng) for _ in range(50)]
    for one in drawn:
        *others, fat = one.soft
        assert one.cortex > max(one.bones) > fat
        assert fat < min(*others, one.joint)
    assert np.ptp([one.soft[2] for one in drawn]) < 0.15, "what is soft is alike"


# --- what a foot is made of ---


def test_a_scan_is_told_apart_without_labels_of_soft_tissue(scan):
    tissues = tissues_of(scan)
    muscle, fat = int(tissues.classes[62, 40, 20]), int(tissues.classes[20, 20, 30])
    assert 0 < muscle < fat
    assert (tissues.classes[~tissues.foot] == 0).all()
    assert (tissues.classes == JOINT).any()
    assert tissues.depth_mm[scan.item.labels["talus"]].min() > 0
    assert muscle < tissues.marrow_class + 1 <= fat


def test_cortex_is_as_thick_as_asked_for(scan):
    tissues = tissues_of(scan)
    bone = scan.item.labels["tibia"]
    bright = replace(FLAT, bones=(1.0, 1.0, 1.0), cortex=0.0)
    loss = [1 - painted(tissues, replace(bright, cortex_mm=t))[bone].mean() for t in (0, 1.0, 2.0)]
    assert loss[0] == 0
    # a rim of thickness t takes about 3 t / r of an ellipsoid's volume
    surface = np.mean([3 / axis for axis in ELLIPSOIDS["tibia"][1]])
    assert loss[2] == pytest.approx(2.0 * surface, rel=0.4)
    assert 0.3 < loss[1] / loss[2] < 0.7


def test_red_marrow_lies_behind_a_growth_plate(scan):
    tissues = tissues_of(scan)
    bright = replace(FLAT, bones=(1.0, 1.0, 1.0), joint=3.0)
    plates = ((0.5, 0.1),) * 3
    red = painted(tissues, replace(bright, red=0.25, red_mm=10.0, plates=plates))
    for bone in BONES:
        places = np.argwhere(scan.item.labels[bone])
        through, towards = places[[len(places) // 2, len(places) // 10]]
        behind = (places - through) @ (towards - through)
        values = red[scan.item.labels[bone]]
        assert (values[behind <= 0] == 1).all()
        assert values[behind > 0].max() < 1
        assert values.min() == pytest.approx(0.25, abs=0.1)  # at the plate
        order = np.argsort(behind[behind > 0])
        assert (np.diff(values[behind > 0][order]) >= -1e-6).all()  # fades away from it
    plate = painted(tissues, replace(bright, plate_mm=3.0, plates=plates))
    assert {1.0, 3.0} == set(np.unique(plate[scan.item.labels["talus"]]).tolist())
