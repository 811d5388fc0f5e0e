from __future__ import annotations

import io
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ankle_lib.files import AnkleError
from ankle_lib.manifest.layouts import CleanSubject
from ankle_lib.quality.review_sheet import AUTOMATIC, SHEET_NAME, ReviewSheet, frame_path
from ankle_lib.volume import Volume, save, to_orientation
from ankle_lib.widgets.review_board import BOARD_CLASS, Keyboard, ReviewBoard, registered_view
from tests.toy_ankle import oblique_affine

BONES = ("calcaneus", "talus", "tibia")
N_FRAMES = 3
SHAPE = (40, 44, 5)
AFFINE = oblique_affine(SHAPE, (2.0, 2.0, 8.0))


def toy_view(subject: str, sequence: str, frame: int, bone: str) -> tuple[Volume, Volume]:
    """Return noise, and a mask whose place says which registration it is."""
    random = np.random.default_rng(frame)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    number = BONES.index(bone)
    mask[10 + 3 * frame : 20 + 3 * frame, 6 + 10 * number : 14 + 10 * number, 1 + number] = 1
    return Volume(random.uniform(0, 300, SHAPE), AFFINE), Volume(mask, AFFINE)


@pytest.fixture
def sheet(tmp_path: Path) -> ReviewSheet:
    sheet = ReviewSheet(tmp_path / SHEET_NAME)
    sheet.update(rows())
    return sheet


def rows(correlation: float = 0.9) -> pd.DataFrame:
    keys = [
        (subject, "active_run-01", frame, bone, correlation + 0.01 * frame, "accepted")
        for subject in ("T01", "T02")
        for frame in range(N_FRAMES)
        for bone in BONES
    ]
    return pd.DataFrame(
        keys, columns=["subject", "sequence", "frame", "bone", "correlation", "verdict"]
    )


@pytest.fixture
def board(sheet: ReviewSheet) -> ReviewBoard:
    return ReviewBoard(sheet, toy_view, "Ada")


def judged(sheet: ReviewSheet) -> list[tuple[str, int, str, str, str]]:
    table = sheet.table()
    by_people = table[table["reviewer"] != AUTOMATIC]
    columns = ["subject", "frame", "bone", "verdict", "reviewer"]
    return list(by_people[columns].itertuples(index=False, name=None))


def pixels(board: ReviewBoard) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(board.panel.canvas.picture)).convert("RGB"), dtype=int)


def green(board: ReviewBoard) -> int:
    """Count the pixels in the talus's colour, #009E73."""
    return int((np.abs(pixels(board) - [0x00, 0x9E, 0x73]).max(axis=2) < 40).sum())


def by_keyboard(board: ReviewBoard, key: str) -> None:
    """Do what happens when the browser sends a key."""
    board.keyboard._handle_custom_msg({"key": key}, [])


# --- clicking ---


def test_a_click_is_in_the_file_and_leads_on(board: ReviewBoard, sheet: ReviewSheet) -> None:
    assert board.current == ("T01", "active_run-01", 0, "calcaneus")
    board.verdicts["reject"].click()
    assert judged(sheet) == [("T01", 0, "calcaneus", "rejected", "Ada")]
    assert board.current == ("T01", "active_run-01", 1, "calcaneus")
    board.verdicts["accept"].click()
    board.verdicts["unsure"].click()
    assert [row[1:4] for row in judged(sheet)] == [
        (0, "calcaneus", "rejected"),
        (1, "calcaneus", "accepted"),
        (2, "calcaneus", "unsure"),
    ]
    assert board.current == ("T01", "active_run-01", 0, "talus")


