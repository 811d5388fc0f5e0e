"""Errors that papermill does not see must fail a notebook; what it reports must be true."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import psutil
import pytest

from ankle_lib.running.execution import Execution, NotebookError, _Client, execute_notebook
from tests.course import write_notebook

# A kernel may, rarely, never answer a request (nbclient#312): only that is tried again.
pytestmark = [
    pytest.mark.timeout(100, func_only=True),
    pytest.mark.flaky(reruns=2, only_rerun="did not answer"),
]

VALUES = {"preset": "smoke", "results": "results", "cohort": "toy", "device": "cpu"}

# ways in which an error hides
HIDDEN = {
    "button callback": """\
import ipywidgets
button = ipywidgets.Button()
button.on_click(lambda _: 1 / 0)
button.click()""",
    "interact": """\
import ipywidgets
ipywidgets.interact(lambda x: 1 / x, x=(0, 3, 1), y=ipywidgets.fixed(0));
ipywidgets.interactive_output(lambda x: 1 / x, {"x": ipywidgets.IntSlider(0)});""",
    "output widget": """\
import ipywidgets
out = ipywidgets.Output()
with out:
    1 / 0
out""",
    "output widget that is cleared": """\
import ipywidgets
out = ipywidgets.Output()
with out:
    1 / 0
out.clear_output()
out""",
    "captured function": """\
import ipywidgets
out = ipywidgets.Output()
@out.capture()
def fails(): 1 / 0
fails()""",
    "message from the browser": """\
import ipywidgets
slider = ipywidgets.IntSlider(0)
slider.observe(lambda change: 1 / 0, "value")
data = {"method": "update", "state": {"value": 3}, "buffer_paths": []}
message = {"content": {"comm_id": slider.comm.comm_id, "data": data}, "buffers": []}
get_ipython().kernel.comm_manager.comm_msg(None, None, message)""",
    "handler of a comm": """\
from comm import create_comm
channel = create_comm(target_name="nobody")
channel.on_msg(lambda message: 1 / 0)
message = {"content": {"comm_id": channel.comm_id, "data": {}}}
get_ipython().kernel.comm_manager.comm_msg(None, None, message)""",
    "thread": """\
import threading
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()""",
    "asyncio task": """\
import asyncio
async def fails(): 1 / 0
task = asyncio.ensure_future(fails())
await asyncio.sleep(0.05)
del task""",
}


def execute(tmp_path: Path, *cells: str, **options: object) -> Execution:
    notebook = write_notebook(tmp_path / "book.ipynb", *cells)
    return execute_notebook(notebook, tmp_path / "done.ipynb", dict(VALUES), **options)  # type: ignore[arg-type]


HEARD = """
import json
from ankle_lib.running import kernel_side
with open("heard.txt", "a") as file:
    print({error["type"] for error in json.loads(kernel_side.errors())}, file=file)
kernel_side._errors.clear()"""


def test_errors_are_heard_wherever_they_hide(tmp_path: Path) -> None:
    raised = "message from the browser"  # this one ends a cell
    ways = [cell for way, cell in HIDDEN.items() if way != raised]
    with pytest.raises(NotebookError):  # some tracebacks are shown
        execute(tmp_path, *(cell + HEARD for cell in ways))
    heard = (tmp_path / "heard.txt").read_text().splitlines()
    assert heard == ["{'ZeroDivisionError'}"] * len(ways)


@pytest.mark.parametrize("way", ["button callback", "message from the browser"])
def test_a_hidden_error_fails_the_notebook(tmp_path: Path, way: str) -> None:
    with pytest.raises(NotebookError, match=r"ZeroDivisionError") as caught:
        execute(tmp_path, "before = 1", HIDDEN[way], "after = 2")
    # the parameters and their injected values are In [1] and In [2]
    assert "In [4]" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_the_rest_is_no_error(tmp_path: Path) -> None:
    widgets = """\
import sys, ipywidgets
slider = ipywidgets.IntSlider(1)
slider.observe(print, "value")
slider.value = 2
button = ipywidgets.Button()
button.on_click(lambda _: print("clicked"))
button.click()
print("only a warning", file=sys.stderr)
try:
    1 / 0
except ZeroDivisionError:
    print("handled")
