from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ankle_lib.figures.cleaning import Scene, before_and_after, inclusion_flow
from ankle_lib.files import write_figure
from ankle_lib.geometry import rigid
from ankle_lib.volume import Volume
from tests.toy_ankle import ToyAnkle, toy_ankle


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


@pytest.fixture(scope="module")
def masks(ankle: ToyAnkle) -> dict[str, np.ndarray]:
    return {bone: mask.data > 0 for bone, mask in ankle.masks.items()}


def saved(figure: Figure, folder: Path) -> bytes:
    path = write_figure(folder / "figure.png", figure)
    content = path.read_bytes()
    assert len(content) > 3000
    return content


def inclusion_table() -> pd.DataFrame:
    rows = [
        ("T01", "control", True, "", "", 1, 2),
        ("T02", "control", False, "no mask of any bone; no usable sequence: none",
         "bone masks missing; no usable sequence", 0, 0),
        ("E01", "equinus", False, "2 static scans, expected one: a, b", "several static scans",
         0, 0),
        ("E02", "equinus", True, "", "", 1, 1),
    ]  # fmt: skip
    columns = ["subject", "group", "included", "reasons", "kinds", "n_active", "n_passive"]
    return pd.DataFrame(rows, columns=columns)


def test_inclusion_flow_accounts_for_everyone(tmp_path: Path) -> None:
    figure = inclusion_flow(inclusion_table())
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0] == "4 children: 2 control + 2 equinus\nraw cohort"
    assert texts[-1] == "2 children: 1 control + 1 equinus\n3 + 2 dynamic sequences"
    everything = "\n".join(texts)
    assert "E01  2 static scans" in everything
    assert "T02  no mask of any bone\n   + no usable sequence" in everything
    saved(figure, tmp_path)


def test_inclusion_flow_of_a_cohort_that_loses_everyone_at_once(tmp_path: Path) -> None:
    table = inclusion_table()
    lost = table[table["kinds"].fillna("").str.contains("several static scans")]
    assert len(lost) == 1
    figure = inclusion_flow(lost)
    assert figure.axes[0].texts[-1].get_text().startswith("no child")
    saved(figure, tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        "binarised",
        "missing voxels",
        "image mirrored",
        "another reference frame",
        "qform and sform disagree",
    ],
)
def test_before_and_after(ankle: ToyAnkle, tmp_path: Path, kind: str) -> None:
    after = Scene(ankle.static, ankle.masks, ankle.sequence.frame(0))
    data = ankle.static.data.astype(np.float32)
    world = rigid((0, 0, 10), (10, 0, 0)) if "frame" in kind else np.eye(4)
    if kind == "missing voxels":
        data[30:32, 30, 18] = np.nan
    before = Scene(
        Volume(data[:, :, ::-1] if "mirrored" in kind else data, ankle.static.affine),
        {bone: Volume(3 * mask.data, world @ mask.affine) for bone, mask in ankle.masks.items()},
        after.movie,
    )
    figure = before_and_after(kind, "T01", before, after)
    titles = [axes.get_title().split(":")[0] for axes in figure.axes]
    assert titles == ["before", "after"]
    saved(figure, tmp_path)
