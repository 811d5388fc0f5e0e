"""The player without a browser: play, point, and what is no sequence."""

from __future__ import annotations

import numpy as np
import pytest

from ankle_lib.volume import Volume
from ankle_lib.widgets.sequence_player import SequencePlayer, matched_difference
from tests.widgets.drawn import (
    AFFINE,
    MASK,
    SHAPE,
    TALUS,
    box_mask,
    count,
    holed,
    image,
    mouse,
    pixels,
    place_in,
    sequence,
)


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
