"""One page that tells what was found in the scans of a foot; it needs nothing but a browser."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes

from ankle_lib.dynamic.kinematics import ANGLES
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.geometry import apply, bounding_box, part_of
from ankle_lib.pose_files import FramePose
from ankle_lib.volume import Volume

TEMPLATE = Path(__file__).with_name("page.html")

MESH_MM = 1.2
"""Spacing at which a bone's surface is drawn."""
SMOOTH_MM = 0.6
"""Of the mask before: it hides voxels, and takes less than a voxel of the bone."""
PER_MM = 50
"""Steps of a vertex's stored position."""
MOST_VERTICES = 65_000
"""Faces are stored as 16-bit numbers."""

JOINT_COLOURS = {"talocrural": "#0072B2", "subtalar": "#CC79A7", "hindfoot": "#555555"}
ANGLE_TITLES = ("Dorsiflexion", "Inversion", "Internal rotation")


@dataclass(frozen=True, eq=False)
class SequenceReport:
    """What was found in one sequence of frames."""

    name: str
    poses: Sequence[FramePose]
    """Of bones, static world to frame world."""
    angles: pd.DataFrame
    """From `kinematics.angle_table`; NaN where a pose is not known."""
    gaps: pd.DataFrame
    """Columns frame, joint, gap_mm."""
    contact_sheet: bytes | None
    """PNG; None if the page is to show none."""
    tables: Mapping[str, pd.DataFrame]
    """By their headings."""
    notes: Sequence[str]


def foot_page(
    title: str,
    masks: Mapping[str, Volume],
    side: str | None,
    sequences: Sequence[SequenceReport],
    *,
    notes: Sequence[str],
    facts: Mapping[str, str],
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    title : str
    masks : mapping of bone to Volume
        On the static scan.
    side : "left", "right" or None
    sequences : sequence of SequenceReport
    notes : sequence of str
        What a person should look at, for the static scan.
    facts : mapping of str to str
        Versions and parameters.
    """
    points = {bone: _surface(mask) for bone, mask in masks.items()}
    everything = np.concatenate([vertices for vertices, _ in points.values()])
    middle = (everything.max(axis=0) + everything.min(axis=0)) / 2
    data = {
        "side": side or "right",
        "middle": middle.round(2).tolist(),
        "radius": float(np.linalg.norm(everything - middle, axis=1).max()) * 1.15,
        "bones": [
            {
                "name": bone,
                "colour": BONE_COLOURS[bone],
                "per_mm": PER_MM,
                "points": _packed(np.rint(vertices * PER_MM), "<i2"),
                "faces": _packed(faces, "<u2"),
            }
            for bone, (vertices, faces) in points.items()
        ],
        "sequences": [_sequence(one) for one in sequences],
    }
    sections = [_section(number, one) for number, one in enumerate(sequences)]
    rows = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in facts.items())
    sections.append(f'<h2>How it was made</h2><div class="wide"><table>{rows}</table></div>')
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(title),
        summary=_list(notes),
        sections="\n".join(sections),
        data=json.dumps(data, allow_nan=False).replace("</", "<\\/"),
    )


def in_notebook(page: str, height_px: int = 640) -> Any:
    """Return a page as the output of a cell, where it stays alive without a kernel."""
    from IPython.display import HTML  # not at the top: `ankle foot` does without

    frame = f'<iframe srcdoc="{html.escape(page)}" title="Moving bones" width="100%" '
    return HTML(f'<div>{frame}height="{height_px}" style="border: 0"></iframe></div>')


def _sequence(report: SequenceReport) -> dict[str, Any]:
    n_frames = 1 + max(pose.frame for pose in report.poses)
    frames: list[dict[str, Any]] = [{} for _ in range(n_frames)]
    for pose in report.poses:
        matrix = np.asarray(pose.matrix).ravel().round(5).tolist()
        frames[pose.frame][pose.bone] = {"matrix": matrix, "accepted": bool(pose.accepted)}
    charts = [
        {"title": title, "unit": "degrees", "curves": _curves(report.angles, angle)}
        for title, angle in zip(ANGLE_TITLES, ANGLES, strict=True)
    ]
    charts.append({"title": "Joint gap", "unit": "mm", "curves": _curves(report.gaps, "gap_mm")})
    charts = [one for one in charts if one["curves"]]
    return {"name": report.name, "frames": frames, "charts": charts}


def _curves(table: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    curves = []
    for joint, rows in table.groupby("joint", sort=False):
        values = [round(float(v), 3) if np.isfinite(v) else None for v in rows[column]]
        if any(value is not None for value in values):
            colour = JOINT_COLOURS[str(joint)]
            curves.append({"name": str(joint), "colour": colour, "values": values})
    return curves


def _section(number: int, report: SequenceReport) -> str:
    picture = ""
    if report.contact_sheet:
        encoded = base64.b64encode(report.contact_sheet).decode()
        picture = (
            '<div class="wide"><img alt="Every frame with the moved bones" '
            f'src="data:image/png;base64,{encoded}"></div>'
        )
    tables = "".join(
        f'<h2>{_text(name)}</h2><div class="wide">'
        f"{table.to_html(index=False, border=0, na_rep='', float_format='{:.2f}'.format)}</div>"
        for name, table in report.tables.items()
    )
    return (
        f'<section data-sequence="{number}"><h2>{_text(report.name)}</h2>{_list(report.notes)}'
        f"{picture}{tables}</section>"
    )


def _surface(mask: Volume) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return vertices (N, 3) in world mm and faces (M, 3) of a bone."""
    steps = np.asarray(mask.voxel_size_mm)
    box = bounding_box(mask.data > 0, np.ceil(3 * MESH_MM / steps).astype(int))
    assert box is not None  # masks are checked when they are read
    _, affine = part_of(box, mask.affine)
    solid = np.pad((mask.data[box] > 0).astype(np.float32), 1)
    smooth = ndimage.gaussian_filter(solid, SMOOTH_MM / steps)
    for coarser in (1.0, 1.5, 2.5):
        zoom = np.minimum(1.0, steps / (MESH_MM * coarser))
        coarse = ndimage.zoom(smooth, zoom, order=1)
        vertices, faces, _, _ = marching_cubes(coarse, 0.5)
        if len(vertices) <= MOST_VERTICES:
            break
    scale = (np.array(smooth.shape) - 1) / (np.array(coarse.shape) - 1)
    return apply(affine, vertices * scale - 1), faces


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _text(value: object) -> str:
    return html.escape(str(value))
