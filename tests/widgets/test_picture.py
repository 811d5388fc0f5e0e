"""Slices as pixels of the screen."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ankle_lib.figures.images import slice_of
from ankle_lib.volume import Volume
from ankle_lib.widgets.picture import (
    Layer,
    PictureCanvas,
    annotate,
    brightness_limits,
    fit_size,
    paint,
)
from tests.widgets.drawn import (
    AFFINE,
    MASK,
    SHAPE,
    TALUS,
    image,
)


def test_pictures_have_true_proportions() -> None:
    coronal = slice_of(image(), "coronal", 3)  # 6 slices of 8 mm, 40 rows of 1 mm
    assert fit_size(coronal, 96) == (96, 80)
    assert fit_size(coronal, 96, longest_mm=96.0) == (48, 40)
    assert fit_size(slice_of(image(), "sagittal", 3), 80) == (60, 80)
    drawn = paint(coronal, (96, 80), (100, 400))
    assert drawn.shape == (80, 96, 3)
    np.testing.assert_array_equal(drawn[0, 0], drawn[0, 15])  # one thick slice is 16 pixels wide
    assert (drawn[0, 0] != drawn[0, 16]).any()


def test_intensities_and_layers_become_colours() -> None:
    shown = slice_of(Volume(np.full(SHAPE, 150.0), AFFINE), "sagittal", 2)
    mask = slice_of(MASK, "sagittal", 2).image
    grey = paint(shown, (30, 40), (100, 200))
    assert np.unique(grey).tolist() == [127]
    drawn = paint(shown, (30, 40), (100, 200), [Layer(mask, "#009E73", 0.5)])
    assert tuple(drawn[39 - 24, 5]) == TALUS  # a corner of the outline, rows downward
    middle = np.array(drawn[39 - 17, 10], dtype=float)
    np.testing.assert_allclose(middle, (127 + np.array(TALUS)) / 2, atol=1)
    assert (drawn.min(axis=2) == 127).sum() == 30 * 40 - mask.sum()
    lettered = annotate(grey, shown)
    assert (lettered != grey).any(axis=2).sum() > 30


def test_limits_for_images_of_any_sign() -> None:
    random = np.random.default_rng(0)
    assert brightness_limits(np.zeros(10)) == (0.0, 1.0)
    low, high = brightness_limits(random.normal(0, 1, 10_000))
    assert -3 < low < -2 < 2 < high < 3
    data = random.uniform(0, 100, 10_000)
    data[:10] = np.nan
    assert brightness_limits(data) == pytest.approx((0, 99.5), abs=0.5)
    assert brightness_limits(np.full(5, -3.0)) == (-3.0, -2.0)


# --- its script, run by node ---

CANVAS_TEST = """
import canvas from "./canvas.mjs";
const listeners = {}, changes = {}, sent = [], urls = [];
const image = {
  style: {}, addEventListener: (kind, f) => { listeners[kind] = f; },
  getBoundingClientRect: () => ({ left: 10, top: 20, width: 100, height: 50 }),
};
globalThis.document = { createElement: () => image };
globalThis.Blob = class {};
globalThis.URL = {
  createObjectURL: () => { urls.push("made"); return "blob:" + urls.length; },
  revokeObjectURL: () => { urls.push("gone"); },
};
const values = { picture: 1, size_px: [300, 200], text: "frame" };
const model = {
  get: (name) => values[name], send: (message) => sent.push(message),
  on: (name, f) => { changes[name] = f; }, off: (name) => { delete changes[name]; },
};
const stop = canvas.render({ model, el: { appendChild: () => {} } });
for (let n = 0; n < 9; n++) listeners.mousemove({ clientX: 10 + n, clientY: 45 });
listeners.click({ clientX: 60, clientY: 20 });
await new Promise((done) => setTimeout(done, 120));
listeners.mousemove({ clientX: 60, clientY: 45 });
listeners.mouseleave({ clientX: 500, clientY: 45 });
await new Promise((done) => setTimeout(done, 120));
values.size_px = [30, 20];
changes["change"]();
const shown = [image.src, image.width, image.height, image.alt];
stop();
console.log(JSON.stringify([sent, shown, urls, Object.keys(changes).length]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_sends_places_but_not_too_many(tmp_path: Path) -> None:
    (tmp_path / "canvas.mjs").write_text(str(PictureCanvas._esm))
    (tmp_path / "test.mjs").write_text(CANVAS_TEST)
    done = subprocess.run(["node", str(tmp_path / "test.mjs")], capture_output=True, text=True)
    click, move, leave = (
        '{"kind":"click","x":0.5,"y":0}',
        '{"kind":"move","x":0.08,"y":0.5}',
        '{"kind":"leave","x":1,"y":0.5}',
    )
    urls = '["made","made","gone","gone"]'
    expected = f'[[{click},{move},{leave}],["blob:2",30,20,"frame"],{urls},0]'
    assert done.stdout.strip() == expected, done.stderr
