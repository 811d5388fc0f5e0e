"""What is compared with the report: `LINES`, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


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

NETWORKS = {"unet": "U-Net", "resnet-basic": "ResNet"}

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
    scores = f"{STATIC_TABLES}/final_scores.csv"
    volumes = "Dice of whole volumes"

    def of_2020(measure: str, method: str, number: str, network: str) -> Line:
        file = f"{STATIC_TABLES}/table_{number.replace('.', '_')}.csv"
        rows, report = f"network == '{network}'", ("report_dice", f"Table {number}")
        return Line(STATIC, measure, method, file, "dice_mean", rows, *report)

    for network, name in NETWORKS.items():
        yield of_2020("Dice of patches", name, "6.3", network)
    for network, name in NETWORKS.items():
        coded = of_2020(volumes, f"{name}, as it was coded", "6.4", network)
        yield coded
        yield replace(
            coded,
            method=f"{name}, the same weights after `eval()`",
            column="eval_dice_mean",
            report_column="",
            report_source="",
        )
    for measure, column in ((volumes, "dice"), ("HD95 (mm)", "hd95_mm")):
        final = Line(STATIC, measure, "final network", scores, column, "angle_deg == 0")
        yield final
        turned = f"{final.method}, feet turned by 40° to 60°"
        yield replace(final, method=turned, rows="angle_deg != 0")


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
