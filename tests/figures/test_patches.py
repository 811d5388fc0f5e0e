from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ankle_lib.figures.patches import foot_positions, label_gallery, pair_gallery, pair_positions
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.patches.items import Item
from ankle_lib.patches.rules import PatchRule
from ankle_lib.patches.source import Batch, PatchSource
from ankle_lib.volume import Volume

STEP = (2.0, 2.0, 8.0)
PSR = np.array([[0, 0, STEP[2], 0], [-STEP[0], 0, 0, 0], [0, STEP[1], 0, 0], [0, 0, 0, 1.0]])
"""Axes run to posterior, superior and right."""
SHAPE = (40, 50, 3)
RULE = PatchRule((10, 10), tries=50, min_fraction=0.75, min_correlation=0.6)


@pytest.fixture
def foot() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[10:30, 5:45] = True
    return mask


@pytest.fixture
def scan(foot: np.ndarray) -> Volume:
    noise = np.random.default_rng(0).normal(600, 100, SHAPE)
    return Volume(np.where(foot, noise, 20.0).astype(np.float32), PSR)


def squares(axes: Axes) -> dict[str, list[tuple[float, ...]]]:
    """Colour to (x, y, width, height) in mm of the rectangles in a panel."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for patch in axes.patches:
        if isinstance(patch, Rectangle):
            box = (*patch.get_xy(), patch.get_width(), patch.get_height())
            found.setdefault(to_hex(patch.get_edgecolor()).upper(), []).append(box)
    return found


def legend_texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


def test_tries_are_squares_where_they_lie_and_kept_if_enough_is_foot(
    scan: Volume, foot: np.ndarray
) -> None:
    tries = np.array([(12, 20), (0, 0), (8, 20), (7, 20)])  # 100, 0, 80 and 70 % foot
    figure = foot_positions(scan, foot, 1, RULE, tries)
    left, right = figure.axes[:2]
    assert squares(left) == {
        "#009E73": [(24, 40, 20, 20), (16, 40, 20, 20)],
        "#D55E00": [(0, 0, 20, 20), (14, 40, 20, 20)],
    }
    share = right.images[1]
    assert share.get_array().shape == (41, 31)  # rows upward: superior
    assert float(share.get_array()[20, 12]) == 1.0
    # the centre of the patch at (0, 0) lies in the middle of the first ten pixels
    assert share.get_extent() == pytest.approx([9, 9 + 62, 9, 9 + 82])
    admissible = (np.asarray(share.get_array()) >= 0.75).mean()
    assert f"{admissible:.0%}" in right.get_title()


def test_a_slice_that_is_all_foot_needs_no_line(scan: Volume) -> None:
    whole = np.ones(SHAPE, dtype=bool)
    figure = foot_positions(scan, whole, 0, RULE, np.array([(3, 3)]))
    assert "100%" in figure.axes[1].get_title()


def test_pairs_are_kept_where_both_images_are_alike(scan: Volume, foot: np.ndarray) -> None:
    partner = scan.data.copy()
    partner[:, 25:] = np.random.default_rng(1).normal(600, 100, (40, 25, 3))
    figure = pair_positions(scan, Volume(partner, PSR), foot, 1, RULE, "talus")
    kinds = np.ma.filled(figure.axes[2].images[-1].get_array().astype(float), np.nan)
    assert kinds.shape == (41, 31)
    assert kinds[8, 15] == 1  # inside, alike
    assert kinds[32, 15] == 0  # inside, unlike
    assert np.isnan(kinds[20, 0])  # too little bone
    assert "static scan, moved with the talus" in [axes.get_title() for axes in figure.axes]
    # drawn in the millimetres of the whole slice: a kept centre lies inside the bone's outline
    left, right, bottom, top = figure.axes[2].images[-1].get_extent()
    assert (right - left, top - bottom) == pytest.approx((62, 82))
    rows, columns = figure.axes[0].images[0].get_array().shape
    assert np.ptp(figure.axes[2].get_xlim()) == pytest.approx(columns * STEP[0])
    assert np.ptp(figure.axes[2].get_ylim()) == pytest.approx(rows * STEP[1])
    empty = pair_positions(scan, scan, np.zeros_like(foot), 1, RULE, "talus")
    assert not squares(empty.axes[2])


@pytest.fixture
def labelled(foot: np.ndarray, scan: Volume) -> Batch:
    talus = np.zeros_like(foot)
    talus[15:25, 15:25] = True
    item = Item("T01", "active_run-01 frame 3", scan.data / 100, foot, {"talus": talus})
    source = PatchSource([item], PatchRule((10, 10), 50, 0.75), labels=("talus", "tibia"))
    return source.at(torch.tensor([[1, 15, 15], [1, 11, 30]]))


def test_labels_are_coloured_and_unknown_ones_named(labelled: Batch) -> None:
    figure = label_gallery(labelled, ("talus", "tibia"), 2.0)
    upper, lower = figure.axes[:2], figure.axes[2:]
    assert len(upper) == len(lower) == 2
    image = np.asarray(upper[0].images[0].get_array())
    assert np.allclose(image, labelled.image[0, 0].numpy().T, atol=1e-6)
    coloured = lower[0].images[0].get_array()
    assert to_hex(coloured[5, 5]).upper() == BONE_COLOURS["talus"]
    assert np.asarray(lower[1].images[0].get_array()).max() == 0
    assert lower[0].get_title() == "unknown: tibia"
    assert upper[0].get_title() == "T01 active_run-01\nframe 3\nslice 1"
    assert legend_texts(figure) == ["talus", "tibia"]
    assert {"A", "P", "I", "S"} <= {text.get_text() for text in upper[0].texts}
    turned = label_gallery(labelled, ("talus", "tibia"), 2.0, upright=False)
    assert [text.get_text() for text in turned.axes[0].texts] == ["image (X)"]


def test_pairs_are_shown_by_correlation(scan: Volume, foot: np.ndarray) -> None:
    noise = np.random.default_rng(2).normal(0, 100, SHAPE)
    noise *= np.linspace(0, 2, SHAPE[1])[:, None]
    target = (scan.data + noise).astype(np.float32) / 100
    item = Item("T01", "run frame 0", scan.data / 100, foot, target=target, bone="talus")
    batch = PatchSource([item], PatchRule((10, 10), 50, 0.75)).draw(
        5, torch.Generator().manual_seed(0)
    )
    figure = pair_gallery(batch, 2.0)
    shown = [float(axes.get_title().removeprefix("r = ")) for axes in figure.axes[5:]]
    assert shown == sorted(shown)
    assert shown == pytest.approx(sorted(batch.correlation.tolist()), abs=0.006)
    best = int(batch.correlation.argmax())
    assert np.allclose(figure.axes[9].images[0].get_array(), batch.target[best, 0].numpy().T)
    assert figure.axes[0].get_title().split("\n")[-1].startswith("talus slice ")
