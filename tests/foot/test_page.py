from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from ankle_lib.foot.page import PER_MM, SequenceReport, foot_page, in_notebook
from ankle_lib.pose_files import FramePose
from ankle_lib.volume import Volume

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
RADIUS_MM = 15.0


def ball(middle: tuple[float, float, float]) -> Volume:
    places = np.stack(np.meshgrid(*map(np.arange, (60, 60, 30)), indexing="ij"), -1) * (1, 1, 2)
    return Volume(np.linalg.norm(places - middle, axis=-1) < RADIUS_MM, AFFINE)


@pytest.fixture(scope="module")
def page() -> str:
    frames = range(3)
    poses = [
        FramePose(n, bone, np.eye(4), 0.9, n != 1) for n in frames for bone in ("talus", "tibia")
    ]
    angles = pd.DataFrame(
        {"frame": [0, 1, 2], "joint": "talocrural", "dorsiflexion_deg": [0, np.nan, 8]}
    )
    angles[["inversion_deg", "rotation_deg"]] = 1.0
    gaps = pd.DataFrame({"frame": frames, "joint": "talocrural", "gap_mm": [1.0, np.nan, 2.0]})
    axes = pd.DataFrame({"joint": ["talocrural"], "rotation_deg": [12.345]})
    report = SequenceReport(
        "act <1>", poses, angles, gaps, b"\x89PNG", {"Helical axes": axes}, ["look"]
    )
    masks = {"talus": ball((30, 25, 30)), "tibia": ball((30, 45, 30))}
    return foot_page(
        "Foot </script> 1", masks, "left", [report], notes=["a & b"], facts={"gate": "0.36"}
    )


def data_of(page: str) -> dict:
    (text,) = re.findall(
        r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(text)


def test_surfaces_are_where_the_bones_are(page: str) -> None:
    bone = data_of(page)["bones"][0]
    points = np.frombuffer(base64.b64decode(bone["points"]), "<i2").reshape(-1, 3) / PER_MM
    faces = np.frombuffer(base64.b64decode(bone["faces"]), "<u2").reshape(-1, 3)
    np.testing.assert_allclose(points.mean(axis=0), (30, 25, 30), atol=0.3)
    radii = np.linalg.norm(points - (30, 25, 30), axis=1)
    assert abs(radii.mean() - RADIUS_MM) < 0.7
    assert faces.max() == len(points) - 1


def test_poses_curves_and_gaps_are_told(page: str) -> None:
    (sequence,) = data_of(page)["sequences"]
    assert [frame["talus"]["accepted"] for frame in sequence["frames"]] == [True, False, True]
    assert (
        np.reshape(sequence["frames"][2]["tibia"]["matrix"], (4, 4)).tolist() == np.eye(4).tolist()
    )
    curves = {one["title"]: one["curves"] for one in sequence["charts"]}
    assert curves["Dorsiflexion"][0]["values"] == [0.0, None, 8.0]
    assert curves["Joint gap"][0]["values"] == [1.0, None, 2.0]
    assert "12.35" in page


def test_names_are_text_and_nothing_comes_from_outside(page: str) -> None:
    assert "Foot &lt;/script&gt; 1" in page
    assert "act &lt;1&gt;" in page
    assert "a &amp; b" in page
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert all(link.startswith("data:") for link in links)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in page
    HTMLParser().feed(page)


def test_in_a_notebook_the_page_stands_in_a_frame(page: str) -> None:
    shown = in_notebook(page, 500).data
    (inner,) = re.findall(r'<iframe srcdoc="([^"]*)" title="Moving bones"', shown)
    assert html.unescape(inner) == page
    assert 'height="500"' in shown


def test_a_page_may_do_without_pictures() -> None:
    nothing = pd.DataFrame(columns=["frame", "joint", "gap_mm"])
    report = SequenceReport("s", [FramePose(0, "talus", np.eye(4), 1, True)], nothing, nothing,
                            None, {}, [])  # fmt: skip
    made = foot_page("t", {"talus": ball((30, 25, 30))}, None, [report], notes=[], facts={})
    assert "<img" not in made
    assert len(data_of(made)["sequences"]) == 1
