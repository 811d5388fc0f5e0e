"""Frames rendered of a template of bones."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.dynamic.repainting import JOINT, N_SOFT, painted
from ankle_lib.dynamic.template import (
    draw_frame_contrast,
    dress,
    read_template,
    template_frames,
)
from ankle_lib.files import AnkleError
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, save
from tests.dynamic.ellipsoid_foot import ELLIPSOIDS, ellipsoid_foot, volume_cm3


@pytest.fixture(scope="module")
def bones() -> dict[str, Volume]:
    affine = np.array([[0, 0, 1.5, 0], [-1.5, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    return {b: Volume(m.astype(np.uint8), affine) for b, m in ellipsoid_foot().item.labels.items()}


def test_the_template_is_dressed(bones):
    tissues = dress(bones, np.random.default_rng(0))
    for bone, (_, axes) in ELLIPSOIDS.items():
        inside = tissues.bones[bone]
        assert (tissues.foot & inside).sum() == inside.sum()
        if bone != "tibia":
            assert inside.sum() == pytest.approx(4 / 3 * np.pi * np.prod(axes), rel=0.03)
    # the shaft goes on above the template's end
    section = tissues.bones["tibia"].sum(axis=(0, 2))
    assert (section[-30:] == section[-31]).all()
    assert section[-31] > 100
    # air beside the foot, and no bone at the skin
    assert not tissues.foot[:, :, [0, -1]].any()
    assert set(np.unique(tissues.classes)) == set(range(N_SOFT + 2))
    signal = painted(tissues, draw_frame_contrast(np.random.default_rng(0)))
    middle = {bone: np.median(signal[mask]) for bone, mask in tissues.bones.items()}
    muscle = np.median(signal[tissues.classes == 3])
    assert middle["calcaneus"] == pytest.approx(muscle, rel=0.25)
    assert np.median(signal[tissues.classes == JOINT]) > 1.15 * muscle
    rim = tissues.bones["talus"] & (tissues.depth_mm < 0.6)
    assert np.median(signal[rim]) < 0.4 * muscle


def test_the_template_is_rendered_as_frames(bones):
    frames = template_frames(bones, 2, pixel_mm=2.5)
    for frame in frames:
        assert frame.code == "template"
        assert frame.scan.voxel_size_mm == (2.5, 2.5, 8.0)
        assert volume_cm3(frame.scan, "calcaneus") == pytest.approx(21.2, rel=0.25)
        assert all(mask.any() for mask in frame.truth.values())
    assert frames[0].scan.checksum != frames[1].scan.checksum


def test_bones_on_different_grids_are_refused(bones, tmp_path):
    for bone, volume in bones.items():
        data = volume.data[:, :, :-1] if bone == "talus" else volume.data
        save(tmp_path / f"{bone}.nii.gz", data, volume.affine)
    with pytest.raises(AnkleError, match="must share one grid"):
        read_template(tmp_path)
    save(tmp_path / "talus.nii.gz", bones["talus"].data, bones["talus"].affine)
    assert set(read_template(tmp_path)) == set(BONES)
