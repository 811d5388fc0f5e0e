from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd
import pytest

from ankle_lib import cli, summary
from ankle_lib.files import AnkleError, write_csv, write_json
from ankle_lib.metrics import bootstrap_interval
from ankle_lib.presets import BONES
from ankle_lib.summary import BEGIN, END
from tests.course import write_course

ROOT = Path(__file__).parents[1]

CHAPTERS = ("04_patch_extraction", "05_static_segmentation", "06_hr_reconstruction")
LAST = "07_dynamic_segmentation"

SUBJECTS = ("E01", "E02", "E03")


def write_chapter(folder: Path, chapter: str, tables: dict[str, list[dict[str, object]]]) -> None:
    for name, rows in tables.items():
        write_csv(folder / chapter / "tables" / f"{name}.csv", pd.DataFrame(rows))
    write_json(folder / chapter / "run.json", {"preset": folder.name, "device": "cpu"})


def split_tables() -> dict[str, list[dict[str, object]]]:
    parts = {"T01": "train", "T02": "train", "T03": "validation"} | dict.fromkeys(SUBJECTS, "test")
    return {"split": [{"subject": subject, "part": part} for subject, part in parts.items()]}


def static_tables() -> dict[str, list[dict[str, object]]]:
    scores: list[dict[str, object]] = [
        {
            "subject": subject,
            "bone": bone,
            "angle_deg": angle,
            "dice": 0.9 + 0.01 * n + 0.001 * place - (0.05 if angle else 0.0),
            "hd95_mm": 1.0 + n,
        }
        for n, subject in enumerate(SUBJECTS)
        for place, bone in enumerate(BONES)
        for angle in (0.0, 45.0 + n)
    ]
    means: list[dict[str, object]] = [
        {
            **{"network": network, "bone": bone, "dice_mean": 0.4 + 0.1 * place},
            **{"dice_low": 0.3, "dice_high": 0.7, "report_dice": 0.45 + 0.1 * place},
            "eval_dice_mean": 0.8,
        }
        for network in ("unet", "resnet-basic", "empty mask")
        for place, bone in enumerate(BONES)
    ]
    return {"table_6_3": means, "table_6_4": means, "final_scores": scores}


def sharp_tables() -> dict[str, list[dict[str, object]]]:
    patches: list[dict[str, object]] = [
        {"method": loss, "bone": bone, "correlation": value, "part": part}
        | {"report_correlation": 0.71 if part == "validation" else 0.83}
        for loss in ("L1", "L2")
        for bone in BONES
        for part, value in (("train", 0.8), ("validation", 0.6))
    ]
    methods = ("nearest", "trilinear", "moved static scan", "guided, no training", "final")
    scores: list[dict[str, object]] = [
        {
            **{"subject": subject, "scene": scene, "method": method, "bone": bone},
            **{"correlation": 0.5 + 0.1 * m, "psnr_db": 15.0 + m, "sharpness": 0.4 + 0.1 * m},
        }
        for subject in SUBJECTS[:2]
        for scene in ("active frame 1", "active frame 2")
        for m, method in enumerate(methods)
        for bone in BONES
    ]
    return {
        "table_6_5": patches,
        "reconstruction_scores": scores,
    }


def dynamic_tables() -> dict[str, list[dict[str, object]]]:
    return {
        "dynamic_segmentation": [
            {"method": method, "subject": subject, "bone": bone, "dice": dice, "hd95_mm": 2.0}
            for method, dice in (("the child's own bones", 0.9), ("network", 0.87))
            for subject in SUBJECTS
            for bone in BONES
        ]
    }


TABLES = (split_tables, static_tables, sharp_tables)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """``results/smoke`` with the tables of chapters 04 to 06."""
    folder = tmp_path / "results" / "smoke"
    for name, tables in zip(CHAPTERS, TABLES, strict=True):
        write_chapter(folder, name, tables())
    return folder


@pytest.fixture
def course(tmp_path: Path, results: Path) -> Path:
    """A repository of three chapters with these results and a README."""
    root = write_course(tmp_path, {name: [] for name in CHAPTERS})
    (root / "README.md").write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nrest\n", encoding="utf-8")
    return root


def line(table: pd.DataFrame, measure: str, method: str, bone: str = "talus") -> pd.Series:
    chosen = table.query("measure == @measure and method == @method and bone == @bone")
    assert len(chosen) == 1
    return chosen.iloc[0]


# --- the committed summary ---


def test_the_readme_shows_the_committed_summary() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = summary.as_markdown(summary.read_summary(ROOT))
    assert summary.section(text).strip() == wanted, "run `ankle summary --readme-only`"


