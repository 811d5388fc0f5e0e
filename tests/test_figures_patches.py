from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ankle_lib import figures
from ankle_lib.files import write_figure
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


def test_both_rows_share_one_window(scan: Volume, tmp_path: Path) -> None:
    bright = Volume(scan.data * 2, PSR)
    images = {"dim": (scan, scan.data / 100 - 6, 1), "bright": (bright, scan.data / 100 - 6, 1)}
    figure = figures.normalised_slices(images)
    limits = [axes.images[0].get_clim() for axes in figure.axes]
    assert len(limits) == 4
    assert limits[0] == limits[1] == figures.window(bright.data)
    assert limits[2] == limits[3]
    assert limits[2][0] < 0 < limits[2][1]
    assert write_figure(tmp_path / "slices.png", figure).stat().st_size > 3000


def test_tries_are_squares_where_they_lie_and_kept_if_enough_is_foot(
    scan: Volume, foot: np.ndarray
) -> None:
    tries = np.array([(12, 20), (0, 0), (8, 20), (7, 20)])  # 100, 0, 80 and 70 % foot
    figure = figures.foot_positions(scan, foot, 1, RULE, tries)
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
    figure = figures.foot_positions(scan, whole, 0, RULE, np.array([(3, 3)]))
    assert "100%" in figure.axes[1].get_title()


def test_pairs_are_kept_where_both_images_are_alike(scan: Volume, foot: np.ndarray) -> None:
    partner = scan.data.copy()
    partner[:, 25:] = np.random.default_rng(1).normal(600, 100, (40, 25, 3))
    figure = figures.pair_positions(scan, Volume(partner, PSR), foot, 1, RULE, "talus")
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
    empty = figures.pair_positions(scan, scan, np.zeros_like(foot), 1, RULE, "talus")
    assert not squares(empty.axes[2])


def test_sizes_are_drawn_in_mm_around_the_bones(scan: Volume, foot: np.ndarray) -> None:
    masks = {"talus": foot}
    figure = figures.patch_sizes(
        {"static": (scan, masks, {"small": 20.0}), "frame": (scan, masks, {"large": 60.0})}
    )
    (small,) = squares(figure.axes[0]).values()
    (large,) = squares(figure.axes[1]).values()
    centre = [2 * n for n in figures.centre_voxel(masks)[:2]]
    assert small == [(centre[0] - 10, centre[1] - 10, 20, 20)]
    assert large[0][2:] == (60, 60)
    assert legend_texts(figure) == ["small, 20.0 mm", "large, 60.0 mm"]


@pytest.fixture
def labelled(foot: np.ndarray, scan: Volume) -> Batch:
    talus = np.zeros_like(foot)
    talus[15:25, 15:25] = True
    item = Item("T01", "active_run-01 frame 3", scan.data / 100, foot, {"talus": talus})
    source = PatchSource([item], PatchRule((10, 10), 50, 0.75), labels=("talus", "tibia"))
    return source.at(torch.tensor([[1, 15, 15], [1, 11, 30]]))


def test_labels_are_coloured_and_unknown_ones_named(labelled: Batch) -> None:
    figure = figures.label_gallery(labelled, ("talus", "tibia"), 2.0)
    upper, lower = figure.axes[:2], figure.axes[2:]
    assert len(upper) == len(lower) == 2
    image = np.asarray(upper[0].images[0].get_array())
    assert np.allclose(image, labelled.image[0, 0].numpy().T, atol=1e-6)
    coloured = lower[0].images[0].get_array()
    assert to_hex(coloured[5, 5]).upper() == figures.BONE_COLOURS["talus"]
    assert np.asarray(lower[1].images[0].get_array()).max() == 0
    assert lower[0].get_title() == "unknown: tibia"
    assert upper[0].get_title() == "T01 active_run-01\nframe 3\nslice 1"
    assert legend_texts(figure) == ["talus", "tibia"]
    assert {"A", "P", "I", "S"} <= {text.get_text() for text in upper[0].texts}
    turned = figures.label_gallery(labelled, ("talus", "tibia"), 2.0, upright=False)
    assert [text.get_text() for text in turned.axes[0].texts] == ["image (X)"]


