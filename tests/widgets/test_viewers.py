"""The viewers without a browser: slide, play, click, read back."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.figures.images import PLANES, slice_of
from ankle_lib.geometry import apply
from ankle_lib.volume import Volume, to_orientation
from ankle_lib.widgets.viewers import SequencePlayer, VolumeViewer, matched_difference, voxel_at
from tests.widgets.drawn import (
    AFFINE,
    MASK,
    SHAPE,
    TALUS,
    TIBIA,
    box_mask,
    count,
    holed,
    image,
    mouse,
    pixels,
    place_in,
    sequence,
)


@pytest.mark.parametrize("plane", PLANES)
def test_the_mouse_finds_the_voxel_that_is_drawn(plane: str) -> None:
    numbers = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    axis = {"sagittal": 2, "coronal": 0, "axial": 1}[plane]
    for index in (0, SHAPE[axis] - 1):
        shown = slice_of(Volume(numbers, AFFINE), plane, index)
        for row, column in ((0, 0), (2, 3), tuple(n - 1 for n in shown.image.shape)):
            voxel = voxel_at(plane, index, row, column, SHAPE)
            assert numbers[voxel] == shown.image[row, column]


def test_the_browser_gets_the_picture_and_no_volume() -> None:
    viewer = VolumeViewer(image())
    state = viewer.panels["sagittal"].canvas.get_state()
    assert "_model_module" in state
    assert isinstance(state["picture"], bytes)
    assert len(state["picture"]) < 100_000


def test_sliders_change_the_slices() -> None:
    viewer = VolumeViewer(image(), {"talus": MASK})
    assert viewer.voxel == (10, 17, 2)  # the middle of the mask; halves are rounded to even
    before = viewer.panels["sagittal"].canvas.picture
    assert count(viewer.panels["sagittal"], TALUS) > 50
    viewer.sliders["sagittal"].value = 0
    assert viewer.panels["sagittal"].canvas.picture != before
    assert count(viewer.panels["sagittal"], TALUS) == 0
    assert count(viewer.panels["coronal"], TALUS) > 50


def test_window_opacity_and_names() -> None:
    far = box_mask(slice(20, 25), slice(10, 25), slice(2, 4))
    viewer = VolumeViewer(image(), {"talus": MASK, "tibia": far})
    panel = viewer.panels["sagittal"]
    outlines = count(panel, TALUS), count(panel, TIBIA)
    assert min(outlines) > 50
    viewer.opacity.value = 1.0
    assert count(panel, TALUS) > 2 * outlines[0]
    viewer.shown["tibia"].value = False
    assert count(panel, TIBIA) == 0 < count(panel, TALUS)
    bright = pixels(panel).mean()
    viewer.window.value = (300.0, 390.0)
    assert pixels(panel).mean() < bright - 5


def test_planes_are_linked_by_a_click() -> None:
    viewer = VolumeViewer(image())
    mouse(viewer.panels["sagittal"], "click", *place_in((40, 30), 33, 7))
    assert viewer.voxel == (7, 33, 3)
    mouse(viewer.panels["axial"], "click", *place_in((30, 6), 0, 5))
    assert viewer.voxel == (29, 33, 5)
    assert viewer.sliders["coronal"].value == 29


def test_value_and_world_position_are_under_the_mouse() -> None:
    scan = image()
    viewer = VolumeViewer(scan, {"talus": MASK})
    viewer.sliders["sagittal"].value = 3
    mouse(viewer.panels["sagittal"], "move", *place_in((40, 30), 12, 6))
    text = viewer.read_out.value
    x, y, z = apply(AFFINE, (6, 12, 3))
    assert f"R {x:.1f}, A {y:.1f}, S {z:.1f} mm" in text
    assert f"value {scan.data[6, 12, 3]:.4g} · talus" in text
    mouse(viewer.panels["coronal"], "move", *place_in((40, 6), 39, 0))
    assert "talus" not in viewer.read_out.value
    assert f"{scan.data[viewer.voxel[0], 39, 0]:.4g}" in viewer.read_out.value
    mouse(viewer.panels["coronal"], "leave", 0.5, 0.5)
    assert viewer.read_out.value == "&nbsp;"


def test_any_orientation_is_the_same_place() -> None:
    turned = [to_orientation(volume, "LAI") for volume in (image(), MASK)]
    one = VolumeViewer(image(), {"talus": MASK})
    other = VolumeViewer(turned[0], {"talus": turned[1]})
    assert one.describe((6, 12, 3)) == other.describe((6, 12, 3))
    for plane in PLANES:
        assert one.panels[plane].canvas.picture == other.panels[plane].canvas.picture


def test_bad_volumes_are_a_sentence() -> None:
    scan = image()
    data = scan.data.copy()
    data[3, 4, 2] = np.nan
    data[3, 5, 2] = np.inf
    said = VolumeViewer(Volume(data, AFFINE)).message.value
    assert "In the image, voxels are not numbers but NaN or infinite: shown black (2)." in said
    viewer = VolumeViewer(
        scan,
        {
            "talus": box_mask(slice(0, 0)),
            "tibia": Volume(MASK.data[:-1], AFFINE),
            "calcaneus": MASK,
        },
    )
    assert "The mask of talus is empty" in viewer.message.value
    assert "Not shown: The mask of tibia (29, 40, 6) is on another grid" in (viewer.message.value)
    assert list(viewer.shown) == ["talus", "calcaneus"]
    four = VolumeViewer(Volume(np.zeros((*SHAPE, 3)), AFFINE))
    assert "(30, 40, 6, 3): one 3D image is wanted" in four.message.value
    assert len(four.children) == 1
    assert VolumeViewer(Volume(np.full(SHAPE, np.nan), AFFINE)).panels["axial"].canvas.picture
    none = VolumeViewer(Volume(np.zeros((0, 40, 6)), AFFINE))
    assert none.message.sentences == ("The image has shape (0, 40, 6): it has no voxels.",)
    turning = VolumeViewer(Volume(scan.data * 1j, AFFINE))
    assert "values of type complex128: real numbers are wanted" in turning.message.value


def test_files_that_were_not_read_are_a_sentence() -> None:
    film, path = sequence(), "scan.nii.gz"
    of_path = "is of type str: a Volume is wanted, such as ankle_lib.volume.load reads from a file."
    for view in (VolumeViewer(path), VolumeViewer(film.data), SequencePlayer([film])):  # type: ignore[arg-type]
        assert "a Volume is wanted" in view.message.value
        assert len(view.children) == 1
    viewer = VolumeViewer(image(), {"talus": path})  # type: ignore[dict-item]
    assert viewer.message.sentences == (f"Not shown: The mask of talus {of_path}",)
    player = SequencePlayer(film, path, {"talus": [path] * 4})  # type: ignore[arg-type, list-item]
    assert player.message.sentences == (
        f"Not shown: The moved static scan {of_path}",
        f"Not shown: The mask of talus in frame 0 {of_path}",
    )


def test_masks_with_values_that_are_not_numbers_are_a_sentence() -> None:
    viewer = VolumeViewer(image(), {"talus": holed(MASK, np.nan, np.inf)})
    assert viewer.message.sentences == (
        "In the mask of talus, voxels are not numbers but NaN or infinite: taken as outside (2).",
    )
    assert "talus" not in viewer.describe((7, 12, 2))
    assert "talus" not in viewer.describe((8, 12, 2))
    assert "talus" in viewer.describe((9, 12, 2))
    nothing = VolumeViewer(image(), {"talus": Volume(np.full(SHAPE, np.nan), AFFINE)})
    assert len(nothing.message.sentences) == 2
    assert "The mask of talus is empty" in nothing.message.value
    four = VolumeViewer(image(), {"talus": Volume(np.zeros((*SHAPE, 2)), AFFINE)})
    assert "Not shown: The mask of talus has shape (30, 40, 6, 2)" in four.message.value


def test_grids_of_one_shape_are_said_to_lie_apart() -> None:
    elsewhere = AFFINE.copy()
    elsewhere[0, 3] += 5
    viewer = VolumeViewer(image(), {"talus": Volume(MASK.data, elsewhere)})
    assert "than the image (30, 40, 6), up to 5 mm away: resample it" in viewer.message.value
    player = SequencePlayer(sequence(), Volume(sequence().data, elsewhere))
    assert "than the sequence (30, 40, 6), up to 5 mm away" in player.message.value


def test_frames_play_in_all_panels() -> None:
    masks = [box_mask(slice(n, n + 10), slice(10, 25), slice(2, 4)) for n in range(4)]
    moved = Volume(2 * sequence().data + 50, AFFINE)
    player = SequencePlayer(sequence(), moved, {"talus": masks})
    assert list(player.panels) == ["frame", "moved static", "difference", "segmentation"]
    assert player.slice.value == 2
    before = {name: panel.canvas.picture for name, panel in player.panels.items()}
    player.play.value = 3  # as the browser does while it plays
    assert player.frame.value == 3
    for name, panel in player.panels.items():
        # frames and moved static differ by gain and offset only
        assert (panel.canvas.picture == before[name]) == (name == "difference"), name
    player.frame.value = 1
    assert player.play.value == 1
    assert count(player.panels["segmentation"], TALUS) > 30
    player.slice.value = 5
    assert count(player.panels["segmentation"], TALUS) == 0


def test_the_player_reads_out_every_image() -> None:
    player = SequencePlayer(sequence(), sequence(), {"talus": [MASK, MASK, None, MASK]})
    mouse(player.panels["difference"], "move", *place_in((40, 30), 12, 6))
    value = f"{sequence().data[6, 12, 2, 0]:.4g}"
    assert f"frame 0: {value} · moved static: {value} · talus" in player.read_out.value
    player.frame.value = 2
    mouse(player.panels["difference"], "move", *place_in((40, 30), 12, 6))
    assert "talus" not in player.read_out.value
    mouse(player.panels["frame"], "leave", 0, 0)
    assert player.read_out.value == "&nbsp;"


def test_a_difference_is_what_gain_and_offset_leave() -> None:
    frame = image().data[:, :, 2]
    moved = 3 * frame + 20
    np.testing.assert_allclose(matched_difference(frame, moved), 0, atol=1e-3)
    spot = frame.copy()
    spot[10, 10] += 500
    found = matched_difference(spot, moved)
    assert found.argmax() == np.ravel_multi_index((10, 10), frame.shape)
    assert found.max() == pytest.approx(500, rel=0.05)
    moved[:, :20] = 0  # where the static scan was not carried
    assert (matched_difference(frame, moved)[:, :20] == 0).all()
    assert (matched_difference(frame, np.zeros_like(frame)) == 0).all()


def test_bad_sequences_are_a_sentence() -> None:
    flat = SequencePlayer(image())
    assert "(30, 40, 6): a 4D series of frames is wanted" in flat.message.value
    assert len(flat.children) == 1
    short = SequencePlayer(sequence(), sequence(3), {"talus": [MASK] * 5})
    assert "moved static scan has 3 frames, the sequence 4" in short.message.value
    assert "mask of talus has 5 frames" in short.message.value
    assert list(short.panels) == ["frame"]
    cut = Volume(sequence().data[:-1], AFFINE)
    assert "is on another grid" in SequencePlayer(sequence(), cut).message.value
    missing = SequencePlayer(sequence(), [image(), None, image(), image()])
    assert missing.message.value == ""
    missing.frame.value = 1
    assert "no moved static scan for frame 1" in missing.message.value
    assert missing.panels["difference"].canvas.picture == b""
    empty = SequencePlayer(sequence(), None, {"talus": [MASK, box_mask(slice(0, 0)), MASK, MASK]})
    empty.frame.value = 1
    assert "The mask of talus is empty" in empty.message.value
    gaps = SequencePlayer(
        sequence(), None, {"talus": [None, MASK, MASK, MASK], "tibia": [None] * 4}
    )
    assert gaps.message.sentences == ("There is no mask of talus, tibia for frame 0.",)
    gaps.frame.value = 1
    assert gaps.message.sentences == ("There is no mask of tibia for frame 1.",)
    data = sequence().data
    data[0, 0, 0, 1] = np.nan
    said = SequencePlayer(Volume(data, AFFINE)).message.value
    assert "In the sequence, voxels are not numbers but NaN or infinite: shown black (1)." in said
    none = SequencePlayer(Volume(np.zeros((*SHAPE, 0)), AFFINE))
    assert none.message.sentences == ("The sequence has shape (30, 40, 6, 0): it has no voxels.",)


def test_every_series_says_what_is_not_a_number() -> None:
    moved = [holed(image(), np.nan), None, holed(image(), np.inf, np.nan), image()]
    masks = {
        "talus": [holed(MASK, np.inf), MASK, MASK, holed(MASK, np.nan)],
        "tibia": [MASK, MASK, MASK, MASK],
    }
    player = SequencePlayer(sequence(), moved, masks)
    of_moved, of_talus = player.message.sentences
    where = "voxels are not numbers but NaN or infinite"
    assert of_moved == f"In the moved static scan, {where}: shown black (3)."
    assert of_talus == f"In the mask of talus, {where}: taken as outside (2)."
    player.slice.value = 2
    mouse(player.panels["frame"], "move", *place_in((40, 30), 12, 7))
    assert "talus" not in player.read_out.value
    assert "moved static: nan · tibia" in player.read_out.value
    y, x = (int(part * n) for part, n in zip(
        place_in((40, 30), 12, 7)[::-1], pixels(player.panels["frame"]).shape, strict=False
    ))  # fmt: skip
    for name in ("moved static", "difference"):
        assert pixels(player.panels[name])[y, x].max() < 30, name
    player.frame.value = 3  # it stays, for it is about the whole series
    assert player.message.sentences == (of_moved, of_talus)
    whole = Volume(np.full((*SHAPE, 4), np.nan), AFFINE)
    player = SequencePlayer(whole, whole, {"talus": whole})
    assert [sentence.split(",")[0] for sentence in player.message.sentences] == [
        "In the sequence",
        "In the moved static scan",
        "In the mask of talus",
        "The mask of talus is empty: no voxel is above 0.",
    ]


@pytest.mark.parametrize("masks", [[MASK], (MASK,), MASK, MASK.data])
def test_masks_without_names_are_a_sentence(masks: object) -> None:
    for view in (VolumeViewer(image(), masks), SequencePlayer(sequence(), None, masks)):  # type: ignore[arg-type]
        (sentence,) = view.message.sentences
        assert sentence.startswith("Not shown: masks are given by name, as in {'talus': mask}")
        assert view.panels


def test_rounded_affines_are_one_grid() -> None:
    near = AFFINE.copy()
    near[:3, 3] += 3.5e-3
    assert VolumeViewer(image(), {"talus": Volume(MASK.data, near)}).message.sentences == ()