def test_the_committed_summary_has_every_line_of_the_course() -> None:
    found = summary.read_summary(ROOT)
    course = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    expected = {
        (one.task, one.measure, one.method, bone)
        for one in summary.LINES
        for bone in BONES
        if one.chapter in course and one.method
    }
    keys = found[["task", "measure", "method", "bone"]].itertuples(index=False, name=None)
    assert expected <= set(keys)
    assert {one.chapter for one in summary.LINES} & course == set(
        found["file"].str.partition("/")[0]
    )
    assert found["mean"].notna().all()
    assert (found["n_subjects"] > 0).all()
    assert set(found["preset"]) == {"laptop"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_chapters_leave_what_is_compared(smoke_results: Path) -> None:
    course = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    found = summary.summarise(smoke_results, course)
    assert found["mean"].notna().all()
    compared = {one.chapter for one in summary.LINES}
    assert set(found["file"].str.partition("/")[0]) == compared & set(course)


# --- from tables to the summary ---


def test_every_line_has_a_name_of_its_own(results: Path) -> None:
    write_chapter(results, LAST, dynamic_tables())
    table = summary.summarise(results, [*CHAPTERS, LAST])
    assert not table.duplicated(["task", "measure", "method", "bone"]).any()


def test_means_and_intervals_are_over_subjects(results: Path) -> None:
    table = summary.summarise(results, CHAPTERS)
    found = line(table, "Dice of whole volumes", "final network")
    dice = [0.901, 0.911, 0.921]
    assert found[["mean", "low", "high"]].to_list() == pytest.approx(
        list(bootstrap_interval(dice, SUBJECTS))
    )
    assert found["low"] < found["mean"] < found["high"]
    assert found["n_subjects"] == 3
    assert math.isnan(found["report"])
    turned = line(table, "Dice of whole volumes", "final network, feet turned by 40° to 60°")
    assert turned["mean"] == pytest.approx(found["mean"] - 0.05)


def test_scenes_of_a_subject_do_not_count_as_subjects(results: Path) -> None:
    found = line(summary.summarise(results, CHAPTERS), "PSNR (dB)", "both, final network")
    assert found["n_subjects"] == 2
    assert found["mean"] == pytest.approx(19.0)


def test_what_a_chapter_has_summarised_is_taken_over(results: Path) -> None:
    table = summary.summarise(results, CHAPTERS)
    found = line(table, "Dice of whole volumes", "U-Net, as it was coded")
    assert found[["mean", "low", "high"]].to_list() == pytest.approx([0.5, 0.3, 0.7])
    assert found["report"] == pytest.approx(0.55)
    assert found["report_source"] == "Table 6.4"
    assert found["n_subjects"] == 3
    assert found["file"] == "05_static_segmentation/tables/table_6_4.csv"
    assert (found["preset"], found["device"]) == ("smoke", "cpu")


def test_one_subject_has_no_interval(results: Path) -> None:
    found = line(summary.summarise(results, CHAPTERS), "correlation of patches", "ResNet, L1")
    assert (found["mean"], found["report"]) == pytest.approx((0.6, 0.71))
    assert found["n_subjects"] == 1
    assert math.isnan(found["low"])


def test_every_method_of_the_last_chapter_has_its_lines(results: Path) -> None:
    write_chapter(results, LAST, dynamic_tables())
    table = summary.summarise(results, [*CHAPTERS, LAST])
    found = table[table["task"] == "bones in the frames"]
    assert list(dict.fromkeys(found["method"])) == ["the child's own bones", "network"]
    assert line(found, "Dice", "network")["mean"] == pytest.approx(0.87)
    assert found["report"].isna().all()
    rest = table[table["task"] != "bones in the frames"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, summary.summarise(results, CHAPTERS), check_dtype=False)


# --- refusals ---


def test_a_chapter_that_is_missing_names_the_command(results: Path) -> None:
    with pytest.raises(AnkleError, match=rf"{LAST} has no finished run.*ankle run --preset smoke"):
        summary.summarise(results, [*CHAPTERS, LAST])


def test_a_chapter_that_did_not_finish_is_refused(results: Path) -> None:
    record = results / CHAPTERS[2] / "run.json"
    for broken in ("{", "[]", '{"preset": "smoke"}'):
        record.write_text(broken)
        with pytest.raises(AnkleError, match="06_hr_reconstruction has no finished run"):
            summary.summarise(results, CHAPTERS)
    record.unlink()  # it is written last
    with pytest.raises(AnkleError, match="06_hr_reconstruction has no finished run"):
        summary.summarise(results, CHAPTERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="angle_deg"), "lacks a column .*angle_deg"),
        (lambda table: table.drop(columns="hd95_mm"), "lacks a column that 'HD95 .*hd95_mm"),
        (lambda table: table[table["bone"] != "talus"], "no row of 'final network' for the talus"),
    ],
)
def test_a_table_that_lacks_something_is_refused(
    results: Path, change: object, message: str
) -> None:
    path = results / CHAPTERS[1] / "tables" / "final_scores.csv"
    write_csv(path, change(pd.read_csv(path)))  # type: ignore[operator]
    with pytest.raises(AnkleError, match=message):
        summary.summarise(results, CHAPTERS)


