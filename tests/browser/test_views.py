"""The viewer and the player in JupyterLab: slide, play, point, click."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.browser.lab import Person, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CELLS = [
    """\
import numpy as np
from ankle_lib.volume import Volume
from ankle_lib.widgets import PatchExplorer, SequencePlayer, VolumeViewer
from tests.toy_ankle import toy_ankle

ankle = toy_ankle()
masks = {name: Volume(mask.data > 0, mask.affine) for name, mask in ankle.masks.items()}""",
    "viewer = VolumeViewer(ankle.static, masks)\nviewer",
    """\
from ankle_lib.registration import moved_mask
shape, affine = ankle.sequence.shape, ankle.sequence.affine
moved = {
    name: [moved_mask(mask, np.eye(4), shape, affine)] * 3 for name, mask in masks.items()
}
player = SequencePlayer(ankle.sequence, ankle.sequence, moved)
player""",
]


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path = tmp_path / "course" / "views.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_slide_play_and_point(person: Person, notebook: Path, tmp_path: Path) -> None:
    with serve(notebook.parent, tmp_path / "home") as lab:
        person.open(lab.address(notebook.name))
        person.run_all(120)
        page = person.page

        # the player: its slider, its play button, and what is under the mouse
        frame = person.find('.widget-hslider:has(label:text-is("frame"))', "SequencePlayer(")
        pictures = page.locator(".ankle-picture")
        person.screenshot("sequence_player")
        first = pictures.last.get_attribute("src")
        person.slide(frame, "ArrowRight")
        page.wait_for_function(
            "old => [...document.querySelectorAll('.ankle-picture')].at(-1).src !== old", arg=first
        )
        assert frame.locator(".widget-readout").inner_text() == "1"
        page.locator(".jupyter-widget-play button, .widget-play button").first.click()
        page.wait_for_function(
            """() => [...document.querySelectorAll('.widget-hslider')].some(slider =>
                 slider.innerText.includes('frame') && slider.innerText.includes('2'))"""
        )
        pictures.last.hover()
        page.get_by_text(re.compile(r"frame \d: \d")).wait_for()

        # the viewer: a slider, the read-out, and a click that moves the other planes
        sagittal = person.find(
            '.widget-hslider:has(label:text-is("sagittal"))', "viewer = VolumeViewer("
        )
        before = sagittal.locator(".widget-readout").inner_text()
        person.slide(sagittal, "ArrowRight", 3)
        expected = str(int(before) + 3)
        page.locator(f'.widget-readout:text-is("{expected}")').first.wait_for()
        assert sagittal.locator(".widget-readout").inner_text() == expected
        picture = page.locator(".ankle-picture").first
        box = picture.bounding_box()
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(144 / 152, rel=0.02)  # mm
        picture.hover(position={"x": box["width"] * 0.5, "y": box["height"] * 0.5})
        page.get_by_text(re.compile(r"R -?\d+\.\d, A .* mm · voxel 36, \d+")).wait_for()
        picture.click(position={"x": box["width"] * 0.26, "y": box["height"] * 0.5})
        coronal = page.locator('.widget-hslider:has(label:text-is("coronal"))')
        coronal.locator('.widget-readout:text-is("18")').wait_for()
        person.screenshot("volume_viewer")
        assert person.errors == []