def test_pairs_are_shown_by_correlation(scan: Volume, foot: np.ndarray) -> None:
    noise = np.random.default_rng(2).normal(0, 100, SHAPE)
    noise *= np.linspace(0, 2, SHAPE[1])[:, None]
    target = (scan.data + noise).astype(np.float32) / 100
    item = Item("T01", "run frame 0", scan.data / 100, foot, target=target, bone="talus")
    batch = PatchSource([item], PatchRule((10, 10), 50, 0.75)).draw(
        5, torch.Generator().manual_seed(0)
    )
    figure = figures.pair_gallery(batch, 2.0)
    shown = [float(axes.get_title().removeprefix("r = ")) for axes in figure.axes[5:]]
    assert shown == sorted(shown)
    assert shown == pytest.approx(sorted(batch.correlation.tolist()), abs=0.006)
    best = int(batch.correlation.argmax())
    assert np.allclose(figure.axes[9].images[0].get_array(), batch.target[best, 0].numpy().T)
    assert figure.axes[0].get_title().split("\n")[-1].startswith("talus slice ")


def test_a_line_for_every_image_before_and_after() -> None:
    random = np.random.default_rng(0)
    before = [random.normal(mean, 100, 500) for mean in (500, 900, 1300)]
    after = [(values - values.mean()) / values.std() for values in before]
    pair = {"frame": (before[:1], after[:1]), "static": (before[1:2], after[1:2])}
    figure = figures.intensity_curves({"scans": {"": (before, after)}, "a pair": pair})
    assert [len(axes.lines) for axes in figure.axes] == [3, 2, 3, 2]
    peaks = [
        [line.get_xdata()[np.argmax(line.get_ydata())] for line in axes.lines]
        for axes in (figure.axes[0], figure.axes[2])
    ]
    assert np.ptp(peaks[0]) > 500
    assert np.ptp(peaks[1]) < 1
    assert legend_texts(figure) == ["frame", "static"] * 2


def test_the_histogram_tells_which_part_is_kept() -> None:
    rows = [
        ("T01", bone, correlation, count)
        for bone, counts in (("talus", (10, 10, 60)), ("tibia", (0, 30, 10)))
        for correlation, count in zip((0.5, 0.55, 0.65), counts, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["subject", "bone", "correlation", "n_patches"])
    figure = figures.correlation_histogram(pd.concat([table, table]), 0.6)
    assert legend_texts(figure) == ["talus: 75% kept", "tibia: 25% kept"]
    steps = [patch.get_data().values for patch in figure.axes[0].patches[:2]]
    assert np.allclose(steps[0], np.array([20, 20, 120]) / 1000)


def test_numbers_stand_beside_the_reports() -> None:
    rows = [
        ("static_segmentation", "control", "talus", 40000.0, 44924.0),
        ("static_segmentation", "equinus", "talus", 41000.0, np.nan),
    ]
    columns = ["task", "group", "bone", "n_patches", "report_n_patches"]
    figure = figures.patch_numbers(pd.DataFrame(rows, columns=columns))
    heights = [points.get_offsets()[:, 1].tolist() for points in figure.axes[0].collections]
    assert heights[0] == [40000]
    assert heights[1] == [44924]
    assert heights[2] == [41000]
    assert "report, control" in legend_texts(figure)


def test_samples_are_compared_on_equal_bins() -> None:
    random = np.random.default_rng(0)
    samples = {
        "stored": pd.DataFrame({"slice": random.integers(0, 9, 400), "mean": np.ones(400)}),
        "drawn": pd.DataFrame({"slice": random.integers(0, 9, 300), "mean": np.ones(300)}),
    }
    figure = figures.compared_samples(samples)
    assert [axes.get_xlabel() for axes in figure.axes] == ["slice", "mean"]
    for axes in figure.axes:
        first, second = (patch.get_data() for patch in axes.patches)
        assert np.array_equal(first.edges, second.edges)
        assert (first.values * np.diff(first.edges)).sum() == pytest.approx(1)
    assert legend_texts(figure) == ["stored", "drawn"]