ipywidgets.interact(lambda x: x, x=(0, 3, 1));"""
    execution = execute(tmp_path, widgets)
    assert execution.inputs == []
    assert not [name for name in execution.modules if "course" in name]


def test_an_error_names_cell_and_text_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=r"^In \[3\]: ValueError: two lines$"):
        execute(tmp_path, "raise ValueError('two\\nlines')", "after = 1")
    partial = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert any(
        output.output_type == "error"
        for cell in partial.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "exit"])
def test_leaving_early_is_a_failure(tmp_path: Path, leave: str) -> None:
    with pytest.raises(NotebookError):
        execute(tmp_path, leave, "raise ValueError('never reached')")


def test_a_dead_kernel_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="the kernel died"):
        execute(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


# ways in which a kernel lives on without an answer
SILENT = {
    "stopped": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "the request is lost": """\
get_ipython().kernel.shell_stream.on_recv(lambda message: None, copy=False)""",
    "the reply is lost": """\
session = get_ipython().kernel.session
send = session.send
def lose(stream, message, *args, **options):
    if message != "execute_reply":
        return send(stream, message, *args, **options)
session.send = lose""",
}


@pytest.mark.parametrize("way", SILENT)
def test_a_kernel_that_does_not_answer_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("ankle_lib.running.execution.ANSWER_S", 3.0)
    with pytest.raises(NotebookError, match="did not answer for 3 s and was ended: run again"):
        execute(tmp_path, "import os; open('pid', 'w').write(str(os.getpid()))", SILENT[way], "1")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


COMPUTE = """\
import os
open("begun", "w").close()
while not os.path.exists("enough"):
    sum(range(100_000_000))  # one call in C"""


def test_a_cell_may_compute_for_as_long_as_it_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silences = [0.0]

    def note(_: _Client, seconds: float) -> None:
        silences.append(seconds)
        if not (tmp_path / "begun").exists():
            silences.clear()
        if silences.count(0.0) > 20:  # looks at a cell that computes; a heart stops after 1 s
            (tmp_path / "enough").touch()

    monkeypatch.setattr("ankle_lib.running.execution.SAMPLE_S", 0.1)
    counted = property(lambda _: silences[-1] if silences else 0.0, note)
    monkeypatch.setattr(_Client, "_silent_s", counted, raising=False)
    execute(tmp_path, COMPUTE, "1")


def test_the_kernel_is_this_interpreter_whatever_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(
        '{"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import sys

    checks = f"""\
import os, sys, matplotlib, ankle_lib
assert sys.executable == {sys.executable!r}
assert "inline" in matplotlib.get_backend()
assert os.getcwd() == {str(tmp_path)!r}
assert preset == "smoke"
assert os.environ["MY_VARIABLE"] == "mine"
assert int(os.environ["OMP_NUM_THREADS"]) >= 1"""
    execute(tmp_path, checks, environment={"MY_VARIABLE": "mine"})


def test_a_chosen_number_of_threads_is_mkls_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    execute(tmp_path, "import torch\nassert torch.get_num_threads() == 1")


def test_memory_is_that_of_the_kernel_and_its_children(tmp_path: Path) -> None:
    alone = "import time; block = bytearray(200 * 2**20); del block; time.sleep(0.1)"
    child = """\
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; b = b'1' * 300 * 2**20; time.sleep(1.5)"])"""
    small = execute(tmp_path, "block = 1").peak_rss_mb
    assert 20 < small < 200
    assert execute(tmp_path, alone).peak_rss_mb > small + 190
    assert execute(tmp_path, child).peak_rss_mb > small + 290


def test_no_kernel_is_left_behind(tmp_path: Path) -> None:
    execute(tmp_path, "import os; open('pid', 'w').write(str(os.getpid()))")
    pid = int((tmp_path / "pid").read_text())
    assert pid != os.getpid()
    assert not psutil.pid_exists(pid)


def test_braces_in_a_path_are_no_template(tmp_path: Path) -> None:
    folder = tmp_path / "my {preset} {y} [a] ünïcode"
    notebook = write_notebook(folder / "book.ipynb", "print(preset)")
    output = folder / "{results}" / "out.ipynb"
    output.parent.mkdir()
    execute_notebook(notebook, output, VALUES)
    assert nbformat.read(output, as_version=4).cells[-1].outputs[0].text == "smoke\n"
    assert [path.name for path in output.parent.iterdir()] == ["out.ipynb"]
