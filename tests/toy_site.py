"""A small copy of the course with one executed chapter, for the site: every kind of output."""

from __future__ import annotations

import base64
import html
import io
import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from matplotlib.figure import Figure
from nbformat.v4 import new_output
from PIL import Image

from ankle_lib.files import write_figure
from ankle_lib.running.site_pages import WIDGET

ROOT = Path(__file__).parents[1]
EXECUTED, OTHER = "00_start_here", "01_data_cleaning"
INNER = '<!DOCTYPE html><html lang="en"><title>In it</title><p>alive &amp; well</p></html>'
CANVAS = "a slice & its bones"


def picture(kind: str = "PNG") -> bytes:
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[20:40, 30:60] = 200
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def outputs() -> dict[str, list[Any]]:
    """Return outputs by the beginning of the cells that get them."""
    png = base64.b64encode(picture()).decode()
    view = {WIDGET: {"model_id": "box", "version_major": 2}}
    wide = "".join(f"<th>column {n} of a table that is wide</th>" for n in range(20))
    table = (
        '<div><style scoped>p {color: red}</style><table border="1" class="dataframe"><thead><tr>'
        f"<th></th>{wide}</tr></thead><tbody><tr><th>0</th>{20 * '<td>1.0</td>'}</tr></tbody>"
        "</table></div>"
    )
    framed = f'<iframe srcdoc="{html.escape(INNER)}" width="600" height="240"></iframe>'
    return {
        "from ankle_lib.running.chapter import open": [
            new_output("stream", name="stdout", text="23 children\n"),
            new_output("stream", name="stderr", text="frames: 100%|####| 15/15\n"),
            new_output("display_data", {WIDGET: {"model_id": "bar"}, "text/plain": "0%|  |"}),
        ],
        "from ankle_lib.cleaning": [new_output("display_data", {"image/png": png})],
        "from ankle_lib.widgets.viewers import VolumeViewer": [new_output("display_data", view)],
        "from ankle_lib.figures.scan_pictures import page": [
            new_output("display_data", {"text/html": framed})
        ],
        "pd.DataFrame(\n    [\n": [new_output("display_data", {"text/html": table})],
        "# Solution: the third voxel size": [new_output("stream", name="stdout", text="8.0 mm\n")],
    }


def widgets() -> dict[str, Any]:
    """Return the state of a view: a box with one picture that is seen, and one that is not."""
    jpeg = base64.b64encode(picture("JPEG")).decode()
    canvas = {"buffers": [{"encoding": "base64", "path": ["picture"], "data": jpeg}]}
    children = ["IPY_MODEL_seen", "IPY_MODEL_hidden"]
    return {
        "box": {"model_name": "VBoxModel", "state": {"children": children}},
        "seen": {"model_name": "AnyModel", "state": {"text": CANVAS}, **canvas},
        "hidden": {
            "model_name": "AnyModel",
            "state": {"text": "unseen", "layout": "IPY_MODEL_none"},
            **canvas,
        },
        "bar": {"model_name": "HBoxModel", "state": {"children": ["IPY_MODEL_part"]}},
        "part": {"model_name": "FloatProgressModel", "state": {"value": 1.0}},
        "none": {"model_name": "LayoutModel", "state": {"display": "none"}},
    }


def short_notebook(name: str) -> Any:
    """Return a chapter with all its texts, and of its code what `outputs` knows."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    known = ("preset =", *outputs())
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "markdown" or cell.source.startswith(known)
    ]
    return notebook


def executed_notebook() -> Any:
    """Return the first chapter as `ankle run` leaves it."""
    notebook, left = short_notebook(EXECUTED), outputs()
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.execution_count = number + 1
        cell.metadata["papermill"] = {"duration": 2.0}
        for beginning in [one for one in left if cell.source.startswith(one)]:
            cell.outputs = left.pop(beginning)
    assert not left, f"no cell begins with {list(left)}"
    cell = nbformat.v4.new_code_cell('results = "results"')
    cell.metadata["tags"] = ["injected-parameters"]
    notebook.cells.insert(2, cell)
    state = {"state": widgets(), "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    return notebook


def toy_course(root: Path) -> Path:
    """Write the course and its run into ``root``, and return it."""
    for name in (EXECUTED, OTHER):
        (root / "notebooks").mkdir(parents=True, exist_ok=True)
        nbformat.write(short_notebook(name), root / "notebooks" / f"{name}.ipynb")
    shutil.copytree(ROOT / "docs", root / "docs")
    (root / "ankle_lib" / "weights").mkdir(parents=True)
    shutil.copy(ROOT / "ankle_lib" / "weights" / "README.md", root / "ankle_lib" / "weights")
    folder = root / "results" / "smoke" / EXECUTED
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "one.csv").write_text("bone,dice\ntalus,0.9\n")
    (folder / "figures").mkdir()
    figure = Figure(figsize=(12, 3))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    axes.set(xlabel="frame", ylabel="dorsiflexion (°)", title="sagittal")
    write_figure(folder / "figures" / "three_planes.png", figure)
    nbformat.write(executed_notebook(), folder / "notebook.ipynb")
    record = {"preset": "smoke", "device": "cpu", "wall_s": 41.4, "peak_rss_mb": 1024.0}
    (folder / "run.json").write_text(json.dumps(record))
    return root
