"""The viewers without a browser: slide, play, click, read back."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.figures.images import PLANES, slice_of
from ankle_lib.geometry import apply
from ankle_lib.volume import Volume, to_orientation
from ankle_lib.widgets.viewers import SequencePlayer, VolumeViewer, voxel_at
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
    player = SequencePlayer(film, {"talus": path})  # type: ignore[dict-item]
    assert player.message.sentences == (f"Not shown: The mask of talus {of_path}",)


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
    assert "than its image (30, 40, 6), up to 5 mm away: resample it" in viewer.message.value
    player = SequencePlayer(sequence(), {"talus": Volume(of_frames([MASK] * 4).data, elsewhere)})
    assert "than its image (30, 40, 6), up to 5 mm away" in player.message.value


def of_frames(masks: list[Volume]) -> Volume:
    return Volume(np.stack([mask.data for mask in masks], axis=3), AFFINE)


def test_frames_play() -> None:
    masks = [box_mask(slice(n, n + 10), slice(10, 25), slice(2, 4)) for n in range(4)]
    player = SequencePlayer(sequence(), {"talus": of_frames(masks)})
    (panel,) = player.panels.values()
    slices = player.sliders["sagittal"]
    assert slices.value == 2
    before = panel.canvas.picture
    player.play.value = 3  # as the browser does while it plays
    assert player.frame.value == 3
    assert panel.canvas.picture != before
    player.frame.value = 1
    assert player.play.value == 1
    assert count(panel, TALUS) > 30
    slices.value = 5
    assert count(panel, TALUS) == 0


def test_the_player_reads_out_the_frame() -> None:
    empty = box_mask(slice(0, 0))
    player = SequencePlayer(sequence(), {"talus": of_frames([MASK, MASK, empty, MASK])})
    panel, place = player.panels["sagittal"], place_in((40, 30), 12, 6)
    mouse(panel, "move", *place)
    assert f"value {sequence().data[6, 12, 2, 0]:.4g} · talus" in player.read_out.value
    player.frame.value = 2
    mouse(panel, "move", *place)
    assert player.read_out.value.endswith(f"value {sequence().data[6, 12, 2, 2]:.4g}")
    mouse(panel, "leave", 0, 0)
    assert player.read_out.value == "&nbsp;"


def test_bad_sequences_are_a_sentence() -> None:
    flat = SequencePlayer(image())
    assert "(30, 40, 6): a 4D series of frames is wanted" in flat.message.value
    assert len(flat.children) == 1
    long = SequencePlayer(sequence(), {"talus": of_frames([MASK] * 5)})
    assert "mask of talus has 5 frames, the image 4" in long.message.value
    assert not long.shown
    cut = Volume(sequence().data[:-1], AFFINE)
    assert "is on another grid" in SequencePlayer(sequence(), {"talus": cut}).message.value
    still = SequencePlayer(sequence(), {"talus": MASK})
    assert "a 4D series of frames is wanted" in still.message.value
    masks = of_frames([MASK, box_mask(slice(0, 0)), MASK, MASK])
    empty = SequencePlayer(sequence(), {"talus": masks})
    assert empty.message.value == ""
    empty.frame.value = 1
    assert "The mask of talus is empty" in empty.message.value
    data = sequence().data
    data[0, 0, 0, 1] = np.nan
    said = SequencePlayer(Volume(data, AFFINE)).message.value
    assert "In the sequence, voxels are not numbers but NaN or infinite: shown black (1)." in said
    none = SequencePlayer(Volume(np.zeros((*SHAPE, 0)), AFFINE))
    assert none.message.sentences == ("The sequence has shape (30, 40, 6, 0): it has no voxels.",)


def test_every_series_says_what_is_not_a_number() -> None:
    film = of_frames([holed(image(), np.nan), image(), holed(image(), np.inf, np.nan), image()])
    masks = {
        "talus": of_frames([holed(MASK, np.inf), MASK, MASK, holed(MASK, np.nan)]),
        "tibia": of_frames([MASK] * 4),
    }
    player = SequencePlayer(film, masks)
    of_film, of_talus = player.message.sentences
    where = "voxels are not numbers but NaN or infinite"
    assert of_film == f"In the sequence, {where}: shown black (3)."
    assert of_talus == f"In the mask of talus, {where}: taken as outside (2)."
    player.sliders["sagittal"].value = 2
    panel, place = player.panels["sagittal"], place_in((40, 30), 12, 7)
    mouse(panel, "move", *place)
    assert "talus" not in player.read_out.value
    assert "value nan · tibia" in player.read_out.value
    for box in player.shown.values():
        box.value = False
    y, x = (int(part * n) for part, n in zip(place[::-1], pixels(panel).shape, strict=False))
    assert pixels(panel)[y, x].max() < 30
    player.frame.value = 3  # it stays, for it is about the whole series
    assert player.message.sentences == (of_film, of_talus)
    whole = Volume(np.full((*SHAPE, 4), np.nan), AFFINE)
    player = SequencePlayer(whole, {"talus": whole})
    assert [sentence.split(",")[0] for sentence in player.message.sentences] == [
        "In the sequence",
        "In the mask of talus",
        "The mask of talus is empty: no voxel is above 0.",
    ]


@pytest.mark.parametrize("masks", [[MASK], (MASK,), MASK, MASK.data])
def test_masks_without_names_are_a_sentence(masks: object) -> None:
    for view in (VolumeViewer(image(), masks), SequencePlayer(sequence(), masks)):  # type: ignore[arg-type]
        (sentence,) = view.message.sentences
        assert sentence.startswith("Not shown: masks are given by name, as in {'talus': mask}")
        assert view.panels


def test_rounded_affines_are_one_grid() -> None:
    near = AFFINE.copy()
    near[:3, 3] += 3.5e-3
    assert VolumeViewer(image(), {"talus": Volume(MASK.data, near)}).message.sentences == ()
