"""Views in a real kernel: their failures fail a run, and they leave little in its notebook."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from ankle_lib.running.execution import NotebookError, execute_notebook
from tests.course import write_notebook

# A kernel may, rarely, never answer a request (nbclient#312): only that is tried again.
pytestmark = [
    pytest.mark.timeout(90, func_only=True),
    pytest.mark.flaky(reruns=2, only_rerun="from pytest-timeout"),
]

VALUES = {"preset": "smoke", "results": "results", "cohort": "toy", "device": "cpu"}
MOST_STATE_MB = 2.0

MAKE = """\
import numpy as np
from ankle_lib.volume import Volume
from ankle_lib.widgets.viewers import SequencePlayer
from ankle_lib.widgets.viewers import VolumeViewer

shape = (200, 200, 12)
affine = np.array([[0, 0, 8.0, 0], [-0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1]])
noise = np.random.default_rng(0).normal(400, 120, (*shape, 3)).astype(np.float32)
mask = np.zeros(shape, dtype=bool)
mask[50:90, 60:120, 4:8] = True
image, talus = Volume(noise[..., 0], affine), Volume(mask, affine)
series = Volume(noise, affine)
viewer = VolumeViewer(image, {"talus": talus})
player = SequencePlayer(series, {"talus": Volume(np.stack([mask] * 3, axis=3), affine)})
large = SequencePlayer(series)
display(viewer, player, large)"""

MESSAGE = """\
def from_browser(widget, data):
    message = {"content": {"comm_id": widget.comm.comm_id, "data": data}, "buffers": []}
    get_ipython().kernel.comm_manager.comm_msg(None, None, message)

update = {"method": "update", "buffer_paths": []}
from_browser(viewer.sliders["sagittal"], {**update, "state": {"value": 2}})
assert viewer.voxel[2] == 2
mouse = {"method": "custom", "content": {"kind": "click", "x": 0.1025, "y": 0.8975}}
from_browser(viewer.panels["sagittal"].canvas, mouse)
assert viewer.voxel == (20, 20, 2)
from_browser(player.play, {**update, "state": {"value": 1}})
assert player.frame.value == 1"""

# one way each in which a view's callback fails
FAILURES = {
    "slider": """\
viewer.draw = lambda: 1 / 0
update = {"method": "update", "buffer_paths": [], "state": {"value": 3}}
message = {"comm_id": viewer.sliders["sagittal"].comm.comm_id, "data": update}
get_ipython().kernel.comm_manager.comm_msg(None, None, {"content": message, "buffers": []})""",
    "mouse": """\
viewer.describe = lambda voxel: 1 / 0
mouse = {"method": "custom", "content": {"kind": "move", "x": 0.5, "y": 0.5}}
message = {"comm_id": viewer.panels["axial"].canvas.comm.comm_id, "data": mouse}
get_ipython().kernel.comm_manager.comm_msg(None, None, {"content": message, "buffers": []})""",
    "thread": """\
import time
from pathlib import Path
from ankle_lib.widgets.training_monitor import TrainingMonitor
monitor = TrainingMonitor(Path("."))
monitor.refresh = lambda: 1 / 0
monitor.follow(poll_s=0.01)
time.sleep(0.3)""",
}


def test_views_work_headless_and_leave_little(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "book.ipynb", MAKE, MESSAGE)
    execute_notebook(notebook, tmp_path / "done.ipynb", dict(VALUES))
    executed = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    state = json.dumps(executed.metadata["widgets"])
    assert state.count('"picture"') >= 5  # the pictures are there, for whoever opens the notebook
    assert len(state) / 2**20 < MOST_STATE_MB


@pytest.mark.parametrize("way", FAILURES)
def test_a_views_failure_fails_the_notebook(tmp_path: Path, way: str) -> None:
    notebook = write_notebook(tmp_path / "book.ipynb", MAKE, FAILURES[way], "after = 1")
    with pytest.raises(NotebookError, match=r"In \[4\].*ZeroDivisionError"):
        execute_notebook(notebook, tmp_path / "done.ipynb", dict(VALUES))


def test_chapters_store_little_widget_state(smoke_results: Path) -> None:
    for path in sorted(smoke_results.glob("*/notebook.ipynb")):
        state = nbformat.read(path, as_version=4).metadata.get("widgets", {})
        assert len(json.dumps(state)) / 2**20 < MOST_STATE_MB, path
