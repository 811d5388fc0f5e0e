"""The script of the picture, run by node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ankle_lib.widgets.browser import PictureCanvas

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
