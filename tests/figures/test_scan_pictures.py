from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ankle_lib.figures.scan_pictures import filmstrip, labelled_scan, page
from ankle_lib.figures.style import BONE_COLOURS
from ankle_lib.files import AnkleError
from ankle_lib.geometry import rigid
from ankle_lib.presets import BONES
from ankle_lib.volume import Volume, resample, to_orientation
from tests.toy_ankle import oblique_affine, toy_ankle
from tests.toy_motion import motion
from tests.toy_segmenter import labelled, rendered

NAMES = dict(enumerate(BONES, start=1))
SHAPE = (60, 66, 10)
AFFINE = oblique_affine(SHAPE, (2.4, 2.4, 8.0))


@pytest.fixture(scope="module")
def series() -> Volume:
    return Volume(np.stack([rendered(SHAPE, AFFINE, n).data for n in range(3)], axis=3), AFFINE)


@pytest.fixture(scope="module")
def labels() -> Volume:
    """Nothing is found in frame 1."""
    one = labelled(SHAPE, AFFINE).astype(np.uint8)
    return Volume(np.stack([one, 0 * one, one], axis=3), AFFINE)


def listed(n_frames: int, lost: int | None = 1) -> pd.DataFrame:
    rows = [
        (n, bone, *((0.0, 0.0, "not found") if n == lost else (0.9 + k / 100, 20.0 + k, "")))
        for n in range(n_frames)
        for k, bone in enumerate(BONES)
    ]
    return pd.DataFrame(rows, columns=["frame", "bone", "confidence", "volume_cm3", "note"])


def outlines(axes: Axes) -> set[str]:
    """Return the colours of the lines on a picture."""
    return {to_hex(lines.get_edgecolor()[0]).upper() for lines in axes.collections
            if any(len(path.vertices) for path in lines.get_paths())}  # fmt: skip


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_single_scan_shows_every_bone_in_every_plane(series: Volume, labels: Volume) -> None:
    figure = labelled_scan(series.frame(0), labels.frame(0), listed(1), NAMES)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 3 * 5
    colours = {colour.upper() for colour in BONE_COLOURS.values()}
    for plane in range(3):
        row = shown[5 * plane : 5 * plane + 5]
        assert set().union(*map(outlines, row)) == colours
    assert legend_of(figure) == [f"{bone}, {20 + k:.1f} cm³" for k, bone in enumerate(BONES)]


def test_a_picture_is_alike_in_any_orientation(series: Volume, labels: Volume) -> None:
    one, mark = series.frame(0), labels.frame(0)
    plain = labelled_scan(one, mark, listed(1), NAMES)
    turned = (to_orientation(volume, "LIA") for volume in (one, mark))
    again = labelled_scan(*turned, listed(1), NAMES)
    for ours, theirs in zip(plain.axes, again.axes, strict=True):
        np.testing.assert_array_equal(ours.images[0].get_array(), theirs.images[0].get_array())


def test_a_picture_of_one_bone_in_one_slice(series: Volume) -> None:
    data = np.zeros(SHAPE, np.uint8)
    data[30:40, 30:40, 5] = 2
    figure = labelled_scan(series.frame(0), Volume(data, AFFINE), listed(1), {2: "talus"})
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 1 + 5 + 5
    assert outlines(shown[0]) == {BONE_COLOURS["talus"]}


def test_a_series_shows_every_frame_and_how_far_to_trust_it(series: Volume, labels: Volume) -> None:
    turned = (to_orientation(volume, "LIA") for volume in (series, labels))
    figure = labelled_scan(*turned, listed(3), NAMES)
    assert [axes.get_title() for axes in figure.axes] == ["frame 0", "frame 1", "frame 2"]
    flagged = [any(isinstance(p, Rectangle) for p in axes.patches) for axes in figure.axes]
    assert flagged == [False, True, False]
    numbers = [
        [text.get_text() for text in axes.texts if text.get_position()[1] < 0]
        for axes in figure.axes
    ]
    assert numbers == [["0.90", "0.91", "0.92"], ["–"] * 3, ["0.90", "0.91", "0.92"]]
    colours = {colour.upper() for colour in BONE_COLOURS.values()}
    assert [outlines(axes) for axes in figure.axes] == [colours, set(), colours]
    assert legend_of(figure) == [
        *(f"{bone}, {20 + k:.1f} cm³" for k, bone in enumerate(BONES)),
        "look closer: see the table",
    ]