def test_the_controls_move_together(board: ReviewBoard) -> None:
    board.frame.value = 2
    assert board.current == ("T01", "active_run-01", 2, "calcaneus")
    board.bones["tibia"].click()
    assert board.current == ("T01", "active_run-01", 2, "tibia")
    board.sequence.value = ("T02", "active_run-01")
    assert board.current == ("T02", "active_run-01", 0, "tibia")
    assert (board.frame.value, board.slice.value) == (0, 3)
    assert board.bones["tibia"].style.button_color == "#56B4E9"
    assert board.bones["talus"].style.button_color is None
    board.go_to("T01", "active_run-01", 1, "talus")
    assert board.sequence.value == ("T01", "active_run-01")
    assert (board.frame.value, board.slice.value) == (1, 2)


def test_progress_and_verdict_are_shown(board: ReviewBoard) -> None:
    assert board.count.value == "0 of 18 judged"
    assert "accepted" in board.status.value
    assert "by the gate" in board.status.value
    assert board.panel.canvas.layout.border_top == "4px dashed #0072B2"
    board.judge("rejected")
    assert board.count.value == "1 of 18 judged"
    assert (board.progress.value, board.progress.max) == (1, 18)
    board.step(-1)
    assert "rejected" in board.status.value
    assert "Ada" in board.status.value
    assert board.panel.canvas.layout.border_top == "4px solid #E00000"


def test_the_next_undecided_goes_around(board: ReviewBoard, sheet: ReviewSheet) -> None:
    board.go_to("T02", "active_run-01", 2, "tibia")
    board.judge("accepted")
    assert board.current == ("T01", "active_run-01", 0, "calcaneus")
    board.next.click()
    assert board.current == ("T01", "active_run-01", 1, "calcaneus")
    sheet.judge("T01", "active_run-01", 2, "calcaneus", "accepted", "Ben")  # meanwhile
    board.next.click()
    assert board.current == ("T01", "active_run-01", 0, "talus")
    assert board.count.value == "2 of 18 judged"


def test_the_work_ends_and_can_be_taken_up(board: ReviewBoard, sheet: ReviewSheet) -> None:
    for _ in range(9):
        board.judge("accepted")
    again = ReviewBoard(sheet, toy_view, "Ben")
    assert again.current == ("T02", "active_run-01", 0, "calcaneus")
    for _ in range(9):
        again.judge("accepted")
    assert "All 18 registrations are judged." in again.message.value
    assert [row[4] for row in judged(sheet)] == ["Ada"] * 9 + ["Ben"] * 9
    assert "All 18" not in ReviewBoard(sheet, toy_view, "Cleo").message.value


def test_a_note_goes_with_the_verdict(board: ReviewBoard, sheet: ReviewSheet) -> None:
    board.note.value = '=slipped, "a bit"'
    board.judge("rejected")
    assert board.note.value == ""
    assert sheet.table()["note"].tolist()[0] == '=slipped, "a bit"'
    board.step(-1)
    assert board.note.value == '=slipped, "a bit"'
    sheet.judge("T01", "active_run-01", 1, "calcaneus", "unsure", "<b>Ben</b>", "<i>")
    board.next_undecided()
    board.step(-1)
    assert "&lt;b&gt;Ben" in board.status.value


# --- the keyboard ---


@pytest.mark.parametrize(
    ("key", "verdict"), [("a", "accepted"), ("r", "rejected"), ("u", "unsure")]
)
def test_keys_judge(board: ReviewBoard, sheet: ReviewSheet, key: str, verdict: str) -> None:
    by_keyboard(board, key)
    assert judged(sheet) == [("T01", 0, "calcaneus", verdict, "Ada")]


def test_keys_move(board: ReviewBoard, sheet: ReviewSheet) -> None:
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "3", "ArrowLeft", "n", "2", "1", "x"):
        by_keyboard(board, key)
        seen.append(board.current[2:])
    assert seen == [
        (1, "calcaneus"), (2, "calcaneus"), (2, "calcaneus"), (2, "tibia"), (1, "tibia"),
        (2, "tibia"), (2, "talus"), (2, "calcaneus"), (2, "calcaneus"),
    ]  # fmt: skip
    assert judged(sheet) == []
    by_keyboard(board, "o")
    by_keyboard(board, "z")
    assert (board.outline.value, board.zoom.value) == (False, False)


