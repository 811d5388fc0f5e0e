from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ankle_lib.figures.reconstruction import (
    Still,
    reconstruction_animation,
    reconstruction_filmstrip,
)
from ankle_lib.files import AnkleError
from ankle_lib.volume import resample
from tests.toy_motion import Motion, motion


@pytest.fixture(scope="module")
def scene() -> Motion:
    return motion()


@pytest.fixture(scope="module")
def stills(scene: Motion) -> list[Still]:
    return [
        Still(n, resample(scene.frames.frame(n), sharp.shape, sharp.affine, order=0), sharp)
        for n, sharp in enumerate(scene.truth)
    ]


def test_the_filmstrip_shows_both_planes_of_both(stills: list[Still]) -> None:
    figure = reconstruction_filmstrip(stills)
    assert len(figure.axes) == 4 * len(stills)
    assert figure.axes[0].get_title() == "frame 0"
    shown = [axes.images[0].get_array() for axes in figure.axes]
    k = stills[0].sharp.shape[2] // 2
    np.testing.assert_array_equal(shown[0], stills[0].measured.data[:, :, k].T)
    np.testing.assert_array_equal(shown[3], stills[1].sharp.data[:, :, k].T)
    with pytest.raises(AnkleError, match="found none"):
        reconstruction_filmstrip([])


def test_the_animation_is_small_and_runs(tmp_path: Path, stills: list[Still]) -> None:
    from PIL import Image

    path = reconstruction_animation(tmp_path / "a.gif", stills)
    with Image.open(path) as film:
        assert film.n_frames == 2  # type: ignore[attr-defined]
        assert film.info["loop"] == 0
        assert film.size[0] > film.size[1] / 2
    assert path.stat().st_size < 300_000
    with pytest.raises(AnkleError, match="at least one frame"):
        reconstruction_animation(tmp_path / "b.gif", [])
