from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import ndimage

from ankle_lib import figures
from ankle_lib.figures.anatomy import VIEWS, _surface, bone_surfaces, page
from ankle_lib.figures.cleaning import Scene, before_and_after, inclusion_flow
from ankle_lib.files import AnkleError, write_figure
from ankle_lib.geometry import rigid
from ankle_lib.volume import Volume, to_orientation
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


# --- slices --------------------------------------------------------------------------------------


def test_slices_show_superior_up_and_anterior_left() -> None:
    data = np.zeros((4, 6, 8))
    data[0, 5, 7] = 1  # anterior, superior, right
    affine = np.array([[0, 0, 3, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]], dtype=float)
    image = Volume(data, affine)
    sagittal = figures.slice_of(image, "sagittal", 7)
    assert sagittal.image.shape == (6, 4)
    assert sagittal.image[-1, 0] == 1  # rows go upward: top left
    assert sagittal.size_mm == (4, 12)
    assert sagittal.letters == ("A", "P", "I", "S")
    coronal = figures.slice_of(image, "coronal", 0)
    assert coronal.image[-1, -1] == 1
    assert coronal.size_mm == (24, 12)
    axial = figures.slice_of(image, "axial", 5)
    assert axial.image[-1, -1] == 1
    assert axial.size_mm == (24, 4)
    assert axial.letters == ("L", "R", "P", "A")


def test_slices_need_the_courses_axes(ankle: ToyAnkle) -> None:
    with pytest.raises(AnkleError, match="bring the image to PSR first"):
        figures.slice_of(to_orientation(ankle.static, "RAS"), "sagittal", 3)
    with pytest.raises(AnkleError, match="choose one of sagittal, coronal, axial"):
        figures.slice_of(ankle.static, "oblique", 3)


def test_a_cropped_slice_keeps_its_pixels() -> None:
    part = figures.Slice(np.ones((10, 20)), (40.0, 10.0), ("A", "P", "I", "S")).crop(
        (slice(2, 7), slice(0, 10))
    )
    assert part.image.shape == (5, 10)
    assert part.size_mm == (20.0, 5.0)


def test_window_and_centre(masks: dict[str, np.ndarray]) -> None:
    assert figures.window(np.zeros((3, 3))) == (0.0, 1.0)
    low, high = figures.window(np.array([np.nan, 0.0, 100.0, 100.0]))
    assert (low, high) == (0.0, 100.0)
    i, j, k = figures.centre_voxel({"talus": masks["talus"]})
    np.testing.assert_allclose(
        (i, j, k), ndimage.center_of_mass(masks["talus"].astype(float)), atol=0.5
    )
    with pytest.raises(AnkleError, match="every mask is empty"):
        figures.centre_voxel({"talus": np.zeros((2, 2, 2))})


# --- the ankle, three ways ------------------------------------------------------------------------


def test_surfaces_lie_where_the_bones_do_and_face_three_ways(ankle: ToyAnkle) -> None:
    figure = bone_surfaces(ankle.masks, "T01")
    assert [axes.get_title().split(" (")[0] for axes in figure.axes] == list(VIEWS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(ankle.masks)
    mask = ankle.masks["tibia"]
    corners = _surface(mask).reshape(-1, 3)
    voxels = np.argwhere(mask.data > 0) * mask.voxel_size_mm
    right, anterior, superior = voxels[:, 2], -voxels[:, 0], voxels[:, 1]
    for found, true in zip(corners.T, (right, anterior, superior), strict=True):
        voxel = 2 * max(mask.voxel_size_mm)
        assert found.min() == pytest.approx(true.min(), abs=voxel)
        assert found.max() == pytest.approx(true.max(), abs=voxel)


def test_a_page_needs_no_kernel_and_stays_small(ankle: ToyAnkle) -> None:
    html = page(ankle.static, ankle.masks).get_standalone()
    assert "<script" in html
    assert len(html) < 3e6


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
