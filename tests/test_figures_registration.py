from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ankle_lib import figures
from ankle_lib.files import AnkleError, write_figure
from ankle_lib.geometry import rigid
from ankle_lib.quality.gate import fit_gate
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
        for bone in figures.BONE_COLOURS
    ]
    return pd.DataFrame(rows, columns=["frame", "bone", "correlation", "verdict", "reviewer"])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def framed(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Colours of the frames around thumbnails, and where their corners are."""
    found: dict[str, list[tuple[float, float]]] = {}
    for patch in figure.axes[0].patches:
        if isinstance(patch, Rectangle):
            found.setdefault(to_hex(patch.get_edgecolor()).upper(), []).append(patch.get_xy())
    return found


def test_every_registration_has_its_thumbnail(frames, masks, tmp_path: Path) -> None:
    figure = figures.contact_sheet(frames, masks, sheet_rows(), "T01 active_run-01")
    axes = figure.axes[0]
    assert len(axes.images) == 9
    assert texts(figure).count("0.90") == 3
    assert {"calcaneus", "talus", "tibia", "0", "1", "2", "20 mm"} <= set(texts(figure))
    assert axes.get_title(loc="left").startswith("T01 active_run-01\n9 accepted.")
    assert framed(figure) == {}
    outlines = [to_hex(lines.get_edgecolor()[0]).upper() for lines in axes.collections]
    assert outlines == [colour for colour in figures.BONE_COLOURS.values() for _ in range(3)]
    assert write_figure(tmp_path / "sheet.png", figure).stat().st_size > 3000


def test_rejected_and_unsure_ones_are_marked(frames, masks) -> None:
    table = sheet_rows(talus_1="rejected", tibia_2="unsure")
    table.loc[table["bone"] == "calcaneus", "reviewer"] = "Ada"
    figure = figures.contact_sheet(frames, masks, table)
    found = framed(figure)
    assert set(found) == {"#E00000", "#F0E442"}
    (x, y), (x_unsure, y_unsure) = found["#E00000"][0], found["#F0E442"][0]
    images = [image.get_extent() for image in figure.axes[0].images]
    assert (x, y) == (images[4][0], images[4][2])  # second row, second column
    assert (x_unsure, y_unsure) == (images[8][0], images[8][2])
    crosses = [line for line in figure.axes[0].lines if to_hex(line.get_color()) == "#e00000"]
    assert len(crosses) == 2
    assert texts(figure).count("?") == 1
    assert texts(figure).count("0.91*") == 1
    title = figure.axes[0].get_title(loc="left")
    assert title == (
        "7 accepted, 1 rejected, 1 unsure. Numbers: correlation, with * a person's verdict"
    )


def test_thumbnails_show_the_bone_in_the_middle_at_one_scale(frames, masks) -> None:
    figure = figures.contact_sheet(frames, masks, sheet_rows())
    axes = figure.axes[0]
    sizes = {(round(e[1] - e[0], 6), round(e[3] - e[2], 6)) for e in map(_extent, axes.images)}
    assert len(sizes) == 1
    for image, outline in zip(axes.images, axes.collections, strict=True):
        left, right, bottom, top = image.get_extent()
        points = np.concatenate([path.vertices for path in outline.get_paths()])
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        np.testing.assert_allclose(middle, [(left + right) / 2, (bottom + top) / 2], atol=3.1)
        assert (points > [left, bottom]).all()
        assert (points < [right, top]).all()


def _extent(image) -> tuple[float, float, float, float]:
    return image.get_extent()


def test_a_registration_without_mask_is_shown_all_the_same(frames, masks) -> None:
    lost = {
        "talus": [None, *masks["talus"][1:]],
        "tibia": [Volume(np.zeros(frame.shape), frame.affine) for frame in frames],
    }
    table = sheet_rows(talus_0="rejected")
    table.loc[(table["bone"] == "talus") & (table["frame"] == 0), "correlation"] = np.nan
    figure = figures.contact_sheet(frames, lost, table)
    assert len(figure.axes[0].images) == 6
    assert len(figure.axes[0].collections) == 2
    assert "–" in texts(figure)
    assert len(framed(figure)["#E00000"]) == 1
    none = figures.contact_sheet(frames, {"talus": [None] * 3}, table.iloc[:0])
    assert len(none.axes[0].images) == 3


def test_many_frames_continue_below(frames, masks) -> None:
    talus = {"talus": [masks["talus"][0]] * 17}
    figure = figures.contact_sheet([frames[0]] * 17, talus, sheet_rows())
    extents = [image.get_extent() for image in figure.axes[0].images]
    assert extents[15][0] == extents[0][0]
    assert extents[15][3] < extents[0][2]


def test_any_orientation_gives_the_same_sheet(frames, masks, tmp_path: Path) -> None:
    turned = [to_orientation(frame, "LAI") for frame in frames]
    turned_masks = {"talus": [to_orientation(mask, "LAI") for mask in masks["talus"]]}
    first = figures.contact_sheet(frames, {"talus": masks["talus"]}, sheet_rows())
    second = figures.contact_sheet(turned, turned_masks, sheet_rows())
    contents = [
        write_figure(tmp_path / f"{number}.png", figure).read_bytes()
        for number, figure in enumerate((first, second))
    ]
    assert contents[0] == contents[1]


def test_bad_input_of_a_contact_sheet(frames, masks) -> None:
    with pytest.raises(AnkleError, match="at least one frame"):
        figures.contact_sheet([], {}, sheet_rows())
    with pytest.raises(AnkleError, match="talus: 2 masks for 3 frames"):
        figures.contact_sheet(frames, {"talus": masks["talus"][:2]}, sheet_rows())
    moved = Volume(masks["talus"][1].data, np.eye(4))
    with pytest.raises(AnkleError, match=r"talus, frame 1: the mask .* is on another grid"):
        figures.contact_sheet(
            frames, {"talus": [masks["talus"][0], moved, masks["talus"][2]]}, sheet_rows()
        )


def test_the_middle_slice_halves_a_mask() -> None:
    mask = np.zeros((4, 4, 6))
    mask[1:3, 1, [0, 4, 5]] = 1
    assert figures.middle_slice(mask) == 4
    assert mask[:, :, figures.middle_slice(mask)].any()
    assert figures.middle_slice(mask, axis=1) == 1
    one = np.zeros((3, 3, 3), dtype=bool)
    one[0, 0, 2] = True
    assert figures.middle_slice(one) == 2
    with pytest.raises(AnkleError, match="it is empty"):
        figures.middle_slice(np.zeros((2, 2, 2)))


def gate_table(bad: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    dice = np.r_[random.uniform(0.3, 0.8, bad), random.uniform(0.88, 0.97, 40)]
    correlation = 0.2 + 0.6 * dice + random.normal(0, 0.03, len(dice))
    bones = np.resize(list(figures.BONE_COLOURS), len(dice))
    table = pd.DataFrame({"dice": dice, "correlation": correlation, "bone": bones})
    return pd.concat([table, pd.DataFrame({"dice": [np.nan], "correlation": [0.5]})])


def test_the_gates_figure_shows_both_thresholds(tmp_path: Path) -> None:
    table = gate_table(bad=20)
    gate = fit_gate(table["correlation"], table["dice"])
    figure = figures.gate_figure(table, gate)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == [
        *figures.BONE_COLOURS,
        "report: 0.64",
        f"ours: {gate.correlation_threshold:.2f}",
    ]
    heights = [
        line.get_ydata()[0] for line in figure.axes[0].lines if len(set(line.get_ydata())) == 1
    ]
    assert heights == [0.64, gate.correlation_threshold]
    kept = table[table["correlation"] >= gate.correlation_threshold]["dice"]
    assert figure.axes[0].get_title() == (
        f"kept: {(kept >= 0.85).sum()} of 40 with Dice ≥ 0.85, "
        f"{(kept < 0.85).sum()} of 20 with less"
    )
    assert write_figure(tmp_path / "gate.png", figure).stat().st_size > 3000


def test_a_gate_that_is_the_reports_says_why() -> None:
    table = gate_table(bad=0).drop(columns="bone")
    figure = figures.gate_figure(table, fit_gate(table["correlation"], table["dice"]))
    assert figure.axes[0].get_title() == (
        "the report's gate is kept: only 0 of 40 registrations lie below Dice 0.85"
    )
    assert figure.axes[0].get_legend_handles_labels()[1] == ["registrations", "report: 0.64"]


# --- the static scan on a frame ---


def outline_centres(axes) -> dict[str, np.ndarray]:
    """Middle of each outline in a panel, mm to the right and up, by colour."""
    centres = {}
    for lines in axes.collections:
        points = np.concatenate([path.vertices for path in lines.get_paths()])
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        centres[to_hex(lines.get_edgecolor()[0]).upper()] = middle
    return centres


def test_a_pose_moves_the_outlines_on_the_frame(ankle: ToyAnkle, frames, tmp_path: Path) -> None:
    bones = {bone: mask.data > 0 for bone, mask in ankle.masks.items()}
    up = frames[0].affine[:3, 1] / np.linalg.norm(frames[0].affine[:3, 1])
    pose = rigid((0, 0, 0), 9 * up)
    figure = figures.global_registration(ankle.static, frames[0], bones, pose)
    assert [axes.get_title() for axes in figure.axes] == [
        "static scan",
        "frame, bones in scanner coordinates",
        "frame, bones after registration",
        "static scan after registration",
    ]
    before, after, carried = (outline_centres(axes) for axes in figure.axes[1:])
    assert set(before) == set(figures.BONE_COLOURS.values())
    for colour in before:
        np.testing.assert_allclose(after[colour] - before[colour], [0, 9], atol=0.8)
        np.testing.assert_array_equal(after[colour], carried[colour])
    assert write_figure(tmp_path / "global.png", figure).stat().st_size > 3000


def test_each_bone_on_the_frame_and_on_its_moved_scan(frames, masks, tmp_path: Path) -> None:
    first = {bone: series[0] for bone, series in masks.items()}
    scans = {bone: Volume(frames[0].data * 2, frames[0].affine) for bone in first}
    figure = figures.bone_registrations(frames[0], scans, first)
    above, below = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in above] == list(first)
    for top, bottom in zip(above, below, strict=True):
        np.testing.assert_allclose(
            2 * top.images[0].get_array(), bottom.images[0].get_array(), rtol=1e-6
        )
        assert outline_centres(top).keys() == outline_centres(bottom).keys()
    assert write_figure(tmp_path / "bones.png", figure).stat().st_size > 3000
    first["talus"] = Volume(np.zeros(frames[0].shape, dtype=bool), frames[0].affine)
    lost = figures.bone_registrations(frames[0], scans, first)
    assert len(lost.axes[1].collections) == 0


def fine_grid(frame: Volume, mask: Volume) -> tuple[Volume, Volume]:
    """A sharp image and mask on a grid along the frame's axes, four times as fine."""
    affine = frame.affine.copy()
    affine[:3, :3] /= 4
    affine[:3, 3] += affine[:3, :3] @ [30.5, 50.5, -4.5]
    shape = (140, 100, 40)
    sharp = resample(frame, shape, affine)
    inside = resample(Volume(mask.data.astype(np.uint8), mask.affine), shape, affine, order=0)
    return sharp, Volume(inside.data > 0, affine)


def test_thick_voxels_keep_their_shape_beside_the_sharp_image(frames, masks, tmp_path) -> None:
    frame, mask = frames[0], masks["talus"][0]
    sharp, fine_mask = fine_grid(frame, mask)
    figure = figures.high_resolution(frame, frame, sharp, fine_mask)
    assert len(figure.axes) == 6
    blocks = resample(frame, sharp.shape, sharp.affine, order=0)
    coronal = int(np.rint(np.argwhere(fine_mask.data).mean(axis=0))[0])
    expected = figures.slice_of(blocks, "coronal", coronal).image
    shown = figure.axes[3].images[0].get_array()
    inside = expected > 0  # the resampling leaves out the outer halves of the border's voxels
    assert inside.mean() > 0.5
    np.testing.assert_array_equal(shown[inside], expected[inside])
    # 4.5 fine voxels before the first slice's middle; 2 of them belong to its outer half
    assert (shown[:, :3] == 0).all()
    assert (shown[:, 3] > 0).any()
    for column in (4, 5, 6):
        np.testing.assert_array_equal(shown[:, column], shown[:, 3])
    assert write_figure(tmp_path / "fine.png", figure).stat().st_size > 3000


def test_a_sharp_bone_needs_its_mask(frames, masks) -> None:
    sharp, fine_mask = fine_grid(frames[0], masks["talus"][0])
    with pytest.raises(AnkleError, match="on the same grid"):
        figures.high_resolution(frames[0], frames[0], sharp, masks["talus"][0])
    empty = Volume(np.zeros_like(fine_mask.data), fine_mask.affine)
    with pytest.raises(AnkleError, match="with 0 voxels"):
        figures.high_resolution(frames[0], frames[0], sharp, empty)


def test_wrong_fits_are_red_on_yellow(frames, masks) -> None:
    right = masks["talus"][0]
    wrong = Volume(np.roll(right.data, 3, axis=0), right.affine)
    figure = figures.wrong_fits({"talus, frame 0": (frames[0], wrong, right)})
    assert figure.axes[0].get_title() == "talus, frame 0"
    centres = outline_centres(figure.axes[0])
    shift = centres["#E00000"] - centres["#F0E442"]
    np.testing.assert_allclose(shift, [9, 0], atol=1e-6)  # 3 voxels of 3 mm to posterior


# --- errors ---


def errors() -> pd.DataFrame:
    """Ten fits of each bone, one frame each, with errors that are easy to count."""
    rows = [
        {
            "bone": bone,
            "frame": frame,
            "tre_mm": 0.1 * (number + 1) + 0.01 * frame,
            "speed_mm": 1.0 + frame,
            "correlation": 0.8,
            "accepted": True,
            "rotation_lr_deg": 0.3,
            "rotation_ap_deg": -0.4 if frame % 2 else 0.4,
            "rotation_si_deg": np.nan if frame == 0 else 0.0,
        }
        for number, bone in enumerate(figures.BONE_COLOURS)
        for frame in range(10)
    ]
    return pd.DataFrame(rows)


def test_radius_choice_marks_ours_and_the_reports() -> None:
    table = pd.concat([errors().assign(radius=r, tre_mm=0.2 + 0.1 * abs(r)) for r in (-2, 0, 1)])
    ours, report = dict.fromkeys(figures.BONE_COLOURS, -2.0), dict.fromkeys(figures.BONE_COLOURS, 1)
    report["tibia"] = 2  # was not tried
    axes = figures.radius_choice(table, ours, report).axes[0]
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    places = [(float(m.get_xdata()[0]), float(m.get_ydata()[0])) for m in marks]
    assert len(places) == 5
    assert places.count((-2.0, pytest.approx(0.4))) == 3
    assert places.count((1.0, pytest.approx(0.3))) == 2


def test_variants_are_counted_above_the_limit(tmp_path: Path) -> None:
    good = errors().assign(variant="as above")
    bad = errors().assign(variant="one start")
    bad.loc[:3, "tre_mm"] = 8.0
    bad.loc[4, "tre_mm"] = np.nan
    figure = figures.variant_errors(pd.concat([good, bad]))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["as above", "one start"]
    assert texts(figure) == ["0 of 30", "4 of 29", "> 1 mm"]
    assert write_figure(tmp_path / "variants.png", figure).stat().st_size > 3000


def test_rotation_errors_name_their_axis() -> None:
    figure = figures.rotation_errors(errors())
    assert [axes.get_title() for axes in figure.axes] == [
        "left–right\nr.m.s. 0.30°",
        "anterior–posterior\nr.m.s. 0.40°",
        "superior–inferior\nr.m.s. 0.00°",
    ]


def test_errors_by_frame_and_by_speed() -> None:
    table = pd.concat([errors(), errors().assign(tre_mm=lambda rows: rows["tre_mm"] + 0.2)])
    above, below = figures.error_by_frame(table).axes
    medians = {line.get_label(): line.get_ydata() for line in above.lines}
    np.testing.assert_allclose(medians["talus"], 0.2 + 0.01 * np.arange(10) + 0.1)
    np.testing.assert_allclose(below.lines[0].get_ydata(), 1.0 + np.arange(10))
    axes = figures.error_by_speed(table).axes[0]
    assert len(axes.lines) == 3
    assert (np.diff(axes.lines[0].get_xdata()) > 0).all()
    still = figures.error_by_speed(errors().assign(speed_mm=np.nan))
    assert all(len(line.get_xdata()) == 0 for line in still.axes[0].lines)


def test_what_a_gate_refuses_is_counted() -> None:
    table = errors()
    table.loc[:4, ["tre_mm", "correlation"]] = 9.0, 0.2
    table.loc[:3, "accepted"] = False
    table.loc[20, "accepted"] = False
    figure = figures.errors_and_gate(table)
    assert figure.axes[0].get_title() == (
        "refused: 4 of 5 fits off by more than 2 mm, 1 of 25 others"
    )
    assert [len(dots.get_offsets()) for dots in figure.axes[0].collections] == [25, 5]
