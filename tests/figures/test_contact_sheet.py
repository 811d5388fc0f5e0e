from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ankle_lib.figures.contact_sheet import COLUMNS, contact_sheet
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.files import write_figure
from ankle_lib.quality.review_sheet import AUTOMATIC
from ankle_lib.volume import Volume, resample, to_orientation
from tests.toy_ankle import ToyAnkle, toy_ankle


@pytest.fixture(scope="module")
def ankle() -> ToyAnkle:
    return toy_ankle()


@pytest.fixture(scope="module")
def frames(ankle: ToyAnkle) -> list[Volume]:
    return [ankle.sequence.frame(index) for index in range(3)]


@pytest.fixture(scope="module")
def masks(ankle: ToyAnkle, frames: list[Volume]) -> dict[str, list[Volume | None]]:
    return {
        bone: [resample(mask, frame.shape, frame.affine, order=0) for frame in frames]
        for bone, mask in ankle.masks.items()
    }


def sheet_rows(**changes: str) -> pd.DataFrame:
    """Rows of three frames; ``talus_1="rejected"`` changes a verdict."""
    rows = [
        (frame, bone, 0.9 + 0.01 * frame, changes.get(f"{bone}_{frame}", "accepted"), AUTOMATIC)
        for frame in range(3)
        for bone in BONE_COLOURS
    ]
    return pd.DataFrame(rows, columns=["frame", "bone", "correlation", "verdict", "reviewer"])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def cells(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, bottom, width and height of the thumbnails."""
    found = [patch for patch in figure.axes[0].patches if patch.get_fill()]
    return [(*cell.get_xy(), cell.get_width(), cell.get_height()) for cell in found]


def framed(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Colours of the frames around thumbnails, and where their corners are."""
    found: dict[str, list[tuple[float, float]]] = {}
    for patch in figure.axes[0].patches:
        if not patch.get_fill():
            found.setdefault(to_hex(patch.get_edgecolor()).upper(), []).append(patch.get_xy())
    return found


def test_every_registration_has_its_thumbnail(frames, masks, tmp_path: Path) -> None:
    figure = contact_sheet(frames, masks, sheet_rows(), "T01 active_run-01")
    axes = figure.axes[0]
    assert len(axes.images) == 9
    assert texts(figure).count("0.90") == 3
    assert {"calcaneus", "talus", "tibia", "0", "1", "2", "20 mm"} <= set(texts(figure))
    assert axes.get_title(loc="left").startswith("T01 active_run-01\n9 accepted.")
    assert framed(figure) == {}
    outlines = [to_hex(lines.get_edgecolor()[0]).upper() for lines in axes.collections]
    assert outlines == [colour for colour in BONE_COLOURS.values() for _ in range(3)]
    assert write_figure(tmp_path / "sheet.png", figure).stat().st_size > 3000


def test_rejected_and_unsure_ones_are_marked(frames, masks) -> None:
    table = sheet_rows(talus_1="rejected", tibia_2="unsure")
    table.loc[table["bone"] == "calcaneus", "reviewer"] = "Ada"
    figure = contact_sheet(frames, masks, table)
    found = framed(figure)
    assert set(found) == {"#E00000", "#F0E442"}
    assert found["#E00000"] == [cells(figure)[4][:2]]  # second row, second column
    assert found["#F0E442"] == [cells(figure)[8][:2]]
    crosses = [line for line in figure.axes[0].lines if to_hex(line.get_color()) == "#e00000"]
    assert len(crosses) == 2
    assert texts(figure).count("?") == 1
    assert texts(figure).count("0.91*") == 1
    title = figure.axes[0].get_title(loc="left")
    assert title == (
        "7 accepted, 1 rejected, 1 unsure. Numbers: correlation, with * a person's verdict"
    )


def test_thumbnails_show_the_bone_in_the_middle_at_one_scale(frames, masks) -> None:
    figure = contact_sheet(frames, masks, sheet_rows())
    axes = figure.axes[0]
    assert len({cell[2:] for cell in cells(figure)}) == 1
    pixels = set()
    for image, outline, cell in zip(axes.images, axes.collections, cells(figure), strict=True):
        corner, size = np.array(cell[:2]), np.array(cell[2:])
        points = np.concatenate([path.vertices for path in outline.get_paths()])
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        np.testing.assert_allclose(middle, corner + size / 2, atol=1.6)
        assert (points > corner).all()
        assert (points < corner + size).all()
        left, right, *_ = image.get_extent()
        pixels.add(round((right - left) / image.get_array().shape[1], 6))
    assert pixels == {3.0}


def test_a_registration_without_mask_is_shown_all_the_same(frames, masks) -> None:
    lost = {
        "talus": [None, *masks["talus"][1:]],
        "tibia": [Volume(np.zeros(frame.shape), frame.affine) for frame in frames],
    }
    table = sheet_rows(talus_0="rejected")
    table.loc[(table["bone"] == "talus") & (table["frame"] == 0), "correlation"] = np.nan
    figure = contact_sheet(frames, lost, table)
    assert len(figure.axes[0].images) == 6
    assert len(figure.axes[0].collections) == 2
    assert "–" in texts(figure)
    assert len(framed(figure)["#E00000"]) == 1
    none = contact_sheet(frames, {"talus": [None] * 3}, table.iloc[:0])
    assert len(none.axes[0].images) == 3


def test_many_frames_continue_below(frames, masks) -> None:
    talus = {"talus": [masks["talus"][0]] * 17}
    figure = contact_sheet([frames[0]] * 17, talus, sheet_rows())
    first, later = cells(figure)[0], cells(figure)[COLUMNS]
    assert later[0] == first[0]
    assert later[1] + later[3] < first[1]


def test_any_orientation_gives_the_same_sheet(frames, masks, tmp_path: Path) -> None:
    turned = [to_orientation(frame, "LAI") for frame in frames]
    turned_masks = {"talus": [to_orientation(mask, "LAI") for mask in masks["talus"]]}
    first = contact_sheet(frames, {"talus": masks["talus"]}, sheet_rows())
    second = contact_sheet(turned, turned_masks, sheet_rows())
    contents = [
        write_figure(tmp_path / f"{number}.png", figure).read_bytes()
        for number, figure in enumerate((first, second))
    ]
    assert contents[0] == contents[1]
