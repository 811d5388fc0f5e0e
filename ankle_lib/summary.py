"""One table for the three tasks, the report's values beside ours, for readers of the README.

`LINES` lists what is compared, `summarise` takes the numbers from the chapters' tables,
`write_summary` writes them to ``summary/results.csv`` and `write_readme` from there to the README.
"""

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ankle_lib.files import AnkleError, write_csv, write_text
from ankle_lib.metrics import Interval, bootstrap_interval
from ankle_lib.presets import BONES
from ankle_lib.running.chapter import list_chapters
from ankle_lib.running.records import RUN_RECORD

SUMMARY = "summary/results.csv"
"""In the repository."""

SPLIT = "04_patch_extraction/tables/split.csv"
"""In a preset's results: the subjects, and the part that each belongs to."""

COLUMNS = (
    *("task", "measure", "method", "bone", "report", "report_source", "mean", "low", "high"),
    *("n_subjects", "preset", "device", "file"),
)

README = "README.md"
BEGIN = "<!-- results: what follows is written by `ankle summary` -->"
END = "<!-- end of results -->"

NOTHING = "–"
BAR = r"\|"  # within a cell
DASH = "\u2060–\u2060"  # word joiners: no line ends within an interval


@dataclass(frozen=True)
class Line:
    """A line of the comparison: a method's numbers, for each bone, beside the report's.

    Attributes
    ----------
    task, measure, method : str
        As they are shown. An empty method stands for every method of the table, one by one.
    file : str
        The chapter's table, below ``results/<preset>/``.
    column : str
        Its column. If the table lists subjects, their mean and interval are computed; otherwise
        it holds one mean per bone, and intervals in ``<name>_low`` and ``<name>_high`` if any.
    rows : str
        Which rows of the table, as `pandas.DataFrame.query` wants them; empty for all.
    report_column : str
        Its column with the report's values, if the report has some.
    report_source : str
        Where the report has them.
    part : str
        Part of the split whose means the table holds, if it does not list subjects.
    """

    task: str
    measure: str
    method: str
    file: str
    column: str
    rows: str = ""
    report_column: str = ""
    report_source: str = ""
    part: str = "test"

    @property
    def chapter(self) -> str:
        """Name of the chapter that writes the table."""
        return self.file.partition("/")[0]


STATIC, SHARP, DYNAMIC = "static scan", "frames made sharp", "bones in the frames"

STATIC_TABLES = "05_static_segmentation/tables"
SHARP_TABLES = "06_hr_reconstruction/tables"
DYNAMIC_SCORES = "07_dynamic_segmentation/tables/dynamic_segmentation.csv"

TURNED = ", feet turned by 40° to 60°"

NETWORKS = {"unet": "U-Net", "resnet-basic": "ResNet"}
EMPTY = "empty mask"
"""A row of the tables of patches: what finds no bone at all."""

RECONSTRUCTIONS = {
    "trilinear": "frame, interpolated",
    "moved static scan": "static scan, moved with the bones",
    "guided, no training": "both, without training",
    "final": "both, final network",
}

RECONSTRUCTION_MEASURES = {
    "correlation about the bones": "correlation",
    "PSNR (dB)": "psnr_db",
    "sharpness": "sharpness",
}


def _static_segmentation() -> Iterator[Line]:
    volumes = "Dice of whole volumes"
    of_2020 = {
        ("6.3", "Dice of patches"): {"": "dice_mean"},
        ("6.4", volumes): {
            ", as it was coded": "dice_mean",
            ", the same weights after `eval()`": "eval_dice_mean",
        },
    }
    for (number, measure), versions in of_2020.items():
        file = f"{STATIC_TABLES}/table_{number.replace('.', '_')}.csv"
        for network, name in NETWORKS.items():
            for version, column in versions.items():
                report = ("report_dice", f"Table {number}") if column == "dice_mean" else ()
                rows = f"network == '{network}'"
                yield Line(STATIC, measure, name + version, file, column, rows, *report)
        if "patches" in measure:
            yield Line(STATIC, measure, EMPTY, file, "dice_mean", f"network == '{EMPTY}'")
    scores = f"{STATIC_TABLES}/final_scores.csv"
    for measure, column in ((volumes, "dice"), ("HD95 (mm)", "hd95_mm")):
        for rows, feet in (("angle_deg == 0", ""), ("angle_deg != 0", TURNED)):
            yield Line(STATIC, measure, f"final network{feet}", scores, column, rows)