def test_the_browser_is_told_which_keys(board: ReviewBoard) -> None:
    expected = {"a", "r", "u", "n", "o", "z", "1", "2", "3", "ArrowLeft", "ArrowRight"}
    assert set(board.keyboard.listened_keys) == expected
    # a trait named like one of ipywidgets' own would keep the widget from the browser
    assert "_model_module" in board.keyboard.get_state()
    assert BOARD_CLASS in board._dom_classes
    script = Keyboard._esm
    assert f'closest(".{BOARD_CLASS}")' in str(script)


LISTENER_TEST = """
import keyboard from "./keyboard.mjs";
let listener = null;
const board = {
  setAttribute: (name) => { board.attribute = name; },
  addEventListener: (kind, f) => { listener = f; },
  removeEventListener: () => { listener = null; },
};
globalThis.requestAnimationFrame = (f) => { f(); return 1; };
globalThis.cancelAnimationFrame = () => {};
let attached = false;
const el = { closest: () => { const there = attached; attached = true; return there && board; } };
const sent = [];
const model = { get: () => ["a", "ArrowLeft"], send: (message) => sent.push(message.key) };
const stop = keyboard.render({ model, el });
const press = (key, inside = [], more = {}) => listener({
  key, preventDefault() {}, stopPropagation() {}, ...more,
  target: { closest: (css) => inside.some((name) => css.startsWith(name)) },
});
press("a");
press("x");
press("a", ["textarea"]);
press("a", [], { ctrlKey: true });
press("ArrowLeft", ['[role="slider"]']);
press("a", ['[role="slider"]']);
press("ArrowLeft");
stop();
console.log(JSON.stringify([sent, board.tabIndex, board.attribute, listener]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_sends_keys_but_not_from_text_fields(tmp_path: Path) -> None:
    (tmp_path / "keyboard.mjs").write_text(str(Keyboard._esm))
    (tmp_path / "test.mjs").write_text(LISTENER_TEST)
    done = subprocess.run(["node", str(tmp_path / "test.mjs")], capture_output=True, text=True)
    assert done.stdout.strip() == '[["a","a","ArrowLeft"],0,"data-lm-suppress-shortcuts",null]', (
        done.stderr
    )


# --- the picture ---


def test_the_outline_is_drawn_in_the_bones_colour(board: ReviewBoard) -> None:
    assert green(board) == 0
    board.bones["talus"].click()
    assert green(board) > 100
    board.outline.value = False
    assert green(board) == 0
    board.outline.value = True
    board.slice.value = 4  # the toy talus is in slice 2 only
    assert green(board) == 0
    board.step(1)
    assert board.slice.value == 2
    assert green(board) > 100


def test_the_picture_has_letters_a_bar_and_its_own_size(board: ReviewBoard) -> None:
    shown = pixels(board)
    assert shown.shape == (490, 445, 3)  # 88 mm by 80 mm
    assert (
        board.panel.canvas.layout.width == board.panel.canvas.layout.height == "498px"
    )  # 4 for each border
    _, of_green, blue = np.moveaxis(shown, 2, 0)
    yellow = (of_green > 150) & (blue < of_green - 60)
    assert yellow[:, :20].sum() > 10  # anterior
    assert yellow[:, -20:].sum() > 10  # posterior
    bar = (shown[-9:-7, 8:-8] > 220).all(axis=2)  # 88 mm are 490 pixels, so 20 mm are 111
    assert 100 < bar.sum(axis=1).max() < 125


def test_zooming_keeps_the_bone_in_the_picture(board: ReviewBoard) -> None:
    def big_view(subject: str, sequence: str, frame: int, bone: str) -> tuple[Volume, Volume]:
        data = np.full((200, 220, 3), 100.0)
        mask = np.zeros(data.shape)
        mask[185:200, 200:215, 1] = 1  # in a corner
        affine = oblique_affine(data.shape, (1.0, 1.0, 8.0))
        return Volume(data, affine), Volume(mask, affine)

    board._look = big_view
    board.bones["talus"].click()
    near = green(board)
    board.zoom.value = False
    assert near > 1.5 * green(board) > 0


def test_any_orientation_is_shown_alike(sheet: ReviewSheet) -> None:
    def turned(*key: object) -> tuple[Volume, Volume]:
        frame, mask = toy_view(*key)  # type: ignore[arg-type]
        return to_orientation(frame, "LAI"), to_orientation(mask, "LAI")

    one, other = ReviewBoard(sheet, toy_view, "Ada"), ReviewBoard(sheet, turned, "Ada")
    assert one.panel.canvas.picture == other.panel.canvas.picture
    assert one.slice.value == other.slice.value


# --- what can go wrong ---


def test_bad_input_is_said_in_the_board(board: ReviewBoard, sheet: ReviewSheet) -> None:
    def view(subject: str, sequence: str, frame: int, bone: str) -> tuple[Volume, Volume]:
        image, mask = toy_view(subject, sequence, frame, bone)
        if frame == 1:
            return image, Volume(np.zeros(SHAPE), AFFINE)
        if bone == "talus":
            return image, Volume(mask.data[:-1], AFFINE)
        if bone == "tibia":
            raise AnkleError("scan <3>: no such file")
        raise FileNotFoundError("gone")

    board._look = view
    before = board.panel.canvas.picture
    board.frame.value = 1
    assert "The moved mask is empty" in board.message.value
    assert board.panel.canvas.picture != before
    board.frame.value = 2
    assert "gone" in board.message.value
    assert pixels(board).max() == 0
    board.bones["tibia"].click()
    assert "scan &lt;3&gt;: no such file" in board.message.value
    board.bones["talus"].click()
    assert "on another grid" in board.message.value
    board._look = toy_view
    board.bones["tibia"].click()
    assert board.message.value == ""
    board.judge("rejected")  # a verdict is possible all the same
    assert judged(sheet) == [("T01", 2, "tibia", "rejected", "Ada")]


def test_images_that_are_no_images_are_said(board: ReviewBoard) -> None:
    image, mask = toy_view("T01", "active_run-01", 0, "talus")
    nan = image.data.copy()
    nan[3, 3, 3] = np.nan
    cases = {
        "voxels are not numbers but NaN or infinite: shown black (1)": (Volume(nan, AFFINE), mask),
        "The mask has shape (40, 44, 5, 2): one 3D image is wanted": (
            image,
            Volume(np.stack([mask.data] * 2, axis=3), AFFINE),
        ),
        "The frame has shape (40, 44, 5, 2)": (
            Volume(np.stack([image.data] * 2, axis=3), AFFINE),
            mask,
        ),
        "The moved mask is empty": (image, Volume(np.full(SHAPE, np.nan), AFFINE)),
        "In the moved mask, voxels are not numbers but NaN or infinite: taken as outside (1)": (
            image,
            Volume(np.where(image.data == image.data[0, 0, 0], np.nan, mask.data), AFFINE),
        ),
    }
    for sentence, shown in cases.items():
        board._look = lambda *key, shown=shown: shown
        board.go_to("T01", "active_run-01", 0, "talus")
        assert sentence in board.message.value
    board._look = toy_view
    board.go_to("T01", "active_run-01", 0, "talus")
    assert board.message.value == ""


def test_a_mistake_in_the_view_is_not_swallowed(board: ReviewBoard) -> None:
    def broken(*key: object) -> tuple[Volume, Volume]:
        raise KeyError(key)

    board._look = broken
    with pytest.raises(KeyError):
        board.frame.value = 1
    with pytest.raises(KeyError):
        board.press("ArrowRight")


def test_a_registration_that_changed_meanwhile_is_not_judged(
    board: ReviewBoard, sheet: ReviewSheet
) -> None:
    sheet.update(rows(correlation=0.8))
    board.note.value = "good"
    board.judge("accepted")
    assert "was registered again meanwhile" in board.message.value
    assert judged(sheet) == []
    assert "correlation 0.80" in board.status.value  # it now shows the new one
    board.judge("accepted")
    assert judged(sheet) == [("T01", 0, "calcaneus", "accepted", "Ada")]
    assert sheet.table()["note"][0] == "good"


def test_a_sheet_that_changed_meanwhile(board: ReviewBoard, sheet: ReviewSheet) -> None:
    more = rows().iloc[:9].assign(subject="T03")
    sheet.update(more)
    board.judge("accepted")
    assert "has no row T01" in board.message.value
    board.next_undecided()
    assert board.current == ("T03", "active_run-01", 0, "calcaneus")
    sheet.update(more[more["bone"] != "talus"])
    board.next_undecided()
    board.bones["talus"].click()
    assert "The sheet has no row T03, active_run-01, 1, talus." in board.message.value
    assert board.current == ("T03", "active_run-01", 1, "calcaneus")
    sheet.path.write_text("nonsense")
    board.next_undecided()
    assert "not a review sheet" in board.message.value
    sheet.path.unlink()
    board.judge("accepted")
    assert "no such review sheet" in board.message.value


def test_a_board_needs_a_reviewer_and_rows(sheet: ReviewSheet, tmp_path: Path) -> None:
    for nobody in ("", " ", AUTOMATIC):
        with pytest.raises(AnkleError, match="name of the person"):
            ReviewBoard(sheet, toy_view, nobody)
    with pytest.raises(AnkleError, match="run the registration first"):
        ReviewBoard(ReviewSheet(tmp_path / "none.csv"), toy_view, "Ada")
    sheet.update(rows().iloc[:0])
    with pytest.raises(AnkleError, match="has no rows to judge"):
        ReviewBoard(sheet, toy_view, "Ada")


# --- a cohort ---


def test_the_view_of_a_registration_folder(tmp_path: Path) -> None:
    frame, mask = toy_view("T01", "active_run-01", 0, "talus")
    image = save(tmp_path / "frame.nii.gz", frame.data, frame.affine)
    path = frame_path(tmp_path, "T01", "active_run-01", 0, "talus")
    save(path, mask.data, mask.affine)
    subject = CleanSubject("T01", "control", "left", image, {}, {"active_run-01": [image]})
    view = registered_view([subject], tmp_path)
    shown = view("T01", "active_run-01", 0, "talus")
    np.testing.assert_allclose(shown[0].data, frame.data, rtol=1e-6)
    np.testing.assert_array_equal(shown[1].data, mask.data)
    for missing in (
        ("T09", "active_run-01", 0),
        ("T01", "passive", 0),
        ("T01", "active_run-01", 1),
    ):
        with pytest.raises(AnkleError, match=f"no frame {missing[2]} of {missing[0]} {missing[1]}"):
            view(*missing, "talus")
    with pytest.raises(AnkleError, match="no such file"):
        view("T01", "active_run-01", 0, "tibia")


def test_a_whole_cohort_does_not_slow_it_down(tmp_path: Path) -> None:
    many = [
        rows().assign(subject=f"T{number:02d}", sequence=f"active_run-{run:02d}")
        for number in range(1, 21)
        for run in range(4)
    ]
    table = pd.concat(many).drop_duplicates(["subject", "sequence", "frame", "bone"])
    assert len(table) > 700
    sheet = ReviewSheet(tmp_path / SHEET_NAME)
    sheet.update(table)
    board = ReviewBoard(sheet, toy_view, "Ada")
    began = time.process_time()
    for _ in range(5):
        board.judge("accepted")
    assert (time.process_time() - began) / 5 < 0.5