def test_two_means_of_one_bone_are_refused(results: Path) -> None:
    path = results / CHAPTERS[1] / "tables" / "table_6_3.csv"
    table = pd.read_csv(path)
    write_csv(path, pd.concat([table, table]))
    with pytest.raises(AnkleError, match="2 rows of a bone of 'U-Net', not 1"):
        summary.summarise(results, CHAPTERS)


def test_a_table_that_is_gone_is_refused(results: Path) -> None:
    (results / CHAPTERS[1] / "tables" / "table_6_4.csv").unlink()
    with pytest.raises(AnkleError, match=r"table_6_4\.csv: cannot be read .*run its chapter"):
        summary.summarise(results, CHAPTERS)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_its_marks_is_refused(text: str) -> None:
    with pytest.raises(AnkleError, match=r"README.md: one line"):
        summary.section(text)


# --- from the summary to the README ---


def test_markdown_of_a_line(results: Path) -> None:
    text = summary.as_markdown(summary.summarise(results, CHAPTERS))
    assert "0.30\u2060–\u20600.70" in text  # no line ends here
    lines = text.replace("\u2060", "").splitlines()
    assert (
        lines[0] == "| task and measure | method | report | calcaneus | talus | tibia | children |"
    )
    assert lines[1] == "|---|---|---|---|---|---|---|"
    bars = {text.count("|") for text in lines if text.startswith("|")}
    assert bars == {8}
    shown = [text for text in lines if text.startswith("| **static scan**, Dice of whole")]
    assert shown == [
        "| **static scan**, Dice of whole volumes | U-Net, as it was coded "
        "| 0.45, 0.55, 0.65 (Table 6.4) | 0.40 (0.30–0.70) | 0.50 (0.30–0.70) "
        "| 0.60 (0.30–0.70) | 3 |"
    ]
    (patches,) = [text for text in lines if "ResNet, L1" in text]
    assert patches.endswith("| ResNet, L1 | 0.71 (Table 6.5) | 0.60 | 0.60 | 0.60 | 1 |")
    assert any("| both, final network | – | 19.0 (19.0–19.0) |" in text for text in lines)
    assert lines[-1].startswith("Preset `smoke`, device `cpu`;")


def test_a_bar_in_a_name_is_no_column(results: Path) -> None:
    table = summary.summarise(results, CHAPTERS).assign(method="this | that")
    first = summary.as_markdown(table).splitlines()[2]
    assert r"| this \| that |" in first
    assert first.replace(r"\|", "").count("|") == 8


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ankle", "summary", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_writes_summary_and_readme(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(course)
    assert command(monkeypatch, "--preset", "smoke") == 0
    written = summary.read_summary(course)
    assert summary.SUMMARY == "summary/results.csv"
    readme = (course / "README.md").read_text(encoding="utf-8")
    assert readme == (f"# Title\n\n{BEGIN}\n\n{summary.as_markdown(written)}\n\n{END}\n\nrest\n")
    assert command(monkeypatch, "--preset", "smoke") == 0
    assert (course / "README.md").read_text(encoding="utf-8") == readme


def test_the_readme_alone_needs_no_results(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(course)
    assert command(monkeypatch, "--readme-only") == 1  # there is no summary yet
    assert command(monkeypatch, "--preset", "smoke") == 0
    path = course / summary.SUMMARY
    table = pd.read_csv(path)
    write_csv(path, table[table["task"] == "static scan"])
    assert command(monkeypatch, "--readme-only", "--results", "nowhere") == 0
    readme = (course / "README.md").read_text(encoding="utf-8")
    assert "static scan" in readme
    assert "sharp" not in readme


def test_a_refusal_leaves_everything_as_it_was(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(course)
    before = (course / "README.md").read_text(encoding="utf-8")
    assert command(monkeypatch, "--results", str(course / "elsewhere")) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("ankle: 05_static_segmentation has no finished run in")
    assert f"`ankle run --preset laptop --results {course / 'elsewhere'}`" in errors
    assert errors.count("\n") == 1
    assert (course / "README.md").read_text(encoding="utf-8") == before
    assert not (course / "summary").exists()