def test_a_series_shows_the_slice_with_most_of_every_bone(series: Volume, labels: Volume) -> None:
    figure = labelled_scan(series, labels, listed(3), NAMES)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    areas = np.array(
        [[np.count_nonzero(labels.data[:, :, k] == n) for n in NAMES] for k in range(10)]
    )
    best = int((areas / areas.sum(axis=0)).min(axis=1).argmax())
    holding = [k for k in range(10) if _holds(series.data[:, :, k, 0].T, shown)]
    assert holding == [best]


def _holds(image: np.ndarray, part: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(image, part.shape)
    return bool((windows == part).all(axis=(2, 3)).any())


def test_a_long_series_is_shown_in_part(series: Volume, labels: Volume) -> None:
    def long(volume: Volume) -> Volume:
        return Volume(np.repeat(volume.data[..., :1], 59, axis=3), volume.affine)

    figure = labelled_scan(long(series), long(labels), listed(59, None), NAMES)
    assert [axes.get_title() for axes in figure.axes] == [f"frame {n}" for n in range(0, 59, 2)]
    assert figure.legends[0].get_title().get_text().endswith("29 frames between are not shown")
    assert legend_of(figure)[-1].startswith("tibia")


def test_a_bone_of_no_frame_is_named(series: Volume, labels: Volume) -> None:
    data = np.where(labels.data == 3, 0, labels.data).astype(np.uint8)
    table = listed(3)
    table.loc[table["bone"] == "tibia", ["confidence", "volume_cm3"]] = 0.0
    figure = labelled_scan(series, Volume(data, AFFINE), table, NAMES)
    assert "no tibia" in legend_of(figure)


def test_a_filmstrip_shows_both_planes_of_both() -> None:
    scene = motion()
    stills = {
        n: (resample(scene.frames.frame(n), *sharp.grid, order=0), sharp)
        for n, sharp in enumerate(scene.truth)
    }
    figure = filmstrip(stills)
    assert len(figure.axes) == 4 * len(stills)
    assert figure.axes[0].get_title() == "measured,\nsagittal"
    shown = [axes.images[0].get_array() for axes in figure.axes]
    k = stills[0][1].shape[2] // 2
    np.testing.assert_array_equal(shown[0], stills[0][0].data[:, :, k].T)
    np.testing.assert_array_equal(shown[5], stills[1][1].data[:, :, k].T)


def test_a_page_needs_no_kernel_and_stays_small() -> None:
    ankle = toy_ankle()
    html = page(ankle.static, ankle.masks).get_standalone()
    assert "<script" in html
    assert len(html) < 3e6


@pytest.mark.parametrize("bones", [BONES[1:2], ()])
def test_a_page_shows_as_many_bones_as_there_are(bones: tuple[str, ...]) -> None:
    ankle = toy_ankle()
    assert "<script" in page(ankle.static, {bone: ankle.masks[bone] for bone in bones}).html


def test_a_page_shows_no_mask_in_a_wrong_place() -> None:
    ankle = toy_ankle()
    talus = ankle.masks["talus"]
    near, far = (rigid((0, 0, 0), (mm, 0, 0)) @ talus.affine for mm in (3.5e-3, 5))
    page(ankle.static, {"talus": Volume(talus.data, near)})
    with pytest.raises(AnkleError, match="mask of talus is on another grid"):
        page(ankle.static, {"talus": Volume(talus.data, far)})
    with pytest.raises(AnkleError, match=r"by name, as in \{'talus': mask\}, not as list"):
        page(ankle.static, [talus])  # type: ignore[arg-type]