def _reconstruction() -> Iterator[Line]:
    for loss in ("L1", "L2"):
        yield Line(
            SHARP,
            "correlation of patches",
            f"ResNet, {loss}",
            f"{SHARP_TABLES}/table_6_5.csv",
            "correlation",
            f"method == '{loss}' and part == 'validation'",
            "report_correlation",
            "Table 6.5",
            part="validation",
        )
    scores = f"{SHARP_TABLES}/reconstruction_scores.csv"
    for measure, column in RECONSTRUCTION_MEASURES.items():
        for method, name in RECONSTRUCTIONS.items():
            yield Line(SHARP, measure, name, scores, column, f"method == '{method}'")


def _dynamic_segmentation() -> Iterator[Line]:
    for measure, column in (("Dice", "dice"), ("HD95 (mm)", "hd95_mm")):
        yield Line(DYNAMIC, measure, "", DYNAMIC_SCORES, column)


LINES = (*_static_segmentation(), *_reconstruction(), *_dynamic_segmentation())
"""In the order of the table."""


def summarise(folder: Path, chapters: Collection[str]) -> pd.DataFrame:
    """Return the report's values beside the means and 95 % intervals of a finished run.

    Parameters
    ----------
    folder : Path
        ``results/<preset>``, as `ankle run` leaves it.
    chapters : collection of str
        The course's chapters, such as ``"05_static_segmentation"``. Lines of any other are left
        out.

    Returns
    -------
    DataFrame
        Columns task, measure, method, bone, report, report_source, mean, low, high, n_subjects,
        preset, device, file; a row per line, method and bone. ``report`` is empty where the report
        has no value, ``low`` and ``high`` where no interval is known. Intervals are those of
        `metrics.bootstrap_interval`, over subjects.

    Raises
    ------
    AnkleError
        If a chapter is not finished, or a table lacks what is asked of it.
    """
    rows: list[dict[str, Any]] = []
    for line in (line for line in LINES if line.chapter in chapters):
        run = _run_of(folder, line.chapter)
        rows += [row | run for row in _rows(line, folder)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_summary(folder: Path, root: Path) -> Path:
    """Summarise ``results/<preset>`` for the chapters that the repository ``root`` has."""
    chapters = [notebook.stem for notebook in list_chapters(root)]
    return write_csv(root / SUMMARY, summarise(folder, chapters))


def read_summary(root: Path) -> pd.DataFrame:
    """Return the summary that the repository ``root`` holds; columns as `summarise` has them."""
    if not (root / SUMMARY).is_file():
        raise AnkleError(f"there is no {SUMMARY} in {root}: run the chapters, then `ankle summary`")
    return pd.read_csv(root / SUMMARY)


def _run_of(folder: Path, chapter: str) -> dict[str, Any]:
    """Return what made a chapter's tables; it is written last, so they are complete."""
    try:
        record = json.loads((folder / chapter / RUN_RECORD).read_text(encoding="utf-8"))
        return {name: record[name] for name in ("preset", "device")}
    except (OSError, ValueError, KeyError, TypeError):
        raise AnkleError(
            f"{chapter} has no finished run in {folder}: run `ankle run --preset {folder.name} "
            f"--results {folder.parent}`, then this again"
        ) from None


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise AnkleError(f"{path}: cannot be read ({reason}): run its chapter again") from None


def _rows(line: Line, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what a line says of each bone, for each method of the table if it names none."""
    table = _read(folder / line.file)
    try:
        table = table.query(line.rows) if line.rows else table
        for method in [line.method] if line.method else table["method"].unique():
            of_method = table if line.method else table[table["method"] == method]
            for bone in BONES:
                part = of_method[of_method["bone"] == bone]
                if part.empty:
                    raise AnkleError(f"{folder / line.file}: no row of {method!r} for the {bone}")
                interval, n_subjects = _interval(line, part, folder)
                yield {
                    **{name: getattr(line, name) for name in ("task", "measure", "file")},
                    **{"method": method, "bone": bone, "report_source": line.report_source},
                    "report": part[line.report_column].iloc[0] if line.report_column else math.nan,
                    **interval._asdict(),
                    "n_subjects": n_subjects,
                }
    except (KeyError, NameError) as error:  # the latter comes from a query
        raise AnkleError(
            f"{line.file}: lacks a column that {line.measure!r} asks for ({error}): update its line"
        ) from None


def _interval(line: Line, part: pd.DataFrame, folder: Path) -> tuple[Interval, int]:
    """Return a bone's mean and interval, and the number of subjects that they are of."""
    if "subject" in part:
        part = part.dropna(subset=line.column)
        subjects = part["subject"]
        return bootstrap_interval(part[line.column], list(subjects)), subjects.nunique()
    if len(part) != 1:
        raise AnkleError(f"{line.file}: {len(part)} rows of a bone of {line.method!r}, not 1")
    (row,), stem = part.to_dict("records"), line.column.removesuffix("_mean")
    ends = (row.get(f"{stem}_{end}", math.nan) for end in ("low", "high"))
    of_part = _read(folder / SPLIT)["part"] == line.part
    return Interval(row[line.column], *ends), int(of_part.sum())


def as_markdown(summary: pd.DataFrame) -> str:
    """Return a summary as a Markdown table, and below it what was run.

    Parameters
    ----------
    summary : DataFrame
        From `summarise`. A line is made for each method, a column for each bone.
    """
    bones = list(dict.fromkeys(summary["bone"]))
    header = ["task and measure", "method", "report", *bones, "children"]
    lines = [_markdown_row(header), "|---" * len(header) + "|"]
    above = ""
    for (task, measure, method), part in summary.groupby(["task", "measure", "method"], sort=False):
        digits = 1 if measure.endswith(("(mm)", "(dB)")) else 2
        what = f"**{task}**, {measure}"
        ours = [_ours(part[part["bone"] == bone], digits) for bone in bones]
        children = "–".join(map(str, sorted({part["n_subjects"].min(), part["n_subjects"].max()})))
        cells = [what if what != above else "", method, _reports(part, digits), *ours, children]
        lines.append(_markdown_row(cells))
        above = what
    return "\n".join([*lines, "", _origin(summary)])


def section(text: str) -> str:
    """Return what stands between the two marks of a README.

    Raises
    ------
    AnkleError
        If the marks are not there once each, in this order.
    """
    found, end, _ = text.partition(BEGIN)[2].partition(END)
    if not end or text.count(BEGIN) > 1 or text.count(END) > 1:
        raise AnkleError(f"{README}: one line {BEGIN!r} and below it one {END!r} are expected")
    return found


def write_readme(root: Path) -> Path:
    """Write the summary of the repository ``root`` into its README, between the marks."""
    path = root / README
    text = path.read_text(encoding="utf-8")
    old = f"{BEGIN}{section(text)}{END}"
    new = f"{BEGIN}\n\n{as_markdown(read_summary(root))}\n\n{END}"
    return write_text(path, text.replace(old, new))


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _origin(summary: pd.DataFrame) -> str:
    presets, devices = (
        ", ".join(f"`{name}`" for name in dict.fromkeys(summary[column]))
        for column in ("preset", "device")
    )
    return f"Preset {presets}, device {devices}; every number and its file: [{SUMMARY}]({SUMMARY})."


def _ours(part: pd.DataFrame, digits: int) -> str:
    """Return a bone's mean with its interval, if there is one."""
    if part["mean"].isna().all():
        return NOTHING
    mean, low, high = (f"{part[name].iloc[0]:.{digits}f}" for name in Interval._fields)
    return mean if low == "nan" else f"{mean} ({low}{DASH}{high})"


def _reports(part: pd.DataFrame, digits: int) -> str:
    """Return the report's values in the order of the bones, or the one that stands for all."""
    if part["report"].isna().all():
        return NOTHING
    values = [f"{value:.{digits}f}" for value in part["report"]]
    shown = values if len(set(values)) > 1 else values[:1]
    return f"{', '.join(shown)} ({part['report_source'].iloc[0]})"
