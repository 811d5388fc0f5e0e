"""All views but the board in JupyterLab: slide, play, point, click, register, follow."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator

from tests.browser.lab import Person, serve
from tests.widgets.test_training_monitor import write_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CELLS = [
    """\
import numpy as np
from ankle_lib.volume import Volume
from ankle_lib.widgets.viewers import SequencePlayer
from ankle_lib.widgets.viewers import VolumeViewer
from tests.toy_ankle import toy_ankle

ankle = toy_ankle()
masks = {name: Volume(mask.data > 0, mask.affine) for name, mask in ankle.masks.items()}""",
    "viewer = VolumeViewer(ankle.static, masks)\nviewer",
    """\
from ankle_lib.registration.moving import moved_mask
shape, affine = ankle.sequence.shape, ankle.sequence.affine
moved = {
    name: Volume(
        np.stack([moved_mask(mask, np.eye(4), shape, affine).data] * 3, axis=3), affine
    )
    for name, mask in masks.items()
}
player = SequencePlayer(ankle.sequence, moved)
player""",
]

COURSE_CELLS = [
    """\
from pathlib import Path
from ankle_lib.patches.items import Item, zscore
from ankle_lib.patches.rules import PatchRule
from ankle_lib.registration.engines import Settings
from ankle_lib.volume import Volume
from ankle_lib.widgets.patch_explorer import PatchExplorer
from ankle_lib.widgets.registration_tuner import RegistrationTuner
from ankle_lib.widgets.training_monitor import TrainingMonitor
from tests.registration.scene import scene, turned
from tests.toy_ankle import toy_ankle

one, ankle = scene([turned(0, (0, 0, 0)), turned(8, (0, 0, 2))]), toy_ankle()
foot = ankle.foot.data
image = zscore(ankle.static.data, foot)
item = Item("T01", "static", image, foot, {"talus": ankle.masks["talus"].data > 0})""",
    """\
tuner = RegistrationTuner(
    one.frames,
    one.static,
    {"talus": Volume(one.bone, one.static.affine)},
    {"talus": one.weights},
    settings=Settings(start_angles_deg=(0.0,), retry=False),
    truth={"talus": one.truth},
)
tuner""",
    "PatchExplorer([item], PatchRule((24, 24), 300, 0.75), 2.0)",
    """\
monitor = TrainingMonitor(Path("training"))
monitor.follow(poll_s=0.2)
monitor""",
]


def write(cells: list[str], folder: Path) -> Path:
    """Write a notebook into a new folder."""
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    path = folder / "views.ipynb"
    folder.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": kernel}), path)
    return path


def number_in(text: Locator) -> float:
    """Return the first number in bold."""
    return float(text.locator("b").first.inner_text())


def test_slide_play_and_point(person: Person, tmp_path: Path) -> None:
    notebook = write(CELLS, tmp_path / "course")
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
        page.get_by_text(re.compile(r"value \d")).wait_for()

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


def test_register_by_hand_explore_patches_and_follow_a_training(
    person: Person, tmp_path: Path
) -> None:
    notebook = write(COURSE_CELLS, tmp_path / "course")
    with serve(notebook.parent, tmp_path / "home") as lab:
        person.open(lab.address(notebook.name))
        person.run_all(120)
        page = person.page

        # the tuner: the similarity follows the slider; a run is listed, and can be compared
        turn = person.find('.widget-hslider:has(label:text-is("left-right °"))', "tuner = Regi")
        tuner = page.locator(".jp-CodeCell", has_text="tuner = Regi").first
        similarity = tuner.locator(".widget-html", has_text="correlation where the sliders put it")
        at_truth = number_in(similarity)
        person.slide(turn, "ArrowRight", 10)
        turn.locator('.widget-readout:text-is("10.0")').wait_for()
        page.wait_for_function(
            "([label, old]) => +label.querySelector('b').innerText < old - 0.05",
            arg=[similarity.element_handle(), at_truth],
        )
        tuner.get_by_role("button", name="Register from here").click()
        listed = tuner.locator("tr", has_text=re.compile(r"talus\s*0\s*10°, 0.0 mm"))
        listed.get_by_text(re.compile(r"0\.\d\d mm")).wait_for()
        assert "failed" not in listed.inner_text()
        moved = tuner.locator(".ankle-picture").last
        at_end = moved.get_attribute("src")
        person.screenshot("registration_tuner")
        tuner.get_by_role("button", name="show the start").click()
        page.wait_for_function(
            "([image, old]) => image.src !== old", arg=[moved.element_handle(), at_end]
        )
        tuner.get_by_role("button", name="Reset").click()
        turn.locator('.widget-readout:text-is("0.0")').wait_for()

        # the patches: a click says what becomes of one, the threshold changes how many are kept
        picture = person.find(".ankle-picture", "PatchExplorer([")
        explorer = page.locator(".jp-CodeCell", has_text="PatchExplorer([").first
        box = picture.bounding_box()
        assert box is not None
        picture.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.5})
        explorer.get_by_text(re.compile(r"patch at \d+, \d+: \d+% of it in the region")).wait_for()
        kept = explorer.get_by_text("of all positions are kept")
        before = kept.inner_text()
        fraction = explorer.locator('.widget-hslider:has(label:text-is("in region"))')
        person.slide(fraction, "ArrowRight", 4)
        kept.filter(has_not_text=before).wait_for()
        person.slide(explorer.locator('.widget-hslider:has(label:text-is("tries"))'), "PageUp")
        explorer.locator('.widget-readout:text-is("5")').wait_for()
        page.wait_for_timeout(300)
        person.wait_until_idle()  # the picture follows the sliders
        person.screenshot("patch_explorer")

        # the training: another process writes its tables
        person.find("button", "monitor = TrainingMonitor")
        cell = page.locator(".jp-CodeCell", has_text="monitor = TrainingMonitor").first
        cell.get_by_text("has ended an epoch yet").wait_for()
        write_training(notebook.parent / "training" / "unet", 3)
        cell.get_by_text("step 30, loss 0.0333 · epoch 3").wait_for()
        cell.get_by_text("has ended an epoch yet").wait_for(state="detached")
        cell.get_by_role("button", name="Read again").scroll_into_view_if_needed()
        person.screenshot("training_monitor")
        assert person.errors == []
